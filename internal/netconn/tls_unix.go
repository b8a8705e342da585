//go:build unix

package netconn

import (
	"crypto/tls"
	"net"
)

// TLSClient is [tls.Client]. If c is a plain socket, a Conn over the result waits
// without a buffer after the handshake.
func TLSClient(c net.Conn, config *tls.Config) *tls.Conn {
	// With renegotiation, a Read may perform a handshake, which has to wait.
	if rawConn(c) == nil || config.Renegotiation != tls.RenegotiateNever {
		return tls.Client(c, config)
	}
	return tls.Client(&tlsSocket{socket: socket{c}}, config)
}

// A tlsSocket is the socket under a TLS connection from TLSClient. Its Read has a
// nonblocking mode. In that mode the Read of the TLS connection does not wait
// either: it returns the bytes that crypto/tls has read ahead, and errWouldBlock
// after them.
type tlsSocket struct {
	socket

	// Owned by the goroutine that reads.
	isNonblocking bool // Read calls readNow with fd
	fd            int
}

// Read implements [net.Conn].
func (s *tlsSocket) Read(p []byte) (int, error) {
	if s.isNonblocking {
		return s.readNow(s.fd, p)
	}
	return s.Conn.Read(p)
}

// A tlsSource is a source for a TLS connection over a tlsSocket.
type tlsSource struct {
	conn   *tls.Conn
	socket *tlsSocket
}

// newTLSSource returns a source if c is a result of TLSClient over a plain socket,
// and nil otherwise.
func newTLSSource(c net.Conn) *tlsSource {
	if t, ok := c.(*tls.Conn); ok {
		if s, ok := t.NetConn().(*tlsSocket); ok {
			return &tlsSource{t, s}
		}
	}
	return nil
}

func (s *tlsSource) readNow(fd int, p []byte) (int, error) {
	s.socket.isNonblocking, s.socket.fd = true, fd
	n, err := s.conn.Read(p)
	s.socket.isNonblocking = false
	if n > 0 {
		err = nil // the next read returns it again
	}
	return n, err
}

// unwrapTLSSocket returns the connection in a tlsSocket, or c if it is none.
func unwrapTLSSocket(c net.Conn) net.Conn {
	if s, ok := c.(*tlsSocket); ok {
		return s.Conn
	}
	return c
}
