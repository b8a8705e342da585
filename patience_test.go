package wsproxy_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// What is tested here is who waits for whom, and who is to blame then. Time passes in
// a bubble.

func TestBackendThatSwallowsConnectionsCostsTheFirstClientOnly(t *testing.T) {
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

func TestClientThatLeavesAtOnceBlamesNobody(t *testing.T) {
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

func TestShutdownBlamesNobody(t *testing.T) {
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

func TestSlowRewriteBlamesNoBackend(t *testing.T) {
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

func TestRefusalAfterTheServersWriteTimeoutReachesTheClient(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer string // 2 s after the request; empty: none
		status int
	}{
		{"the proxy's", "", http.StatusGatewayTimeout},
		{"a backend's", proxytest.Refusing(403, "no"), http.StatusForbidden},
		{"a tunnel", proxytest.Switching, http.StatusSwitchingProtocols},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				backend := proxytest.NewBackendInMemory(t)
				p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a"), backend.Option(),
					wsproxy.WithTimeouts(wsproxy.Timeouts{Handshake: 3 * time.Second}))
				s := proxytest.ServeInMemory(t, p, func(s *http.Server) { s.WriteTimeout = time.Second })
				client := s.Dial(t)
				client.WriteRequest(proxytest.UpgradeTo("/chat"))
				leg := backend.Accept(t)
				key := leg.ReadRequest().Header.Get("Sec-WebSocket-Key")
				time.Sleep(2 * time.Second)
				leg.SendRaw([]byte(strings.ReplaceAll(tt.answer, "{accept}", wstest.Accept(key))))
				time.Sleep(time.Second)
				proxytest.WantStatus(t, client.ReadResponse(), tt.status)
			})
		})
	}
}

// A hijackOnlyWriter hides all but Hijack, as much middleware does.
type hijackOnlyWriter struct{ http.ResponseWriter }

func (w hijackOnlyWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.ResponseWriter.(http.Hijacker).Hijack()
}

func hijackOnly(w http.ResponseWriter) http.ResponseWriter { return hijackOnlyWriter{w} }

func TestRefusalBehindAWrapperWithHijackOnlyArrivesWhole(t *testing.T) {
	const long = 100_000 // more than all buffers on the way hold
	body := strings.Repeat("0123456789", long/10)
	for _, tt := range []struct {
		name, answer string
		body         string
		length       int64
	}{
		{"length", proxytest.Refusing(403, body, "Set-Cookie: a=b", "X-Reason: quota"), body, long},
		{"no length", proxytest.Head("HTTP/1.1 403 Forbidden", "Set-Cookie: a=b", "X-Reason: quota") + body, body, -1},
		{"empty", proxytest.Refusing(403, "", "Set-Cookie: a=b", "X-Reason: quota"), "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				backend := proxytest.NewBackendInMemory(t)
				p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a"), backend.Option())
				s := proxytest.ServeInMemory(t, wrapped(p, hijackOnly))
				client := s.Dial(t)
				client.WriteRequest(proxytest.UpgradeTo("/chat"))
				leg := backend.Accept(t)
				leg.ReadRequest()
				go func() { // ends when the proxy has read it all
					leg.Write([]byte(tt.answer))
					leg.Conn().Close()
				}()
				resp := client.ReadResponse()
				proxytest.WantStatus(t, resp, http.StatusForbidden)
				proxytest.WantField(t, resp.Header, "Set-Cookie", "a=b")
				proxytest.WantField(t, resp.Header, "X-Reason", "quota")
				if !resp.Close {
					t.Error("answer has no Connection: close; want one")
				}
				if resp.ContentLength != tt.length {
					t.Errorf("answer has length %d; want %d", resp.ContentLength, tt.length)
				}
				got, err := io.ReadAll(resp.Body)
				if err != nil || string(got) != tt.body {
					t.Errorf("client got a body of %d bytes, error %v; want the backend's %d", len(got), err, len(tt.body))
				}
				client.WantEOF()
				client.Close()
				s.Wait()
				proxytest.WantNoTunnels(t, p)
				if st := p.Stats(); st.Refused != 1 {
					t.Errorf("Stats() has %d refused; want 1", st.Refused)
				}
			})
		})
	}
}

func TestRefusalBehindAWrapperWithHijackOnlyThatBreaksOffIsNotTakenForTheWhole(t *testing.T) {
	for name, answer := range map[string]string{
		"length":  proxytest.Head("HTTP/1.1 403 Forbidden", "Content-Length: 100") + "no",
		"chunked": proxytest.Head("HTTP/1.1 403 Forbidden", "Transfer-Encoding: chunked") + "2\r\nno\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			backend := wstest.StartRaw(t, answer+"{end}")
			p := proxytest.NewProxy(t, wsproxy.WithBackends(backend.URL()))
			s := proxytest.Serve(t, wrapped(p, hijackOnly))
			client := wstest.Dial(t, s.URL)
			client.WriteRequest(proxytest.UpgradeTo("/chat"))
			resp := client.ReadResponse()
			proxytest.WantStatus(t, resp, http.StatusForbidden)
			if body, err := io.ReadAll(resp.Body); err == nil {
				t.Errorf("client got the body %q without an error; want one: it is a part", body)
			}
			s.Wait()
			proxytest.WantNoTunnels(t, p)
		})
	}
}

func TestClientThatDoesNotReadARefusalIsGivenUpBehindAnyWrapper(t *testing.T) {
	for name, wrap := range map[string]func(http.ResponseWriter) http.ResponseWriter{
		"none":        func(w http.ResponseWriter) http.ResponseWriter { return w },
		"Unwrap":      func(w http.ResponseWriter) http.ResponseWriter { return unwrapperWriter{w} },
		"Hijack only": hijackOnly,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := proxytest.NewNetwork()
				network.Set("a", proxytest.FakeBackend{Answer: proxytest.Refusing(403, strings.Repeat("x", 1<<20))})
				p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a"), wsproxy.WithDialer(network.Dial))
				s := proxytest.ServeInMemory(t, wrapped(p, wrap))
				client := s.Dial(t)
				client.WriteRequest(proxytest.UpgradeTo("/chat"))
				time.Sleep(10*time.Second - time.Nanosecond)
				synctest.Wait()
				if n := p.Backends()[0].NumTunnels(); n != 1 {
					t.Errorf("backend has %d tunnels before the limit; want 1", n)
				}
				time.Sleep(time.Nanosecond)
				s.Wait()
				proxytest.WantNoTunnels(t, p)
			})
		})
	}
}

func TestShutdownTellsOfAnUpgradeThatIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan bool)
		p, s, network := startInMemory(t, wsproxy.WithBackends("http://a"),
			wsproxy.WithResponse(func(*wsproxy.ProxyResponse) error { <-goOn; return nil }))
		network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
		client := s.Dial(t)
		client.WriteRequest(proxytest.UpgradeTo("/chat"))
		synctest.Wait() // the hook has begun
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := p.Shutdown(ctx)
		var drain *wsproxy.DrainError
		if !errors.As(err, &drain) || !errors.Is(err, context.DeadlineExceeded) || drain.Closed != 0 || drain.Cut != 0 {
			t.Errorf("Shutdown() = %v with an upgrade in a hook; want a *DrainError with the context's error, 0 closed, 0 cut", err)
		}
		if st := p.Stats(); st.Upgrading != 1 {
			t.Errorf("Stats() has %d upgrading; want 1", st.Upgrading)
		}
		close(goOn)
		proxytest.WantStatus(t, client.ReadResponse(), http.StatusServiceUnavailable)
		s.Wait()
		proxytest.WantNoTunnels(t, p)
		if err := p.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown() = %v once the hook has returned; want nil", err)
		}
	})
}
