//go:build linux && !wsproxy_portable

package relay

import (
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/netconn"
)

func init() {
	engines = append(engines, engine{name: "event loop", needsSockets: true, open: func(client, backend end, c Config) tunnel {
		return openOn(NewEngine(Limits{}), client, backend, c)
	}})
}

// openOn returns a tunnel of an engine of its own, on the event loop.
func openOn(e *Engine, client, backend end, c Config) tunnel {
	r := e.New(between(client, backend, c))
	if err := r.Open(nil, time.Second); err != nil {
		panic(err)
	}
	if r.Engine() != EventLoop {
		panic("the event loop has not taken the connections")
	}
	return &ownTunnel{r, e}
}

// engineOf returns an engine whose tunnels share loops, which end with the test.
func engineOf(t *testing.T, e *Engine) engine {
	t.Cleanup(e.Close)
	return engine{name: "event loop", needsSockets: true, open: func(client, backend end, c Config) tunnel {
		r := e.New(between(client, backend, c))
		r.Open(nil, time.Second)
		return r
	}}
}

func TestPlainSocketsGetTheEventLoop(t *testing.T) {
	e := NewEngine(Limits{})
	defer e.Close()
	for _, n := range networks {
		near, _ := n.client(t)
		other, _ := n.backend(t)
		r := e.New(Config{Client: netconn.New(near, nil), Backend: netconn.New(other, nil)})
		r.Open(nil, time.Second)
		if got := r.Engine() == EventLoop; got != n.isSockets {
			t.Errorf("%s: engine is %v", n.name, r.Engine())
		}
		r.Abort(CauseShutdown)
		r.Run()
	}
}
