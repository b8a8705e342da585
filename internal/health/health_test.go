package health

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

const s = time.Second

var rules = Ejection{Failures: 5, Backoff: s, MaxBackoff: 30 * s, MaxShare: 0.5}

// none is the time of the last 101 of a backend that has opened no tunnel.
const none = -1

// describe returns the flags of b, each with the time until which it is avoided.
func describe(b *Backend) string {
	var flags []string
	for f := range Flag(numFlags) {
		if b.Flags().Has(f) {
			_, since, until := b.Describe(f)
			flags = append(flags, fmt.Sprintf("%v %v-%v", f, since, until))
		}
	}
	return strings.Join(flags, ", ")
}

// A step is one event, and the flags after it.
type step struct {
	Event
	want string
}

func TestFlagsFollowOutcomes(t *testing.T) {
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"success leaves no flag", []step{{Event{Outcome: Opened, At: s}, ""}, {Event{Outcome: Answered, At: s}, ""}}},
		{"neutral changes nothing", []step{
			{Event{Outcome: Neutral, At: s}, ""},
			{Event{Outcome: Unreached, At: 2 * s}, "unreachable 2s-3s"},
			{Event{Outcome: Neutral, At: 3 * s}, "unreachable 2s-3s"},
		}},
		{"unreachable doubles up to 30 s", []step{
			{Event{Outcome: Unreached}, "unreachable 0s-1s"},
			{Event{Outcome: Unreached, At: 1 * s}, "unreachable 0s-3s"},
			{Event{Outcome: Unreached, At: 3 * s}, "unreachable 0s-7s"},
			{Event{Outcome: Unreached, At: 7 * s}, "unreachable 0s-15s"},
			{Event{Outcome: Unreached, At: 15 * s}, "unreachable 0s-31s"},
			{Event{Outcome: Unreached, At: 31 * s}, "unreachable 0s-1m1s"},
			{Event{Outcome: Unreached, At: 100 * s}, "unreachable 0s-2m10s"},
		}},
		{"its time is shorter by a fifth at most", []step{
			{Event{Outcome: Unreached, Random: 0.5}, "unreachable 0s-900ms"},
			{Event{Outcome: Unreached, At: s, Random: 0.5}, "unreachable 0s-2.8s"},
		}},
		{"unreachable counts for nothing while it is avoided", []step{
			{Event{Outcome: Unreached, At: 1 * s}, "unreachable 1s-2s"},
			{Event{Outcome: Unreached, At: 1999 * ms}, "unreachable 1s-2s"},
			{Event{Outcome: Unreached, At: 2 * s}, "unreachable 1s-4s"},
		}},
		{"any response shows that it is reached", []step{
			{Event{Outcome: Unreached}, "unreachable 0s-1s"},
			{Event{Outcome: Responded, At: s}, ""},
			{Event{Outcome: Unreached, At: 2 * s}, "unreachable 2s-3s"},
			{Event{Outcome: Busy, At: 3 * s, RetryAfter: 2 * s}, "full 3s-5s"},
			{Event{Outcome: Unreached, At: 5 * s}, "full 3s-5s, unreachable 5s-6s"},
			{Event{Outcome: Unanswered, At: 6 * s}, "resting 6s-7s, full 3s-5s"},
		}},
		{"resting never doubles", []step{
			{Event{Outcome: Unanswered}, "resting 0s-1s"},
			{Event{Outcome: Unanswered, At: 1 * s}, "resting 0s-2s"},
			{Event{Outcome: Unanswered, At: 2 * s}, "resting 0s-3s"},
			{Event{Outcome: Answered, At: 3 * s}, ""},
		}},
		{"500 neither clears nor raises what is about responses", []step{
			{Event{Outcome: Responded}, ""},
			{Event{Outcome: Unanswered}, "resting 0s-1s"},
			{Event{Outcome: Responded, At: s}, "resting 0s-1s"},
		}},
		{"full lasts as long as Retry-After, 30 s at most", []step{
			{Event{Outcome: Busy, RetryAfter: 7 * s}, "full 0s-7s"},
			{Event{Outcome: Busy, At: s, RetryAfter: s}, "full 0s-7s"},
			{Event{Outcome: Busy, At: 7 * s, RetryAfter: time.Hour}, "full 0s-37s"},
			{Event{Outcome: Opened, At: 37 * s}, ""},
			{Event{Outcome: Busy, At: 38 * s}, "full 38s-38s"},
		}},
		{"success forgets all failures", []step{
			{Event{Outcome: Unreached}, "unreachable 0s-1s"},
			{Event{Outcome: Unreached, At: 1 * s}, "unreachable 0s-3s"},
			{Event{Outcome: Answered, At: 3 * s}, ""},
			{Event{Outcome: Unreached, At: 3 * s}, "unreachable 3s-4s"},
		}},
		{"only a tunnel that lives clears what a lost one has raised", []step{
			{Event{Outcome: Lost}, "resting 0s-1s"},
			{Event{Outcome: Opened, At: s}, "resting 0s-1s"},
			{Event{Outcome: Unanswered, At: s}, "resting 0s-2s"},
			{Event{Outcome: Answered, At: 2 * s}, "resting 0s-2s"},
			{Event{Outcome: Lived, At: 3 * s}, ""},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b Backend
			for i, step := range tt.steps {
				before := b.Flags()
				step.LastOpened = none
				c := b.Record(step.Event, rules)
				if got := describe(&b); got != step.want {
					t.Errorf("step %d: flags are %q; want %q", i, got, step.want)
				}
				if after := b.Flags(); c.Raised != after&^before || c.Cleared != before&^after {
					t.Errorf("step %d: change is %+v; want from %b to %b", i, c, before, after)
				}
			}
		})
	}
}

// failAt records a failure of a client, and ejects the backend if that is wanted.
func failAt(b *Backend, at time.Duration, client uint64, o Outcome, lastOpened time.Duration) {
	e := Event{Outcome: o, At: at, Client: client, LastOpened: lastOpened, Reason: "why"}
	if b.Record(e, rules).WantsEjection {
		b.Eject(e, rules)
	}
}

func TestFiveFailuresInARowEject(t *testing.T) {
	for _, o := range []Outcome{Unanswered, Lost} {
		var b Backend
		for client := range uint64(5) {
			if b.Flags().Has(Ejected) {
				t.Errorf("%v: ejected after %d failures", o, client)
			}
			failAt(&b, s, client, o, 0)
		}
		if got, want := describe(&b), "resting 1s-2s, ejected 1s-2s"; got != want {
			t.Errorf("%v: flags are %q; want %q", o, got, want)
		}
		// One failure on probation ejects again, for twice as long.
		for i, want := range []time.Duration{4 * s, 8 * s, 16 * s, 32 * s, 62 * s, 92 * s} {
			_, _, at := b.Describe(Ejected)
			failAt(&b, at, uint64(100+i), o, 0)
			if _, since, until := b.Describe(Ejected); since != s || until != want {
				t.Errorf("%v: ejected %v-%v; want 1s-%v", o, since, until, want)
			}
		}
		b.Record(Event{Outcome: Opened, At: 92 * s}, rules)
		if isEjected := b.Flags().Has(Ejected); isEjected != (o == Lost) {
			t.Errorf("%v: after a 101 ejected is %v", o, isEjected)
		}
		b.Record(Event{Outcome: Lived, At: 93 * s}, rules)
		if b.Flags() != 0 || !b.IsClean() {
			t.Errorf("%v: after a tunnel has lived the flags are %q", o, describe(&b))
		}
	}
}

func TestFailuresThatAreNotInARowEjectNothing(t *testing.T) {
	for _, tt := range []struct{ failure, success Outcome }{
		{Unanswered, Opened}, {Unanswered, Answered}, {Lost, Lived},
	} {
		var b Backend
		for i := range 100 {
			at := time.Duration(i) * s
			failAt(&b, at, uint64(i), tt.failure, at)
			if i%4 == 3 {
				b.Record(Event{Outcome: tt.success, At: at}, rules)
			}
		}
		if b.Flags().Has(Ejected) {
			t.Errorf("%v and %v: %s", tt.failure, tt.success, describe(&b))
		}
	}
}

// A backend that accepts each upgrade and then loses its tunnel.
func TestA101DoesNotEndTheRowOfLostTunnels(t *testing.T) {
	var b Backend
	for i := range 5 {
		at := time.Duration(i) * s
		b.Record(Event{Outcome: Opened, At: at}, rules)
		failAt(&b, at, uint64(i), Lost, at)
	}
	if !b.Flags().Has(Ejected) {
		t.Errorf("flags are %q; want ejected", describe(&b))
	}
}

func TestOneClientEjectsNoBackendThatOthersUse(t *testing.T) {
	for _, tt := range []struct {
		name       string
		every      time.Duration
		lastOpened func(at time.Duration) time.Duration
		ejectedAt  time.Duration // 0: never
	}{
		{"ten a second, others open tunnels", 100 * ms, func(at time.Duration) time.Duration { return at }, 40 * s},
		{"ten a second, no tunnel ever", 100 * ms, func(time.Duration) time.Duration { return none }, 4 * s},
		{"ten a second, the last tunnel at 20 s", 100 * ms, func(at time.Duration) time.Duration { return min(at, 20*s) }, 31 * s},
		{"one in 11 s", 11 * s, func(at time.Duration) time.Duration { return at }, 44 * s},
	} {
		var b Backend
		for at := time.Duration(0); at < 60*s && !b.Flags().Has(Ejected); at += tt.every {
			failAt(&b, at, 1, Unanswered, tt.lastOpened(at))
		}
		if _, since, _ := b.Describe(Ejected); since != tt.ejectedAt {
			t.Errorf("%s: ejected at %v; want %v", tt.name, since, tt.ejectedAt)
		}
	}
}

func TestEvidenceRemembersFewClients(t *testing.T) {
	var b Backend
	for i := range uint64(10 * maxClients) {
		failAt(&b, 0, i, Unanswered, 0)
		b.Record(Event{Outcome: Answered}, rules)
	}
	if n := len(b.evidence.clients); n > maxClients {
		t.Errorf("%d clients are remembered; want %d at most", n, maxClients)
	}
	failAt(&b, 0, 10*maxClients-1, Unanswered, 0)
	if b.evidence.unanswered != 0 {
		t.Error("the last client counts twice")
	}
}

func TestEjectionOffOnlyRests(t *testing.T) {
	var b Backend
	for i := range uint64(100) {
		if b.Record(Event{Outcome: Unanswered, Client: i}, Ejection{}).WantsEjection {
			t.Fatalf("failure %d wants an ejection", i)
		}
	}
	if got, want := describe(&b), "resting 0s-1s"; got != want {
		t.Errorf("flags are %q; want %q", got, want)
	}
}

func TestEjectionAllowsAShareOfTheSet(t *testing.T) {
	for _, tt := range []struct {
		share float64
		n     int
		want  int // that may be ejected at once
	}{{0.5, 1, 1}, {0.5, 2, 1}, {0.5, 3, 1}, {0.5, 4, 2}, {0.5, 9, 4}, {1, 3, 3}, {0, 5, 1}, {0.1, 100, 10}} {
		got := 0
		for tt.n > got && (Ejection{MaxShare: tt.share}).Allows(got, tt.n) {
			got++
		}
		if got != tt.want {
			t.Errorf("share %v of %d: %d may be ejected; want %d", tt.share, tt.n, got, tt.want)
		}
	}
}

func TestChecksRaiseAndClearTheirOwnFlag(t *testing.T) {
	var b Backend
	if c := b.RecordCheck(s, false, ""); c != (Change{}) {
		t.Errorf("a check that passes changes %+v", c)
	}
	if c := b.RecordCheck(2*s, true, "503"); !c.Raised.Has(CheckFailed) {
		t.Error("a check that fails raises nothing")
	}
	if c := b.RecordCheck(3*s, true, "404"); c != (Change{}) {
		t.Errorf("another one changes %+v", c)
	}
	if reason, since, _ := b.Describe(CheckFailed); reason != "404" || since != 2*s {
		t.Errorf("reason %q since %v; want 404 since 2s", reason, since)
	}
	b.Record(Event{Outcome: Lived, At: time.Hour}, rules)
	if got := b.Tier(time.Hour, false); got != TierCheckFailed {
		t.Errorf("traffic made the tier %v; want check failed", got)
	}
	if c := b.RecordCheck(4*s, false, ""); !c.Cleared.Has(CheckFailed) || b.Flags() != 0 {
		t.Errorf("after a check that passes the flags are %q", describe(&b))
	}
}

func TestTierIsThatOfTheWorstFlag(t *testing.T) {
	raise := map[Flag]func(*Backend){
		Resting:     func(b *Backend) { b.raise(Resting, Event{}, 2*s) },
		Full:        func(b *Backend) { b.raise(Full, Event{}, 4*s) },
		Ejected:     func(b *Backend) { b.raise(Ejected, Event{}, 6*s) },
		CheckFailed: func(b *Backend) { b.RecordCheck(0, true, "") },
		Unreachable: func(b *Backend) { b.raise(Unreachable, Event{}, 8*s) },
	}
	for _, tt := range []struct {
		flags []Flag
		want  []Tier // at 1, 3, 5, 7, 9 s
	}{
		{nil, []Tier{0, 0, 0, 0, 0}},
		{[]Flag{Resting}, []Tier{1, 0, 0, 0, 0}},
		{[]Flag{Resting, Full}, []Tier{1, 1, 0, 0, 0}},
		{[]Flag{Resting, Full, Ejected}, []Tier{2, 2, 2, 0, 0}},
		{[]Flag{CheckFailed, Resting}, []Tier{3, 3, 3, 3, 3}},
		{[]Flag{Unreachable, Ejected}, []Tier{4, 4, 4, 4, 0}},
		{[]Flag{Unreachable, CheckFailed}, []Tier{4, 4, 4, 4, 3}},
	} {
		var b Backend
		for _, f := range tt.flags {
			raise[f](&b)
		}
		var got []Tier
		for at := 1 * s; at < 10*s; at += 2 * s {
			got = append(got, b.Tier(at, false))
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%v: tiers are %v; want %v", tt.flags, got, tt.want)
		}
		want := TierGood
		for _, f := range tt.flags {
			want = max(want, tiers[f])
		}
		if got := b.Tier(time.Hour, true); got != want {
			t.Errorf("%v: the tier for a retry is %v; want %v", tt.flags, got, want)
		}
	}
}

func TestBackendOnProbationIsTriedByOneAttemptAtATime(t *testing.T) {
	var b Backend
	b.Record(Event{Outcome: Unreached}, rules)
	if !b.BeginProbation(2*s, IfAlone) {
		t.Fatal("the first attempt on probation may not begin")
	}
	if got := b.Tier(2*s, false); got != TierUnreachable {
		t.Errorf("while an attempt tries the backend its tier is %v", got)
	}
	if b.BeginProbation(2*s, IfAlone) {
		t.Error("another one begins meanwhile")
	}
	if !b.BeginProbation(2*s, Always) {
		t.Error("where no other backend is left, no other attempt begins")
	}
	b.EndProbation()
	b.Record(Event{Outcome: Answered, At: 2 * s}, rules)
	if got := b.Tier(2*s, false); got != TierGood {
		t.Errorf("after a success the tier is %v", got)
	}
	b.EndProbation()
	b.Record(Event{Outcome: Unreached, At: 3 * s}, rules)
	if got := b.Tier(4*s, false); got != TierGood {
		t.Errorf("without an attempt, the tier of a backend on probation is %v", got)
	}
}

func TestProbationThatOpensATunnelLastsUntilItLives(t *testing.T) {
	var b Backend
	b.Record(Event{Outcome: Lost}, rules)
	b.BeginProbation(s, IfAlone)
	b.Record(Event{Outcome: Opened, At: s}, rules)
	b.EndProbation()
	if got := b.Tier(s+MinLife-1, false); got != TierResting || b.BeginProbation(s+MinLife-1, IfAlone) {
		t.Errorf("while the tunnel may still be lost, the tier is %v and another attempt may begin", got)
	}
	if got := b.Tier(s+MinLife, false); got != TierGood {
		t.Errorf("afterwards the tier is %v; want good, for another attempt", got)
	}
}

func TestNextChangeIsTheEndOfAFlagOrTheTimeOfAWaiter(t *testing.T) {
	var b Backend
	want := func(now, at time.Duration) {
		t.Helper()
		got, ok := b.NextChange(now)
		if ok != (at > 0) || ok && got != at {
			t.Errorf("NextChange(%v) = %v, %v; want %v", now, got, ok, at)
		}
	}
	want(0, 0)
	b.Record(Event{Outcome: Unanswered, At: s}, rules)
	b.Record(Event{Outcome: Busy, At: s, RetryAfter: 5 * s}, rules)
	want(s, 2*s)
	want(2*s, 6*s)
	want(6*s, 0)
	b.Record(Event{Outcome: Unreached, At: 10 * s}, rules)
	want(10*s, 10*s+waiterPause)
	want(10*s+waiterPause, 11*s)
	b.BeginProbation(10*s+waiterPause, IfWaited)
	want(10*s+waiterPause, 11*s) // another one waits for the result
	want(11*s, 11*s+waiterPause) // and then for longer
	want(12*s, 10*s+waiterPause+maxProbation)
	b.EndProbation()
	b.RecordCheck(0, true, "no")
	want(12*s, 0)
}

func TestForgetLeavesAttempts(t *testing.T) {
	var b Backend
	b.Record(Event{Outcome: Unreached}, rules)
	b.BeginProbation(s, IfAlone)
	if c := b.Forget(); !c.Cleared.Has(Unreachable) || b.Flags() != 0 || !b.IsClean() || b.NeedsLife() {
		t.Errorf("Forget changes %+v; flags are %q", c, describe(&b))
	}
	b.EndProbation()
	if b.onProbation != 0 {
		t.Errorf("%d attempts are left", b.onProbation)
	}
}

func TestFlagsAndTiersHaveNames(t *testing.T) {
	for f, want := range []string{"resting", "full", "ejected", "check failed", "unreachable", "unknown flag"} {
		if got := Flag(f).String(); got != want {
			t.Errorf("Flag(%d) is %q; want %q", f, got, want)
		}
	}
	for i, want := range []string{"no flag", "resting or full", "ejected", "check failed", "unreachable"} {
		if got := Tier(i).String(); got != want {
			t.Errorf("Tier(%d) is %q; want %q", i, got, want)
		}
	}
}

func TestOneWhoWaitsTriesAnUnreachableBackend(t *testing.T) {
	var b Backend
	b.Record(Event{Outcome: Unreached, At: s}, rules)
	begin := func(at time.Duration, want bool) {
		t.Helper()
		if got := b.BeginProbation(at, IfWaited); got != want {
			t.Errorf("at %v an upgrade that waits tries the backend: %v; want %v", at, got, want)
		}
	}
	begin(s+waiterPause-1, false)
	begin(s+waiterPause, true)
	begin(s+waiterPause+waiterPatience-1, false)
	begin(s+waiterPause+waiterPatience, true) // the first one hangs
	begin(s+waiterPause+waiterPatience, false)
	b.EndProbation()
	b.EndProbation()

	// The tunnel of an attempt on probation decides nothing once no backend can be reached.
	b.Record(Event{Outcome: Lost, At: 10 * s}, rules)
	b.Record(Event{Outcome: Opened, At: 10 * s}, rules)
	b.Record(Event{Outcome: Unreached, At: 10 * s}, rules)
	begin(10*s+waiterPause, true)
}

// A hook of the program may block for ever.
func TestAttemptThatNeverEndsKeepsABackendFor30Seconds(t *testing.T) {
	var b Backend
	b.Record(Event{Outcome: Unanswered}, rules)
	b.BeginProbation(s, IfAlone)
	if got := b.Tier(31*s-1, false); got != TierResting {
		t.Errorf("before 30 s the tier is %v", got)
	}
	if got := b.Tier(31*s, false); got != TierGood || !b.BeginProbation(31*s, IfAlone) {
		t.Errorf("after 30 s the tier is %v; want good, for another attempt", got)
	}
}
