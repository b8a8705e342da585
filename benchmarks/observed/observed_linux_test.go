package observed

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/benchmarks/internal/wire"
	wsotel "github.com/wsproxy/wsproxy/contrib/otel"
	wsprometheus "github.com/wsproxy/wsproxy/contrib/prometheus"
	"github.com/wsproxy/wsproxy/internal/leaktest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// A way is how a proxy is observed.
type way struct {
	name       string
	prometheus bool
	otel       bool
	sampled    float64 // the share of upgrades
}

// ways has the proxy without anything first: the others are compared with it. A second one shows
// how much of a ratio is chance.
var ways = []way{
	{name: "none"},
	{name: "none-again"},
	{name: "prometheus", prometheus: true},
	{name: "otel-1%", otel: true, sampled: 0.01},
	{name: "otel-always", otel: true, sampled: 1},
	{name: "both-1%", prometheus: true, otel: true, sampled: 0.01},
	{name: "both-always", prometheus: true, otel: true, sampled: 1},
}

// BenchmarkOpenClose measures the CPU time that a proxy takes to open and close a tunnel. Each
// iteration is a round through all ways, and the figure of a way is the least of the rounds: what
// else runs on the machine only adds to it.
func BenchmarkOpenClose(b *testing.B) {
	const tunnels, clients = 400, 8
	compare(b, "tunnel", tunnels, func(b *testing.B, d *wire.Dialer) {
		var working sync.WaitGroup
		for range clients {
			working.Go(func() { // ends after its tunnels
				for range tunnels / clients {
					openAndClose(b, d)
				}
			})
		}
		working.Wait()
	})
}

func openAndClose(b *testing.B, d *wire.Dialer) {
	c, err := d.Dial()
	if err != nil {
		b.Error(err)
		return
	}
	defer c.Close()
	if err := c.CloseHandshake(); err != nil {
		b.Error(err)
	}
}

// BenchmarkEcho measures the CPU time that a proxy takes to relay a message of 128 bytes and its
// answer, through a tunnel of each round.
func BenchmarkEcho(b *testing.B) {
	const messages, size = 4000, 128
	compare(b, "echo", messages, func(b *testing.B, d *wire.Dialer) {
		c, err := d.Dial()
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		message := c.Frame(make([]byte, size))
		for range messages {
			if err := c.RoundTrip(message, size); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// compare runs the work through a proxy of each way, in processes of their own, and reports the
// CPU time for each of n operations and its ratio to that of the first way.
func compare(b *testing.B, operation string, n int, work func(*testing.B, *wire.Dialer)) {
	backend := wstest.StartEcho(b)
	proxies := make([]*observedProxy, len(ways))
	for i, w := range ways {
		proxies[i] = startProxy(b, w.name, backend)
		proxies[i].cost(b, work) // warm up
	}
	least := make([]time.Duration, len(ways))
	for round := 0; b.Loop(); round++ {
		for i := range ways {
			at := (i + round) % len(ways) // another one is first in each round
			if used := proxies[at].cost(b, work); round == 0 || used < least[at] {
				least[at] = used
			}
		}
	}
	for i, w := range ways {
		b.ReportMetric(float64(least[i].Nanoseconds())/1000/float64(n), w.name+"-µs/"+operation)
		if i > 0 {
			b.ReportMetric(float64(least[i])/float64(least[0]), w.name+"/none")
		}
	}
	b.ReportMetric(0, "ns/op")
}

// An observedProxy is a proxy in a process of its own.
type observedProxy struct {
	*proxytest.Child
	dialer *wire.Dialer
}

func startProxy(b *testing.B, name, backend string) *observedProxy {
	b.Helper()
	child := proxytest.StartChild(b, "proxy")
	var url string
	child.Ask(&url, "start", name, backend)
	d, err := wire.NewDialer(strings.Replace(url, "http", "ws", 1)+"/", 512, 64)
	if err != nil {
		b.Fatal(err)
	}
	return &observedProxy{child, d}
}

// cost returns the CPU time that the proxy takes for the work.
func (p *observedProxy) cost(b *testing.B, work func(*testing.B, *wire.Dialer)) time.Duration {
	b.Helper()
	var before, after time.Duration
	p.Ask(&before, "cpu")
	work(b, p.dialer)
	p.Ask(&after, "cpu")
	return after - before
}

func TestChild(t *testing.T) {
	proxytest.PlayRole(t, map[string]proxytest.Role{"proxy": playProxy})
}

func playProxy(t *testing.T) map[string]proxytest.Command {
	return map[string]proxytest.Command{
		"start": func(args ...string) any {
			w := ways[slices.IndexFunc(ways, func(w way) bool { return w.name == args[0] })]
			server := httptest.NewServer(w.handler(t, args[1]))
			t.Cleanup(server.Close)
			return server.URL
		},
		"cpu": func(...string) any { return cpuTime(t) },
	}
}

// handler returns the handler of a new proxy. The spans are batched as for a real exporter, and
// then dropped.
func (w way) handler(t *testing.T, backend string) http.Handler {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(backend), wsproxy.WithDetached(true))
	if w.prometheus {
		prometheus.NewRegistry().MustRegister(wsprometheus.New(p, wsprometheus.Options{Name: "bench"}))
	}
	if !w.otel {
		return p
	}
	tracing := sdktrace.NewTracerProvider(sdktrace.WithBatcher(tracetest.NewNoopExporter()),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(w.sampled))))
	metering := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
	i, err := wsotel.New(p, wsotel.Options{
		TracerProvider: tracing, MeterProvider: metering, Propagator: propagation.TraceContext{}, Name: "bench",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		i.Close()
		tracing.Shutdown(context.Background())
		metering.Shutdown(context.Background())
	})
	return i
}

// cpuTime returns the user and system time of the process.
func cpuTime(t *testing.T) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
