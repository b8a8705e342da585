package limit

import (
	"cmp"
	"slices"
	"time"
)

// A Queue is the order in which upgrades wait. The one that has the turn tries to go on. In a
// round the turn goes through the queue from its beginning, until it is known that no waiter
// can go on. A Queue is not safe for concurrent use. The zero value is empty.
type Queue struct {
	waiting    []*Waiter // by ticket
	lastTicket uint64

	inRound   bool          // a round is under way
	isAgain   bool          // something has happened during the round: another one follows
	asked     uint64        // the last ticket that has had the turn in this round
	turn      *Waiter       // nil: no waiter has it
	notBefore time.Duration // the earliest time of the next turn
	allStuck  bool          // the last round has ended so

	isDraining bool          // waiters go on, one after the other
	drainSince time.Duration // since then
}

// A Waiter is one upgrade that waits. Its zero value has not waited yet.
type Waiter struct{ ticket uint64 }

// A Result says what became of a turn.
type Result uint8

const (
	GoesOn   Result = iota // the waiter waits no longer
	Stuck                  // it cannot go on; those behind it may
	AllStuck               // none can go on
)

// Len returns the number of waiters.
func (q *Queue) Len() int { return len(q.waiting) }

// MayPass reports whether an upgrade that comes may try to go on before it joins: none waits
// for what it may get, because each waiter is stuck for a reason of its own.
func (q *Queue) MayPass() bool { return len(q.waiting) == 0 || !q.inRound && !q.allStuck }

// Join puts w at the end of the queue, or if it has waited before at its old place. It then
// gets the turn, because something may have happened since it looked.
func (q *Queue) Join(w *Waiter) {
	if w.ticket == 0 {
		q.lastTicket++
		w.ticket = q.lastTicket
	}
	i, _ := q.find(w.ticket)
	q.waiting = slices.Insert(q.waiting, i, w)
	switch {
	case !q.inRound && q.allStuck:
		q.inRound, q.asked = true, 0 // what the new one may get is for those before it
	case !q.inRound:
		q.inRound, q.asked = true, w.ticket-1
	case q.asked >= w.ticket:
		q.isAgain = true
	}
}

// Leave removes w, if it is in the queue.
func (q *Queue) Leave(w *Waiter) {
	if i, ok := q.find(w.ticket); ok {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	if q.turn == w {
		q.turn = nil
	}
	if len(q.waiting) == 0 {
		q.isDraining = false
	}
}

func (q *Queue) find(ticket uint64) (i int, ok bool) {
	return slices.BinarySearchFunc(q.waiting, ticket, func(w *Waiter, t uint64) int { return cmp.Compare(w.ticket, t) })
}

// Wake begins a round, because a waiter may be able to go on.
func (q *Queue) Wake() {
	if q.inRound && q.turn != nil {
		q.isAgain = true
		return
	}
	q.inRound, q.asked = true, 0
}

// Next returns the waiter that gets the turn at now, or nil; and if that is because the rate
// does not allow it yet, how long after now it will. Done or Leave follows for each waiter.
func (q *Queue) Next(now time.Duration) (w *Waiter, wait time.Duration) {
	if !q.inRound || q.turn != nil {
		return nil, 0
	}
	i, ok := q.find(q.asked)
	if ok {
		i++
	}
	switch {
	case i == len(q.waiting) && !q.isAgain:
		q.inRound, q.allStuck = false, false
		return nil, 0
	case i == len(q.waiting):
		q.isAgain, q.asked = false, 0
		return q.Next(now)
	case now < q.notBefore:
		return nil, q.notBefore - now
	}
	q.turn = q.waiting[i]
	return q.turn, 0
}

// Done says what became of the turn of w, which it had at now. If it goes on, the next one
// does that after the interval. That is halved each second until the queue is empty or all are
// stuck: otherwise a queue would never be empty again to which upgrades come at a higher rate.
func (q *Queue) Done(w *Waiter, r Result, now, interval time.Duration) {
	q.turn, q.asked = nil, w.ticket
	switch r {
	case GoesOn:
		if !q.isDraining {
			q.isDraining, q.drainSince = true, now
		}
		halvings := min((now-q.drainSince)/time.Second, 30)
		q.notBefore = max(now+interval>>halvings, q.notBefore)
		q.Leave(w)
	case AllStuck:
		q.isDraining = false
		q.inRound, q.isAgain, q.asked, q.allStuck = q.isAgain, false, 0, true
	}
}
