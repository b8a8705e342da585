package wsproxy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/wsproxy/wsproxy"
	_ "github.com/wsproxy/wsproxy/http2ws"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// An http2Pair is a tunnel whose client is over HTTP/2.
type http2Pair struct {
	proxy           *wsproxy.Proxy
	site            *proxytest.Site
	browser         *proxytest.HTTP2Client
	client, backend *wstest.Peer
	ends            chan wsproxy.TunnelEnd
}

func openHTTP2(t *testing.T, opts ...wsproxy.Option) *http2Pair {
	t.Helper()
	b := wstest.StartBackend(t)
	p := &http2Pair{ends: make(chan wsproxy.TunnelEnd, 100)}
	opened := make(chan bool, 1)
	trace := wsproxy.WithTrace(&wsproxy.Trace{
		Opened: func(wsproxy.OpenedInfo) { opened <- true },
		Closed: func(e wsproxy.TunnelEnd) { p.ends <- e },
	})
	p.proxy = proxytest.NewProxy(t, append([]wsproxy.Option{wsproxy.WithBackends(b.URL()), trace}, opts...)...)
	p.site = proxytest.ServeHTTP2(t, p.proxy)
	p.browser = proxytest.NewHTTP2Client(t, p.site.URL)
	s := p.browser.Send(t, proxytest.ConnectFields("/ws"))
	p.backend = b.Accepted(t)
	p.backend.AcceptUpgrade(nil)
	proxytest.WantStatus(t, s.Response(t), 200)
	p.client = wstest.NewClient(t, s)
	<-opened // which may be after the client has its 200: a tunnel that is cut before has no end
	return p
}

// end waits for the end of the tunnel, and of its handler.
func (p *http2Pair) end(t *testing.T) wsproxy.TunnelEnd {
	t.Helper()
	select {
	case e := <-p.ends:
		p.site.Wait()
		proxytest.WantNoTunnels(t, p.proxy)
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("the tunnel has not ended")
		panic("unreachable")
	}
}

func wantHTTP2End(t *testing.T, e wsproxy.TunnelEnd, side wsproxy.Side, cause wsproxy.Cause, code int) {
	t.Helper()
	if e.Side != side || e.Cause != cause || e.Code != code {
		t.Errorf("tunnel ended by %v, %v, code %d (%v); want %v, %v, %d", e.Side, e.Cause, e.Code, e.Err, side, cause, code)
	}
}

func field(name, value string) proxytest.Field { return proxytest.Field{Name: name, Value: value} }

// Over HTTP/2 there is no key; the backend gets an ordinary upgrade, and the client a 200
// without the fields of HTTP/1.1.
func TestHTTP2RequestIsAnUpgradeForTheBackend(t *testing.T) {
	for name, mount := range map[string]func(*wsproxy.Proxy) http.Handler{
		"ServeHTTP":            func(p *wsproxy.Proxy) http.Handler { return p },
		"Wrap":                 func(p *wsproxy.Proxy) http.Handler { return p.Wrap(http.NotFoundHandler()) },
		"ServeHTTP with Front": func(p *wsproxy.Proxy) http.Handler { return wsproxy.Front(p) },
		"Wrap with Front":      func(p *wsproxy.Proxy) http.Handler { return wsproxy.Front(p.Wrap(http.NotFoundHandler())) },
		"Front twice":          func(p *wsproxy.Proxy) http.Handler { return wsproxy.Front(wsproxy.Front(p)) },
	} {
		t.Run(name, func(t *testing.T) {
			b := wstest.StartBackend(t)
			p := proxytest.NewProxy(t, wsproxy.WithBackends(b.URL()))
			s := proxytest.ServeHTTP2(t, mount(p))
			browser := proxytest.NewHTTP2Client(t, s.URL)
			stream := browser.Send(t, proxytest.ConnectFields("/ws%2Fx?a=1", field("sec-websocket-key", "mine"),
				field("cookie", "a=1"), field("cookie", "b=2"), field("x-forwarded-for", "192.0.2.1"),
				field("sec-websocket-protocol", "v1, v2"), field("sec-websocket-extensions", "permessage-deflate"),
				field("te", "trailers"), field("trailer", "x-sum"), field("content-length", "7")))
			backend := b.Accepted(t)
			r := backend.AcceptUpgrade(http.Header{"Sec-Websocket-Protocol": {"v2"}, "Sec-Websocket-Extensions": {"permessage-deflate"},
				"Set-Cookie": {"c=3"}, "X-Backend": {"1"}})
			resp := stream.Response(t)

			if r.Method != "GET" || r.Proto != "HTTP/1.1" || r.RequestURI != "/ws%2Fx?a=1" || r.Host != "chat.example" {
				t.Errorf("backend got %s %s %s with Host %s; want GET /ws%%2Fx?a=1 HTTP/1.1, chat.example", r.Method, r.RequestURI, r.Proto, r.Host)
			}
			if key := r.Header.Get("Sec-Websocket-Key"); key == "mine" || len(key) != 24 {
				t.Errorf("backend got the key %q; want one of the proxy's", key)
			}
			proxytest.WantField(t, r.Header, "X-Forwarded-Proto", "https")
			proxytest.WantField(t, r.Header, "X-Forwarded-For", "127.0.0.1")
			proxytest.WantField(t, r.Header, "X-Forwarded-Host", "chat.example")
			proxytest.WantField(t, r.Header, "Cookie", "a=1; b=2")
			for name := range r.Header {
				if strings.HasPrefix(name, ":") || slices.Contains([]string{"Te", "Trailer", "Content-Length", "Transfer-Encoding"}, name) {
					t.Errorf("backend got the field %s", name)
				}
			}

			proxytest.WantStatus(t, resp, 200)
			proxytest.WantField(t, resp.Header, "Sec-WebSocket-Protocol", "v2")
			proxytest.WantField(t, resp.Header, "Sec-WebSocket-Extensions", "permessage-deflate")
			proxytest.WantField(t, resp.Header, "Set-Cookie", "c=3")
			proxytest.WantField(t, resp.Header, "X-Backend", "1")
			for _, name := range []string{"Sec-WebSocket-Accept", "Connection", "Upgrade", "Content-Type", "Content-Length"} {
				proxytest.WantField(t, resp.Header, name)
			}

			i := proxytest.OnlyTunnel(t, p).Info()
			if i.Method != "CONNECT" || i.Host != "chat.example" || i.Subprotocol != "v2" || i.Engine != wsproxy.EnginePortable ||
				i.RemoteAddr != stream.LocalAddr().String() || i.LocalAddr != stream.RemoteAddr().String() {
				t.Errorf("Info() = %+v; want CONNECT, the portable engine, and the addresses of the connection", i)
			}
		})
	}
}

func TestHTTP2TunnelPassesFrames(t *testing.T) {
	p := openHTTP2(t)
	var big [200 << 10]byte
	for i := range big {
		big[i] = byte(rand.Uint32())
	}
	frames := []wstest.Frame{
		wstest.Text("hello"), wstest.Text(""), wstest.Binary(big[:]), wstest.Ping("p"), wstest.Pong("q"),
		wstest.Fragment(wstest.OpText, false, "a"), wstest.Ping("between"), wstest.Fragment(wstest.OpContinuation, true, "b"),
	}
	for _, f := range frames {
		p.client.Send(f)
		p.backend.Want(f)
		p.backend.Send(f)
		p.client.Want(f)
	}
	p.client.Send(frames...)
	p.backend.Want(frames...)
}

// A frame of permessage-deflate has RSV1, which is an error unless the 200 has agreed to it.
func TestHTTP2TunnelPassesCompressedMessages(t *testing.T) {
	b := wstest.StartBackend(t)
	p := proxytest.NewProxy(t, wsproxy.WithBackends(b.URL()))
	browser := proxytest.NewHTTP2Client(t, proxytest.ServeHTTP2(t, p).URL)
	s := browser.Send(t, proxytest.ConnectFields("/", field("sec-websocket-extensions", "permessage-deflate")))
	backend := b.Accepted(t)
	backend.AcceptUpgrade(http.Header{"Sec-Websocket-Extensions": {"permessage-deflate"}})
	proxytest.WantStatus(t, s.Response(t), 200)
	client := wstest.NewClient(t, s)
	compressed := wstest.Text("\xf2\x48\xcd\xc9\xc9\x07\x00") // RFC 7692 §7.2.3.1
	compressed.RSV = 4                                        // RSV1
	client.Send(compressed)
	backend.Want(compressed)
	backend.Send(compressed)
	client.Want(compressed)
}

func TestHTTP2TunnelPassesCloseCodes(t *testing.T) {
	for _, code := range []uint16{1000, 1001, 3000, 4999, 0} {
		for _, byClient := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d client=%v", code, byClient), func(t *testing.T) {
				p := openHTTP2(t)
				first, second, side := p.client, p.backend, wsproxy.SideClient
				if !byClient {
					first, second, side = p.backend, p.client, wsproxy.SideBackend
				}
				first.Send(wstest.Text("last"), wstest.Close(code, ""))
				second.Want(wstest.Text("last"))
				second.WantClose(code)
				second.Send(wstest.Close(code, ""))
				first.WantClose(code)
				p.backend.Close()
				p.client.WantEOF()
				want := int(code)
				if want == 0 {
					want = 1005
				}
				e := p.end(t)
				wantHTTP2End(t, e, side, wsproxy.CauseClosed, want)
				if e.Cut {
					t.Error("the end counts as a cut")
				}
			})
		}
	}
}

func TestHTTP2StreamThatEndsIsALostClient(t *testing.T) {
	for name, lose := range map[string]func(*http2Pair){
		"END_STREAM": func(p *http2Pair) { p.client.CloseWrite() },
		"RST_STREAM": func(p *http2Pair) { p.client.Reset() },
		"connection": func(p *http2Pair) { p.browser.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			p := openHTTP2(t)
			p.client.Send(wstest.Text("last"))
			p.backend.Want(wstest.Text("last"))
			lose(p)
			p.backend.WantEOF() // without a Close frame
			p.backend.Close()
			e := p.end(t)
			wantHTTP2End(t, e, wsproxy.SideClient, wsproxy.CauseLost, 0)
			if (e.Err == io.EOF) != (name == "END_STREAM") {
				t.Errorf("TunnelEnd.Err is %v", e.Err)
			}
		})
	}
}

// END_STREAM is the end of one direction: what the backend still sends arrives.
func TestHTTP2ClientThatEndsItsStreamReadsOn(t *testing.T) {
	p := openHTTP2(t)
	p.client.CloseWrite()
	p.backend.WantEOF()
	p.backend.Send(wstest.Text("late"), wstest.Close(1000, ""))
	p.client.Want(wstest.Text("late"))
	p.client.WantClose(1000)
	p.backend.Close()
	p.client.WantEOF()
	wantHTTP2End(t, p.end(t), wsproxy.SideClient, wsproxy.CauseLost, 0)
}

func TestHTTP2ClientIsToldThatItsBackendWasLost(t *testing.T) {
	p := openHTTP2(t)
	p.backend.Reset()
	p.client.WantClose(1012)
	p.client.Send(wstest.Close(1012, ""))
	p.client.WantEOF()
	wantHTTP2End(t, p.end(t), wsproxy.SideBackend, wsproxy.CauseLost, 1012)
}

func TestHTTP2TunnelEndsByShutdownAndByClose(t *testing.T) {
	t.Parallel()
	t.Run("Shutdown", func(t *testing.T) {
		p := openHTTP2(t)
		done := proxytest.ShutDown(t.Context(), p.proxy)
		p.backend.WantClose(1001)
		p.backend.Send(wstest.Close(1001, ""))
		p.client.WantClose(1001)
		p.client.Send(wstest.Close(1001, ""))
		p.client.WantEOF()
		if err := <-done; err != nil {
			t.Errorf("Shutdown() = %v", err)
		}
		wantHTTP2End(t, p.end(t), wsproxy.SideProxy, wsproxy.CauseShutdown, 1001)
	})
	t.Run("Close", func(t *testing.T) {
		p := openHTTP2(t)
		p.proxy.Close()
		p.client.WantReset()
		if e := p.end(t); !e.Cut || e.Cause != wsproxy.CauseShutdown {
			t.Errorf("the end is %+v; want a cut", e)
		}
		if p.browser.HasGoAway() {
			t.Error("the server has sent GOAWAY")
		}
	})
}

// An upgrade that Shutdown ends gets 503, and leaves the connection as it was.
func TestHTTP2ShutdownRefusesUpgrades(t *testing.T) {
	p := openHTTP2(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p.proxy.Shutdown(ctx)
	_, resp := p.browser.Connect(t, proxytest.ConnectFields("/"))
	proxytest.WantStatus(t, resp, 503)
	if resp.Header.Get("Retry-After") == "" || p.browser.HasGoAway() {
		t.Errorf("header %v, GOAWAY %v; want Retry-After and none", resp.Header, p.browser.HasGoAway())
	}
}

// Neither the server's timeouts nor its context end a tunnel.
func TestHTTP2TunnelOutlivesTimeoutsOfTheServer(t *testing.T) {
	t.Parallel()
	const timeout = time.Second // the request must arrive within it, on a machine with much to do too
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithDetached(true))
	s := proxytest.ServeHTTP2(t, p, func(srv *http.Server) {
		srv.ReadTimeout, srv.WriteTimeout, srv.IdleTimeout = timeout, timeout, timeout
	})
	browser := proxytest.NewHTTP2Client(t, s.URL)
	client, _ := browser.Open(t, "/")
	for end := time.Now().Add(3 * timeout / 2); time.Now().Before(end); {
		proxytest.WantEcho(t, client)
		time.Sleep(50 * time.Millisecond) // so that the time passes
	}
	proxytest.HangUp(t, client)
}

// As over HTTP/1.1, the server's timeouts may pass while a backend is asked.
func TestHTTP2UpgradeOutlivesTimeoutsOfTheServer(t *testing.T) {
	t.Parallel()
	const timeout = time.Second // the request must arrive within it, on a machine with much to do too
	for name, set := range map[string]func(*http.Server){
		"ReadTimeout":  func(srv *http.Server) { srv.ReadTimeout = timeout },
		"WriteTimeout": func(srv *http.Server) { srv.WriteTimeout = timeout },
	} {
		for _, front := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s Front=%v", name, front), func(t *testing.T) {
				t.Parallel()
				b := wstest.StartBackend(t)
				var h http.Handler = proxytest.NewProxy(t, wsproxy.WithBackends(b.URL()))
				if front {
					h = wsproxy.Front(h)
				}
				browser := proxytest.NewHTTP2Client(t, proxytest.ServeHTTP2(t, h, set).URL)
				s := browser.Send(t, proxytest.ConnectFields("/"))
				backend := b.Accepted(t)
				time.Sleep(timeout + timeout/4) // so that the time passes
				backend.AcceptUpgrade(nil)
				proxytest.WantStatus(t, s.Response(t), 200)
				client := wstest.NewClient(t, s)
				client.Send(wstest.Text("up"))
				backend.Want(wstest.Text("up"))
				backend.Send(wstest.Text("down"))
				client.Want(wstest.Text("down"))
			})
		}
	}
}

func TestHTTP2TunnelHasLimits(t *testing.T) {
	t.Parallel()
	t.Run("message size", func(t *testing.T) {
		p := openHTTP2(t, wsproxy.WithLimits(wsproxy.Limits{MessageSize: 10}))
		p.client.Send(wstest.Text("more than ten"))
		p.backend.WantClose(1001)
		p.backend.Send(wstest.Close(1001, ""))
		p.client.WantClose(1009)
		p.client.Send(wstest.Close(1009, ""))
		p.client.WantEOF()
		wantHTTP2End(t, p.end(t), wsproxy.SideClient, wsproxy.CauseTooBig, 1009)
	})
	t.Run("frame without a mask", func(t *testing.T) {
		p := openHTTP2(t)
		p.client.SendRaw(wstest.AppendFrame(nil, wstest.Text("x"), nil))
		p.backend.WantClose(1001)
		p.backend.Send(wstest.Close(1001, ""))
		p.client.WantClose(1002)
		p.client.Send(wstest.Close(1002, ""))
		p.client.WantEOF()
		wantHTTP2End(t, p.end(t), wsproxy.SideClient, wsproxy.CauseProtocol, 1002)
	})
	t.Run("tunnels of one client", func(t *testing.T) {
		p := openHTTP2(t, wsproxy.WithLimits(wsproxy.Limits{PerClient: 1}))
		_, resp := p.browser.Connect(t, proxytest.ConnectFields("/"))
		proxytest.WantStatus(t, resp, 429)
		p.client.Reset()
		p.backend.WantEOF()
		p.backend.Close()
		p.end(t)
	})
	t.Run("rate of messages", func(t *testing.T) {
		p := openHTTP2(t, wsproxy.WithLimits(wsproxy.Limits{ClientMessages: wsproxy.Rate{PerSecond: 10, Burst: 1}}))
		start := time.Now()
		for range 5 {
			p.client.Send(wstest.Text("x"))
			p.backend.Want(wstest.Text("x"))
		}
		if d := time.Since(start); d < 200*time.Millisecond {
			t.Errorf("5 messages passed in %v; want 10 a second", d)
		}
	})
}

func TestHTTP2ClientIsPinged(t *testing.T) {
	t.Parallel()
	p := openHTTP2(t, wsproxy.WithPing(wsproxy.Ping{Client: 300 * time.Millisecond}))
	for range 2 {
		p.client.Send(p.client.WantPing())
	}
	// It answers no more.
	for {
		f, err := p.client.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if f.Opcode == wstest.OpClose {
			break
		}
	}
	p.client.WantReset()
	p.backend.WantEOF()
	p.backend.Close()
	wantHTTP2End(t, p.end(t), wsproxy.SideClient, wsproxy.CausePingTimeout, 1001)
}

// A client that opens no window for its stream is cut by RST_STREAM, and the other requests of
// its connection go on meanwhile.
func TestHTTP2ClientThatTakesNothingIsCut(t *testing.T) {
	t.Parallel()
	p := openHTTP2(t, wsproxy.WithTimeouts(wsproxy.Timeouts{WriteStall: time.Second}))
	go func() { // ends with the backend's connection
		for p.backend.WriteFrames(wstest.Binary(make([]byte, 16<<10))) == nil {
		}
	}()
	ends := make(chan wsproxy.TunnelEnd, 1)
	go func() { ends <- p.end(t) }()
	for n := 0; ; n++ {
		select {
		case e := <-ends:
			wantHTTP2End(t, e, wsproxy.SideClient, wsproxy.CauseStalled, 0)
			if n == 0 || !e.Cut {
				t.Errorf("%d requests meanwhile, cut %v; want some, and a cut", n, e.Cut)
			}
			return
		default:
		}
		s := p.browser.Send(t, []proxytest.Field{field(":method", "GET"), field(":scheme", "https"),
			field(":path", "/"), field(":authority", "a")})
		proxytest.WantStatus(t, s.Response(t), 426)
		s.CloseWrite()
	}
}

func TestHTTP2RefusalsKeepTheConnection(t *testing.T) {
	network := proxytest.NewNetwork()
	network.Set("b", proxytest.FakeBackend{Answer: proxytest.Refusing(404, "no such room", "X-Backend: 1", "Connection: close", "Upgrade: x")})
	p := proxytest.NewProxy(t, wsproxy.WithBackends("http://b"), wsproxy.WithDialer(network.Dial), wsproxy.WithOriginPatterns("chat.example"))
	s := proxytest.ServeHTTP2(t, p)
	browser := proxytest.NewHTTP2Client(t, s.URL)
	for _, tt := range []struct {
		name   string
		fields []proxytest.Field
		status int
		body   string
	}{
		{"backend's answer", proxytest.ConnectFields("/"), 404, "no such room"},
		{"origin", proxytest.ConnectFields("/", field("origin", "https://other.example")), 403, "Origin was `https://other.example`: it is not allowed for `chat.example`\n"},
		{"same origin", proxytest.ConnectFields("/", field("origin", "https://chat.example:443")), 404, "no such room"},
		{"version", proxytest.ConnectFields("/", field("sec-websocket-version", "8")), 426, "Sec-WebSocket-Version was `13, 8`: only 13 is served here\n"},
		{"subprotocols", proxytest.ConnectFields("/", field("sec-websocket-protocol", "a b")), 400, "Sec-WebSocket-Protocol was not a list of distinct tokens\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, resp := browser.Connect(t, tt.fields)
			proxytest.WantStatus(t, resp, tt.status)
			if body, err := io.ReadAll(resp.Body); err != nil || string(body) != tt.body {
				t.Errorf("body %q, %v; want %q", body, err, tt.body)
			}
			proxytest.WantField(t, resp.Header, "Connection")
			proxytest.WantField(t, resp.Header, "Upgrade")
			if resp.Header.Get("X-Request-Id") == "" {
				t.Error("no X-Request-Id")
			}
		})
	}
	if browser.HasGoAway() {
		t.Error("the server has sent GOAWAY")
	}
}

// Any 2xx opens a WebSocket over HTTP/2, so that a page must not come as one.
func TestHTTP2ClientNeverGetsA2xxThatIsNotATunnel(t *testing.T) {
	t.Run("backend", func(t *testing.T) {
		for _, status := range []int{200, 204, 206} {
			network := proxytest.NewNetwork()
			network.Set("b", proxytest.FakeBackend{Answer: proxytest.Refusing(status, "<html>", "Content-Type: text/html")})
			ends := make(chan wsproxy.RefusedInfo, 1)
			p := proxytest.NewProxy(t, wsproxy.WithBackends("http://b"), wsproxy.WithDialer(network.Dial),
				wsproxy.WithTrace(&wsproxy.Trace{Refused: func(i wsproxy.RefusedInfo) { ends <- i }}))
			browser := proxytest.NewHTTP2Client(t, proxytest.ServeHTTP2(t, p).URL)
			_, resp := browser.Connect(t, proxytest.ConnectFields("/"))
			proxytest.WantStatus(t, resp, 502)
			if i := <-ends; i.Reason != wsproxy.ReasonAnswer || i.Status != status {
				t.Errorf("refused because of %v with %d; want the answer with %d", i.Reason, i.Status, status)
			}
		}
	})
	t.Run("error handler", func(t *testing.T) {
		for name, respond := range map[string]func(http.ResponseWriter){
			"page":    func(w http.ResponseWriter) { io.WriteString(w, "<html>") },
			"status":  func(w http.ResponseWriter) { w.WriteHeader(204) },
			"nothing": func(http.ResponseWriter) {},
		} {
			t.Run(name, func(t *testing.T) {
				p := proxytest.NewProxy(t, wsproxy.WithBackends(),
					wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, _ error) { respond(w) }))
				browser := proxytest.NewHTTP2Client(t, proxytest.ServeHTTP2(t, p).URL)
				_, resp := browser.Connect(t, proxytest.ConnectFields("/"))
				proxytest.WantStatus(t, resp, 503)
			})
		}
	})
}

// A Proxy can be the error handler of another.
func TestHTTP2ErrorHandlerMayServeWithAnotherProxy(t *testing.T) {
	second := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	first := proxytest.NewProxy(t, wsproxy.WithBackends(),
		wsproxy.WithErrorHandler(func(w http.ResponseWriter, r *http.Request, _ error) { second.ServeHTTP(w, r) }))
	for name, h := range map[string]http.Handler{"with Front": wsproxy.Front(first), "without Front": first} {
		t.Run(name, func(t *testing.T) {
			browser := proxytest.NewHTTP2Client(t, proxytest.ServeHTTP2(t, h).URL)
			client, _ := browser.Open(t, "/")
			proxytest.WantEcho(t, client)
			proxytest.HangUp(t, client)
		})
	}
}

func TestHTTP2RefusalByCloseHasCodeAndSubprotocol(t *testing.T) {
	for name, wrap := range map[string]func(http.Handler) http.Handler{
		"with Front":    wsproxy.Front,
		"without Front": func(h http.Handler) http.Handler { return h },
	} {
		t.Run(name, func(t *testing.T) {
			p := proxytest.NewProxy(t, wsproxy.WithBackends(), refuseByClose())
			s := proxytest.ServeHTTP2(t, wrap(p))
			browser := proxytest.NewHTTP2Client(t, s.URL)
			client, resp := browser.Open(t, "/", field("sec-websocket-protocol", "v1, v2"), field("sec-websocket-extensions", "permessage-deflate"))
			proxytest.WantField(t, resp.Header, "Sec-WebSocket-Protocol", "v1")
			proxytest.WantField(t, resp.Header, "Sec-WebSocket-Extensions")
			proxytest.WantField(t, resp.Header, "Content-Type")
			client.WantClose(1013)
			client.Send(wstest.Close(1013, ""))
			client.WantEOF()
			s.Wait()
			if st := p.Stats(); st.Failed != 1 || st.Opened != 0 {
				t.Errorf("Stats() = %+v; want one that has failed", st)
			}
		})
	}
}

// A client with a window of 0 takes no Close frame.
func TestCloseDoesNotWaitForRefusedHTTP2ClientWithoutWindow(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(), refuseByClose())
	s := proxytest.ServeHTTP2(t, p)
	browser := proxytest.NewHTTP2Client(t, s.URL, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	stream := browser.Send(t, proxytest.ConnectFields("/"))
	proxytest.WantStatus(t, stream.Response(t), 200)
	start := time.Now()
	p.Close()
	if took := wstest.Took(start, time.Now()); took > 500*time.Millisecond {
		t.Errorf("Close took %v; want at most 500 ms", took)
	}
	stream.ResetCode(t)
	s.Wait()
}

// What the client of a tunnel sends and nobody takes fills the window of its connection, which
// is as large as that of one stream by default: then all uploads of the browser wait.
func TestHTTP2StalledTunnelAndOtherRequestsOfTheConnection(t *testing.T) {
	const size = 64 << 10
	for _, tt := range []struct {
		name   string
		config *http.HTTP2Config
		goesOn bool
	}{
		{"default", nil, false},
		{"larger window of the connection", &http.HTTP2Config{MaxReceiveBufferPerConnection: 4 << 20}, true},
		{"smaller window of each stream", &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := wstest.StartBackend(t)
			p := proxytest.NewProxy(t, wsproxy.WithBackends(b.URL()), wsproxy.WithLimits(wsproxy.Limits{SocketBuffer: 16 << 10}))
			s := proxytest.ServeHTTP2(t, p.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n, _ := io.Copy(io.Discard, r.Body)
				fmt.Fprint(w, n)
			})), func(srv *http.Server) { srv.HTTP2 = tt.config })
			browser := proxytest.NewHTTP2Client(t, s.URL)
			stalled := browser.Send(t, proxytest.ConnectFields("/"))
			backend := b.Accepted(t)
			backend.AcceptUpgrade(nil)
			proxytest.WantStatus(t, stalled.Response(t), 200)
			if c, ok := backend.Conn().(*net.TCPConn); ok {
				c.SetReadBuffer(4 << 10)
			}
			fillTunnel(t, stalled)

			upload := browser.Send(t, []proxytest.Field{field(":method", "POST"), field(":scheme", "https"),
				field(":path", "/upload"), field(":authority", "a")})
			upload.SetWriteDeadline(time.Now().Add(time.Second))
			n, err := upload.Write(make([]byte, size))
			if goesOn := err == nil; goesOn != tt.goesOn {
				t.Fatalf("upload of %d bytes: %d, %v; want it to go on: %v", size, n, err, tt.goesOn)
			}
			if tt.goesOn {
				upload.CloseWrite()
				if body, _ := io.ReadAll(upload.Response(t).Body); string(body) != fmt.Sprint(size) {
					t.Errorf("the server got %s bytes; want %d", body, size)
				}
			}
			stalled.Reset()
			backend.Close()
		})
	}
}

// fillTunnel writes a message without end, until nothing more is taken.
func fillTunnel(t *testing.T, s *proxytest.HTTP2Stream) {
	t.Helper()
	var key [4]byte
	frame := wstest.AppendFrame(nil, wstest.Binary(make([]byte, 16<<20)), &key)
	s.SetWriteDeadline(time.Now().Add(time.Second))
	if n, err := s.Write(frame); err == nil {
		t.Fatalf("all %d bytes were taken", n)
	}
}

// Shutdown, a ping of the proxy and the client's reset at once, for the race detector.
func TestHTTP2ShutdownPingAndResetRace(t *testing.T) {
	t.Parallel()
	for range 3 {
		p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithPing(wsproxy.Ping{Client: 250 * time.Millisecond, Backend: 250 * time.Millisecond}))
		s := proxytest.ServeHTTP2(t, wsproxy.Front(p))
		browser := proxytest.NewHTTP2Client(t, s.URL)
		var clients []*proxytest.HTTP2Stream
		for range 40 {
			c := browser.Send(t, proxytest.ConnectFields("/"))
			proxytest.WantStatus(t, c.Response(t), 200)
			clients = append(clients, c)
		}
		var all sync.WaitGroup
		var key [4]byte
		hello := wstest.AppendFrame(nil, wstest.Text(strings.Repeat("x", 2000)), &key)
		for i, c := range clients {
			all.Go(func() {
				for end := time.Now().Add(time.Duration(rand.IntN(600)) * time.Millisecond); time.Now().Before(end); {
					c.Write(hello)
					c.Read(make([]byte, 4096))
				}
				switch i % 3 {
				case 0:
					c.Reset()
				case 1:
					c.CloseWrite()
				}
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		time.Sleep(200 * time.Millisecond) // so that the pings begin
		p.Shutdown(ctx)
		cancel()
		all.Wait()
		s.Wait()
		proxytest.WantNoTunnels(t, p)
		if browser.HasGoAway() {
			t.Error("the server has sent GOAWAY")
		}
	}
}

func TestHTTP2HooksSeeAGET(t *testing.T) {
	var log proxytest.LogBook
	seen := make(chan string, 10)
	see := func(what string, r *http.Request) {
		seen <- fmt.Sprintf("%s: %s %s %v", what, r.Method, r.Proto, r.Header[":protocol"])
	}
	p := openHTTP2(t, log.Option(), wsproxy.WithAdmit(func(r *http.Request) (any, error) {
		see("Admit", r)
		return nil, nil
	}), wsproxy.WithRewrite(func(r *wsproxy.ProxyRequest) error {
		see("In", r.In)
		see("Out", r.Out)
		return nil
	}), wsproxy.WithResponse(func(r *wsproxy.ProxyResponse) error {
		see("Response", r.Request)
		r.Header.Set("X-Hook", "1")
		return nil
	}))
	close(seen)
	want := []string{"Admit: GET HTTP/2.0 []", "In: GET HTTP/2.0 []", "Out: GET HTTP/1.1 []", "Response: GET HTTP/2.0 []"}
	if got := slices.Collect(func(yield func(string) bool) {
		for s := range seen {
			if !yield(s) {
				return
			}
		}
	}); !slices.Equal(got, want) {
		t.Errorf("hooks have seen %q; want %q", got, want)
	}
	p.client.Reset()
	p.backend.WantEOF()
	p.backend.Close()
	p.end(t)
	if lines := log.Lines(`"tunnel opened"`, `HTTP/2.0`); len(lines) != 1 {
		t.Errorf("log has %q; want a line that says HTTP/2.0", log.Lines())
	}
}

// A hook that panics with ErrAbortHandler wants the stream to be reset.
func TestHTTP2HookMayAbort(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithRewrite(func(*wsproxy.ProxyRequest) error {
		panic(http.ErrAbortHandler)
	}))
	browser := proxytest.NewHTTP2Client(t, proxytest.ServeHTTP2(t, p).URL)
	if code := browser.Send(t, proxytest.ConnectFields("/")).ResetCode(t); code != http2.ErrCodeInternal {
		t.Errorf("RST_STREAM with %v; want INTERNAL_ERROR", code)
	}
}

// A client that leaves while a backend is asked is noticed.
func TestHTTP2ClientThatLeavesEndsItsUpgrade(t *testing.T) {
	b := wstest.StartBackend(t)
	reasons := make(chan wsproxy.Reason, 1)
	p := proxytest.NewProxy(t, wsproxy.WithBackends(b.URL()),
		wsproxy.WithTrace(&wsproxy.Trace{Refused: func(i wsproxy.RefusedInfo) { reasons <- i.Reason }}))
	s := proxytest.ServeHTTP2(t, p)
	stream := proxytest.NewHTTP2Client(t, s.URL).Send(t, proxytest.ConnectFields("/"))
	backend := b.Accepted(t)
	backend.ReadRequest()
	stream.Reset()
	if r := <-reasons; r != wsproxy.ReasonClientLeft {
		t.Errorf("refused because of %v; want client left", r)
	}
	s.Wait()
	proxytest.WantNoTunnels(t, p)
}

// Frames that the client sends behind its CONNECT, before the 200, are relayed.
func TestHTTP2EarlyFramesAreRelayed(t *testing.T) {
	b := wstest.StartBackend(t)
	p := proxytest.NewProxy(t, wsproxy.WithBackends(b.URL()))
	s := proxytest.NewHTTP2Client(t, proxytest.ServeHTTP2(t, p).URL).Send(t, proxytest.ConnectFields("/"))
	client := wstest.NewClient(t, s)
	client.Send(wstest.Text("early"))
	backend := b.Accepted(t)
	backend.AcceptUpgrade(nil)
	proxytest.WantStatus(t, s.Response(t), 200)
	backend.Want(wstest.Text("early"))
}

func TestHTTP2TunnelMovesBulk(t *testing.T) {
	p := openHTTP2(t)
	message := bytes.Repeat([]byte("0123456789abcdef"), 256<<10) // 4 MiB
	go p.client.WriteFrames(wstest.Binary(message))
	p.backend.Want(wstest.Binary(message))
	go p.backend.WriteFrames(wstest.Binary(message))
	p.client.Want(wstest.Binary(message))
}
