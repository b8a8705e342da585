// Package limit bounds how often something happens.
//
// A [Bucket] and a [Buckets] are not safe for concurrent use. Times are durations since a
// moment that the caller chooses once, such as its start.
package limit

import (
	"math"
	"time"
)

// A Rate is a number of events a second, and how many may come at once. A Rate of which
// PerSecond is not positive bounds nothing.
type Rate struct {
	PerSecond float64
	Burst     int
}

// IsBound reports whether r bounds anything.
func (r Rate) IsBound() bool { return r.PerSecond > 0 }

// A Bucket is a token bucket: it holds up to Burst tokens, gets PerSecond of them each
// second, and each event takes one. The zero Bucket is full.
type Bucket struct {
	missing float64       // tokens up to Burst, at the time of filledAt
	at      time.Duration // of missing
}

// Take takes a token at now. If there is none, it takes none and returns false.
func (b *Bucket) Take(now time.Duration, r Rate) bool {
	missing := b.missingAt(now, r)
	if missing+1 > float64(max(r.Burst, 1)) {
		return false
	}
	b.missing, b.at = missing+1, max(now, b.at)
	return true
}

// Wait returns how long after now the bucket has a token.
func (b *Bucket) Wait(now time.Duration, r Rate) time.Duration {
	lacking := b.missingAt(now, r) + 1 - float64(max(r.Burst, 1))
	if lacking <= 0 {
		return 0
	}
	seconds := lacking / r.PerSecond
	if seconds > math.MaxInt64/float64(time.Second)/2 {
		return math.MaxInt64
	}
	return time.Duration(math.Ceil(seconds * float64(time.Second)))
}

// isFull reports whether the bucket is as the zero Bucket is.
func (b *Bucket) isFull(now time.Duration, r Rate) bool { return b.missingAt(now, r) == 0 }

func (b *Bucket) missingAt(now time.Duration, r Rate) float64 {
	return max(0, b.missing-max(now-b.at, 0).Seconds()*r.PerSecond)
}

// Buckets are one [Bucket] for each key. Buckets that are full again are forgotten, so that
// the memory is that of the keys whose buckets are not.
type Buckets struct {
	rate    Rate
	buckets map[string]Bucket
	sweepAt int // number of buckets at which full ones are forgotten
}

// minSweep is the least number of buckets at which full ones are looked for.
const minSweep = 1024

// NewBuckets returns buckets with that rate.
func NewBuckets(r Rate) *Buckets {
	return &Buckets{rate: r, buckets: make(map[string]Bucket), sweepAt: minSweep}
}

// Take takes a token of the key's bucket at now.
func (b *Buckets) Take(now time.Duration, key string) bool {
	bucket := b.buckets[key]
	if !bucket.Take(now, b.rate) {
		return false
	}
	b.buckets[key] = bucket
	if len(b.buckets) >= b.sweepAt {
		b.sweep(now)
	}
	return true
}

// Wait returns how long after now the key's bucket has a token.
func (b *Buckets) Wait(now time.Duration, key string) time.Duration {
	bucket := b.buckets[key]
	return bucket.Wait(now, b.rate)
}

// sweep forgets full buckets. The next sweep is when as many again have come, so that a
// Take costs a constant time on average.
func (b *Buckets) sweep(now time.Duration) {
	for key, bucket := range b.buckets {
		if bucket.isFull(now, b.rate) {
			delete(b.buckets, key)
		}
	}
	b.sweepAt = max(2*len(b.buckets), minSweep)
}
