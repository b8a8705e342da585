package wsproxy_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/leaktest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestShutdownWaitsForDetachedTunnels(t *testing.T) {
	t.Parallel() // it waits
	p := openDetached(t)
	p.WantShutdownToWait(t)
	if e := <-p.Ends; e.Cause != wsproxy.CauseShutdown || e.Cut {
		t.Errorf("tunnel ended by %v, cut %t; want shutdown", e.Cause, e.Cut)
	}
}

func TestShutdownCutsDetachedTunnelsWhenItsContextEnds(t *testing.T) {
	p := openDetached(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := proxytest.ShutDown(ctx, p.Proxy)
	p.Backend.WantClose(1001) // and does not answer, so that the client's has to wait
	cancel()
	var drain *wsproxy.DrainError
	if err := <-done; !errors.As(err, &drain) || drain.Cut != 1 {
		t.Errorf("Shutdown() = %v; want 1 tunnel cut", err)
	}
	p.Client.WantEOF()
	proxytest.WantNoTunnels(t, p.Proxy)
}

func TestProxyCloseCutsDetachedTunnels(t *testing.T) {
	leaktest.Check(t)
	p := openDetached(t)
	p.Proxy.Close()
	if e := <-p.Ends; e.Cause != wsproxy.CauseShutdown || !e.Cut {
		t.Errorf("tunnel ended by %v, cut %t; want shutdown, cut", e.Cause, e.Cut)
	}
	p.Client.WantEOF()
	p.Backend.WantEOF()
	proxytest.WantNoTunnels(t, p.Proxy)
}

func TestShutdownReportsBlockedUpgrade(t *testing.T) {
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

func TestProxyWorksBehindStripPrefix(t *testing.T) {
	for _, tt := range []struct{ prefix, target, want string }{
		{"", "/ws/room%2F1?x=%2F", "/room%2F1?x=%2F"},
		{"", "/ws/", "/"},
		{"", "/ws", "/"},
		{"", "/wsx", "/x"},
		{"/base", "/ws/room%2F1", "/base/room%2F1"},
		{"/base", "/wsx", "/base/x"},
	} {
		backend := wstest.StartRaw(t, proxytest.Refusing(403, ""))
		p := proxytest.NewProxy(t, wsproxy.WithBackends(backend.URL()+tt.prefix))
		s := proxytest.Serve(t, http.StripPrefix("/ws", p))
		proxytest.Exchange(t, s.URL, proxytest.UpgradeTo(tt.target))
		if req, _, _ := proxytest.ReceivedHead(t, backend); req.RequestURI != tt.want {
			t.Errorf("prefix %q, target %q: backend was asked for %q; want %q", tt.prefix, tt.target, req.RequestURI, tt.want)
		}
	}
}

func TestShutdownSends1001ToBothSidesAndWaits(t *testing.T) {
	t.Parallel() // it waits
	proxytest.OpenPair(t).WantShutdownToWait(t)
}

func TestShutdownWaitsForEndOfFrame(t *testing.T) {
	t.Parallel() // it waits
	p := proxytest.OpenPair(t)
	frame := wstest.AppendFrame(nil, wstest.Text("a long message"), nil)
	p.Backend.SendRaw(frame[:5])
	p.Client.WantRaw(string(frame[:5]))
	done := proxytest.ShutDown(t.Context(), p.Proxy)
	p.Backend.WantClose(1001) // that direction is at a boundary
	p.Backend.SendRaw(frame[5:])
	p.Client.WantRaw(string(frame[5:]))
	p.Client.WantClose(1001)
	p.Backend.Send(wstest.Text("too late"), wstest.Close(1001, ""))
	p.Client.Send(wstest.Close(1001, ""))
	p.Client.WantEOF()
	p.Client.Close()
	p.Backend.Close()
	if err := <-done; err != nil {
		t.Errorf("Shutdown() = %v; want nil", err)
	}
}

func TestShutdownRefusesUpgradesWithRetryAfter(t *testing.T) {
	b := wstest.StartBackend(t)
	p, s := proxytest.Start(t, wsproxy.WithBackends(b.URL()))
	if err := p.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown() of an idle proxy = %v; want nil", err)
	}
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/"))
	proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
	wantRetryAfter(t, resp.Header)
	proxytest.WantUntouched(t, b)
}

func TestShutdownEndsPendingUpgrades(t *testing.T) {
	b := wstest.StartBackend(t)
	p, s := proxytest.Start(t, wsproxy.WithBackends(b.URL()))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.UpgradeTo("/"))
	backend := b.Accepted(t)
	backend.ReadRequest() // and gives no answer
	if err := p.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown() = %v; want nil: there was no tunnel", err)
	}
	resp := client.ReadResponse()
	proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
	wantRetryAfter(t, resp.Header)
	backend.WantEOF()
	proxytest.WantNoTunnels(t, p)
}

func TestShutdownCutsTunnelsWhenItsContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	b := wstest.StartBackend(t)
	ends, trace := proxytest.TraceEnds()
	p, s := proxytest.Start(t, wsproxy.WithBackends(b.URL()), trace)
	var clients, backends []*wstest.Peer
	for range 3 {
		client := wstest.Dial(t, s.URL)
		client.RequestUpgrade("/", nil)
		backend := b.Accepted(t)
		backend.AcceptUpgrade(nil)
		client.WantUpgrade()
		clients, backends = append(clients, client), append(backends, backend)
	}
	done := proxytest.ShutDown(ctx, p)
	for i := range backends {
		backends[i].WantClose(1001)
	}
	// One pair answers, the other two do not.
	backends[0].Send(wstest.Close(1001, ""))
	backends[0].Close()
	clients[0].WantClose(1001)
	clients[0].Close()
	if e := <-ends; e.Cut {
		t.Error("the tunnel whose peers answered was cut")
	}
	cancel(nil)
	err := <-done
	var drain *wsproxy.DrainError
	if !errors.As(err, &drain) || drain.Closed != 1 || drain.Cut != 2 {
		t.Errorf("Shutdown() = %v; want 1 closed, 2 cut", err)
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown() = %v; want it to unwrap to the context's error", err)
	}
	for i := range 2 {
		if e := <-ends; !e.Cut {
			t.Errorf("tunnel %d, whose peers did not answer, was not cut", i)
		}
	}
	proxytest.WantNoTunnels(t, p)
}

func TestShutdownEndsTunnelsWhosePeersDoNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := proxytest.NewBackendInMemory(t)
		p := proxytest.NewProxy(t, wsproxy.WithBackends("http://b"), backend.Option())
		s := proxytest.ServeInMemory(t, p)
		client := s.Dial(t)
		client.RequestUpgrade("/", nil)
		leg := backend.Accept(t)
		leg.AcceptUpgrade(nil)
		client.WantUpgrade()
		began := time.Now()
		err := <-proxytest.ShutDown(t.Context(), p)
		if took := time.Since(began); took > 15*time.Second || err != nil {
			t.Errorf("Shutdown() = %v after %v; want nil after some seconds", err, took)
		}
		client.WantClose(1001)
		leg.WantClose(1001)
	})
}

func TestShutdownMayBeCalledAgainAndConcurrently(t *testing.T) {
	t.Parallel() // it waits
	p := proxytest.OpenPair(t)
	first, second := proxytest.ShutDown(t.Context(), p.Proxy), proxytest.ShutDown(t.Context(), p.Proxy)
	p.Client.WantClose(1001)
	p.Backend.WantClose(1001)
	p.Client.Close()
	p.Backend.Close()
	for _, done := range []<-chan error{first, second, proxytest.ShutDown(t.Context(), p.Proxy)} {
		if err := <-done; err != nil {
			t.Errorf("Shutdown() = %v; want nil", err)
		}
	}
	if err := p.Proxy.Close(); err != nil {
		t.Errorf("Close() = %v; want nil", err)
	}
}

func TestShutdownReturnsAfterTheLastHook(t *testing.T) {
	t.Parallel() // it waits
	var mu sync.Mutex
	finished := false
	b := wstest.StartBackend(t)
	p, s := proxytest.Start(t, wsproxy.WithBackends(b.URL()), wsproxy.WithTrace(&wsproxy.Trace{
		Closed: func(wsproxy.TunnelEnd) {
			mu.Lock()
			defer mu.Unlock()
			finished = true
		},
	}))
	client := wstest.Dial(t, s.URL)
	client.RequestUpgrade("/", nil)
	backend := b.Accepted(t)
	backend.AcceptUpgrade(nil)
	client.WantUpgrade()
	mu.Lock() // the hook blocks
	done := proxytest.ShutDown(t.Context(), p)
	client.WantClose(1001)
	backend.WantClose(1001)
	client.Close()
	backend.Close()
	select {
	case <-done:
		t.Error("Shutdown returned before the Closed hook")
	default:
	}
	mu.Unlock()
	<-done
	mu.Lock()
	defer mu.Unlock()
	if !finished {
		t.Error("Shutdown returned before the Closed hook")
	}
}

func TestProxyCloseCutsTunnelsAtOnce(t *testing.T) {
	p := proxytest.OpenPair(t)
	p.Proxy.Close()
	if e := p.End(t); !e.Cut || e.Cause != wsproxy.CauseShutdown || e.Side != wsproxy.SideProxy {
		t.Errorf("tunnel ended by %v, %v, cut %t; want proxy, shutdown, cut", e.Side, e.Cause, e.Cut)
	}
	p.Client.WantEOF()
	p.Backend.WantEOF()
	proxytest.WantNoTunnels(t, p.Proxy)
}

func TestWrapPassesOtherRequestsUnchanged(t *testing.T) {
	for name, request := range map[string]string{
		"GET":                     proxytest.Head("GET /page?x=1 HTTP/1.1", "Host: chat.example", "Connection: close"),
		"POST":                    proxytest.Head("POST /page?x=1 HTTP/1.1", "Host: chat.example", "Content-Length: 5", "Connection: close") + "hello",
		"POST with Upgrade":       proxytest.Head("POST /page?x=1 HTTP/1.1", "Host: chat.example", "Upgrade: websocket", "Connection: Upgrade, close"),
		"Upgrade only":            proxytest.Head("GET /page?x=1 HTTP/1.1", "Host: chat.example", "Upgrade: websocket", "Connection: close"),
		"Connection only":         proxytest.Head("GET /page?x=1 HTTP/1.1", "Host: chat.example", "Connection: upgrade, close"),
		"h2c":                     proxytest.Head("GET /page?x=1 HTTP/1.1", "Host: chat.example", "Connection: upgrade, close", "Upgrade: h2c"),
		"HTTP/1.0":                proxytest.Head("GET /page?x=1 HTTP/1.0", "Host: chat.example", "Connection: upgrade", "Upgrade: websocket"),
		"forwarded and nominated": proxytest.Head("GET /page?x=1 HTTP/1.1", "Host: chat.example", "X-Forwarded-For: 192.0.2.1", "Connection: close, X-Forwarded-For"),
	} {
		t.Run(name, func(t *testing.T) {
			want, err := http.ReadRequest(bufio.NewReader(strings.NewReader(request)))
			if err != nil {
				t.Fatal(err)
			}
			p := proxytest.NewProxy(t, wsproxy.WithBackends("http://nobody"))
			p.Close() // next is served all the same
			s := proxytest.Serve(t, p.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != want.Method || r.RequestURI != want.RequestURI || r.Host != want.Host || len(r.Header) != len(want.Header) {
					t.Errorf("next got %s %s of %s with %v; want %s %s of %s with %v",
						r.Method, r.RequestURI, r.Host, r.Header, want.Method, want.RequestURI, want.Host, want.Header)
				}
				body, _ := io.ReadAll(r.Body)
				w.Header().Set("X-From", "next")
				w.WriteHeader(http.StatusTeapot)
				w.Write(body)
			})))
			resp, body := proxytest.Exchange(t, s.URL, request)
			proxytest.WantStatus(t, resp, http.StatusTeapot)
			proxytest.WantField(t, resp.Header, "X-From", "next")
			if wantBody := request[strings.Index(request, "\r\n\r\n")+4:]; body != wantBody {
				t.Errorf("client got body %q; want %q", body, wantBody)
			}
		})
	}
}

func TestWrapHandlesEveryUpgrade(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	s := proxytest.Serve(t, p.Wrap(http.NotFoundHandler()))
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/anywhere"))
	proxytest.WantEcho(t, client)
}

func TestProxyWithoutNextNamesFailedCheck(t *testing.T) {
	_, s := proxytest.Start(t, wsproxy.WithBackends("http://nobody"))
	handshake := func(lines ...string) string {
		return proxytest.Head(append([]string{"GET / HTTP/1.1", "Host: a", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + proxytest.SampleKey}, lines...)...)
	}
	for _, tt := range []struct{ name, request, body string }{
		{"plain", proxytest.Head("GET / HTTP/1.1", "Host: a"), "Upgrade was missing: only `websocket` is served here\n"},
		{"proxy drops Upgrade", handshake("Connection: close"), "Upgrade was missing: does a proxy in front drop it?\n"},
		{"proxy drops Connection", handshake("Upgrade: websocket"), "Connection was missing: does a proxy in front drop it?\n"},
		{"proxy replaces Connection", handshake("Upgrade: websocket", "Connection: close"), "Connection was `close`: does a proxy in front drop it?\n"},
		{"other token", handshake("Upgrade: h2c", "Connection: Upgrade"), "Upgrade was `h2c`: only `websocket` is served here\n"},
		{"method", strings.Replace(proxytest.UpgradeTo("/"), "GET", "POST", 1), "Method was `POST`: a WebSocket is opened by GET\n"},
		{"markup is not repeated as such", handshake("Upgrade: <script>\"x\"\x7f"+strings.Repeat("y", 100), "Connection: Upgrade"), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, body := proxytest.Exchange(t, s.URL, tt.request)
			if tt.body == "" { // net/http refuses it, or the body is plain text
				if resp.StatusCode == http.StatusUpgradeRequired {
					proxytest.WantField(t, resp.Header, "X-Content-Type-Options", "nosniff")
				}
				return
			}
			proxytest.WantStatus(t, resp, http.StatusUpgradeRequired)
			proxytest.WantField(t, resp.Header, "Upgrade", "websocket")
			if body != tt.body {
				t.Errorf("client got body %q; want %q", body, tt.body)
			}
		})
	}
}

func TestWrapOfNilRefusesOtherRequests(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	s := proxytest.Serve(t, p.Wrap(nil))
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.Head("GET / HTTP/1.1", "Host: a"))
	proxytest.WantStatus(t, resp, http.StatusUpgradeRequired)
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantEcho(t, client)
}

// "An endpoint MUST NOT generate an HTTP/2 message containing
// connection-specific header fields" (RFC 9113 §8.2.2): Go would end the whole
// connection for it, and with it everybody's requests.
func TestProxyRefusesOverHTTP2WithoutClosingConnection(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends("http://nobody"))
	var conns []string
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conns = append(conns, r.RemoteAddr)
		p.ServeHTTP(w, r)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	for range 3 {
		resp, err := srv.Client().Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		proxytest.WantStatus(t, resp, http.StatusUpgradeRequired)
		proxytest.WantField(t, resp.Header, "Connection")
		proxytest.WantField(t, resp.Header, "Upgrade")
	}
	if conns[0] != conns[1] || conns[1] != conns[2] {
		t.Errorf("requests came over %v; want one connection", conns)
	}
}
