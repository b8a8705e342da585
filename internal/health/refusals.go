package health

import (
	"math"
	"time"
)

// MinLife is how long a tunnel must live to show that its backend wants it. Some backends
// refuse by a 101 that is followed by a Close frame.
const MinLife = time.Second

// Refusals says whether a backend refused its last upgrade, and how often it did so
// lately. The zero value is that of a backend that did not.
//
// A backend that refuses is quick and has no tunnels. A balancer that looks at tunnels
// alone would choose it again and again.
type Refusals struct {
	isRefusing bool
	count      float64       // at the time of the last refusal
	at         time.Duration // of the last refusal
	hasOpened  bool
	openedAt   time.Duration // of the first 101 since the last refusal; valid if hasOpened
	trials     int           // upgrades under way that began while the backend was refusing
}

// Refused returns the value after one more refusal: a response other than 101, or a tunnel
// that the backend ended before it had done anything.
func (r Refusals) Refused(now time.Duration) Refusals {
	return Refusals{isRefusing: true, count: r.decayed(now) + 1, at: now, trials: r.trials}
}

// Opened returns the value after a 101.
func (r Refusals) Opened(now time.Duration) Refusals {
	if !r.IsRefusing(now) {
		return Refusals{trials: r.trials}
	}
	if !r.hasOpened {
		r.hasOpened, r.openedAt = true, now
	}
	return r
}

// BeginTrial returns the value while one more upgrade that began while the backend was
// refusing is under way. It counts as a refusal until then. One EndTrial follows.
func (r Refusals) BeginTrial() Refusals {
	r.trials++
	return r
}

// EndTrial returns the value after such an upgrade.
func (r Refusals) EndTrial() Refusals {
	r.trials--
	return r
}

// IsRefusing reports whether the backend refused its last upgrade. A 101 since then
// counts after MinLife.
func (r Refusals) IsRefusing(now time.Duration) bool {
	return r.isRefusing && !(r.hasOpened && now-r.openedAt >= MinLife)
}

// Count returns the number of refusals since the last good opening. It halves each second,
// and is rounded: what is below a half counts for nothing. Trials are added to it.
func (r Refusals) Count(now time.Duration) int { return int(math.Round(r.decayed(now))) + r.trials }

func (r Refusals) decayed(now time.Duration) float64 {
	if !r.IsRefusing(now) {
		return 0
	}
	return r.count * math.Exp2(-max(now-r.at, 0).Seconds())
}
