//go:build !linux || wsproxy_portable

package relay

import (
	"testing"

	"github.com/wsproxy/wsproxy/internal/netconn"
)

func TestEveryTunnelGetsThePortableEngine(t *testing.T) {
	loops := NewLoops()
	defer loops.Close()
	for _, n := range networks {
		client, _ := n.client(t)
		backend, _ := n.backend(t)
		r := New(Config{Client: netconn.New(client, nil), Backend: netconn.New(backend, nil), Loops: loops})
		if got := r.Engine(); got != Portable {
			t.Errorf("%s: engine is %v", n.name, got)
		}
		r.Cut(CauseShutdown)
		r.Run()
	}
}
