//go:build !linux || wsproxy_portable

package relay

// loops are none: here every tunnel is portable.
type loops struct{}

func (*loops) close() {}

type loopDriver struct{}

func newLoopDriver(*Relay, *portable) *loopDriver { return nil }

// Dial reports that it cannot.
func (*Engine) Dial(network, addr string) (c Dialing, can bool, err error) {
	return nil, false, nil
}

func (*portable) usePlainBackend() {}
