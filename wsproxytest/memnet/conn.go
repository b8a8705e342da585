package memnet

import (
	"io"
	"net"
	"sync/atomic"
	"time"
)

// A Conn is one end of a connection. Its errors are of type [*net.OpError], except
// [io.EOF]. After a deadline the error wraps [os.ErrDeadlineExceeded]. Its methods are safe for
// concurrent use.
type Conn struct {
	in, out       *stream
	local, remote addr

	isClosed  atomic.Bool
	numCloses atomic.Int64
}

// Pipe returns the two ends of a connection. Each direction has a buffer of bufferBytes. A
// Write blocks while the buffer of its direction is full. Zero means 64 KiB. Pipe panics if
// bufferBytes is negative.
func Pipe(bufferBytes int) (a, b *Conn) {
	return pipe(bufferBytes, "192.0.2.1:1024", "192.0.2.2:80")
}

func pipe(bufferBytes int, addrA, addrB addr) (a, b *Conn) {
	ab, ba := newStream(bufferBytes), newStream(bufferBytes)
	a = &Conn{in: ba, out: ab, local: addrA, remote: addrB}
	b = &Conn{in: ab, out: ba, local: addrB, remote: addrA}
	return a, b
}

// Read reads bytes that the peer has written. If the peer has called Close or
// CloseWrite, Read returns io.EOF after the last byte.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.in.read(b)
	return n, c.opError("read", err)
}

// Write returns when all of b is in the buffer. The bytes of concurrent calls are
// not mixed.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.out.write(b)
	return n, c.opError("write", err)
}

// Close closes both directions. The peer reads the bytes in its buffer, then
// io.EOF, and its writes fail with EPIPE. A second Close returns [net.ErrClosed],
// as that of a socket does.
func (c *Conn) Close() error {
	c.numCloses.Add(1)
	if !c.isClosed.CompareAndSwap(false, true) {
		return c.opError("close", net.ErrClosed)
	}
	c.in.closeReader()
	c.out.closeWriter()
	return nil
}

// CloseWrite closes the direction to the peer. The peer reads the bytes in its
// buffer, then io.EOF.
func (c *Conn) CloseWrite() error {
	return c.opError("close", c.out.shutdown())
}

// Reset closes the connection like a socket with a linger time of zero: the bytes
// in the buffers are lost, and the peer's reads and writes fail at once with
// ECONNRESET. After Close it does nothing. NumCloses does not count it.
func (c *Conn) Reset() {
	if !c.isClosed.CompareAndSwap(false, true) {
		return
	}
	c.in.resetReader()
	c.out.resetWriter()
}

// NumCloses returns the number of calls of Close on this end.
func (c *Conn) NumCloses() int { return int(c.numCloses.Load()) }

// IsClosed reports whether this end was closed, by Close or by Reset.
func (c *Conn) IsClosed() bool { return c.isClosed.Load() }

// LocalAddr returns an address of the network "mem".
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the LocalAddr of the other end.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets the read and the write deadline.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements [net.Conn].
func (c *Conn) SetReadDeadline(t time.Time) error {
	if c.IsClosed() {
		return c.opError("set", net.ErrClosed)
	}
	c.in.setDeadline(&c.in.readDeadline, t)
	return nil
}

// SetWriteDeadline implements [net.Conn].
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if c.IsClosed() {
		return c.opError("set", net.ErrClosed)
	}
	c.out.setDeadline(&c.out.writeDeadline, t)
	return nil
}

func (c *Conn) opError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: c.local.Network(), Source: c.local, Addr: c.remote, Err: err}
}

// An addr is an IP address with a port, from the range for documentation. Handlers
// split and parse Request.RemoteAddr.
type addr string

func (addr) Network() string  { return "mem" }
func (a addr) String() string { return string(a) }
