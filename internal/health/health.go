// Package health decides, from what became of attempts to use one backend, whether other
// backends are to be preferred to it.
//
// A [Backend] knows no clock and no lock. Times are durations since a moment that the caller
// chooses once, such as its start. A [Backend] is not safe for concurrent use.
package health

import (
	"math"
	"time"
)

const (
	firstBackoff = 1 * time.Second  // of an unreachable backend; it doubles with each further failure
	maxBackoff   = 30 * time.Second // of an unreachable or full backend
	restTime     = 1 * time.Second

	// An upgrade that waits because no backend can be reached tries one so long after the last
	// failure, or if another attempt hangs so long after that has begun.
	waiterPause    = 200 * time.Millisecond
	waiterPatience = 1 * time.Second

	// maxProbation is how long one attempt keeps others from a backend. It takes that long only
	// if it has no deadline, or if a hook of the program blocks.
	maxProbation = 30 * time.Second

	// maxJitter is the largest part by which a time that doubles is shortened, so that proxies
	// that lost a backend together do not try it together.
	maxJitter = 0.2
)

// An Outcome is what an attempt, or the first second of its tunnel, has shown.
type Outcome uint8

const (
	// Neutral shows nothing: the client left at once, or this host had no descriptor.
	Neutral Outcome = iota

	// Unreached: the connection, TCP or TLS, failed or was not made in time.
	Unreached

	// Unanswered: the backend was connected, and did not give a proper response in time. A
	// 502, a 504, and a 503 without Retry-After count as no proper response.
	Unanswered

	// Busy: it gave a 503 with Retry-After.
	Busy

	// Responded: it gave another response of 500 or more.
	Responded

	// Answered: it gave a response below 500, other than 101.
	Answered

	// Opened: it gave a 101. It is the last outcome of an attempt: the others are those of
	// tunnels.
	Opened

	// Lost: it closed the connection of a tunnel within [MinLife], without a Close frame,
	// before a byte of the client's was passed to it.
	Lost

	// Lived: a tunnel of it has lived for [MinLife], or has carried messages both ways.
	Lived
)

// NumAttemptOutcomes is the number of outcomes that an attempt may have.
const NumAttemptOutcomes = Opened + 1

// A Flag is a fault of a backend. The greater ones are the worse ones.
type Flag uint8

const (
	// Resting: an attempt was Unanswered, or a tunnel was Lost. The backend is avoided for
	// 1 s, however often that has happened in a row: the reason may be in the request, which
	// any client can send.
	Resting Flag = iota

	// Full: an attempt was Busy. The backend is avoided for the time of Retry-After, 30 s at
	// most.
	Full

	// Ejected: attempts of several clients in a row were Unanswered, or tunnels Lost: see
	// [Ejection].
	Ejected

	// CheckFailed: active checks fail.
	CheckFailed

	// Unreachable: an attempt was Unreached. The backend is avoided for 1 s after the first
	// failure in a row, and for twice as long after each further one, up to 30 s.
	Unreachable

	numFlags = iota
)

var flagNames = [numFlags]string{"resting", "full", "ejected", "check failed", "unreachable"}

// String returns one or two words.
func (f Flag) String() string {
	if int(f) < len(flagNames) {
		return flagNames[f]
	}
	return "unknown flag"
}

// Flags is a set of flags. The zero value is empty.
type Flags uint8

// Has reports whether f is in the set.
func (s Flags) Has(f Flag) bool { return s&(1<<f) != 0 }

func (s *Flags) add(f Flag) { *s |= 1 << f }

// A Tier says how a backend compares with others: the candidates of an upgrade are the
// backends of the lowest tier that is not empty.
type Tier uint8

const (
	TierGood    Tier = iota // no flag, or on probation
	TierResting             // resting or full
	TierEjected
	TierCheckFailed
	TierUnreachable
)

var tiers = [numFlags]Tier{
	Resting: TierResting, Full: TierResting, Ejected: TierEjected, CheckFailed: TierCheckFailed, Unreachable: TierUnreachable,
}

// String returns one word or two.
func (t Tier) String() string {
	return [...]string{"no flag", "resting or full", "ejected", "check failed", "unreachable"}[t]
}

// A Backend is the health of one backend. The zero value is that of a backend without a
// known fault.
//
// Each flag is raised by a failure, and cleared by a success of its own kind: a 101 does
// not clear what lost tunnels have raised. The backend is avoided until a time that the flag
// has. From then on it is on probation: one attempt at a time finds out whether it works
// again.
type Backend struct {
	flags [numFlags]raised

	failedAt    time.Duration // the last Unreached
	onProbation int           // attempts under way that began while a flag was raised
	probationAt time.Duration // when the last one of them began
	settling    time.Duration // until then the tunnel of an attempt on probation may still be lost; 0 with Unreachable

	evidence evidence
}

// raised is one flag of a backend. It is down if inRow is 0.
type raised struct {
	inRow  int           // failures in a row
	reason string        // of the last failure
	since  time.Duration // when it was raised
	until  time.Duration // the backend is avoided before it
	isLost bool          // a tunnel that lives clears it, and not a response
}

func (f *raised) isUp() bool { return f.inRow > 0 }

// An Event is an outcome with its circumstances.
type Event struct {
	Outcome    Outcome
	At         time.Duration
	Client     uint64        // the client's address, hashed
	LastOpened time.Duration // of the backend's last 101 before the event; negative if there was none
	RetryAfter time.Duration // of a Busy backend
	Reason     string        // of a failure
	Random     float64       // at least 0, below 1
}

// A Change is what an event has changed. A flag that is raised anew while it is up is in
// neither set.
type Change struct {
	Raised, Cleared Flags

	// WantsEjection reports that the backend is to be ejected, if enough others are left:
	// see [Backend.Eject].
	WantsEjection bool

	// IsEjected reports that Eject has ejected the backend, for the first time or again.
	IsEjected bool
}

// Record changes the health by an event.
func (b *Backend) Record(e Event, rules Ejection) Change {
	before := b.Flags()
	wantsEjection := false
	switch e.Outcome {
	case Unreached:
		b.unreached(e)
	case Unanswered, Lost:
		wantsEjection = b.failed(e, rules)
	case Busy:
		b.clear(Unreachable)
		b.raise(Full, e, max(e.At+min(e.RetryAfter, maxBackoff), b.flags[Full].until))
	case Responded:
		b.clear(Unreachable)
	case Answered, Opened:
		b.answered(e)
	case Lived:
		b.evidence.lost = 0
		b.clearProved(true)
	}
	after := b.Flags()
	return Change{Raised: after &^ before, Cleared: before &^ after, WantsEjection: wantsEjection}
}

// unreached raises Unreachable. An attempt that fails while the backend is avoided already
// counts for nothing, so that a restart under a hundred attempts is one failure.
func (b *Backend) unreached(e Event) {
	b.failedAt = e.At
	b.settling = 0 // the tunnel of an attempt on probation decides nothing now
	f := &b.flags[Unreachable]
	if f.until <= e.At {
		b.raise(Unreachable, e, e.At+backoff(f.inRow+1, firstBackoff, maxBackoff, e.Random))
	}
}

// failed raises Resting, and reports whether the backend is to be ejected.
func (b *Backend) failed(e Event, rules Ejection) (wantsEjection bool) {
	isLost := e.Outcome == Lost
	if !isLost {
		b.clear(Unreachable) // it was reached
	}
	f := &b.flags[Resting]
	wasLost := f.isUp() && f.isLost
	b.raise(Resting, e, max(e.At+restTime, f.until)).isLost = isLost || wasLost
	if b.flags[Ejected].until > e.At {
		return false // from before the ejection
	}
	n := b.evidence.count(e, isLost)
	return n > 0 && rules.Failures > 0 && (n >= rules.Failures || b.flags[Ejected].isUp())
}

// answered clears what a response proves to be over.
func (b *Backend) answered(e Event) {
	b.evidence.unanswered = 0
	b.clear(Unreachable)
	b.clear(Full)
	b.clearProved(false)
	if e.Outcome == Opened {
		if b.Flags().Has(Resting) || b.Flags().Has(Ejected) {
			b.settling = e.At + MinLife
		}
	}
}

// clearProved clears Resting and Ejected, if a response proves it to be over or, with
// hasLived, a tunnel that lives.
func (b *Backend) clearProved(hasLived bool) {
	for _, f := range [...]Flag{Resting, Ejected} {
		if hasLived || !b.flags[f].isLost {
			b.clear(f)
		}
	}
}

// raise raises f until a time, or raises it anew.
func (b *Backend) raise(f Flag, e Event, until time.Duration) *raised {
	r := &b.flags[f]
	if !r.isUp() {
		r.since = e.At
	}
	r.inRow++
	r.reason, r.until = e.Reason, until
	return r
}

func (b *Backend) clear(f Flag) { b.flags[f] = raised{} }

// RecordCheck changes the health by the state of active checks.
func (b *Backend) RecordCheck(now time.Duration, isDown bool, reason string) Change {
	isUp := b.flags[CheckFailed].isUp()
	var c Change
	switch {
	case isDown:
		b.raise(CheckFailed, Event{At: now, Reason: reason}, math.MaxInt64)
		if !isUp {
			c.Raised.add(CheckFailed)
		}
	case isUp:
		b.clear(CheckFailed)
		c.Cleared.add(CheckFailed)
	}
	return c
}

// Eject ejects the backend because of e, for which Record has returned WantsEjection. It does
// nothing if another failure of the same moment has done so already.
func (b *Backend) Eject(e Event, rules Ejection) Change {
	f := &b.flags[Ejected]
	if f.until > e.At {
		return Change{}
	}
	wasUp := f.isUp()
	until := e.At + backoff(f.inRow+1, rules.Backoff, rules.MaxBackoff, e.Random)
	b.raise(Ejected, e, until).isLost = b.evidence.lost > b.evidence.unanswered
	b.evidence.forget()
	c := Change{IsEjected: true}
	if !wasUp {
		c.Raised.add(Ejected)
	}
	return c
}

// Hasten ends the time for which the backend is avoided because it could not be reached: what
// was the reason may be over.
func (b *Backend) Hasten(now time.Duration) Change {
	if f := &b.flags[Unreachable]; f.isUp() {
		f.until = min(f.until, now)
	}
	return Change{}
}

// Forget clears all flags: the backend has a new address.
func (b *Backend) Forget() Change {
	c := Change{Cleared: b.Flags()}
	*b = Backend{onProbation: b.onProbation, probationAt: b.probationAt}
	return c
}

// Flags returns the flags that are up.
func (b *Backend) Flags() Flags {
	var s Flags
	for f := range b.flags {
		if b.flags[f].isUp() {
			s.add(Flag(f))
		}
	}
	return s
}

// Describe returns why a flag is up, since when, and until when the backend is avoided,
// which may be over. That of CheckFailed has no end that is known.
func (b *Backend) Describe(f Flag) (reason string, since, until time.Duration) {
	r := &b.flags[f]
	return r.reason, r.since, r.until
}

// IsClean reports whether an event that shows no fault would change nothing.
func (b *Backend) IsClean() bool {
	return b.Flags() == 0 && b.evidence.unanswered == 0 && b.evidence.lost == 0
}

// NeedsLife reports whether it is to be recorded that a tunnel has Lived: otherwise that
// would change nothing.
func (b *Backend) NeedsLife() bool {
	return b.evidence.lost > 0 || b.flags[Resting].isLost || b.flags[Ejected].isLost
}

// A Condition says when an attempt may begin on a backend that has a flag.
type Condition uint8

const (
	Always   Condition = iota
	IfAlone            // no other attempt is under way
	IfWaited           // the upgrade waits, and [Backend.WaiterRetryAt] is over
)

// BeginProbation counts an attempt that begins while a flag is raised, if it may. One
// EndProbation follows.
func (b *Backend) BeginProbation(now time.Duration, c Condition) bool {
	if c == IfAlone && b.isTried(now) || c == IfWaited && now < b.WaiterRetryAt() {
		return false
	}
	b.onProbation++
	b.probationAt = now
	return true
}

// EndProbation counts the end of an attempt.
func (b *Backend) EndProbation() { b.onProbation-- }

// isTried reports whether an attempt is under way, or has opened a tunnel that may be lost.
func (b *Backend) isTried(now time.Duration) bool {
	return b.onProbation > 0 && now < b.probationAt+maxProbation || now < b.settling
}

// Tier returns the tier of the backend at now. A backend that is on probation is good for
// one upgrade at a time, and not for an upgrade that an attempt has failed already, which
// isRetry says.
func (b *Backend) Tier(now time.Duration, isRetry bool) Tier {
	isTried := isRetry || b.isTried(now)
	t := TierGood
	for f := range b.flags {
		if r := &b.flags[f]; r.isUp() && (isTried || r.until > now) {
			t = max(t, tiers[f])
		}
	}
	return t
}

// WaiterRetryAt returns when an upgrade that waits because no backend can be reached may try
// this one, though it is avoided.
func (b *Backend) WaiterRetryAt() time.Duration {
	if b.onProbation > 0 {
		return b.probationAt + waiterPatience
	}
	return b.failedAt + waiterPause
}

// NextChange returns when after now the backend may be tried that is avoided now: a flag has
// had its time, or an upgrade that waits may try it. It returns false if no such time is known.
func (b *Backend) NextChange(now time.Duration) (at time.Duration, ok bool) {
	if b.Flags() == 0 {
		return 0, false
	}
	at = math.MaxInt64
	consider := func(t time.Duration) {
		if t > now {
			at = min(at, t)
		}
	}
	for f := range b.flags {
		consider(b.flags[f].until)
	}
	consider(b.settling)
	consider(b.WaiterRetryAt())
	if b.onProbation > 0 {
		consider(b.probationAt + maxProbation)
	}
	return at, at < math.MaxInt64
}

// backoff returns how long a backend is avoided after the nth failure in a row, shortened by
// random, which is at least 0 and below 1.
func backoff(n int, first, most time.Duration, random float64) time.Duration {
	d := first
	for i := 1; i < n && d < most; i++ {
		d *= 2
	}
	d = min(d, most)
	return d - time.Duration(float64(d)*maxJitter*random)
}
