package wsprometheus_test

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A scene is a proxy with the backends a and b in memory, and the registry that has its metrics.
// The first candidate is picked, so that b is the second choice.
type scene struct {
	t        testing.TB
	p        *wsproxy.Proxy
	network  *proxytest.Network
	site     *proxytest.Site
	registry *prometheus.Registry
	clients  int // sent so far: each has its own address
}

var (
	echoing     = proxytest.FakeBackend{Answer: proxytest.Switching}
	unreachable = proxytest.FakeBackend{DialErr: errors.New("connection refused")}
	losing      = proxytest.FakeBackend{Answer: proxytest.Switching + "{end}"}
)

func refusing(status int, lines ...string) proxytest.FakeBackend {
	return proxytest.FakeBackend{Answer: proxytest.Refusing(status, "no", lines...)}
}

var bothBackends = []wsproxy.BackendConfig{{ID: "a", URL: "http://a"}, {ID: "b", URL: "http://b"}}

func newScene(t testing.TB, opts ...wsproxy.Option) *scene {
	t.Helper()
	s := &scene{t: t, network: proxytest.NewNetwork()}
	s.network.Set("a", echoing)
	s.network.Set("b", echoing)
	s.p = proxytest.NewProxy(t, append([]wsproxy.Option{
		wsproxy.WithBackendConfigs(bothBackends...), proxytest.FirstCandidate,
		wsproxy.WithDialer(s.network.Dial), wsproxy.WithTrustedProxies("192.0.2.1"),
	}, opts...)...)
	s.site = proxytest.ServeInMemory(t, s.p)
	s.registry = newRegistry(t, s.p, "")
	return s
}

// request writes a request of a new client, and waits until it has got as far as it can.
func (s *scene) request(raw string) *wstest.Peer {
	s.t.Helper()
	c := s.site.Dial(s.t)
	c.WriteRequest(raw)
	synctest.Wait()
	return c
}

// send writes the upgrade of a new client, which has an address of its own.
func (s *scene) send(lines ...string) *wstest.Peer {
	s.t.Helper()
	s.clients++
	address := fmt.Sprintf("X-Forwarded-For: 198.51.%d.%d", s.clients>>8, s.clients&255)
	return s.request(proxytest.UpgradeTo("/chat", append(lines, address)...))
}

// open opens a tunnel for a new client. It returns the 101 too.
func (s *scene) open(lines ...string) (*wstest.Peer, *http.Response) {
	s.t.Helper()
	c := s.send(lines...)
	return c, proxytest.WantSwitch(s.t, c)
}

// refused sends the upgrade of a new client, which gets no tunnel.
func (s *scene) refused(status int, lines ...string) {
	s.t.Helper()
	s.wantRefused(s.send(lines...), status)
}

// wantRefused reads the response to an upgrade.
func (s *scene) wantRefused(c *wstest.Peer, status int) {
	s.t.Helper()
	proxytest.WantStatus(s.t, c.ReadResponse(), status)
	c.Close()
}

// hangUp ends a tunnel by the closing handshake.
func (s *scene) hangUp(c *wstest.Peer) {
	s.t.Helper()
	proxytest.HangUp(s.t, c)
	synctest.Wait()
}

// after waits for a time of the bubble, and until all has happened that happens by then.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// openAs and refusedAs are for clients whose path and lines are their own, outside a bubble.
func (s *scene) openAs(path string, lines ...string) *wstest.Peer {
	s.t.Helper()
	c := s.site.Dial(s.t)
	c.WriteRequest(proxytest.UpgradeTo(path, lines...))
	proxytest.WantSwitch(s.t, c)
	return c
}

func (s *scene) refusedAs(path string, lines ...string) {
	s.t.Helper()
	c := s.site.Dial(s.t)
	c.WriteRequest(proxytest.UpgradeTo(path, lines...))
	c.ReadResponse()
	c.Close()
}

// waitUntilIdle waits until nothing is under way.
func (s *scene) waitUntilIdle() {
	s.t.Helper()
	s.site.Wait()
	if !proxytest.Becomes(func() bool { st := s.p.Stats(); return st.Tunnels == 0 && st.Upgrading == 0 }) {
		s.t.Fatalf("Stats() = %+v; want nothing under way", s.p.Stats())
	}
}
