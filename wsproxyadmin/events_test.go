package wsproxyadmin

import (
	"fmt"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
)

// at returns a time that many seconds after a moment.
func at(seconds float64) time.Time {
	return time.Unix(1_800_000_000, 0).Add(time.Duration(seconds * float64(time.Second)))
}

// sampled records one event that is sampled.
func (l *eventLog) sampled(r *ring, key sampleKey, e event, now time.Time) {
	if l.begin(r, key, now) {
		e.At = now
		l.finish(key, e, now)
	}
}

func TestEventLogKeepsTheLastOnesOfEachRing(t *testing.T) {
	l := newEventLog()
	for i := range 3 * maxChanges {
		l.add(&l.changes, event{Kind: kindAction, Target: fmt.Sprint(i)})
	}
	l.add(&l.tunnels, event{Kind: kindOpened})
	all := l.between(0, l.last)
	if n := len(all.Changes); n != maxChanges {
		t.Fatalf("%d changes are kept; want %d", n, maxChanges)
	}
	for i, e := range all.Changes {
		if want := uint64(2*maxChanges + i + 1); e.Number != want || e.Target != fmt.Sprint(want-1) || e.Count != 1 {
			t.Fatalf("event %d has number %d, target %s, count %d; want number %d", i, e.Number, e.Target, e.Count, want)
		}
	}
	if n := all.Tunnels[0].Number; n != 3*maxChanges+1 {
		t.Errorf("the event of another ring has number %d; want %d", n, 3*maxChanges+1)
	}
	some := l.between(3*maxChanges-2, 3*maxChanges)
	if len(some.Changes) != 2 || len(some.Tunnels) != 0 || some.Refusals == nil {
		t.Errorf("between() has %+v; want two changes, and lists that are not nil", some)
	}
}

func TestEventLogKeepsOneSampleASecond(t *testing.T) {
	key, other := sampleKey{kind: kindRefused, reason: 1}, sampleKey{kind: kindRefused, reason: 2}
	for _, tt := range []struct {
		name  string
		times []float64 // of events of key
		flush float64
		want  string
	}{
		{"one", []float64{0}, 0, "0×1"},
		{"two in a second", []float64{0, 0.9}, 0.95, "0×1"},
		{"and the second is over", []float64{0, 0.9}, 1, "0×1 0.9×1"},
		{"later ones count", []float64{0, 0.1, 0.2, 0.9}, 5, "0×1 0.1×3"},
		{"without a flush", []float64{0, 0.1, 0.2, 1.5}, 1.5, "0×1 0.1×2"},
		{"and its second", []float64{0, 0.1, 0.2, 1.5}, 2.5, "0×1 0.1×2 1.5×1"},
		{"a second apart", []float64{0, 1, 2}, 2, "0×1 1×1 2×1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newEventLog()
			for _, s := range tt.times {
				l.sampled(&l.refusals, key, event{Kind: kindRefused}, at(s))
			}
			l.sampled(&l.tunnels, other, event{Kind: kindOpened}, at(tt.flush))
			l.flush(at(tt.flush))
			got := ""
			for i, e := range l.between(0, l.last).Refusals {
				if i > 0 {
					got += " "
				}
				got += fmt.Sprintf("%v×%d", e.At.Sub(at(0)).Seconds(), e.Count)
			}
			if got != tt.want {
				t.Errorf("refusals at %v, flushed at %v, are kept as %s; want %s", tt.times, tt.flush, got, tt.want)
			}
			if n := len(l.between(0, l.last).Tunnels); n != 1 {
				t.Errorf("%d events of another key are kept; want 1", n)
			}
		})
	}
}

func TestEventLogCountsWhileAnEventIsMade(t *testing.T) {
	l, key := newEventLog(), sampleKey{kind: kindRefused, reason: 1}
	if !l.begin(&l.refusals, key, at(0)) {
		t.Error("begin() of the first event is false; want true")
	}
	if l.begin(&l.refusals, key, at(5)) {
		t.Error("begin() is true while an event is made; want false")
	}
	l.finish(key, event{Kind: kindRefused}, at(0))
	if all := l.between(0, l.last).Refusals; len(all) != 1 || all[0].Count != 2 {
		t.Errorf("kept are %+v; want one event that counts 2", all)
	}
}

func TestEventLogIsBoundedUnderAFlood(t *testing.T) {
	const reasons, seconds, perSecond = 17, 60, 10_000
	l, made := newEventLog(), 0
	for i := range seconds * perSecond {
		key, now := sampleKey{kind: kindRefused, reason: wsproxy.Reason(i % reasons)}, at(float64(i)/perSecond)
		if l.begin(&l.refusals, key, now) {
			made++
			l.finish(key, event{Kind: kindRefused, Reason: fmt.Sprint(i % reasons)}, now)
		}
	}
	l.flush(at(seconds + 1))
	if n := len(l.refusals.events); n != maxRefusals {
		t.Errorf("%d events are kept; want %d", n, maxRefusals)
	}
	if limit := reasons * (seconds + 2); made > limit || int(l.last) > limit {
		t.Errorf("%d events were made, and %d kept; want %d at most", made, l.last, limit)
	}
	if n := len(l.samples); n != reasons {
		t.Errorf("there are %d samples; want one for each of %d reasons", n, reasons)
	}
	perReason := 0
	for _, e := range l.between(0, l.last).Refusals {
		if e.Reason == "3" {
			perReason += e.Count
		}
	}
	if want := perSecond / reasons * (maxRefusals/reasons - 1); perReason < want {
		t.Errorf("the kept events of a reason count %d refusals; want %d or more", perReason, want)
	}
}
