package wsproxy

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/internal/limit"
)

// This file lets upgrades wait for a backend: see [Limits.Queue]. The order is decided in
// [limit.Queue].

// queueRate is how many upgrades a second go on for each backend, without Limits.Handshakes:
// a backend that has just come back is not to be met by all that have waited for it at once.
const queueRate = 100

// pickInTurn is pick, but an upgrade that cannot be sent to a backend now waits.
func (u *upgrade) pickInTurn() (*attempt, error) {
	q := u.p.queue
	if !q.isOn() || len(u.tried) > 0 {
		return u.pick()
	}
	if !u.hasWaited && q.mayPass() {
		if a, err := u.pick(); u.pickResult == limit.GoesOn {
			return a, err
		}
	}
	return u.wait()
}

// wait waits for a backend.
func (u *upgrade) wait() (*attempt, error) {
	q := u.p.queue
	turn, err := q.join(&u.waiter, u.waitCause)
	if err != nil {
		return nil, err
	}
	u.hasWaited = true
	defer u.times.addWait(time.Now())
	defer q.leave(&u.waiter)
	ctx, cancel := u.canceler.dialContext(u.r.Context(), u.deadline)
	defer cancel()
	for {
		select {
		case <-turn:
		case <-ctx.Done():
		}
		if contextErr(ctx) != nil { // also if the turn came at the same time
			if err := u.canceled(); err != nil {
				return nil, err
			}
			u.stage = ReasonQueueTimeout
			return nil, &queueTimeoutError{u.waitCause}
		}
		if a, err := u.takeTurn(); u.pickResult == limit.GoesOn {
			return a, err
		}
	}
}

// takeTurn picks a backend, and gives the turn to the next waiter.
func (u *upgrade) takeTurn() (*attempt, error) {
	t := turnEnd{began: u.p.now()} // if the balancer ends the goroutine, the upgrade waits no longer
	defer func() { u.p.queue.done(&u.waiter, t) }()
	a, err := u.pick()
	t.result, t.hasPicked = u.pickResult, err == nil
	return a, err
}

// A turnEnd is what became of the turn of a waiter.
type turnEnd struct {
	began     time.Duration // a backend whose time has come since then was no candidate
	result    limit.Result
	hasPicked bool
}

// A queue has the upgrades that wait. No function of the program is called under its lock.
type queue struct {
	p    *Proxy
	size int // 0: the queue is off

	numWaiting atomic.Int64 // order.Len(), for reading without the lock

	mu      sync.Mutex
	order   limit.Queue
	signals map[*limit.Waiter]chan struct{} // of turns, each with a capacity of 1

	// Each is stopped when no upgrade waits; nil: none.
	rateTimer  *time.Timer   // calls resume
	retryTimer *time.Timer   // calls retry
	retryAt    time.Duration // when it does
}

func newQueue(p *Proxy, size int) *queue {
	return &queue{p: p, size: max(size, 0), signals: make(map[*limit.Waiter]chan struct{})}
}

func (q *queue) isOn() bool { return q.size > 0 }

// wake begins a round: a backend has a place, or a flag less, or its time to be tried has
// come.
func (q *queue) wake() {
	if q.numWaiting.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.order.Wake()
	q.advanceLocked()
}

// retry is wake at the time that done has found.
func (q *queue) retry() {
	q.mu.Lock()
	stopTimer(&q.retryTimer)
	q.mu.Unlock()
	q.wake()
}

// resume goes on with a round when the rate allows it.
func (q *queue) resume() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.advanceLocked()
}

// mayPass reports whether an upgrade that comes need not wait behind others.
func (q *queue) mayPass() bool {
	if q.numWaiting.Load() == 0 {
		return true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.order.MayPass()
}

// join adds a waiter, which waits because of cause and is told of its turn by the channel, or
// returns a [*limitError]. One that has waited before finds its place again. A leave follows.
func (q *queue) join(w *limit.Waiter, cause error) (turn <-chan struct{}, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if *w == (limit.Waiter{}) && q.order.Len() >= q.size {
		return nil, &limitError{name: "Queue", limit: q.size, reason: ReasonQueueFull, cause: cause}
	}
	c := make(chan struct{}, 1)
	q.signals[w] = c
	q.order.Join(w)
	q.numWaiting.Store(int64(q.order.Len()))
	q.advanceLocked()
	return c, nil
}

// leave removes a waiter, if it is still there. If it has the turn, the next one gets it.
func (q *queue) leave(w *limit.Waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.signals[w] == nil {
		return
	}
	delete(q.signals, w)
	q.order.Leave(w)
	q.numWaiting.Store(int64(q.order.Len()))
	if q.order.Len() == 0 {
		stopTimer(&q.rateTimer)
		stopTimer(&q.retryTimer)
	}
	q.advanceLocked()
}

// done says what became of the turn of w. The rate is that of upgrades that have a backend.
func (q *queue) done(w *limit.Waiter, t turnEnd) {
	now := q.p.now()
	set := q.p.set.Load()
	interval := time.Duration(0)
	if t.hasPicked {
		interval = q.interval(set)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.order.Done(w, t.result, now, interval)
	q.numWaiting.Store(int64(q.order.Len()))
	q.advanceLocked()
	if t.result == limit.GoesOn {
		return
	}
	at, ok := set.nextChange(t.began)
	if ok && (q.retryTimer == nil || at < q.retryAt) {
		q.retryAt = at
		setTimer(&q.retryTimer, at-now, q.retry)
	}
}

// advanceLocked gives the turn to the next waiter.
func (q *queue) advanceLocked() {
	w, wait := q.order.Next(q.p.now())
	switch {
	case w != nil:
		q.signals[w] <- struct{}{}
	case wait > 0:
		setTimer(&q.rateTimer, wait, q.resume)
	}
}

// interval returns the time from one upgrade that goes on to the next.
func (q *queue) interval(set *backendSet) time.Duration {
	r := limit.Rate(q.p.limits.Handshakes)
	if !r.IsBound() {
		r.PerSecond = float64(queueRate * max(len(set.active), 1))
	}
	return r.Interval()
}

func setTimer(t **time.Timer, d time.Duration, f func()) {
	stopTimer(t)
	*t = time.AfterFunc(d, f)
}

func stopTimer(t **time.Timer) {
	if *t != nil {
		(*t).Stop()
		*t = nil
	}
}

// nextChange returns when after now the first backend may be tried that is avoided now.
func (s *backendSet) nextChange(now time.Duration) (at time.Duration, ok bool) {
	for _, b := range s.active {
		if t, isKnown := b.nextChange(now); isKnown && (!ok || t < at) {
			at, ok = t, true
		}
	}
	return at, ok
}

// A queueTimeoutError says why an upgrade has waited until its deadline.
type queueTimeoutError struct{ cause error } // nil: others were before it

func (e *queueTimeoutError) Error() string {
	if e.cause == nil {
		return "wsproxy: waited for a backend until the deadline, behind others"
	}
	return fmt.Sprintf("wsproxy: waited for a backend until the deadline: %v", e.cause)
}

func (e *queueTimeoutError) Unwrap() error { return e.cause }

// Is reports that the error is an [ErrNoBackend], whatever its cause.
func (e *queueTimeoutError) Is(target error) bool { return target == ErrNoBackend }
