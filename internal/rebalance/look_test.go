package rebalance

import (
	"testing"
	"time"
)

// A lookEvent is a tunnel that is closed, or one that is opened.
type lookEvent struct {
	client, target uint64
	backend        string
	isOpened       bool
}

func closedAt(backend string, client, target uint64) lookEvent {
	return lookEvent{client: client, target: target, backend: backend}
}

func openedAt(backend string, client, target uint64) lookEvent {
	return lookEvent{client: client, target: target, backend: backend, isOpened: true}
}

func TestLookKnowsClientsAgain(t *testing.T) {
	for _, tt := range []struct {
		name               string
		events             []lookEvent
		same, back, missed int
	}{
		{"nobody has come back", []lookEvent{closedAt("a", 1, 1)}, 0, 0, 1},
		{"to the same", []lookEvent{closedAt("a", 1, 1), openedAt("a", 1, 1)}, 1, 1, 0},
		{"to another", []lookEvent{closedAt("a", 1, 1), openedAt("b", 1, 1)}, 0, 1, 0},
		{"with another target", []lookEvent{closedAt("a", 1, 1), openedAt("a", 1, 2)}, 1, 1, 0},
		{"somebody else", []lookEvent{closedAt("a", 1, 1), openedAt("a", 2, 1)}, 0, 0, 1},
		{"before its tunnel was closed", []lookEvent{openedAt("a", 1, 1), closedAt("a", 1, 1)}, 0, 0, 1},
		{"one client with more tunnels than were closed", []lookEvent{closedAt("a", 1, 1), openedAt("b", 1, 1), openedAt("a", 1, 1)}, 0, 1, 0},
		{"two behind one address", []lookEvent{
			closedAt("a", 1, 1), closedAt("b", 1, 2), openedAt("b", 1, 2), openedAt("b", 1, 1),
		}, 1, 2, 0},
		{"another one behind the address comes first", []lookEvent{
			closedAt("a", 1, 1), openedAt("b", 1, 7), openedAt("a", 1, 1),
		}, 1, 1, 0},
		{"the target of one that has come back already", []lookEvent{
			closedAt("a", 1, 1), closedAt("a", 1, 2), openedAt("b", 1, 1), openedAt("a", 1, 1),
		}, 1, 2, 0},
		{"the same target twice", []lookEvent{
			closedAt("a", 1, 1), closedAt("a", 1, 1), openedAt("b", 1, 9), openedAt("a", 1, 1), openedAt("a", 1, 1),
		}, 2, 2, 0},
	} {
		var l Look
		for _, e := range tt.events {
			if e.isOpened {
				l.Opened(time.Second, e.client, e.target, e.backend)
			} else {
				l.Closed(time.Second, e.client, e.target, e.backend)
			}
		}
		_, same, back := l.Judge(time.Second, true)
		if missed := l.Away(time.Second); same != tt.same || back != tt.back || missed != tt.missed {
			t.Errorf("%s: %d of %d came back to the same, %d away; want %d of %d, %d away", tt.name, same, back, missed, tt.same, tt.back, tt.missed)
		}
	}
}

func TestLookStopsIfMoreThanHalfComeBack(t *testing.T) {
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
		{closed: 1, isLast: true, want: Undone},
		{closed: 1, isLast: true, after: Wait, want: GoOn},
		{closed: 10, want: Undone},
		{closed: 10, same: 5, others: 4, want: Undone},
		{closed: 10, same: 5, others: 5, want: GoOn},
		{closed: 10, same: 6, others: 0, want: Stop},
		{closed: 10, same: 0, others: 5, want: GoOn},
		{closed: 100, same: 50, others: 49, want: Undone},
		{closed: 100, same: 50, others: 50, want: GoOn},
		{closed: 100, same: 51, want: Stop},
		{closed: 100, same: 10, after: Wait - 1, want: Undone},
		{closed: 100, same: 10, after: Wait, want: Stop}, // all that came back
		{closed: 100, same: 9, after: Wait, want: GoOn},  // too few
		{closed: 100, same: 10, others: 10, after: Wait, want: GoOn},
		{closed: 100, same: 11, others: 10, after: Wait, want: Stop},
	} {
		var l Look
		for i := range tt.closed {
			l.Closed(time.Hour, uint64(i), 0, "a")
		}
		for i := range tt.same {
			l.Opened(time.Hour, uint64(i), 0, "a")
		}
		for i := range tt.others {
			l.Opened(time.Hour, uint64(tt.same+i), 0, "b")
		}
		if got, _, _ := l.Judge(time.Hour+tt.after, tt.isLast); got != tt.want {
			t.Errorf("%+v: verdict %d; want %d", tt, got, tt.want)
		}
	}
}

func TestLookJudgesFewClientsWithTheNextOnes(t *testing.T) {
	var l Look
	now := time.Duration(0)
	for i := range uint64(10) {
		if v, _, _ := l.Judge(now, false); v != GoOn {
			t.Fatalf("verdict %d after %d clients; want %d", v, i, GoOn)
		}
		now += 3 * time.Second
		l.Closed(now, i, 0, "a")
		l.Opened(now, i, 0, "a")
	}
	if v, same, back := l.Judge(now, false); v != Stop || same != 10 || back != 10 {
		t.Errorf("verdict %d, %d of %d; want %d, 10 of 10", v, same, back, Stop)
	}
}

func TestLookBeginsAnewAfterADecision(t *testing.T) {
	var l Look
	for i := range uint64(20) {
		l.Closed(0, i, 0, "a")
		l.Opened(0, i, 0, "b")
	}
	if v, _, _ := l.Judge(0, false); v != GoOn {
		t.Fatalf("verdict %d; want %d", v, GoOn)
	}
	for i := range uint64(10) {
		l.Closed(time.Second, i, 0, "a")
		l.Opened(time.Second, i, 0, "a")
	}
	if v, same, back := l.Judge(time.Second, false); v != Stop || same != 10 || back != 10 {
		t.Errorf("verdict %d, %d of %d; want %d, 10 of 10", v, same, back, Stop)
	}
}

func TestLookForgetsClientsThatDoNotComeBack(t *testing.T) {
	var l Look
	for i := range uint64(3) {
		l.Closed(time.Duration(i)*time.Second, 1, i, "a")
	}
	for _, tt := range []struct {
		at   time.Duration
		want int
	}{{2 * time.Second, 3}, {Wait - 1, 3}, {Wait, 2}, {Wait + 2*time.Second - 1, 1}, {Wait + 2*time.Second, 0}} {
		if n := l.Away(tt.at); n != tt.want {
			t.Errorf("after %v %d are away; want %d", tt.at, n, tt.want)
		}
	}
	l.Opened(time.Minute, 1, 1, "a")
	if _, _, back := l.Judge(time.Minute, true); back != 0 {
		t.Errorf("%d came back; want none: it came too late", back)
	}
}

func TestLookUndoesATunnelThatWasNotClosed(t *testing.T) {
	var l Look
	l.Closed(0, 1, 1, "a")
	undo := l.Closed(0, 1, 1, "a")
	undo()
	if n := l.Away(0); n != 1 {
		t.Errorf("%d are away; want 1", n)
	}
	if at := l.Deadline(); at != Wait {
		t.Errorf("Deadline() = %v; want %v", at, Wait)
	}
}
