package wsproxy

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestLeastTunnelsFillsInProportionToWeights(t *testing.T) {
	all := newTestBackends(t, 1, 2, 5)
	balancer := LeastTunnels()
	for range 800 {
		pick(t, balancer, newTestRequest(), all).reserve()
	}
	for i, want := range []int{100, 200, 500} {
		if got := all[i].NumTunnels(); got != want {
			t.Errorf("%s of weight %d has %d of 800 tunnels; want %d", all[i].ID(), all[i].Weight(), got, want)
		}
	}
}

func TestLeastTunnelsCountsNextTunnel(t *testing.T) {
	all := newTestBackends(t, 1, 3)
	// a 0, b 1: with one more b has 2/3, a 1/1.
	all[1].reserve()
	if got := pick(t, LeastTunnels(), newTestRequest(), all); got != all[1] {
		t.Errorf("Pick() = %s; want b", got.ID())
	}
}

func TestLeastTunnelsRefillsRestartedBackend(t *testing.T) {
	all := newTestBackends(t, 1, 1, 1)
	all[0].tunnels.Store(100)
	all[2].tunnels.Store(97)
	balancer := LeastTunnels()
	for range 103 {
		pick(t, balancer, newTestRequest(), all).reserve()
	}
	for _, b := range all {
		if b.NumTunnels() != 100 {
			t.Errorf("%s has %d tunnels; want 100", b.ID(), b.NumTunnels())
		}
	}
}

func TestLeastTunnelsRotatesEqualBackends(t *testing.T) {
	for _, tt := range []struct {
		name string
		busy int
		want string
	}{
		{"all idle", -1, "a b c d a b c d"},
		{"first busy", 0, "b c d b c d b c"},
		{"one in the middle busy", 1, "a c d a c d a c"},
		{"last busy", 3, "a b c a b c a b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			all := newTestBackends(t, 1, 1, 1, 1)
			if tt.busy >= 0 {
				all[tt.busy].reserve()
			}
			if got := pickIDs(t, LeastTunnels(), 8, all); got != tt.want {
				t.Errorf("picks are %s; want %s", got, tt.want)
			}
		})
	}
}

func TestRoundRobinIsSmooth(t *testing.T) {
	for _, tt := range []struct {
		weights []int
		want    string
	}{
		{[]int{1}, "a a a"},
		{[]int{1, 1, 1}, "a b c a b c a"},
		{[]int{5, 1, 1}, "a a b a c a a a a b a c a a"},
		{[]int{1, 5, 1}, "b b a b c b b"},
		{[]int{2, 1}, "a b a a b a"},
		{[]int{3, 2, 1}, "a b a c b a a b a c b a"},
	} {
		t.Run(fmt.Sprint(tt.weights), func(t *testing.T) {
			n := len(strings.Fields(tt.want))
			if got := pickIDs(t, RoundRobin(), n, newTestBackends(t, tt.weights...)); got != tt.want {
				t.Errorf("picks are %s; want %s", got, tt.want)
			}
		})
	}
}

func TestRoundRobinAgreesWithNginx(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		weights := make([]int, 1+rng.IntN(12))
		for i := range weights {
			weights[i] = 1 + rng.IntN(1000)
		}
		all, balancer := newTestBackends(t, weights...), RoundRobin()
		current := make([]int, len(weights))
		for n := range 2000 {
			want := all[nginxPick(current, weights)]
			if got := pick(t, balancer, newTestRequest(), all); got != want {
				t.Fatalf("weights %v: pick %d is %s; want %s", weights, n, got.ID(), want.ID())
			}
		}
	}
}

// nginxPick is ngx_http_upstream_get_peer without failures.
func nginxPick(current, weights []int) int {
	best, total := -1, 0
	for i, w := range weights {
		current[i] += w
		total += w
		if best < 0 || current[i] > current[best] {
			best = i
		}
	}
	current[best] -= total
	return best
}

// owed keeps account of what each backend should have got: of each pick its
// weight's part.
type owed map[*Backend]float64

func (o owed) note(candidates []*Backend, chosen *Backend) {
	total := 0.0
	for _, b := range candidates {
		total += float64(b.Weight())
	}
	for _, b := range candidates {
		o[b] += float64(b.Weight()) / total
	}
	o[chosen]--
}

// check fails the test if some backend is owed, or ahead by, more than limit
// picks.
func (o owed) check(t *testing.T, limit float64) {
	t.Helper()
	for b, x := range o {
		if math.Abs(x) > limit {
			t.Fatalf("%s is owed %.2f picks; want within ±%.2f", b.ID(), x, limit)
		}
	}
}

func TestRoundRobinIsFairToVaryingCandidates(t *testing.T) {
	all := newTestBackends(t, 1, 1, 2, 3, 5, 1, 1, 8)
	balancer, account := RoundRobin(), owed{}
	rng := rand.New(rand.NewPCG(3, 4))
	for range 20_000 {
		candidates := randomSubset(rng, all)
		account.note(candidates, pick(t, balancer, newTestRequest(), candidates))
		account.check(t, 2)
	}
}

// Where credit is not scaled by the candidates' total, what is earned among two
// is worth less among three, and one backend falls behind without end.
func TestRoundRobinIsFairToRegularlyVaryingCandidates(t *testing.T) {
	all := newTestBackends(t, 1, 1, 1)
	balancer, account := RoundRobin(), owed{}
	for n := range 5_000 {
		candidates := all
		if n%3 == 2 {
			candidates = all[1:]
		}
		account.note(candidates, pick(t, balancer, newTestRequest(), candidates))
		account.check(t, 2)
	}
}

func TestRoundRobinIsFairInAnyOrder(t *testing.T) {
	all := newTestBackends(t, 1, 2, 3, 1, 1)
	balancer, account := RoundRobin(), owed{}
	rng := rand.New(rand.NewPCG(5, 6))
	for range 5_000 {
		candidates := randomSubset(rng, all)
		rng.Shuffle(len(candidates), func(i, j int) {
			candidates[i], candidates[j] = candidates[j], candidates[i]
		})
		account.note(candidates, pick(t, balancer, newTestRequest(), candidates))
		account.check(t, 2)
	}
}

func TestRoundRobinFollowsChangeOfWeight(t *testing.T) {
	all := newTestBackends(t, 1, 1)
	balancer := RoundRobin()
	pickIDs(t, balancer, 3, all)
	all[1].target.Store(newTestBackend(t, "b", 3).target.Load())
	got := pickIDs(t, balancer, 400, all)
	if n := strings.Count(got, "b"); n < 298 || n > 302 {
		t.Errorf("b of weight 3 beside 1 was picked %d times in 400; want 300", n)
	}
}

// Whatever order the first calls suggest, calls with candidates in one order put
// the turns into this order, and then nothing needs to be learnt again.
func TestRoundRobinStopsLearning(t *testing.T) {
	all := newTestBackends(t, equalWeights(30)...)
	balancer := RoundRobin().(*roundRobin)
	reversed := slices.Clone(all)
	slices.Reverse(reversed)
	pick(t, balancer, newTestRequest(), reversed)
	rng := rand.New(rand.NewPCG(7, 8))
	for range 1000 {
		pick(t, balancer, newTestRequest(), randomSubset(rng, all))
	}
	for range 100 {
		candidates := randomSubset(rng, all)
		if _, ok := balancer.markLocked(candidates, shares{}); !ok {
			t.Fatalf("%d candidates in configuration order are not found in one walk", len(candidates))
		}
	}
}

func TestRoundRobinForgetsRemovedBackends(t *testing.T) {
	balancer := RoundRobin().(*roundRobin)
	keep := newTestBackend(t, "keep", 1)
	for n := range 200 {
		candidates := []*Backend{keep}
		for i := range 10 {
			candidates = append(candidates, newTestBackend(t, fmt.Sprintf("%d-%d", n, i), 1))
		}
		for range 5 {
			pick(t, balancer, newTestRequest(), candidates)
		}
		for _, b := range candidates[1:] {
			b.removed.Store(true)
		}
		if got := len(balancer.turns); got > 11 {
			t.Fatalf("%d backends are remembered; want those of the current set, 11", got)
		}
	}
	pick(t, balancer, newTestRequest(), []*Backend{keep})
	if got := len(balancer.turns); got != 1 {
		t.Errorf("%d backends are remembered; want 1", got)
	}
}

func TestRoundRobinAcceptsCandidateTwice(t *testing.T) {
	all := newTestBackends(t, 1, 1)
	balancer := RoundRobin()
	for range 10 {
		pick(t, balancer, newTestRequest(), []*Backend{all[0], all[0], all[1]})
		pick(t, balancer, newTestRequest(), all)
	}
}

func TestRandomFollowsWeights(t *testing.T) {
	weights := []int{1, 2, 3, 10}
	all := newTestBackends(t, weights...)
	balancer, counts := Random(), map[*Backend]int{}
	const picks = 100_000
	for range picks {
		counts[pick(t, balancer, newTestRequest(), all)]++
	}
	checkShares(t, all, counts, picks)
}

func TestBuiltInBalancersPickConcurrently(t *testing.T) {
	all := newTestBackends(t, equalWeights(50)...)
	for name, balancer := range builtIns() {
		t.Run(name, func(t *testing.T) {
			var wg sync.WaitGroup
			for seed := range uint64(8) {
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(seed, 0))
					for range 200 {
						candidates := randomSubset(rng, all)
						b, err := balancer.Pick(newTestRequest(), candidates)
						if err != nil || !slices.Contains(candidates, b) {
							t.Errorf("Pick(%d candidates) = %v, %v; want one of them", len(candidates), b, err)
							return
						}
						b.reserve()
					}
				})
			}
			wg.Wait()
		})
	}
}

func TestBuiltInBalancersDoNotAllocate(t *testing.T) {
	all := newTestBackends(t, 1, 2, 3, 1, 1, 1, 1, 5)
	subsets := [][]*Backend{all, all[1:], all[:7], {all[0], all[3], all[6]}, all[4:5]}
	r := newForwardedRequest(t, "2001:db8::1")
	for name, balancer := range builtIns() {
		pick(t, balancer, r, all)
		n := 0
		got := testing.AllocsPerRun(100, func() {
			balancer.Pick(r, subsets[n%len(subsets)])
			n++
		})
		if got != 0 {
			t.Errorf("%s: Pick() allocates %v times; want 0", name, got)
		}
	}
}

func TestBuiltInBalancersReturnErrNoBackend(t *testing.T) {
	for name, balancer := range builtIns() {
		if b, err := balancer.Pick(newTestRequest(), nil); b != nil || !errors.Is(err, ErrNoBackend) {
			t.Errorf("%s: Pick(nil) = %v, %v; want ErrNoBackend", name, b, err)
		}
	}
}

func TestBuiltInBalancersAcceptHugeWeights(t *testing.T) {
	all := newTestBackends(t, math.MaxInt, math.MaxInt, 1)
	for name, balancer := range builtIns() {
		for range 100 {
			if b := pick(t, balancer, newTestRequest(), all); b == all[2] {
				t.Errorf("%s: Pick() = the backend of weight 1; want one of weight %d", name, math.MaxInt)
			}
			all[0].tunnels.Add(1)
			all[1].tunnels.Add(1)
		}
	}
}

// checkShares fails the test if counts are not in proportion to weights: more
// than six standard deviations away, which happens by chance once in 10^9.
func checkShares(t *testing.T, all []*Backend, counts map[*Backend]int, picks int) {
	t.Helper()
	total := 0
	for _, b := range all {
		total += b.Weight()
	}
	for _, b := range all {
		p := float64(b.Weight()) / float64(total)
		want, bound := p*float64(picks), 6*math.Sqrt(float64(picks)*p*(1-p))
		if got := float64(counts[b]); math.Abs(got-want) > bound {
			t.Errorf("%s of weight %d was chosen %v times in %d; want %.0f±%.0f", b.ID(), b.Weight(), got, picks, want, bound)
		}
	}
}

// randomSubset returns some of all, at least one, in their order.
func randomSubset(rng *rand.Rand, all []*Backend) []*Backend {
	for {
		var subset []*Backend
		for _, b := range all {
			if rng.IntN(2) == 0 {
				subset = append(subset, b)
			}
		}
		if len(subset) > 0 {
			return subset
		}
	}
}

// newTestBackends returns backends with IDs a, b, c … and these weights.
func newTestBackends(t testing.TB, weights ...int) []*Backend {
	t.Helper()
	var all []*Backend
	for i, w := range weights {
		id := string(rune('a' + i))
		if len(weights) > 26 {
			id = fmt.Sprintf("backend-%04d", i)
		}
		all = append(all, newTestBackend(t, id, w))
	}
	p := &Proxy{start: time.Now()}
	p.set.Store(&backendSet{all: all})
	for _, b := range all {
		b.p = p
	}
	return all
}

func newTestBackend(t testing.TB, id string, weight int) *Backend {
	t.Helper()
	c := BackendConfig{ID: id, URL: fmt.Sprintf("http://%s.test", id), Weight: weight}
	target, errs := compileTarget("test", c)
	if errs != nil {
		t.Fatalf("compileTarget(%+v): %v", c, errs)
	}
	p := &Proxy{start: time.Now()}
	b := p.newBackend(id)
	b.target.Store(target)
	return b
}

// equalWeights returns n ones.
func equalWeights(n int) []int { return slices.Repeat([]int{1}, n) }

func newTestRequest() *http.Request {
	r, err := http.NewRequest("GET", "http://chat.test/room?room=blue&user=42", nil)
	if err != nil {
		panic(err)
	}
	r.RemoteAddr = "192.0.2.7:4711"
	r.Header.Set("X-User", "42")
	r.Header.Set("Cookie", "theme=dark; session=1f3870be")
	return r
}

// pick calls Pick and fails the test unless it gets one of candidates.
func pick(t testing.TB, b Balancer, r *http.Request, candidates []*Backend) *Backend {
	t.Helper()
	got, err := b.Pick(r, candidates)
	if err != nil {
		t.Fatalf("Pick() = %v, %v; want one of %d candidates", got, err, len(candidates))
	}
	if !slices.Contains(candidates, got) {
		t.Fatalf("Pick() = %v; want one of %d candidates", got, len(candidates))
	}
	return got
}

// pickIDs returns the IDs of n picks, joined by spaces.
func pickIDs(t testing.TB, b Balancer, n int, candidates []*Backend) string {
	t.Helper()
	var ids []string
	for range n {
		ids = append(ids, pick(t, b, newTestRequest(), candidates).ID())
	}
	return strings.Join(ids, " ")
}

// builtIns returns one new balancer of each kind.
func builtIns() map[string]Balancer {
	return map[string]Balancer{
		"LeastTunnels":         LeastTunnels(),
		"RoundRobin":           RoundRobin(),
		"Random":               Random(),
		"Hash/ByClientIP":      Hash(ByClientIP()),
		"Hash/ByHeader":        Hash(ByHeader("x-user")),
		"Hash/ByHeader/host":   Hash(ByHeader("host")),
		"Hash/ByCookie":        Hash(ByCookie("session")),
		"Hash/ByQuery":         Hash(ByQuery("user")),
		"Hash/keyless":         Hash(ByHeader("absent")),
		"BoundedHash":          BoundedHash(ByClientIP(), 1.25),
		"BoundedHash/ByQuery":  BoundedHash(ByQuery("user"), 1.25),
		"BoundedHash/keyless":  BoundedHash(ByCookie("absent"), 2),
		"BoundedHash/nearly 1": BoundedHash(ByClientIP(), math.Nextafter(1, 2)),
	}
}

// BenchmarkPick measures what an upgrade spends on its choice: to collect the
// candidates, and to pick.
func BenchmarkPick(b *testing.B) {
	for _, bb := range []struct {
		name string
		new  func() Balancer
	}{
		{"LeastTunnels", LeastTunnels},
		{"RoundRobin", RoundRobin},
		{"Random", Random},
		{"Hash", func() Balancer { return Hash(ByClientIP()) }},
		{"BoundedHash", func() Balancer { return BoundedHash(ByClientIP(), 1.25) }},
	} {
		for _, n := range []int{2, 10, 100, 1000} {
			b.Run(fmt.Sprintf("%s/%d", bb.name, n), func(b *testing.B) {
				benchmarkPick(b, bb.new(), n)
			})
		}
	}
}

func benchmarkPick(b *testing.B, balancer Balancer, n int) {
	set := newBackendSet(newTestBackends(b, equalWeights(n)...))
	for i, backend := range set.all {
		backend.tunnels.Store(int64(1000 + i*7%13))
	}
	r := newForwardedRequest(b, "192.0.2.1")
	b.ReportAllocs()
	for b.Loop() {
		c, err := set.candidates(make([]*Backend, 0, len(set.all)), nil, time.Hour, true)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := balancer.Pick(r, c.backends); err != nil {
			b.Fatal(err)
		}
	}
}
