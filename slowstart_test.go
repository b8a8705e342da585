package wsproxy

import (
	"fmt"
	"log/slog"
	"math"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy/internal/health"
)

// newSlowProxy returns a proxy with two backends.
func newSlowProxy(t *testing.T, balancer Balancer, slowStart time.Duration) *Proxy {
	p, err := New(WithBackends("http://a", "http://b"), WithBalancer(balancer), WithSlowStart(slowStart), WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// shareOf returns the part of 10,000 picks that b gets. Each adds a tunnel if the balancer is
// to see it.
func shareOf(t *testing.T, p *Proxy, b *Backend, addsTunnels bool) float64 {
	t.Helper()
	n := 0
	for range 10000 {
		picked, err := p.balancer.Pick(httptest.NewRequest("GET", "/", nil), p.Backends())
		if err != nil {
			t.Fatal(err)
		}
		if picked == b {
			n++
		}
		if addsTunnels {
			picked.tunnels.Add(1)
		}
	}
	return float64(n) / 10000
}

func TestNewBackendStartsSlowly(t *testing.T) {
	for name, balancer := range map[string]func() Balancer{"LeastTunnels": LeastTunnels, "RoundRobin": RoundRobin, "Random": Random} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newSlowProxy(t, balancer(), 30*time.Second)
				time.Sleep(time.Second)
				p.SetBackends(BackendConfig{URL: "http://a"}, BackendConfig{URL: "http://b"}, BackendConfig{URL: "http://c"})
				c := p.Backends()[2]
				for _, tt := range []struct {
					after time.Duration
					share float64 // of its weight
				}{{0, 0.1}, {15 * time.Second, 0.55}, {30 * time.Second, 1}, {time.Hour, 1}} {
					time.Sleep(tt.after - (p.now() - time.Second))
					for _, b := range p.Backends() {
						b.tunnels.Store(0)
					}
					want := tt.share / (2 + tt.share)
					if got := shareOf(t, p, c, name == "LeastTunnels"); math.Abs(got-want) > 0.02 {
						t.Errorf("after %v the new backend gets %v of the picks; want %v", tt.after, got, want)
					}
					if w := c.Weight(); w != 1 {
						t.Errorf("Weight() = %d; want 1", w)
					}
				}
			})
		})
	}
}

func TestSlowStartBeginsWhenABackendComesOrComesBack(t *testing.T) {
	fail := func(o health.Outcome) func(*Proxy, *Backend) {
		return func(p *Proxy, b *Backend) { p.recordHealth(b, health.Event{Outcome: o}, errTunnelLost) }
	}
	for _, tt := range []struct {
		name   string
		change func(*Proxy, *Backend)
		want   bool
	}{
		{"nothing", func(*Proxy, *Backend) {}, false},
		{"unreachable", fail(health.Unreached), true},
		{"resting", fail(health.Unanswered), false},
		{"full", fail(health.Busy), false},
		{"ejected", func(_ *Proxy, b *Backend) {
			b.health.update(func(h *health.Backend) health.Change { return h.Eject(health.Event{}, health.Ejection{}) })
		}, true},
		{"new weight", func(p *Proxy, _ *Backend) {
			p.SetBackends(BackendConfig{URL: "http://a", Weight: 2}, BackendConfig{URL: "http://b"})
		}, false},
		{"new address", func(p *Proxy, _ *Backend) {
			p.SetBackends(BackendConfig{ID: "http://a", URL: "http://a2"}, BackendConfig{URL: "http://b"})
		}, true},
		{"removed and added", func(p *Proxy, b *Backend) {
			b.tunnels.Add(1)
			p.SetBackends(BackendConfig{URL: "http://b"})
			p.SetBackends(BackendConfig{URL: "http://a"}, BackendConfig{URL: "http://b"})
		}, true},
	} {
		for _, slowStart := range []time.Duration{30 * time.Second, 0, -1} {
			p := newSlowProxy(t, RoundRobin(), slowStart)
			a := p.Backends()[0]
			tt.change(p, a)
			p.recordHealth(a, health.Event{Outcome: health.Answered}, nil)
			share := sharesOf(p.Backends()).of(a) / float64(a.Weight())
			if isSlow := share < 0.5; isSlow != (tt.want && slowStart > 0) {
				t.Errorf("%s, %v: share %v; slow: want %v", tt.name, slowStart, share, tt.want)
			}
		}
	}
}

func TestHashKnowsNoSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newSlowProxy(t, Hash(ByHeader("X-Key")), time.Hour)
		p.SetBackends(BackendConfig{URL: "http://a"}, BackendConfig{URL: "http://b"}, BackendConfig{URL: "http://c"})
		n := [3]int{}
		for i := range 3000 {
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("X-Key", fmt.Sprint(i))
			b, err := p.balancer.Pick(r, p.Backends())
			if err != nil {
				t.Fatal(err)
			}
			for j, other := range p.Backends() {
				if b == other {
					n[j]++
				}
			}
		}
		if n[2] < 900 {
			t.Errorf("of 3000 keys the backends have %v; want a third each", n)
		}
	})
}
