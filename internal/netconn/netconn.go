// Package netconn makes of a [net.Conn] what a tunnel needs of a connection: the
// bytes that somebody has already read from it come first, waiting for more holds
// no buffer where the connection allows, writing can be ended alone, and it is
// closed exactly once.
//
// It does not know what the bytes mean, and starts no goroutine.
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

const maxEmptyReads = 100 // one after the other; a connection that has more is broken

// A Conn is one connection of a tunnel. Fill may be called by one goroutine at a
// time, Write by another; the rest at any time.
type Conn struct {
	conn   net.Conn // immutable
	reader reader   // immutable; nil for a plain socket

	// Owned by the goroutine that calls Fill.
	plain    reader // for a plain socket; made by Fill, for an event loop has no need of it
	buffered []byte
	large    bool // the last read filled a small buffer, or would have

	closeOnce sync.Once
	closeErr  error
}

// A reader reads from a connection of which it knows enough to hold no buffer
// while it waits, or a very small one. It is nil where that is impossible.
type reader interface {
	// fill waits until there is something to read and returns it in a buffer of
	// a pool, after a copy of head.
	fill(head []byte) (*Buffer, error)
}

// New returns a Conn over c, from which buffered has been read already. It owns
// both from now on.
func New(c net.Conn, buffered []byte) *Conn {
	n := &Conn{conn: c, buffered: buffered}
	if plainSocket(c) == nil {
		n.reader = readerFor(c)
	}
	return n
}

// Unwrap returns the connection beneath, and what has been read from it already.
// Both are still the Conn's.
func (c *Conn) Unwrap() (conn net.Conn, buffered []byte) { return c.conn, c.buffered }

// PlainSocket returns the connection beneath, if it is certainly a plain TCP or unix
// socket, else nil. It is still the Conn's.
func (c *Conn) PlainSocket() syscall.Conn { return plainSocket(c.conn) }

// plainSocket does not look through wrappers: one that counts bytes, or holds a
// slot of a listener, must see its reads, and its end.
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
	return nil
}

// Fill waits for bytes and returns them in a buffer, after a copy of head, which
// must not be longer than [MaxHead]. The buffer is the caller's until it frees it.
// Errors are those of [net.Conn.Read]; there is either an error or a byte.
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

// plainReader returns the reader of a plain socket, or nil.
func (c *Conn) plainReader() reader {
	if c.plain == nil && plainSocket(c.conn) != nil {
		c.plain = readerFor(c.conn)
	}
	return c.plain
}

// read is Fill for connections of which nothing is known, such as one that
// somebody has wrapped: they must be given a buffer before they wait. It is small
// until one read fills it, and again after one that would not have.
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
	return b, nil // an error will come again
}

// readNonEmpty is Read without "(0, nil)", which is discouraged, not forbidden.
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

// SetReadDeadline is that of [net.Conn]; it wakes Fill.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if r, ok := c.reader.(*tlsReader); ok {
		return r.setReadDeadline(t)
	}
	return c.conn.SetReadDeadline(t)
}

// SetWriteDeadline is that of [net.Conn]; it wakes Write.
func (c *Conn) SetWriteDeadline(t time.Time) { c.conn.SetWriteDeadline(t) }

// Interrupt makes Fill and Write fail at once, from now on: by a deadline or, on a
// connection that has none, by abandoning it.
func (c *Conn) Interrupt() {
	if c.SetReadDeadline(longAgo) != nil || c.conn.SetWriteDeadline(longAgo) != nil {
		c.Abandon()
	}
}

// CanCloseWrite reports whether CloseWrite can work.
func (c *Conn) CanCloseWrite() bool {
	_, ok := c.conn.(interface{ CloseWrite() error })
	return ok
}

// CloseWrite ends the stream towards the peer, who can still be read from. The
// error is [errors.ErrUnsupported] where the connection has no such thing.
func (c *Conn) CloseWrite() error {
	cw, ok := c.conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return cw.CloseWrite()
}

// Drain ends the stream towards the peer and discards what it sends, until its end
// of stream or the given time: closing with unread input would send a reset, which
// can destroy what is still on its way.
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

// Close closes the connection, once. Over TLS it tells the peer so first, which
// takes up to five seconds if the peer does not read.
func (c *Conn) Close() error {
	c.closeOnce.Do(func() { c.closeErr = c.conn.Close() })
	return c.closeErr
}

// Abandon is Close without a word to the peer: it never waits.
func (c *Conn) Abandon() error {
	c.closeOnce.Do(func() { c.closeErr = underlyingConn(c.conn).Close() })
	return c.closeErr
}

// Reset is Abandon that forgets what is still to be sent, where the connection lets
// that be said: else the system keeps it, for minutes if the peer does not read.
func (c *Conn) Reset() error {
	if l, ok := underlyingConn(c.conn).(interface{ SetLinger(sec int) error }); ok {
		l.SetLinger(0)
	}
	c.Interrupt() // whatever a wrapper would still write to say goodbye
	return c.Abandon()
}

// LimitBuffers bounds what the system keeps of c's bytes, received and to be sent,
// if bytes is not 0 and c, or what carries its TLS, lets that be said. One that is
// broken shows it when it is used.
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

// underlyingConn returns what carries c, if c is TLS, else c.
func underlyingConn(c net.Conn) net.Conn {
	if t, ok := c.(*tls.Conn); ok {
		return t.NetConn()
	}
	return c
}
