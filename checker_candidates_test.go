package wsproxy_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
)

// A failingProbe fails for the backends that a test names.
type failingProbe struct {
	mu      sync.Mutex
	failing string // IDs, a byte each
}

func (f *failingProbe) set(ids string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failing = ids
}

func (f *failingProbe) Probe(_ context.Context, b *wsproxy.Backend) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range f.failing {
		if string(id) == b.ID() {
			return errors.New("not ready")
		}
	}
	return nil
}

func TestBackendsWhoseCheckFailsGetNoClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var book proxytest.LogBook
		var told []string
		probe := new(failingProbe)
		probe.set("bc")
		_, s, network := startInMemory(t, book.Option(), wsproxy.WithBalancer(wsproxy.LeastTunnels()),
			wsproxy.WithBackendConfigs(
				wsproxy.BackendConfig{ID: "a", URL: "http://a"}, wsproxy.BackendConfig{ID: "b", URL: "http://b"}, wsproxy.BackendConfig{ID: "c", URL: "http://c"}),
			wsproxy.WithHealthCheck(wsproxy.HealthCheck{Probe: probe.Probe}),
			wsproxy.WithTrace(&wsproxy.Trace{Health: func(i wsproxy.HealthInfo) {
				told = append(told, fmt.Sprintf("%s %v %t %v", i.Backend, i.Flag, i.Raised, i.State))
			}}))
		for _, id := range []string{"a", "b", "c"} {
			network.Set(id, proxytest.FakeBackend{Answer: proxytest.Switching})
		}
		wantClients := func(when string, want map[string]int) {
			t.Helper()
			network.TakeDials()
			for range 30 {
				client := s.Dial(t)
				client.WriteRequest(proxytest.UpgradeTo("/chat"))
				proxytest.WantSwitch(t, client)
			}
			got := make(map[string]int)
			for _, dial := range network.TakeDials() {
				got[dial[:1]]++
			}
			if !maps.Equal(got, want) {
				t.Errorf("%s: clients of the backends are %v; want %v", when, got, want)
			}
		}

		wantClients("not yet probed", map[string]int{"a": 10, "b": 10, "c": 10})
		time.Sleep(2 * time.Second)
		wantClients("two fail", map[string]int{"a": 30})
		if n := len(book.Lines("others are used")); n != 0 {
			t.Errorf("%d lines say that others are used, though a works", n)
		}
		probe.set("abc")
		time.Sleep(time.Minute)
		wantClients("all fail", map[string]int{"b": 15, "c": 15}) // a has more tunnels
		wantClients("all fail", map[string]int{"b": 15, "c": 15})
		if n := len(book.Lines("others are used", "check failed")); n != 1 {
			t.Errorf("%d lines say that others are used; want 1", n)
		}
		probe.set("")
		time.Sleep(time.Minute)
		wantClients("all work", map[string]int{"a": 10, "b": 10, "c": 10})
		if n := len(book.Lines("used again")); n != 1 {
			t.Errorf("%d lines say that backends without a flag are used again; want 1", n)
		}
		if len(told) != 6 || len(book.Lines("backend flag raised", "flag=\"check failed\"", "not ready")) != 3 || len(book.Lines("backend flag cleared")) != 3 {
			t.Errorf("Trace.Health was told %q; want each of three flags once each way, as the log", told)
		}
	})
}
