//go:build !unix

package netconn

import (
	"crypto/tls"
	"net"
)

// TLSClient is [tls.Client]: here no read can be told not to wait.
func TLSClient(c net.Conn, config *tls.Config) *tls.Conn { return tls.Client(c, config) }
