//go:build !linux || wsproxy_portable

package relay

// Loops is the event-loop engine, which there is not here: every tunnel gets the
// portable one.
type Loops struct{}

// NewLoops returns an engine that takes no tunnel.
func NewLoops() *Loops { return new(Loops) }

// Close does nothing.
func (*Loops) Close() {}

func newLooped(Config) *Relay { return nil }
