//go:build !race

package process_test

import (
	"io"
	"net"
	"runtime"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
)

// upgradeAllocs says how often the process allocates for a tunnel that is opened and
// closed, by the engine and the name in quickRequests. More than half of it is what
// net/http does for a request, its hijacking and an answer, and net for an accept and
// a dial.
var upgradeAllocs = map[string]map[string]float64{
	"event loop": {"bare": 102, "browser": 117},
	"portable":   {"bare": 125, "browser": 140},
}

// It is not run with the race detector, under which pools lose what they hold.
func TestUpgradeAllocatesStoredNumber(t *testing.T) {
	backend := startQuickBackend(t)
	p, s := proxytest.Start(t, wsproxy.WithBackends("http://"+backend))
	front := strings.TrimPrefix(s.URL, "http://")
	want := upgradeAllocs[engineOf(t, p, front)]
	for _, tt := range quickRequests {
		t.Run(tt.name, func(t *testing.T) {
			// What client and backend allocate does not count.
			got := allocsPerVisit(newQuickClient(t, front, tt.request), t) -
				allocsPerVisit(newQuickClient(t, backend, tt.request), t)
			t.Logf("%.1f allocations an upgrade", got)
			if got > 1.1*want[tt.name] {
				t.Errorf("an upgrade allocates %.1f times; want at most %.0f and 10 %%", got, want[tt.name])
			}
		})
	}
}

// engineOf returns the name of the engine that the tunnels of p have, which is served
// at front.
func engineOf(t *testing.T, p *wsproxy.Proxy, front string) (name string) {
	t.Helper()
	conn, err := net.Dial("tcp", front)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write([]byte(proxytest.UpgradeTo("/")))
	if readUntil(conn, make([]byte, 4<<10), endOfHead) == 0 {
		t.Fatal("client got no answer")
	}
	tunnel := proxytest.OnlyTunnel(t, p)
	conn.Write(closeFromClient)
	io.Copy(io.Discard, conn)
	return tunnel.Info().Engine.String() // that of a tunnel which has relayed: before it is open it has none yet
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
