package rebalance

import (
	"math/rand/v2"
	"testing"
	"time"
)

// A tunnelEvent is a tunnel that is closed, or one that is opened.
type tunnelEvent struct {
	client, target uint64
	backend        string
	isOpened       bool
}

func closedAt(backend string, client, target uint64) tunnelEvent {
	return tunnelEvent{client: client, target: target, backend: backend}
}

func openedAt(backend string, client, target uint64) tunnelEvent {
	return tunnelEvent{client: client, target: target, backend: backend, isOpened: true}
}

func TestReconnectsKnowClientsAgain(t *testing.T) {
	for _, tt := range []struct {
		name               string
		events             []tunnelEvent
		same, back, missed int
	}{
		{"nobody has come back", []tunnelEvent{closedAt("a", 1, 1)}, 0, 0, 1},
		{"to the same", []tunnelEvent{closedAt("a", 1, 1), openedAt("a", 1, 1)}, 1, 1, 0},
		{"to another", []tunnelEvent{closedAt("a", 1, 1), openedAt("b", 1, 1)}, 0, 1, 0},
		{"with another target", []tunnelEvent{closedAt("a", 1, 1), openedAt("a", 1, 2)}, 1, 1, 0},
		{"somebody else", []tunnelEvent{closedAt("a", 1, 1), openedAt("a", 2, 1)}, 0, 0, 1},
		{"before its tunnel was closed", []tunnelEvent{openedAt("a", 1, 1), closedAt("a", 1, 1)}, 0, 0, 1},
		{"one client with more tunnels than were closed", []tunnelEvent{closedAt("a", 1, 1), openedAt("b", 1, 1), openedAt("a", 1, 1)}, 0, 1, 0},
		{"two behind one address", []tunnelEvent{
			closedAt("a", 1, 1), closedAt("b", 1, 2), openedAt("b", 1, 2), openedAt("b", 1, 1),
		}, 1, 2, 0},
		{"another one behind the address comes first", []tunnelEvent{
			closedAt("a", 1, 1), openedAt("b", 1, 7), openedAt("a", 1, 1),
		}, 1, 1, 0},
		{"the target of one that has come back already", []tunnelEvent{
			closedAt("a", 1, 1), closedAt("a", 1, 2), openedAt("b", 1, 1), openedAt("a", 1, 1),
		}, 1, 2, 0},
		{"the same target twice", []tunnelEvent{
			closedAt("a", 1, 1), closedAt("a", 1, 1), openedAt("b", 1, 9), openedAt("a", 1, 1), openedAt("a", 1, 1),
		}, 2, 2, 0},
	} {
		var c Reconnects
		for _, e := range tt.events {
			if e.isOpened {
				c.Opened(time.Second, e.client, e.target, e.backend)
			} else {
				c.Closed(time.Second, e.client, e.target, e.backend)
			}
		}
		_, same, back := c.Judge(time.Second, true)
		if missed := c.Away(); same != tt.same || back != tt.back || missed != tt.missed {
			t.Errorf("%s: %d of %d came back to the same, %d away; want %d of %d, %d away", tt.name, same, back, missed, tt.same, tt.back, tt.missed)
		}
	}
}

func TestJudgeStopsIfMoreThanHalfComeBack(t *testing.T) {
	for _, tt := range []struct {
		closed, same, others int
		after                time.Duration
		isLast               bool
		want                 Verdict
	}{
		{closed: 0, want: GoOn},
		{closed: 0, isLast: true, want: GoOn},
		{closed: 9, same: 9, want: GoOn}, // too few
		{closed: 9, same: 9, isLast: true, want: Stop},
		{closed: 1, same: 1, isLast: true, want: Stop},
		{closed: 1, others: 1, isLast: true, want: GoOn},
		{closed: 1, isLast: true, want: Undecided},
		{closed: 1, isLast: true, after: reconnectTimeout, want: GoOn},
		{closed: 10, want: Undecided},
		{closed: 10, after: reconnectTimeout, want: GoOn},
		{closed: 10, same: 7, want: Undecided},
		{closed: 10, same: 8, want: Stop}, // four in five
		{closed: 10, same: 7, others: 2, want: Undecided},
		{closed: 10, same: 7, others: 3, want: GoOn},
		{closed: 10, others: 3, want: GoOn},
		{closed: 29, same: 23, want: Undecided},
		{closed: 29, same: 24, want: Stop},
		{closed: 30, same: 15, want: Undecided},
		{closed: 30, same: 16, want: Stop},
		{closed: 30, same: 15, others: 15, want: GoOn},
		{closed: 30, others: 15, want: GoOn},
		{closed: 100, same: 50, others: 49, want: Undecided},
		{closed: 100, same: 51, want: Stop},
		{closed: 100, same: 10, after: reconnectTimeout - 1, want: Undecided},
		{closed: 100, same: 10, after: reconnectTimeout, want: Stop}, // all that came back
		{closed: 100, same: 9, after: reconnectTimeout, want: GoOn},  // too few
		{closed: 100, same: 9, others: 1, after: reconnectTimeout, want: Stop},
		{closed: 100, same: 7, others: 3, after: reconnectTimeout, want: GoOn},
		{closed: 100, same: 16, others: 14, after: reconnectTimeout, want: Stop},
		{closed: 100, same: 15, others: 15, after: reconnectTimeout, want: GoOn},
	} {
		var c Reconnects
		for i := range tt.closed {
			c.Closed(time.Hour, uint64(i), 0, "a")
		}
		for i := range tt.same {
			c.Opened(time.Hour, uint64(i), 0, "a")
		}
		for i := range tt.others {
			c.Opened(time.Hour, uint64(tt.same+i), 0, "b")
		}
		if got, _, _ := c.Judge(time.Hour+tt.after, tt.isLast); got != tt.want {
			t.Errorf("%+v: verdict %d; want %d", tt, got, tt.want)
		}
	}
}

func TestJudgeDecidesFewClientsWithTheNextOnes(t *testing.T) {
	var c Reconnects
	now := time.Duration(0)
	for i := range uint64(10) {
		if v, _, _ := c.Judge(now, false); v != GoOn {
			t.Fatalf("verdict %d after %d clients; want %d", v, i, GoOn)
		}
		now += 3 * time.Second
		c.Closed(now, i, 0, "a")
		c.Opened(now, i, 0, "a")
	}
	if v, same, back := c.Judge(now, false); v != Stop || same != 10 || back != 10 {
		t.Errorf("verdict %d, %d of %d; want %d, 10 of 10", v, same, back, Stop)
	}
}

// What clients did long ago does not hide what they do now.
func TestJudgeDecidesFromTheLastClients(t *testing.T) {
	var c Reconnects
	closeAndOpen := func(n int, to string) (v Verdict, numClosed int) {
		for i := range n {
			c.Closed(0, uint64(i), 0, "a")
			c.Opened(0, uint64(i), 0, to)
			if v, _, _ = c.Judge(0, false); v != GoOn {
				return v, i + 1
			}
		}
		return v, n
	}
	if v, n := closeAndOpen(1000, "b"); v != GoOn || n != 1000 {
		t.Fatalf("verdict %d after %d clients that went elsewhere; want %d", v, n, GoOn)
	}
	if v, n := closeAndOpen(1000, "a"); v != Stop || n > 51 {
		t.Errorf("verdict %d after %d clients that came back; want %d after 51", v, n, Stop)
	}
}

// A balancer that chooses at random sends a third of the clients back. It is seldom stopped.
func TestJudgeSeldomStopsABalancerThatChoosesAtRandom(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	const runs = 1000
	stopped := 0
	for range runs {
		var c Reconnects
		for i := range uint64(200) {
			c.Closed(0, i, 0, "a")
			c.Opened(0, i, 0, []string{"a", "b", "c"}[r.IntN(3)])
			if v, _, _ := c.Judge(0, false); v != GoOn {
				stopped++
				break
			}
		}
	}
	if stopped > runs/10 {
		t.Errorf("seed %d: %d of %d were stopped; want a tenth at most", seed, stopped, runs)
	}
	t.Logf("%d of %d were stopped", stopped, runs)
}

// A client that comes late is not away any longer.
func TestAwayCountsClientsUntilTheyComeBack(t *testing.T) {
	var c Reconnects
	for i := range uint64(20) {
		c.Closed(0, i, 1, "a")
	}
	for i := range uint64(10) {
		c.Opened(time.Second, i, 1, "b")
	}
	if n := c.Away(); n != 10 {
		t.Errorf("%d are away; want 10", n)
	}
	if v, _, _ := c.Judge(time.Second, true); v != GoOn {
		t.Errorf("verdict %d; want %d", v, GoOn)
	}
	for i := range uint64(20) {
		c.Opened(time.Hour, i, 2, "a") // the first ones again
	}
	if n := c.Away(); n != 0 {
		t.Errorf("%d are away in the end; want none", n)
	}
}

// Others behind an address can only replace matches for a while, so that they are forgotten.
func TestReconnectsForgetMatches(t *testing.T) {
	var c Reconnects
	c.Closed(0, 1, 1, "a")
	c.Opened(time.Second, 1, 2, "a")
	c.Opened(reconnectTimeout, 1, 1, "b")
	if _, same, back := c.Judge(reconnectTimeout, true); same != 1 || back != 1 {
		t.Errorf("%d of %d came back to the same; want the match of the first 15 s", same, back)
	}
	if n := len(c.records); n != 0 {
		t.Errorf("%d clients are remembered; want none", n)
	}
}

func TestReconnectsUndoATunnelThatWasNotClosed(t *testing.T) {
	var c Reconnects
	c.Closed(0, 1, 1, "a")
	undo := c.Closed(0, 1, 1, "a")
	undo()
	if n := c.Away(); n != 1 {
		t.Errorf("%d are away; want 1", n)
	}
	if at := c.Deadline(time.Second); at != reconnectTimeout {
		t.Errorf("Deadline() = %v; want %v", at, reconnectTimeout)
	}
}

func TestReconnectsJudgeNoClientsThatWereDiscarded(t *testing.T) {
	var c Reconnects
	for i := range uint64(20) {
		c.Closed(0, i, 0, "a")
		if i < 15 {
			c.Opened(0, i, 0, "a")
		}
	}
	c.Discard()
	if v, same, back := c.Judge(0, true); v != GoOn || same != 0 || back != 0 {
		t.Errorf("verdict %d, %d of %d; want %d, 0 of 0", v, same, back, GoOn)
	}
	if n := c.Away(); n != 5 {
		t.Errorf("%d are away; want 5", n)
	}
}
