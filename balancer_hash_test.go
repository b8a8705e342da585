package wsproxy

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// keyed returns a request whose key by ByQuery("k") is key.
func keyed(key string) *http.Request {
	return &http.Request{Method: "GET", Header: http.Header{}, URL: &url.URL{RawQuery: "k=" + key}}
}

// homes returns which backend each of n keys has.
func homes(t testing.TB, n int, candidates []*Backend) []*Backend {
	t.Helper()
	balancer := Hash(ByQuery("k"))
	chosen := make([]*Backend, n)
	for i := range chosen {
		chosen[i] = pick(t, balancer, keyed(fmt.Sprintf("user-%d", i)), candidates)
	}
	return chosen
}

// Replicas of different versions share backends: what is chosen must never change.
func TestHashPicksStoredChoices(t *testing.T) {
	for _, tt := range []struct {
		weights []int
		want    string
	}{
		{[]int{1, 1, 1, 1, 1}, "a b d a b c a b b d d b b d e b e c a e"},
		{[]int{1, 2, 3, 4, 5}, "e b d d b c a b b d d d b d e b e c c e"},
	} {
		var ids []string
		for _, b := range homes(t, 20, newTestBackends(t, tt.weights...)) {
			ids = append(ids, b.ID())
		}
		if got := strings.Join(ids, " "); got != tt.want {
			t.Errorf("weights %v: keys user-0 to user-19 live at\n%s; want\n%s", tt.weights, got, tt.want)
		}
	}
}

func TestHashDependsOnlyOnKeyIDsAndWeights(t *testing.T) {
	weights := []int{1, 2, 3, 1, 1, 4}
	all, twins := newTestBackends(t, weights...), newTestBackends(t, weights...)
	for i, b := range twins {
		b.tunnels.Store(int64(i * 100))
	}
	slices.Reverse(twins)
	first, second := homes(t, 1000, all), homes(t, 1000, twins)
	for i := range first {
		if first[i].ID() != second[i].ID() {
			t.Fatalf("user-%d lives at %s and, with other counts and order, at %s", i, first[i].ID(), second[i].ID())
		}
	}
}

func TestHashFollowsWeights(t *testing.T) {
	for _, weights := range [][]int{
		{1, 1},
		equalWeights(10),
		{1, 2, 3, 4},
		{100, 1, 1, 50},
	} {
		t.Run(fmt.Sprint(weights), func(t *testing.T) {
			const keys = 50_000
			all, counts := newTestBackends(t, weights...), map[*Backend]int{}
			for _, b := range homes(t, keys, all) {
				counts[b]++
			}
			checkShares(t, all, counts, keys)
		})
	}
}

func TestHashMovesKeysOnlyToAddedBackend(t *testing.T) {
	const keys = 20_000
	rng := rand.New(rand.NewPCG(1, 1))
	for range 10 {
		weights := make([]int, 2+rng.IntN(15))
		for i := range weights {
			weights[i] = 1 + rng.IntN(4)
		}
		all := newTestBackends(t, weights...)
		added := rng.IntN(len(all))
		before := homes(t, keys, slices.Delete(slices.Clone(all), added, added+1))
		moved := map[*Backend]int{}
		for i, after := range homes(t, keys, all) {
			if after == before[i] {
				continue
			}
			if after != all[added] {
				t.Fatalf("weights %v: when %s came, user-%d moved from %s to %s", weights, all[added].ID(), i, before[i].ID(), after.ID())
			}
			moved[after]++
		}
		total := 0
		for _, w := range weights {
			total += w
		}
		p := float64(weights[added]) / float64(total)
		if want := p * keys; math.Abs(float64(moved[all[added]])-want) > 6*math.Sqrt(want*(1-p)) {
			t.Errorf("weights %v: %d of %d keys moved to %s; want about %.0f", weights, moved[all[added]], keys, all[added].ID(), want)
		}
	}
}

func TestHashMovesKeysOnlyToBackendThatGainsWeight(t *testing.T) {
	const keys = 20_000
	before := homes(t, keys, newTestBackends(t, 2, 2, 2))
	for i, b := range homes(t, keys, newTestBackends(t, 2, 3, 2)) {
		if b.ID() != before[i].ID() && b.ID() != "b" {
			t.Fatalf("when b's weight rose, user-%d moved from %s to %s", i, before[i].ID(), b.ID())
		}
	}
}

func TestHashPicksLeastTunnelsWithoutKey(t *testing.T) {
	for _, balancer := range []Balancer{Hash(ByQuery("k")), BoundedHash(ByQuery("k"), 1.5)} {
		all := newTestBackends(t, 1, 1, 1)
		all[1].tunnels.Store(10)
		if got, want := pickIDs(t, balancer, 5, all), "a c a c a"; got != want {
			t.Errorf("%T: picks without key are %s; want %s", balancer, got, want)
		}
	}
}

func TestHashScoreDoesNotDependOnShortcut(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	for range 100_000 {
		s := score{rng.Uint64() >> 11, float64(1 + rng.IntN(5))}
		u := score{rng.Uint64() >> 11, float64(1 + rng.IntN(5))}
		if got, want := s.better(u), s.interval() < u.interval(); got != want {
			t.Fatalf("%v.beats(%v) = %v; want %v", s, u, got, want)
		}
	}
	for _, luck := range []uint64{0, 1, 1<<53 - 1} {
		if w := (score{luck, 1}).interval(); w < 0 || math.IsInf(w, 0) || math.IsNaN(w) {
			t.Errorf("wait of luck %d is %v; want a finite number", luck, w)
		}
	}
}

func TestBoundedHashAgreesWithHashBelowBound(t *testing.T) {
	all := newTestBackends(t, 1, 1, 1, 1)
	for _, b := range all {
		b.tunnels.Store(1000)
	}
	want := homes(t, 1000, all)
	balancer := BoundedHash(ByQuery("k"), 1.25)
	for i := range want {
		if got := pick(t, balancer, keyed(fmt.Sprintf("user-%d", i)), all); got != want[i] {
			t.Fatalf("user-%d is sent to %s; want %s", i, got.ID(), want[i].ID())
		}
	}
}

func TestBoundedHashBoundsEveryBackend(t *testing.T) {
	for _, factor := range []float64{1.01, 1.25, 2, 10} {
		for _, weights := range [][]int{{1, 1, 1, 1, 1}, {1, 2, 3, 4}, {1}} {
			t.Run(fmt.Sprint(factor, weights), func(t *testing.T) {
				all := newTestBackends(t, weights...)
				total := 0
				for _, w := range weights {
					total += w
				}
				balancer := BoundedHash(ByQuery("k"), factor)
				for n := range 2000 {
					b := pick(t, balancer, keyed("one-for-all"), all)
					b.reserve()
					bound := math.Ceil(factor * float64(n+1) * float64(b.Weight()) / float64(total))
					if got := b.NumTunnels(); float64(got) > bound {
						t.Fatalf("%s has %d of %d tunnels; want at most %v", b.ID(), got, n+1, bound)
					}
				}
			})
		}
	}
}

func TestBoundedHashPicksNextChoiceOfKey(t *testing.T) {
	all := newTestBackends(t, 1, 1, 1, 1)
	balancer := BoundedHash(ByQuery("k"), 1.25)
	for i := range 200 {
		r := keyed(fmt.Sprintf("user-%d", i))
		first := pick(t, Hash(ByQuery("k")), r, all)
		others := slices.DeleteFunc(slices.Clone(all), func(b *Backend) bool { return b == first })
		second := pick(t, Hash(ByQuery("k")), r, others)

		first.tunnels.Store(10)
		if got := pick(t, balancer, r, all); got != second {
			t.Errorf("user-%d is sent to %s; want its second choice %s", i, got.ID(), second.ID())
		}
		first.tunnels.Store(0)
	}
}

func TestHashOptionsRefuseBadValues(t *testing.T) {
	key := ByClientIP()
	for _, tt := range []struct {
		name     string
		balancer Balancer
		want     string // in the error; empty: none
	}{
		{"hash", Hash(key), ""},
		{"hash without key function", Hash(nil), "key function"},
		{"bounded", BoundedHash(key, 1.25), ""},
		{"bounded without key function", BoundedHash(nil, 1.25), "key function"},
		{"factor 1", BoundedHash(key, 1), "factor is 1;"},
		{"factor 0", BoundedHash(key, 0), "factor is 0;"},
		{"negative factor", BoundedHash(key, -2), "factor is -2;"},
		{"no number", BoundedHash(key, math.NaN()), "factor is NaN;"},
		{"infinite factor", BoundedHash(key, math.Inf(1)), "factor is +Inf;"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.balancer.(interface{ validate() error }).validate()
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("validate() = %v; want nil", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("validate() = %v; want an error that says %q", err, tt.want)
			}
		})
	}
}
