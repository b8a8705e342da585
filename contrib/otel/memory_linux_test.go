//go:build !wsproxy_portable

package wsotel

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/debug"
	"syscall"
	"testing"

	"go.opentelemetry.io/otel/metric/noop"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

const (
	// maxIdleBytes bounds what an idle tunnel costs whose upgrade is sampled: live heap and stacks.
	maxIdleBytes = 64

	memoryWarmUp = 100 // tunnels that pay for what a process needs once
)

// memoryTunnels returns the numbers of tunnels at which the memory is measured: 9,000 and 10,000,
// or nearly, where a process may have 20,000 descriptors. They are in one step of the tables of the
// proxy itself, so that these cost the same with and without.
func memoryTunnels(t *testing.T) []int {
	t.Helper()
	const few, many, others = 9000, 10_000, 50 // descriptors that are no tunnel's
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	most := min(many, (int(min(l.Cur, 1<<20))-others)/2)
	if most <= few {
		t.Skipf("a process may have %d descriptors; it needs more than %d", l.Cur, 2*few+others)
	}
	return []int{few, most}
}

// Two processes relay the same tunnels, one of them with an Instrumentation. What the second uses
// more is what its tunnels cost.
//
// Without WithDetached the goroutine of the server stays too: behind another middleware the cost is
// the same, and if the Instrumentation is the only handler its stack is 8 KB in place of 4.
func TestIdleTunnelCostsAtMost64Bytes(t *testing.T) {
	if proxytest.IsRace {
		t.Skip("the race detector takes memory too")
	}
	numbers := memoryTunnels(t)
	plain, observed := measureMemory(t, "plain", numbers), measureMemory(t, "observed", numbers)
	for i, n := range numbers {
		per := (observed[i] - plain[i]) / float64(n-memoryWarmUp)
		t.Logf("%d idle tunnels: %.1f bytes each, beside %.0f without", n, per, plain[i]/float64(n-memoryWarmUp))
		if per > maxIdleBytes {
			t.Errorf("with %d tunnels, each costs %.1f bytes; want at most %d", n, per, maxIdleBytes)
		}
	}
}

// measureMemory returns the bytes that a process uses for each number of tunnels.
func measureMemory(t *testing.T, kind string, numbers []int) []float64 {
	t.Helper()
	backend := proxytest.StartChild(t, "backend")
	proxy := proxytest.StartChild(t, "proxy")
	var target, url string
	backend.Ask(&target, "url")
	proxy.Ask(&url, "start", target, kind)
	var open []*wstest.Peer
	openUntil := func(n int) (bytes float64) {
		for len(open) < n {
			client, _ := proxytest.Open(t, url, proxytest.UpgradeTo("/"))
			proxytest.WantEcho(t, client)
			open = append(open, client)
		}
		proxy.Ask(&bytes, "measure")
		return bytes
	}
	before := openUntil(memoryWarmUp)
	var used []float64
	for _, n := range numbers {
		used = append(used, openUntil(n)-before)
	}
	var kept, left int
	if proxy.Ask(&kept, "links"); kind == "observed" && kept != len(open) {
		t.Errorf("%d links are kept for %d tunnels", kept, len(open))
	}
	for _, client := range open {
		client.Close()
	}
	if proxy.Ask(&left, "end"); left != 0 {
		t.Errorf("%d links are left; want none", left)
	}
	return used
}

func TestChild(t *testing.T) {
	proxytest.PlayRole(t, map[string]proxytest.Role{"backend": playBackend, "proxy": playProxy})
}

func playBackend(t *testing.T) map[string]proxytest.Command {
	return map[string]proxytest.Command{"url": func(...string) any { return wstest.StartEcho(t) }}
}

func playProxy(t *testing.T) map[string]proxytest.Command {
	var p *wsproxy.Proxy
	var i *Instrumentation
	return map[string]proxytest.Command{
		"start": func(args ...string) any {
			p = proxytest.NewProxy(t, wsproxy.WithBackends(args[0]), wsproxy.WithDetached(true))
			var h http.Handler = p
			if args[1] == "observed" {
				i = newIdleInstrumentation(t, p)
				h = i
			}
			server := httptest.NewServer(h) // the handler's stack has no frame of a test
			t.Cleanup(server.Close)
			return server.URL
		},
		"links": func(...string) any {
			if i == nil {
				return 0
			}
			n, _ := i.tunnels.numLinks()
			return n
		},
		"measure": func(...string) any { return usedBytes() },
		"end": func(...string) any {
			if !proxytest.Becomes(func() bool { return p.Stats().Tunnels == 0 }) {
				return fmt.Sprint(p.Stats().Tunnels, " tunnels are open")
			}
			if i == nil {
				return 0
			}
			n, room := i.tunnels.numLinks()
			return n + room
		},
	}
}

// newIdleInstrumentation returns one that samples all, and whose exporter drops what it gets.
func newIdleInstrumentation(t *testing.T, p *wsproxy.Proxy) *Instrumentation {
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(tracetest.NewNoopExporter()))
	i, err := New(p, Options{TracerProvider: provider, MeterProvider: noop.NewMeterProvider(), Propagator: w3c})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		i.Close()
		provider.Shutdown(context.Background())
	})
	return i
}

// usedBytes returns the live heap and the stacks.
func usedBytes() float64 {
	for range 3 { // pools and finalizers need more than one collection
		runtime.GC()
	}
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc + m.StackInuse)
}
