package wsproxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
	"github.com/wsproxy/wsproxy/wsproxytest/memnet"
)

func TestHTTPRewriteCannotSetWhatBreaksTheRequest(t *testing.T) {
	for _, tt := range []struct {
		name    string
		rewrite func(*wsproxy.ProxyRequest)
		want    string // what the backend gets besides the usual lines; "" if nothing
		status  int
	}{
		{"a field", func(r *wsproxy.ProxyRequest) { r.Out.Header.Set("X-User", "ann") }, "X-User: ann\r\n", 200},
		{"the host", func(r *wsproxy.ProxyRequest) { r.Out.Host = "b" }, "Host: b\r\n", 200},
		{"another request", func(r *wsproxy.ProxyRequest) {
			r.Out = r.Out.Clone(context.Background())
			r.Out.Header.Set("X-User", "ann")
		}, "X-User: ann\r\n", 200},
		{"a request ID", func(r *wsproxy.ProxyRequest) { r.Out.Header.Set("X-Request-Id", "mine") }, "X-Request-Id: mine\r\n", 200},
		{"hop-by-hop fields", func(r *wsproxy.ProxyRequest) {
			for _, name := range []string{"Connection", "connection", "Upgrade", "TE", "Transfer-Encoding", "transfer-encoding", "Content-Length", "content-length", "Expect", "Trailer", "HTTP2-Settings"} {
				r.Out.Header[name] = []string{"evil"}
			}
		}, "", 200},
		{"a method and a body", func(r *wsproxy.ProxyRequest) {
			r.Out.Method, r.Out.Body, r.Out.ContentLength = "POST", io.NopCloser(strings.NewReader("evil")), 4
			r.Out.TransferEncoding, r.Out.Trailer, r.Out.Close = []string{"chunked"}, http.Header{"X-Evil": {"1"}}, true
		}, "", 200},
		{"another host to connect to", func(r *wsproxy.ProxyRequest) { r.Out.URL.Host, r.Out.URL.Scheme = "evil:80", "https" }, "", 200},
		{"a line end in a value", func(r *wsproxy.ProxyRequest) { r.Out.Header["X-A"] = []string{"b\r\nX-Evil: c"} }, "", 500},
		{"a line end in a name", func(r *wsproxy.ProxyRequest) { r.Out.Header["X-A: b\r\nX-Evil"] = []string{"c"} }, "", 500},
		{"a line end in the query", func(r *wsproxy.ProxyRequest) { r.Out.URL.RawQuery = "a HTTP/1.1\r\nX-Evil: c" }, "", 500},
		{"a line end in the host", func(r *wsproxy.ProxyRequest) { r.Out.Host = "a\r\nX-Evil: c" }, "", 500},
		{"no URL", func(r *wsproxy.ProxyRequest) { r.Out.URL = nil }, "", 500},
		{"no request", func(r *wsproxy.ProxyRequest) { r.Out = nil }, "", 500},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, proxytest.Refusing(200, "", "Connection: close"))
			_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), withHTTP, wsproxy.WithRewrite(func(r *wsproxy.ProxyRequest) error {
				tt.rewrite(r)
				return nil
			}))
			resp, _ := proxytest.Exchange(t, s.URL, proxytest.Head("GET /a HTTP/1.1", "Host: a", "Connection: close"))
			proxytest.WantStatus(t, resp, tt.status)
			if tt.status != 200 {
				proxytest.WantUntouched(t, backend)
				return
			}
			_, head, rest := proxytest.ReceivedHead(t, backend)
			lower := strings.ToLower(head)
			if !strings.HasPrefix(head, "GET /a HTTP/1.1\r\n") || !strings.Contains(head, tt.want) || rest != "" ||
				strings.Contains(lower, "evil") || strings.Contains(lower, "\r\nconnection:") || strings.Contains(lower, "\r\ntransfer-encoding:") {
				t.Errorf("backend got %q and %q; want %q in it", head, rest, tt.want)
			}
		})
	}
}

func TestHTTPResponseHookDecides(t *testing.T) {
	for _, tt := range []struct {
		name string
		hook func(*wsproxy.ProxyResponse) error
		want int
	}{
		{"cookie", func(r *wsproxy.ProxyResponse) error { r.Header.Add("Set-Cookie", "b=c"); return nil }, 404},
		{"status", func(*wsproxy.ProxyResponse) error { return &wsproxy.StatusError{Status: 410} }, 410},
		{"error", func(*wsproxy.ProxyResponse) error { return errors.New("no") }, 502},
		{"next", func(*wsproxy.ProxyResponse) error { return wsproxy.ErrTryNext }, 502},
		{"panic", func(*wsproxy.ProxyResponse) error { panic("oh") }, 500},
		{"line end", func(r *wsproxy.ProxyResponse) error { r.Header["X-A"] = []string{"b\r\nX-C: d"}; return nil }, 502},
		{"no header", func(r *wsproxy.ProxyResponse) error { r.Header = nil; return nil }, 404},
		{"hop-by-hop", func(r *wsproxy.ProxyResponse) error {
			r.Header["Content-Length"], r.Header["Transfer-Encoding"] = []string{"1"}, []string{"chunked"}
			return nil
		}, 404},
	} {
		t.Run(tt.name, func(t *testing.T) {
			first := wstest.StartRaw(t, proxytest.Refusing(404, "none", "Set-Cookie: a=b"))
			second := wstest.StartRaw(t, proxytest.Refusing(200, ""))
			p, s := proxytest.Start(t, wsproxy.WithBackends(first.URL(), second.URL()), withHTTP, proxytest.FirstCandidate, wsproxy.WithResponse(tt.hook))
			resp, body := do(t, http.DefaultClient, "GET", s.URL, nil)
			http.DefaultClient.CloseIdleConnections()
			proxytest.WantStatus(t, resp, tt.want)
			if tt.want == 404 && body != "none" {
				t.Errorf("client got the body %q", body)
			}
			if tt.name == "cookie" {
				proxytest.WantField(t, resp.Header, "Set-Cookie", "a=b", "b=c")
			}
			proxytest.WantUntouched(t, second)
			if f := p.Backends()[0].Health().Flags; len(f) > 0 {
				t.Errorf("the backend has %v; want no flag", f)
			}
		})
	}
}

func TestHTTPResponseThatIsMalformedBecomes502(t *testing.T) {
	for _, answer := range []string{
		"nonsense\r\n\r\n", "HTTP/1.1 999 Odd\r\n\r\n", "HTTP/1.1 007 Bond\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\nx",
		"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 100<<10) + "\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Le{end}", "{end}",
		proxytest.Switching, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
	} {
		backend := wstest.StartRaw(t, answer)
		p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), withHTTP)
		resp, body := do(t, http.DefaultClient, "GET", s.URL, nil)
		http.DefaultClient.CloseIdleConnections()
		if resp.StatusCode != http.StatusBadGateway || strings.TrimSpace(body) != "Bad Gateway" {
			t.Errorf("%.60q: client got %d %q; want 502", answer, resp.StatusCode, body)
		}
		if f := p.Backends()[0].Health().Flags; len(f) != 1 || f[0].Flag != wsproxy.FlagResting {
			t.Errorf("%.60q: the backend has %v; want resting", answer, f)
		}
	}
}

// A backend may respond before it has the whole request. The client gets that at once.
func TestHTTPResponseThatComesEarlyIsNotDelayed(t *testing.T) {
	var serverLog strings.Builder
	backend := wstest.StartRaw(t, proxytest.Refusing(401, "no"))
	p := proxytest.NewProxy(t, wsproxy.WithBackends(backend.URL()), withHTTP)
	s := proxytest.Serve(t, p, func(srv *http.Server) { srv.ErrorLog = log.New(&serverLog, "", 0) })
	for _, length := range []string{"Content-Length: 10", "Transfer-Encoding: chunked"} {
		client := wstest.Dial(t, s.URL)
		client.WriteRequest(proxytest.Head("POST / HTTP/1.1", "Host: a", length) + "5\r\nhello\r\n"[:8])
		resp := client.ReadResponse()
		proxytest.WantStatus(t, resp, 401)
		if !resp.Close {
			t.Errorf("%s: the client's connection stays open, with a part of a request", length)
		}
		io.Copy(io.Discard, resp.Body)
		client.Write([]byte("o\r\n0\r\n\r\n"))
		client.Peek() // the end, or a reset
	}
	s.Wait()
	if serverLog.Len() > 0 {
		t.Errorf("the server has logged %q", serverLog.String())
	}
}

// The time for connections is that of Timeouts.Handshake, half of it while another backend may
// be tried.
func TestHTTPConnectHasADeadline(t *testing.T) {
	for method, want := range map[string]time.Duration{"GET": 9 * time.Second, "POST": 12 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			var attempts []wsproxy.AttemptInfo
			p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a", "http://b"), withHTTP, proxytest.FirstCandidate,
				wsproxy.WithTimeouts(wsproxy.Timeouts{Handshake: 12 * time.Second}),
				wsproxy.WithTrace(&wsproxy.Trace{Attempted: func(i wsproxy.AttemptInfo) { attempts = append(attempts, i) }}),
				wsproxy.WithDialer(func(ctx context.Context, _, addr string) (net.Conn, error) {
					if addr == "b:80" {
						time.Sleep(3 * time.Second)
						return nil, errors.New("refused")
					}
					<-ctx.Done()
					return nil, ctx.Err()
				}))
			s := proxytest.ServeInMemory(t, p)
			client := s.Dial(t)
			start := time.Now()
			client.WriteRequest(proxytest.Head(method+" / HTTP/1.1", "Host: a"))
			client.Conn().SetReadDeadline(start.Add(time.Minute))
			client.Peek()
			proxytest.WantStatus(t, client.ReadResponse(), http.StatusServiceUnavailable)
			if took := time.Since(start); took != want {
				t.Errorf("%s: took %v; want %v", method, took, want)
			}
			var failure *wsproxy.BackendError
			if !errors.As(attempts[0].Err, &failure) || failure.Op != "dial" || !failure.Timeout() {
				t.Errorf("%s: the first attempt failed with %v; want a timeout of the dial", method, attempts[0].Err)
			}
			client.Close()
		})
	}
}

// A request to a backend that was unreachable does not keep others from it while it waits for
// the response.
func TestHTTPEndsProbationWhenTheConnectionStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := memnet.Listen(64 << 10)
		defer backend.Close()
		isDown := true
		p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a"), withHTTP,
			wsproxy.WithDialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
				if isDown {
					return nil, errors.New("refused")
				}
				return backend.Dial(ctx)
			}))
		s := proxytest.ServeInMemory(t, p)
		ask := func() *wstest.Peer {
			c := s.Dial(t)
			c.WriteRequest(proxytest.Head("GET /xhr HTTP/1.1", "Host: a"))
			synctest.Wait()
			return c
		}
		proxytest.WantStatus(t, ask().ReadResponse(), http.StatusServiceUnavailable)
		isDown = false
		time.Sleep(2 * time.Second)
		for range 3 {
			ask()
			c, err := backend.Accept()
			if err != nil {
				t.Fatal(err)
			}
			wstest.NewBackend(t, c).ReadRequest()
		}
		if f := p.Backends()[0].Health().Flags; len(f) > 0 {
			t.Errorf("the backend has %v; want no flag: it was reached", f)
		}
	})
}

func TestHTTPDialerThatPanicsFailsOneRequest(t *testing.T) {
	var book proxytest.LogBook
	_, s := proxytest.Start(t, wsproxy.WithBackends("http://127.0.0.1:1"), withHTTP, book.Option(),
		wsproxy.WithDialer(func(context.Context, string, string) (net.Conn, error) { panic("oh") }))
	resp, _ := do(t, http.DefaultClient, "GET", s.URL, nil)
	http.DefaultClient.CloseIdleConnections()
	proxytest.WantStatus(t, resp, http.StatusInternalServerError)
	if lines := book.Lines("panic in a hook", "hook=WithDialer"); len(lines) != 1 {
		t.Errorf("log has %q; want a line for the panic", lines)
	}
}

func TestHTTPGoesToNoBackendThatDrains(t *testing.T) {
	names := make(chan string, 10)
	goOn := make(chan bool)
	newBackend := func(name string) string {
		return proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			names <- name
			if r.URL.Path == "/wait" {
				<-goOn
			}
			fmt.Fprint(w, name)
		})).URL
	}
	p, s := proxytest.Start(t, withHTTP, proxytest.FirstCandidate,
		wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "a", URL: newBackend("a")}, wsproxy.BackendConfig{ID: "b", URL: newBackend("b")}))
	waiting := wstest.Dial(t, s.URL)
	waiting.WriteRequest(proxytest.Head("GET /wait HTTP/1.1", "Host: a"))
	if name := <-names; name != "a" {
		t.Fatalf("the first request went to %s", name)
	}
	if err := p.Drain(t.Context(), "a", 0); err != nil { // does not wait for it
		t.Fatal(err)
	}
	if _, body := do(t, http.DefaultClient, "GET", s.URL, nil); body != "b" {
		t.Errorf("a new request went to %s; want b", body)
	}
	http.DefaultClient.CloseIdleConnections()
	goOn <- true
	resp := waiting.ReadResponse()
	if body, err := io.ReadAll(resp.Body); string(body) != "a" || err != nil {
		t.Errorf("the request in flight got %q, %v; want a", body, err)
	}
}
