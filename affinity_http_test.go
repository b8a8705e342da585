package wsproxy_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/backendtest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
)

// serving is a backend that accepts upgrades, and answers any other request with its name.
func serving(name string) proxytest.FakeBackend {
	return proxytest.FakeBackend{Choose: func(r *http.Request) proxytest.FakeBackend {
		if r.Header.Get("Upgrade") != "" {
			return accepting
		}
		return proxytest.FakeBackend{Answer: proxytest.Refusing(200, name, "Connection: close") + "{end}"}
	}}
}

// newHTTPScene returns a scene of backends a, b and c for both kinds of requests.
func newHTTPScene(t testing.TB, opts ...wsproxy.Option) *scene {
	s := newScene(t, append([]wsproxy.Option{withHTTP, proxytest.FirstCandidate}, opts...)...)
	for _, id := range []string{"a", "b", "c"} {
		s.network.Set(id, serving(id))
	}
	return s
}

// ask sends a request that is no upgrade. It returns the status with the body, and whether the
// client got a cookie.
func (b *browser) ask(method, path string, lines ...string) (got string, hasCookie bool) {
	b.s.t.Helper()
	if b.cookie != "" {
		lines = append(lines, "Cookie: "+b.cookie)
	}
	c := b.s.site.Dial(b.s.t)
	defer c.Close()
	c.WriteRequest(proxytest.Head(append([]string{method + " " + path + " HTTP/1.1", "Host: chat.example",
		fmt.Sprintf("X-Forwarded-For: 198.51.%d.%d", b.client/256, b.client%256)}, lines...)...))
	resp := c.ReadResponse()
	body, _ := io.ReadAll(resp.Body)
	for _, cookie := range resp.Cookies() {
		b.cookie = cookie.Name + "=" + cookie.Value
	}
	synctest.Wait()
	return strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", string(body))), len(resp.Cookies()) > 0
}

// wantAsk checks what ask returns for a GET.
func (b *browser) wantAsk(want string, hasCookie bool) {
	b.s.t.Helper()
	if got, gotCookie := b.ask("GET", "/chat/xhr"); got != want || gotCookie != hasCookie {
		b.s.t.Errorf("client %d got %q, a cookie: %t; want %q, %t", b.client, got, gotCookie, want, hasCookie)
	}
}

// A session begins with plain HTTP and goes on with a WebSocket, or falls back from it.
func TestAffinityIsOneForBothKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newHTTPScene(t, byCookie, wsproxy.WithBalancer(wsproxy.RoundRobin()))
		polling, falling := s.newBrowser(1), s.newBrowser(2)
		polling.wantAsk("200 a", true)
		falling.wantVisit("b", true)
		for range 3 {
			polling.wantAsk("200 a", false)
			polling.wantVisit("a", false)
			falling.wantAsk("200 b", false)
			falling.wantVisit("b", false)
		}
		polling.cookie = "wsproxy=forged"
		polling.wantAsk("200 c", true)
	})
}

func TestSessionOfSockJSIsBoundWithoutACookie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newHTTPScene(t, wsproxy.WithBalancer(wsproxy.RoundRobin()),
			wsproxy.WithAffinity(wsproxy.Affinity{Key: wsproxy.BySockJSSession("//chat")}))
		homes := make(map[string]bool)
		for i := range 20 {
			b := s.newBrowser(i)
			path := fmt.Sprintf("//chat/%03d/session%d/", i, i)
			home, _ := b.ask("GET", path+"xhr_streaming")
			homes[home] = true
			for _, transport := range []string{"xhr_send", "xhr", "eventsource"} {
				if at, hasCookie := b.ask("POST", path+transport, "Content-Length: 0"); at != home || hasCookie {
					t.Errorf("%s of session %d is at %s, got a cookie: %t; want %s, without one", transport, i, at, hasCookie, home)
				}
			}
			c, resp := b.send(path + "websocket")
			proxytest.WantStatus(t, resp, 101)
			if at := s.opened[len(s.opened)-1]; "200 "+at != home {
				t.Errorf("the WebSocket of session %d is at %s; want %s", i, at, home)
			}
			c.Close()
		}
		if len(homes) != 3 {
			t.Errorf("sessions are at %v; want some at each backend", homes)
		}
	})
}

// A client of Socket.IO whose tunnel was closed by the drain comes back with the first request of
// a new session, which is no upgrade.
func TestNewSessionLeavesDrainingBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newHTTPScene(t, byCookie)
		b := s.newBrowser(1)
		b.wantVisit("a", true)
		if err := s.p.Drain(t.Context(), "a", 0); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct{ target, want string }{
			{"/socket.io/?EIO=4&transport=polling&sid=x", "200 a"},
			{"/socket.io/?EIO=4&transport=polling", "200 b"},
			{"/socket.io/?EIO=4&transport=polling&sid=y", "200 b"},
		} {
			if got, _ := b.ask("GET", tt.target); got != tt.want {
				t.Errorf("GET %s = %q; want %q", tt.target, got, tt.want)
			}
		}
		b.wantVisit("b", false)
	})
}

// A backend that answers 502 to all requests gives its clients no reason to leave but a new session.
func TestNewSessionLeavesEjectedBackend(t *testing.T) {
	for name, tt := range map[string]struct {
		option wsproxy.Option
		want   string
	}{
		"by cookie":              {byCookie, "200 b"},
		"by cookie, with Refuse": {wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{affinityKey}, Refuse: true}), "502 down"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newHTTPScene(t, tt.option)
				b := s.newBrowser(1)
				b.wantAsk("200 a", true)
				s.set("a", proxytest.FakeBackend{Answer: proxytest.Refusing(502, "down", "Connection: close") + "{end}"})
				backendtest.Set(s.backend("a"), backendtest.State{Flags: []string{"ejected"}})
				b.wantAsk("502 down", false)
				for range 2 {
					if got, _ := b.ask("GET", "/socket.io/?EIO=4&transport=polling"); got != tt.want {
						t.Errorf("a new session got %q; want %q", got, tt.want)
					}
				}
			})
		})
	}
}

// While a backend drains, its sessions over plain HTTP end there. A WebSocket is moved.
func TestDrainingBackendServesBoundPlainHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newHTTPScene(t, byCookie)
		polling, both := s.newBrowser(1), s.newBrowser(2)
		polling.wantAsk("200 a", true)
		both.wantAsk("200 a", true)
		if err := s.p.Drain(t.Context(), "a", 0); err != nil {
			t.Fatal(err)
		}
		polling.wantAsk("200 a", false)
		s.newBrowser(3).wantAsk("200 b", true)
		both.wantVisit("b", true)
		both.wantAsk("200 b", false)
		s.setBackends("bc")
		polling.wantAsk("200 b", true)
	})
}

func TestBoundPlainHTTPNeedsNoPlaceAmongTunnels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newHTTPScene(t, byCookie, wsproxy.WithBackendConfigs(
			wsproxy.BackendConfig{ID: "a", URL: "http://a", MaxTunnels: 5}, wsproxy.BackendConfig{ID: "b", URL: "http://b"}))
		b := s.newBrowser(1)
		b.wantAsk("200 a", true)
		backendtest.Set(s.backend("a"), backendtest.State{NumTunnels: 5})
		b.wantAsk("200 a", false)
		b.wantVisit("b", true)
		backendtest.Set(s.backend("a"), backendtest.State{})
	})
}

func TestBoundPlainHTTPIsMovedIfItsBackendFails(t *testing.T) {
	for _, flag := range []string{"resting", "full", "ejected"} {
		synctest.Test(t, func(t *testing.T) {
			s := newHTTPScene(t, byCookie)
			b := s.newBrowser(1)
			b.wantAsk("200 a", true)
			backendtest.Set(s.backend("a"), backendtest.State{Flags: []string{flag}})
			s.newBrowser(2).wantAsk("200 b", true)
			b.wantAsk("200 a", false)
		})
	}
	for _, flag := range []string{"unreachable", "check failed"} {
		synctest.Test(t, func(t *testing.T) {
			s := newHTTPScene(t, byCookie)
			b := s.newBrowser(1)
			b.wantAsk("200 a", true)
			backendtest.Set(s.backend("a"), backendtest.State{Flags: []string{flag}})
			b.wantAsk("200 b", true)
			b.wantAsk("200 b", false)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		s := newHTTPScene(t, byCookie)
		b := s.newBrowser(1)
		b.wantAsk("200 a", true)
		s.set("a", unreachable)
		cookie := b.cookie
		if got, hasCookie := b.ask("POST", "/chat/xhr_send", "Content-Length: 0"); !strings.HasPrefix(got, "503") || hasCookie || b.cookie != cookie {
			t.Errorf("a POST got %q; want 503 and no cookie: it is not sent again", got)
		}
		time.Sleep(5 * time.Second)
		b.wantAsk("200 b", true) // a is tried again
	})
}

// A probe that fails everywhere, because of its path or right after the start, moves no session.
func TestBoundClientsStayWhileTheCheckOfEveryBackendFails(t *testing.T) {
	fail := func(s *scene, names ...string) {
		for _, name := range names {
			backendtest.Set(s.backend(name), backendtest.State{Flags: []string{"check failed"}})
		}
	}
	t.Run("by cookie", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newHTTPScene(t, byCookie)
			b := s.newBrowser(1)
			fail(s, "a")
			b.wantAsk("200 b", true)
			fail(s, "b", "c")
			b.wantAsk("200 b", false)
			b.wantVisit("b", false)
			backendtest.Set(s.backend("a"), backendtest.State{})
			b.wantAsk("200 a", true)
		})
	})
	t.Run("by key", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newHTTPScene(t, wsproxy.WithAffinity(wsproxy.Affinity{Key: wsproxy.BySockJSSession("/chat")}))
			ask := func() string {
				var answers []string
				for i := range 10 {
					got, _ := s.newBrowser(1).ask("GET", fmt.Sprintf("/chat/000/session-%d/xhr", i))
					answers = append(answers, got)
				}
				return strings.Join(answers, ", ")
			}
			before := ask()
			if !strings.Contains(before, "200 a") || !strings.Contains(before, "200 b") {
				t.Fatalf("the sessions got %s; want some on each backend", before)
			}
			fail(s, "a", "b", "c")
			if after := ask(); after != before {
				t.Errorf("the sessions got %s; want %s", after, before)
			}
		})
	})
}

func TestRefuseHoldsForPlainHTTP(t *testing.T) {
	refuse := wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{affinityKey}, Refuse: true})
	for _, tt := range []struct {
		name   string
		breaks func(s *scene)
		dials  int
	}{
		{"cannot be reached", func(s *scene) { s.set("a", unreachable) }, 1},
		{"is unreachable", func(s *scene) {
			backendtest.Set(s.backend("a"), backendtest.State{Flags: []string{"unreachable"}})
		}, 0},
		{"has failed its check", func(s *scene) {
			backendtest.Set(s.backend("a"), backendtest.State{Flags: []string{"check failed"}})
		}, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newHTTPScene(t, refuse, queueOf(10))
			b := s.newBrowser(1)
			b.wantAsk("200 a", true)
			s.network.TakeDials()
			tt.breaks(s)
			b.wantAsk("503 Service Unavailable", false)
			s.wantRefused("unreachable 503")
			if dials := s.network.TakeDials(); len(dials) != tt.dials {
				t.Errorf("%s: dials are %q; want %d", tt.name, dials, tt.dials)
			}
		})
	}
}

// A cookie, or the key of a session, exempts plain HTTP from the rates of upgrades.
func TestBoundPlainHTTPTakesNoRate(t *testing.T) {
	one := wsproxy.Rate{PerSecond: 0.001, Burst: 1}
	for name, limits := range map[string]wsproxy.Limits{
		"Handshakes": {Handshakes: one}, "HandshakesPerClient": {HandshakesPerClient: one},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newHTTPScene(t, wsproxy.WithLimits(limits),
					wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{affinityKey}, Key: wsproxy.BySockJSSession("/chat")}))
				b := s.newBrowser(1)
				b.wantAsk("200 a", true)
				for range 5 {
					b.wantAsk("200 a", false)
				}
				stranger := s.newBrowser(1)
				for range 5 {
					if got, _ := stranger.ask("GET", "/chat/000/session/xhr"); !strings.HasPrefix(got, "200") {
						t.Errorf("a request of a session got %q; want 200", got)
					}
				}
				if got, _ := stranger.ask("GET", "/chat/xhr", "Cookie: wsproxy=forged"); strings.HasPrefix(got, "200") {
					t.Errorf("a request that is not bound got %q; want it to exceed the rate", got)
				}
				if _, resp := b.send("/chat"); resp.StatusCode == 101 {
					t.Error("an upgrade of a bound client got a tunnel; want it to exceed the rate")
				}
			})
		})
	}
}

// A key that is the admitted user is not known when the rates are looked at, and is used all the same.
func TestPlainHTTPIsBoundByTheUserThatWasAdmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newHTTPScene(t, wsproxy.WithBalancer(wsproxy.RoundRobin()),
			wsproxy.WithLimits(wsproxy.Limits{Handshakes: wsproxy.Rate{PerSecond: 1, Burst: 100}}),
			wsproxy.WithAdmit(func(r *http.Request) (any, error) { return r.URL.Query().Get("user"), nil }),
			wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{affinityKey}, Key: func(r *http.Request) string {
				user, _ := wsproxy.Admitted(r).(string)
				return user
			}}))
		b := s.newBrowser(1)
		b.wantAsk("200 a", true) // and a cookie
		for user := range 10 {
			home, _ := b.ask("GET", fmt.Sprint("/chat/xhr?user=", user))
			for range 3 {
				if at, hasCookie := b.ask("GET", fmt.Sprint("/chat/xhr?user=", user)); at != home || hasCookie {
					t.Errorf("user %d is at %s, got a cookie: %t; want %s, without one", user, at, hasCookie, home)
				}
			}
		}
	})
}

// Over both versions of HTTP, with what a client makes of the cookies.
func TestAffinityBindsPlainHTTPOverBothVersions(t *testing.T) {
	forEachVersion(t, func(t *testing.T, serve func(http.Handler) (string, *http.Client)) {
		var backends []string
		for _, id := range []string{"a", "b", "c"} {
			backends = append(backends, proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				http.SetCookie(w, &http.Cookie{Name: "own", Value: id})
				fmt.Fprint(w, id, " got ", r.Header.Get("Cookie"))
			})).URL)
		}
		p := proxytest.NewProxy(t, wsproxy.WithBackends(backends...), withHTTP, byCookie, wsproxy.WithBalancer(wsproxy.RoundRobin()))
		url, client := serve(p)
		for _, id := range []string{"a", "b", "c"} {
			client.Jar, _ = cookiejar.New(nil)
			resp, body := do(t, client, "GET", url+"/chat/info", nil)
			if body != id+" got " || len(resp.Cookies()) != 2 || resp.Cookies()[1].Secure != (resp.TLS != nil) {
				t.Errorf("client got %q with the cookies %v; want those of %s and of the proxy", body, resp.Cookies(), id)
			}
			for _, method := range []string{"GET", "POST", "DELETE"} {
				resp, body := do(t, client, method, url+"/chat/xhr", strings.NewReader("hello"))
				if want := fmt.Sprintf("%s got own=%s", id, id); body != want || len(resp.Cookies()) != 1 {
					t.Errorf("%s got %q with the cookies %v; want %q, and no cookie of the proxy again", method, body, resp.Cookies(), want)
				}
			}
		}
	})
}

// Responses that are no success bind too, but not those of a backend that has not taken the client.
func TestCookieIsSetWithResponsesToPlainHTTP(t *testing.T) {
	for _, tt := range []struct {
		status int
		want   bool
	}{{200, true}, {304, true}, {400, true}, {404, true}, {500, false}, {502, false}, {503, false}, {504, false}} {
		synctest.Test(t, func(t *testing.T) {
			hasSeen := false
			s := newHTTPScene(t, byCookie, wsproxy.WithResponse(func(r *wsproxy.ProxyResponse) error {
				hasSeen = r.Header.Get("Set-Cookie") != ""
				return nil
			}))
			s.set("a", proxytest.FakeBackend{Answer: proxytest.Head(fmt.Sprint("HTTP/1.1 ", tt.status, " X"), "Connection: close") + "{end}"})
			_, hasCookie := s.newBrowser(1).ask("GET", "/chat/xhr")
			if hasCookie != tt.want || hasSeen != tt.want {
				t.Errorf("%d: client got a cookie: %t, the hook saw it: %t; want %t", tt.status, hasCookie, hasSeen, tt.want)
			}
		})
	}
}
