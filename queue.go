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
// a backend that has just come back is not to be met by all who have waited for it at once.
const queueRate = 100

// A queue has the upgrades that wait. No function of the program is called under its lock.
type queue struct {
	p    *Proxy
	size int // 0: nobody waits

	numWaiting atomic.Int64 // order.Len(), for reading without the lock

	mu    sync.Mutex
	order limit.Queue
	turns map[*limit.Waiter]chan struct{} // that wait, each with a capacity of 1

	// Each is stopped when nobody waits; nil: none.
	rateTimer  *time.Timer // calls resume
	trialTimer *time.Timer // calls wake
}

func newQueue(p *Proxy, size int) *queue {
	return &queue{p: p, size: max(size, 0), turns: make(map[*limit.Waiter]chan struct{})}
}

func (q *queue) isOn() bool { return q.size > 0 }

// wake lets those who wait try to go on: a backend has a place, or a flag less, or may be
// tried.
func (q *queue) wake() {
	if q.numWaiting.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.order.Wake()
	q.advanceLocked()
}

// resume goes on with a pass after a time that the rate does not allow.
func (q *queue) resume() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.advanceLocked()
}

// advanceLocked gives the turn to the next one.
func (q *queue) advanceLocked() {
	w, wait := q.order.Next(q.p.now())
	switch {
	case w != nil:
		q.turns[w] <- struct{}{}
	case wait > 0:
		setTimer(&q.rateTimer, wait, q.resume)
	}
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

// join adds a waiter, whose turn is told by the channel, or returns a [*limitError]. One that
// has waited before finds its place again. A leave follows.
func (q *queue) join(w *limit.Waiter) (turn <-chan struct{}, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if *w == (limit.Waiter{}) && q.order.Len() >= q.size {
		return nil, &limitError{"Queue", q.size, ReasonQueueFull, false, 0}
	}
	c := make(chan struct{}, 1)
	q.turns[w] = c
	q.order.Join(w)
	q.numWaiting.Store(int64(q.order.Len()))
	q.order.Wake()
	q.advanceLocked()
	return c, nil
}

// leave removes a waiter, if it is still there. If it has the turn, the next one gets it.
func (q *queue) leave(w *limit.Waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.turns[w] == nil {
		return
	}
	delete(q.turns, w)
	q.order.Leave(w)
	q.numWaiting.Store(int64(q.order.Len()))
	if q.order.Len() == 0 {
		stopTimer(&q.rateTimer)
		stopTimer(&q.trialTimer)
	}
	q.advanceLocked()
}

// done says what became of the turn of w.
func (q *queue) done(w *limit.Waiter, r limit.Result) {
	now := q.p.now()
	set := q.p.set.Load()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.order.Done(w, r, now, q.interval(set))
	q.advanceLocked()
	if r != limit.Went {
		if at, ok := set.nextTrial(now); ok {
			setTimer(&q.trialTimer, at-now, q.wake)
		}
	}
}

// interval returns the time from one who goes on to the next.
func (q *queue) interval(set *backendSet) time.Duration {
	perSecond := float64(queueRate * max(len(set.active), 1))
	if r := limit.Rate(q.p.limits.Handshakes); r.IsBound() {
		perSecond = r.PerSecond
	}
	return time.Duration(float64(time.Second) / perSecond)
}

// nextTrial returns when after now the first backend is to be tried that has a flag.
func (s *backendSet) nextTrial(now time.Duration) (at time.Duration, ok bool) {
	for _, b := range s.active {
		for _, t := range [...]time.Duration{b.trialAt(), b.tryWaitingAt()} {
			if t > now && (!ok || t < at) {
				at, ok = t, true
			}
		}
	}
	return at, ok
}

// pickInTurn is pick, but an upgrade that cannot be sent to a backend now waits.
func (u *upgrade) pickInTurn() (*attempt, error) {
	q := u.p.queue
	isFirst := len(u.tried) == 0
	if !isFirst || !q.isOn() {
		return u.pick()
	}
	if !u.hasWaited && q.numWaiting.Load() == 0 {
		if a, err := u.pick(); u.stuck == limit.Went {
			return a, err
		}
	}
	return u.wait()
}

// wait waits for a backend.
func (u *upgrade) wait() (*attempt, error) {
	q := u.p.queue
	turn, err := q.join(&u.waiter)
	if err != nil {
		return nil, err
	}
	u.hasWaited = true
	defer q.leave(&u.waiter)
	ctx, cancel := u.canceler.dialContext(u.r.Context(), u.deadline)
	defer cancel()
	for {
		select {
		case <-turn:
		case <-ctx.Done():
			if err := u.canceled(); err != nil {
				return nil, err
			}
			u.stage = ReasonQueueTimeout
			return nil, &queueTimeoutError{u.waitCause}
		}
		if a, err := u.takeTurn(); u.stuck == limit.Went {
			return a, err
		}
	}
}

// takeTurn picks a backend, and gives the turn to the next one who waits.
func (u *upgrade) takeTurn() (*attempt, error) {
	isDone := false
	defer func() {
		if !isDone { // the balancer has ended the goroutine
			u.stuck = limit.Went
		}
		u.p.queue.done(&u.waiter, u.stuck)
	}()
	a, err := u.pick()
	isDone = true
	return a, err
}

// A queueTimeoutError says why an upgrade has waited until its deadline.
type queueTimeoutError struct{ cause error } // nil: there were others before it

func (e *queueTimeoutError) Error() string {
	if e.cause == nil {
		return "wsproxy: waited for a backend until the deadline, behind others"
	}
	return fmt.Sprintf("wsproxy: waited for a backend until the deadline: %v", e.cause)
}

func (e *queueTimeoutError) Unwrap() error { return e.cause }
