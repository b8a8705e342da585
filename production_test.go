package wsproxy_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// The tests of docs/production.md.

func TestOuterProxyTellsWhoTheClientIs(t *testing.T) {
	for _, tt := range []struct {
		name      string
		trusted   []string
		wantAddr  string
		wantFor   string
		wantProto string
	}{
		{"trusted", []string{"127.0.0.1"}, "203.0.113.7", "203.0.113.7, 127.0.0.1", "https"},
		{"not trusted", nil, "127.0.0.1", "127.0.0.1", "http"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartBackend(t)
			proxy, s := proxytest.Start(t,
				wsproxy.WithBackends(backend.URL()), wsproxy.WithTrustedProxies(tt.trusted...))
			outer := proxytest.Serve(t, outerProxy(t, s.URL))

			client := wstest.Dial(t, outer.URL)
			client.WriteRequest(proxytest.UpgradeTo("/chat"))
			leg := backend.Accepted(t)
			req := leg.AcceptUpgrade(nil)
			proxytest.WantSwitch(t, client)
			proxytest.WantField(t, req.Header, "X-Forwarded-For", tt.wantFor)
			proxytest.WantField(t, req.Header, "X-Forwarded-Proto", tt.wantProto)
			if got := proxytest.OnlyTunnel(t, proxy).Info().ClientAddr.String(); got != tt.wantAddr {
				t.Errorf("ClientAddr is %s; want %s", got, tt.wantAddr)
			}
			client.Send(wstest.Text("hello"))
			leg.Want(wstest.Text("hello"))
			client.Close()
			leg.WantClose(1001)
			leg.Close()
			outer.Wait()
		})
	}
}

// outerProxy returns a proxy that has ended TLS for a client on 203.0.113.7.
func outerProxy(t *testing.T, target string) http.Handler {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(u)
		r.Out.Header.Set("X-Forwarded-For", "203.0.113.7")
		r.Out.Header.Set("X-Forwarded-Proto", "https")
	}}
}

func TestRefusalTellsWhatAnOuterProxyLost(t *testing.T) {
	backend := wstest.StartBackend(t)
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
	const key = "Sec-WebSocket-Key: " + proxytest.SampleKey
	for _, tt := range []struct {
		name, request string
		want          string
	}{
		{
			"both fields dropped",
			proxytest.Head("GET / HTTP/1.1", "Host: h", "Sec-WebSocket-Version: 13", key),
			"Upgrade was missing: does a proxy in front drop it?",
		},
		{
			"connection set to close",
			proxytest.Head("GET / HTTP/1.1", "Host: h", "Upgrade: websocket", "Connection: close", "Sec-WebSocket-Version: 13", key),
			"Connection was `close`: does a proxy in front drop it?",
		},
		{
			"HTTP/1.0",
			proxytest.Head("GET / HTTP/1.0", "Host: h", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", key),
			"Protocol was `HTTP/1.0`: a WebSocket is opened over HTTP/1.1",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, body := proxytest.Exchange(t, s.URL, tt.request)
			proxytest.WantStatus(t, resp, http.StatusUpgradeRequired)
			if got := strings.TrimSpace(body); got != tt.want {
				t.Errorf("body is %q; want %q", got, tt.want)
			}
		})
	}
	proxytest.WantUntouched(t, backend)
}

// What a proxy in front sees of an idle tunnel is what backend and clients say to
// each other. Their pings pass.
func TestPingsOfBackendReachTheClientAndItsPongsComeBack(t *testing.T) {
	ponged := make(chan error, 1)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			ponged <- err
			return
		}
		defer conn.CloseNow()
		ctx := conn.CloseRead(r.Context())
		ponged <- conn.Ping(ctx)
		<-ctx.Done()
	}))
	defer backend.Close()
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL))

	client := connect(s.URL)
	defer client.CloseNow()
	ctx := client.CloseRead(t.Context()) // answers pings
	if err := <-ponged; err != nil {
		t.Errorf("the backend's ping: %v", err)
	}
	client.Close(websocket.StatusNormalClosure, "")
	<-ctx.Done()
}

// The kernel keeps what a slow client has not read. Limits.SocketBuffer bounds it.
func TestSocketBuffersBoundWhatASlowClientHolds(t *testing.T) {
	const bufferBytes = 32 << 10
	backend := wstest.StartBackend(t)
	p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()),
		wsproxy.WithLimits(wsproxy.Limits{SocketBuffer: bufferBytes}))
	client := wstest.Dial(t, s.URL)
	client.Conn().(*net.TCPConn).SetReadBuffer(bufferBytes)
	client.WriteRequest(proxytest.UpgradeTo("/"))
	leg := backend.Accepted(t)
	leg.AcceptUpgrade(nil)
	proxytest.WantSwitch(t, client)

	// Four sockets' buffers, which a kernel may double, and one of the proxy's.
	const bound = 1 << 20
	leg.Conn().(*net.TCPConn).SetWriteBuffer(bufferBytes)
	leg.Conn().SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	message := wstest.AppendFrame(nil, wstest.Binary(make([]byte, 16*bound)), nil)
	n, err := leg.Conn().Write(message)
	if !os.IsTimeout(err) || n > bound {
		t.Errorf("the backend could send %d bytes, with error %v; want at most %d and a timeout", n, err, bound)
	}
	p.Close()
	s.Wait()
}
