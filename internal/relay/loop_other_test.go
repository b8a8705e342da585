//go:build !linux || wsproxy_portable

package relay

import (
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/netconn"
)

func TestEveryTunnelIsPortable(t *testing.T) {
	e := NewEngine(Limits{})
	defer e.Close()
	for _, n := range networks {
		client, _ := n.client(t)
		backend, _ := n.backend(t)
		r := e.New(Config{Client: netconn.New(client, nil), Backend: netconn.New(backend, nil)})
		r.Open(nil, time.Second)
		if got := r.Engine(); got != Portable {
			t.Errorf("%s: engine is %v", n.name, got)
		}
		r.Abort(CauseShutdown)
		r.Run()
	}
}
