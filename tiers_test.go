package wsproxy_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/affinity"
	"github.com/wsproxy/wsproxy/internal/backendtest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A placement is a backend in the table of who gets an upgrade.
type placement struct {
	flag       string // see flagsOfPlacements
	isFull     bool   // it has its MaxTunnels
	priority   int
	isDraining bool
}

// flagsOfPlacements are the flags of a backend, with their tiers. On probation the time of
// its flag is over. One that was just tried could not be reached a moment ago.
var flagsOfPlacements = []struct {
	name string
	tier int
}{
	{"", 0}, {"on probation", 0}, {"resting", 1}, {"full", 1}, {"ejected", 2}, {"check failed", 3}, {"unreachable", 4}, {"just tried", 4},
}

func (b placement) tier() int {
	for _, f := range flagsOfPlacements {
		if f.name == b.flag {
			return f.tier
		}
	}
	panic("no such flag")
}

// expected says what becomes of an upgrade: "at" the index of a backend, "waits", or the
// reason why it is refused. It is the rule of [wsproxy.Balancer] and [wsproxy.Limits] in the
// shortest form.
func expected(backends []placement, hasQueue bool) string {
	var group []int // the best tier's, and of these the first priority's
	for i, b := range backends {
		if b.isDraining {
			continue
		}
		if len(group) > 0 {
			best := backends[group[0]]
			if b.tier() > best.tier() || b.tier() == best.tier() && b.priority > best.priority {
				continue
			}
			if b.tier() != best.tier() || b.priority != best.priority {
				group = nil
			}
		}
		group = append(group, i)
	}
	if len(group) == 0 {
		return "no backend 503"
	}
	for _, i := range group {
		if b := backends[i]; !b.isFull && !(hasQueue && b.flag == "just tried") {
			return fmt.Sprint("at ", i)
		}
	}
	if hasQueue {
		return "waits"
	}
	return "backend limit 503"
}

// expectedOfBound is expected for an upgrade that is bound to backends, in the order in which it
// prefers them: to one by cookie, or to all by key.
func expectedOfBound(backends []placement, order []int, refuses, hasQueue bool) string {
	first := 0 // the priority of those that it may have
	hasFirst := false
	for _, i := range order {
		b := backends[i]
		isFailing := b.tier() >= 3 && !(refuses && hasQueue && b.flag == "unreachable") // one that waits may try it after a moment
		switch {
		case b.isDraining:
		case refuses && !isFailing && !b.isFull:
			return fmt.Sprint("at ", i)
		case refuses && hasQueue:
			return "waits"
		case refuses && isFailing:
			return "unreachable 503"
		case refuses:
			return "backend limit 503"
		case isFailing || hasFirst && b.priority > first:
		case b.isFull:
			first, hasFirst = b.priority, true
		default:
			return fmt.Sprint("at ", i)
		}
	}
	return expected(backends, hasQueue)
}

// allPlacements returns one backend of each kind.
func allPlacements() (all []placement) {
	for _, f := range flagsOfPlacements {
		for _, isFull := range []bool{false, true} {
			for priority := range 2 {
				for _, isDraining := range []bool{false, true} {
					all = append(all, placement{f.name, isFull, priority, isDraining})
				}
			}
		}
	}
	return all
}

// place makes backends the set of the proxy. Their IDs are their indexes after the prefix.
func (s *scene) place(prefix string, backends []placement) {
	s.t.Helper()
	configs := make([]wsproxy.BackendConfig, len(backends))
	for i, b := range backends {
		configs[i] = wsproxy.BackendConfig{ID: fmt.Sprint(prefix, i), URL: "http://a", MaxTunnels: 5, Priority: b.priority, Drain: b.isDraining}
	}
	if err := s.p.SetBackends(configs...); err != nil {
		s.t.Fatal(err)
	}
	raise := func(when func(flag string) string) {
		for i, b := range s.p.Backends() {
			state := backendtest.State{NumTunnels: 1}
			if backends[i].isFull {
				state.NumTunnels = 5
			}
			if flag := when(backends[i].flag); flag != "" {
				state.Flags = []string{flag}
			}
			if state.Flags != nil || backends[i].flag == "" {
				backendtest.Set(b, state)
			}
		}
	}
	raise(func(flag string) string { return map[string]string{"on probation": "resting"}[flag] })
	time.Sleep(time.Second)
	raise(func(flag string) string {
		if flag == "on probation" || flag == "just tried" {
			return ""
		}
		return flag
	})
	time.Sleep(300 * time.Millisecond)
	raise(func(flag string) string { return map[string]string{"just tried": "unreachable"}[flag] })
}

// upgradeIn sends one upgrade for the set, and says what becomes of it, as expected does.
func (s *scene) upgradeIn(prefix string, backends []placement, target string, lines ...string) (got string) {
	s.t.Helper()
	s.place(prefix, backends)
	s.opened, s.refused = nil, nil
	c := s.send(1, target, lines...)
	switch {
	case len(s.opened) == 1:
		got = "at " + strings.TrimPrefix(s.opened[0], prefix)
		proxytest.WantSwitch(s.t, c)
		proxytest.HangUp(s.t, c)
	case s.p.Stats().Waiting == 1:
		got = "waits"
		c.Close()
	case len(s.refused) == 1:
		got = s.refused[0]
		c.Close()
	}
	synctest.Wait()
	for _, b := range s.p.Backends() {
		backendtest.Set(b, backendtest.State{}) // so that it can be forgotten
	}
	return got
}

// setsOfPlacements returns all sets of one or two backends, and 1,000 of the many sets of three.
func setsOfPlacements() (sets [][]placement) {
	all := allPlacements()
	for _, a := range all {
		sets = append(sets, []placement{a})
		for _, b := range all {
			sets = append(sets, []placement{a, b})
		}
	}
	for i := range 1000 {
		sets = append(sets, []placement{all[i*7%len(all)], all[i*29%len(all)], all[i*i*13%len(all)]})
	}
	return sets
}

func TestPickByTierPriorityPlaceDrainAndQueue(t *testing.T) {
	sets := setsOfPlacements()
	for _, hasQueue := range []bool{false, true} {
		t.Run(fmt.Sprintf("queue %t", hasQueue), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				queue := 0
				if hasQueue {
					queue = 1
				}
				s := newScene(t, queueOf(queue), proxytest.FirstCandidate, quiet)
				s.set("a", accepting)
				results := make(map[string]int)
				for i, set := range sets {
					want := expected(set, hasQueue)
					results[want]++
					if got := s.upgradeIn(fmt.Sprintf("%d-", i), set, "/chat"); got != want {
						t.Errorf("%+v: %s; want %s", set, got, want)
					}
				}
				t.Log(results)
			})
		})
	}
}

// A client whose cookie is that of the first backend, or who has a key. Each kind of backend is the
// client's own, alone and beside a third of all kinds. The numbers 3 and 65 have no common divisor:
// so each row of the table has another third.
func TestPickByAffinityTierPriorityPlaceDrainAndQueue(t *testing.T) {
	var sets [][]placement
	for i, set := range setsOfPlacements() {
		if len(set) == 1 || i%3 == 0 {
			sets = append(sets, set)
		}
	}
	key := []byte("0123456789abcdef")
	signer := affinity.New("wsproxy", [][]byte{key}, time.Hour)
	for _, byKey := range []bool{false, true} {
		for _, refuses := range []bool{false, true} {
			for _, hasQueue := range []bool{false, true} {
				t.Run(fmt.Sprintf("by key %t, refuse %t, queue %t", byKey, refuses, hasQueue), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						queue := 0
						if hasQueue {
							queue = 1
						}
						s := newScene(t, queueOf(queue), proxytest.FirstCandidate, quiet, wsproxy.WithAffinity(wsproxy.Affinity{
							Keys: [][]byte{key}, Key: wsproxy.ByQuery("k"), Refuse: refuses,
						}))
						s.set("a", accepting)
						hashed := proxytest.NewProxy(t, wsproxy.WithBackends())
						results := make(map[string]int)
						for i, set := range sets {
							prefix := fmt.Sprintf("%d-", i)
							order, target, lines := []int{0}, "/chat", []string(nil)
							if byKey {
								order, target = orderOfKey(t, hashed, "key", prefix, set), "/chat?k=key"
							} else {
								lines = []string{"Cookie: wsproxy=" + signer.Sign(signer.Hashes(prefix+"0"), time.Now().Unix())}
							}
							want := expectedOfBound(set, order, refuses, hasQueue)
							results[want]++
							if got := s.upgradeIn(prefix, set, target, lines...); got != want {
								t.Errorf("%+v, bound to %d: %s; want %s", set, order, got, want)
							}
						}
						t.Log(results)
					})
				})
			}
		}
	}
}

// orderOfKey returns the indexes of backends with that prefix of their IDs, in the order of a key:
// by priority, and then as [wsproxy.Hash] chooses them from the set of a proxy.
func orderOfKey(t *testing.T, p *wsproxy.Proxy, key, prefix string, backends []placement) (order []int) {
	configs := make([]wsproxy.BackendConfig, len(backends))
	for i := range backends {
		configs[i] = wsproxy.BackendConfig{ID: fmt.Sprint(prefix, i), URL: "http://a"}
	}
	if err := p.SetBackends(configs...); err != nil {
		t.Fatal(err)
	}
	left := p.Backends()
	hash := wsproxy.Hash(func(*http.Request) string { return key })
	for len(left) > 0 {
		b, err := hash.Pick(nil, left)
		if err != nil {
			t.Fatal(err)
		}
		i, _ := strconv.Atoi(strings.TrimPrefix(b.ID(), prefix))
		order = append(order, i)
		left = slices.DeleteFunc(left, func(other *wsproxy.Backend) bool { return other == b })
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(backends[i].priority, backends[j].priority) })
	return order
}

func TestGatewayAtItsLimitIsFullAndNotFailing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 10
		chat := proxytest.NewNetwork()
		chat.Set("chat", accepting)
		gateways := make(map[string]*wsproxy.Proxy)
		sites := make(map[string]*proxytest.Site)
		for _, id := range []string{"a", "b"} {
			l := wsproxy.Limits{}
			if id == "a" {
				l.Tunnels = limit
			}
			gateways[id] = proxytest.NewProxy(t, wsproxy.WithBackends("http://chat"), wsproxy.WithDialer(chat.Dial), wsproxy.WithLimits(l))
			sites[id] = proxytest.ServeInMemory(t, gateways[id])
		}
		s := newScene(t, backendsAt("a", "b"), wsproxy.WithDialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
			host, _, _ := net.SplitHostPort(addr)
			return sites[host].DialContext(ctx, network, addr)
		}))
		clients := make(map[string][]*wstest.Peer)
		come := func(n int) string {
			t.Helper()
			for i := range n {
				c, at := s.open(1 + i)
				clients[at] = append(clients[at], c)
				time.Sleep(200 * time.Millisecond)
			}
			return s.numOpened()
		}

		if got, want := come(100), "a 10, b 90"; got != want { // in 20 s, with some trials of a
			t.Errorf("gateways got %q; want %q", got, want)
		}
		s.wantFlags("a: full")
		wantStates(t, s.p, wsproxy.BackendUp, wsproxy.BackendUp)
		if refused := gateways["a"].Stats().Refused; refused < 4 || refused > 12 {
			t.Errorf("the full gateway has refused %d upgrades in 18 s; want one in each 2 to 4 s", refused)
		}
		s.wantRefused()

		// It has places again, and gets its share again: almost all who come, because it has the
		// fewest tunnels.
		for _, c := range clients["a"][:6] {
			proxytest.HangUp(t, c)
		}
		time.Sleep(4 * time.Second)
		if got, want := come(10), "a 6, b 4"; got != want {
			t.Errorf("gateways got %q; want %q", got, want)
		}
		if got, want := come(10), "b 10"; got != want {
			t.Errorf("gateways got %q; want %q", got, want)
		}
		s.wantNeverTold("resting")
		s.wantNeverTold("ejected")
		s.wantNeverTold("others are used")
		s.wantTimesTold(2, "backend flag raised", "backend=a", "flag=full")
		s.wantTimesTold(1, "backend flag cleared", "backend=a", "flag=full")
	})
}

// regions returns an option for four backends: a and b of the first region, c and d of the
// second one.
func regions(maxTunnels int) wsproxy.Option {
	return wsproxy.WithBackendConfigs(
		wsproxy.BackendConfig{ID: "c", URL: "http://c", Priority: 1},
		wsproxy.BackendConfig{ID: "a", URL: "http://a", MaxTunnels: maxTunnels},
		wsproxy.BackendConfig{ID: "b", URL: "http://b", MaxTunnels: maxTunnels},
		wsproxy.BackendConfig{ID: "d", URL: "http://d", Priority: 1},
	)
}

func TestSecondRegionIsUsedWhileTheFirstIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, regions(0))
		s.set("abcd", accepting)
		counts := make(map[string]int) // of the last call of come
		come := func(n int) string {
			t.Helper()
			clear(counts)
			for i := range n {
				counts[s.visit(1+i)]++
				time.Sleep(100 * time.Millisecond)
			}
			return s.numOpened()
		}
		if got, want := come(100), "a 50, b 50"; got != want {
			t.Errorf("backends got %q; want %q", got, want)
		}
		s.wantNeverTold("others are used")

		s.set("ab", unreachable)
		come(600) // nobody is refused
		for _, id := range []string{"c", "d"} {
			if n := counts[id]; n < 290 || n > 310 {
				t.Errorf("while the first region is down %s got %d of 600 clients; want half of them", id, n)
			}
		}
		s.wantFlags("a: unreachable; b: unreachable")
		s.wantTimesTold(1, "level=WARN", "others are used", `tier="no flag"`, "priority=1")
		s.wantNeverTold("used again")

		s.set("a", accepting) // it is tried within 30 s
		come(300)
		s.wantFlags("b: unreachable")
		s.wantTimesTold(1, "level=INFO", "used again")
		if got, want := come(100), "a 100"; got != want { // one backend of a region is enough
			t.Errorf("while b is down the backends got %q; want %q", got, want)
		}
		s.set("b", accepting)
		come(300)
		s.wantFlags("")
		if got, want := come(100), "a 50, b 50"; got != want {
			t.Errorf("afterwards the backends got %q; want %q", got, want)
		}
		s.wantTimesTold(1, "others are used")
		s.wantTimesTold(1, "used again")
		s.wantRefused()
	})
}

func TestRegionAtItsMaxTunnelsDoesNotSpill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, regions(2))
		s.set("abcd", accepting)
		for i := range 4 {
			s.open(1 + i)
		}
		proxytest.WantStatus(t, s.send(5, "/chat").ReadResponse(), 503)
		s.wantRefused("backend limit 503")
		if got, want := s.numOpened(), "a 2, b 2"; got != want {
			t.Errorf("backends got %q; want %q", got, want)
		}

		// Nor when a backend of it fails: it has another one without a flag.
		backendtest.Set(s.backend("a"), backendtest.State{NumTunnels: 2, Flags: []string{"unreachable"}})
		s.send(6, "/chat")
		s.wantRefused("backend limit 503")
		backendtest.Set(s.backend("b"), backendtest.State{NumTunnels: 2, Flags: []string{"resting"}})
		if _, at := s.open(7); at != "c" && at != "d" {
			t.Errorf("when both fail the tunnel is at %s", at)
		}
	})
}

func TestOtherBackendOfARegionTakesAll(t *testing.T) {
	for _, flag := range []string{"resting", "full", "ejected", "check failed", "unreachable"} {
		synctest.Test(t, func(t *testing.T) {
			s := newScene(t, regions(0))
			s.set("abcd", accepting)
			backendtest.Set(s.backend("a"), backendtest.State{Flags: []string{flag}})
			for i := range 20 {
				s.visit(1 + i)
			}
			if got, want := s.numOpened(), "b 20"; got != want {
				t.Errorf("while a is %s the backends got %q; want %q", flag, got, want)
			}
			s.wantNeverTold("others are used")
		})
	}
}

func TestBackendsWithFlagsAreUsedByTier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var offers []string
		s := newScene(t, wsproxy.WithBalancer(wsproxy.BalancerFunc(func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			offers = append(offers, fmt.Sprint(candidates))
			return candidates[0], nil
		})))
		s.set("abcde", accepting)
		flags := map[string]string{"a": "unreachable", "b": "check failed", "c": "ejected", "d": "full", "e": "resting"}
		var configs []wsproxy.BackendConfig
		for _, id := range []string{"a", "b", "c", "d", "e"} {
			configs = append(configs, wsproxy.BackendConfig{ID: id, URL: "http://" + id})
		}
		s.p.SetBackends(configs...)
		for id, flag := range flags {
			backendtest.Set(s.backend(id), backendtest.State{Flags: []string{flag}})
		}
		for _, n := range []int{5, 3, 2, 1} {
			s.p.SetBackends(configs[:n]...)
			s.visit(1)
		}
		if want := []string{"[d e]", "[c]", "[b]", "[a]"}; !slices.Equal(offers, want) {
			t.Errorf("offers are %q; want %q", offers, want)
		}
		s.wantTimesTold(1, "others are used", `tier="resting or full"`)
		s.wantNeverTold("used again")
		s.wantFlags("") // a can be reached
		s.visit(1)
		s.visit(1)
		s.wantTimesTold(1, "others are used")
		s.wantTimesTold(1, "used again")
	})
}

func TestThatAllBackendsFailIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		s.set("abc", unreachable)
		for i := range 1000 {
			readToEnd(s.send(1+i, "/chat"))
			time.Sleep(20 * time.Millisecond)
		}
		s.wantTimesTold(3, "level=WARN", "backend flag raised")
		s.wantTimesTold(1, "level=WARN", "others are used", "tier=unreachable", "priority=0")
		s.wantTimesTold(4, "level=WARN")
		s.wantTimesTold(0, "level=INFO")
		if len(s.refused) != 1000 || slices.ContainsFunc(s.refused, func(r string) bool { return r != "unreachable 503" }) {
			t.Errorf("%d are refused; want all, because no backend can be reached", len(s.refused))
		}
		s.set("abc", accepting)
		for i := range 1000 {
			s.visit(1 + i)
			time.Sleep(50 * time.Millisecond)
		}
		s.wantFlags("")
		s.wantTimesTold(4, "level=WARN")
		s.wantTimesTold(3, "level=INFO", "backend flag cleared")
		s.wantTimesTold(1, "level=INFO", "used again")
	})
}

// quiet makes a scene log nothing, which takes time.
var quiet = wsproxy.WithLogger(slog.New(slog.DiscardHandler))

// flood sends n upgrades, perTick at each tick, each of a client of its own that leaves at
// once. It counts the responses by status and body.
func (s *scene) flood(n, perTick int, tick time.Duration) map[string]int {
	var running sync.WaitGroup
	var mu sync.Mutex
	got := make(map[string]int)
	for i := range n {
		running.Go(func() {
			c := s.site.Dial(s.t)
			defer c.Close()
			c.WriteRequest(proxytest.UpgradeTo("/chat", fmt.Sprintf("X-Forwarded-For: 10.0.%d.%d", i/256, i%256)))
			resp := c.ReadResponse()
			body, _ := io.ReadAll(resp.Body)
			mu.Lock()
			defer mu.Unlock()
			got[strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", string(body)))]++
		})
		if i%perTick == perTick-1 {
			time.Sleep(tick)
		}
	}
	running.Wait()
	return got
}

func TestRetriesStayWithinTheirBudget(t *testing.T) {
	bad := proxytest.FakeBackend{Answer: proxytest.Refusing(502, "of a backend")}
	slowlyBad := proxytest.FakeBackend{Answer: bad.Answer, Delay: 2 * time.Second}
	for _, tt := range []struct {
		name       string
		hosts      string // that are bad, of abc
		bad        proxytest.FakeBackend
		n, perTick int // upgrades, a tick is 10 ms
		most       int // retries
		least      int // so that the budget is what bounds them
		maxRefused int // with the 502
		minRefused int
	}{
		// Two that fail at once are soon known to fail: they rest, and one of them is ejected.
		{name: "two of three", hosts: "ab", bad: bad, n: 5000, perTick: 10, most: 5000/5 + 150, maxRefused: 0},
		// All upgrades of 2 s are under way at the two when the first response comes.
		{name: "two of three, after 2 s", hosts: "ab", bad: slowlyBad, n: 5000, perTick: 10, most: 5000/5 + 150, least: 800, minRefused: 300, maxRefused: 1500},
		{name: "two of three, all at once", hosts: "ab", bad: slowlyBad, n: 1000, perTick: 1000, most: 300, least: 300, minRefused: 350, maxRefused: 600},
		{name: "all", hosts: "abc", bad: bad, n: 5000, perTick: 10, most: 5000/5 + 150, least: 1000, minRefused: 5000, maxRefused: 5000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, quiet, wsproxy.WithBalancer(wsproxy.RoundRobin()))
				s.set("abc", accepting)
				s.set(tt.hosts, tt.bad)
				got := s.flood(tt.n, tt.perTick, 10*time.Millisecond)
				retries := len(s.network.TakeDials()) - tt.n
				if retries > tt.most || retries < tt.least {
					t.Errorf("of %d upgrades there were %d retries; want %d to %d", tt.n, retries, tt.least, tt.most)
				}
				refused := got["502 of a backend"]
				if refused < tt.minRefused || refused > tt.maxRefused || got["101"]+refused != tt.n {
					t.Errorf("clients got %v with %d retries; want %d to %d times the 502 of a backend, else 101", got, retries, tt.minRefused, tt.maxRefused)
				}
			})
		})
	}
}

func TestClientGetsTheLastResponseWhenNoBackendIsLeft(t *testing.T) {
	of := func(status int, id string) proxytest.FakeBackend {
		return proxytest.FakeBackend{Answer: proxytest.Refusing(status, "of "+id, "X-From: "+id)}
	}
	gone, silent := unreachable, proxytest.FakeBackend{}
	nonsense := proxytest.FakeBackend{Answer: "nonsense\r\n\r\n"}
	for _, tt := range []struct {
		name     string
		backends []proxytest.FakeBackend
		queue    int
		status   int
		from     string // "": the proxy itself
	}{
		{name: "502, and two that are gone", backends: []proxytest.FakeBackend{of(502, "a"), gone, gone}, status: 502, from: "a"},
		{name: "502 between two that are gone", backends: []proxytest.FakeBackend{gone, of(502, "b"), gone}, status: 502, from: "b"},
		{name: "502 after two that are gone", backends: []proxytest.FakeBackend{gone, gone, of(502, "c")}, status: 502, from: "c"},
		{name: "502, 503, gone", backends: []proxytest.FakeBackend{of(502, "a"), of(503, "b"), gone}, status: 503, from: "b"},
		{name: "502, 504, 503", backends: []proxytest.FakeBackend{of(502, "a"), of(504, "b"), of(503, "c")}, status: 503, from: "c"},
		{name: "503, nonsense, silence", backends: []proxytest.FakeBackend{of(503, "a"), nonsense, silent}, status: 503, from: "a"},
		{name: "502 and 404", backends: []proxytest.FakeBackend{of(502, "a"), of(404, "b"), accepting}, status: 404, from: "b"},
		{name: "502 and 500", backends: []proxytest.FakeBackend{of(502, "a"), of(500, "b"), accepting}, status: 500, from: "b"},
		{name: "502 of the only one", backends: []proxytest.FakeBackend{of(502, "a")}, status: 502, from: "a"},
		{name: "502 and gone, with a queue", backends: []proxytest.FakeBackend{of(502, "a"), gone, gone}, queue: 10, status: 502, from: "a"},
		{name: "all are gone", backends: []proxytest.FakeBackend{gone, gone, gone}, status: 503},
		{name: "all are silent", backends: []proxytest.FakeBackend{silent, silent, silent}, status: 503},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var seen []string // by the hook
				hosts := "abc"[:len(tt.backends)]
				s := newScene(t, backendsAt(strings.Split(hosts, "")...), proxytest.FirstCandidate, queueOf(tt.queue),
					wsproxy.WithResponse(func(r *wsproxy.ProxyResponse) error {
						seen = append(seen, fmt.Sprint(r.Backend.ID(), " ", r.StatusCode))
						r.Header.Set("X-Hook", "called")
						return nil
					}))
				for i, b := range tt.backends {
					s.set(hosts[i:i+1], b)
				}
				c := s.send(1, "/chat")
				time.Sleep(10 * time.Second)
				resp := c.ReadResponse()
				proxytest.WantStatus(t, resp, tt.status)
				body, _ := io.ReadAll(resp.Body)
				var wantSeen []string
				if tt.from != "" {
					wantSeen = []string{fmt.Sprint(tt.from, " ", tt.status)}
					proxytest.WantField(t, resp.Header, "X-From", tt.from)
					proxytest.WantField(t, resp.Header, "X-Hook", "called")
					if string(body) != "of "+tt.from {
						t.Errorf("body is %q; want that of %s", body, tt.from)
					}
					s.wantRefused(fmt.Sprint("answer ", tt.status))
				} else {
					if resp.Header.Get("Retry-After") == "" {
						t.Error("no Retry-After")
					}
					s.wantRefused("unreachable 503")
				}
				if dials := s.network.TakeDials(); len(dials) > len(tt.backends) {
					t.Errorf("dials are %q; want one for each backend at most", dials)
				}
				if !slices.Equal(seen, wantSeen) {
					t.Errorf("the Response hook saw %q; want %q", seen, wantSeen)
				}
				c.Close()
				s.site.Wait()
				proxytest.WantNoTunnels(t, s.p)
			})
		})
	}
}

// The hook is asked about a response that was held back when it is the last one that is left.
func TestTryNextDropsTheHeldResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		s := newScene(t, backendsAt("a", "b"), proxytest.FirstCandidate, wsproxy.WithResponse(func(*wsproxy.ProxyResponse) error {
			calls++
			return wsproxy.ErrTryNext
		}))
		s.set("a", proxytest.FakeBackend{Answer: proxytest.Refusing(502, "of a")})
		s.set("b", unreachable)
		resp := s.send(1, "/chat").ReadResponse()
		proxytest.WantStatus(t, resp, 503)
		if calls != 1 || resp.Header.Get("Retry-After") == "" {
			t.Errorf("the hook was called %d times, and the 503 has the header %v; want once, and Retry-After", calls, resp.Header)
		}
		s.site.Wait()
		proxytest.WantNoTunnels(t, s.p)
	})
}
