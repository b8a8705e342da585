//go:build linux && !wsproxy_portable

package relay

import (
	"testing"

	"github.com/wsproxy/wsproxy/internal/netconn"
)

func init() {
	engines = append(engines, engine{name: "event loop", needsSockets: true, open: func(client, backend leg, c Config) tunnel {
		c.Loops = NewLoops()
		return &loopTunnel{New(between(client, backend, c)), c.Loops}
	}})
}

// engineOf returns an engine whose tunnels share loops, which end with the test.
func engineOf(t *testing.T, loops *Loops) engine {
	t.Cleanup(loops.Close)
	return engine{name: "event loop", needsSockets: true, open: func(client, backend leg, c Config) tunnel {
		c.Loops = loops
		return New(between(client, backend, c))
	}}
}

// A loopTunnel has an engine of its own, which ends with it.
type loopTunnel struct {
	*Relay
	loops *Loops
}

func (t *loopTunnel) Run() End {
	defer t.loops.Close()
	return t.Relay.Run()
}

func TestPlainSocketsGetTheEventLoop(t *testing.T) {
	loops := NewLoops()
	defer loops.Close()
	for _, n := range networks {
		near, _ := n.client(t)
		defer near.Close()
		other, _ := n.backend(t)
		defer other.Close()
		r := New(Config{Client: netconn.New(near, nil), Backend: netconn.New(other, nil), Loops: loops})
		if got := r.Engine() == EventLoop; got != n.isSockets {
			t.Errorf("%s: engine is %v", n.name, r.Engine())
		}
		r.Cut(CauseShutdown)
		r.Run()
	}
}
