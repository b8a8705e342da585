//go:build !unix

package netconn

import (
	"crypto/tls"
	"net"
)

// TLSClient is [tls.Client]: this system has no way to wait without a buffer.
func TLSClient(c net.Conn, config *tls.Config) *tls.Conn { return tls.Client(c, config) }

// unwrapTLSSocket returns c: here TLS connections are made over c itself.
func unwrapTLSSocket(c net.Conn) net.Conn { return c }
