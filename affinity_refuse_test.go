package wsproxy_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/backendtest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestRefuseWithoutQueueRefusesAtOnce(t *testing.T) {
	for _, tt := range []struct {
		name   string
		breaks func(s *scene)
		want   string
		dials  int
	}{
		{"cannot be reached", func(s *scene) { s.set("a", unreachable) }, "unreachable 503", 1},
		{"is unreachable", func(s *scene) {
			backendtest.Set(s.backend("a"), backendtest.State{Flags: []string{"unreachable"}})
		}, "unreachable 503", 0},
		{"has failed its check", func(s *scene) {
			backendtest.Set(s.backend("a"), backendtest.State{Flags: []string{"check failed"}})
		}, "unreachable 503", 0},
		{"has its MaxTunnels", func(s *scene) { backendtest.Set(s.backend("a"), backendtest.State{NumTunnels: 5}) }, "backend limit 503", 0},
		{"has answered 503", func(s *scene) { s.set("a", proxytest.FakeBackend{Answer: proxytest.Refusing(503, "")}) }, "answer 503", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, proxytest.FirstCandidate, wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{affinityKey}, Refuse: true}),
					wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "a", URL: "http://a", MaxTunnels: 5}, wsproxy.BackendConfig{ID: "b", URL: "http://b"}))
				s.set("ab", accepting)
				b := s.newBrowser(1)
				b.wantVisit("a", true)
				cookie := b.cookie
				tt.breaks(s)
				s.network.TakeDials()
				_, resp := b.send("/chat")
				proxytest.WantStatus(t, resp, 503)
				s.wantRefused(tt.want)
				if dials := s.network.TakeDials(); len(dials) != tt.dials || b.cookie != cookie {
					t.Errorf("dials are %q; want %d, and the cookie is still the same: %t", dials, tt.dials, b.cookie == cookie)
				}
				if !strings.HasPrefix(tt.want, "answer") && resp.Header.Get("Retry-After") == "" {
					t.Error("no Retry-After")
				}
				backendtest.Set(s.backend("a"), backendtest.State{})
				s.set("a", accepting)
				b.wantVisit("a", false)

				// A backend that drains, or is no longer there, does not come back.
				s.p.SetBackends(wsproxy.BackendConfig{ID: "a", URL: "http://a", Drain: true}, wsproxy.BackendConfig{ID: "b", URL: "http://b"})
				b.wantVisit("b", true)
				s.p.SetBackends(wsproxy.BackendConfig{ID: "a", URL: "http://a"})
				b.wantVisit("a", true)
			})
		})
	}
}

// No time is left for another backend.
func TestRefuseLeavesAllTheTimeToTheBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, proxytest.FirstCandidate, wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{affinityKey}, Refuse: true}))
		s.set("abc", accepting)
		b := s.newBrowser(1)
		b.wantVisit("a", true)
		s.set("a", proxytest.FakeBackend{Answer: proxytest.Switching, Delay: 9 * time.Second})
		c := s.send(1, "/chat", "Cookie: "+b.cookie)
		time.Sleep(9 * time.Second)
		proxytest.WantStatus(t, c.ReadResponse(), 101)
		synctest.Wait()
		if at := s.opened[len(s.opened)-1]; at != "a" {
			t.Errorf("client is at %s; want a", at)
		}
		proxytest.HangUp(t, c)
	})
}

// All clients of the only backend that they may use are bound to it: one of them finds out that it
// works again.
func TestRefuseTriesABackendAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, proxytest.FirstCandidate, wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{affinityKey}, Refuse: true}))
		s.set("abc", accepting)
		b := s.newBrowser(1)
		b.wantVisit("a", true)
		s.set("a", unreachable)
		b.send("/chat")
		s.wantFlags("a: unreachable")
		s.set("a", accepting)
		time.Sleep(time.Second)
		b.wantVisit("a", false)
		s.wantFlags("")
	})
}

func TestRefuseWaitsForItsBackendAndHoldsUpNobody(t *testing.T) {
	both := wsproxy.WithBackendConfigs(
		wsproxy.BackendConfig{ID: "a", URL: "http://a", MaxTunnels: 1}, wsproxy.BackendConfig{ID: "b", URL: "http://b", MaxTunnels: 2})
	refuse := wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{affinityKey}, Refuse: true})
	for _, tt := range []struct {
		name string
		free func(s *scene, first *wstest.Peer)
		want string
	}{
		{"a place is free", func(s *scene, first *wstest.Peer) { proxytest.HangUp(s.t, first) }, "a"},
		{"it drains", func(s *scene, _ *wstest.Peer) {
			ctx, cancel := context.WithCancel(s.t.Context())
			cancel()
			s.p.Drain(ctx, "a", 0)
		}, "b"},
		{"it is removed", func(s *scene, _ *wstest.Peer) {
			s.p.SetBackends(wsproxy.BackendConfig{ID: "b", URL: "http://b", MaxTunnels: 2})
		}, "b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, both, refuse, queueOf(10), proxytest.FirstCandidate)
				s.set("ab", accepting)
				b := s.newBrowser(1)
				first, resp := b.send("/chat")
				proxytest.WantStatus(t, resp, 101)
				waiting := s.send(1, "/chat", "Cookie: "+b.cookie)
				if n := s.p.Stats().Waiting; n != 1 {
					t.Fatalf("%d upgrades wait; want the one that is bound to a", n)
				}
				s.newBrowser(2).wantVisit("b", true) // who comes later is not held up
				tt.free(s, first)
				synctest.Wait()
				proxytest.WantStatus(t, waiting.ReadResponse(), 101)
				synctest.Wait()
				if at := s.opened[len(s.opened)-1]; at != tt.want {
					t.Errorf("the upgrade that has waited is at %s; want %s", at, tt.want)
				}
				waiting.Close()
				first.Conn().Close() // if it is closed already, that is no fault
			})
		})
	}
	t.Run("it comes back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newScene(t, both, refuse, queueOf(10), proxytest.FirstCandidate)
			s.set("ab", accepting)
			b := s.newBrowser(1)
			b.wantVisit("a", true)
			s.set("a", unreachable)
			waiting := s.send(1, "/chat", "Cookie: "+b.cookie)
			time.Sleep(3 * time.Second)
			s.newBrowser(2).wantVisit("b", true)
			s.set("a", accepting)
			time.Sleep(time.Second)
			proxytest.WantStatus(t, waiting.ReadResponse(), 101)
			synctest.Wait()
			if at := s.opened[len(s.opened)-1]; at != "a" {
				t.Errorf("the upgrade that has waited is at %s; want a", at)
			}
			waiting.Close()
		})
	})
	t.Run("it does not come back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newScene(t, both, refuse, queueOf(10), proxytest.FirstCandidate)
			s.set("ab", accepting)
			b := s.newBrowser(1)
			b.wantVisit("a", true)
			s.set("a", unreachable)
			c := s.send(1, "/chat", "Cookie: "+b.cookie)
			time.Sleep(11 * time.Second)
			proxytest.WantStatus(t, c.ReadResponse(), 503)
			s.wantRefused("queue timeout 503")
		})
	})
}

// Each of 200 clients comes straight back with its cookie, and is closed no second time.
func TestDrainClosesClientsWithCookiesOnce(t *testing.T) {
	for _, over := range []time.Duration{-1, 0, time.Minute} {
		t.Run(over.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n = 200
				s := newScene(t, byCookie)
				s.set("abc", accepting)
				var mu sync.Mutex
				closed := make(map[int]int)
				homes := make(map[int]string)
				var running sync.WaitGroup
				t.Cleanup(running.Wait)
				t.Cleanup(func() { s.p.Close() })
				var stay func(b *browser, c *wstest.Peer)
				stay = func(b *browser, c *wstest.Peer) { // until its tunnel ends
					defer c.Conn().Close()
					c.Conn().SetDeadline(time.Time{})
					f, err := c.ReadFrame()
					if err != nil || f.Opcode != wstest.OpClose {
						return
					}
					c.WriteFrames(f)
					again := s.site.Dial(t)
					again.WriteRequest(proxytest.UpgradeTo("/chat", "Cookie: "+b.cookie))
					resp := again.ReadResponse()
					mu.Lock()
					defer mu.Unlock()
					closed[b.client]++
					if resp.StatusCode != 101 || len(resp.Cookies()) != 1 {
						t.Errorf("client %d came back and got %d with the cookies %v; want 101 with a new one", b.client, resp.StatusCode, resp.Cookies())
						return
					}
					b.cookie = "wsproxy=" + resp.Cookies()[0].Value
					running.Go(func() { stay(b, again) })
				}
				for client := range n {
					b := s.newBrowser(client)
					c, resp := b.send("/chat")
					proxytest.WantStatus(t, resp, 101)
					homes[client] = s.opened[len(s.opened)-1]
					running.Go(func() { stay(b, c) })
				}
				s.opened = nil
				if err := s.p.Drain(t.Context(), "b", over); err != nil {
					t.Errorf("Drain() = %v; want nil", err)
				}
				synctest.Wait()
				mu.Lock()
				defer mu.Unlock()
				for client := range n {
					want := 0
					if homes[client] == "b" {
						want = 1
					}
					if closed[client] != want {
						t.Errorf("client %d of %s was closed %d times; want %d", client, homes[client], closed[client], want)
					}
				}
				s.wantTunnels("a 100, b 0, c 100")
				if got := s.numOpened(); strings.Contains(got, "b") {
					t.Errorf("tunnels opened meanwhile: %s; want none at b", got)
				}
			})
		})
	}
}

// Clients that are bound come back to their backend, so that there is nothing to be gained.
func TestRebalanceStopsIfClientsAreBound(t *testing.T) {
	for name, opt := range map[string]wsproxy.Option{
		"by cookie": byCookie, "by key": wsproxy.WithAffinity(wsproxy.Affinity{Key: wsproxy.ByHeader("X-Client")}),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, opt)
				wantNotMoving(t, s)
			})
		})
	}
}
