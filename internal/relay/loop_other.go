//go:build !linux || wsproxy_portable

package relay

import "github.com/wsproxy/wsproxy/internal/netconn"

// Loops is the event-loop engine, which there is not here: every tunnel gets the
// portable one.
type Loops struct{}

// NewLoops returns an engine that takes no tunnel.
func NewLoops() *Loops { return new(Loops) }

// Close does nothing.
func (*Loops) Close() {}

func newLooped(Config) *Relay { return nil }

// Dial reports that it cannot.
func (*Loops) Dial(network, addr string) (c Dialing, can bool, err error) {
	return nil, false, nil
}

func plainBackend(c *netconn.Conn) *netconn.Conn { return c }
