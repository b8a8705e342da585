package benchmarks

import (
	"net"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/benchmarks/internal/wire"
	"github.com/wsproxy/wsproxy/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// BenchmarkHandshake opens and closes tunnels over loopback, one after the other.
// Time and allocations include those of client and backend. The direct connection
// shows their part.
func BenchmarkHandshake(b *testing.B) {
	forEachPath(b, func(b *testing.B, url string) {
		d := dialer(b, url, 512)
		b.ReportAllocs()
		for b.Loop() {
			c, err := d.Dial()
			if err != nil {
				b.Fatal(err)
			}
			if err := c.CloseHandshake(); err != nil {
				b.Fatal(err)
			}
			c.Close()
		}
	})
}

// BenchmarkEcho echoes messages through one tunnel, one at a time.
func BenchmarkEcho(b *testing.B) {
	for _, bb := range []struct {
		name string
		size int
	}{{"128B", 128}, {"1MiB", 1 << 20}} {
		b.Run(bb.name, func(b *testing.B) {
			forEachPath(b, func(b *testing.B, url string) { echo(b, url, bb.size) })
		})
	}
}

func echo(b *testing.B, url string, size int) {
	c, err := dialer(b, url, 64<<10).Dial()
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	message := c.Frame(make([]byte, size))
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		if err := c.RoundTrip(message, size); err != nil {
			b.Fatal(err)
		}
	}
}

// forEachPath runs a benchmark without a proxy, with a proxy, and with a proxy whose
// tunnels are detached.
func forEachPath(b *testing.B, f func(b *testing.B, url string)) {
	backend := serveBackend(b)
	b.Run("direct", func(b *testing.B) { f(b, backend) })
	b.Run("blocking", func(b *testing.B) { f(b, serveProxy(b, backend, false)) })
	b.Run("detached", func(b *testing.B) { f(b, serveProxy(b, backend, true)) })
}

func serveBackend(b *testing.B) (url string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ln.Close() })
	go wire.Serve(ln) // until Close
	return "ws://" + ln.Addr().String()
}

func serveProxy(b *testing.B, backend string, isDetached bool) (url string) {
	proxy, err := wsproxy.New(wsproxy.WithBackends(backend), wsproxy.WithDetached(isDetached))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { proxy.Close() })
	server := httptest.NewServer(proxy)
	b.Cleanup(server.Close)
	return strings.Replace(server.URL, "http", "ws", 1)
}

func dialer(b *testing.B, url string, bufferBytes int) *wire.Dialer {
	d, err := wire.NewDialer(url+"/", bufferBytes, 64)
	if err != nil {
		b.Fatal(err)
	}
	return d
}
