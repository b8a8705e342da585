package limit

import (
	"fmt"
	"math"
	"testing"
	"time"
)

const s = time.Second

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
		if got := b.Take(step.at, r); got != step.want {
			t.Errorf("step %d: Take(%v) = %v; want %v", i, step.at, got, step.want)
		}
	}
}

func TestBucketWithoutBurstHoldsOneToken(t *testing.T) {
	for _, burst := range []int{0, -1, 1} {
		var b Bucket
		r := Rate{PerSecond: 1, Burst: burst}
		if !b.Take(0, r) || b.Take(0, r) || !b.Take(1*s, r) {
			t.Errorf("burst %d: want one token, and one more each second", burst)
		}
	}
}

func TestWaitIsWhenATokenIsThere(t *testing.T) {
	for _, rate := range []float64{0.001, 0.3, 1, 7, 1000, 1e9} {
		r := Rate{PerSecond: rate, Burst: 2}
		var b Bucket
		now := 5 * s
		if got := b.Wait(now, r); got != 0 {
			t.Errorf("%v a second: Wait of a full bucket = %v; want 0", rate, got)
		}
		for b.Take(now, r) {
		}
		wait := b.Wait(now, r)
		before := b
		if wait > 2 && before.Take(now+wait-2, r) {
			t.Errorf("%v a second: Wait = %v, but a token is there earlier", rate, wait)
		}
		if !b.Take(now+wait, r) {
			t.Errorf("%v a second: Wait = %v, but no token is there then", rate, wait)
		}
	}
	var b Bucket
	tiny := Rate{PerSecond: math.SmallestNonzeroFloat64}
	b.Take(0, tiny)
	if got := b.Wait(0, tiny); got != math.MaxInt64 {
		t.Errorf("Wait at a rate of almost nothing = %v; want the longest duration", got)
	}
}

func TestRateBoundsOnlyIfItIsPositive(t *testing.T) {
	for rate, want := range map[float64]bool{-1: false, 0: false, 0.1: true} {
		if got := (Rate{PerSecond: rate}).IsBound(); got != want {
			t.Errorf("%v a second: IsBound = %v; want %v", rate, got, want)
		}
	}
}

func TestBucketsOfKeysAreApart(t *testing.T) {
	b := NewBuckets(Rate{PerSecond: 1, Burst: 1})
	if !b.Take(0, "a") || b.Take(0, "a") || !b.Take(0, "b") || b.Wait(0, "a") != s || b.Wait(0, "c") != 0 {
		t.Error("keys share tokens")
	}
}

func TestBucketsForgetKeysWhoseBucketsAreFull(t *testing.T) {
	b := NewBuckets(Rate{PerSecond: 1, Burst: 1})
	for i := range 1_000_000 { // 1,000 keys a second
		b.Take(time.Duration(i)*time.Millisecond, fmt.Sprint(i))
		if len(b.buckets) > 4*1000 {
			t.Fatalf("after %d keys there are %d buckets; want those of the last seconds", i, len(b.buckets))
		}
	}
}

func TestTakeOfManyKeysTakesConstantTime(t *testing.T) {
	b := NewBuckets(Rate{PerSecond: 0.001, Burst: 1}) // nothing can be forgotten
	sweeps := 0
	for i := range 100_000 {
		before := b.sweepAt
		b.Take(0, fmt.Sprint(i))
		if b.sweepAt != before {
			sweeps++
		}
	}
	if sweeps > 10 {
		t.Errorf("100,000 keys made %d sweeps; want one for each doubling", sweeps)
	}
}
