package rebalance

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

var defaults = Config{Tolerance: 0.2, MinSurplus: 10, Rate: 0.01}

func TestSharesAreByWeight(t *testing.T) {
	for _, tt := range []struct {
		name  string
		loads []Load
		away  int
		want  []float64
	}{
		{"none", nil, 3, []float64{}},
		{"one", []Load{{Tunnels: 7, Weight: 3}}, 0, []float64{7}},
		{"equal", []Load{{Tunnels: 300, Weight: 1}, {Tunnels: 300, Weight: 1}, {Weight: 1}}, 0, []float64{200, 200, 200}},
		{"by weight", []Load{{Tunnels: 90, Weight: 2}, {Weight: 1}}, 0, []float64{60, 30}},
		{"with clients that are away", []Load{{Tunnels: 80, Weight: 1}, {Tunnels: 10, Weight: 1}}, 10, []float64{50, 50}},
		{"no room for all of its share", []Load{{Tunnels: 300, Weight: 1}, {Tunnels: 0, Weight: 1, Max: 50}, {Tunnels: 0, Weight: 1}}, 0, []float64{125, 50, 125}},
		{"no room after others have none", []Load{{Tunnels: 300, Weight: 1}, {Weight: 1, Max: 20}, {Weight: 1, Max: 120}}, 0, []float64{160, 20, 120}},
		{"no room anywhere", []Load{{Tunnels: 300, Weight: 1, Max: 100}, {Tunnels: 100, Weight: 1, Max: 100}}, 0, []float64{100, 100}},
		{"no tunnels", []Load{{Weight: 1}, {Weight: 2}}, 0, []float64{0, 0}},
	} {
		got := Shares(tt.loads, tt.away)
		isClose := slices.EqualFunc(got, tt.want, func(a, b float64) bool { return math.Abs(a-b) < rounding })
		if !isClose {
			t.Errorf("%s: Shares(%v, %d) = %v; want %v", tt.name, tt.loads, tt.away, got, tt.want)
		}
	}
}

func TestStepsBeginAboveTheToleranceAndEndAtTheShare(t *testing.T) {
	moving := State{IsMoving: true}
	for _, tt := range []struct {
		name          string
		tunnels, rest int // of the backend, and of three others together
		state         State
		config        Config
		want          Step
	}{
		{"at the share", 100, 300, State{}, defaults, Step{}},
		{"below the share", 0, 300, State{}, defaults, Step{}},
		{"at the tolerance", 1200, 2800, State{}, defaults, Step{}},
		{"above the tolerance", 1201, 2799, State{}, defaults, Step{12, State{true, 0.01}}},
		{"above the tolerance by too few tunnels", 13, 27, State{}, defaults, Step{}},
		{"above it by 10", 20, 20, State{}, defaults, Step{}},
		{"above it by 11", 21, 19, State{}, defaults, Step{0, State{true, 0.21}}},
		{"on the way down", 1100, 2900, moving, defaults, Step{11, State{true, 0}}},
		{"the last one", 1002, 2998, moving, defaults, Step{1, State{true, 1}}},
		{"down at its share", 1001, 2999, moving, defaults, Step{}},
		{"a credit", 30, 10, State{true, 0.8}, defaults, Step{1, State{true, 0.1}}},
		{"all at once", 400, 0, State{}, Config{0.2, 10, 1}, Step{299, State{true, 1}}},
		{"a smaller tolerance", 1100, 2900, State{}, Config{0.05, 10, 0.01}, Step{11, State{true, 0}}},
	} {
		other := Load{Tunnels: tt.rest / 3, Weight: 1}
		last := Load{Tunnels: tt.rest - 2*(tt.rest/3), Weight: 1}
		loads := []Load{{Tunnels: tt.tunnels, Weight: 1}, other, other, last}
		got := tt.config.Steps(loads, []State{tt.state, {}, {}, {}}, 0)[0]
		if got.Close != tt.want.Close || got.Next.IsMoving != tt.want.Next.IsMoving || math.Abs(got.Next.Credit-tt.want.Next.Credit) > 1e-3 {
			t.Errorf("%s: step of %v = %+v; want %+v", tt.name, loads, got, tt.want)
		}
	}
}

func TestStepsCloseNoMoreThanThereArePlacesFor(t *testing.T) {
	for _, tt := range []struct {
		name  string
		loads []Load
		away  int
		want  int
	}{
		{"places for all", []Load{{Tunnels: 100, Weight: 1}, {Weight: 1}}, 0, 49},
		{"some are on their way", []Load{{Tunnels: 100, Weight: 1}, {Weight: 1}}, 20, 39},
		{"places for 30", []Load{{Tunnels: 100, Weight: 1, Max: 20}, {Weight: 1, Max: 30}}, 0, 30},
		{"no places", []Load{{Tunnels: 100, Weight: 1, Max: 50}, {Tunnels: 40, Weight: 1, Max: 40}}, 0, 0},
		{"one backend", []Load{{Tunnels: 100, Weight: 1}}, 0, 0},
	} {
		c := Config{Tolerance: 0.2, MinSurplus: 10, Rate: 1}
		if got := c.Steps(tt.loads, make([]State, len(tt.loads)), tt.away)[0].Close; got != tt.want {
			t.Errorf("%s: closes %d of %v; want %d", tt.name, got, tt.loads, tt.want)
		}
	}
}

// Clients that go to the emptiest backend end within the tolerance of each share, whatever
// the loads are, and no step closes more than its rate.
func TestStepsEndWithAllBackendsNearTheirShares(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		n := 2 + r.IntN(5)
		loads, states := make([]Load, n), make([]State, n)
		before := 0.0
		for i := range loads {
			loads[i] = Load{Tunnels: r.IntN(2000), Weight: 1 + r.IntN(3)}
		}
		shares := Shares(loads, 0)
		var begin bool
		for i, l := range loads {
			over := float64(l.Tunnels) - shares[i]
			before = max(before, over)
			begin = begin || over > 0.2*shares[i]+rounding && over > 10+rounding
		}
		var total, numSteps int
		for ; ; numSteps++ {
			steps := defaults.Steps(loads, states, 0)
			var closed int
			isMoving := false
			for i, s := range steps {
				if most := defaults.Rate*float64(loads[i].Tunnels) + 1; float64(s.Close) > most {
					t.Fatalf("seed %d: step closes %d of %v; want at most %v", seed, s.Close, loads[i], most)
				}
				loads[i].Tunnels -= s.Close
				closed += s.Close
				states[i] = s.Next
				isMoving = isMoving || s.Next.IsMoving
			}
			for range closed {
				emptiest := slices.MinFunc(loads, func(a, b Load) int {
					return (a.Tunnels+1)*b.Weight - (b.Tunnels+1)*a.Weight
				})
				loads[slices.Index(loads, emptiest)].Tunnels++
			}
			total += closed
			if !isMoving {
				break
			}
			if numSteps > 10000 {
				t.Fatalf("seed %d: no end after %d steps, with %v", seed, numSteps, loads)
			}
		}
		if begin != (total > 0) {
			t.Fatalf("seed %d: %d tunnels were closed; does a backend exceed its share: %t", seed, total, begin)
		}
		for i, l := range loads {
			if over := float64(l.Tunnels) - shares[i]; over > 0.2*shares[i]+rounding && over > 10+rounding {
				t.Fatalf("seed %d: in the end %v with shares %v", seed, loads, shares)
			}
		}
	}
}
