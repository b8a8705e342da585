package wsproxy_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
	"github.com/wsproxy/wsproxy/wsproxytest/memnet"
)

func TestRoundTripTimesOutInsideLineOfResponse(t *testing.T) {
	for _, part := range []string{"HTTP/1.1 1", "HTTP/1.1 101 Switching Protocols\r\nUpgra", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"} {
		synctest.Test(t, func(t *testing.T) {
			_, s, network := startInMemory(t, wsproxy.WithBackends("http://a"),
				wsproxy.WithTimeouts(wsproxy.Timeouts{Handshake: time.Second}))
			network.Set("a", proxytest.FakeBackend{Answer: part})
			if status := tryOnce(t, s); status != http.StatusServiceUnavailable {
				t.Errorf("after %q the client got %d; want 503", part, status)
			}
		})
	}
}

func TestDialerThatReturnsNilFailsBackend(t *testing.T) {
	network := proxytest.NewNetwork()
	network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
	dial := func(ctx context.Context, kind, addr string) (net.Conn, error) {
		if strings.HasPrefix(addr, "a:") {
			return nil, nil
		}
		return network.Dial(ctx, kind, addr)
	}
	p, s := proxytest.Start(t, wsproxy.WithBackends("http://a"), wsproxy.WithDialer(dial))
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
	if state := p.Backends()[0].State(); state != wsproxy.BackendFailing {
		t.Errorf("backend is %v; want failing", state)
	}
	s.Wait()
	proxytest.WantNoTunnels(t, p)

	_, s = proxytest.Start(t, wsproxy.WithBackends("http://a", "http://b"), proxytest.FirstCandidate, wsproxy.WithDialer(dial))
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantEcho(t, client)
}

// Connections of a dialer's.
type (
	panickyReader struct{ *memnet.Conn }
	panickyWrites struct{ *memnet.Conn }
	panickyCloser struct{ *memnet.Conn }
)

func (panickyReader) Read([]byte) (int, error) { panic("boom") }

func (panickyWrites) Write([]byte) (int, error) { panic("boom") }

func (c panickyCloser) Close() error { c.Conn.Close(); panic("boom") }

func TestRoundTripReleasesBackendAfterPanicOfConnection(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		for _, tt := range []struct {
			name string
			wrap func(*memnet.Conn) net.Conn
		}{
			{"Read", func(c *memnet.Conn) net.Conn { return panickyReader{c} }},
			{"Write", func(c *memnet.Conn) net.Conn { return panickyWrites{c} }},
			{"Close", func(c *memnet.Conn) net.Conn { return panickyCloser{c} }},
		} {
			t.Run(tt.name+" over "+scheme, func(t *testing.T) {
				var book proxytest.LogBook
				var front *memnet.Conn
				p, s := proxytest.Start(t, wsproxy.WithBackends(scheme+"://a"), book.Option(), wsproxy.WithDialer(
					func(context.Context, string, string) (net.Conn, error) {
						var back *memnet.Conn
						front, back = memnet.Pipe(4096)
						go proxytest.FakeBackend{Answer: "nonsense\r\n\r\n"}.Serve(back) // until the proxy closes front
						return tt.wrap(front), nil
					}))
				resp, body := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
				proxytest.WantStatus(t, resp, http.StatusInternalServerError)
				if strings.Contains(body, "boom") {
					t.Errorf("client got %q; want nothing about the panic", body)
				}
				if n := front.NumCloses(); n != 1 {
					t.Errorf("connection was closed %d times; want 1", n)
				}
				if lines := book.Lines("level=ERROR", "boom", "stack="); len(lines) != 1 {
					t.Errorf("log has %q; want one Error line about the panic", book.Lines())
				}
				s.Wait()
				proxytest.WantNoTunnels(t, p)
			})
		}
	}
}

func TestRefusalReleasesBackendAfterPanicInClose(t *testing.T) {
	var front *memnet.Conn
	p, s := proxytest.Start(t, wsproxy.WithBackends("http://a"), wsproxy.WithDialer(func(context.Context, string, string) (net.Conn, error) {
		var back *memnet.Conn
		front, back = memnet.Pipe(4096)
		go proxytest.FakeBackend{Answer: proxytest.Refusing(403, "no")}.Serve(back) // until the proxy closes front
		return panickyCloser{front}, nil
	}))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.UpgradeTo("/chat"))
	io.Copy(io.Discard, client) // to the end, whether the answer came before it or not
	s.Wait()
	if n := front.NumCloses(); n != 1 {
		t.Errorf("connection was closed %d times; want 1", n)
	}
	proxytest.WantNoTunnels(t, p)
}

func TestBackendSchemesHTTPAndWSAreTheSame(t *testing.T) {
	for _, scheme := range []string{"http", "ws", "HTTP"} {
		url := scheme + strings.TrimPrefix(wstest.StartEcho(t), "http")
		_, s := proxytest.Start(t, wsproxy.WithBackends(url))
		client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
		proxytest.WantEcho(t, client)
	}
}

func TestBackendGetsHostOfClientWithItsPort(t *testing.T) {
	for _, host := range []string{"chat.example", "chat.example:8443", "chat.example:80", "[::1]:8000"} {
		request := strings.Replace(proxytest.UpgradeTo("/chat"), "Host: chat.example", "Host: "+host, 1)
		if got := proxytest.RequestAtBackend(t, request).Host; got != host {
			t.Errorf("backend got Host %q; want the client's, %q", got, host)
		}
	}
}

func TestUnixBackendGetsHostOfClient(t *testing.T) {
	path := proxytest.SocketPath(t)
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	p, s := proxytest.Start(t, wsproxy.WithBackends("unix://"+path))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.UpgradeTo("/chat/../x?y=1"))
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	leg := wstest.NewBackend(t, c)
	req := leg.AcceptUpgrade(nil)
	if req.Host != "chat.example" || req.RequestURI != "/chat/../x?y=1" {
		t.Errorf("backend was asked for %q of %q; want /chat/../x?y=1 of chat.example", req.RequestURI, req.Host)
	}
	proxytest.WantSwitch(t, client)
	client.Send(wstest.Text("hello"))
	leg.Want(wstest.Text("hello"))
	leg.Send(wstest.Close(1000, ""))
	client.WantClose(1000)
	client.Send(wstest.Close(1000, ""))
	leg.WantClose(1000)
	leg.Close()
	client.WantEOF()
	client.Close()
	s.Wait()
	proxytest.WantNoTunnels(t, p)
}

// A callRecorder notes what is done with its connection.
type callRecorder struct {
	net.Conn
	mu    sync.Mutex
	calls []string
}

func (c *callRecorder) record(call string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, call)
}

func (c *callRecorder) first(n int) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.calls[:min(n, len(c.calls))])
}

func (c *callRecorder) SetReadBuffer(n int) error {
	c.record(fmt.Sprint("receive ", n))
	return nil
}

func (c *callRecorder) SetWriteBuffer(n int) error {
	c.record(fmt.Sprint("send ", n))
	return nil
}

func (c *callRecorder) Write(p []byte) (int, error) {
	c.record("write")
	return c.Conn.Write(p)
}

func TestSocketBufferIsSetBeforeRequest(t *testing.T) {
	for _, tt := range []struct {
		scheme string
		bytes  int
		want   []string
	}{
		{"http", 200, []string{"receive 200", "send 200", "write"}},
		{"https", 200, []string{"receive 200", "send 200", "write"}},
		{"http", 0, []string{"write"}},
		{"http", -1, []string{"write"}},
	} {
		var recorder *callRecorder
		network := proxytest.NewNetwork()
		network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
		_, s := proxytest.Start(t, wsproxy.WithBackends(tt.scheme+"://a"), wsproxy.WithLimits(wsproxy.Limits{SocketBuffer: tt.bytes}),
			wsproxy.WithDialer(func(ctx context.Context, kind, addr string) (net.Conn, error) {
				c, err := network.Dial(ctx, kind, addr)
				recorder = &callRecorder{Conn: c}
				return recorder, err
			}))
		client := wstest.Dial(t, s.URL)
		client.WriteRequest(proxytest.UpgradeTo("/"))
		client.ReadResponse() // which need not be 101: nobody speaks TLS here
		client.Close()
		s.Wait()
		if got := recorder.first(len(tt.want)); !slices.Equal(got, tt.want) {
			t.Errorf("%s, %d bytes: the first calls are %q; want %q", tt.scheme, tt.bytes, got, tt.want)
		}
	}
}

func TestRequestIsOneWriteInSpellingOfRFC(t *testing.T) {
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
		"X-Forwarded-Proto: http",
		"X-Request-Id: "+req.Header.Get("X-Request-Id"))
	if head != want {
		t.Errorf("backend was asked with\n%s; want\n%s", head, want)
	}
}

func TestRequestHasFreshKeyForEachBackend(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.Refusing(403, ""))
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
	proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	received := backend.Received(t)
	if len(received) != 2 || received[0] == received[1] {
		t.Errorf("backend received %q; want two requests with different keys", received)
	}
}

// A nameServer answers every question for addresses with the ones that it has
// now.
type nameServer struct {
	mu    sync.Mutex
	addrs [][4]byte
}

func (s *nameServer) set(addrs ...[4]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addrs = addrs
}

// resolveBy makes s the server of [net.DefaultResolver] until the test ends.
func resolveBy(t *testing.T, s *nameServer) {
	old := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: s.dial}
	t.Cleanup(func() { net.DefaultResolver = old })
}

// dial gives a [net.Resolver] a connection with the server: messages with their
// length before them, as DNS has it on streams.
func (s *nameServer) dial(context.Context, string, string) (net.Conn, error) {
	front, back := net.Pipe()
	go func() { // until the resolver closes front
		defer back.Close()
		for {
			var length [2]byte
			if _, err := back.Read(length[:]); err != nil {
				return
			}
			query := make([]byte, binary.BigEndian.Uint16(length[:]))
			if _, err := back.Read(query); err != nil {
				return
			}
			answer := s.answer(query)
			back.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
		}
	}()
	return front, nil
}

func (s *nameServer) answer(query []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil
	}
	m.Response, m.Authoritative = true, true
	m.Additionals = nil
	if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
		for _, addr := range s.addrs {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 3600},
				Body:   &dnsmessage.AResource{A: addr},
			})
		}
	}
	answer, _ := m.Pack()
	return answer
}

// A name's address may change while its time to live has not passed. The default
// dialer uses net.DefaultResolver, which asks each time.
func TestDialerResolvesNameEachTime(t *testing.T) {
	server := new(nameServer)
	resolveBy(t, server)

	// Two backends with one port, at different addresses of this machine.
	first, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	port := first.Addr().(*net.TCPAddr).Port
	second, err := net.Listen("tcp", fmt.Sprintf("127.0.0.2:%d", port))
	if err != nil {
		t.Skipf("only Linux has all of 127.0.0.0/8: %v", err)
	}
	defer second.Close()
	_, s := proxytest.Start(t, wsproxy.WithBackends(fmt.Sprintf("http://backend.wsproxy.example.:%d", port)))

	for _, tt := range []struct {
		addr [4]byte
		ln   net.Listener
	}{{[4]byte{127, 0, 0, 1}, first}, {[4]byte{127, 0, 0, 2}, second}, {[4]byte{127, 0, 0, 1}, first}} {
		server.set(tt.addr)
		client := wstest.Dial(t, s.URL)
		client.WriteRequest(proxytest.UpgradeTo("/chat"))
		tt.ln.(*net.TCPListener).SetDeadline(time.Now().Add(5 * time.Second))
		c, err := tt.ln.Accept()
		if err != nil {
			t.Fatalf("nobody was dialed at %v: %v", tt.addr, err)
		}
		wstest.NewBackend(t, c).AcceptUpgrade(nil)
		proxytest.WantSwitch(t, client)
	}
}

func TestHandshakeTimeoutCoversEachPhase(t *testing.T) {
	for _, tt := range []struct {
		name string
		url  string
		dial wsproxy.DialFunc // nil: a backend that does as answer says
		back proxytest.FakeBackend
	}{
		{"dial", "http://a", func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, proxytest.FakeBackend{}},
		{"TLS", "https://a", func(context.Context, string, string) (net.Conn, error) {
			front, _ := memnet.Pipe(4096)
			return front, nil
		}, proxytest.FakeBackend{}},
		{"answer", "http://a", nil, proxytest.FakeBackend{}},
		{"half an answer", "http://a", nil, proxytest.FakeBackend{Answer: "HTTP/1.1 101 Switching"}},
		{"interim answers only", "http://a", nil, proxytest.FakeBackend{Answer: proxytest.Head("HTTP/1.1 103 Early Hints")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := proxytest.NewNetwork()
				network.Set("a", tt.back)
				if tt.dial == nil {
					tt.dial = network.Dial
				}
				var failed error
				p := proxytest.NewProxy(t, wsproxy.WithBackends(tt.url), wsproxy.WithDialer(tt.dial),
					wsproxy.WithTrace(&wsproxy.Trace{Attempted: func(i wsproxy.AttemptInfo) { failed = i.Err }}))
				s := proxytest.ServeInMemory(t, p)
				client := s.Dial(t)
				client.WriteRequest(proxytest.UpgradeTo("/chat"))
				time.Sleep(10 * time.Second)
				resp := client.ReadResponse()
				proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
				io.Copy(io.Discard, resp.Body)
				client.WantEOF()
				var be *wsproxy.BackendError
				if !errors.As(failed, &be) || !be.Timeout() || !errors.Is(failed, context.DeadlineExceeded) {
					t.Errorf("Attempted saw %v; want a *BackendError that is a timeout", failed)
				}
				s.Wait()
				proxytest.WantNoTunnels(t, p)
			})
		})
	}
}

func TestHandshakeTimeoutMayBeOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := proxytest.NewBackendInMemory(t)
		p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a"), backend.Option(), wsproxy.WithTimeouts(wsproxy.Timeouts{Handshake: -1}))
		client := proxytest.ServeInMemory(t, p).Dial(t)
		client.WriteRequest(proxytest.UpgradeTo("/chat"))
		leg := backend.Accept(t)
		time.Sleep(time.Hour)
		leg.AcceptUpgrade(nil)
		proxytest.WantSwitch(t, client)
	})
}
