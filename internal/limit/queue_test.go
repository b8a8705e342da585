package limit

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// A pass runs the queue at now: each waiter's turn ends as result says, by the waiter's
// index. It returns the indexes of those who had a turn, in order, and the wait.
func pass(q *Queue, waiters []Waiter, now, interval time.Duration, result func(i int) Result) (turns []int, wait time.Duration) {
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

func newQueueOf(waiters []Waiter) *Queue {
	q := new(Queue)
	for i := range waiters {
		q.Join(&waiters[i])
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
		{"all go", func(int) Result { return Went }, []int{0, 1, 2, 3}, 0},
		{"nobody can", func(int) Result { return AllStuck }, []int{0}, 4},
		{"each is stuck for itself", func(int) Result { return Stuck }, []int{0, 1, 2, 3}, 4},
		{"one that is stuck holds up nobody", func(i int) Result {
			if i == 1 {
				return Stuck
			}
			return Went
		}, []int{0, 1, 2, 3}, 1},
		{"two go", func(i int) Result {
			if i < 2 {
				return Went
			}
			return AllStuck
		}, []int{0, 1, 2}, 2},
	} {
		waiters := make([]Waiter, 4)
		q := newQueueOf(waiters)
		if w, _ := q.Next(0); w != nil {
			t.Errorf("%s: a turn without a pass", tt.name)
		}
		q.Wake()
		turns, wait := pass(q, waiters, 0, 0, tt.result)
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
		turns, wait := pass(q, waiters, now, 10*time.Millisecond, func(int) Result { return Went })
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
	q.Done(first, Went, 0, 0)
	q.Join(first) // its attempt has failed
	q.Wake()
	turns, _ := pass(q, waiters, 0, 0, func(int) Result { return Went })
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

func TestQueueBeginsAnewWhenSomethingHappensDuringAPass(t *testing.T) {
	for _, r := range []Result{Stuck, AllStuck} {
		waiters := make([]Waiter, 2)
		q := newQueueOf(waiters)
		q.Wake()
		w, _ := q.Next(0)
		q.Wake() // a place is free, but w has looked before
		q.Done(w, r, 0, 0)
		turns, _ := pass(q, waiters, 0, 0, func(int) Result { return Went })
		want := map[Result][]int{Stuck: {1, 0}, AllStuck: {0, 1}}[r]
		if !slices.Equal(turns, want) {
			t.Errorf("%v: turns are %v; want %v", r, turns, want)
		}
	}
}
