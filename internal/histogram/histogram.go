// Package histogram counts durations in buckets with fixed bounds.
//
// It knows nothing of the events that it counts: the relay uses it as well as the root package.
package histogram

import (
	"sync/atomic"
	"time"
)

// A Histogram counts durations. Its methods are safe for concurrent use, and take no lock.
// To count a duration costs two atomic additions.
type Histogram struct {
	bounds []time.Duration // of the buckets, increasing; immutable

	counts [maxBounds + 1]atomic.Uint64 // by bucket; the one after the last bound has all that is longer
	sum    atomic.Int64                 // nanoseconds
}

// maxBounds is the largest number of bounds, so that a Histogram is one allocation.
const maxBounds = 15

const day = 24 * time.Hour

var (
	latencies = []time.Duration{
		time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
		10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
		100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
		time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
	}
	lifetimes = []time.Duration{
		time.Second, 10 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute,
		time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, day, 2 * day, 7 * day,
	}
	lags = []time.Duration{
		100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
		time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
		10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
		100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second,
	}
)

// NewLatency returns a Histogram for the time that a peer takes to answer: 13 buckets from 1 ms
// to 10 s.
func NewLatency() *Histogram { return newHistogram(latencies) }

// NewLifetime returns a Histogram for how long a connection lives: 12 buckets from 1 s to 7
// days.
func NewLifetime() *Histogram { return newHistogram(lifetimes) }

// NewLag returns a Histogram for how long work waits in this process: 13 buckets from 100 µs to
// 1 s.
func NewLag() *Histogram { return newHistogram(lags) }

func newHistogram(bounds []time.Duration) *Histogram { return &Histogram{bounds: bounds} }

// Observe counts d. A negative duration counts as 0.
func (h *Histogram) Observe(d time.Duration) {
	d = max(d, 0)
	h.counts[bucketOf(h.bounds, d)].Add(1)
	h.sum.Add(int64(d))
}

// Add adds what o has counted, whose buckets are those of h.
func (h *Histogram) Add(o *Histogram) {
	for i := range o.counts {
		h.counts[i].Add(o.counts[i].Load())
	}
	h.sum.Add(o.sum.Load())
}

// bucketOf returns the index of the first bound that d does not exceed.
func bucketOf(bounds []time.Duration, d time.Duration) int {
	for i, bound := range bounds {
		if d <= bound {
			return i
		}
	}
	return len(bounds)
}

// A Snapshot has the counts of a Histogram at one moment.
type Snapshot struct {
	Count   uint64        // of all durations
	Sum     time.Duration // of all durations; it may lack one that is being counted
	Buckets []Bucket
}

// A Bucket counts the durations up to Bound. So those of the buckets before it are in it too.
type Bucket struct {
	Bound time.Duration
	Count uint64
}

// Snapshot returns the counts.
func (h *Histogram) Snapshot() Snapshot {
	s := Snapshot{Sum: time.Duration(h.sum.Load()), Buckets: make([]Bucket, len(h.bounds))}
	for i, bound := range h.bounds {
		s.Count += h.counts[i].Load()
		s.Buckets[i] = Bucket{bound, s.Count}
	}
	s.Count += h.counts[len(h.bounds)].Load()
	return s
}
