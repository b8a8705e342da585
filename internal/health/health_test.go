package health

import (
	"testing"
	"time"
)

const s = time.Second

// A step is one outcome, and what is known of the backend after it.
type step struct {
	at      time.Duration
	outcome Outcome

	ejected bool // Record reports that the backend is ejected anew
	flag    Flag
	since   time.Duration
	until   time.Duration // the backend is avoided before it, and not from it on; 0: never
}

func TestStateFollowsOutcomes(t *testing.T) {
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"success leaves no flag", []step{{at: 1 * s, outcome: OK}}},
		{"neutral changes nothing", []step{
			{at: 1 * s, outcome: Neutral},
			{at: 2 * s, outcome: Unreached, ejected: true, flag: Unreachable, since: 2 * s, until: 3 * s},
			{at: 3 * s, outcome: Neutral, flag: Unreachable, since: 2 * s, until: 3 * s},
		}},
		{"unreachable doubles up to 30 s", []step{
			{at: 0, outcome: Unreached, ejected: true, flag: Unreachable, until: 1 * s},
			{at: 1 * s, outcome: Unreached, ejected: true, flag: Unreachable, until: 3 * s},
			{at: 3 * s, outcome: Unreached, ejected: true, flag: Unreachable, until: 7 * s},
			{at: 7 * s, outcome: Unreached, ejected: true, flag: Unreachable, until: 15 * s},
			{at: 15 * s, outcome: Unreached, ejected: true, flag: Unreachable, until: 31 * s},
			{at: 31 * s, outcome: Unreached, ejected: true, flag: Unreachable, until: 61 * s},
			{at: 100 * s, outcome: Unreached, ejected: true, flag: Unreachable, until: 130 * s},
		}},
		{"bad responses never double", []step{
			{at: 0, outcome: BadResponse, ejected: true, flag: Resting, until: 1 * s},
			{at: 1 * s, outcome: BadResponse, ejected: true, flag: Resting, until: 2 * s},
			{at: 2 * s, outcome: BadResponse, ejected: true, flag: Resting, until: 3 * s},
		}},
		{"failures while ejected count for nothing", []step{
			{at: 1 * s, outcome: Unreached, ejected: true, flag: Unreachable, since: 1 * s, until: 2 * s},
			{at: 1500 * time.Millisecond, outcome: Unreached, flag: Unreachable, since: 1 * s, until: 2 * s},
			{at: 1999 * time.Millisecond, outcome: BadResponse, flag: Unreachable, since: 1 * s, until: 2 * s},
			{at: 2 * s, outcome: Unreached, ejected: true, flag: Unreachable, since: 1 * s, until: 4 * s},
		}},
		{"a bad response counts as the first failure", []step{
			{at: 0, outcome: Unreached, ejected: true, flag: Unreachable, until: 1 * s},
			{at: 1 * s, outcome: Unreached, ejected: true, flag: Unreachable, until: 3 * s},
			{at: 3 * s, outcome: BadResponse, ejected: true, flag: Resting, since: 3 * s, until: 4 * s},
			{at: 4 * s, outcome: Unreached, ejected: true, flag: Unreachable, since: 4 * s, until: 6 * s},
		}},
		{"success forgets all failures", []step{
			{at: 0, outcome: Unreached, ejected: true, flag: Unreachable, until: 1 * s},
			{at: 1 * s, outcome: Unreached, ejected: true, flag: Unreachable, until: 3 * s},
			{at: 2 * s, outcome: OK},
			{at: 2 * s, outcome: Unreached, ejected: true, flag: Unreachable, since: 2 * s, until: 3 * s},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var state State
			for i, want := range tt.steps {
				before := state
				state = state.Record(want.at, want.outcome, "why")
				checkStep(t, i, state, state.ejectedUntil > before.ejectedUntil, want)
			}
		})
	}
}

func checkStep(t *testing.T, i int, state State, ejected bool, want step) {
	t.Helper()
	if ejected != want.ejected {
		t.Errorf("step %d: ejected anew is %v; want %v", i, ejected, want.ejected)
	}
	if state.Flag != want.flag || state.Since != want.since {
		t.Errorf("step %d: flag %v since %v; want %v since %v", i, state.Flag, state.Since, want.flag, want.since)
	}
	if got, want := state.Reason, map[bool]string{true: "why"}[want.flag != None]; got != want {
		t.Errorf("step %d: reason %q; want %q", i, got, want)
	}
	if got := state.IsFailing(); got != (want.flag != None) {
		t.Errorf("step %d: IsFailing() = %v with flag %v", i, got, want.flag)
	}
	if got, want := state.IsAvoided(want.until-1, false), want.until > 0; got != want {
		t.Errorf("step %d: IsAvoided just before its end is %v; want %v", i, got, want)
	}
	if state.IsAvoided(want.until, false) {
		t.Errorf("step %d: IsAvoided(%v) = true; want false", i, want.until)
	}
	if got, want := state.IsAvoided(want.until, true), want.flag != None; got != want {
		t.Errorf("step %d: IsAvoided(%v) of a retry is %v; want %v", i, want, got, want)
	}
}

func TestStateIsProbedByOneAttemptAtATime(t *testing.T) {
	state := State{}.Record(0, Unreached, "refused")
	state = state.BeginProbe()
	if !state.IsAvoided(2*s, false) {
		t.Error("while an attempt probes the backend, another one is sent there")
	}
	state = state.Record(2*s, OK, "")
	if state.IsAvoided(2*s, false) {
		t.Error("a backend whose probe succeeded is avoided")
	}
	state = state.EndProbe()
	if state != (State{}) {
		t.Errorf("state after a probe that succeeded is %+v; want the zero state", state)
	}
}

func TestStateCountsProbesAcrossSuccess(t *testing.T) {
	state := State{}.Record(0, Unreached, "refused")
	state = state.BeginProbe().BeginProbe().Record(2*s, OK, "")
	state = state.Record(2*s, Unreached, "refused again")
	state = state.EndProbe()
	if !state.IsAvoided(4*s, false) {
		t.Error("one of two probes is still under way, and the backend is not avoided")
	}
	state = state.EndProbe()
	if state.IsAvoided(4*s, false) {
		t.Error("the backend is avoided after its last probe")
	}
}

func TestFlagHasNames(t *testing.T) {
	for f, want := range []string{"none", "unreachable", "resting", "unknown flag"} {
		if got := Flag(f).String(); got != want {
			t.Errorf("Flag(%d).String() = %q; want %q", f, got, want)
		}
	}
}
