package wsproxy_test

import (
	"bytes"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

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

func TestThe101IsOneWriteInTheRFCsSpelling(t *testing.T) {
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
		"Content-Type: text/html",
		"Set-Cookie: outer=1",
		"Set-Cookie: backend=1",
		"Upgrade-Insecure: 1",
		"X-Request-Id: 7")
	client.WantRaw(want + frame)
	if writes := recorder.take(); string(writes[0]) != want {
		t.Errorf("first write is %q; want %q", writes[0], want)
	}
}

func TestBackendIsAskedInOneWriteInTheRFCsSpelling(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.Refusing(403, ""))
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
	proxytest.Exchange(t, s.URL, proxytest.Head("GET /chat?room=1 HTTP/1.1", "host: chat.example", "upgrade: WebSocket", "connection: keep-alive, UPGRADE",
		"sec-websocket-version: 13", "sec-websocket-key: "+proxytest.SampleKey, "sec-websocket-protocol: v1", "SEC-WEBSOCKET-EXTENSIONS: foo",
		"sec-websocket-future: 1", "origin: https://chat.example", "user-agent: x"))
	req, head, _ := proxytest.ReceivedHead(t, backend)
	key := req.Header.Get("Sec-WebSocket-Key")
	if key == proxytest.SampleKey {
		t.Error("backend got the client's key; want one of the proxy's own")
	}
	want := proxytest.Head("GET /chat?room=1 HTTP/1.1",
		"Host: chat.example",
		"Upgrade: websocket",
		"Connection: Upgrade",
		"Sec-WebSocket-Version: 13",
		"Sec-WebSocket-Key: "+key,
		"Origin: https://chat.example",
		"Sec-WebSocket-Extensions: foo",
		"Sec-WebSocket-Future: 1",
		"Sec-WebSocket-Protocol: v1",
		"User-Agent: x",
		"X-Forwarded-For: 127.0.0.1",
		"X-Forwarded-Host: chat.example",
		"X-Forwarded-Proto: http")
	if head != want {
		t.Errorf("backend was asked with\n%s; want\n%s", head, want)
	}
}

func TestEachBackendIsAskedWithAFreshKey(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.Refusing(403, ""))
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
	proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	received := backend.Received(t)
	if len(received) != 2 || received[0] == received[1] {
		t.Errorf("backend received %q; want two requests with different keys", received)
	}
}

func TestFramesAfterRequestAndAnswerBothArrive(t *testing.T) {
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

func TestResponseHooksCookieGoesWithThe101(t *testing.T) {
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

func TestOuterHeadersGoWithARefusalToo(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.Refusing(403, "no", "Set-Cookie: backend=1"))
	p := proxytest.NewProxy(t, wsproxy.WithBackends(backend.URL()))
	s := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "outer=1")
		p.ServeHTTP(w, r)
	}))
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantField(t, resp.Header, "Set-Cookie", "outer=1", "backend=1")
}
