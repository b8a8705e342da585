//go:build !linux || wsproxy_portable

package relay

import "github.com/wsproxy/wsproxy/internal/histogram"

// loops are none: here every tunnel is portable.
type loops struct{}

func (*loops) close() {}

func (*loops) lag() *histogram.Histogram { return histogram.NewLag() }

type loopDriver struct{}

func newLoopDriver(*Relay, *portable) *loopDriver { return nil }

// Dial reports that it cannot.
func (*Engine) Dial(network, addr string) (c Dialing, can bool, err error) {
	return nil, false, nil
}

func (*portable) usePlainBackend() {}
