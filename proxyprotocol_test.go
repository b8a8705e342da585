package wsproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A headerListener reads a PROXY header from each connection.
type headerListener struct {
	net.Listener
	headers chan string // as readProxyHeader returns them
}

func (l *headerListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	header := readProxyHeader(c)
	c.SetReadDeadline(time.Time{})
	l.headers <- header
	return headerConn{c, header}, nil
}

// A headerConn is a connection of a headerListener.
type headerConn struct {
	net.Conn
	header string
}

type headerKey struct{}

// withHeader is a ConnContext of an [http.Server].
func withHeader(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return context.WithValue(ctx, headerKey{}, c.(headerConn).header)
}

// readProxyHeader reads a header from r, and returns it as text: LOCAL, or TCP4 or TCP6 with the
// client's address and the server's.
func readProxyHeader(r io.Reader) string {
	var head [16]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err.Error()
	}
	block := make([]byte, int(head[14])<<8|int(head[15]))
	if string(head[:12]) != "\r\n\r\n\x00\r\nQUIT\n" || len(block) > 36 {
		return fmt.Sprintf("%q", head)
	}
	if _, err := io.ReadFull(r, block); err != nil {
		return err.Error()
	}
	addrs := func(size int) string {
		addr := func(i int) netip.AddrPort {
			a, _ := netip.AddrFromSlice(block[i*size : (i+1)*size])
			return netip.AddrPortFrom(a, uint16(block[2*size+2*i])<<8|uint16(block[2*size+2*i+1]))
		}
		return fmt.Sprint(addr(0), " ", addr(1))
	}
	switch {
	case head[12] == 0x20 && head[13] == 0 && len(block) == 0:
		return "LOCAL"
	case head[12] == 0x21 && head[13] == 0x11 && len(block) == 12:
		return "TCP4 " + addrs(4)
	case head[12] == 0x21 && head[13] == 0x21 && len(block) == 36:
		return "TCP6 " + addrs(16)
	}
	return fmt.Sprintf("%q %q", head, block)
}

// startProxyProtocol starts a backend that expects PROXY headers, with all that the probes ask
// for, and that echoes. Its URL has the scheme http, https or unix.
func startProxyProtocol(t *testing.T, scheme string) (config wsproxy.BackendConfig, opt wsproxy.Option, headers chan string) {
	t.Helper()
	network, addr := "tcp", "127.0.0.1:0"
	if scheme == "unix" {
		network, addr = "unix", proxytest.SocketPath(t)
	}
	l := &headerListener{listenAt(t, network, addr), make(chan string, 1000)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /header", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Context().Value(headerKey{})) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "fine") })
	mux.HandleFunc("GET /ws", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, message, err := c.Read(t.Context()) // answers pings
			if err != nil || c.Write(t.Context(), kind, message) != nil {
				return
			}
		}
	})
	srv := httptest.NewUnstartedServer(mux)
	srv.Listener.Close()
	srv.Listener = l
	srv.Config.ErrorLog = proxytest.DiscardLog
	srv.Config.ConnContext = withHeader
	t.Cleanup(srv.Close)
	ca := newAuthority(t)
	if scheme == "https" {
		srv.TLS = &tls.Config{Certificates: []tls.Certificate{ca.issue(t, "backend.example")}}
		srv.StartTLS()
		config.ServerName = "backend.example"
	} else {
		srv.Start()
	}
	config.ID, config.URL = "a", scheme+"://"+l.Addr().String()
	config.ProxyProtocol = true
	return config, wsproxy.WithTLSConfig(&tls.Config{RootCAs: ca.pool}), l.headers
}

// listenAt listens until the test ends. It skips the test where there is no IPv6.
func listenAt(t *testing.T, network, addr string) net.Listener {
	t.Helper()
	ln, err := net.Listen(network, addr)
	if err != nil && strings.HasPrefix(addr, "[") {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func TestProxyProtocolSaysClientAndServer(t *testing.T) {
	withoutPort := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.RemoteAddr, _, _ = strings.Cut(r.RemoteAddr, ":")
			h.ServeHTTP(w, r)
		})
	}
	withoutServer := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(w, r.WithContext(t.Context()))
		})
	}
	for _, tt := range []struct {
		name      string
		addr      string // of the server: see dialSite
		trusted   string
		forwarded string
		wrap      func(http.Handler) http.Handler
		want      string // CLIENT and SERVER are the addresses of the client's connection
	}{
		{"IPv4", "127.0.0.1:0", "", "", nil, "TCP4 CLIENT SERVER"},
		{"IPv6", "[::1]:0", "", "", nil, "TCP6 CLIENT SERVER"},
		{"IPv4 at a socket for both", "both", "", "", nil, "TCP4 CLIENT SERVER"},
		{"unix", "unix", "", "", nil, "LOCAL"},
		{"IPv4 behind a trusted proxy", "127.0.0.1:0", "127.0.0.1", "192.0.2.7", nil, "TCP4 192.0.2.7:0 SERVER"},
		{"IPv4 behind a trusted proxy with its port", "127.0.0.1:0", "127.0.0.1", "192.0.2.7:5000", nil, "TCP4 192.0.2.7:0 SERVER"},
		{"IPv6 at IPv4", "127.0.0.1:0", "127.0.0.1", "2001:db8::7", nil, "TCP6 [2001:db8::7]:0 [::ffff:127.0.0.1]:PORT"},
		{"IPv6 with a zone", "[::1]:0", "::1", "fe80::7%eth0", nil, "TCP6 [fe80::7]:0 SERVER"},
		{"IPv4 at IPv6", "[::1]:0", "::1", "192.0.2.7", nil, "TCP6 [::ffff:192.0.2.7]:0 SERVER"},
		{"IPv6 at IPv6", "[::1]:0", "::1", "2001:db8::7", nil, "TCP6 [2001:db8::7]:0 SERVER"},
		{"the trusted proxy itself", "127.0.0.1:0", "127.0.0.1", "", nil, "TCP4 CLIENT SERVER"},
		{"client with the address of the trusted proxy", "127.0.0.1:0", "127.0.0.1", "127.0.0.1", nil, "TCP4 127.0.0.1:0 SERVER"},
		{"forged", "127.0.0.1:0", "", "192.0.2.7", nil, "TCP4 CLIENT SERVER"},
		{"trusted unix socket", "unix", "unix", "192.0.2.7", nil, "LOCAL"},
		{"middleware that removes the port", "127.0.0.1:0", "", "", withoutPort, "TCP4 127.0.0.1:0 SERVER"},
		{"middleware that drops the context", "127.0.0.1:0", "", "", withoutServer, "LOCAL"},
	} {
		for _, scheme := range []string{"http", "https", "unix"} {
			t.Run(tt.name+" to "+scheme, func(t *testing.T) {
				config, opt, headers := startProxyProtocol(t, scheme)
				opts := []wsproxy.Option{wsproxy.WithBackendConfigs(config), opt}
				if tt.trusted != "" {
					opts = append(opts, wsproxy.WithTrustedProxies(tt.trusted))
				}
				p := proxytest.NewProxy(t, opts...)
				var h http.Handler = p
				if tt.wrap != nil {
					h = tt.wrap(p)
				}
				c := dialSite(t, tt.addr, h)
				client := wstest.NewClient(t, c)
				var lines []string
				if tt.forwarded != "" {
					lines = []string{"X-Forwarded-For: " + tt.forwarded}
				}
				client.WriteRequest(proxytest.UpgradeTo("/ws", lines...))
				proxytest.WantSwitch(t, client)
				want := tt.want
				if c.RemoteAddr().Network() == "tcp" {
					server := c.RemoteAddr().(*net.TCPAddr)
					want = strings.NewReplacer("CLIENT", c.LocalAddr().String(), "SERVER", server.String(), "PORT", fmt.Sprint(server.Port)).Replace(want)
				}
				if got := <-headers; got != want {
					t.Errorf("backend got %s; want %s", got, want)
				}
				// The bytes are part of no message.
				tunnel := proxytest.OnlyTunnel(t, p)
				if up, down := tunnel.Traffic(); up.Bytes+up.Messages+down.Bytes+down.Messages != 0 {
					t.Errorf("Traffic() = %+v, %+v; want nothing before a message", up, down)
				}
				proxytest.WantEcho(t, client)
				client.Close()
			})
		}
	}
}

// dialSite serves h at addr until the test ends, and returns a connection to it. "unix" stands
// for a unix socket, and "both" for a socket that accepts IPv4 and IPv6, which is dialed over IPv4.
func dialSite(t *testing.T, addr string, h http.Handler) net.Conn {
	t.Helper()
	var ln net.Listener
	switch addr {
	case "unix":
		ln = listenAt(t, "unix", proxytest.SocketPath(t))
		addr = ln.Addr().String()
	case "both":
		ln = listenAt(t, "tcp", "[::]:0")
		addr = fmt.Sprintf("127.0.0.1:%d", ln.Addr().(*net.TCPAddr).Port)
	default:
		ln = listenAt(t, "tcp", addr)
		addr = ln.Addr().String()
	}
	srv := httptest.NewUnstartedServer(h)
	srv.Listener.Close()
	srv.Listener = ln
	srv.Start()
	t.Cleanup(srv.Close)
	c, err := net.Dial(ln.Addr().Network(), addr)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A firstWrites records the first writes to a connection.
type firstWrites struct {
	net.Conn
	writes *[]string
}

func (c firstWrites) Write(p []byte) (int, error) {
	*c.writes = append(*c.writes, string(p))
	return c.Conn.Write(p)
}

func TestProxyProtocolHeaderIsOneWriteWithRequest(t *testing.T) {
	network := proxytest.NewNetwork()
	network.Set("a", proxytest.FakeBackend{Answer: proxytest.Refusing(403, "")})
	for _, scheme := range []string{"http", "https"} {
		var writes []string
		_, s := proxytest.Start(t, wsproxy.WithBackendConfigs(wsproxy.BackendConfig{URL: scheme + "://a", ProxyProtocol: true}),
			wsproxy.WithDialer(func(ctx context.Context, kind, addr string) (net.Conn, error) {
				c, err := network.Dial(ctx, kind, addr)
				return firstWrites{c, &writes}, err
			}))
		client := wstest.Dial(t, s.URL)
		client.WriteRequest(proxytest.UpgradeTo("/"))
		client.ReadResponse()
		client.Close()
		s.Wait()
		rest := bytes.NewBufferString(writes[0])
		want := "TCP4 " + client.Conn().LocalAddr().String() + " " + client.Conn().RemoteAddr().String()
		if got := readProxyHeader(rest); got != want {
			t.Errorf("%s: first write begins with %s; want %s", scheme, got, want)
		}
		behind := rest.String()
		if scheme == "https" {
			behind = strings.Join(writes[1:], "")
			if rest.Len() != 0 || !strings.HasPrefix(behind, "\x16\x03\x01") {
				t.Errorf("behind the header came %q and %.10q; want the ClientHello in another write", rest, behind)
			}
		} else if !strings.HasPrefix(behind, "GET / HTTP/1.1\r\n") || len(writes) != 1 {
			t.Errorf("behind the header came %q in %d writes; want the request in the same write", behind, len(writes))
		}
	}
}

func TestSetBackendsChangesProxyProtocolOfNextDial(t *testing.T) {
	plain := wstest.StartBackend(t)
	config := wsproxy.BackendConfig{ID: "a", URL: plain.URL()}
	p, s := proxytest.Start(t, wsproxy.WithBackendConfigs(config))
	first, firstLeg := proxytest.OpenThrough(t, s.URL, plain)
	for _, on := range []bool{true, false, true} {
		config.ProxyProtocol = on
		if err := p.SetBackends(config); err != nil {
			t.Fatal(err)
		}
		client := wstest.Dial(t, s.URL)
		client.WriteRequest(proxytest.UpgradeTo("/ws"))
		leg := plain.Accepted(t)
		if on {
			want := "TCP4 " + client.Conn().LocalAddr().String() + " " + client.Conn().RemoteAddr().String()
			if got := readProxyHeader(leg); got != want {
				t.Errorf("backend got %s; want %s", got, want)
			}
		}
		leg.AcceptUpgrade(nil)
		proxytest.WantSwitch(t, client)
	}
	first.Send(wstest.Text("still open"))
	firstLeg.Want(wstest.Text("still open"))
}

// A backend that has failed because the option was wrong is tried at once when it is right.
func TestSetBackendsOfProxyProtocolClearsFlags(t *testing.T) {
	config := wsproxy.BackendConfig{ID: "a", URL: wstest.StartRaw(t, "{end}").URL()}
	p, s := proxytest.Start(t, wsproxy.WithBackendConfigs(config))
	proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/ws"))
	if state := p.Backends()[0].State(); state != wsproxy.BackendFailing {
		t.Fatalf("backend that closed the connection is %v; want failing", state)
	}
	config.ProxyProtocol = true
	if err := p.SetBackends(config); err != nil {
		t.Fatal(err)
	}
	if state := p.Backends()[0].State(); state != wsproxy.BackendUp {
		t.Errorf("after the change the backend is %v; want up", state)
	}
}

func TestProbesSendLocalInProxyProtocol(t *testing.T) {
	for name, probe := range allProbes {
		for _, scheme := range []string{"http", "https", "unix"} {
			t.Run(name+" to "+scheme, func(t *testing.T) {
				config, opt, headers := startProxyProtocol(t, scheme)
				if err := probeBackend(t, probe, wsproxy.WithBackendConfigs(config), opt); err != nil {
					t.Errorf("probe returned %v; want nil", err)
				}
				if got := <-headers; got != "LOCAL" {
					t.Errorf("backend got %s; want LOCAL", got)
				}
			})
		}
	}
}

func TestHTTPProbeOfAnotherPortSendsNoProxyHeader(t *testing.T) {
	config, _, headers := startProxyProtocol(t, "http")
	port := func(url string) (n int) {
		fmt.Sscan(url[len("http://127.0.0.1:"):], &n)
		return n
	}
	management := wstest.StartRaw(t, proxytest.Refusing(200, ""))
	probe := wsproxy.HTTPProbe(wsproxy.HTTPProbeConfig{Port: port(management.URL())})
	if err := probeBackend(t, probe, wsproxy.WithBackendConfigs(config)); err != nil {
		t.Errorf("probe returned %v; want nil", err)
	}
	if _, head, _ := proxytest.ReceivedHead(t, management); !strings.HasPrefix(head, "GET / HTTP/1.1\r\n") {
		t.Errorf("the other port got %q; want a request without a header", head)
	}
	probe = wsproxy.HTTPProbe(wsproxy.HTTPProbeConfig{Port: port(config.URL), Path: "/healthz"})
	if err := probeBackend(t, probe, wsproxy.WithBackendConfigs(config)); err != nil {
		t.Errorf("probe returned %v; want nil", err)
	}
	if got := <-headers; got != "LOCAL" {
		t.Errorf("the backend's own port got %s; want LOCAL", got)
	}
}

func TestProbeIsBoundedWhileItWritesProxyHeader(t *testing.T) {
	front, _ := net.Pipe() // nobody reads
	defer front.Close()
	p := proxytest.NewProxy(t, wsproxy.WithBackendConfigs(wsproxy.BackendConfig{URL: "http://a", ProxyProtocol: true}),
		wsproxy.WithDialer(func(context.Context, string, string) (net.Conn, error) { return front, nil }))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := wsproxy.TCPProbe()(ctx, p.Backends()[0])
	wantProbeError(t, err, "PROXY header: context deadline exceeded")
}

// Servers that expect no header.
func TestProxyProtocolNamesItselfWhereBackendExpectsNoHeader(t *testing.T) {
	const hint = "does the backend expect the PROXY header?"
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { t.Error("backend got a request") })
	for _, tt := range []struct {
		name   string
		url    func(t *testing.T) string
		status int
		probes []string // those that fail
	}{
		{"net/http", func(t *testing.T) string { return proxytest.Serve(t, handler).URL }, 400, []string{"HTTP", "WebSocket"}},
		{"net/http over TLS", func(t *testing.T) string {
			srv := httptest.NewUnstartedServer(handler)
			srv.Config.ErrorLog = proxytest.DiscardLog
			srv.StartTLS()
			t.Cleanup(srv.Close)
			return srv.URL
		}, 503, []string{"HTTP", "WebSocket", "TCP"}},
		{"closes", func(t *testing.T) string { return wstest.StartRaw(t, "{end}").URL() }, 502, []string{"HTTP", "WebSocket"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config := wsproxy.BackendConfig{ID: "a", URL: tt.url(t), ProxyProtocol: true}
			var book proxytest.LogBook
			_, s := proxytest.Start(t, book.Option(), wsproxy.WithBackendConfigs(config))
			resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/ws"))
			proxytest.WantStatus(t, resp, tt.status)
			s.Wait()
			if lines := book.Lines("request_id=", "backend=a", hint); len(lines) != 1 && tt.status == 400 {
				t.Errorf("log has %q; want a line about the refusal with %q", book.Lines(), hint)
			}
			if lines := book.Lines(hint); len(lines) == 0 {
				t.Errorf("log has %q; want a line with %q", book.Lines(), hint)
			}
			for _, name := range tt.probes {
				wantProbeError(t, probeBackend(t, allProbes[name], wsproxy.WithBackendConfigs(config)), hint)
			}
		})
	}
}

// A certificate that is not valid is found behind the header: TLS works.
func TestProxyProtocolIsNoHintForCertificate(t *testing.T) {
	config, _, _ := startProxyProtocol(t, "https")
	var failed error
	_, s := proxytest.Start(t, wsproxy.WithBackendConfigs(config),
		wsproxy.WithTrace(&wsproxy.Trace{Attempted: func(i wsproxy.AttemptInfo) { failed = i.Err }}))
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/ws"))
	proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
	s.Wait()
	var bad *tls.CertificateVerificationError
	if !errors.As(failed, &bad) || strings.Contains(failed.Error(), "PROXY") {
		t.Errorf("attempt failed with %v; want an error about the certificate alone", failed)
	}
}

// The backend answers with the header of the connection. Clients that leave early leave dials
// behind: their connections must be used for nobody else.
func TestProxyProtocolOfHTTPRequestsNamesTheClientOfEach(t *testing.T) {
	const numClients, numRequests = 20, 10
	for _, scheme := range []string{"http", "https", "unix"} {
		t.Run(scheme, func(t *testing.T) {
			config, opt, headers := startProxyProtocol(t, scheme)
			p := proxytest.NewProxy(t, wsproxy.WithBackendConfigs(config), opt, withHTTP)
			s := proxytest.Serve(t, p)
			var running sync.WaitGroup
			var owns []string // headers of the clients
			for range numClients {
				client := wstest.Dial(t, s.URL)
				own := "TCP4 " + client.Conn().LocalAddr().String() + " " + client.Conn().RemoteAddr().String()
				owns = append(owns, own)
				running.Go(func() { // until the end of its requests
					answers := bufio.NewReader(client)
					for range numRequests {
						leaving, err := net.Dial("tcp", client.Conn().RemoteAddr().String())
						if err != nil {
							t.Error(err)
							return
						}
						io.WriteString(leaving, proxytest.Head("GET /header HTTP/1.1", "Host: chat.example"))
						leaving.Close()
						io.WriteString(client, proxytest.Head("GET /header HTTP/1.1", "Host: chat.example"))
						resp, err := http.ReadResponse(answers, nil)
						if err != nil {
							t.Error(err)
							return
						}
						got, _ := io.ReadAll(resp.Body)
						if string(got) != own {
							t.Errorf("backend has answered %d, %q; want %q, the client's own header", resp.StatusCode, got, own)
						}
					}
				})
			}
			running.Wait()
			p.Close()
			s.Wait()
			seen := make(map[string]int)
			for range len(headers) {
				seen[<-headers]++
			}
			for _, own := range owns {
				if seen[own] != numRequests {
					t.Errorf("%d connections have %s; want %d, one for each request", seen[own], own, numRequests)
				}
			}
		})
	}
}

func TestProxyProtocolOfHTTPRequestsKeepsNoConnection(t *testing.T) {
	backend := wstest.StartBackend(t)
	_, s := proxytest.Start(t, wsproxy.WithBackendConfigs(wsproxy.BackendConfig{URL: backend.URL(), ProxyProtocol: true}), withHTTP)
	client := wstest.Dial(t, s.URL)
	for range 2 {
		client.WriteRequest(proxytest.Head("GET / HTTP/1.1", "Host: chat.example"))
		leg := backend.Accepted(t)
		want := "TCP4 " + client.Conn().LocalAddr().String() + " " + client.Conn().RemoteAddr().String()
		if got := readProxyHeader(leg); got != want {
			t.Errorf("backend got %s; want %s", got, want)
		}
		leg.ReadRequest()
		leg.SendRaw([]byte(proxytest.Head("HTTP/1.1 200 OK", "Content-Length: 2") + "ok")) // the backend would keep the connection
		if body, err := io.ReadAll(client.ReadResponse().Body); string(body) != "ok" {
			t.Errorf("client got %q, %v; want ok", body, err)
		}
		leg.WantEOF()
	}
}

func TestProxyProtocolOfHTTPRequestIsWrittenInTime(t *testing.T) {
	var front net.Conn
	p, s := proxytest.Start(t, wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "a", URL: "http://a", ProxyProtocol: true}), withHTTP,
		wsproxy.WithTimeouts(wsproxy.Timeouts{Handshake: 50 * time.Millisecond}),
		wsproxy.WithDialer(func(context.Context, string, string) (net.Conn, error) {
			front, _ = net.Pipe() // nobody reads
			return front, nil
		}))
	resp, _ := do(t, http.DefaultClient, "GET", s.URL, nil)
	http.DefaultClient.CloseIdleConnections()
	proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
	if _, err := front.Write(nil); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Write to the backend's connection returns %v; want that it is closed", err)
	}
	f := p.Backends()[0].Health().Flags
	if len(f) != 1 || f[0].Flag != wsproxy.FlagUnreachable {
		t.Errorf("the backend has the flags %v; want unreachable", f)
	}
}
