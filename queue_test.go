package wsproxy_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A waitingRoom is a proxy whose upgrades wait, with what became of them.
type waitingRoom struct {
	t       *testing.T
	p       *wsproxy.Proxy
	s       *proxytest.Site
	network *proxytest.Network
	start   time.Time

	mu      sync.Mutex
	opened  []string // "path at time"
	refused []string // "path: reason status"
}

func newWaitingRoom(t *testing.T, wrap func(http.Handler) http.Handler, opts ...wsproxy.Option) *waitingRoom {
	w := &waitingRoom{t: t, start: time.Now()}
	trace := wsproxy.WithTrace(&wsproxy.Trace{
		Opened: func(i wsproxy.OpenedInfo) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.opened = append(w.opened, fmt.Sprintf("%s at %v", i.Request.URL.Path, time.Since(w.start)))
		},
		Refused: func(i wsproxy.RefusedInfo) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.refused = append(w.refused, fmt.Sprintf("%s: %v %d", i.Request.URL.Path, i.Reason, i.Status))
		},
	})
	w.network = proxytest.NewNetwork()
	opts = append([]wsproxy.Option{wsproxy.WithBackends("http://a"), trace, wsproxy.WithDialer(w.network.Dial)}, opts...)
	w.p = proxytest.NewProxy(t, opts...)
	if wrap == nil {
		wrap = func(h http.Handler) http.Handler { return h }
	}
	w.s = proxytest.ServeInMemory(t, wrap(w.p))
	return w
}

// come sends an upgrade for path, and waits until it has got as far as it can.
func (w *waitingRoom) come(path string) *wstest.Peer {
	client := w.s.Dial(w.t)
	client.WriteRequest(proxytest.UpgradeTo(path))
	synctest.Wait()
	return client
}

// wantOpened checks the tunnels that have opened since the last call.
func (w *waitingRoom) wantOpened(want ...string) {
	w.t.Helper()
	w.take("opened", &w.opened, want)
}

// wantRefused checks the upgrades that were refused since the last call.
func (w *waitingRoom) wantRefused(want ...string) {
	w.t.Helper()
	w.take("refused", &w.refused, want)
}

func (w *waitingRoom) take(what string, got *[]string, want []string) {
	w.t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(*got, want) {
		w.t.Errorf("%s: %q; want %q", what, *got, want)
	}
	*got = nil
}

func queueOf(n int) wsproxy.Option { return wsproxy.WithLimits(wsproxy.Limits{Queue: n}) }

func TestRestartOfTheOnlyBackendIsAPause(t *testing.T) {
	for _, downtime := range []time.Duration{300 * time.Millisecond, time.Second, 3 * time.Second, 5 * time.Second} {
		for _, isSilent := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v, silent %t", downtime, isSilent), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					const n = 200
					w := newWaitingRoom(t, nil, queueOf(n))
					if isSilent { // first a connection that is closed, then refused ones
						w.network.Set("a", proxytest.FakeBackend{DialErr: errors.New("refused")})
					}
					clients := make([]*wstest.Peer, n)
					for i := range clients {
						clients[i] = w.come(fmt.Sprintf("/%d", i))
						time.Sleep(downtime / n)
					}
					if waiting := w.p.Stats().Waiting; waiting < n-1 {
						t.Errorf("%d upgrades wait; want %d, or one less while it tries the backend", waiting, n)
					}
					w.network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
					for _, c := range clients {
						proxytest.WantSwitch(t, c)
					}
					synctest.Wait()
					if took := time.Since(w.start); took > downtime+2500*time.Millisecond { // 100 a second
						t.Errorf("the last one has its 101 after %v", took)
					}
					for i, opened := range w.opened {
						var path int
						var at string
						fmt.Sscanf(opened, "/%d at %s", &path, &at)
						if d, _ := time.ParseDuration(at); path != i || i == 0 && d > downtime+250*time.Millisecond {
							t.Errorf("tunnel %d is %s; want /%d, and the first one 250 ms after the restart at the latest", i, opened, i)
						}
					}
					w.wantRefused()
					if waiting := w.p.Stats().Waiting; waiting != 0 {
						t.Errorf("%d upgrades wait in the end", waiting)
					}
				})
			})
		}
	}
}

func TestWaitingUpgradeGoesOnWhenAPlaceIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWaitingRoom(t, nil, queueOf(10), wsproxy.WithBackendConfigs(wsproxy.BackendConfig{URL: "http://a", MaxTunnels: 2}))
		w.network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
		clients := []*wstest.Peer{w.come("/0"), w.come("/1"), w.come("/2"), w.come("/3"), w.come("/4")}
		w.wantOpened("/0 at 0s", "/1 at 0s")
		time.Sleep(time.Second)
		clients[1].Close()
		w.wantOpened("/2 at 1s")
		time.Sleep(time.Second)
		clients[0].Close()
		w.wantOpened("/3 at 2s")
		time.Sleep(time.Second)
		if err := w.p.SetBackends(wsproxy.BackendConfig{URL: "http://a", MaxTunnels: 3}); err != nil {
			t.Fatal(err)
		}
		w.wantOpened("/4 at 3s")
		w.wantRefused()
	})
}

// Backend a gets a place for one who waits though others have come meanwhile.
func TestUpgradesDoNotOvertakeThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWaitingRoom(t, nil, queueOf(10), wsproxy.WithLimits(wsproxy.Limits{Queue: 10, Handshakes: wsproxy.Rate{PerSecond: 2, Burst: 100}}))
		for i := range 3 {
			w.come(fmt.Sprintf("/%d", i))
		}
		time.Sleep(100 * time.Millisecond)
		w.network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
		time.Sleep(300 * time.Millisecond)
		w.come("/3")
		time.Sleep(2 * time.Second)
		w.wantOpened("/0 at 200ms", "/1 at 700ms", "/2 at 1.2s", "/3 at 1.45s")
		w.come("/4") // nobody waits
		w.wantOpened("/4 at 2.4s")
	})
}

func TestUpgradeForOneBackendHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bound := wsproxy.BalancerFunc(func(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			for _, b := range candidates {
				if r.URL.Path[1:2] == b.ID() {
					return b, nil
				}
			}
			return nil, fmt.Errorf("backend of %s: %w", r.URL.Path, wsproxy.ErrLimit)
		})
		w := newWaitingRoom(t, nil, queueOf(10), wsproxy.WithBalancer(bound), wsproxy.WithBackendConfigs(
			wsproxy.BackendConfig{ID: "a", URL: "http://a", MaxTunnels: 1}, wsproxy.BackendConfig{ID: "b", URL: "http://b", MaxTunnels: 1}))
		w.network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
		w.network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
		a := w.come("/a")
		w.come("/a2") // waits for a
		b := w.come("/b")
		w.come("/b2") // waits for any
		w.wantOpened("/a at 0s", "/b at 0s")
		time.Sleep(time.Second)
		b.Close()
		w.wantOpened("/b2 at 1s")
		a.Close()
		time.Sleep(time.Second)
		w.wantOpened("/a2 at 1.005s")
	})
}

func TestEachWayOutOfTheQueueHasItsReason(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts []wsproxy.Option
		wrap func(http.Handler) http.Handler
		end  func(*waitingRoom, *wstest.Peer)
		want string
		resp int // 0: none
	}{
		{name: "deadline", end: func(*waitingRoom, *wstest.Peer) { time.Sleep(10 * time.Second) }, want: "/: queue timeout 503", resp: 503},
		{name: "deadline of middleware", wrap: func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithTimeout(r.Context(), time.Second)
				defer cancel()
				h.ServeHTTP(w, r.WithContext(ctx))
			})
		}, end: func(*waitingRoom, *wstest.Peer) { time.Sleep(time.Second) }, want: "/: deadline 504", resp: 504},
		{name: "client leaves", end: func(_ *waitingRoom, c *wstest.Peer) { c.Close() }, want: "/: client left 502"},
		{name: "shutdown", end: func(w *waitingRoom, _ *wstest.Peer) { w.p.Close() }, want: "/: shutdown 503", resp: 503},
		{name: "the set is empty", end: func(w *waitingRoom, _ *wstest.Peer) { w.p.SetBackends() }, want: "/: no backend 503", resp: 503},
	} {
		for _, why := range []string{"full", "down"} {
			t.Run(tt.name+", backend is "+why, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWaitingRoom(t, tt.wrap, append([]wsproxy.Option{queueOf(1), wsproxy.WithBackendConfigs(wsproxy.BackendConfig{URL: "http://a", MaxTunnels: 1})}, tt.opts...)...)
					if why == "full" {
						w.network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
						w.come("/first")
					}
					client := w.come("/")
					w.wantRefused()
					third := w.come("/third")
					w.wantRefused("/third: queue full 503")
					resp := third.ReadResponse()
					proxytest.WantStatus(t, resp, 503)
					if resp.Header.Get("Retry-After") == "" {
						t.Error("the one for whom the queue was full got no Retry-After")
					}
					tt.end(w, client)
					w.wantRefused(tt.want)
					if tt.resp != 0 {
						resp := client.ReadResponse()
						proxytest.WantStatus(t, resp, tt.resp)
						if tt.resp == 503 && resp.Header.Get("Retry-After") == "" {
							t.Error("no Retry-After")
						}
					}
					if waiting := w.p.Stats().Waiting; waiting != 0 {
						t.Errorf("%d upgrades wait", waiting)
					}
				})
			})
		}
	}
}

func TestBalancerMayEndAnUpgradeThatWaits(t *testing.T) {
	for name, pick := range map[string]func() (*wsproxy.Backend, error){
		"error": func() (*wsproxy.Backend, error) { return nil, errors.New("no") },
		"panic": func() (*wsproxy.Backend, error) { panic("no") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				isBad := false
				w := newWaitingRoom(t, nil, queueOf(10), wsproxy.WithBackendConfigs(wsproxy.BackendConfig{URL: "http://a", MaxTunnels: 1}),
					wsproxy.WithBalancer(wsproxy.BalancerFunc(func(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
						if isBad && r.URL.Path == "/1" {
							return pick()
						}
						return candidates[0], nil
					})))
				w.network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
				first := w.come("/0")
				w.come("/1")
				w.come("/2")
				isBad = true
				first.Close()
				time.Sleep(time.Second)
				w.wantRefused("/1: hook 500")
				w.wantOpened("/0 at 0s", "/2 at 0s")
			})
		})
	}
}

func TestWithoutAQueueNobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, n := range []int{0, -1} {
			w := newWaitingRoom(t, nil, queueOf(n))
			w.come("/")
			w.wantRefused("/: unreachable 503")
		}
	})
}

// Upgrades that wait for one backend neither fill the queue for another one, nor are they
// overtaken in their own.
func TestFullQueueRefusesNobodyWhoHasAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bound := wsproxy.BalancerFunc(func(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			for _, b := range candidates {
				if r.URL.Path[1:2] == b.ID() {
					return b, nil
				}
			}
			return nil, wsproxy.ErrLimit
		})
		w := newWaitingRoom(t, nil, queueOf(1), wsproxy.WithBalancer(bound), wsproxy.WithBackendConfigs(
			wsproxy.BackendConfig{ID: "a", URL: "http://a", MaxTunnels: 1}, wsproxy.BackendConfig{ID: "b", URL: "http://b"}))
		w.network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
		w.network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
		a := w.come("/a")
		w.come("/a-waits")
		w.come("/a-too-many")
		w.come("/b1")
		w.come("/b2")
		w.wantOpened("/a at 0s", "/b1 at 0s", "/b2 at 0s")
		w.wantRefused("/a-too-many: queue full 503")
		a.Close()
		w.wantOpened("/a-waits at 0s")
	})
}

func TestOnlyUpgradesThatMayGoOnLaterWait(t *testing.T) {
	local := proxytest.FakeBackend{DialErr: &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}}
	refused := proxytest.FakeBackend{DialErr: errors.New("refused")}
	for _, tt := range []struct {
		name     string
		backends map[string]proxytest.FakeBackend
		refused  []string
		dials    int // at most
	}{
		{"a fault of this host", map[string]proxytest.FakeBackend{"a": local}, []string{"/: unreachable 503"}, 1},
		{"a response", map[string]proxytest.FakeBackend{"a": {Answer: proxytest.Refusing(502, "")}}, []string{"/: answer 502"}, 1},
		{"a response, and no connection", map[string]proxytest.FakeBackend{"a": {Answer: proxytest.Refusing(502, "")}, "b": refused}, []string{"/: answer 502"}, 2},
		{"nonsense, and no connection", map[string]proxytest.FakeBackend{"a": {Answer: "nonsense\r\n\r\n"}, "b": refused}, []string{"/: unreachable 503"}, 2},
		{"no connection", map[string]proxytest.FakeBackend{"a": refused}, nil, 6},
		{"no connection, and a fourth backend works", map[string]proxytest.FakeBackend{
			"a": refused, "b": refused, "c": refused, "d": {Answer: proxytest.Switching}}, nil, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var urls []string
				for _, id := range slices.Sorted(maps.Keys(tt.backends)) {
					urls = append(urls, "http://"+id)
				}
				w := newWaitingRoom(t, nil, queueOf(1), wsproxy.WithBackends(urls...), proxytest.FirstCandidate)
				for id, b := range tt.backends {
					w.network.Set(id, b)
				}
				w.come("/")
				time.Sleep(time.Second)
				w.wantRefused(tt.refused...)
				if dials := w.network.TakeDials(); len(dials) > tt.dials {
					t.Errorf("dials are %q; want %d at most", dials, tt.dials)
				}
			})
		})
	}
}

func TestLastAttemptThatEndsWithTheDeadlineIsUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		w := newWaitingRoom(t, nil, queueOf(1), wsproxy.WithDialer(silent))
		w.come("/")
		time.Sleep(10 * time.Second)
		w.wantRefused("/: unreachable 503")
	})
}

// The tunnel of its trial has lived for less than a second when the backend goes down.
func TestUpgradeWaitsForABackendThatGoesDownDuringItsTrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, backendsAt("a"), queueOf(10))
		s.set("a", losing)
		s.visitAndLose(1)
		time.Sleep(1100 * time.Millisecond)
		s.set("a", accepting)
		s.open(2) // the trial
		time.Sleep(100 * time.Millisecond)
		s.set("a", unreachable)
		for i := range 5 {
			s.send(3+i, "/chat")
			time.Sleep(100 * time.Millisecond)
		}
		s.opened = nil
		s.set("a", accepting)
		time.Sleep(300 * time.Millisecond)
		if got, want := s.numOpened(), "a 5"; got != want {
			t.Errorf("after 300 ms the tunnels of those who waited are at %q; want %q", got, want)
		}
		s.wantRefused()
	})
}

// Some services restart all of their backends at once.
func TestRestartOfAllBackendsIsAPause(t *testing.T) {
	for _, numBackends := range []int{2, 3, 5, 10, 20} {
		for _, downtime := range []time.Duration{time.Second, 3 * time.Second, 8 * time.Second} {
			t.Run(fmt.Sprintf("%d backends, %v", numBackends, downtime), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					const n = 100
					var urls []string
					for i := range numBackends {
						urls = append(urls, fmt.Sprintf("http://b%d", i))
					}
					w := newWaitingRoom(t, nil, queueOf(n), wsproxy.WithBackends(urls...))
					clients := make([]*wstest.Peer, n)
					for i := range clients {
						clients[i] = w.come(fmt.Sprintf("/%d", i))
						time.Sleep(downtime / n)
					}
					for i := range numBackends {
						w.network.Set(fmt.Sprintf("b%d", i), proxytest.FakeBackend{Answer: proxytest.Switching})
					}
					for _, c := range clients {
						proxytest.WantSwitch(t, c)
					}
					w.wantRefused()
					for _, b := range w.p.Backends() {
						if got, share := b.NumTunnels(), n/numBackends; got < share/2 {
							t.Errorf("%s has %d of %d tunnels; want about %d", b, got, n, share)
						}
					}
				})
			})
		}
	}
}

// An ownTimeout is the error of a dialer's own timeout.
type ownTimeout struct{}

func (ownTimeout) Error() string { return "own timeout" }
func (ownTimeout) Timeout() bool { return true }

// Clients come at a higher rate than the one at which those who wait go on at first.
func TestQueueIsEmptyAgainAfterAShortOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWaitingRoom(t, nil, queueOf(500))
		run := func(b proxytest.FakeBackend, d time.Duration) {
			w.network.Set("a", b)
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second / 150) {
				w.come("/")
			}
		}
		run(accepting, 2*time.Second)
		run(unreachable, 300*time.Millisecond)
		run(accepting, 30*time.Second)
		w.wantRefused()
		if n := w.p.Stats().Waiting; n > 0 {
			t.Errorf("30 s after a restart of 300 ms %d wait", n)
		}
	})
}

// The flag comes from a check, and not from an attempt that gives its place back.
func TestWaitingUpgradeGoesToASpareBackendWhenTheFirstFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var isDown atomic.Bool
		s := newScene(t, wsproxy.WithBackendConfigs(
			wsproxy.BackendConfig{ID: "b", URL: "http://b", Priority: 1},
			wsproxy.BackendConfig{ID: "a", URL: "http://a", MaxTunnels: 1},
		), queueOf(100), wsproxy.WithHealthCheck(wsproxy.HealthCheck{Fall: 1, Probe: func(_ context.Context, b *wsproxy.Backend) error {
			if isDown.Load() && b.ID() == "a" {
				return errors.New("down")
			}
			return nil
		}}))
		s.set("ab", accepting)
		s.open(1)
		time.Sleep(3 * time.Second)
		isDown.Store(true)
		s.send(2, "/waits")
		for s.flags() == "" {
			time.Sleep(10 * time.Millisecond)
		}
		if synctest.Wait(); s.p.Stats().Waiting != 0 {
			t.Error("a has a flag and b is free, and one waits")
		}
		s.send(3, "/newcomer")
		if len(s.opened) == 2 && s.p.Stats().Waiting == 1 {
			t.Error("a newcomer has overtaken it")
		}
		time.Sleep(10 * time.Second)
		s.wantRefused()
	})
}

// It does not wait, with or without a queue.
func TestUpgradeThatWasAnsweredTriesAnUnreachableBackend(t *testing.T) {
	for _, queue := range []int{0, 10} {
		synctest.Test(t, func(t *testing.T) {
			s := newScene(t, backendsAt("a", "b"), queueOf(queue), proxytest.FirstCandidate)
			s.set("a", accepting)
			s.set("b", unreachable)
			s.set("a", proxytest.FakeBackend{Answer: proxytest.Refusing(502, "")})
			s.send(1, "/") // both get a flag
			time.Sleep(300 * time.Millisecond)
			s.set("b", accepting)
			if got := s.send(2, "/").ReadResponse().StatusCode; got != 101 {
				t.Errorf("queue %d: %d, %s", queue, got, s.flags())
			}
		})
	}
}

// A dialer may have a timeout of its own, which is no deadline of the upgrade.
func TestTimeoutOfADialerRaisesTheFlagOfABackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int64
		w := newWaitingRoom(t, nil, queueOf(100), wsproxy.WithDialer(func(context.Context, string, string) (net.Conn, error) {
			dials.Add(1)
			time.Sleep(time.Millisecond)
			return nil, ownTimeout{}
		}))
		for i := range 50 {
			w.come(fmt.Sprintf("/%d", i))
		}
		time.Sleep(4 * time.Second)
		n := dials.Load()
		time.Sleep(5 * time.Second)
		if n = dials.Load() - n; n > 30 {
			t.Errorf("%d dials in 5 s; want 5 a second", n)
		}
		if f := w.p.Backends()[0].Health().Flags[0]; f.Until.Before(time.Now().Add(-2 * time.Second)) {
			t.Errorf("after 9 s of failures: %+v", f)
		}
	})
}

func TestTurnAtTheDeadlineIsAQueueTimeout(t *testing.T) {
	for range 50 { // two timers are over at the same time
		synctest.Test(t, func(t *testing.T) {
			w := newWaitingRoom(t, nil, queueOf(10), wsproxy.WithBackendConfigs(wsproxy.BackendConfig{URL: "http://a", MaxTunnels: 1}))
			w.network.Set("a", accepting)
			w.come("/0")
			w.come("/1")
			time.Sleep(10 * time.Second)
			w.p.SetBackends(wsproxy.BackendConfig{URL: "http://a", MaxTunnels: 2})
			time.Sleep(2 * time.Second)
			w.wantRefused("/1: queue timeout 503")
		})
	}
}

func TestHealthHookThatBlocksKeepsNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		block := make(chan struct{})
		defer close(block)
		s := newScene(t, wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "a", URL: "http://a", MaxTunnels: 1}), queueOf(10),
			wsproxy.WithTrace(&wsproxy.Trace{Health: func(wsproxy.HealthInfo) { <-block }}))
		s.set("a", unreachable)
		s.send(1, "/")
		s.set("a", accepting)
		time.Sleep(5 * time.Second)
		s.send(2, "/")
		time.Sleep(11 * time.Second)
		if n := s.p.Stats().Failed; n > 0 {
			t.Errorf("another upgrade has waited in vain: %d failed", n)
		}
	})
}
