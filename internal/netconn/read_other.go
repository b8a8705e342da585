//go:build !unix && !windows

package netconn

import "net"

// newReader returns nil: this system has no way to wait without a buffer.
func newReader(net.Conn) reader { return nil }
