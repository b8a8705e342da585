//go:build !unix && !windows

package netconn

import "net"

// newReader returns nil: here a connection cannot be waited for without a buffer.
func newReader(net.Conn) reader { return nil }
