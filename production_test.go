package wsproxy_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

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
