package health

import (
	"testing"
	"time"
)

func TestRefusalsHalveEachSecond(t *testing.T) {
	var r Refusals
	for range 8 {
		r = r.Refused(10 * s)
	}
	for _, tt := range []struct {
		at   time.Duration
		want int
	}{
		{10 * s, 8}, {11 * s, 4}, {12 * s, 2}, {13 * s, 1}, {14 * s, 1}, // a half counts
		{14*s + time.Millisecond, 0}, {100 * s, 0},
		{9 * s, 8}, // of two goroutines the later one may have looked at the clock first
	} {
		if got := r.Count(tt.at); got != tt.want {
			t.Errorf("Count(%v) = %d; want %d", tt.at, got, tt.want)
		}
		if !r.IsRefusing(tt.at) {
			t.Errorf("IsRefusing(%v) = false, though nothing has opened", tt.at)
		}
	}
	if got := r.Refused(11 * s).Count(11 * s); got != 5 {
		t.Errorf("after one more refusal the count is %d; want 5", got)
	}
}

func TestRefusalsEndWhenATunnelLives(t *testing.T) {
	r := Refusals{}.Refused(1 * s).Opened(2 * s).Opened(2900 * time.Millisecond)
	if !r.IsRefusing(2999 * time.Millisecond) {
		t.Error("a tunnel of less than a second counts as a good one")
	}
	if r.IsRefusing(3*s) || r.Count(3*s) != 0 {
		t.Error("a tunnel of a second counts for nothing")
	}
	if r = r.Refused(4 * s); r.Count(4*s) != 1 {
		t.Errorf("the first refusal after a good opening makes %d; want 1", r.Count(4*s))
	}
}

func TestRefusalsOutlastTunnelsThatEndAtOnce(t *testing.T) {
	var r Refusals
	for i := range 10 {
		now := time.Duration(i) * s / 10
		r = r.Opened(now).Refused(now + 10*time.Millisecond)
	}
	if !r.IsRefusing(5*s) || r.Count(s) < 3 {
		t.Errorf("after ten tunnels of 10 ms the count is %d, refusing is %v; want more than 3, true",
			r.Count(s), r.IsRefusing(5*s))
	}
}

func TestTrialsCountAsRefusalsUntilTheyEnd(t *testing.T) {
	r := Refusals{}.Refused(0).BeginTrial().BeginTrial()
	if got := r.Count(10 * s); got != 2 {
		t.Errorf("two trials after the refusals are forgotten: the count is %d; want 2", got)
	}
	r = r.EndTrial().Opened(10 * s) // the other trial is still under way
	if got := r.Count(11 * s); got != 1 || r.IsRefusing(11*s) {
		t.Errorf("after a good opening the count is %d; want 1, and nothing refused", got)
	}
	if r = r.Opened(11 * s).EndTrial(); r != (Refusals{}) {
		t.Errorf("after the last trial: %+v; want the zero value", r)
	}
}

func TestTrialDoesNotHideAnOpening(t *testing.T) {
	r := Refusals{}.Refused(0).Opened(1 * s).BeginTrial()
	if r = r.EndTrial(); r.IsRefusing(2 * s) {
		t.Error("a trial after the 101 keeps the backend refusing for ever")
	}
}

func TestOpeningWithoutRefusalsIsNothing(t *testing.T) {
	if r := (Refusals{}).Opened(s); r != (Refusals{}) {
		t.Errorf("Opened = %+v; want the zero value", r)
	}
	if r := (Refusals{}).Refused(0).Opened(0).Opened(s); r != (Refusals{}) {
		t.Errorf("Opened after a good opening = %+v; want the zero value", r)
	}
}
