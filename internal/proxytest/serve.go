package proxytest

import (
	"context"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/wstest"
	"github.com/wsproxy/wsproxy/wsproxytest/memnet"
)

// DiscardLog is for servers whose errors are part of a test.
var DiscardLog = log.New(io.Discard, "", 0)

// NewProxy returns a proxy that runs until the test ends and logs nothing.
func NewProxy(t testing.TB, opts ...wsproxy.Option) *wsproxy.Proxy {
	t.Helper()
	quiet := wsproxy.WithLogger(slog.New(slog.DiscardHandler))
	p, err := wsproxy.New(append([]wsproxy.Option{quiet}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// A Site is a server on 127.0.0.1, or in memory.
type Site struct {
	URL string
	ln  *memnet.Listener // of a server in memory

	// No WaitGroup: some tests wait while other calls begin.
	mu       sync.Mutex
	isIdle   *sync.Cond // signals that handling is 0
	handling int        // calls of its handler; guarded by mu
}

func newSite() *Site {
	s := new(Site)
	s.isIdle = sync.NewCond(&s.mu)
	return s
}

// Serve serves h until the test ends. The functions configure the server.
func Serve(t testing.TB, h http.Handler, configure ...func(*http.Server)) *Site {
	t.Helper()
	s := newSite()
	srv := httptest.NewUnstartedServer(s.count(h))
	srv.Config.ErrorLog = DiscardLog
	for _, f := range configure {
		f(srv.Config)
	}
	srv.Start()
	t.Cleanup(srv.Close)
	s.URL = srv.URL
	return s
}

// ServeInMemory is Serve in a synctest bubble.
func ServeInMemory(t testing.TB, h http.Handler, configure ...func(*http.Server)) *Site {
	t.Helper()
	s := newSite()
	s.ln = memnet.Listen(4096)
	srv := &http.Server{Handler: s.count(h), ErrorLog: DiscardLog}
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

// Dial returns a client of a site in memory.
func (s *Site) Dial(t testing.TB) *wstest.Peer {
	t.Helper()
	c, err := s.ln.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return wstest.NewClient(t, c)
}

// DialContext connects to a site in memory. It is a [wsproxy.DialFunc] that ignores the
// address.
func (s *Site) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return s.ln.DialContext(ctx, network, addr)
}

// count counts the calls of h.
func (s *Site) count(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.addHandling(1)
		defer s.addHandling(-1)
		h.ServeHTTP(w, r)
	})
}

// Wait waits until all calls of the handler have returned. The test must have seen an
// effect of each.
func (s *Site) Wait() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.handling > 0 {
		s.isIdle.Wait()
	}
}

func (s *Site) addHandling(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.handling += n; s.handling == 0 {
		s.isIdle.Broadcast()
	}
}

// Start serves a new proxy until the test ends.
func Start(t testing.TB, opts ...wsproxy.Option) (*wsproxy.Proxy, *Site) {
	t.Helper()
	p := NewProxy(t, opts...)
	return p, Serve(t, p)
}

// SocketPath returns a name for a unix socket of the test. It is short: the system allows 107
// bytes, and the directory of [testing.TB.TempDir] has the name of the test in it.
func SocketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ws")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}
