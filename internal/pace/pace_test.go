package pace

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

const (
	ms = time.Millisecond
	s  = time.Second
)

func TestWindowIsAThousandASecondWithinTheContext(t *testing.T) {
	for _, tt := range []struct {
		name       string
		n          int
		over, left time.Duration
		want       time.Duration
	}{
		{"as given", 10, 5 * time.Minute, 30 * s, 5 * time.Minute},
		{"as given, of a context that has ended", 10, s, -s, s},
		{"the longest", 1, math.MaxInt64, s, math.MaxInt64},
		{"at once", 5000, -1, 30 * s, 0},
		{"the lowest", 5000, math.MinInt64, 30 * s, 0},
		{"a thousand a second", 5000, 0, 30 * s, 5 * s},
		{"few", 3, 0, 30 * s, 3 * ms},
		{"none", 0, 0, 30 * s, 0},
		{"as many as fit", 18_000, 0, 30 * s, 18 * s},
		{"more than fit", 50_000, 0, 30 * s, 18 * s},
		{"without a deadline", 50_000, 0, NoDeadline, 9 * s},
		{"fewer without a deadline", 8000, 0, NoDeadline, 8 * s},
		{"a context that has ended", 5000, 0, -s, 0},
		{"a deadline that is far away", 5000, 0, math.MaxInt64, 5 * s},
		{"as many as can be", math.MaxInt, 0, math.MaxInt64, math.MaxInt64 / 5 * 3},
	} {
		got := Window(tt.n, tt.over, tt.left)
		if diff := got - tt.want; diff.Abs() > tt.want/1e6 {
			t.Errorf("%s: Window(%d, %v, %v) = %v; want %v", tt.name, tt.n, tt.over, tt.left, got, tt.want)
		}
	}
}

func TestDueIsARandomPointOfASlot(t *testing.T) {
	const almostOne = 1 - 1e-9
	for _, tt := range []struct {
		i, n   int
		window time.Duration
		random float64
		want   time.Duration
	}{
		{0, 1, 10 * s, 0, 0},
		{0, 1, 10 * s, 0.5, 5 * s},
		{0, 4, 10 * s, 0, 0},
		{0, 4, 10 * s, almostOne, 2500*ms - 3},
		{1, 4, 10 * s, 0, 2500 * ms},
		{3, 4, 10 * s, 0.5, 8750 * ms},
		{3, 4, 10 * s, almostOne, 10*s - 3},
		{999, 1000, s, almostOne, s - 1},
		{7, 10, 0, 0.5, 0},
		{1, 2, 1, 0.9, 0},
		{1, 2, math.MaxInt64, math.Nextafter(1, 0), math.MaxInt64},
	} {
		if got := Due(tt.i, tt.n, tt.window, tt.random); got < tt.want-1 || got-1 > tt.want {
			t.Errorf("Due(%d, %d, %v, %v) = %v; want %v", tt.i, tt.n, tt.window, tt.random, got, tt.want)
		}
	}
}

// Closes are in order, and each is in its slot.
func TestDueIsEven(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 1000 {
		n := 1 + r.IntN(3000)
		window := time.Duration(r.Int64N(int64(time.Hour)))
		slot := float64(window) / float64(n)
		last := time.Duration(0)
		for i := range n {
			due := Due(i, n, window, r.Float64())
			from, to := float64(i)*slot, float64(i+1)*slot
			if due < last || due > window || float64(due) < from-1 || float64(due) > to+1 {
				t.Fatalf("seed %d: Due(%d, %d, %v, ...) = %v after %v; want it between %v and %v",
					seed, i, n, window, due, last, time.Duration(from), time.Duration(to))
			}
			last = due
		}
	}
}
