package health

import (
	"math"
	"time"
)

// MinLife is how long a tunnel must live to show that its backend wants it. Some backends
// refuse by a 101 that is followed by a Close frame.
const MinLife = time.Second

// The 101s of the last numSlots times slotLen are counted by slots, so that a tunnel counts
// as kept when it is at least MinLife old, and at most one slot older.
const (
	slotLen  = MinLife / 4
	numSlots = 5
)

// Refusals counts the upgrades that one backend has refused and those that it has accepted.
// All counts halve each second, so that they say what it does now. The zero value is that of
// a backend without upgrades.
//
// A backend that refuses is quick and has no tunnels: a balancer that looks at tunnels alone
// would choose it for every upgrade.
type Refusals struct {
	at time.Duration // of the counts: the last change

	refused float64 // responses other than 101
	opened  float64 // 101s
	ended   float64 // 101s whose tunnels the backend ended at once
	kept    float64 // 101s whose tunnels it did not end within MinLife

	// 101s of which it is not known yet whether they are ended or kept. The slot of a time is
	// the number of whole slotLens in it; slots has slot s at s modulo numSlots.
	slots [numSlots]int
	slot  int64 // the last one

	trials int // upgrades under way that began while the backend was refusing
}

// Refused returns the value after a response other than 101.
func (r Refusals) Refused(now time.Duration) Refusals {
	r = r.decay(now)
	r.refused++
	return r
}

// Opened returns the value after a 101.
func (r Refusals) Opened(now time.Duration) Refusals {
	r = r.decay(now)
	r.opened++
	r.slots[r.slot%numSlots]++
	return r
}

// Ended returns the value after the backend ended a tunnel within MinLife, before messages
// had passed in both directions. Opened was called with the time opened.
func (r Refusals) Ended(now, opened time.Duration) Refusals {
	r = r.decay(now)
	if s := slotOf(opened); s > r.slot-numSlots && s <= r.slot && r.slots[s%numSlots] > 0 {
		r.slots[s%numSlots]--
	}
	r.ended++
	return r
}

// BeginTrial returns the value while one more upgrade is under way that began while the
// backend was refusing. One EndTrial follows.
func (r Refusals) BeginTrial() Refusals {
	r.trials++
	return r
}

// EndTrial returns the value after such an upgrade.
func (r Refusals) EndTrial() Refusals {
	r.trials--
	return r
}

// Forget returns the value of a backend of which nothing is known any longer.
func (r Refusals) Forget() Refusals { return Refusals{trials: r.trials} }

// IsRefusing reports whether the backend refuses more upgrades than it accepts, or ends more
// tunnels at once than it keeps. Without further upgrades that does not change for many
// minutes.
func (r Refusals) IsRefusing(now time.Duration) bool {
	r = r.decay(now)
	return r.refused+r.ended > r.opened-r.ended || r.ended > r.kept
}

// Count returns the number of refusals, rounded, so that what is below a half counts for
// nothing. Trials, and tunnels that may still end at once, are added while the backend is
// refusing.
func (r Refusals) Count(now time.Duration) int {
	r = r.decay(now)
	n := int(math.Round(r.refused + r.ended))
	if r.IsRefusing(now) {
		n += r.trials
		for _, undecided := range r.slots {
			n += undecided
		}
	}
	return n
}

// decay returns r with the counts of now.
func (r Refusals) decay(now time.Duration) Refusals {
	if now > r.at {
		left := half(now - r.at)
		r.refused *= left
		r.opened *= left
		r.ended *= left
		r.kept *= left
		r.at = now
	}
	current := slotOf(now)
	for i := 0; i < numSlots && r.slot < current; i++ {
		r.slot++
		oldest := &r.slots[r.slot%numSlots] // it becomes the newest one
		r.kept += float64(*oldest) * half(now-time.Duration(r.slot)*slotLen)
		*oldest = 0
	}
	r.slot = max(r.slot, current)
	return r
}

// half returns what is left of 1 after d, if it halves each second.
func half(d time.Duration) float64 { return math.Exp2(-d.Seconds()) }

func slotOf(t time.Duration) int64 { return int64(max(t, 0) / slotLen) }
