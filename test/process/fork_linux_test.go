//go:build linux

package process_test

import (
	"context"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A child that holds a descriptor of a connection keeps it open: its peer hears
// nothing of the end.
func TestTunnelEndsThoughChildProcessesLiveOn(t *testing.T) {
	const tunnels = 30
	ends := map[string]struct {
		call func(p *wsproxy.Proxy)
		code uint16 // that peers hear; 0: nothing
	}{
		"by a cut": {func(p *wsproxy.Proxy) { p.Close() }, 0},
		"by Close frames": {func(p *wsproxy.Proxy) {
			ctx, cancel := context.WithTimeout(context.Background(), proxytest.ChildTimeout)
			defer cancel()
			p.Shutdown(ctx)
		}, 1001},
	}
	proxytest.ForEachWay(t, func(t *testing.T, way wsproxy.Option) {
		for name, end := range ends {
			t.Run(name, func(t *testing.T) {
				b := wstest.StartBackend(t)
				p, s := proxytest.Start(t, way, wsproxy.WithBackends(b.URL()))
				var peers []*wstest.Peer
				for i := range tunnels {
					client, backend := proxytest.OpenThrough(t, s.URL, b)
					peers = append(peers, client, backend)
					if i%10 == 5 {
						proxytest.StartChild(t, "bystander")
					}
				}
				done := make(chan struct{})
				go func() { // ends with the tunnels
					defer close(done)
					end.call(p)
				}()
				began := time.Now()
				if end.code != 0 {
					for _, p := range peers {
						p.WantClose(end.code)
						p.Send(wstest.Close(end.code, ""))
					}
				}
				for i, p := range peers {
					if i%2 == 0 || end.code == 0 { // a backend hangs up first
						p.WantEOF()
					}
					p.Close()
				}
				<-done
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("the ends of %d tunnels took %v; want them at once", tunnels, took)
				}
			})
		}
	})
}
