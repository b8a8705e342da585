package wsproxy_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/backendtest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestMaxTunnelsCountsPendingUpgrades(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := proxytest.NewBackendInMemory(t)
		p := proxytest.NewProxy(t, wsproxy.WithBackendConfigs(wsproxy.BackendConfig{URL: "http://a", MaxTunnels: 2}), backend.Option())
		s := proxytest.ServeInMemory(t, p)
		first, second := s.Dial(t), s.Dial(t)
		first.WriteRequest(proxytest.UpgradeTo("/chat"))
		leg1 := backend.Accept(t)
		second.WriteRequest(proxytest.UpgradeTo("/chat"))
		leg2 := backend.Accept(t)

		resp, _ := proxytest.Finish(t, s.Dial(t), proxytest.UpgradeTo("/chat"))
		proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
		wantRetryAfter(t, resp.Header)

		leg1.ReadRequest()
		leg1.SendRaw([]byte(proxytest.Refusing(403, "")))
		proxytest.WantStatus(t, first.ReadResponse(), http.StatusForbidden)
		synctest.Wait()
		third := s.Dial(t)
		third.WriteRequest(proxytest.UpgradeTo("/chat"))
		backend.Accept(t).AcceptUpgrade(nil)
		proxytest.WantSwitch(t, third)
		leg2.AcceptUpgrade(nil)
		proxytest.WantSwitch(t, second)
		resp, _ = proxytest.Finish(t, s.Dial(t), proxytest.UpgradeTo("/chat"))
		proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
	})
}

// wantStates checks the states of the backends, in configuration order.
func wantStates(t testing.TB, p *wsproxy.Proxy, want ...wsproxy.BackendState) {
	t.Helper()
	for i, b := range p.Backends() {
		if got := b.State(); got != want[i] {
			t.Errorf("backend %s is %v; want %v", b.ID(), got, want[i])
		}
	}
}

// A queue does not make such an upgrade wait: see endsSearch.
func TestFaultsOfThisHostBlameNoBackend(t *testing.T) {
	faults := []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.EADDRNOTAVAIL, syscall.EPERM,
	}
	for _, errno := range faults {
		for _, queue := range []int{0, 10} {
			network, book := proxytest.NewNetwork(), new(proxytest.LogBook)
			fault := proxytest.FakeBackend{DialErr: &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", errno)}}
			network.Set("a", fault)
			network.Set("b", fault)
			p, s := proxytest.Start(t, wsproxy.WithBackends("http://a", "http://b"), wsproxy.WithDialer(network.Dial), book.Option(),
				wsproxy.WithLimits(wsproxy.Limits{Queue: queue}))
			resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/"))
			proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
			if resp.Header.Get("Retry-After") == "" {
				t.Errorf("%v, queue of %d: the client got no Retry-After", errno, queue)
			}
			if dials := network.TakeDials(); len(dials) != 2 {
				t.Errorf("%v, queue of %d: the upgrade made %d dials; want 2", errno, queue, len(dials))
			}
			wantStates(t, p, wsproxy.BackendUp, wsproxy.BackendUp)
			if lines := book.Lines("level=WARN"); len(lines) > 0 {
				t.Errorf("%v, queue of %d: the log has %q; want no warning", errno, queue, lines)
			}
			s.Wait()
		}
	}
}

func TestBackendStaysUpAfterShortDeadlineOfMiddleware(t *testing.T) {
	for allowed, want := range map[time.Duration]wsproxy.BackendState{
		1900 * time.Millisecond: wsproxy.BackendUp, // half of it for the first attempt
		2 * time.Second:         wsproxy.BackendFailing,
	} {
		synctest.Test(t, func(t *testing.T) {
			network := proxytest.NewNetwork()
			network.Set("a", proxytest.FakeBackend{}) // never answers
			network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
			p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a", "http://b"), proxytest.FirstCandidate, wsproxy.WithDialer(network.Dial))
			s := proxytest.ServeInMemory(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithTimeout(r.Context(), allowed)
				defer cancel()
				p.ServeHTTP(w, r.WithContext(ctx))
			}))
			client := s.Dial(t)
			client.WriteRequest(proxytest.UpgradeTo("/chat"))
			proxytest.WantSwitch(t, client)
			wantStates(t, p, want, wsproxy.BackendUp)
			proxytest.HangUp(t, client)
		})
	}
}

func TestBackendIsProbedByOneUpgradeAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s, network := startInMemory(t, wsproxy.WithBackends("http://a", "http://b"))
		network.Set("a", proxytest.FakeBackend{}) // never answers
		network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
		for range 2 {
			first := s.Dial(t)
			first.WriteRequest(proxytest.UpgradeTo("/chat"))
			synctest.Wait()
			if dials := network.TakeDials(); len(dials) != 1 {
				t.Errorf("dials are %q; want a to be tried", dials)
			}
			if p.Backends()[0].State() == wsproxy.BackendFailing { // nobody else waits for it
				for range 20 {
					client := s.Dial(t)
					client.WriteRequest(proxytest.UpgradeTo("/chat"))
					synctest.Wait()
					proxytest.WantSwitch(t, client)
					proxytest.HangUp(t, client)
				}
			}
			time.Sleep(5 * time.Second) // half of what the upgrade has
			proxytest.WantSwitch(t, first)
			proxytest.HangUp(t, first)
			network.TakeDials()
			time.Sleep(2 * time.Second)
		}
		network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
		time.Sleep(2 * time.Second)
		for range 2 {
			client := s.Dial(t)
			client.WriteRequest(proxytest.UpgradeTo("/chat"))
			proxytest.WantSwitch(t, client)
			proxytest.HangUp(t, client)
		}
		if dials := network.TakeDials(); len(dials) != 2 || dials[0][0] != 'a' || dials[1][0] != 'a' {
			t.Errorf("dials are %q; want a, which works again", dials)
		}
		wantStates(t, p, wsproxy.BackendUp, wsproxy.BackendUp)
	})
}

// Any client can send what a backend closes the connection for. It must not be able to
// keep backends out of use, and so to part those that are to meet on one of them.
func TestBackendRestsOneSecondAfterBadResponse(t *testing.T) {
	for name, answer := range map[string]string{"answers wrongly": "nonsense\r\n\r\n", "answers 503": proxytest.Refusing(503, "")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, s, network := startInMemory(t)
				network.Set("a", proxytest.FakeBackend{Answer: answer})
				network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
				for range 4 {
					tryOnce(t, s)
					tryOnce(t, s)
					dials := network.TakeDials()
					if len(dials) != 3 || dials[0][0] != 'a' || dials[1][0] != 'b' || dials[2][0] != 'b' {
						t.Errorf("dials are %q; want a once, and b twice", dials)
					}
					time.Sleep(time.Second)
				}
			})
		})
	}
}

func TestBackendIsTriedAtOnceAfterChangeOfAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := wsproxy.BackendConfig{ID: "a", URL: "http://a"} // where nobody is
		b := wsproxy.BackendConfig{URL: "http://b"}
		p, s, network := startInMemory(t, wsproxy.WithBackendConfigs(a, b))
		network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
		network.Set("new", proxytest.FakeBackend{Answer: proxytest.Switching})
		tryOnce(t, s)
		a.Weight = 2
		p.SetBackends(a, b)
		wantStates(t, p, wsproxy.BackendFailing, wsproxy.BackendUp)
		a.URL = "http://new"
		p.SetBackends(a, b)
		wantStates(t, p, wsproxy.BackendUp, wsproxy.BackendUp)
		tryOnce(t, s)
		wantDials(t, network, "a at 0s", "b at 0s", "new at 0s")
	})
}

func TestBackendStaysUpAfterClientLeavesEarly(t *testing.T) {
	for _, tt := range []struct {
		after time.Duration
		want  wsproxy.BackendState
	}{
		{0, wsproxy.BackendUp},
		{time.Second - time.Nanosecond, wsproxy.BackendUp},
		{time.Second, wsproxy.BackendFailing},
	} {
		t.Run(tt.after.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, s, network := startInMemory(t, wsproxy.WithBackends("http://a", "http://b"))
				network.Set("a", proxytest.FakeBackend{})
				client := s.Dial(t)
				client.WriteRequest(proxytest.UpgradeTo("/chat"))
				synctest.Wait()
				time.Sleep(tt.after)
				client.Close()
				s.Wait()
				wantDials(t, network, "a at 0s") // and nobody for a client that has gone
				wantStates(t, p, tt.want, wsproxy.BackendUp)
				proxytest.WantNoTunnels(t, p)
			})
		})
	}
}

func TestBackendStaysUpAfterShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s, network := startInMemory(t, wsproxy.WithBackends("http://a", "http://b"))
		network.Set("a", proxytest.FakeBackend{})
		client := s.Dial(t)
		client.WriteRequest(proxytest.UpgradeTo("/chat"))
		time.Sleep(3 * time.Second)
		p.Close()
		proxytest.WantStatus(t, client.ReadResponse(), http.StatusServiceUnavailable)
		wantStates(t, p, wsproxy.BackendUp, wsproxy.BackendUp)
	})
}

func TestBackendStaysUpAfterSlowRewrite(t *testing.T) {
	for _, tt := range []struct {
		takes  time.Duration
		status int
	}{
		{9 * time.Second, http.StatusSwitchingProtocols},
		{11 * time.Second, http.StatusGatewayTimeout},
	} {
		t.Run(tt.takes.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, s, network := startInMemory(t, wsproxy.WithBackends("http://a", "http://b"),
					wsproxy.WithRewrite(func(*wsproxy.ProxyRequest) error { time.Sleep(tt.takes); return nil }))
				network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
				network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
				client := s.Dial(t)
				client.WriteRequest(proxytest.UpgradeTo("/chat"))
				time.Sleep(tt.takes)
				proxytest.WantStatus(t, client.ReadResponse(), tt.status)
				wantStates(t, p, wsproxy.BackendUp, wsproxy.BackendUp)
				client.Close()
				s.Wait()
				proxytest.WantNoTunnels(t, p)
			})
		})
	}
}

func TestBackendRestsOneTo30Seconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s, network := startInMemory(t, wsproxy.WithBackends("http://a", "http://b"))
		network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
		for _, wait := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
			wait *= time.Second
			network.Start = time.Now()
			tryOnce(t, s)
			wantDials(t, network, "a at 0s", "b at 0s")

			// The wait is up to a fifth shorter.
			time.Sleep(wait*8/10 - time.Nanosecond - time.Since(network.Start))
			network.Start = time.Now()
			tryOnce(t, s)
			wantDials(t, network, "b at 0s")
			if state := p.Backends()[0].State(); state != wsproxy.BackendFailing {
				t.Errorf("a is %v; want failing", state)
			}
			time.Sleep(wait*2/10 + time.Nanosecond)
		}
		// It is back: one success, and the next failure waits 1 s again.
		network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
		tryOnce(t, s)
		if state := p.Backends()[0].State(); state != wsproxy.BackendUp {
			t.Errorf("a is %v; want up", state)
		}
		network.Set("a", proxytest.FakeBackend{DialErr: errors.New("refused")})
		tryOnce(t, s)
		network.TakeDials()
		time.Sleep(time.Second)
		network.Start = time.Now()
		tryOnce(t, s)
		wantDials(t, network, "a at 0s", "b at 0s")
	})
}

func TestBackendIsTriedWhileFailingIfNoOtherIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, network := startInMemory(t, wsproxy.WithBackends("http://a"))
		wantTry := func(want int) {
			t.Helper()
			if got := tryOnce(t, s); got != want {
				t.Errorf("upgrade got %d; want %d", got, want)
			}
		}
		wantTry(http.StatusServiceUnavailable)
		network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
		wantTry(http.StatusSwitchingProtocols)
	})
}

func TestBackendCountsConcurrentFailuresOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, network := startInMemory(t, wsproxy.WithBackends("http://a", "http://b"))
		network.Set("a", proxytest.FakeBackend{}) // is about to restart
		network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
		var clients []*wstest.Peer
		for range 10 {
			client := s.Dial(t)
			client.WriteRequest(proxytest.UpgradeTo("/chat"))
			clients = append(clients, client)
		}
		time.Sleep(5 * time.Second)
		for _, client := range clients {
			proxytest.WantSwitch(t, client)
			client.Close()
		}
		s.Wait()
		network.TakeDials()
		network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
		time.Sleep(time.Second)
		network.Start = time.Now()
		tryOnce(t, s)
		wantDials(t, network, "a at 0s")
	})
}

func TestBackendStatsCountUpgradesUnderWay(t *testing.T) {
	b := wstest.StartBackend(t)
	p, s := proxytest.Start(t, wsproxy.WithBackends(b.URL()))
	want := func(when string, upgrading, tunnels int) {
		t.Helper()
		backend := p.Backends()[0]
		if !proxytest.Becomes(func() bool {
			st := backend.Stats()
			return st.Upgrading == upgrading && st.Tunnels == tunnels && backend.NumTunnels() == upgrading+tunnels
		}) {
			st := backend.Stats()
			t.Errorf("%s: %d upgrading, %d tunnels, NumTunnels() = %d; want %d and %d", when, st.Upgrading, st.Tunnels, backend.NumTunnels(), upgrading, tunnels)
		}
	}
	client := wstest.Dial(t, s.URL)
	client.RequestUpgrade("/", nil)
	backend := b.Accepted(t)
	want("before the response", 1, 0)
	backend.AcceptUpgrade(nil)
	client.WantUpgrade()
	want("after the 101", 0, 1)

	leaving := wstest.Dial(t, s.URL)
	leaving.RequestUpgrade("/", nil)
	b.Accepted(t)
	want("with a second client", 1, 1)
	leaving.Close()
	want("after it has left", 0, 1)
	client.Close()
	backend.Close()
	want("in the end", 0, 0)
}

func TestStateSinceIsWhenTheStateChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Hour)
		s := newScene(t, backendsAt("a", "b"), proxytest.FirstCandidate)
		a := s.backend("a")
		since := time.Now()
		step := func(name string, do func(), state wsproxy.BackendState, isChange bool) {
			t.Helper()
			time.Sleep(time.Minute)
			do()
			if isChange {
				since = time.Now()
			}
			time.Sleep(time.Minute)
			if got := a.State(); got != state || !a.StateSince().Equal(since) {
				t.Errorf("%s: backend is %v since %v; want %v since %v", name, got, a.StateSince(), state, since)
			}
		}
		answer := func(b proxytest.FakeBackend) func() {
			return func() { s.set("ab", b); s.send(1, "/chat").Close(); synctest.Wait() }
		}
		busy := proxytest.FakeBackend{Answer: proxytest.Refusing(503, "", "Retry-After: 30")}
		step("at first", func() {}, wsproxy.BackendUp, false)
		step("it is full", answer(busy), wsproxy.BackendUp, false)
		step("it fails", answer(proxytest.FakeBackend{Answer: proxytest.Refusing(502, "")}), wsproxy.BackendFailing, true)
		step("it is unreachable too", answer(unreachable), wsproxy.BackendFailing, false)
		step("it works", answer(accepting), wsproxy.BackendUp, true)
		step("it drains", func() { s.p.Drain(t.Context(), "a", 0) }, wsproxy.BackendDraining, true)
		step("it drains by its configuration too", func() { s.setBackends("Ab") }, wsproxy.BackendDraining, false)
		step("Drain is over, its configuration is not", func() { s.p.Resume("a") }, wsproxy.BackendDraining, false)
		step("its configuration is", func() { s.setBackends("ab"); s.p.Resume("a") }, wsproxy.BackendUp, true)
		step("another backend comes", func() { s.setBackends("abc") }, wsproxy.BackendUp, false)
		step("it has a tunnel", func() { s.set("a", accepting); s.open(2) }, wsproxy.BackendUp, false)
		step("it is removed", func() { s.setBackends("bc") }, wsproxy.BackendRemoved, true)
		step("it comes back", func() { s.setBackends("ab") }, wsproxy.BackendUp, true)
		step("it fails again", answer(unreachable), wsproxy.BackendFailing, true)
		step("it has a new address", func() { s.p.SetBackends(wsproxy.BackendConfig{ID: "a", URL: "http://c"}) }, wsproxy.BackendUp, true)
	})
}

// Whatever changes at once, the last change is the one that is recorded.
func TestStateSinceFollowsChangesAtOnce(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackendConfigs(configsOf("ab")...))
	a := p.Backends()[0]
	for range 200 {
		before := a.StateSince()
		var changing sync.WaitGroup
		for _, change := range []func(){
			func() { p.SetBackends(configsOf("Ab")...); p.SetBackends(configsOf("ab")...) },
			func() { p.Drain(t.Context(), "a", -1); p.Resume("a") },
			func() {
				backendtest.Set(a, backendtest.State{Flags: []string{"resting"}})
				backendtest.Set(a, backendtest.State{})
			},
		} {
			changing.Go(change) // ends with its changes
		}
		changing.Wait()
		p.Resume("a") // which a set with Drain has refused
		if a.State() != wsproxy.BackendUp {
			t.Fatalf("backend is %v after all changes; want up", a.State())
		}
		since := a.StateSince()
		p.Drain(t.Context(), "a", -1)
		if !since.After(before) || !a.StateSince().After(since) {
			t.Fatalf("backend is up since %v, and drains since %v; it was up since %v before", since, a.StateSince(), before)
		}
		p.Resume("a")
	}
}

func TestBackendHasMaxTunnelsAndPriorityOfItsConfiguration(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackendConfigs(
		wsproxy.BackendConfig{ID: "a", URL: "http://a", MaxTunnels: 5, Priority: 2},
		wsproxy.BackendConfig{ID: "b", URL: "http://b", MaxTunnels: -5, Priority: -2}))
	want := func(i, maxTunnels, priority int) {
		t.Helper()
		if b := p.Backends()[i]; b.MaxTunnels() != maxTunnels || b.Priority() != priority {
			t.Errorf("backend %s has MaxTunnels %d, Priority %d; want %d, %d", b.ID(), b.MaxTunnels(), b.Priority(), maxTunnels, priority)
		}
	}
	want(0, 5, 2)
	want(1, 0, -2)
	p.SetBackends(wsproxy.BackendConfig{ID: "a", URL: "http://a"})
	want(0, 0, 0)
}
