//go:build linux

package wsproxyadmin

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/wsproxytest"
)

// numTunnels is how many the page has to cope with.
const numTunnels = 9000

// startCrowd returns the page of a proxy with that many tunnels on ten backends. The tunnels are
// portable, over connections in memory.
func startCrowd(b *testing.B, numTunnels int) *handler {
	b.Helper()
	var backends []wsproxytest.Backend
	for i := range 10 {
		backends = append(backends, wsproxytest.Backend{ID: fmt.Sprint("backend-", i)})
	}
	admit := func(*http.Request) (any, error) { return "ann", nil }
	scene := wsproxytest.NewScene(b, backends, wsproxy.WithAdmit(admit), wsproxy.WithLimits(wsproxy.Limits{}))
	h := Handler(scene.Proxy, Options{Authorize: letIn}).(*handler)
	for range numTunnels {
		c := scene.Connect(httptest.NewRequest("GET", "/rooms/blue?token=0123456789", nil))
		if c.Status != http.StatusSwitchingProtocols {
			b.Fatalf("client got status %d; want 101", c.Status)
		}
	}
	return h
}

// BenchmarkRefresh is what a second costs while there are viewers: the state is read, encoded, and
// written to each of them.
func BenchmarkRefresh(b *testing.B) {
	for _, n := range []int{100, numTunnels} {
		h := startCrowd(b, n)
		for _, viewers := range []int{1, 10} {
			b.Run(fmt.Sprintf("tunnels=%d/viewers=%d", n, viewers), func(b *testing.B) {
				b.ReportAllocs()
				var c cursor
				report := measureCPU(b, n)
				for b.Loop() {
					s := h.reader.snapshot(0)
					for range viewers {
						(&streamWriter{discard{}, http.NewResponseController(discard{})}).write(s, s.message(c, false, "ann"), false)
					}
					c = s.end
				}
				report()
			})
		}
	}
}

// BenchmarkTunnels is what a request for /tunnels costs.
func BenchmarkTunnels(b *testing.B) {
	h := startCrowd(b, numTunnels)
	for _, query := range []string{"order=oldest", "order=busiest", "order=quietest", "backend=backend-3", "client=192.0.2.", "value=none", "request_id=0"} {
		b.Run(query, func(b *testing.B) {
			b.ReportAllocs()
			r := httptest.NewRequest("GET", "/tunnels?"+query, nil)
			report := measureCPU(b, numTunnels)
			for b.Loop() {
				h.ServeHTTP(discard{}, r)
			}
			report()
		})
	}
}

// BenchmarkHooks is what the page adds to a tunnel, and to a refusal, without a viewer.
func BenchmarkHooks(b *testing.B) {
	h := startCrowd(b, 1)
	r := httptest.NewRequest("GET", "/rooms/blue", nil)
	var open *wsproxy.Tunnel
	for t := range h.p.Tunnels() {
		open = t
	}
	end := wsproxy.TunnelEnd{TunnelInfo: open.Info(), Side: wsproxy.SideClient, Cause: wsproxy.CauseClosed}
	b.Run("tunnel", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			h.recorder.recordOpened(wsproxy.OpenedInfo{Tunnel: open, Request: r})
			h.recorder.recordClosed(end)
		}
	})
	b.Run("refusal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			h.recorder.recordRefused(wsproxy.RefusedInfo{Request: r, Reason: wsproxy.ReasonRate})
		}
	})
}

// measureCPU measures from its call to that of report: CPU is what the page costs, on a machine
// that does other things meanwhile.
func measureCPU(b *testing.B, numTunnels int) (report func()) {
	began := cpuTime(b)
	return func() {
		perOp := float64(cpuTime(b)-began) / float64(b.N)
		b.ReportMetric(perOp/1e6, "cpu-ms/op")
		b.ReportMetric(perOp/float64(numTunnels), "cpu-ns/tunnel")
	}
}

// cpuTime returns the CPU time of the process.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// discard is a ResponseWriter.
type discard struct{}

func (discard) Header() http.Header              { return http.Header{} }
func (discard) WriteHeader(int)                  {}
func (discard) Flush()                           {}
func (discard) Write(b []byte) (int, error)      { return io.Discard.Write(b) }
func (discard) SetWriteDeadline(time.Time) error { return nil }
