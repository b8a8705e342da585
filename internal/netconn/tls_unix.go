//go:build unix

package netconn

import (
	"crypto/tls"
	"net"
)

// TLSClient is [tls.Client]. What it returns over a plain socket can be waited for
// without a buffer once its handshake is done.
func TLSClient(c net.Conn, config *tls.Config) *tls.Conn {
	if rawConn(c) == nil || config.Renegotiation != tls.RenegotiateNever { // a new handshake waits inside of a read
		return tls.Client(c, config)
	}
	return tls.Client(&tlsSocket{socket: socket{c}}, config)
}

// A tlsSocket is the socket below a TLS connection that we dialed. Its Read can
// be told not to wait. Then that of the TLS connection does not wait either: it
// uses up what it has read ahead, which nobody else can see, and says that no
// more has come.
type tlsSocket struct {
	socket

	// Owned by the goroutine that reads.
	isNonblocking bool // Read reads from fd, without waiting
	fd            int
}

// Read implements [net.Conn].
func (s *tlsSocket) Read(p []byte) (int, error) {
	if s.isNonblocking {
		return s.readNow(s.fd, p)
	}
	return s.Conn.Read(p)
}

// A tlsSource is a TLS connection over a tlsSocket as a source.
type tlsSource struct {
	conn   *tls.Conn
	socket *tlsSocket
}

// newTLSSource returns nil unless c is one of TLSClient over a plain socket.
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
		err = nil // it comes again
	}
	return n, err
}
