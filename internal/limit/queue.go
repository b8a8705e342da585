package limit

import (
	"cmp"
	"slices"
	"time"
)

// A Queue is the order in which upgrades wait. The one that has the turn tries to go on.
// [Queue.Wake] begins a pass, in which the turn goes through the queue from its beginning,
// until nobody can go on. A Queue is not safe for concurrent use. The zero value is empty.
type Queue struct {
	waiting    []*Waiter // by ticket
	lastTicket uint64

	isPassing bool          // a pass is under way
	isAgain   bool          // something has happened during the pass: another one follows
	asked     uint64        // the last ticket that has had the turn in this pass
	turn      *Waiter       // nil: nobody has it
	notBefore time.Duration // the next one goes on
}

// A Waiter is one upgrade that waits. Its zero value has not waited yet.
type Waiter struct{ ticket uint64 }

// A Result says what became of a waiter's turn.
type Result uint8

const (
	Went     Result = iota // the waiter goes on, and waits no longer
	Stuck                  // it cannot go on; those behind it may
	AllStuck               // nobody can go on
)

// Len returns the number of waiters.
func (q *Queue) Len() int { return len(q.waiting) }

// Join puts w at the end of the queue, or if it has waited before at its old place.
func (q *Queue) Join(w *Waiter) {
	if w.ticket == 0 {
		q.lastTicket++
		w.ticket = q.lastTicket
	}
	i, _ := q.find(w.ticket)
	q.waiting = slices.Insert(q.waiting, i, w)
}

// Leave removes w, if it is in the queue.
func (q *Queue) Leave(w *Waiter) {
	if i, ok := q.find(w.ticket); ok {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	if q.turn == w {
		q.turn = nil
	}
}

func (q *Queue) find(ticket uint64) (i int, ok bool) {
	return slices.BinarySearchFunc(q.waiting, ticket, func(w *Waiter, t uint64) int { return cmp.Compare(w.ticket, t) })
}

// Wake begins a pass, because somebody may be able to go on.
func (q *Queue) Wake() {
	if q.isPassing && q.turn != nil {
		q.isAgain = true
		return
	}
	q.isPassing, q.asked = true, 0
}

// Next returns the waiter that gets the turn at now, or nil; and if that is because the rate
// does not allow it yet, how long after now it will. Done or Leave follows for each waiter.
func (q *Queue) Next(now time.Duration) (w *Waiter, wait time.Duration) {
	if !q.isPassing || q.turn != nil {
		return nil, 0
	}
	i, ok := q.find(q.asked)
	if ok {
		i++
	}
	switch {
	case i == len(q.waiting) && !q.isAgain:
		q.isPassing = false
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
// does that after the interval.
func (q *Queue) Done(w *Waiter, r Result, now, interval time.Duration) {
	q.turn, q.asked = nil, w.ticket
	switch r {
	case Went:
		q.Leave(w)
		q.notBefore = now + interval
	case AllStuck:
		q.isPassing, q.isAgain, q.asked = q.isAgain, false, 0
	}
}
