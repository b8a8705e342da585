package wsproxy

import (
	"time"

	"github.com/wsproxy/wsproxy/internal/health"
)

// beginSlowStart begins the slow start of a backend that is new or has recovered: see
// [WithSlowStart].
func (b *Backend) beginSlowStart() {
	if d := b.p.slowStart; d > 0 {
		now := b.p.now()
		b.slowFrom.Store(int64(now))
		b.p.slowUntil.Store(int64(now + d))
	}
}

// slowStartFlags are the flags whose end begins a slow start: the backend has had few clients or
// none.
const slowStartFlags = health.Flags(1<<health.Ejected | 1<<health.CheckFailed | 1<<health.Unreachable)

// shares has what the weights of backends are worth at one moment.
type shares struct {
	now    time.Duration
	isSlow bool // some backend is in its slow start
}

// sharesOf returns the shares of candidates, which are those of one Proxy, now.
func sharesOf(candidates []*Backend) shares {
	p := candidates[0].p
	if p.slowUntil.Load() == 0 {
		return shares{} // without a look at the clock
	}
	now := p.now()
	return shares{now, now < time.Duration(p.slowUntil.Load())}
}

// of returns b's weight, or in its slow start a part of it.
func (s shares) of(b *Backend) float64 {
	weight := float64(b.Weight())
	if !s.isSlow {
		return weight
	}
	if from := b.slowFrom.Load(); from >= 0 {
		return weight * health.SlowShare(s.now-time.Duration(from), b.p.slowStart)
	}
	return weight
}
