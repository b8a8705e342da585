package wsproxy

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/wsproxy/wsproxy/internal/relay"
)

// A registry has all upgrades and tunnels of a Proxy, and the counts of ended ones.
type registry struct {
	stopped chan struct{} // closed when the registry is stopped
	empty   chan struct{} // closed when the registry is stopped and nothing is left

	counters proxyCounters

	// mu is held for these fields, and those of Backend that it guards, alone: no hook and no
	// method of a connection is called under it.
	mu         sync.Mutex
	isStopped  bool // there are no new upgrades
	isAborted  bool // there are no new tunnels either: a late one is aborted
	upgrades   map[*upgrade]bool
	backends   map[*Backend]struct{} // those with tunnels, which are in Backend.open
	numTunnels int
	numReports int // calls of Trace.Health under way that no upgrade or tunnel waits for
	numClosing int // goroutines that close tunnels: see Proxy.closeInBackgroundLocked
	watches    []*watch
	lastID     uint64
	closed     int // tunnels that ended since the registry was stopped and were not cut
	cut        int // tunnels that ended since then and were cut: see TunnelEnd.Cut
}

func (r *registry) init() {
	r.stopped, r.empty = make(chan struct{}), make(chan struct{})
	r.counters.init()
	r.upgrades = make(map[*upgrade]bool)
	r.backends = make(map[*Backend]struct{})
}

// addUpgrade registers an upgrade. It returns [ErrShutdown] if the registry is stopped;
// otherwise one removeUpgrade follows.
func (r *registry) addUpgrade(u *upgrade) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.isStopped {
		return ErrShutdown
	}
	r.upgrades[u] = true
	return nil
}

func (r *registry) removeUpgrade(u *upgrade) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.upgrades, u)
	r.signalIfEmptyLocked()
}

// addTunnel gives t its ID and registers it. It reports whether the registry was
// stopped, or even aborted, since the addUpgrade of t's upgrade: then the caller ends
// t. It is called before removeUpgrade.
func (r *registry) addTunnel(t *Tunnel) (isStopped, isAborted bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastID++
	t.id = r.lastID
	b := t.backend
	if len(b.open) == 0 {
		if b.open == nil {
			b.open = make(map[uint64]*Tunnel)
		}
		r.backends[b] = struct{}{}
	}
	b.open[t.id] = t
	r.numTunnels++
	return r.isStopped, r.isAborted
}

// removeTunnel removes t, which has ended, and counts its end and how long it has lived. End is
// nil if t has never opened.
func (r *registry) removeTunnel(t *Tunnel, end *relay.End, lived time.Duration) {
	toBackend, toClient := t.relay.Totals()
	r.mu.Lock()
	defer r.mu.Unlock()
	b := t.backend
	if b.open[t.id] != t {
		return // never added
	}
	delete(b.open, t.id)
	r.signalWatchesLocked(t)
	b.ended++
	wasCut := end != nil && end.Cut
	if wasCut {
		b.cut++
	}
	if len(b.open) == 0 {
		delete(r.backends, b)
	}
	r.numTunnels--
	r.counters.ended.add(end, Traffic(toBackend), Traffic(toClient))
	b.counters.ended.add(end, Traffic(toBackend), Traffic(toClient))
	if end != nil {
		r.counters.ends.add(end, lived)
		r.counters.lifetimes.Observe(lived)
		b.counters.lifetimes.Observe(lived)
	}
	if r.isStopped && wasCut {
		r.cut++
	} else if r.isStopped {
		r.closed++
	}
	r.signalIfEmptyLocked()
}

// hasStopped reports whether the registry is stopped.
func (r *registry) hasStopped() bool {
	select {
	case <-r.stopped:
		return true
	default:
		return false
	}
}

// addReport counts a report that a tunnel has caused, which has not ended. One removeReport
// follows.
func (r *registry) addReport() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.numReports++
}

func (r *registry) removeReport() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.numReports--
	r.signalIfEmptyLocked()
}

// beginClosing counts a goroutine that closes tunnels, unless the registry is stopped. One
// endClosing follows.
func (r *registry) beginClosing() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.isStopped {
		return false
	}
	r.numClosing++
	return true
}

func (r *registry) endClosing() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.numClosing--
	r.signalIfEmptyLocked()
}

// stop makes addUpgrade fail, cancels the upgrades that are under way, and returns the
// tunnels that are left.
func (r *registry) stop() []*Tunnel {
	r.mu.Lock()
	var upgrades []*upgrade
	if !r.isStopped {
		r.isStopped = true
		close(r.stopped)
		upgrades = slices.Collect(maps.Keys(r.upgrades))
		r.signalIfEmptyLocked()
	}
	tunnels := r.tunnelsLocked()
	r.mu.Unlock()
	for _, u := range upgrades {
		u.canceler.cancel(ErrShutdown)
	}
	return tunnels
}

// abort makes addTunnel report that new tunnels are to be aborted, and returns the
// tunnels that are left.
func (r *registry) abort() []*Tunnel {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.isAborted = true
	return r.tunnelsLocked()
}

func (r *registry) signalIfEmptyLocked() {
	if r.isStopped && len(r.upgrades) == 0 && r.numTunnels == 0 && r.numReports == 0 && r.numClosing == 0 {
		select {
		case <-r.empty:
		default:
			close(r.empty)
		}
	}
}

// tunnel returns the tunnel with that ID, or nil. It looks at all backends with tunnels: with
// 100 of them that takes 2 µs, and with 10,000 less than 1 ms. Only a program asks for a tunnel
// in this way, so it is no reason for another map, which each tunnel would pay for.
func (r *registry) tunnel(id uint64) *Tunnel {
	r.mu.Lock()
	defer r.mu.Unlock()
	for b := range r.backends {
		if t := b.open[id]; t != nil {
			return t
		}
	}
	return nil
}

// tunnelOf returns the tunnel of b with that ID, or nil.
func (r *registry) tunnelOf(b *Backend, id uint64) *Tunnel {
	r.mu.Lock()
	defer r.mu.Unlock()
	return b.open[id]
}

// tunnels returns the open tunnels.
func (r *registry) tunnels() []*Tunnel {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tunnelsLocked()
}

// tunnelsOf returns the open tunnels of b.
func (r *registry) tunnelsOf(b *Backend) []*Tunnel {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Values(b.open))
}

// endedOf returns how many tunnels of b have ended, and how many of them were cut.
func (r *registry) endedOf(b *Backend) (ended, cut int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return b.ended, b.cut
}

func (r *registry) tunnelsLocked() []*Tunnel {
	all := make([]*Tunnel, 0, r.numTunnels)
	for b := range r.backends {
		for _, t := range b.open {
			all = append(all, t)
		}
	}
	return all
}

// drainError returns the result of a shutdown that does not wait longer. Err is the
// context's error, or nil.
func (r *registry) drainError(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	cut := r.cut + r.numTunnels // a tunnel that a hook still delays has been cut
	if cut == 0 && len(r.upgrades) == 0 {
		return nil
	}
	return &DrainError{Closed: r.closed, Cut: cut, Err: err}
}
