package wsproxy_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
	"github.com/wsproxy/wsproxy/wsproxytest/memnet"
)

// A probeFunc is the Probe of a HealthCheck.
type probeFunc = func(context.Context, *wsproxy.Backend) error

// The three probes for a server with /healthz and /ws.
var allProbes = map[string]probeFunc{
	"TCP":       wsproxy.TCPProbe(),
	"HTTP":      wsproxy.HTTPProbe(wsproxy.HTTPProbeConfig{Path: "/healthz"}),
	"WebSocket": wsproxy.WebSocketProbe(wsproxy.WebSocketProbeConfig{Path: "/ws"}),
}

// probeBackend calls the probe for the only backend of a proxy.
func probeBackend(t *testing.T, probe probeFunc, opts ...wsproxy.Option) error {
	t.Helper()
	p := proxytest.NewProxy(t, opts...)
	err := probe(t.Context(), p.Backends()[0])
	proxytest.WantNoTunnels(t, p)
	s, b := p.Stats(), p.Backends()[0].Stats()
	if s.Opened+s.Refused+s.Failed+s.ToBackend.Bytes+s.ToClient.Bytes+s.Handshakes.Count+b.Accepted+b.Unreached != 0 {
		t.Errorf("after a probe Stats() = %+v, and the backend's %+v; want zeros", s, b)
	}
	return err
}

// wantProbeError checks the error of a probe, which begins with its backend.
func wantProbeError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.HasPrefix(err.Error(), "wsproxy: probe of backend ") || !strings.Contains(err.Error(), want) {
		t.Errorf("probe returned %v; want an error about its backend with %q", err, want)
	}
}

// newProbedServer returns a server that has all that the probes ask for, below a prefix.
func newProbedServer(t *testing.T, prefix string) *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+prefix+"/healthz", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "fine") })
	mux.HandleFunc("GET "+prefix+"/ws", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		_, _, err = c.Read(t.Context()) // answers pings
		if code := websocket.CloseStatus(err); code != websocket.StatusNormalClosure {
			t.Errorf("backend read %v; want a Close frame with 1000", err)
		}
	})
	srv := httptest.NewUnstartedServer(mux)
	srv.Config.ErrorLog = proxytest.DiscardLog
	t.Cleanup(srv.Close)
	return srv
}

func TestProbesPassForBackendThatWorks(t *testing.T) {
	for name, probe := range allProbes {
		t.Run(name, func(t *testing.T) {
			srv := newProbedServer(t, "")
			srv.Start()
			if err := probeBackend(t, probe, wsproxy.WithBackends(srv.URL)); err != nil {
				t.Errorf("probe returned %v; want nil", err)
			}
		})
		t.Run(name+" below a prefix", func(t *testing.T) {
			srv := newProbedServer(t, "/base")
			srv.Start()
			if err := probeBackend(t, probe, wsproxy.WithBackends(srv.URL+"/base/")); err != nil {
				t.Errorf("probe returned %v; want nil", err)
			}
		})
		t.Run(name+" over a unix socket", func(t *testing.T) {
			path := proxytest.SocketPath(t)
			ln, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			srv := newProbedServer(t, "")
			srv.Listener.Close()
			srv.Listener = ln
			srv.Start()
			if err := probeBackend(t, probe, wsproxy.WithBackends("unix://"+path)); err != nil {
				t.Errorf("probe returned %v; want nil", err)
			}
		})
		t.Run(name+" to a name", func(t *testing.T) {
			srv := newProbedServer(t, "")
			srv.Start()
			url := strings.Replace(srv.URL, "127.0.0.1", "localhost", 1)
			if err := probeBackend(t, probe, wsproxy.WithBackends(url)); err != nil {
				t.Errorf("probe returned %v; want nil", err)
			}
		})
	}
}

func TestProbesVerifyCertificate(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	for name, probe := range allProbes {
		t.Run(name, func(t *testing.T) {
			srv := newProbedServer(t, "")
			srv.TLS = &tls.Config{Certificates: []tls.Certificate{ca.issue(t, "backend.example")}}
			srv.EnableHTTP2 = true
			srv.StartTLS()
			for _, tt := range []struct {
				trusted *authority
				name    string
				want    string
			}{
				{ca, "backend.example", ""},
				{ca, "other.example", "TLS: tls: failed to verify certificate"},
				{stranger, "backend.example", "TLS: tls: failed to verify certificate"},
			} {
				err := probeBackend(t, probe, wsproxy.WithTLSConfig(&tls.Config{RootCAs: tt.trusted.pool}),
					wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "a", URL: srv.URL, ServerName: tt.name}))
				if tt.want != "" {
					wantProbeError(t, err, tt.want)
				} else if err != nil {
					t.Errorf("probe returned %v; want nil", err)
				}
			}
		})
	}
}

func TestProbesUseDialerAndNoHook(t *testing.T) {
	for name, probe := range allProbes {
		t.Run(name, func(t *testing.T) {
			srv := newProbedServer(t, "")
			srv.Start()
			var dialed string
			var conn *countedConn
			err := probeBackend(t, probe, wsproxy.WithBackends("http://backend.example:8080"),
				wsproxy.WithDialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
					dialed = network + " " + addr
					c, err := net.Dial("tcp", srv.Listener.Addr().String())
					conn = &countedConn{Conn: c}
					return conn, err
				}),
				wsproxy.WithRewrite(func(*wsproxy.ProxyRequest) error { t.Error("Rewrite was called"); return nil }),
				wsproxy.WithResponse(func(*wsproxy.ProxyResponse) error { t.Error("Response was called"); return nil }),
				wsproxy.WithTrace(&wsproxy.Trace{
					Picked:    func(wsproxy.PickedInfo) { t.Error("Picked was called") },
					Attempted: func(wsproxy.AttemptInfo) { t.Error("Attempted was called") },
				}))
			if err != nil {
				t.Errorf("probe returned %v; want nil", err)
			}
			if dialed != "tcp backend.example:8080" {
				t.Errorf("dialer got %q; want tcp backend.example:8080", dialed)
			}
			if n := conn.closes.Load(); n != 1 {
				t.Errorf("connection was closed %d times; want 1", n)
			}
		})
	}
}

// A countedConn counts its Closes.
type countedConn struct {
	net.Conn
	closes atomic.Int64
}

func (c *countedConn) Close() error {
	c.closes.Add(1)
	return c.Conn.Close()
}

func TestProbesSendRequest(t *testing.T) {
	http200 := proxytest.Refusing(200, "ok")
	for _, tt := range []struct {
		name  string
		probe probeFunc
		want  []string // lines of the head; the key is K
	}{
		{"HTTP, default", wsproxy.HTTPProbe(wsproxy.HTTPProbeConfig{}), []string{
			"GET /base/ HTTP/1.1", "Host: 127.0.0.1:PORT", "User-Agent: wsproxy-probe", "Connection: close",
		}},
		{"HTTP", wsproxy.HTTPProbe(wsproxy.HTTPProbeConfig{
			Path: "/health%2Fz b?full=1&x=a b", Host: "chat.example", Header: http.Header{"Authorization": {"Bearer x"}, "User-Agent": {"mine"}, "Host": {"no"}},
		}), []string{
			"GET /base/health%2Fz%20b?full=1&x=a%20b HTTP/1.1", "Host: chat.example", "User-Agent: mine", "Connection: close", "Authorization: Bearer x",
		}},
		{"WebSocket, default", wsproxy.WebSocketProbe(wsproxy.WebSocketProbeConfig{}), []string{
			"GET /base/ HTTP/1.1", "Host: 127.0.0.1:PORT", "Upgrade: websocket", "Connection: Upgrade",
			"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: K", "User-Agent: wsproxy-probe",
		}},
		{"WebSocket", wsproxy.WebSocketProbe(wsproxy.WebSocketProbeConfig{
			Path: "/ws?room=probe", Host: "chat.example", Header: http.Header{"Origin": {"https://chat.example"}, "Sec-Websocket-Protocol": {"v1"}},
		}), []string{
			"GET /base/ws?room=probe HTTP/1.1", "Host: chat.example", "Upgrade: websocket", "Connection: Upgrade",
			"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: K", "Origin: https://chat.example", "Sec-WebSocket-Protocol: v1", "User-Agent: wsproxy-probe",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, http200)
			err := probeBackend(t, tt.probe, wsproxy.WithBackends(backend.URL()+"/base"))
			if strings.HasPrefix(tt.name, "HTTP") && err != nil {
				t.Errorf("probe returned %v; want nil", err)
			}
			req, head, rest := proxytest.ReceivedHead(t, backend)
			want := strings.ReplaceAll(proxytest.Head(tt.want...), "PORT", backend.URL()[len("http://127.0.0.1:"):])
			if key := req.Header.Get("Sec-WebSocket-Key"); key != "" {
				want = strings.Replace(want, "Key: K", "Key: "+key, 1)
			}
			if head != want || rest != "" {
				t.Errorf("backend got\n%s%q; want\n%s", head, rest, want)
			}
		})
	}
}

func TestProbesSendHostOfURL(t *testing.T) {
	for url, want := range map[string]string{
		"http://a": "a", "http://a:80": "a", "http://a:8080": "a:8080", "http://a:443": "a:443",
		"http://[::1]:80": "[::1]", "http://[fe80::1%25eth0]:8080": "[fe80::1]:8080", "unix:///run/a.sock": "localhost",
	} {
		for _, probe := range []probeFunc{allProbes["HTTP"], allProbes["WebSocket"]} {
			front, back := memnet.Pipe(4096)
			got := make(chan string, 1)
			go func() { // until the probe ends
				defer back.Close()
				req := wstest.NewBackend(t, back).ReadRequest()
				got <- req.Host
			}()
			err := probeBackend(t, probe, wsproxy.WithBackends(url), wsproxy.WithDialer(
				func(context.Context, string, string) (net.Conn, error) { return front, nil }))
			wantProbeError(t, err, "EOF")
			if host := <-got; host != want {
				t.Errorf("%s: backend got Host %q; want %q", url, host, want)
			}
		}
	}
}

func TestHTTPProbeUsesPort(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.Refusing(200, ""))
	port := backend.URL()[len("http://127.0.0.1:"):]
	var n int
	fmt.Sscan(port, &n)
	probe := wsproxy.HTTPProbe(wsproxy.HTTPProbeConfig{Port: n})
	if err := probeBackend(t, probe, wsproxy.WithBackends("http://127.0.0.1:1")); err != nil {
		t.Errorf("probe returned %v; want nil", err)
	}
	if req, _, _ := proxytest.ReceivedHead(t, backend); req.Host != "127.0.0.1:"+port {
		t.Errorf("backend got Host %q; want its own port, %s", req.Host, port)
	}
}

func TestHTTPProbeChecksStatus(t *testing.T) {
	for _, tt := range []struct {
		answer string
		status int
		want   string // empty: it passes
	}{
		{proxytest.Refusing(200, "ok"), 0, ""},
		{proxytest.Refusing(204, ""), 0, ""},
		{proxytest.Refusing(299, ""), 0, ""},
		{proxytest.Refusing(302, "", "Location: /login"), 0, "GET /healthz: status 302; want 2xx"},
		{proxytest.Refusing(404, ""), 0, "GET /healthz: status 404; want 2xx"},
		{proxytest.Refusing(503, ""), 200, "GET /healthz: status 503; want 200"},
		{proxytest.Refusing(204, ""), 200, "GET /healthz: status 204; want 200"},
		{proxytest.Refusing(426, ""), 426, ""},
		{proxytest.Refusing(302, ""), 302, ""},
		{proxytest.Head("HTTP/1.1 103 Early Hints") + proxytest.Refusing(200, ""), 0, ""},
		{proxytest.SwitchingWith(), 0, "GET /healthz: "},
		{"HTTP/1.0 200 OK\r\n\r\nto the end{end}", 0, ""},
		{"SSH-2.0-OpenSSH_9.6\r\n{end}", 0, "GET /healthz: malformed HTTP response"},
		{"HTTP/1.1 200 OK\r\nContent-Le{end}", 0, "GET /healthz: malformed MIME header"},
		{"{end}", 0, "GET /healthz: unexpected EOF"},
		{proxytest.Head("HTTP/1.1 200 OK", "Content-Length: 10") + "half{end}", 0, "GET /healthz: body of the response: unexpected EOF"},
		{proxytest.Head("HTTP/1.1 200 OK", "Content-Length: 1000000") + strings.Repeat("x", 65<<10), 0, ""},
		{proxytest.Head("HTTP/1.1 200 OK", "X: "+strings.Repeat("x", 65<<10)), 0, "GET /healthz: answer's header is larger than 64 KiB"},
	} {
		backend := wstest.StartRaw(t, tt.answer)
		probe := wsproxy.HTTPProbe(wsproxy.HTTPProbeConfig{Path: "/healthz?token=secret", Status: tt.status})
		err := probeBackend(t, probe, wsproxy.WithBackends(backend.URL()))
		if tt.want != "" {
			wantProbeError(t, err, "probe of backend "+backend.URL()+": "+tt.want)
		} else if err != nil {
			t.Errorf("after %.60q the probe returned %v; want nil", tt.answer, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("error %q shows the query", err)
		}
	}
}

func TestWebSocketProbeChecksBackend(t *testing.T) {
	flood := strings.Repeat(string(wstest.AppendFrame(nil, wstest.Binary(make([]byte, 1<<10)), nil)), 100)
	frames := func(frames ...wstest.Frame) string {
		var b []byte
		for _, f := range frames {
			b = wstest.AppendFrame(b, f, nil)
		}
		return string(b)
	}
	for _, tt := range []struct {
		name   string
		answer string
		want   string
	}{
		{"refuses", proxytest.Refusing(403, ""), "opening handshake: status 403; want 101"},
		{"knows no WebSocket", proxytest.Refusing(200, "hello"), "opening handshake: status 200; want 101"},
		{"wrong accept", strings.Replace(proxytest.Switching, "{accept}", proxytest.SampleAccept, 1), "opening handshake: response's Sec-WebSocket-Accept does not fit the key"},
		{"subprotocol not offered", proxytest.SwitchingWith("Sec-WebSocket-Protocol: v1"), "opening handshake: response has a subprotocol that was not offered"},
		{"garbage", "220 mail.example ESMTP\r\n\r\n", "opening handshake: malformed HTTP"},
		{"closes", "{end}", "opening handshake: unexpected EOF"},
		{"closes after the 101", proxytest.Switching + "{end}", "ping: unexpected EOF"},
		{"ends within a frame", proxytest.Switching + "\x81\x7e{end}", "ping: unexpected EOF"},
		{"Close frame", proxytest.Switching + frames(wstest.Text("hello"), wstest.Close(1013, "full")), "ping: the backend closed the WebSocket with 1013 before its pong"},
		{"Close frame without a code", proxytest.Switching + "\x88\x00", "ping: the backend closed the WebSocket with 1005 before its pong"},
		{"masked frame", proxytest.Switching + "\x81\x85abcdhello", "ping: the backend broke the protocol: frame from the backend is masked"},
		{"no frame", proxytest.Switching + "HTTP/1.1 200 OK\r\n\r\n", "ping: the backend broke the protocol: "},
		{"other pong", proxytest.Switching + frames(wstest.Pong(""), wstest.Pong("12345678")) + "{end}", "ping: unexpected EOF"},
		{"flood", proxytest.Switching + strings.Repeat(flood, 11), "ping: no pong in 1024 KiB of other frames"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, tt.answer)
			err := probeBackend(t, allProbes["WebSocket"], wsproxy.WithBackends(backend.URL()))
			wantProbeError(t, err, "probe of backend "+backend.URL()+": "+tt.want)
			backend.Received(t) // the connection has ended
		})
	}
}

func TestWebSocketProbeWaitsForPongBehindOtherFrames(t *testing.T) {
	backend := wstest.StartBackend(t)
	p := proxytest.NewProxy(t, wsproxy.WithBackends(backend.URL()))
	probe := wsproxy.WebSocketProbe(wsproxy.WebSocketProbeConfig{Header: http.Header{"Sec-Websocket-Extensions": {"permessage-deflate"}}})
	result := make(chan error, 1)
	go func() { result <- probe(t.Context(), p.Backends()[0]) }() // ends with the script
	leg := backend.Accepted(t)
	req := leg.ReadRequest()
	// The greeting comes in the same write as the 101, and its end later.
	greeting := wstest.AppendFrame(nil, wstest.Text(strings.Repeat("x", 300<<10)), nil)
	greeting[0] |= 0x40 // compressed
	leg.SendRaw(append([]byte(wstest.UpgradeAnswer(req.Header.Get("Sec-WebSocket-Key"), http.Header{"Sec-Websocket-Extensions": {"permessage-deflate"}})), greeting[:1000]...))
	f, err := leg.ReadFrame()
	if err != nil || f.Opcode != wstest.OpPing || len(f.Payload) != 8 {
		t.Fatalf("backend got %v, %v; want a ping with 8 bytes", f, err)
	}
	leg.SendRaw(greeting[1000:])
	leg.Send(wstest.Ping("are you there"), wstest.Fragment(wstest.OpText, false, "part"), wstest.Pong("other"))
	pong := wstest.AppendFrame(nil, wstest.Pong(string(f.Payload)), nil)
	leg.SendRaw(pong[:3])
	leg.SendRaw(pong[3:])
	leg.WantClose(1000)
	leg.Close()
	if err := <-result; err != nil {
		t.Errorf("probe returned %v; want nil", err)
	}
}

func TestProbesFailWhereNothingListens(t *testing.T) {
	for name, probe := range allProbes {
		for _, url := range []string{"http://127.0.0.1:1", "https://127.0.0.1:1", "unix:///nonexistent/socket"} {
			err := probeBackend(t, probe, wsproxy.WithBackends(url))
			wantProbeError(t, err, "wsproxy: probe of backend "+url+": dial: dial ")
			var opError *net.OpError
			if !errors.As(err, &opError) {
				t.Errorf("%s: error %v does not wrap that of the dial", name, err)
			}
		}
	}
}

func TestProbesFailIfDialerReturnsNothing(t *testing.T) {
	for _, probe := range allProbes {
		err := probeBackend(t, probe, wsproxy.WithBackends("http://a"), wsproxy.WithDialer(
			func(context.Context, string, string) (net.Conn, error) { return nil, nil }))
		wantProbeError(t, err, "dial: the dialer returned no connection")
	}
}

// dialNever is a dialer that does not connect.
func dialNever(ctx context.Context, _, _ string) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// dialSilent connects to a backend that reads and never answers.
func dialSilent(context.Context, string, string) (net.Conn, error) {
	front, back := memnet.Pipe(4096)
	go io.Copy(io.Discard, back) // until the proxy closes front
	return front, nil
}

func TestProbesEndWithContext(t *testing.T) {
	for _, tt := range []struct {
		name    string
		probe   string
		scheme  string
		backend *proxytest.FakeBackend // nil: the dial blocks, or with https the TLS handshake
		step    string
	}{
		{"dial", "TCP", "http", nil, "dial"},
		{"TLS", "TCP", "https", nil, "TLS"},
		{"dial", "HTTP", "http", nil, "dial"},
		{"response", "HTTP", "http", &proxytest.FakeBackend{}, "GET /healthz"},
		{"TLS", "HTTP", "https", nil, "GET /healthz"},
		{"half a line", "HTTP", "http", &proxytest.FakeBackend{Answer: "HTTP/1.1 20"}, "GET /healthz"},
		{"body", "HTTP", "http", &proxytest.FakeBackend{Answer: proxytest.Head("HTTP/1.1 200 OK", "Content-Length: 5")}, "GET /healthz: body of the response"},
		{"dial", "WebSocket", "http", nil, "dial"},
		{"response", "WebSocket", "http", &proxytest.FakeBackend{}, "opening handshake"},
		{"pong", "WebSocket", "http", &proxytest.FakeBackend{Answer: proxytest.Switching}, "ping"}, // it answers a ping with a ping
	} {
		for _, ends := range []string{"deadline", "cancel", "canceled before"} {
			t.Run(tt.probe+" "+tt.name+" "+ends, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					network := proxytest.NewNetwork()
					dial := network.Dial
					switch {
					case tt.backend != nil:
						network.Set("a", *tt.backend)
					case tt.scheme == "https":
						dial = dialSilent
					default:
						dial = dialNever
					}
					p := proxytest.NewProxy(t, wsproxy.WithBackends(tt.scheme+"://a"), wsproxy.WithDialer(dial))
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					want, step, cause := 3*time.Second, tt.step+": ", context.Canceled
					switch ends {
					case "deadline":
						cause = context.DeadlineExceeded
						ctx, cancel = context.WithTimeout(ctx, want)
						defer cancel()
					case "cancel":
						time.AfterFunc(want, cancel)
					default:
						want, step = 0, ""
						cancel()
					}
					start := time.Now()
					err := allProbes[tt.probe](ctx, p.Backends()[0])
					if took := time.Since(start); took != want {
						t.Errorf("probe took %v; want %v", took, want)
					}
					wantProbeError(t, err, "probe of backend "+tt.scheme+"://a: "+step+cause.Error())
					if !errors.Is(err, cause) {
						t.Errorf("error %v does not wrap %v", err, cause)
					}
					// The bubble fails if a goroutine is left: that of the backend ends with its connection.
				})
			})
		}
	}
}

func TestProbesEndWithContextOnSockets(t *testing.T) {
	for _, tt := range []struct{ probe, scheme, answer, step string }{
		{"TCP", "https", "", "TLS"},
		{"HTTP", "http", "", "GET /healthz"},
		{"HTTP", "https", "", "GET /healthz"},
		{"WebSocket", "http", "", "opening handshake"},
		{"WebSocket", "http", proxytest.Switching, "ping"},
	} {
		backend := wstest.StartRaw(t, tt.answer)
		p := proxytest.NewProxy(t, wsproxy.WithBackends(tt.scheme+strings.TrimPrefix(backend.URL(), "http")))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := allProbes[tt.probe](ctx, p.Backends()[0])
		cancel()
		wantProbeError(t, err, ": "+tt.step+": context deadline exceeded")
		backend.Received(t) // the connection has ended
	}
}

func TestWebSocketProbeWaitsForBackendToClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct{ timeout, want time.Duration }{{0, time.Second}, {10 * time.Second, time.Second}, {time.Second, 500 * time.Millisecond}} {
			backend := proxytest.NewBackendInMemory(t)
			p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a"), backend.Option())
			ctx := t.Context()
			if tt.timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, tt.timeout)
				defer cancel()
			}
			result := make(chan error, 1)
			start := time.Now()
			go func() { result <- allProbes["WebSocket"](ctx, p.Backends()[0]) }() // ends with the script
			leg := backend.Accept(t)
			leg.AcceptUpgrade(nil)
			f, err := leg.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			leg.Send(wstest.Pong(string(f.Payload)))
			leg.WantClose(1000)
			if err := <-result; err != nil || time.Since(start) != tt.want {
				t.Errorf("timeout %v: probe returned %v after %v; want nil after %v", tt.timeout, err, time.Since(start), tt.want)
			}
			leg.Close()
		}
	})
}

func TestProbeReportsMistakeInConfig(t *testing.T) {
	for _, tt := range []struct {
		probe probeFunc
		url   string
		want  string
	}{
		{wsproxy.HTTPProbe(wsproxy.HTTPProbeConfig{Path: "healthz"}), "http://a", `the config's Path "healthz" is not valid`},
		{wsproxy.HTTPProbe(wsproxy.HTTPProbeConfig{Path: "http://a/healthz"}), "http://a", "Path"},
		{wsproxy.HTTPProbe(wsproxy.HTTPProbeConfig{Path: "/%zz"}), "http://a", "Path"},
		{wsproxy.HTTPProbe(wsproxy.HTTPProbeConfig{Path: "/x\r\ny"}), "http://a", "Path"},
		{wsproxy.HTTPProbe(wsproxy.HTTPProbeConfig{Path: "/../x"}), "http://a/base", `the config's Path "/../x": Path had a`},
		{wsproxy.HTTPProbe(wsproxy.HTTPProbeConfig{Host: "a b"}), "http://a", `the config's Host "a b" is not valid`},
		{wsproxy.HTTPProbe(wsproxy.HTTPProbeConfig{Port: 65536}), "http://a", "HTTPProbeConfig.Port 65536; want 0 to 65535"},
		{wsproxy.HTTPProbe(wsproxy.HTTPProbeConfig{Port: -1}), "http://a", "HTTPProbeConfig.Port -1"},
		{wsproxy.HTTPProbe(wsproxy.HTTPProbeConfig{Port: 80}), "unix:///a", "HTTPProbeConfig.Port 80: a unix socket has no port"},
		{wsproxy.HTTPProbe(wsproxy.HTTPProbeConfig{Status: 101}), "http://a", "HTTPProbeConfig.Status 101; want 200 to 599"},
		{wsproxy.HTTPProbe(wsproxy.HTTPProbeConfig{Header: http.Header{"A B": {"x"}}}), "http://a", `the config's Header has the name "A B"`},
		{wsproxy.HTTPProbe(wsproxy.HTTPProbeConfig{Header: http.Header{"A": {"secret\n"}}}), "http://a", "the config's Header has a value for A"},
		{wsproxy.WebSocketProbe(wsproxy.WebSocketProbeConfig{Path: "?x"}), "http://a", "Path"},
		{wsproxy.WebSocketProbe(wsproxy.WebSocketProbeConfig{Host: "a\r\n"}), "http://a", "Host"},
		{wsproxy.WebSocketProbe(wsproxy.WebSocketProbeConfig{Header: http.Header{"A": {"secret\r\nb: c"}}}), "http://a", "value for A"},
	} {
		err := probeBackend(t, tt.probe, wsproxy.WithBackends(tt.url), wsproxy.WithDialer(func(context.Context, string, string) (net.Conn, error) {
			t.Errorf("%s: dialed", tt.want)
			return nil, nil
		}))
		wantProbeError(t, err, tt.want)
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("error %q shows a value", err)
		}
	}
}

func TestProbeConfigCanBeChangedAfterwards(t *testing.T) {
	h := http.Header{"X-Probe": {"1"}}
	probe := wsproxy.HTTPProbe(wsproxy.HTTPProbeConfig{Header: h})
	h.Set("X-Probe", "2")
	backend := wstest.StartRaw(t, proxytest.Refusing(200, ""))
	probeBackend(t, probe, wsproxy.WithBackends(backend.URL()))
	if req, _, _ := proxytest.ReceivedHead(t, backend); req.Header.Get("X-Probe") != "1" {
		t.Errorf("backend got X-Probe %q; want 1, as it was", req.Header.Get("X-Probe"))
	}
}

func TestHealthCheckRefusesNegativeValues(t *testing.T) {
	_, err := wsproxy.New(wsproxy.WithBackends(), wsproxy.WithHealthCheck(wsproxy.HealthCheck{Interval: -1, Timeout: -1, Fall: -1, Rise: -1, DrainAfter: -1}))
	var got []string
	for _, e := range configErrors(t, err) {
		got = append(got, e.Option)
	}
	if want := "[WithHealthCheck.Interval WithHealthCheck.Timeout WithHealthCheck.Fall WithHealthCheck.Rise WithHealthCheck.DrainAfter]"; fmt.Sprint(got) != want {
		t.Errorf("New() reports mistakes in %v; want %v", got, want)
	}
}

// The whole way: a real backend, probed by the goroutine of a proxy.
func TestHealthCheckProbesRealBackend(t *testing.T) {
	var probes atomic.Int64
	seen := make(chan string, 3)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		probes.Add(1)
		select {
		case seen <- r.UserAgent():
		default: // enough was seen
		}
	}))
	defer srv.Close()
	p := proxytest.NewProxy(t, wsproxy.WithBackends(srv.URL), wsproxy.WithHealthCheck(wsproxy.HealthCheck{
		Probe: wsproxy.HTTPProbe(wsproxy.HTTPProbeConfig{}), Interval: time.Millisecond,
	}))
	for range 3 {
		if agent := <-seen; agent != "wsproxy-probe" {
			t.Errorf("backend got User-Agent %q; want wsproxy-probe", agent)
		}
	}
	p.Close()
	srv.Close() // waits for its handlers
	n := probes.Load()
	if p.Close(); probes.Load() != n {
		t.Error("a probe came after Close")
	}
}
