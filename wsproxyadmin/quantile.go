package wsproxyadmin

import (
	"slices"
	"time"
)

// timeBounds are the bounds of the buckets of times.
var timeBounds = [...]time.Duration{
	250 * time.Microsecond, 500 * time.Microsecond, time.Millisecond, 1500 * time.Microsecond, 2 * time.Millisecond,
	3 * time.Millisecond, 5 * time.Millisecond, 7 * time.Millisecond, 10 * time.Millisecond, 15 * time.Millisecond,
	20 * time.Millisecond, 30 * time.Millisecond, 50 * time.Millisecond, 70 * time.Millisecond, 100 * time.Millisecond,
	150 * time.Millisecond, 200 * time.Millisecond, 300 * time.Millisecond, 500 * time.Millisecond, 700 * time.Millisecond,
	time.Second, 1500 * time.Millisecond, 2 * time.Second, 3 * time.Second, 5 * time.Second, 7 * time.Second, 10 * time.Second,
}

// timeCounts are the counts of a histogram by bucket; the last one has what exceeds all bounds.
type timeCounts [len(timeBounds) + 1]uint32

func (c *timeCounts) add(d time.Duration) {
	i, _ := slices.BinarySearch(timeBounds[:], d)
	c[i]++
}

func quantilesOf(counts *[len(timeBounds) + 1]uint64) quantiles {
	q := quantiles{}
	for _, n := range counts {
		q.Count += n
	}
	if q.Count > 0 {
		p50, p99 := quantile(counts[:], q.Count, 0.5), quantile(counts[:], q.Count, 0.99)
		q.P50MS, q.P99MS = &p50, &p99
	}
	return q
}

func p99Of(c *timeCounts) *float64 {
	var counts [len(timeBounds) + 1]uint64
	for i, n := range c {
		counts[i] = uint64(n)
	}
	return quantilesOf(&counts).P99MS
}

// quantile estimates a quantile in milliseconds, as Prometheus does: the values of a bucket are
// spread evenly over it. What exceeds all bounds counts as the last one. Total is the sum of
// counts, at least 1.
func quantile(counts []uint64, total uint64, q float64) float64 {
	rank := q * float64(total)
	var lower time.Duration
	var seen float64
	for i, n := range counts[:len(timeBounds)] {
		if upper := timeBounds[i]; n > 0 && seen+float64(n) >= rank {
			share := (rank - seen) / float64(n)
			return milliseconds(lower + time.Duration(share*float64(upper-lower)))
		}
		seen += float64(n)
		lower = timeBounds[i]
	}
	return milliseconds(lower)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
