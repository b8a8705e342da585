package limit

import (
	"math"
	"testing"
	"time"
)

// retry asks n times for a retry at now, and returns how many are allowed.
func retry(b *Budget, now time.Duration, n int) (allowed int) {
	for range n {
		if b.AllowRetry(now) {
			allowed++
		}
	}
	return allowed
}

func TestBudgetAllowsAFifthOfTheUpgradesAndAHundred(t *testing.T) {
	const ms = time.Millisecond
	type step struct {
		at       time.Duration
		upgrades int // that begin, before 10,000 retries are asked for
		want     int // how many of them are allowed
	}
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"no upgrade", []step{{0, 0, 100}}},
		{"few upgrades", []step{{0, 4, 100}, {0, 1, 1}, {0, 4, 0}, {0, 1, 1}}},
		{"a second with many", []step{{0, 1000, 300}, {999 * ms, 0, 0}}},
		{"what is not used is kept for 10 s", []step{{9 * s, 0, 100}, {9 * s, 500, 100}}},
		{"a retry expires", []step{{0, 0, 100}, {9999 * ms, 0, 0}, {10 * s, 0, 100}}},
		{"a retry at the end of its second expires after 9 s", []step{{999 * ms, 0, 100}, {9999 * ms, 0, 0}, {10 * s, 0, 100}}},
		{"upgrades expire with their retries", []step{{0, 1000, 300}, {5 * s, 1000, 200}, {10 * s, 0, 100}, {15 * s, 0, 0}, {19 * s, 0, 0}, {20 * s, 0, 100}}},
		{"all expires", []step{{5 * s, 1000, 300}, {15 * s, 0, 100}, {1000 * s, 0, 100}, {math.MaxInt64, 0, 100}}},
		{"back by less than a slot", []step{{3 * s, 0, 100}, {2999 * ms, 0, 0}, {12 * s, 0, 0}, {13 * s, 0, 100}}},
		{"back by much", []step{{100 * s, 1000, 300}, {50 * s, 5, 1}, {0, 5, 1}, {109 * s, 0, 0}, {110 * s, 0, 100}}},
		{"before the start", []step{{-5 * s, 0, 100}, {0, 0, 0}, {10 * s, 0, 100}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b Budget
			for i, step := range tt.steps {
				for range step.upgrades {
					b.AddUpgrade(step.at)
				}
				if got := retry(&b, step.at, 10_000); got != step.want {
					t.Errorf("step %d: at %v, after %d upgrades, %d retries are allowed; want %d", i, step.at, step.upgrades, got, step.want)
				}
			}
		})
	}
}

// At a steady rate, and if each upgrade asks for two retries.
func TestBudgetAllowsAFifthOfTheRateAndTenASecond(t *testing.T) {
	for _, tt := range []struct{ rate, want int }{ // a second
		{1, 2}, {10, 12}, {100, 30}, {1000, 210}, {5000, 1010},
	} {
		var b Budget
		const seconds = 100
		var perSecond [seconds]int
		for i := range tt.rate * seconds {
			now := time.Duration(i) * s / time.Duration(tt.rate)
			b.AddUpgrade(now)
			perSecond[now/s] += retry(&b, now, 2)
		}
		sum := 0
		for i, n := range perSecond {
			if sum += n; i < numBudgetSlots {
				continue
			}
			sum -= perSecond[i-numBudgetSlots]
			if most := tt.want * numBudgetSlots; sum > most || sum < most*9/10 {
				t.Errorf("%d a second: %d retries in the 10 s up to second %d; want %d, or a little less", tt.rate, sum, i, most)
			}
		}
	}
}

// After a quiet time, all upgrades fail.
func TestBudgetIsNotExceededByABurstOfFailures(t *testing.T) {
	var b Budget
	for i := range 10 * 100 {
		b.AddUpgrade(time.Duration(i) * s / 100)
	}
	if got := retry(&b, 9*s, 10_000); got != 200+100 {
		t.Errorf("%d retries at once after 1,000 upgrades; want 300", got)
	}
	for now := 9 * s; now < 19*s; now += s / 10 {
		if got := retry(&b, now, 10); got > 0 {
			t.Fatalf("%d retries at %v; want none before 19s, when those at 9s have expired", got, now)
		}
	}
	if got := retry(&b, 19*s, 10_000); got != 100 {
		t.Errorf("%d retries at 19s; want 100: the upgrades have expired too", got)
	}
}
