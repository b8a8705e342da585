package wsproxy

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// A registry knows all upgrades and tunnels of a Proxy, and what became of them.
type registry struct {
	empty chan struct{} // closed when it is stopped and nothing is left

	opened, refused, failed atomic.Uint64 // see Stats

	mu        sync.Mutex
	isStopped bool // there are no new upgrades
	isCut     bool // there are no tunnels either: one that comes late is cut
	upgrades  map[*upgrade]bool
	tunnels   map[*Tunnel]struct{}
	lastID    uint64
	closed    int     // tunnels that ended by Close since it was stopped
	cut       int     // tunnels that ended otherwise since then
	toBackend Traffic // of tunnels that have ended
	toClient  Traffic
}

func (r *registry) init() {
	r.empty = make(chan struct{})
	r.upgrades = make(map[*upgrade]bool)
	r.tunnels = make(map[*Tunnel]struct{})
}

// addUpgrade registers an upgrade, unless the registry is stopped. Each addUpgrade is
// followed by one removeUpgrade.
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

// addTunnel gives t its ID and registers it, and reports what has become of the registry
// since the upgrade's addUpgrade: then it is t's turn to end. It is called before removeUpgrade.
func (r *registry) addTunnel(t *Tunnel) (isStopped, isCut bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastID++
	t.id = r.lastID
	r.tunnels[t] = struct{}{}
	return r.isStopped, r.isCut
}

// removeTunnel forgets t, which has ended.
func (r *registry) removeTunnel(t *Tunnel, cut bool) {
	toBackend, toClient := t.relay.Counts()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.tunnels, t)
	r.toBackend.add(Traffic(toBackend))
	r.toClient.add(Traffic(toClient))
	if r.isStopped && cut {
		r.cut++
	} else if r.isStopped {
		r.closed++
	}
	r.signalIfEmptyLocked()
}

// stop makes addUpgrade fail, cancels the upgrades that are under way, and returns the
// tunnels that are left.
func (r *registry) stop() []*Tunnel {
	r.mu.Lock()
	var upgrades []*upgrade
	if !r.isStopped {
		r.isStopped = true
		upgrades = slices.Collect(maps.Keys(r.upgrades))
		r.signalIfEmptyLocked()
	}
	tunnels := slices.Collect(maps.Keys(r.tunnels))
	r.mu.Unlock()
	for _, u := range upgrades {
		u.canceler.cancel(ErrShutdown)
	}
	return tunnels
}

func (r *registry) signalIfEmptyLocked() {
	if r.isStopped && len(r.upgrades) == 0 && len(r.tunnels) == 0 {
		select {
		case <-r.empty:
		default:
			close(r.empty)
		}
	}
}

// all returns the open tunnels.
func (r *registry) all() []*Tunnel {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.tunnels))
}

// abortAll makes addTunnel say that there are to be no tunnels, and returns those that
// are left.
func (r *registry) abortAll() []*Tunnel {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.isCut = true
	return slices.Collect(maps.Keys(r.tunnels))
}

// drained tells what became of the tunnels after stop.
func (r *registry) drained(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	cut := r.cut + len(r.tunnels) // those that a hook still holds have been cut
	if cut == 0 && len(r.upgrades) == 0 {
		return nil
	}
	return &DrainError{Closed: r.closed, Cut: cut, Err: err}
}

// countRefusal counts an upgrade that ended with err, and reports whether it failed; else it
// was refused: see Stats.
func (r *registry) countRefusal(err error) (hasFailed bool) {
	var attempt *BackendError
	if errors.As(err, &attempt) || errors.Is(err, ErrNoBackend) {
		r.failed.Add(1)
		return true
	}
	r.refused.Add(1)
	return false
}
