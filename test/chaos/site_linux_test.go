package chaos_test

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
)

// A site is a proxy, its server and its clients.
type site struct {
	name    string
	chaos   *chaos
	rng     *rand.Rand
	proxy   *wsproxy.Proxy
	serving *proxytest.Site
	addr    string
	report  *report
	crowds  [2]*crowd // the second one is there when the proxy is shut down

	configs  []wsproxy.BackendConfig // the set of backends
	draining map[string]bool         // the IDs of those that Drain may have been called for

	isRebalancing atomic.Bool

	ctx     context.Context // of the operations that take time
	cancel  context.CancelFunc
	running sync.WaitGroup // these operations
}

// newSite starts a proxy with options at random. A dialer that wraps connections makes its tunnels
// portable ones.
func newSite(t *testing.T, c *chaos, isWrapped bool, seed uint64) *site {
	s := &site{
		name: "plain dialer", chaos: c, rng: rand.New(rand.NewPCG(seed, 1)),
		report: newReport(), draining: make(map[string]bool),
	}
	s.report.start = c.start
	s.ctx, s.cancel = context.WithCancel(t.Context())
	t.Cleanup(s.endOperations)
	for _, p := range c.peers {
		s.configs = append(s.configs, p.config())
	}
	opts := append(s.options(), wsproxy.WithBackendConfigs(s.configs...), wsproxy.WithTrace(s.report.trace()))
	if isWrapped {
		s.name = "wrapping dialer"
		opts = append(opts, proxytest.WrappedDialer())
	}
	s.proxy, s.serving = proxytest.Start(t, opts...)
	s.addr = strings.TrimPrefix(s.serving.URL, "http://")
	return s
}

// options returns options at random, none of which refuses a client.
func (s *site) options() []wsproxy.Option {
	numClients, handshakeTimeout := size()
	room := wsproxy.ByQuery("room")
	balancer := oneOf(s.rng, wsproxy.LeastTunnels(), wsproxy.RoundRobin(), wsproxy.Random(), wsproxy.Hash(room), wsproxy.BoundedHash(room, 1.25))
	isDetached := oneOf(s.rng, false, true)
	slowStart := oneOf(s.rng, 0, 3*time.Second)
	limits := wsproxy.Limits{Queue: oneOf(s.rng, 0, numClients)}
	timeouts := wsproxy.Timeouts{
		Handshake: handshakeTimeout,
		Idle:      oneOf(s.rng, 0, 1500*time.Millisecond), // clients talk more often, frozen backends do not
		Lifetime:  oneOf(s.rng, 0, 4*time.Second),
	}
	ping := oneOf(s.rng, wsproxy.Ping{}, wsproxy.Ping{Client: 100 * time.Millisecond, Backend: 200 * time.Millisecond, Timeout: 2 * time.Second})
	check := wsproxy.HealthCheck{
		Probe:    oneOf(s.rng, nil, wsproxy.TCPProbe(), wsproxy.WebSocketProbe(wsproxy.WebSocketProbeConfig{})),
		Interval: 500 * time.Millisecond, Timeout: time.Second, DrainAfter: oneOf(s.rng, 0, 2*time.Second),
	}
	s.chaos.note("a proxy with %T, detached: %t, slow start %v, queue %d, %+v, %+v, probe: %t, drain after %v",
		balancer, isDetached, slowStart, limits.Queue, timeouts, ping, check.Probe != nil, check.DrainAfter)
	opts := []wsproxy.Option{
		wsproxy.WithBalancer(balancer), wsproxy.WithDetached(isDetached), wsproxy.WithSlowStart(slowStart),
		wsproxy.WithLimits(limits), wsproxy.WithTimeouts(timeouts), wsproxy.WithPing(ping),
	}
	if check.Probe != nil {
		opts = append(opts, wsproxy.WithHealthCheck(check))
	}
	return opts
}

// oneOf returns one of values.
func oneOf[T any](rng *rand.Rand, values ...T) T { return values[rng.IntN(len(values))] }

// hasUsable reports whether a backend is left that has no fault and gets new tunnels.
func (s *site) hasUsable() bool {
	for _, config := range s.configs {
		if !config.Drain && !s.draining[config.ID] && !s.chaos.peer(config.ID).isFaulty {
			return true
		}
	}
	return false
}

// endOperations waits for the operations that take time.
func (s *site) endOperations() {
	s.cancel()
	s.running.Wait()
}
