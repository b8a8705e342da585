package wsproxy

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// stallTime is how long a side takes nothing before its tunnel counts as stalled,
// and how often that is looked at. A peer on a slow link makes the kernel's buffer
// free in large steps: see [Limits.StalledTunnels].
const stallTime = time.Second

// A stallGuard ends tunnels when too many are stalled.
type stallGuard struct {
	p    *Proxy        // immutable
	stop chan struct{} // closed by close; immutable

	startOnce, stopOnce sync.Once
	running             sync.WaitGroup
}

func (g *stallGuard) init(p *Proxy) { g.p, g.stop = p, make(chan struct{}) }

// start begins to look, if there is a bound. It is called for each tunnel.
func (g *stallGuard) start() {
	if g.p.maxStalled > 0 {
		g.startOnce.Do(func() { g.running.Go(g.run) }) // ends with close
	}
}

// close ends what start has begun, and waits for that. A later start does nothing.
func (g *stallGuard) close() {
	g.startOnce.Do(func() {})
	g.stopOnce.Do(func() { close(g.stop) })
	g.running.Wait()
}

func (g *stallGuard) run() {
	tick := time.NewTicker(stallTime)
	defer tick.Stop()
	for {
		select {
		case <-g.stop:
			return
		case <-tick.C:
			g.check()
		}
	}
}

// check ends those that have been stalled for the longest, up to the bound.
func (g *stallGuard) check() {
	type stalled struct {
		t  *Tunnel
		is time.Duration
	}
	var all []stalled
	for t := range g.p.Tunnels() {
		if is := t.relay.StalledFor(); is >= stallTime {
			all = append(all, stalled{t, is})
		}
	}
	if len(all) <= g.p.maxStalled {
		return
	}
	slices.SortFunc(all, func(a, b stalled) int { return cmp.Compare(b.is, a.is) })
	for _, s := range all[:len(all)-g.p.maxStalled] {
		s.t.relay.CutStalled(stallTime)
	}
}
