package wsproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/memnet"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// discardLog is for servers whose complaints are part of a test.
var discardLog = log.New(io.Discard, "", 0)

// newProxy returns a proxy that runs until the test ends and logs nothing.
func newProxy(t testing.TB, opts ...wsproxy.Option) *wsproxy.Proxy {
	t.Helper()
	quiet := wsproxy.WithLogger(slog.New(slog.DiscardHandler))
	p, err := wsproxy.New(append([]wsproxy.Option{quiet}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// A site is a server on 127.0.0.1, or in memory.
type site struct {
	URL      string
	ln       *memnet.Listener // of a server in memory
	handling sync.WaitGroup   // calls of its handler
}

// serve serves h until the test ends. Functions configure the server.
func serve(t testing.TB, h http.Handler, configure ...func(*http.Server)) *site {
	t.Helper()
	s := new(site)
	srv := httptest.NewUnstartedServer(s.count(h))
	srv.Config.ErrorLog = discardLog
	for _, f := range configure {
		f(srv.Config)
	}
	srv.Start()
	t.Cleanup(srv.Close)
	s.URL = srv.URL
	return s
}

// serveInMemory is serve in a synctest bubble.
func serveInMemory(t testing.TB, h http.Handler, configure ...func(*http.Server)) *site {
	t.Helper()
	s := &site{ln: memnet.Listen(4096)}
	srv := &http.Server{Handler: s.count(h), ErrorLog: discardLog}
	for _, f := range configure {
		f(srv)
	}
	var running sync.WaitGroup
	running.Go(func() { srv.Serve(s.ln) }) // until Close
	t.Cleanup(func() {
		srv.Close()
		running.Wait()
	})
	return s
}

// dial returns a client of a site in memory.
func (s *site) dial(t testing.TB) *wstest.Peer {
	t.Helper()
	c, err := s.ln.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return wstest.NewClient(t, c)
}

func (s *site) count(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.handling.Add(1)
		defer s.handling.Done()
		h.ServeHTTP(w, r)
	})
}

// wait waits until every call of the handler whose effect was seen has returned.
func (s *site) wait() { s.handling.Wait() }

// start serves a new proxy.
func start(t testing.TB, opts ...wsproxy.Option) (*wsproxy.Proxy, *site) {
	t.Helper()
	p := newProxy(t, opts...)
	return p, serve(t, p)
}

// The key that stands in RFC 6455 §1.3, and its answer.
const (
	sampleKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	sampleAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// raw returns a message head as bytes.
func raw(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }

// upgradeTo returns an upgrade request with lines added to those that it needs.
func upgradeTo(target string, lines ...string) string {
	return raw(append([]string{
		"GET " + target + " HTTP/1.1",
		"Host: chat.example",
		"Upgrade: websocket",
		"Connection: Upgrade",
		"Sec-WebSocket-Version: 13",
		"Sec-WebSocket-Key: " + sampleKey,
	}, lines...)...)
}

// switching is the answer of a backend of StartRaw or a fakeNet that takes an
// upgrade.
var switching = switchingWith()

func switchingWith(lines ...string) string {
	return raw(append([]string{
		"HTTP/1.1 101 Switching Protocols",
		"Upgrade: websocket",
		"Connection: Upgrade",
		"Sec-WebSocket-Accept: {accept}",
	}, lines...)...)
}

// refusing is an answer that refuses an upgrade.
func refusing(status int, body string, lines ...string) string {
	return raw(append([]string{
		fmt.Sprintf("HTTP/1.1 %d %s", status, http.StatusText(status)),
		fmt.Sprintf("Content-Length: %d", len(body)),
	}, lines...)...) + body
}

// exchange sends request, and returns the answer and its body. The server must
// close the connection after it.
func exchange(t testing.TB, url, request string) (*http.Response, string) {
	t.Helper()
	return finish(t, wstest.Dial(t, url), request)
}

func finish(t testing.TB, client *wstest.Peer, request string) (*http.Response, string) {
	t.Helper()
	client.WriteRequest(request)
	resp := client.ReadResponse()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("body of %s: %v after %q", resp.Status, err, body)
	}
	client.WantEOF()
	return resp, string(body)
}

// exchangeRaw sends request, and returns the answer as bytes.
func exchangeRaw(t testing.TB, url, request string) string {
	t.Helper()
	client := wstest.Dial(t, url)
	client.WriteRequest(request)
	answer, err := io.ReadAll(client)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

// open opens a tunnel with the bytes of request.
func open(t testing.TB, url, request string) (*wstest.Peer, *http.Response) {
	t.Helper()
	client := wstest.Dial(t, url)
	client.WriteRequest(request)
	return client, wantSwitch(t, client)
}

// wantSwitch reads a 101.
func wantSwitch(t testing.TB, client *wstest.Peer) *http.Response {
	t.Helper()
	resp := client.ReadResponse()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("got status %d; want 101; body %.200q", resp.StatusCode, body)
	}
	return resp
}

// wantEcho sends a message through a tunnel and waits for it to come back.
func wantEcho(t testing.TB, client *wstest.Peer) {
	t.Helper()
	client.Send(wstest.Text("hello"))
	client.Want(wstest.Text("hello"))
}

// hangUp ends a tunnel with an echo server in order.
func hangUp(t testing.TB, client *wstest.Peer) {
	t.Helper()
	client.Send(wstest.Close(1000, ""))
	client.WantClose(1000)
	client.WantEOF()
	client.Close()
}

// wantStatus checks an answer's status.
func wantStatus(t testing.TB, resp *http.Response, want int) {
	t.Helper()
	if resp.StatusCode != want {
		t.Errorf("client got status %d; want %d", resp.StatusCode, want)
	}
}

// wantField checks all lines of a field.
func wantField(t testing.TB, h http.Header, name string, want ...string) {
	t.Helper()
	if got := h.Values(name); !slices.Equal(got, want) {
		t.Errorf("%s is %q; want %q", name, got, want)
	}
}

// wantUntouched checks that nobody has connected with a backend.
func wantUntouched(t testing.TB, b interface{ NumAccepted() int }) {
	t.Helper()
	if n := b.NumAccepted(); n != 0 {
		t.Errorf("backend got %d connections; want none", n)
	}
}

// receivedHead returns the head of the only request that a backend was sent, for
// which all its connections must have ended, and what came after it.
func receivedHead(t testing.TB, b *wstest.RawBackend) (req *http.Request, head, rest string) {
	t.Helper()
	received := b.Received(t)
	if len(received) != 1 {
		t.Fatalf("backend got %d connections; want 1", len(received))
	}
	head, rest, ok := strings.Cut(received[0], "\r\n\r\n")
	if !ok {
		t.Fatalf("backend received %q; want a request", received[0])
	}
	head += "\r\n\r\n"
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head)))
	if err != nil {
		t.Fatalf("backend received %q: %v", head, err)
	}
	return req, head, rest
}

// seenBy opens a tunnel with a request and returns the request that the backend
// got.
func seenBy(t testing.TB, request string, opts ...wsproxy.Option) *http.Request {
	t.Helper()
	backend := wstest.StartBackend(t)
	opts = append([]wsproxy.Option{wsproxy.WithBackends(backend.URL())}, opts...)
	_, s := start(t, opts...)
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(request)
	leg := backend.Accepted(t)
	req := leg.AcceptUpgrade(nil)
	wantSwitch(t, client)
	return req
}

// firstOf picks the candidate that was configured first.
var firstOf = wsproxy.WithBalancer(wsproxy.BalancerFunc(
	func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
		return candidates[0], nil
	}))

// onlyTunnel returns the only open tunnel.
func onlyTunnel(t testing.TB, p *wsproxy.Proxy) *wsproxy.Tunnel {
	t.Helper()
	tunnels := slices.Collect(p.Tunnels())
	if len(tunnels) != 1 {
		t.Fatalf("Tunnels() has %d tunnels; want one", len(tunnels))
	}
	return tunnels[0]
}

// wantNoTunnels checks that every place that was reserved has been given back.
func wantNoTunnels(t testing.TB, p *wsproxy.Proxy) {
	t.Helper()
	if s := p.Stats(); s.Upgrading != 0 || s.Tunnels != 0 {
		t.Errorf("Stats() has %d upgrading, %d tunnels; want none", s.Upgrading, s.Tunnels)
	}
	for _, b := range p.Backends() {
		if n := b.NumTunnels(); n != 0 {
			t.Errorf("backend %s has %d tunnels; want none", b.ID(), n)
		}
	}
}

// becomes reports whether a condition holds soon. It is for what another goroutine
// notes only after it has done what the test has seen.
func becomes(condition func() bool) bool {
	for give := time.Now().Add(10 * time.Second); time.Now().Before(give); runtime.Gosched() {
		if condition() {
			return true
		}
	}
	return false
}

// A fakeNet is a network of backends in memory, by host name.
type fakeNet struct {
	start    time.Time
	mu       sync.Mutex
	backends map[string]fakeBackend
	dials    []string // "host at time since start"
}

// A fakeBackend says how a backend behaves. The zero value takes connections and
// never answers.
type fakeBackend struct {
	dialErr error  // of the dial
	answer  string // to every request; see [switching]
}

func newFakeNet() *fakeNet {
	return &fakeNet{start: time.Now(), backends: make(map[string]fakeBackend)}
}

// set says how the backend at host behaves from now on.
func (n *fakeNet) set(host string, b fakeBackend) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.backends[host] = b
}

// takeDials returns the dials since the last call.
func (n *fakeNet) takeDials() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	dials := n.dials
	n.dials = nil
	return dials
}

// dial is a [wsproxy.DialFunc]. A host that was not set up refuses.
func (n *fakeNet) dial(_ context.Context, _, addr string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	host, _, _ := net.SplitHostPort(addr)
	n.dials = append(n.dials, fmt.Sprintf("%s at %v", host, time.Since(n.start)))
	b, ok := n.backends[host]
	if !ok {
		b.dialErr = fmt.Errorf("%s: nobody there", addr)
	}
	if b.dialErr != nil {
		return nil, b.dialErr
	}
	front, back := memnet.Pipe(4096)
	go b.serve(back) // until the proxy closes front
	return front, nil
}

func (b fakeBackend) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	io.WriteString(c, strings.ReplaceAll(b.answer, "{accept}", wstest.Accept(req.Header.Get("Sec-WebSocket-Key"))))
	for {
		f, err := wstest.ReadFrame(r)
		if err != nil {
			return
		}
		c.Write(wstest.AppendFrame(nil, f, nil))
		if f.Opcode == wstest.OpClose {
			return
		}
	}
}

// A logBook holds all that was logged, as text.
type logBook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// option logs everything into l.
func (l *logBook) option() wsproxy.Option {
	return wsproxy.WithLogger(slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug})))
}

// Write implements [io.Writer].
func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// lines returns the lines that contain all of words.
func (l *logBook) lines(words ...string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
	for line := range strings.Lines(l.text.String()) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			found = append(found, line)
		}
	}
	return found
}

// A backendInMemory is a backend for a test in a bubble to play.
type backendInMemory struct{ ln *memnet.Listener }

func newBackendInMemory(t testing.TB) *backendInMemory {
	b := &backendInMemory{memnet.Listen(64 << 10)}
	t.Cleanup(func() { b.ln.Close() })
	return b
}

// option makes the proxy come here wherever it dials.
func (b *backendInMemory) option() wsproxy.Option { return wsproxy.WithDialer(b.ln.DialContext) }

// accept returns the other end of the proxy's next connection.
func (b *backendInMemory) accept(t testing.TB) *wstest.Peer {
	t.Helper()
	c, err := b.ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return wstest.NewBackend(t, c)
}
