package wsproxy

import "github.com/wsproxy/wsproxy/internal/relay"

// WithPortableEngine makes a proxy use the portable engine for all tunnels: an event
// loop that has ended takes none.
func WithPortableEngine() Option {
	return optionFunc(func(s *settings) {
		s.loops = relay.NewLoops()
		s.loops.Close()
	})
}
