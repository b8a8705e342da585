// Package closing_test checks how tunnels end: what each peer receives, and when
// its connection is closed. The tests go through a whole Proxy, over real sockets.
package closing_test

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/leaktest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

const margin = 500 * time.Millisecond // added to what a rule says; see wstest.Took

// isSoak reports whether the tests run with full sizes.
var isSoak = os.Getenv("WSPROXY_SOAK") != ""

// patience is for what must happen, where no rule says when.
var patience = inSoak(30*time.Second, 3*time.Minute)

// areTimesChecked reports whether upper bounds of times are checked. A soak, and the race
// detector, leave a machine little time for anything: they look for other faults.
var areTimesChecked = !isSoak && !proxytest.IsRace

// TestMain lets many tests run at once: they mostly wait, once their tunnels are open. In a
// soak they move much.
func TestMain(m *testing.M) {
	flag.Parse()
	atOnce := "128"
	switch {
	case isSoak:
		atOnce = "8"
	case proxytest.IsRace:
		atOnce = "48"
	}
	flag.Set("test.parallel", atOnce)
	wstest.MeasureLateness()
	leaktest.Main(m)
}

// onlySoak skips a test that takes too long for a plain go test.
func onlySoak(t *testing.T) {
	t.Helper()
	if !isSoak {
		t.Skip("takes long; WSPROXY_SOAK=1 runs it")
	}
}

// inSoak returns full in a soak run, else small.
func inSoak[T any](small, full T) T {
	if isSoak {
		return full
	}
	return small
}

// A way is how a client reaches the proxy and who waits for its tunnel. Plain
// tunnels get the event loop where the system has it, those over TLS the portable
// engine. With the build tag wsproxy_portable all get the portable engine.
type way struct {
	isTLS      bool
	isDetached bool
}

var ways = []way{{false, false}, {false, true}, {true, false}, {true, true}}

func (w way) String() string {
	return map[bool]string{false: "plain", true: "TLS"}[w.isTLS] + ", " +
		map[bool]string{false: "blocking", true: "detached"}[w.isDetached]
}

// forEachWay runs test in each way, all at once.
func forEachWay(t *testing.T, test func(t *testing.T, w way)) {
	forWays(t, func(way) bool { return true }, test)
}

// forEachPlainWay is forEachWay without TLS.
func forEachPlainWay(t *testing.T, test func(t *testing.T, w way)) {
	forWays(t, func(w way) bool { return !w.isTLS }, test)
}

// forEachTLSWay is forEachWay with TLS only.
func forEachTLSWay(t *testing.T, test func(t *testing.T, w way)) {
	forWays(t, func(w way) bool { return w.isTLS }, test)
}

func forWays(t *testing.T, isMeant func(way) bool, test func(t *testing.T, w way)) {
	t.Parallel()
	for _, w := range ways {
		if isMeant(w) {
			t.Run(w.String(), func(t *testing.T) {
				t.Parallel()
				test(t, w)
			})
		}
	}
}

// A setup says what is not as usual.
type setup struct {
	socketBuffer int    // of the proxy's sockets; 0: the system's choice
	readBuffer   int    // of the client's socket; 0: the system's choice
	clientTLS    uint16 // version of TLS, where the way has TLS; 0: any
	backendTLS   uint16 // version of TLS towards the backend; 0: none
	isUnix       bool   // the backend listens on a unix socket
	isClientBare bool   // the proxy's connection with the client has no CloseWrite
	isBackBare   bool   // that with the backend has none
}

// A scene is a proxy and a backend's listener.
type scene struct {
	t     testing.TB
	way   way
	setup setup
	proxy *wsproxy.Proxy
	addr  string // of the proxy's server
	ln    net.Listener
	ends  chan wsproxy.TunnelEnd
}

// start starts a proxy that runs until the test ends.
func start(t testing.TB, w way, su setup) *scene {
	t.Helper()
	s := &scene{t: t, way: w, setup: su, ends: make(chan wsproxy.TunnelEnd, 100)}
	opts := []wsproxy.Option{
		wsproxy.WithBackends(s.listen()),
		wsproxy.WithDetached(w.isDetached),
		wsproxy.WithLogger(slog.New(slog.DiscardHandler)),
		wsproxy.WithLimits(wsproxy.Limits{SocketBuffer: su.socketBuffer}),
		wsproxy.WithTimeouts(wsproxy.Timeouts{Close: 2 * patience}),
		wsproxy.WithTLSConfig(&tls.Config{InsecureSkipVerify: true}),
		wsproxy.WithTrace(&wsproxy.Trace{Closed: func(e wsproxy.TunnelEnd) { s.ends <- e }}),
	}
	if su.isBackBare {
		opts = append(opts, wsproxy.WithDialer(dialBare))
	}
	p, err := wsproxy.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	s.proxy = p
	s.serve()
	return s
}

// listen opens the backend's listener and returns its URL.
func (s *scene) listen() string {
	s.t.Helper()
	if !s.setup.isUnix {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() { ln.Close() })
		s.ln = ln
		if s.setup.backendTLS != 0 {
			return "https://" + ln.Addr().String()
		}
		return "http://" + ln.Addr().String()
	}
	dir, err := os.MkdirTemp("", "ws") // a path that t.TempDir makes may be too long
	if err != nil {
		s.t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		s.t.Skipf("no unix sockets: %v", err)
	}
	s.t.Cleanup(func() {
		ln.Close()
		os.RemoveAll(dir)
	})
	s.ln = ln
	return "unix://" + filepath.ToSlash(path)
}

func (s *scene) serve() {
	srv := httptest.NewUnstartedServer(s.proxy)
	srv.Config.ErrorLog = log.New(noLog{}, "", 0)
	if s.setup.isClientBare {
		srv.Listener = bareListener{srv.Listener}
	}
	if s.way.isTLS {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	s.t.Cleanup(srv.Close)
	s.addr = srv.Listener.Addr().String()
}

type noLog struct{}

func (noLog) Write(b []byte) (int, error) { return len(b), nil }

// A bare connection has no CloseWrite.
type bare struct{ net.Conn }

type bareListener struct{ net.Listener }

func (l bareListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return bare{c}, nil
}

func dialBare(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return bare{c}, nil
}

// A socket is what both *net.TCPConn and *net.UnixConn have.
type socket interface {
	net.Conn
	CloseWrite() error
	SetReadBuffer(bytes int) error
	SetWriteBuffer(bytes int) error
}

// A throttled socket is read at a rate.
type throttled struct {
	socket
	rate atomic.Int64 // bytes a second; 0: as they come
}

func (c *throttled) Read(b []byte) (int, error) {
	rate := c.rate.Load()
	if rate == 0 {
		return c.socket.Read(b)
	}
	n, err := c.socket.Read(b[:min(len(b), int(rate/10))])
	time.Sleep(time.Duration(n) * time.Second / time.Duration(rate))
	return n, err
}

// An end is one end of a tunnel, for the test to play.
type end struct {
	*wstest.Peer
	t      testing.TB
	name   string
	socket socket     // beneath TLS
	slow   *throttled // the same
}

// open opens a tunnel.
func (s *scene) open() (client, backend *end) {
	s.t.Helper()
	client = s.dial()
	client.RequestUpgrade("/", nil)
	backend = s.accept()
	backend.AcceptUpgrade(nil)
	client.WantUpgrade()
	return client, backend
}

func (s *scene) dial() *end {
	s.t.Helper()
	c, err := net.DialTimeout("tcp", s.addr, patience)
	if err != nil {
		s.t.Fatal(err)
	}
	e := newEnd(s.t, "client", c)
	if n := s.setup.readBuffer; n != 0 {
		e.socket.SetReadBuffer(n)
	}
	var over net.Conn = e.slow
	if s.way.isTLS {
		v := s.setup.clientTLS
		over = tls.Client(e.slow, &tls.Config{InsecureSkipVerify: true, MinVersion: v, MaxVersion: v})
	}
	e.Peer = wstest.NewClient(s.t, over)
	s.closeFirst(c)
	return e
}

func (s *scene) accept() *end {
	s.t.Helper()
	s.ln.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Now().Add(patience))
	c, err := s.ln.Accept()
	if err != nil {
		s.t.Fatal(err)
	}
	e := newEnd(s.t, "backend", c)
	var over net.Conn = e.slow
	if v := s.setup.backendTLS; v != 0 {
		cert := []tls.Certificate{wstest.Certificate()}
		over = tls.Server(e.slow, &tls.Config{Certificates: cert, MinVersion: v, MaxVersion: v})
	}
	e.Peer = wstest.NewBackend(s.t, over)
	s.closeFirst(c)
	return e
}

// closeFirst closes c when the test ends, before what c carries is closed: TLS would
// wait for its peer.
func (s *scene) closeFirst(c net.Conn) { s.t.Cleanup(func() { c.Close() }) }

func newEnd(t testing.TB, name string, c net.Conn) *end {
	e := &end{t: t, name: name, socket: c.(socket)}
	e.slow = &throttled{socket: e.socket}
	return e
}

// Close closes the connection. TLS may complain that the other side was quicker.
func (e *end) Close() { e.Peer.Conn().Close() }

// vanish closes the socket without a Close frame, and without a word of TLS.
func (e *end) vanish() { e.socket.Close() }

// reset resets the connection.
func (e *end) reset() {
	e.t.Helper()
	c, ok := e.socket.(*net.TCPConn)
	if !ok {
		e.t.Fatalf("%s: a %T cannot be reset", e.name, e.socket)
	}
	c.SetLinger(0)
	c.Close()
}

// fill writes messages of n bytes until the other side has taken nothing for half
// a second. The rest of the last message is left out.
func (e *end) fill(n int) (written int) {
	e.t.Helper()
	var key *[4]byte
	if e.name == "client" {
		key = &[4]byte{1, 2, 3, 4}
	}
	message := wstest.AppendFrame(nil, wstest.Binary(make([]byte, n)), key)
	for {
		e.socket.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		m, err := e.Peer.Conn().Write(message)
		written += m
		if err != nil {
			return written
		}
	}
}

// wantClosed waits for the end of the only tunnel, which must come within d.
func (s *scene) wantClosed(d time.Duration) wsproxy.TunnelEnd {
	s.t.Helper()
	e, ok := within(s.ends, d)
	if !ok {
		s.t.Fatalf("the tunnel is still open after %v", d)
	}
	return e
}

// wantGone waits until no tunnel is left, and no place at the backend is taken.
func (s *scene) wantGone(d time.Duration) {
	s.t.Helper()
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		tunnels, places := s.proxy.Stats().Tunnels, s.proxy.Backends()[0].NumTunnels()
		if tunnels == 0 && places == 0 {
			return
		}
		if took := wstest.Took(start, time.Now()); took > d && areTimesChecked || took > patience {
			s.t.Fatalf("after %v there are %d tunnels, and %d at the backend; want none", d, tunnels, places)
		}
	}
}

// tunnel returns the only tunnel.
func (s *scene) tunnel() *wsproxy.Tunnel {
	s.t.Helper()
	tunnels := slices.Collect(s.proxy.Tunnels())
	if len(tunnels) != 1 {
		s.t.Fatalf("there are %d tunnels; want one", len(tunnels))
	}
	return tunnels[0]
}

// shutdown calls Shutdown on a goroutine, which ends within twice our patience, and
// returns where its result comes.
func (s *scene) shutdown() <-chan error {
	errc := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	go func() {
		defer cancel()
		errc <- s.proxy.Shutdown(ctx)
	}()
	return errc
}

// wantShutdown waits for what shutdown has begun.
func wantShutdown(t testing.TB, errc <-chan error, d time.Duration) error {
	t.Helper()
	err, ok := within(errc, d)
	if !ok {
		t.Errorf("Shutdown has not returned after %v", d)
	}
	return err
}

// within waits for an event, and reports whether it came in time.
func within[T any](event <-chan T, d time.Duration) (v T, ok bool) {
	start := time.Now()
	select {
	case v = <-event:
		return v, !areTimesChecked || wstest.Took(start, time.Now()) <= d
	case <-time.After(max(d, patience)):
		return v, false
	}
}

// wantSoon fails the test unless an event came in time.
func wantSoon(t testing.TB, what string, since, at time.Time, d time.Duration) {
	t.Helper()
	if took := wstest.Took(since, at); took > d && areTimesChecked {
		t.Errorf("%s after %v; want %v at most", what, took.Round(time.Millisecond), d)
	}
}

// wantAround fails the test unless an event came when a rule says, or up to late later,
// or a tenth of a second before.
func wantAround(t testing.TB, what string, since, at time.Time, rule, late time.Duration) {
	t.Helper()
	if took := at.Sub(since); took < rule-100*time.Millisecond {
		t.Errorf("%s after %v; want about %v", what, took.Round(time.Millisecond), rule)
	}
	wantSoon(t, what, since, at, rule+late)
}

// pattern returns n bytes that are the same each time, and not the same anywhere.
func pattern(n int) []byte {
	b := make([]byte, n)
	x := uint32(n)*2 + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

// messages returns count messages of n bytes each.
func messages(count, n int) []wstest.Frame {
	frames := make([]wstest.Frame, count)
	for i := range frames {
		frames[i] = wstest.Binary(pattern(n))
	}
	return frames
}

// numbered returns text messages "from" to "to".
func numbered(from, to int) (frames []wstest.Frame, texts []string) {
	for i := from; i <= to; i++ {
		s := fmt.Sprint(i)
		frames, texts = append(frames, wstest.Text(s)), append(texts, s)
	}
	return frames, texts
}
