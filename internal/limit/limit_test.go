package limit

import (
	"math"
	"testing"
	"time"
)

const s = time.Second

func allows(b *Bucket, now time.Duration, r Rate) bool {
	_, ok := b.Allow(now, r)
	return ok
}

func TestBucketAllowsABurstAndThenTheRate(t *testing.T) {
	r := Rate{PerSecond: 2, Burst: 3}
	var b Bucket
	for i, step := range []struct {
		at   time.Duration
		want bool
	}{
		{0, true}, {0, true}, {0, true}, {0, false}, // the burst
		{499 * time.Millisecond, false}, {500 * time.Millisecond, true}, {500 * time.Millisecond, false},
		{1 * s, true}, {1 * s, false},
		{100 * s, true}, {100 * s, true}, {100 * s, true}, {100 * s, false}, // no more than the burst is saved
		{99 * s, false}, // of two goroutines the later one may have looked at the clock first
	} {
		if got := allows(&b, step.at, r); got != step.want {
			t.Errorf("step %d: Allow(%v) = %v; want %v", i, step.at, got, step.want)
		}
	}
}

func TestBucketWithoutBurstHoldsOneToken(t *testing.T) {
	for _, burst := range []int{0, -1, 1} {
		var b Bucket
		r := Rate{PerSecond: 1, Burst: burst}
		if !allows(&b, 0, r) || allows(&b, 0, r) || !allows(&b, 1*s, r) {
			t.Errorf("burst %d: want one token, and one more each second", burst)
		}
	}
}

func TestBucketTellsWhenThereIsAToken(t *testing.T) {
	for _, rate := range []float64{0.001, 0.3, 1, 7, 1000, 1e9, 1e300} {
		r := Rate{PerSecond: rate, Burst: 2}
		var b Bucket
		now := 5 * s
		var wait time.Duration
		for ok := true; ok; {
			if wait, ok = b.Allow(now, r); ok && wait != 0 {
				t.Errorf("%v a second: Allow returns a wait of %v and a token", rate, wait)
			}
		}
		before := b
		if wait > 2 && allows(&before, now+wait-2, r) {
			t.Errorf("%v a second: the wait is %v, but a token is there earlier", rate, wait)
		}
		if wait < 1 || !allows(&b, now+wait, r) {
			t.Errorf("%v a second: the wait is %v, but no token is there then", rate, wait)
		}
	}
	var b Bucket
	tiny := Rate{PerSecond: math.SmallestNonzeroFloat64}
	b.Allow(0, tiny)
	if got, ok := b.Allow(0, tiny); got != math.MaxInt64 || ok {
		t.Errorf("the wait at a rate of almost nothing is %v, %v; want the longest duration", got, ok)
	}
}

func TestBucketOwesTokensThatWereUsedInAdvance(t *testing.T) {
	r := Rate{PerSecond: 10, Burst: 5}
	var b Bucket
	for i, step := range []struct {
		at   time.Duration
		use  uint64
		want time.Duration // until the next token, afterwards
	}{
		{0, 0, 0}, {0, 4, 0}, {0, 1, s / 10}, // the burst
		{0, 20, 2100 * time.Millisecond},
		{2 * s, 0, s / 10}, {2 * s, 10, 1100 * time.Millisecond}, // debts add up
		{100 * s, 0, 0}, {100 * s, 5, s / 10}, // no more than the burst is saved
	} {
		b.Use(step.at, r, step.use)
		if got := b.Wait(step.at, r); got != step.want {
			t.Errorf("step %d: after Use(%v, %d) Wait = %v; want %v", i, step.at, step.use, got, step.want)
		}
	}
}

func TestRateBoundsOnlyIfItIsPositiveAndFinite(t *testing.T) {
	for rate, want := range map[float64]bool{-1: false, 0: false, 0.1: true, math.Inf(1): false, math.Inf(-1): false} {
		if got := (Rate{PerSecond: rate}).IsBound(); got != want {
			t.Errorf("%v a second: IsBound = %v; want %v", rate, got, want)
		}
	}
	if (Rate{PerSecond: math.NaN()}).IsBound() {
		t.Error("NaN is a bound")
	}
}

func TestBucketsOfKeysAreApart(t *testing.T) {
	b := NewBuckets(Rate{PerSecond: 1, Burst: 1})
	for i, want := range []struct {
		key  uint64
		wait time.Duration
	}{{1, 0}, {1, s}, {2, 0}, {2, s}, {1, s}} {
		if wait, ok := b.Allow(0, want.key); wait != want.wait || ok != (want.wait == 0) {
			t.Errorf("step %d: Allow(%d) = %v, %v; want a wait of %v", i, want.key, wait, ok, want.wait)
		}
	}
}

// Whatever keys came in between, a key's bucket is that of a Bucket of its own.
func TestBucketsForgetNothingThatCounts(t *testing.T) {
	r := Rate{PerSecond: 2, Burst: 5}
	b := NewBuckets(r)
	var want Bucket
	for i := range 20_000 {
		now := time.Duration(i) * 7 * time.Millisecond
		b.Allow(now, uint64(1000+i)) // another one
		if i%11 != 0 && i%3 != 0 {
			continue
		}
		_, ok := b.Allow(now, 1)
		if wanted := allows(&want, now, r); ok != wanted {
			t.Fatalf("at %v Allow = %v; want %v, as a bucket that is never forgotten", now, ok, wanted)
		}
	}
}

func TestBucketsForgetKeysWhoseBucketsAreFull(t *testing.T) {
	b := NewBuckets(Rate{PerSecond: 1, Burst: 2})
	for i := range 100_000 { // 1,000 keys a second
		b.Allow(time.Duration(i)*time.Millisecond, uint64(i))
		if n := len(b.fresh) + len(b.old); n > 4001 {
			t.Fatalf("after %d keys there are %d buckets; want those of four seconds at most", i, n)
		}
	}
	b.Allow(time.Hour, 1)
	if n := len(b.fresh) + len(b.old); n != 1 {
		t.Errorf("after an hour there are %d buckets; want one", n)
	}
}
