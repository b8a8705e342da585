package wsproxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/leaktest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestTunnelEndReportsSideCauseAndCode(t *testing.T) {
	t.Parallel() // it waits
	tests := []struct {
		name  string
		limit int64
		do    func(t *testing.T, p *proxytest.Pair)
		side  wsproxy.Side
		cause wsproxy.Cause
		code  int
		err   string // within the error's text; empty: no error
	}{
		{name: "closed-by-client", side: wsproxy.SideClient, cause: wsproxy.CauseClosed, code: 1000,
			do: func(t *testing.T, p *proxytest.Pair) {
				p.Client.Send(wstest.Close(1000, "bye"))
				p.Backend.Want(wstest.Close(1000, "bye"))
				p.Backend.Send(wstest.Close(1000, ""))
				p.Client.WantClose(1000)
			}},
		{name: "closed-by-backend-without-a-code", side: wsproxy.SideBackend, cause: wsproxy.CauseClosed, code: 1005,
			do: func(t *testing.T, p *proxytest.Pair) {
				p.Backend.Send(wstest.Close(0, ""))
				p.Client.Want(wstest.Close(0, ""))
				p.Client.Send(wstest.Close(0, ""))
				p.Backend.Want(wstest.Close(0, ""))
			}},
		{name: "client-lost", side: wsproxy.SideClient, cause: wsproxy.CauseLost, err: "EOF",
			do: func(t *testing.T, p *proxytest.Pair) {
				p.Client.CloseWrite()
				p.Backend.WantEOF()
				p.Backend.Close()
			}},
		{name: "client-reset", side: wsproxy.SideClient, cause: wsproxy.CauseLost, err: syscall.ECONNRESET.Error(),
			do: func(t *testing.T, p *proxytest.Pair) {
				p.Client.Reset()
				p.Backend.WantEOF()
			}},
		{name: "backend-lost", side: wsproxy.SideBackend, cause: wsproxy.CauseLost, code: 1012, err: "EOF",
			do: func(t *testing.T, p *proxytest.Pair) {
				p.Backend.Close()
				p.Client.WantClose(1012)
			}},
		{name: "client-breaks-the-protocol", side: wsproxy.SideClient, cause: wsproxy.CauseProtocol, code: 1002, err: "not masked",
			do: func(t *testing.T, p *proxytest.Pair) {
				p.Client.SendRaw(wstest.AppendFrame(nil, wstest.Text("hi"), nil))
				p.Client.WantClose(1002)
				p.Backend.WantClose(1001)
			}},
		{name: "backend-breaks-the-protocol", side: wsproxy.SideBackend, cause: wsproxy.CauseProtocol, code: 1012, err: "is masked",
			do: func(t *testing.T, p *proxytest.Pair) {
				p.Backend.SendRaw(wstest.AppendFrame(nil, wstest.Text("hi"), &[4]byte{1, 2, 3, 4}))
				p.Client.WantClose(1012)
				p.Backend.WantClose(1002)
			}},
		{name: "client-too-big", limit: 10, side: wsproxy.SideClient, cause: wsproxy.CauseTooBig, code: 1009, err: "larger",
			do: func(t *testing.T, p *proxytest.Pair) {
				p.Client.Send(wstest.Binary(make([]byte, 11)))
				p.Client.WantClose(1009)
				p.Backend.WantClose(1001)
			}},
		{name: "backend-too-big", limit: 10, side: wsproxy.SideBackend, cause: wsproxy.CauseTooBig, code: 1011, err: "larger",
			do: func(t *testing.T, p *proxytest.Pair) {
				p.Backend.Send(wstest.Binary(make([]byte, 11)))
				p.Client.WantClose(1011)
				p.Backend.WantClose(1009)
			}},
		{name: "closed-by-the-program", side: wsproxy.SideProxy, cause: wsproxy.CauseApplication, code: 4321,
			do: func(t *testing.T, p *proxytest.Pair) {
				if err := proxytest.OnlyTunnel(t, p.Proxy).Close(4321, "no reason"); err != nil {
					t.Error(err)
				}
				p.Client.Want(wstest.Close(4321, "no reason"))
				p.Backend.WantClose(1001)
			}},
		{name: "shutdown", side: wsproxy.SideProxy, cause: wsproxy.CauseShutdown, code: 1001,
			do: func(t *testing.T, p *proxytest.Pair) {
				go p.Proxy.Shutdown(t.Context()) // ends when both peers are gone
				p.Client.WantClose(1001)
				p.Backend.WantClose(1001)
			}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := proxytest.OpenPair(t, wsproxy.WithLimits(wsproxy.Limits{MessageSize: tt.limit}))
			tt.do(t, p)
			p.Client.Conn().Close() // perhaps again
			p.Backend.Conn().Close()
			e := p.End(t)
			if e.Side != tt.side || e.Cause != tt.cause || e.Code != tt.code {
				t.Errorf("tunnel ended by %v, %v, code %d; want %v, %v, code %d", e.Side, e.Cause, e.Code, tt.side, tt.cause, tt.code)
			}
			if got := fmt.Sprint(e.Err); tt.err == "" && e.Err != nil || !strings.Contains(got, tt.err) {
				t.Errorf("error %q; want %q in it", got, tt.err)
			}
			if e.Duration <= 0 || e.Backend == nil || e.ID != 1 {
				t.Errorf("end %+v lacks duration, backend or ID", e)
			}
		})
	}
}

func TestTunnelCloseRefusesBadCodesAndReasons(t *testing.T) {
	p := proxytest.OpenPair(t)
	tunnel := proxytest.OnlyTunnel(t, p.Proxy)
	for _, code := range []int{0, 999, 1004, 1005, 1006, 1015, 2999, 5000} {
		if err := tunnel.Close(code, ""); err == nil || !strings.Contains(err.Error(), fmt.Sprint(code)) {
			t.Errorf("Close(%d) = %v; want an error that names the code", code, err)
		}
	}
	if err := tunnel.Close(1000, strings.Repeat("x", 124)); err == nil {
		t.Error("Close with a reason of 124 bytes succeeded; want an error")
	}
	for _, reason := range []string{"\xff", "caf\xc3", "\xed\xa0\x80"} {
		if err := tunnel.Close(4000, reason); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", reason)) {
			t.Errorf("Close with reason %q = %v; want an error that names the reason: it is not UTF-8", reason, err)
		}
	}
	p.Client.Send(wstest.Text("still open"))
	p.Backend.Want(wstest.Text("still open"))
}

func TestMessageSizeLimitsWholeMessages(t *testing.T) {
	t.Parallel() // it waits
	p := proxytest.OpenPair(t, wsproxy.WithLimits(wsproxy.Limits{MessageSize: 10}))
	ten := wstest.Binary(bytes.Repeat([]byte{1}, 10))
	for range 3 {
		p.Client.Send(ten)
		p.Backend.Want(ten)
		p.Backend.Send(ten)
		p.Client.Want(ten)
	}
	p.Client.Send(wstest.Fragment(wstest.OpBinary, false, "123456"))
	p.Backend.Want(wstest.Fragment(wstest.OpBinary, false, "123456"))
	p.Client.Send(wstest.Fragment(wstest.OpContinuation, true, "78901"))
	p.Client.WantClose(1009)
	p.Backend.WantClose(1001)
}

func TestTunnelAllowsReservedBitsOfExtensions(t *testing.T) {
	t.Parallel() // it waits
	compressed := wstest.Frame{Fin: true, RSV: 4, Opcode: wstest.OpText, Payload: []byte{0xAA, 0x00}}
	tests := []struct {
		name, extension string
		frame           wstest.Frame
		passes          bool
	}{
		{"none", "", compressed, false},
		{"deflate", "permessage-deflate", compressed, true},
		{"deflate-and-another-bit", "permessage-deflate", wstest.Frame{Fin: true, RSV: 2, Opcode: wstest.OpText}, false},
		{"unknown", "x-unknown", wstest.Frame{Fin: true, RSV: 2, Opcode: 3, Payload: []byte("?")}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := wstest.StartBackend(t)
			_, s := proxytest.Start(t, wsproxy.WithBackends(b.URL()))
			h := http.Header{}
			if tt.extension != "" {
				h.Set("Sec-Websocket-Extensions", tt.extension)
			}
			client := wstest.Dial(t, s.URL)
			client.RequestUpgrade("/", h)
			backend := b.Accepted(t)
			backend.AcceptUpgrade(h)
			client.WantUpgrade()
			client.Send(tt.frame)
			if tt.passes {
				backend.Want(tt.frame)
				return
			}
			client.WantClose(1002)
			backend.WantClose(1001)
		})
	}
}

func TestSidesAndCausesHaveNames(t *testing.T) {
	for _, s := range []wsproxy.Side{wsproxy.SideProxy, wsproxy.SideClient, wsproxy.SideBackend} {
		if regexp.MustCompile(`\d`).MatchString(s.String()) {
			t.Errorf("side %d is called %q", s, s)
		}
	}
	for c := wsproxy.CauseClosed; c <= wsproxy.CausePingTimeout; c++ {
		if regexp.MustCompile(`\d`).MatchString(c.String()) {
			t.Errorf("cause %d is called %q", c, c)
		}
	}
}

func TestTunnelEndHasErrorOfLostConnection(t *testing.T) {
	p := proxytest.OpenPair(t)
	p.Client.Reset()
	p.Backend.WantEOF()
	p.Backend.Close()
	if e := p.End(t); !errors.Is(e.Err, syscall.ECONNRESET) || e.Cut {
		t.Errorf("tunnel ended with error %v, cut %t; want a reset, not cut", e.Err, e.Cut)
	}
}

var detached = wsproxy.WithDetached(true)

// openDetached opens one tunnel through a new proxy, whose handler has returned.
func openDetached(t *testing.T, opts ...wsproxy.Option) *proxytest.Pair {
	t.Helper()
	b := wstest.StartBackend(t)
	ends, trace := proxytest.TraceEnds()
	p, s := proxytest.Start(t, append([]wsproxy.Option{wsproxy.WithBackends(b.URL()), trace, detached}, opts...)...)
	client, backend := wstest.Dial(t, s.URL), (*wstest.Peer)(nil)
	client.RequestUpgrade("/room", nil)
	backend = b.Accepted(t)
	backend.AcceptUpgrade(nil)
	client.WantUpgrade()
	s.Wait()
	return &proxytest.Pair{Proxy: p, Client: client, Backend: backend, Ends: ends}
}

func TestDetachedTunnelOutlivesHandler(t *testing.T) {
	p := openDetached(t)
	p.WantOpen(t)
	if n := p.Proxy.Stats().Tunnels; n != 1 {
		t.Errorf("Stats() has %d tunnels; want 1", n)
	}
	p.Client.Send(wstest.Close(1000, ""))
	p.Backend.WantClose(1000)
	p.Backend.Send(wstest.Close(1000, ""))
	p.Client.WantClose(1000)
	p.Client.Close()
	p.Backend.Close()
	if e := p.End(t); e.Cause != wsproxy.CauseClosed || e.ToBackend.Messages != 1 || e.ToClient.Messages != 1 {
		t.Errorf("tunnel ended with %+v; want it closed, with a message each way", e)
	}
}

// Access logs, spans and in-flight counters end at the upgrade.
func TestDetachedTunnelEndsRequestAtUpgrade(t *testing.T) {
	b := wstest.StartBackend(t)
	ends, trace := proxytest.TraceEnds()
	proxy := proxytest.NewProxy(t, wsproxy.WithBackends(b.URL()), trace, detached)
	left := make(chan context.Context, 1)
	s := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxy.ServeHTTP(w, r)
		left <- r.Context()
	}))
	client := wstest.Dial(t, s.URL)
	client.RequestUpgrade("/", nil)
	backend := b.Accepted(t)
	backend.AcceptUpgrade(nil)
	client.WantUpgrade()
	ctx := <-left
	<-ctx.Done() // the server ends it after the handler
	p := &proxytest.Pair{Proxy: proxy, Client: client, Backend: backend, Ends: ends}
	p.WantOpen(t)
}

func TestDetachedTunnelOutlivesServer(t *testing.T) {
	leaktest.Check(t)
	ends, trace := proxytest.TraceEnds()
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)), trace, detached)
	srv := httptest.NewServer(p)
	client, _ := proxytest.Open(t, srv.URL, proxytest.UpgradeTo("/"))
	other, _ := proxytest.Open(t, srv.URL, proxytest.UpgradeTo("/"))
	srv.Close()
	proxytest.WantEcho(t, client)
	proxytest.HangUp(t, client)
	if e := <-ends; e.Cause != wsproxy.CauseClosed {
		t.Errorf("tunnel ended by %v; want closed", e.Cause)
	}
	proxytest.WantEcho(t, other)
	p.Close()
	other.WantEOF()
}

func TestDetachedTunnelReleasesBackendAtEnd(t *testing.T) {
	ends, trace := proxytest.TraceEnds()
	_, s := proxytest.Start(t, trace, detached, wsproxy.WithBackendConfigs(
		wsproxy.BackendConfig{URL: wstest.StartEcho(t), MaxTunnels: 1}))
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/"))
	proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
	proxytest.HangUp(t, client)
	<-ends
	next, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
	proxytest.WantEcho(t, next)
}

// A timeout middleware must not end what has outlived it.
func TestDetachedTunnelOutlivesTimeoutOfMiddleware(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)), detached)
	contexts := make(chan context.Context, 1)
	s := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), time.Hour)
		defer cancel()
		contexts <- ctx
		p.ServeHTTP(w, r.WithContext(ctx))
	}))
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
	<-(<-contexts).Done()
	proxytest.WantEcho(t, client)
	proxytest.HangUp(t, client)
}

// What a proxy in front sees of an idle tunnel is what backend and clients say to
// each other. Their pings pass.
func TestTunnelPassesPingsAndPongs(t *testing.T) {
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
func TestSocketBufferBoundsUnreadBytes(t *testing.T) {
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

// The engines share a program: a tunnel of one is opened, used and closed while one of
// the other is open. Where there is no event loop both are portable.
func TestTunnelIsPortableOverWrappedConnection(t *testing.T) {
	t.Parallel() // it waits
	proxytest.ForEachWay(t, func(t *testing.T, way wsproxy.Option) {
		plain, wrapped := proxytest.OpenPair(t, way), proxytest.OpenPair(t, way, proxytest.WrappedDialer())
		for _, p := range []*proxytest.Pair{plain, wrapped} {
			p.WantOpen(t)
		}
		if e := proxytest.OnlyTunnel(t, wrapped.Proxy).Info().Engine; e != wsproxy.EnginePortable {
			t.Errorf("engine of the tunnel over a wrapped connection is %v; want portable", e)
		}
		wrapped.WantShutdownToWait(t)
		plain.WantOpen(t)
		plain.WantShutdownToWait(t)
	})
}

func TestTunnelIsFoundByItsID(t *testing.T) {
	p, s := proxytest.Start(t, wsproxy.WithBackends(wstest.StartEcho(t), wstest.StartEcho(t)))
	var clients []*wstest.Peer
	for range 6 {
		client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
		clients = append(clients, client)
	}
	for want := range p.Tunnels() {
		if got, ok := p.Tunnel(want.ID()); !ok || got != want {
			t.Errorf("Tunnel(%d) = %v, %v; want the tunnel", want.ID(), got, ok)
		}
	}
	for _, id := range []uint64{0, 7} {
		if got, ok := p.Tunnel(id); ok || got != nil {
			t.Errorf("Tunnel(%d) = %v, %v; there is none", id, got, ok)
		}
	}
	for _, c := range clients {
		proxytest.HangUp(t, c)
	}
	s.Wait()
	if _, ok := p.Tunnel(1); ok {
		t.Error("Tunnel(1) is found after its end")
	}
}

func TestTunnelHasItsBackend(t *testing.T) {
	p := proxytest.OpenPair(t).Proxy
	tunnel, want := proxytest.OnlyTunnel(t, p), p.Backends()[0]
	if got := tunnel.Backend(); got != want || got != tunnel.Info().Backend {
		t.Errorf("Backend() = %v; want %v, as Info has it", got, want)
	}
}
