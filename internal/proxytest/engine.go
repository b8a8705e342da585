package proxytest

import (
	"context"
	"net"

	"github.com/wsproxy/wsproxy"
)

// A wrappedConn hides a *net.TCPConn from a proxy.
type wrappedConn struct{ *net.TCPConn }

// WrappedDialer makes a proxy dial TCP connections that only the portable engine can
// relay. It is for tests that need tunnels of both engines in one program; the build tag
// wsproxy_portable makes all tunnels portable.
func WrappedDialer() wsproxy.Option {
	return wsproxy.WithDialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return wrappedConn{c.(*net.TCPConn)}, nil
	})
}
