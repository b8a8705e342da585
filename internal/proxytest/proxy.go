package proxytest

import (
	"context"
	"net/http"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
)

// FirstCandidate makes a proxy pick the first candidate in configuration order.
var FirstCandidate = wsproxy.WithBalancer(wsproxy.BalancerFunc(
	func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
		return candidates[0], nil
	}))

// OnlyTunnel returns the open tunnel of a proxy that has one.
func OnlyTunnel(t testing.TB, p *wsproxy.Proxy) *wsproxy.Tunnel {
	t.Helper()
	tunnels := slices.Collect(p.Tunnels())
	if len(tunnels) != 1 {
		t.Fatalf("Tunnels() has %d tunnels; want one", len(tunnels))
	}
	return tunnels[0]
}

// WantNoTunnels checks that a proxy has no upgrade and no tunnel, and that no
// backend counts one.
func WantNoTunnels(t testing.TB, p *wsproxy.Proxy) {
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

// Becomes waits until a condition holds, 10 s at most, and reports whether it does.
// It is for state that another goroutine changes after the event that the test saw.
func Becomes(condition func() bool) bool {
	for give := time.Now().Add(10 * time.Second); time.Now().Before(give); runtime.Gosched() {
		if condition() {
			return true
		}
	}
	return false
}

// TraceEnds returns an option that sends the end of each tunnel to the channel.
func TraceEnds() (chan wsproxy.TunnelEnd, wsproxy.Option) {
	ends := make(chan wsproxy.TunnelEnd, 100)
	return ends, wsproxy.WithTrace(&wsproxy.Trace{Closed: func(e wsproxy.TunnelEnd) { ends <- e }})
}

// ShutDown calls Shutdown in the background.
func ShutDown(ctx context.Context, p *wsproxy.Proxy) <-chan error {
	done := make(chan error, 1)
	go func() { done <- p.Shutdown(ctx) }() // ends with ctx
	return done
}
