package relay

import (
	"fmt"
	"sync/atomic"
	"time"
)

// stalls note since when each side has taken nothing.
type stalls struct{ client, backend wait }

// newStalls returns nil where nobody asks.
func newStalls(c Config) *stalls {
	if !c.WatchStalls {
		return nil
	}
	now := time.Now()
	return &stalls{client: wait{start: now}, backend: wait{start: now}}
}

// of returns the wait for a side.
func (s *stalls) of(side Side) *wait {
	if side == Client {
		return &s.client
	}
	return &s.backend
}

// A wait begins when something cannot be written to a side at once, ends when
// nothing is left of that, and begins anew whenever the side takes a part of it.
type wait struct {
	start time.Time    // immutable
	since atomic.Int64 // nanoseconds after start, plus one; 0 if nothing waits
	taken uint64       // by the side, when it began; owned by the mover
}

func (w *wait) begin() { w.since.Store(int64(time.Since(w.start)) + 1) }
func (w *wait) end()   { w.since.Store(0) }

// note notes that so many bytes wait, and that so many have been taken in all.
func (w *wait) note(waiting int, taken uint64) {
	switch {
	case waiting == 0 && w.since.Load() != 0:
		w.end()
	case waiting > 0 && (w.since.Load() == 0 || w.taken != taken):
		w.taken = taken
		w.begin()
	}
}

// lasts returns how long it has lasted; 0 if there is none.
func (w *wait) lasts() time.Duration {
	since := w.since.Load()
	if since == 0 {
		return 0
	}
	return time.Since(w.start) - time.Duration(since-1)
}

// longest returns how long the longer of the two has lasted, and whose it is.
func (s *stalls) longest() (time.Duration, Side) {
	client, backend := s.client.lasts(), s.backend.lasts()
	if backend > client {
		return backend, Backend
	}
	return client, Client
}

// StalledFor returns how long a side has taken nothing although something waits to
// be written to it: the longer, of two. It is 0 once the tunnel's end has begun,
// which bounds that too, and without [Config.WatchStalls].
func (r *Relay) StalledFor() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stallsLocked()
	if s == nil {
		return 0
	}
	lasts, _ := s.longest()
	return lasts
}

// stallsLocked returns nil if they are not watched any more.
func (r *Relay) stallsLocked() *stalls {
	if r.ending != nil && r.ending.begun {
		return nil
	}
	return r.driver.stalls()
}

// CutStalled ends the tunnel if StalledFor is d or longer: the side that takes
// nothing is cut, which frees what the system keeps for it, and the other is sent a
// Close frame as if the first were lost. It does not wait.
func (r *Relay) CutStalled(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stallsLocked()
	if s == nil {
		return
	}
	lasts, side := s.longest()
	if lasts < d {
		return // it has taken something in the meantime
	}
	r.beginLocked(End{Side: side, Cause: CauseStalled, Cut: true,
		Err: fmt.Errorf("took nothing for %v", lasts.Round(time.Millisecond))}, "")
	from, to := &r.up, &r.down
	if side == Backend {
		from, to = to, from
	}
	isBoth := min(s.client.lasts(), s.backend.lasts()) >= d // before the reset ends a wait
	from.src().reset()
	if isBoth {
		from.dst().reset() // it could be told nothing either
		r.cutLocked()
		return
	}
	to.loseLocked()
	from.limitLocked(longAgo)
	r.driver.expireInLocked(drainTimeout) // sooner than others: memory is what is short
}
