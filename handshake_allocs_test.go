//go:build !race

package wsproxy_test

import (
	"runtime"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy"
)

// upgradeAllocs says how often the process may allocate for a tunnel that is opened
// and closed, by the name in quickRequests. More than half of it is what net/http does
// for a request, its hijacking and an answer, and net for an accept and a dial.
var upgradeAllocs = map[string]float64{"bare": 108, "browser": 123}

// It is not run with the race detector, under which pools lose what they hold.
func TestUpgradesAllocateNoMoreThanTheyDid(t *testing.T) {
	backend := startQuickBackend(t)
	_, s := start(t, wsproxy.WithBackends("http://"+backend))
	front := strings.TrimPrefix(s.URL, "http://")
	for _, tt := range quickRequests {
		t.Run(tt.name, func(t *testing.T) {
			// What client and backend allocate does not count.
			got := allocsPerVisit(newQuickClient(t, front, tt.request), t) -
				allocsPerVisit(newQuickClient(t, backend, tt.request), t)
			want := upgradeAllocs[tt.name]
			t.Logf("%.1f allocations an upgrade", got)
			if got > 1.1*want {
				t.Errorf("an upgrade allocates %.1f times; want at most %.0f and 10 %%", got, want)
			}
		})
	}
}

// allocsPerVisit returns how often the process allocates during one visit.
func allocsPerVisit(c *quickClient, t *testing.T) float64 {
	const n = 300
	for range 50 {
		c.visit(t) // pools get filled
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range n {
		c.visit(t)
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / n
}
