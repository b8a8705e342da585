package wsproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A panickingListener accepts connections that panic when they are to write a 101.
type panickingListener struct {
	net.Listener
	closed atomic.Int32 // connections
}

func (l *panickingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &panickingConn{Conn: c, ln: l}, nil
}

type panickingConn struct {
	net.Conn
	ln       *panickingListener
	isClosed atomic.Bool
}

func (c *panickingConn) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("HTTP/1.1 101")) {
		panic("write of a 101")
	}
	return c.Conn.Write(p)
}

func (c *panickingConn) Close() error {
	if !c.isClosed.Swap(true) {
		c.ln.closed.Add(1)
	}
	return c.Conn.Close()
}

func TestUpgradeReleasesAllAfterPanicInWriteOf101(t *testing.T) {
	for _, detached := range []bool{false, true} {
		t.Run(map[bool]string{false: "blocking", true: "detached"}[detached], func(t *testing.T) {
			t.Parallel()
			testPanicInWriteOfThe101(t, detached)
		})
	}
}

func testPanicInWriteOfThe101(t *testing.T, detached bool) {
	backend := wstest.StartEcho(t)
	backendClosed := make(chan struct{})
	p, err := wsproxy.New(wsproxy.WithBackends(backend), wsproxy.WithDetached(detached),
		wsproxy.WithLogger(slog.New(slog.DiscardHandler)),
		wsproxy.WithDialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			return &closingConn{Conn: c, closed: backendClosed}, err
		}))
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewUnstartedServer(p)
	ln := &panickingListener{Listener: front.Listener}
	front.Listener = ln
	front.Start()
	defer front.Close()

	client := dialUpgrade(t, front)
	if got, err := io.ReadAll(client); len(got) > 0 {
		t.Errorf("client read %q, %v; want nothing", got, err)
	}
	select {
	case <-backendClosed:
	case <-time.After(5 * time.Second):
		t.Error("the backend's connection is still open")
	}
	for end := time.Now().Add(5 * time.Second); p.Stats().Upgrading > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if s := p.Stats(); s.Tunnels != 0 || s.Upgrading != 0 || s.Opened != 0 {
		t.Errorf("Stats() = %+v; want no tunnel and no upgrade", s)
	}
	if n := p.Backends()[0].NumTunnels(); n != 0 {
		t.Errorf("NumTunnels() = %d; want 0", n)
	}
	if n := ln.closed.Load(); n != 1 {
		t.Errorf("%d connections of clients were closed; want 1", n)
	}
	within(t, "Shutdown", func() {
		if err := p.Shutdown(context.Background()); err != nil {
			t.Errorf("Shutdown() = %v; want nil", err)
		}
	})
}

// A closingConn closes a channel when it is closed.
type closingConn struct {
	net.Conn
	closed chan struct{}
	isDone atomic.Bool
}

func (c *closingConn) Close() error {
	if !c.isDone.Swap(true) {
		close(c.closed)
	}
	return c.Conn.Close()
}

// A backend with a limit of its own for headers answers when it has read that much,
// and closes the connection on the rest.
func TestRefusalIsReadBehindResetOfRequest(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() { // until ln is closed
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.(*net.TCPConn).SetReadBuffer(8 << 10)
			io.ReadFull(c, make([]byte, 16<<10))
			io.WriteString(c, proxytest.Refusing(431, "too much"))
			c.Close() // resets the connection: not all was read
		}
	}()
	for range 10 {
		p, s := proxytest.Start(t, wsproxy.WithBackends("http://"+ln.Addr().String()),
			wsproxy.WithLimits(wsproxy.Limits{SocketBuffer: 64 << 10}))
		resp, body := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat", "X-Large: "+strings.Repeat("x", 600<<10)))
		proxytest.WantStatus(t, resp, http.StatusRequestHeaderFieldsTooLarge)
		if body != "too much" {
			t.Errorf("client got body %q; want the backend's", body)
		}
		wantStates(t, p, wsproxy.BackendUp)
		s.Wait()
	}
}

func TestResponseForwardsSubprotocolAndExtension(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.SwitchingWith("Sec-WebSocket-Protocol: v2", "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"))
	opened := make(chan wsproxy.TunnelInfo, 1)
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()),
		wsproxy.WithTrace(&wsproxy.Trace{Opened: func(i wsproxy.OpenedInfo) { opened <- i.Tunnel.Info() }}))
	_, resp := proxytest.Open(t, s.URL, proxytest.UpgradeWithOffers)
	proxytest.WantField(t, resp.Header, "Sec-WebSocket-Protocol", "v2")
	proxytest.WantField(t, resp.Header, "Sec-WebSocket-Extensions", "permessage-deflate; server_no_context_takeover")
	if i := <-opened; i.Subprotocol != "v2" || len(i.Extensions) != 1 {
		t.Errorf("TunnelInfo has subprotocol %q and extensions %q; want v2 and permessage-deflate", i.Subprotocol, i.Extensions)
	}
}

func TestRefusalForwardsTruncatedBodyAsTruncated(t *testing.T) {
	for _, tt := range []struct{ name, answer string }{
		{"length", proxytest.Head("HTTP/1.1 403 Forbidden", "Content-Length: 100") + "no"},
		{"chunked", proxytest.Head("HTTP/1.1 403 Forbidden", "Transfer-Encoding: chunked") + "2\r\nno\r\n"},
		{"chunk with a bare line feed", proxytest.Head("HTTP/1.1 403 Forbidden", "Transfer-Encoding: chunked") + "2;a\nno\r\n0\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, tt.answer+"{end}")
			p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
			client := wstest.Dial(t, s.URL)
			client.WriteRequest(proxytest.UpgradeTo("/chat"))
			resp, err := http.ReadResponse(bufio.NewReader(client), nil)
			if err == nil { // else not even the head was flushed
				_, err = io.ReadAll(resp.Body)
			}
			if err == nil {
				t.Error("client took a part of the body for the whole")
			}
			proxytest.ReceivedHead(t, backend)
			s.Wait()
			proxytest.WantNoTunnels(t, p)
		})
	}
}

func TestRefusalArrivesWholeWithAndWithoutLength(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 1<<14) // 256 KiB
	for _, tt := range []struct{ name, answer string }{
		{"length", proxytest.Refusing(403, long)},
		{"chunked", proxytest.Head("HTTP/1.1 403 Forbidden", "Transfer-Encoding: chunked") + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(long), long)},
		{"until the end", proxytest.Head("HTTP/1.1 403 Forbidden") + long},
		{"until the end, HTTP/1.0", proxytest.Head("HTTP/1.0 403 Forbidden") + long},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, tt.answer+"{end}")
			_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
			resp, body := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
			proxytest.WantStatus(t, resp, http.StatusForbidden)
			if body != long {
				t.Errorf("client got a body of %d bytes; want the backend's %d", len(body), len(long))
			}
		})
	}
}

func TestRefusalIgnoresWriteTimeoutOfServer(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer string // 2 s after the request; empty: none
		status int
	}{
		{"the proxy's", "", http.StatusServiceUnavailable},
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

func TestRefusalTimesOutBehindAnyWrapper(t *testing.T) {
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

// A writeRecorder is a listener whose connections note each of their writes.
type writeRecorder struct {
	net.Listener
	mu     sync.Mutex
	writes [][]byte
}

func (l *writeRecorder) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return recordedConn{c, l}, err
}

// take returns the writes up to now.
func (l *writeRecorder) take() [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.writes
}

type recordedConn struct {
	net.Conn
	l *writeRecorder
}

func (c recordedConn) Write(p []byte) (int, error) {
	c.l.mu.Lock()
	c.l.writes = append(c.l.writes, bytes.Clone(p))
	c.l.mu.Unlock()
	return c.Conn.Write(p)
}

// startRecorded serves h behind a writeRecorder.
func startRecorded(t *testing.T, h http.Handler) (url string, l *writeRecorder) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l = &writeRecorder{Listener: ln}
	srv := &http.Server{Handler: h}
	var running sync.WaitGroup
	running.Go(func() { srv.Serve(l) }) // until Close
	t.Cleanup(func() {
		srv.Close()
		running.Wait()
	})
	return "http://" + ln.Addr().String(), l
}

func TestResponseIsOneWriteInSpellingOfRFC(t *testing.T) {
	backend := wstest.StartBackend(t)
	p := proxytest.NewProxy(t, wsproxy.WithBackends(backend.URL()))
	outer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "outer=1")
		w.Header().Set("X-Request-Id", "7")
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Connection", "close")
		w.Header().Set("Transfer-Encoding", "chunked")
		w.Header().Set("Sec-WebSocket-Accept", "forged")
		p.ServeHTTP(w, r)
	})
	url, recorder := startRecorded(t, outer)
	client := wstest.Dial(t, url)
	client.WriteRequest(proxytest.UpgradeTo("/chat", "sec-websocket-protocol: v1, v2",
		"SEC-WEBSOCKET-EXTENSIONS: permessage-deflate; client_max_window_bits"))

	leg := backend.Accepted(t)
	req := leg.ReadRequest()
	frame := string(wstest.AppendFrame(nil, wstest.Text("first"), nil))
	leg.SendRaw([]byte(proxytest.Head("HTTP/1.1 101 Whatever", "upgrade: WebSocket", "connection: keep-alive, upgrade",
		"sec-websocket-accept: "+wstest.Accept(req.Header.Get("Sec-WebSocket-Key")), "SEC-WEBSOCKET-PROTOCOL: v2",
		"sec-websocket-extensions: permessage-deflate", "Set-Cookie: backend=1", "Upgrade-Insecure: 1") + frame))
	want := proxytest.Head("HTTP/1.1 101 Switching Protocols",
		"Upgrade: websocket",
		"Connection: Upgrade",
		"Sec-WebSocket-Accept: "+proxytest.SampleAccept,
		"Sec-WebSocket-Protocol: v2",
		"Sec-WebSocket-Extensions: permessage-deflate",
		"Set-Cookie: outer=1",
		"Set-Cookie: backend=1",
		"Upgrade-Insecure: 1",
		"X-Request-Id: 7")
	client.WantRaw(want + frame)
	if writes := recorder.take(); string(writes[0]) != want {
		t.Errorf("first write is %q; want %q", writes[0], want)
	}
}

func TestTunnelDeliversFramesBehindRequestAndResponse(t *testing.T) {
	backend := wstest.StartBackend(t)
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
	client := wstest.Dial(t, s.URL)
	var early []byte
	for range 100 { // more than the server's buffer holds
		early = wstest.AppendFrame(early, wstest.Text(strings.Repeat("x", 100)), &[4]byte{1, 2, 3, 4})
	}
	client.SendRaw(append([]byte(proxytest.UpgradeTo("/chat")), early...))
	leg := backend.Accepted(t)
	req := leg.ReadRequest()
	late := wstest.AppendFrame(nil, wstest.Text("late"), nil)
	leg.SendRaw(append([]byte(wstest.UpgradeAnswer(req.Header.Get("Sec-WebSocket-Key"), nil)), late...))
	proxytest.WantSwitch(t, client)
	client.Want(wstest.Text("late"))
	for range 100 {
		leg.Want(wstest.Text(strings.Repeat("x", 100)))
	}
}

func TestResponseMayAddCookieTo101(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.SwitchingWith("Set-Cookie: backend=1", "X-Secret: 1"))
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), wsproxy.WithResponse(func(r *wsproxy.ProxyResponse) error {
		if r.StatusCode != 101 || r.Backend.URL() != backend.URL() || r.Request.URL.Path != "/chat" {
			t.Errorf("hook got %d of %s for %s; want 101 of %s for /chat", r.StatusCode, r.Backend.URL(), r.Request.URL, backend.URL())
		}
		for name := range r.Header {
			if strings.HasPrefix(strings.ToLower(name), "sec-websocket-") || name == "Upgrade" || name == "Connection" {
				t.Errorf("hook got %s, which is the proxy's own", name)
			}
		}
		http.SetCookie(cookieWriter(r.Header), &http.Cookie{Name: "sticky", Value: r.Backend.ID()})
		r.Header.Del("X-Secret")
		r.Header.Set("Sec-WebSocket-Accept", "forged")
		r.Header.Set("Sec-WebSocket-Protocol", "forged")
		r.Header.Set("Connection", "close")
		r.Header.Set("Content-Length", "7")
		return nil
	}))
	_, resp := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantField(t, resp.Header, "Set-Cookie", "backend=1", `sticky=`+backend.URL())
	proxytest.WantField(t, resp.Header, "X-Secret")
	proxytest.WantField(t, resp.Header, "Sec-WebSocket-Accept", proxytest.SampleAccept)
	proxytest.WantField(t, resp.Header, "Sec-WebSocket-Protocol")
	proxytest.WantField(t, resp.Header, "Connection", "Upgrade")
	proxytest.WantField(t, resp.Header, "Content-Length")
}

// A cookieWriter is what http.SetCookie needs of a ResponseWriter.
type cookieWriter http.Header

func (w cookieWriter) Header() http.Header { return http.Header(w) }

func (w cookieWriter) Write(p []byte) (int, error) { return len(p), nil }

func (w cookieWriter) WriteHeader(int) {}

func TestRefusalHasHeadersOfOuterHandler(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.Refusing(403, "no", "Set-Cookie: backend=1"))
	p := proxytest.NewProxy(t, wsproxy.WithBackends(backend.URL()))
	s := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "outer=1")
		p.ServeHTTP(w, r)
	}))
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantField(t, resp.Header, "Set-Cookie", "outer=1", "backend=1")
}

func TestRefusalIsForwardedInLimitedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := proxytest.NewNetwork()
		network.Set("a", proxytest.FakeBackend{Answer: proxytest.Head("HTTP/1.1 403 Forbidden", "Content-Length: 100") + "drip"})
		p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a"), wsproxy.WithDialer(network.Dial))
		s := proxytest.ServeInMemory(t, p)
		client := s.Dial(t)
		client.WriteRequest(proxytest.UpgradeTo("/chat"))
		time.Sleep(10*time.Second - time.Nanosecond)
		synctest.Wait()
		if st := p.Stats(); st.Upgrading != 1 {
			t.Errorf("Stats() has %d upgrading before the limit; want 1", st.Upgrading)
		}
		time.Sleep(time.Nanosecond)
		s.Wait()
		proxytest.WantNoTunnels(t, p)
	})
}

// A client that cannot see why it was refused tries again and again.
func TestRefusalReachesTheClientAsItComes(t *testing.T) {
	head := "HTTP/1.1 401 Unauthorized\r\n"
	for name, tt := range map[string]struct {
		start string // of the backend's response
		parts []string
		isCut bool
	}{
		"a chunked body that stalls":        {head + "Transfer-Encoding: chunked\r\n\r\n4\r\nwhy \r\n", nil, true},
		"a Content-Length that never fills": {head + "Content-Length: 100\r\n\r\nwhy ", nil, true},
		"a slow body":                       {head + "Content-Length: 10\r\n\r\nwhy ", []string{"no", "t?", "!!"}, false},
		"a slow chunked body":               {head + "Transfer-Encoding: chunked\r\n\r\n4\r\nwhy \r\n", []string{"3\r\nnot\r\n", "0\r\n\r\n"}, false},
	} {
		for wrapper, wrap := range map[string]func(http.ResponseWriter) http.ResponseWriter{
			"none":        func(w http.ResponseWriter) http.ResponseWriter { return w },
			"Hijack only": hijackOnly,
		} {
			t.Run(name+", wrapper "+wrapper, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					backend := proxytest.NewBackendInMemory(t)
					p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a"), backend.Option())
					s := proxytest.ServeInMemory(t, wrapped(p, wrap))
					client := s.Dial(t)
					client.WriteRequest(proxytest.UpgradeTo("/chat"))
					leg := backend.Accept(t)
					leg.ReadRequest()
					start := time.Now()
					leg.SendRaw([]byte(tt.start))
					resp := client.ReadResponse()
					proxytest.WantStatus(t, resp, http.StatusUnauthorized)
					client.Conn().SetReadDeadline(time.Time{}) // that of ReadResponse is too short
					first := make([]byte, 4)
					if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "why " || time.Since(start) != 0 {
						t.Errorf("the body begins with %q after %v (%v); want it at once", first, time.Since(start), err)
					}
					for _, part := range tt.parts {
						time.Sleep(9 * time.Second)
						leg.SendRaw([]byte(part))
					}
					_, err := io.ReadAll(resp.Body)
					if want := 9 * time.Second * time.Duration(len(tt.parts)); !tt.isCut && (err != nil || time.Since(start) != want) {
						t.Errorf("the body ended after %v: %v; want it whole after %v", time.Since(start), err, want)
					}
					if tt.isCut && (err != io.ErrUnexpectedEOF || time.Since(start) != 10*time.Second) {
						t.Errorf("the body ended after %v: %v; want it cut after 10 s", time.Since(start), err)
					}
					client.Close()
					leg.Close()
					s.Wait()
				})
			})
		}
	}
}
