package wsproxy

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// stallTime is the time without progress after which a tunnel counts as stalled, and the
// interval of the checks. The kernel's buffer for a peer on a slow link becomes free in
// large steps: see [Limits.StalledTunnels].
const stallTime = time.Second

// A stallGuard ends tunnels when too many are stalled.
type stallGuard struct {
	p    *Proxy        // immutable
	stop chan struct{} // closed by close; immutable

	startOnce, stopOnce sync.Once
	running             sync.WaitGroup
}

func (g *stallGuard) init(p *Proxy) { g.p, g.stop = p, make(chan struct{}) }

// start starts the checks, if there is a bound. It is called for each tunnel.
func (g *stallGuard) start() {
	if g.p.maxStalled > 0 {
		g.startOnce.Do(func() { g.running.Go(g.run) }) // ends with close
	}
}

// close ends the checks and waits for their goroutine. A later start does nothing.
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
			g.endExcess()
		}
	}
}

// endExcess ends the tunnels that have been stalled for the longest, so many that the
// bound holds.
func (g *stallGuard) endExcess() {
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
