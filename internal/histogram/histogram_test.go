package histogram

import (
	"slices"
	"sync"
	"testing"
	"time"
)

func TestHistogramCountsUpToEachBound(t *testing.T) {
	h := newHistogram([]time.Duration{time.Second, time.Minute})
	for _, d := range []time.Duration{-time.Hour, 0, time.Second, time.Second + 1, time.Minute, time.Minute + 1, time.Hour} {
		h.Observe(d)
	}
	got := h.Snapshot()
	want := []Bucket{{time.Second, 3}, {time.Minute, 5}}
	if !slices.Equal(got.Buckets, want) || got.Count != 7 {
		t.Errorf("Snapshot() = %v, count %d; want %v, count 7", got.Buckets, got.Count, want)
	}
	if sum := time.Second + time.Second + 1 + time.Minute + time.Minute + 1 + time.Hour; got.Sum != sum {
		t.Errorf("Sum = %v; want %v, a negative duration being 0", got.Sum, sum)
	}
}

func TestHistogramWithoutDurationsHasAllBuckets(t *testing.T) {
	for name, tt := range map[string]struct {
		h          *Histogram
		first, end time.Duration
	}{
		"latency":  {NewLatency(), time.Millisecond, 10 * time.Second},
		"lifetime": {NewLifetime(), time.Second, 7 * 24 * time.Hour},
		"lag":      {NewLag(), 100 * time.Microsecond, time.Second},
	} {
		s := tt.h.Snapshot()
		if s.Count != 0 || s.Sum != 0 {
			t.Errorf("%s: Snapshot() = %+v; want no durations", name, s)
		}
		if n := len(s.Buckets); n == 0 || n > maxBounds {
			t.Fatalf("%s: %d buckets; want 1 to %d", name, n, maxBounds)
		}
		if first, last := s.Buckets[0].Bound, s.Buckets[len(s.Buckets)-1].Bound; first != tt.first || last != tt.end {
			t.Errorf("%s: bounds from %v to %v; want %v to %v", name, first, last, tt.first, tt.end)
		}
		if !slices.IsSortedFunc(s.Buckets, func(a, b Bucket) int { return int(a.Bound - b.Bound) }) {
			t.Errorf("%s: bounds of %v do not increase", name, s.Buckets)
		}
	}
}

func TestHistogramAddsAnother(t *testing.T) {
	sum := NewLag()
	for range 2 {
		h := NewLag()
		h.Observe(time.Millisecond)
		h.Observe(time.Minute)
		sum.Add(h)
	}
	got := sum.Snapshot()
	if got.Count != 4 || got.Sum != 2*(time.Minute+time.Millisecond) || got.Buckets[2].Count != 0 || got.Buckets[3] != (Bucket{time.Millisecond, 2}) {
		t.Errorf("Snapshot() = %+v; want two durations of 1 ms and two of 1 min", got)
	}
}

// The counts of a snapshot that is made while others observe never contradict each other.
func TestHistogramCanBeReadWhileOthersObserve(t *testing.T) {
	const observers, each = 4, 1000
	h := NewLatency()
	var observing sync.WaitGroup
	for i := range observers {
		observing.Go(func() { // ends after its durations
			for j := range each {
				h.Observe(time.Duration(i*each+j) * 5 * time.Millisecond)
			}
		})
	}
	var last uint64
	for last < observers*each {
		s := h.Snapshot()
		if s.Count < last {
			t.Fatalf("Count = %d after %d; it went down", s.Count, last)
		}
		last = s.Count
		before := uint64(0)
		for _, b := range s.Buckets {
			if b.Count < before || b.Count > s.Count {
				t.Fatalf("Snapshot() = %+v; want counts that increase up to Count", s)
			}
			before = b.Count
		}
	}
	observing.Wait()
	if s := h.Snapshot(); s.Count != observers*each || s.Sum != 39990*time.Second {
		t.Errorf("Snapshot() = %d durations, sum %v; want %d, %v", s.Count, s.Sum, observers*each, 39990*time.Second)
	}
}

func BenchmarkObserve(b *testing.B) {
	h := NewLatency()
	for b.Loop() {
		h.Observe(30 * time.Millisecond)
	}
}
