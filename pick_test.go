package wsproxy_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestUpgradeRetriesOnBackendThatWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, network := startInMemory(t) // where nobody is at a and b
		network.Set("c", proxytest.FakeBackend{Answer: proxytest.Switching})
		tryOnce(t, s)
		wantDials(t, network, "a at 0s", "b at 0s", "c at 0s")
		time.Sleep(time.Second)
		tryOnce(t, s)
		wantDials(t, network, "a at 1s", "c at 1s")
	})
}

func TestUpgradeWaitsForSilentBackendOnlyOnce(t *testing.T) {
	withContext := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
			defer cancel()
			h.ServeHTTP(w, r.WithContext(ctx))
		})
	}
	asItIs := func(h http.Handler) http.Handler { return h }
	for _, tt := range []struct {
		name      string
		wrap      func(http.Handler) http.Handler
		configure func(*http.Server)
		isFirstIn bool // the first client gets its 101 in time, too
	}{
		{"clients leave after 2 s", asItIs, func(*http.Server) {}, false},
		{"middleware ends the context after 2 s", withContext, func(*http.Server) {}, true},
		{"ReadTimeout is 2 s", asItIs, func(s *http.Server) { s.ReadTimeout = 2 * time.Second }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := proxytest.NewNetwork()
				network.Set("a", proxytest.FakeBackend{}) // never answers
				network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
				p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a", "http://b"), proxytest.FirstCandidate, wsproxy.WithDialer(network.Dial))
				s := proxytest.ServeInMemory(t, tt.wrap(p), tt.configure)

				first := s.Dial(t)
				first.WriteRequest(proxytest.UpgradeTo("/chat"))
				synctest.Wait()
				time.Sleep(2 * time.Second)
				if tt.isFirstIn {
					proxytest.WantSwitch(t, first)
				}
				first.Close()
				s.Wait()
				wantDials(t, network, map[bool][]string{true: {"a at 0s", "b at 1s"}, false: {"a at 0s"}}[tt.isFirstIn]...)
				wantStates(t, p, wsproxy.BackendFailing, wsproxy.BackendUp)

				// While it rests nobody waits for it; then one client finds out.
				if tt.isFirstIn {
					time.Sleep(500 * time.Millisecond)
				}
				for range 7 {
					client := s.Dial(t)
					client.WriteRequest(proxytest.UpgradeTo("/chat"))
					if tt.isFirstIn {
						time.Sleep(time.Second) // half of what the middleware allows, at most
					}
					synctest.Wait()
					proxytest.WantSwitch(t, client)
					proxytest.WantEcho(t, client)
				}
				wantStates(t, p, wsproxy.BackendFailing, wsproxy.BackendUp)
			})
		})
	}
}

func TestUpgradePassesOverSilentBackend(t *testing.T) {
	t.Parallel() // half of the handshake timeout passes in real time
	const handshakeTimeout = 4 * time.Second
	for _, tt := range []struct {
		name string
		turn func(*sync.WaitGroup, func())
	}{
		{"one after another", func(_ *sync.WaitGroup, f func()) { f() }},
		{"at once", func(wg *sync.WaitGroup, f func()) { wg.Go(f) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			silent, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer silent.Close()
			_, s := proxytest.Start(t, wsproxy.WithBackends("http://"+silent.Addr().String(), wstest.StartEcho(t)),
				wsproxy.WithTimeouts(wsproxy.Timeouts{Handshake: handshakeTimeout}))
			begin := time.Now()
			var running sync.WaitGroup
			var mu sync.Mutex
			switched := 0
			for range 20 {
				client := wstest.Dial(t, s.URL)
				tt.turn(&running, func() {
					client.Write([]byte(proxytest.UpgradeTo("/chat")))
					answer := make([]byte, len("HTTP/1.1 101"))
					if _, err := client.Read(answer); err == nil && string(answer) == "HTTP/1.1 101" {
						mu.Lock()
						defer mu.Unlock()
						switched++
					}
				})
			}
			running.Wait()
			if took := time.Since(begin); switched != 20 || took > handshakeTimeout {
				t.Errorf("%d of 20 upgrades got their 101 in %v; want all in %v", switched, took, handshakeTimeout)
			}
		})
	}
}

func TestUpgradeRetriesOnNextBackend(t *testing.T) {
	for _, tt := range []struct {
		name  string
		first proxytest.FakeBackend
	}{
		{"dial refused", proxytest.FakeBackend{DialErr: errors.New("refused")}},
		{"502", proxytest.FakeBackend{Answer: proxytest.Refusing(502, "")}},
		{"503", proxytest.FakeBackend{Answer: proxytest.Refusing(503, "busy")}},
		{"504", proxytest.FakeBackend{Answer: proxytest.Refusing(504, "")}},
		{"no HTTP", proxytest.FakeBackend{Answer: "nonsense\r\n\r\n"}},
		{"wrong Accept", proxytest.FakeBackend{Answer: strings.Replace(proxytest.Switching, "{accept}", proxytest.SampleAccept, 1)}},
		{"Accept missing", proxytest.FakeBackend{Answer: strings.Replace(proxytest.Switching, "Sec-WebSocket-Accept", "X", 1)}},
		{"six interim answers", proxytest.FakeBackend{Answer: strings.Repeat(proxytest.Head("HTTP/1.1 103 Early Hints"), 6) + proxytest.Switching}},
		{"header too long", proxytest.FakeBackend{Answer: proxytest.SwitchingWith("X-Long: " + strings.Repeat("x", 64<<10))}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			network := proxytest.NewNetwork()
			network.Set("a", tt.first)
			network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
			var dialed []string
			p, s := proxytest.Start(t, wsproxy.WithBackends("http://a", "http://b"), proxytest.FirstCandidate, wsproxy.WithDialer(network.Dial),
				wsproxy.WithTrace(&wsproxy.Trace{Attempted: func(i wsproxy.AttemptInfo) {
					dialed = append(dialed, fmt.Sprintf("%d %s %t", i.Attempt, i.Backend.ID(), i.Err == nil))
				}}))
			client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
			proxytest.WantEcho(t, client)
			if want := []string{"1 http://a false", "2 http://b true"}; !slices.Equal(dialed, want) {
				t.Errorf("attempts are %q; want %q", dialed, want)
			}
			if i := proxytest.OnlyTunnel(t, p).Info(); i.Attempts != 2 || i.URL.String() != "/chat" {
				t.Errorf("tunnel to %s after %d attempts; want /chat after 2", i.URL, i.Attempts)
			}
			states := []wsproxy.BackendState{p.Backends()[0].State(), p.Backends()[1].State()}
			if want := []wsproxy.BackendState{wsproxy.BackendFailing, wsproxy.BackendUp}; !slices.Equal(states, want) {
				t.Errorf("states are %v; want %v", states, want)
			}
			proxytest.HangUp(t, client)
			s.Wait()
			proxytest.WantNoTunnels(t, p)
		})
	}
}

func TestUpgradeForwardsRefusalWithoutRetry(t *testing.T) {
	for _, status := range []int{200, 302, 400, 401, 403, 404, 426, 429, 500, 501, 505} {
		network := proxytest.NewNetwork()
		network.Set("a", proxytest.FakeBackend{Answer: proxytest.Refusing(status, "")})
		network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
		p, s := proxytest.Start(t, wsproxy.WithBackends("http://a", "http://b"), proxytest.FirstCandidate, wsproxy.WithDialer(network.Dial))
		resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
		proxytest.WantStatus(t, resp, status)
		if n := len(network.TakeDials()); n != 1 {
			t.Errorf("%d: %d dials; want 1", status, n)
		}
		if state := p.Backends()[0].State(); state != wsproxy.BackendUp {
			t.Errorf("%d: backend is %v; want up: it has answered", status, state)
		}
	}
}

func TestUpgradeForwardsResponseOfLastBackend(t *testing.T) {
	network := proxytest.NewNetwork()
	network.Set("a", proxytest.FakeBackend{DialErr: errors.New("refused")})
	network.Set("b", proxytest.FakeBackend{Answer: proxytest.Refusing(502, "b", "X-From: b")})
	network.Set("c", proxytest.FakeBackend{Answer: proxytest.Refusing(503, "c", "X-From: c", "Retry-After: 7")})
	p, s := proxytest.Start(t, wsproxy.WithBackends("http://a", "http://b", "http://c"), proxytest.FirstCandidate, wsproxy.WithDialer(network.Dial))
	resp, body := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
	proxytest.WantField(t, resp.Header, "X-From", "c")
	proxytest.WantField(t, resp.Header, "Retry-After", "7")
	if body != "c" {
		t.Errorf("client got body %q; want c", body)
	}
	s.Wait()
	proxytest.WantNoTunnels(t, p)
}

func TestUpgradeTriesThreeBackendsAtMost(t *testing.T) {
	network := proxytest.NewNetwork() // where nobody is
	var errs []error
	p, s := proxytest.Start(t, wsproxy.WithBackends("http://a", "http://b", "http://c", "http://d"), wsproxy.WithDialer(network.Dial),
		wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, err error) {
			errs = append(errs, err)
			w.WriteHeader(http.StatusTeapot)
		}))
	proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	dials := network.TakeDials()
	if len(dials) != 3 {
		t.Errorf("dials are %q; want 3", dials)
	}
	joined, ok := errs[0].(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 3 {
		t.Fatalf("error is %v; want a join of three", errs[0])
	}
	for i, err := range joined.Unwrap() {
		failed, ok := err.(*wsproxy.BackendError)
		if !ok || failed.Op != "dial" || !strings.HasPrefix(dials[i], strings.TrimPrefix(failed.ID, "http://")) {
			t.Errorf("error %d is %#v; want a *BackendError about dial %s", i, err, dials[i])
		}
	}
	s.Wait()
	proxytest.WantNoTunnels(t, p)
	if st := p.Stats(); st.Failed != 1 || st.Refused != 0 {
		t.Errorf("Stats() has %d failed, %d refused; want 1 and 0", st.Failed, st.Refused)
	}
}

func TestPickOffersBackendsNotTriedYet(t *testing.T) {
	network := proxytest.NewNetwork()
	network.Set("c", proxytest.FakeBackend{Answer: proxytest.Switching})
	var offers []string
	balancer := wsproxy.BalancerFunc(func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
		var ids []string
		for _, b := range candidates {
			ids = append(ids, b.ID())
		}
		offers = append(offers, strings.Join(ids, " "))
		return candidates[0], nil
	})
	_, s := proxytest.Start(t, wsproxy.WithBackendConfigs(
		wsproxy.BackendConfig{ID: "a", URL: "http://a"},
		wsproxy.BackendConfig{ID: "b", URL: "http://b"},
		wsproxy.BackendConfig{ID: "c", URL: "http://c", MaxTunnels: 1},
		wsproxy.BackendConfig{ID: "d", URL: "http://d"},
	), wsproxy.WithBalancer(balancer), wsproxy.WithDialer(network.Dial))
	proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	want := []string{
		"a b c d", "b c d", "c d", // a and b fail
		"d", // c is full; a and b, which are worse, do not take its place
	}
	if !slices.Equal(offers, want) {
		t.Errorf("offers are %q; want %q", offers, want)
	}
}

func TestPickOfUnknownBackendBecomes500(t *testing.T) {
	other := proxytest.NewProxy(t, wsproxy.WithBackends("http://elsewhere")).Backends()[0]
	for name, picked := range map[string]*wsproxy.Backend{"nil": nil, "foreign": other} {
		t.Run(name, func(t *testing.T) {
			network := proxytest.NewNetwork()
			p, s := proxytest.Start(t, wsproxy.WithBackends("http://a"), wsproxy.WithDialer(network.Dial),
				wsproxy.WithBalancer(wsproxy.BalancerFunc(func(*http.Request, []*wsproxy.Backend) (*wsproxy.Backend, error) {
					return picked, nil
				})))
			resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
			proxytest.WantStatus(t, resp, http.StatusInternalServerError)
			if dials := network.TakeDials(); len(dials) != 0 {
				t.Errorf("dials are %q; want none", dials)
			}
			s.Wait()
			proxytest.WantNoTunnels(t, p)
			if n := other.NumTunnels(); n != 0 {
				t.Errorf("foreign backend has %d tunnels; want 0", n)
			}
		})
	}
}

// retrying returns a balancer whose second pick ends so.
func retrying(second func() error) wsproxy.Option {
	calls := 0
	return wsproxy.WithBalancer(wsproxy.BalancerFunc(func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
		if calls++; calls == 2 {
			return nil, second()
		}
		return candidates[0], nil
	}))
}

func TestPickMayRefuseSecondAttempt(t *testing.T) {
	network := proxytest.NewNetwork() // where nobody is
	backends := wsproxy.WithBackends("http://a", "http://b", "http://c")
	p, s := proxytest.Start(t, backends, wsproxy.WithDialer(network.Dial), retrying(func() error {
		return &wsproxy.StatusError{Status: 409, Header: http.Header{"X-Session": {"lost"}}, Err: errors.New("your session's backend is down")}
	}))
	resp, body := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantStatus(t, resp, http.StatusConflict)
	proxytest.WantField(t, resp.Header, "X-Session", "lost")
	if want := "your session's backend is down\n"; body != want {
		t.Errorf("client got body %q; want %q", body, want)
	}
	if dials := network.TakeDials(); len(dials) != 1 {
		t.Errorf("dials are %q; want one: the balancer's error is final", dials)
	}
	s.Wait()
	proxytest.WantNoTunnels(t, p)
}

func TestPickMayAbortSecondAttempt(t *testing.T) {
	var book proxytest.LogBook
	p, s := proxytest.Start(t, book.Option(), wsproxy.WithBackends("http://a", "http://b"), wsproxy.WithDialer(proxytest.NewNetwork().Dial),
		retrying(func() error { panic(http.ErrAbortHandler) }))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.UpgradeTo("/chat"))
	client.WantEOF()
	if lines := book.Lines("level=ERROR"); len(lines) > 0 {
		t.Errorf("log has %q at Error; want nothing: it is no fault", lines)
	}
	s.Wait()
	proxytest.WantNoTunnels(t, p)
}

// startInMemory serves a proxy over fakeNet's backends at a, b, c and d.
func startInMemory(t *testing.T, opts ...wsproxy.Option) (*wsproxy.Proxy, *proxytest.Site, *proxytest.Network) {
	network := proxytest.NewNetwork()
	opts = append([]wsproxy.Option{
		wsproxy.WithBackends("http://a", "http://b", "http://c", "http://d"), proxytest.FirstCandidate, wsproxy.WithDialer(network.Dial),
	}, opts...)
	p := proxytest.NewProxy(t, opts...)
	return p, proxytest.ServeInMemory(t, p), network
}

func wantDials(t *testing.T, n *proxytest.Network, want ...string) {
	t.Helper()
	if got := n.TakeDials(); !slices.Equal(got, want) {
		t.Errorf("dials are %q; want %q", got, want)
	}
}
