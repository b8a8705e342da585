// Package netconn wraps a [net.Conn] for a tunnel. A Conn first returns the bytes
// that were already read from the connection, such as those of a Hijacker's
// reader. It waits for more without a buffer if the connection allows that. It can
// close the write side alone, and closes the connection exactly once.
//
// The package does not interpret the bytes, and starts no goroutine.
package netconn

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

const maxEmptyReads = 100 // in succession; a connection with more is broken

// A Conn is one connection of a tunnel. One goroutine at a time may call Fill, and
// one may call Write. The other methods may be called at any time.
type Conn struct {
	conn   net.Conn // immutable
	reader reader   // immutable; nil for a plain socket

	// Owned by the goroutine that calls Fill.
	plain    reader // of a plain socket; created by Fill, because an event loop does not use it
	buffered []byte
	large    bool // the last read filled a small buffer, or would have

	closeOnce sync.Once
	closeErr  error
}

// A reader reads from a connection of a known type. While it waits it uses no
// buffer, or a very small one. It is nil for other connections.
type reader interface {
	// fill waits until there are bytes to read and returns them in a buffer of a
	// pool, after a copy of head.
	fill(head []byte) (*Buffer, error)
}

// New returns a Conn over c. buffered are bytes that were already read from c. The
// Conn owns c and buffered.
func New(c net.Conn, buffered []byte) *Conn {
	n := &Conn{conn: c, buffered: buffered}
	if plainSocket(c) == nil {
		n.reader = readerFor(c)
	}
	return n
}

// NetConn returns the underlying connection. The Conn still owns it.
func (c *Conn) NetConn() net.Conn { return c.conn }

// Unwrap returns the underlying connection, and the bytes that were already read
// from it. The Conn still owns both. It must not be called during a Fill.
func (c *Conn) Unwrap() (conn net.Conn, buffered []byte) { return c.conn, c.buffered }

// PlainSocket returns the underlying connection if it is a plain TCP or unix
// socket, and nil otherwise. The Conn still owns it.
func (c *Conn) PlainSocket() syscall.Conn { return plainSocket(c.conn) }

// Socket returns c if it is certainly a plain TCP or unix socket, or carries one for a
// connection of [TLSClient], else nil.
func Socket(c net.Conn) syscall.Conn { return plainSocket(unwrapTLSSocket(c)) }

// plainSocket returns c if it is a plain TCP or unix socket, and nil otherwise. It
// does not unwrap other types: a wrapper that counts bytes, or frees a slot of a
// listener, must get the calls of Read and Close.
func plainSocket(c net.Conn) syscall.Conn {
	switch c := c.(type) {
	case *net.TCPConn:
		return c
	case *net.UnixConn:
		return c
	}
	return nil
}

func readerFor(c net.Conn) reader {
	if r := newReader(c); r != nil {
		return r
	}
	if r := newTLSReader(c); r != nil {
		return r
	}
	if w, ok := c.(waiter); ok {
		return waitReader{w}
	}
	return nil
}

// A waiter is a connection that can wait for bytes without a buffer, and tells how many there
// are.
type waiter interface {
	net.Conn
	WaitRead() (n int, err error)
}

type waitReader struct{ waiter }

func (r waitReader) fill(head []byte) (*Buffer, error) {
	n, err := r.WaitRead()
	if err != nil {
		return nil, err
	}
	pool := &smallBuffers
	if len(head)+n > smallSize {
		pool = &largeBuffers
	}
	b := pool.get(head)
	if n, err = r.Read(b.space()); err != nil {
		b.Free()
		return nil, err
	}
	b.extend(n)
	return b, nil
}

// Fill waits for bytes and returns them in a buffer, after a copy of head, which
// must not be longer than [MaxHead]. The caller owns the buffer and must free it.
// Errors are those of [net.Conn.Read]. Fill returns either an error or at least
// one byte.
func (c *Conn) Fill(head []byte) (*Buffer, error) {
	r := c.reader
	if r == nil {
		r = c.plainReader()
	}
	switch {
	case len(c.buffered) > 0:
		b := largeBuffers.get(head)
		n := copy(b.space(), c.buffered)
		b.extend(n)
		if c.buffered = c.buffered[n:]; len(c.buffered) == 0 {
			c.buffered = nil
		}
		return b, nil
	case r != nil:
		return r.fill(head)
	}
	return c.read(head)
}

// plainReader returns the reader of a plain socket, or nil. It creates the reader
// on the first call.
func (c *Conn) plainReader() reader {
	if c.plain == nil && plainSocket(c.conn) != nil {
		c.plain = readerFor(c.conn)
	}
	return c.plain
}

// read is Fill for connections of an unknown type, such as a wrapper. Their Read
// needs a buffer before it waits. The buffer is large after a read that filled a
// small one, and small otherwise.
func (c *Conn) read(head []byte) (*Buffer, error) {
	pool := &smallBuffers
	if c.large {
		pool = &largeBuffers
	}
	b := pool.get(head)
	n, err := c.readNonEmpty(b.space())
	if n == 0 {
		b.Free()
		return nil, err
	}
	b.extend(n)
	c.large = b.len >= smallSize
	return b, nil // the next read returns an error again
}

// readNonEmpty calls Read until it returns bytes or an error. [io.Reader]
// discourages the result 0, nil, but allows it.
func (c *Conn) readNonEmpty(p []byte) (n int, err error) {
	for range maxEmptyReads {
		if n, err = c.conn.Read(p); n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.ErrNoProgress
}

// Write writes p.
func (c *Conn) Write(p []byte) (int, error) { return c.conn.Write(p) }

// SetReadDeadline implements [net.Conn]. It applies to a waiting Fill too.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if r, ok := c.reader.(*tlsReader); ok {
		return r.setReadDeadline(t)
	}
	return c.conn.SetReadDeadline(t)
}

// SetWriteDeadline implements [net.Conn]. It applies to a waiting Write too.
func (c *Conn) SetWriteDeadline(t time.Time) { c.conn.SetWriteDeadline(t) }

// Interrupt makes this and all later calls of Fill and Write fail at once. It sets
// deadlines in the past or, if the connection has no deadlines, calls Abandon.
func (c *Conn) Interrupt() {
	if c.SetReadDeadline(longAgo) != nil || c.conn.SetWriteDeadline(longAgo) != nil {
		c.Abandon()
	}
}

// CanCloseWrite reports whether the connection has a CloseWrite.
func (c *Conn) CanCloseWrite() bool {
	_, ok := c.conn.(interface{ CloseWrite() error })
	return ok
}

// ClosesInOrder reports whether Close never drops bytes that Write has taken: the end of the
// stream comes behind them, whatever the peer sends. A stream of HTTP/2 does that.
func (c *Conn) ClosesInOrder() bool {
	o, ok := c.conn.(interface{ ClosesInOrder() bool })
	return ok && o.ClosesInOrder()
}

// CloseWrite closes the write side. The peer reads end of stream, and its bytes can
// still be read. The error is [errors.ErrUnsupported] if the connection has no
// CloseWrite.
func (c *Conn) CloseWrite() error {
	cw, ok := c.conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return cw.CloseWrite()
}

// Drain closes the write side and discards what the peer sends, until its end of
// stream or the given time. Closing a connection with unread input would send a
// reset, and the peer could lose bytes that it has not read yet.
func (c *Conn) Drain(until time.Time) {
	c.CloseWrite()
	c.SetReadDeadline(until)
	for {
		b, err := c.Fill(nil)
		if err != nil {
			return
		}
		b.Free()
	}
}

// Close closes the connection, once. Over TLS it first sends a close_notify alert,
// which takes up to five seconds if the peer does not read.
func (c *Conn) Close() error {
	c.closeOnce.Do(func() { c.closeErr = c.conn.Close() })
	return c.closeErr
}

// Abandon closes the connection without a close_notify alert. It never blocks. A connection
// that has an Abort, which resets it, is closed by that.
func (c *Conn) Abandon() error {
	c.closeOnce.Do(func() {
		conn := underlyingConn(c.conn)
		if a, ok := conn.(interface{ Abort() error }); ok {
			c.closeErr = a.Abort()
		} else {
			c.closeErr = conn.Close()
		}
	})
	return c.closeErr
}

// Reset is Abandon, and discards the bytes that are still to be sent if the
// connection has a SetLinger. Otherwise the system keeps them, for minutes if the
// peer does not read.
func (c *Conn) Reset() error {
	if l, ok := underlyingConn(c.conn).(interface{ SetLinger(sec int) error }); ok {
		l.SetLinger(0)
	}
	c.Interrupt() // a wrapper's Close could write, and block
	return c.Abandon()
}

// LimitBuffers sets the size of the system's receive and send buffers of c, or of
// the connection under its TLS. It does nothing if bytes is 0 or if the connection
// does not support it. It ignores errors: a broken connection fails when it is
// used.
func LimitBuffers(c net.Conn, bytes int) {
	if bytes == 0 {
		return
	}
	if b, ok := underlyingConn(c).(interface {
		SetReadBuffer(bytes int) error
		SetWriteBuffer(bytes int) error
	}); ok {
		b.SetReadBuffer(bytes)
		b.SetWriteBuffer(bytes)
	}
}

// underlyingConn returns the connection under c's TLS, or c if it is not TLS.
func underlyingConn(c net.Conn) net.Conn {
	if t, ok := c.(*tls.Conn); ok {
		return t.NetConn()
	}
	return c
}
