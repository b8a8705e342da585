package health

import (
	"math/rand/v2"
	"testing"
	"time"
)

const ms = time.Millisecond

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
		{14*s + ms, 0}, {100 * s, 0},
		{9 * s, 8}, // of two goroutines the later one may have looked at the clock first
	} {
		if got := r.Count(tt.at); got != tt.want {
			t.Errorf("Count(%v) = %d; want %d", tt.at, got, tt.want)
		}
		if !r.IsRefusing(tt.at) {
			t.Errorf("IsRefusing(%v) = false, though nothing was accepted", tt.at)
		}
	}
	if got := r.Refused(11 * s).Count(11 * s); got != 5 {
		t.Errorf("after one more refusal the count is %d; want 5", got)
	}
}

func TestBackendIsNotRefusingWithoutUpgrades(t *testing.T) {
	if r := (Refusals{}); r.IsRefusing(s) || r.Count(s) != 0 {
		t.Error("a backend without upgrades is refusing")
	}
	r := Refusals{}.Refused(0).BeginTrial().Forget()
	if r.IsRefusing(0) {
		t.Error("after Forget the backend is refusing")
	}
	if r.EndTrial() != (Refusals{}) {
		t.Error("Forget loses trials")
	}
}

func TestRefusalsByStatusEndWithA101(t *testing.T) {
	r := Refusals{}.Refused(1 * s)
	if r = r.Opened(1*s + ms); r.IsRefusing(1*s + ms) {
		t.Error("one refusal and one 101 later the backend is refusing")
	}
	if r = r.Refused(2 * s); !r.IsRefusing(2 * s) {
		t.Error("with one more refusal than 101s the backend is not refusing")
	}
}

func TestRefusalsByCloseEndWhenATunnelLives(t *testing.T) {
	for opened := 2 * s; opened < 3*s; opened += 10 * ms {
		r := Refusals{}.Opened(1*s).Ended(1*s, 1*s).Opened(opened)
		if !r.IsRefusing(opened + s - ms) {
			t.Errorf("opened at %v: a tunnel of less than a second counts as kept", opened)
		}
		if r.IsRefusing(opened + s + slotLen) {
			t.Errorf("opened at %v: a tunnel of more than a second counts for nothing", opened)
		}
	}
}

func TestRefusalsOutlastTunnelsThatEndAtOnce(t *testing.T) {
	var r Refusals
	for i := range 10 {
		now := time.Duration(i) * s / 10
		r = r.Opened(now)
		if i > 0 && !r.IsRefusing(now) {
			t.Errorf("at %v a 101 ends the refusals", now)
		}
		r = r.Ended(now+50*ms, now)
	}
	if !r.IsRefusing(5*s) || r.Count(s) < 4 {
		t.Errorf("after ten tunnels of 50 ms the count is %d, refusing is %v; want 5 or more, true", r.Count(s), r.IsRefusing(5*s))
	}
	if r.kept != 0 || r.slots != [numSlots]int{} {
		t.Errorf("of ten tunnels that ended at once %v are kept, %v are pending", r.kept, r.slots)
	}
}

// Each backend of a service refuses those of its clients that have no right to come in.
func TestFewRefusalsAmongManyTunnelsAreNone(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var r Refusals
	refusing := 0
	for i := range 2000 { // 50 a second, of which a fifth is refused
		now := time.Duration(i) * 20 * ms
		if rng.Float64() < 0.2 {
			r = r.Refused(now)
		} else {
			r = r.Opened(now)
		}
		if i > 50 && r.IsRefusing(now) {
			refusing++
		}
	}
	if refusing > 0 {
		t.Errorf("a backend that refuses a fifth of its clients is refusing at %d of 2000 moments", refusing)
	}
}

func TestRefusalsOfBothKindsAddUp(t *testing.T) {
	var r Refusals
	for range 4 {
		r = r.Refused(0)
	}
	for i := range 6 { // of ten upgrades seven are refused
		if r = r.Opened(0); i < 3 {
			r = r.Ended(0, 0)
		}
	}
	if !r.IsRefusing(0) {
		t.Error("a backend that refuses seven of ten upgrades in two ways is not refusing")
	}
}

func TestOldTunnelsDecayToo(t *testing.T) {
	var r Refusals
	for i := range 1000 {
		r = r.Opened(time.Duration(i) * ms)
	}
	if r = r.Opened(time.Hour).Ended(time.Hour, time.Hour); !r.IsRefusing(time.Hour) {
		t.Error("tunnels of an hour ago hide that the backend ends tunnels now")
	}
}

func TestTunnelsThatEndLateWithinTheSecondAreRefusals(t *testing.T) {
	var r Refusals
	for i := range 4000 { // 200 a second, each of which ends after 900 ms
		now := time.Duration(i) * 5 * ms
		r = r.Opened(now)
		if ended := now - 900*ms; ended >= 0 {
			r = r.Ended(now, ended)
			if !r.IsRefusing(now) {
				t.Fatalf("at %v the backend is not refusing: %+v", now, r)
			}
		}
	}
	if r.kept != 0 {
		t.Errorf("%v tunnels are kept; want none", r.kept)
	}
}

func TestPendingUpgradesCountWhileTheBackendIsRefusing(t *testing.T) {
	r := Refusals{}.Opened(0).Ended(0, 0).BeginTrial().BeginTrial()
	if got := r.Count(10 * s); got != 2 {
		t.Errorf("two trials after the refusals are forgotten: the count is %d; want 2", got)
	}
	r = r.EndTrial().Opened(10 * s)
	if got := r.Count(10*s + 900*ms); got != 2 {
		t.Errorf("a trial and a tunnel of 900 ms: the count is %d; want 2", got)
	}
	if got := r.Count(12 * s); got != 0 || r.IsRefusing(12*s) {
		t.Errorf("after the tunnel has lived for two seconds the count is %d, refusing is %v; want 0, false", got, r.IsRefusing(12*s))
	}
}
