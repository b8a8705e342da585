// Package limit bounds how often something happens, and orders upgrades that wait.
//
// A [Bucket], a [Buckets] and a [Budget] are not safe for concurrent use. Times are
// durations since a moment that the caller chooses once, such as its start.
package limit

import (
	"math"
	"time"
)

// A Rate is a number of events a second, and how many may come at once.
type Rate struct {
	PerSecond float64
	Burst     int // below 1 it means 1
}

// IsBound reports whether r bounds anything: a rate that is not positive, or infinite, does
// not.
func (r Rate) IsBound() bool { return r.PerSecond > 0 && !math.IsInf(r.PerSecond, 1) }

func (r Rate) burst() float64 { return float64(max(r.Burst, 1)) }

// Interval returns the time from one event to the next, without a burst.
func (r Rate) Interval() time.Duration { return duration(1 / r.PerSecond) }

// fillTime returns how long an empty bucket takes to be full.
func (r Rate) fillTime() time.Duration { return duration(r.burst() / r.PerSecond) }

// duration returns the duration of so many seconds, or the longest one.
func duration(seconds float64) time.Duration {
	if seconds >= math.MaxInt64/float64(time.Second) {
		return math.MaxInt64
	}
	return time.Duration(math.Ceil(seconds * float64(time.Second)))
}

// A Bucket is a token bucket: it holds up to Burst tokens, gets PerSecond of them each
// second, and each event uses one. The zero Bucket is full.
type Bucket struct {
	missing float64       // tokens up to Burst, at the time at
	at      time.Duration // of the last token that was used
}

// Allow uses a token at now. If there is none, it returns how long after now there will be
// one, which is positive.
func (b *Bucket) Allow(now time.Duration, r Rate) (wait time.Duration, ok bool) {
	if wait = b.Wait(now, r); wait > 0 {
		return wait, false
	}
	b.Use(now, r, 1)
	return 0, true
}

// Wait returns how long after now there will be a token; 0 if there is one.
func (b *Bucket) Wait(now time.Duration, r Rate) time.Duration {
	if lacking := b.missingAt(now, r) + 1 - r.burst(); lacking > 0 {
		return max(duration(lacking/r.PerSecond), 1)
	}
	return 0
}

// Use uses n tokens at now, for events that have happened already. If there are fewer, the
// next token comes later by those that lack.
func (b *Bucket) Use(now time.Duration, r Rate, n uint64) {
	b.missing, b.at = b.missingAt(now, r)+float64(n), max(now, b.at)
}

func (b *Bucket) missingAt(now time.Duration, r Rate) float64 {
	return max(0, b.missing-max(now-b.at, 0).Seconds()*r.PerSecond)
}

// Buckets are one [Bucket] for each key. Those in which no token was used for as long as an
// empty one takes to be full are forgotten: so there are at most as many as keys came in
// twice that time.
type Buckets struct {
	rate Rate

	// fresh are the buckets in which a token was used since the time at, old the others.
	fresh, old map[uint64]Bucket
	at         time.Duration
}

// NewBuckets returns buckets with that rate.
func NewBuckets(r Rate) *Buckets {
	return &Buckets{rate: r, fresh: make(map[uint64]Bucket)}
}

// Allow is [Bucket.Allow] of the key's bucket.
func (b *Buckets) Allow(now time.Duration, key uint64) (wait time.Duration, ok bool) {
	if elapsed, fill := now-b.at, b.rate.fillTime(); elapsed >= fill {
		b.old = b.fresh
		if elapsed/2 >= fill { // nothing has come for so long
			b.old = nil
		}
		b.fresh, b.at = make(map[uint64]Bucket), now
	}
	bucket, isFresh := b.fresh[key]
	if !isFresh {
		bucket = b.old[key]
	}
	if wait, ok = bucket.Allow(now, b.rate); ok {
		b.fresh[key] = bucket
	}
	return wait, ok
}
