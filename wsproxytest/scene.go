package wsproxytest

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/wsproxytest/memnet"
)

// A Scene is a proxy that runs, with backends in memory whose behaviour a test chooses and
// changes meanwhile. Clients come by [Scene.Connect]. It is for tests of a Balancer together
// with all that decides about its candidates: limits, the queue, retries, health. Its methods
// are safe for concurrent use.
//
// There is no socket, so a Scene can be used in a [testing/synctest] bubble, where a restart
// of 3 s takes no time:
//
//	func TestRestartIsAPause(t *testing.T) {
//		synctest.Test(t, func(t *testing.T) {
//			scene := wsproxytest.NewScene(t, []wsproxytest.Backend{{ID: "chat"}},
//				wsproxy.WithLimits(wsproxy.Limits{Queue: 100}))
//			scene.SetBehavior("chat", wsproxytest.Down())
//			time.AfterFunc(3*time.Second, func() { scene.SetBehavior("chat", wsproxytest.Echo()) })
//
//			client := scene.Connect(httptest.NewRequest("GET", "/room/blue", nil))
//			if client.Status != http.StatusSwitchingProtocols {
//				t.Errorf("client got status %d; want 101", client.Status)
//			}
//		})
//	}
type Scene struct {
	// Proxy is the running proxy. The test may use all its methods, also Shutdown and Close.
	Proxy *wsproxy.Proxy

	network  *memnet.Network // of the backends
	backends []*sceneBackend // does not change
	clients  *clientListener

	running sync.WaitGroup // goroutines, and calls of backends' handlers

	mu       sync.Mutex
	sessions map[*session]bool // until the handler of each has returned
	isOver   bool
}

// NewScene returns a Scene with backends, which accept and echo: see [Echo]. It ends with
// the test, and all its clients and tunnels with it. In a bubble, t must be that of the
// bubble. The test fails at once if a configuration is not valid, if an ID or an address is
// there twice, or if a URL has another scheme than http or ws.
//
// The options are those of [wsproxy.New]. [wsproxy.WithBackends], WithBackendConfigs and
// WithDialer have no effect. Without WithLogger nothing is logged.
//
// The proxy counts the tunnels of Backend.NumTunnels like others, also for MaxTunnels. But
// they are not open: [wsproxy.Proxy.Tunnels] has none of them, and they do not end.
//
// [wsproxy.Proxy.SetBackends] may change the set. List one that it adds later as
// BackendRemoved: the Scene has no others.
func NewScene(t testing.TB, backends []Backend, opts ...wsproxy.Option) *Scene {
	t.Helper()
	s := &Scene{network: memnet.NewNetwork(), clients: newClientListener(), sessions: make(map[*session]bool)}
	opts = slices.Concat([]wsproxy.Option{wsproxy.WithLogger(slog.New(slog.DiscardHandler))}, opts,
		[]wsproxy.Option{wsproxy.WithDialer(s.dialBackend)})
	p, all, err := newProxy(backends, true, opts...)
	if err != nil {
		t.Fatalf("wsproxytest: %v", err)
	}
	s.Proxy = p
	t.Cleanup(s.end)
	for _, b := range all {
		if err := s.addBackend(b); err != nil {
			t.Fatalf("wsproxytest: backend %s: %v", b.ID(), err)
		}
	}
	srv := &http.Server{Handler: http.HandlerFunc(s.serveClient), ConnContext: withSession}
	s.running.Go(func() { // until end
		srv.Serve(s.clients)
		srv.Close()
	})
	return s
}

// Backend returns the backend of that ID. It panics if the Scene has none.
func (s *Scene) Backend(id string) *wsproxy.Backend {
	first := s.backend(id).first
	for _, b := range s.Proxy.Backends() { // where it may be another one, after it was removed
		if b.ID() == id {
			return b
		}
	}
	return first
}

// SetBehavior changes the behaviour of the backend of that ID: for requests that come from
// now on. [Down] also ends what there is. It panics if the Scene has no such backend.
func (s *Scene) SetBehavior(id string, b Behavior) {
	if err := s.backend(id).setBehavior(b); err != nil {
		panic(fmt.Errorf("wsproxytest: backend %s: %w", id, err))
	}
}

// DialContext connects to the proxy, whatever the network and the address, for tests with a
// WebSocket client of their own. It has the signature that [http.Transport] wants. The caller
// closes the connection; it is closed when the test ends.
func (s *Scene) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, err := s.begin(context.Background(), "")
	if err != nil {
		return nil, err
	}
	s.running.Done()
	return c.front, nil
}

// end ends all that runs, and waits for it.
func (s *Scene) end() {
	s.mu.Lock()
	s.isOver = true
	sessions := slices.Collect(maps.Keys(s.sessions))
	s.mu.Unlock()
	s.clients.Close()
	for _, c := range sessions {
		c.front.Close()
	}
	s.Proxy.Close()
	for _, b := range s.backends {
		b.end()
	}
	for _, c := range sessions {
		<-c.served
	}
	s.running.Wait()
}

func (s *Scene) backend(id string) *sceneBackend {
	for _, b := range s.backends {
		if b.first.ID() == id {
			return b
		}
	}
	panic(fmt.Errorf("wsproxytest: the scene has no backend %q", id))
}

// dialBackend is the [wsproxy.DialFunc] of the proxy.
func (s *Scene) dialBackend(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := s.network.DialContext(ctx, network, addr)
	if err != nil {
		conn = nil
	}
	if c, ok := ctx.Value(sessionKey{}).(*session); ok {
		c.setDialed(conn, addr)
	}
	return conn, err
}

// addBackend begins to listen for the backend b.
func (s *Scene) addBackend(b *wsproxy.Backend) error {
	u, err := url.Parse(b.URL())
	if err != nil {
		return err
	}
	if u.Scheme != "http" && u.Scheme != "ws" {
		return fmt.Errorf("URL %s: a scene has http and ws only", b.URL())
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	sb := &sceneBackend{s: s, first: b, addr: net.JoinHostPort(u.Hostname(), port), behavior: Down()}
	sb.srv.Handler = http.HandlerFunc(sb.serve)
	s.backends = append(s.backends, sb)
	return sb.setBehavior(Echo())
}

// A sceneBackend is one backend that listens, unless it is down.
type sceneBackend struct {
	s     *Scene
	first *wsproxy.Backend // as it was when the scene began
	addr  string
	srv   http.Server

	mu       sync.Mutex
	behavior Behavior
	ln       *memnet.Listener      // nil: it is down
	conns    map[*backendConn]bool // the open ones
	isOver   bool
}

// serve serves a request as the backend behaves now.
func (b *sceneBackend) serve(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	h := b.behavior.handler
	if b.isOver {
		b.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	b.s.running.Add(1)
	b.mu.Unlock()
	defer b.s.running.Done()
	if h == nil {
		h = http.HandlerFunc(serveEcho)
	}
	h.ServeHTTP(w, r)
}

func (b *sceneBackend) setBehavior(to Behavior) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.behavior = to
	switch {
	case b.isOver:
	case to.isDown:
		b.goDownLocked()
	case b.ln == nil:
		ln, err := b.s.network.Listen(b.addr)
		if err != nil {
			return err
		}
		b.ln, b.conns = ln, make(map[*backendConn]bool)
		b.s.running.Go(func() { b.srv.Serve(backendListener{ln, b}) }) // until ln is closed
	}
	return nil
}

func (b *sceneBackend) goDownLocked() {
	if b.ln != nil {
		b.ln.Close()
		b.ln = nil
	}
	for c := range b.conns {
		c.Reset()
	}
}

func (b *sceneBackend) end() {
	b.mu.Lock()
	b.isOver = true
	b.goDownLocked()
	b.mu.Unlock()
	b.srv.Close()
}

// A backendListener registers the connections that it accepts.
type backendListener struct {
	*memnet.Listener
	b *sceneBackend
}

func (l backendListener) Accept() (net.Conn, error) {
	accepted, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &backendConn{Conn: accepted.(*memnet.Conn), b: l.b}
	l.b.mu.Lock()
	defer l.b.mu.Unlock()
	l.b.conns[c] = true
	if l.b.ln != l.Listener { // it has gone down in the meantime
		c.Reset()
	}
	return c, nil
}

// A backendConn is a connection of a backend, until its Close.
type backendConn struct {
	*memnet.Conn
	b *sceneBackend
}

func (c *backendConn) Close() error {
	c.b.mu.Lock()
	delete(c.b.conns, c)
	c.b.mu.Unlock()
	return c.Conn.Close()
}
