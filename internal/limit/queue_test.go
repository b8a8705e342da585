package limit

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// A round runs the queue at now: each waiter's turn ends as result says, by the waiter's
// index. It returns the indexes of those who had a turn, in order, and the wait.
func round(q *Queue, waiters []Waiter, now, interval time.Duration, result func(i int) Result) (turns []int, wait time.Duration) {
	for {
		w, wait := q.Next(now)
		if w == nil {
			return turns, wait
		}
		i := slices.IndexFunc(waiters, func(v Waiter) bool { return v.ticket == w.ticket })
		turns = append(turns, i)
		q.Done(w, result(i), now, interval)
	}
}

// newQueueOf returns a queue of waiters, each of which has had a first turn.
func newQueueOf(waiters []Waiter) *Queue {
	q := new(Queue)
	for i := range waiters {
		q.Join(&waiters[i])
		w, _ := q.Next(0)
		q.Done(w, AllStuck, 0, 0)
	}
	return q
}

func TestQueueLetsWaitersGoInTheirOrder(t *testing.T) {
	for _, tt := range []struct {
		name   string
		result func(i int) Result
		turns  []int
		left   int
	}{
		{"all go", func(int) Result { return GoesOn }, []int{0, 1, 2, 3}, 0},
		{"nobody can", func(int) Result { return AllStuck }, []int{0}, 4},
		{"each is stuck for itself", func(int) Result { return Stuck }, []int{0, 1, 2, 3}, 4},
		{"one that is stuck holds up nobody", func(i int) Result {
			if i == 1 {
				return Stuck
			}
			return GoesOn
		}, []int{0, 1, 2, 3}, 1},
		{"two go", func(i int) Result {
			if i < 2 {
				return GoesOn
			}
			return AllStuck
		}, []int{0, 1, 2}, 2},
	} {
		waiters := make([]Waiter, 4)
		q := newQueueOf(waiters)
		if w, _ := q.Next(0); w != nil {
			t.Errorf("%s: a turn without a round", tt.name)
		}
		q.Wake()
		turns, wait := round(q, waiters, 0, 0, tt.result)
		if !slices.Equal(turns, tt.turns) || wait != 0 || q.Len() != tt.left {
			t.Errorf("%s: turns are %v, wait %v, %d left; want %v, 0, %d", tt.name, turns, wait, q.Len(), tt.turns, tt.left)
		}
	}
}

func TestQueueHoldsItsRate(t *testing.T) {
	waiters := make([]Waiter, 5)
	q := newQueueOf(waiters)
	q.Wake()
	var at []string
	for now := time.Duration(0); q.Len() > 0; {
		turns, wait := round(q, waiters, now, 10*time.Millisecond, func(int) Result { return GoesOn })
		for _, i := range turns {
			at = append(at, fmt.Sprintf("%d at %v", i, now))
		}
		q.Wake() // something happens meanwhile
		now += wait
	}
	if want := []string{"0 at 0s", "1 at 10ms", "2 at 20ms", "3 at 30ms", "4 at 40ms"}; !slices.Equal(at, want) {
		t.Errorf("turns are %q; want %q", at, want)
	}
}

func TestQueueKeepsThePlaceOfAWaiter(t *testing.T) {
	waiters := make([]Waiter, 3)
	q := newQueueOf(waiters)
	q.Leave(&waiters[1])
	q.Join(&waiters[1])
	first := &waiters[0]
	q.Wake()
	if w, _ := q.Next(0); w != first {
		t.Fatal("the first one has not the turn")
	}
	q.Done(first, GoesOn, 0, 0)
	q.Join(first) // its attempt has failed
	q.Wake()
	turns, _ := round(q, waiters, 0, 0, func(int) Result { return GoesOn })
	if want := []int{0, 1, 2}; !slices.Equal(turns, want) {
		t.Errorf("turns are %v; want %v", turns, want)
	}
}

func TestQueuePassesTheTurnOfOneWhoLeaves(t *testing.T) {
	waiters := make([]Waiter, 3)
	q := newQueueOf(waiters)
	q.Wake()
	w, _ := q.Next(0)
	if other, _ := q.Next(0); other != nil {
		t.Error("two have the turn")
	}
	q.Leave(w)
	q.Leave(w) // has no effect
	if w, _ = q.Next(0); w != &waiters[1] {
		t.Error("the turn of the one who left is lost")
	}
}

func TestQueueBeginsAnewWhenSomethingHappensDuringARound(t *testing.T) {
	for _, r := range []Result{Stuck, AllStuck} {
		waiters := make([]Waiter, 2)
		q := newQueueOf(waiters)
		q.Wake()
		w, _ := q.Next(0)
		q.Wake() // a place is free, but w has looked before
		q.Done(w, r, 0, 0)
		turns, _ := round(q, waiters, 0, 0, func(int) Result { return GoesOn })
		want := map[Result][]int{Stuck: {1, 0}, AllStuck: {0, 1}}[r]
		if !slices.Equal(turns, want) {
			t.Errorf("%v: turns are %v; want %v", r, turns, want)
		}
	}
}

func TestUpgradeThatComesMayPassThoseWhoAreStuckForThemselves(t *testing.T) {
	q := new(Queue)
	if !q.MayPass() {
		t.Error("nothing may pass an empty queue")
	}
	for _, tt := range []struct {
		r    Result
		want bool
	}{{Stuck, true}, {AllStuck, false}, {Stuck, true}} {
		var w Waiter
		q.Join(&w)
		if q.MayPass() {
			t.Error("an upgrade may pass those who are going to have the turn")
		}
		q.Wake()
		for {
			w, _ := q.Next(0)
			if w == nil {
				break
			}
			q.Done(w, tt.r, 0, 0)
		}
		if got := q.MayPass(); got != tt.want {
			t.Errorf("after a round in which all are %v, MayPass is %v", tt.r, got)
		}
	}
}

// A waiter that has joined gets a turn, or one before it does and all are stuck: a place may
// have become free after it looked and before it joined.
func TestQueueGivesANewWaiterATurn(t *testing.T) {
	for _, others := range []Result{Stuck, AllStuck} {
		for _, duringRound := range []bool{false, true} {
			waiters := make([]Waiter, 3)
			q := newQueueOf(waiters[:2])
			if duringRound {
				q.Wake()
				q.Next(0)
			}
			q.Join(&waiters[2])
			if duringRound {
				q.Done(&waiters[0], others, 0, 0)
			}
			turns, _ := round(q, waiters, 0, 0, func(int) Result { return others })
			// A round that ends because all are stuck speaks for the new one too.
			if want := others == Stuck; slices.Contains(turns, 2) != want {
				t.Errorf("others %v, during a round %v: turns are %v; the new one has one: want %v", others, duringRound, turns, want)
			}
		}
	}
}

func TestQueueDrainsFasterEachSecond(t *testing.T) {
	const interval = 100 * time.Millisecond
	waiters := make([]Waiter, 60)
	q := newQueueOf(waiters)
	q.Wake()
	var perSecond []int
	for now := time.Duration(0); q.Len() > 0; {
		turns, wait := round(q, waiters, now, interval, func(int) Result { return GoesOn })
		if int(now/s) == len(perSecond) {
			perSecond = append(perSecond, 0)
		}
		perSecond[now/s] += len(turns)
		now += wait
	}
	if want := []int{10, 20, 30}; !slices.Equal(perSecond, want) {
		t.Errorf("in each second so many go on: %v; want %v", perSecond, want)
	}
}
