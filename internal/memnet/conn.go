// Package memnet is a network in memory, for tests.
//
// Its calls wait on condition variables and timers only, so that they block
// durably in a testing/synctest bubble, where a socket would stall the clock. No
// state is shared between pipes: one made in a bubble belongs to that bubble.
//
// It behaves like TCP where a test can tell, with two simplifications: a Close
// with unread bytes is no reset, and the first write to a closed peer fails
// already. A test that needs these needs sockets.
package memnet

import (
	"io"
	"net"
	"sync/atomic"
	"time"
)

// A Conn is one end of a connection. Its errors are [*net.OpError], except
// [io.EOF]; a passed deadline is [os.ErrDeadlineExceeded] in it.
type Conn struct {
	in, out       *stream
	local, remote addr

	isClosed  atomic.Bool
	numCloses atomic.Int64
}

// Pipe returns the two ends of a connection with a buffer of bufferBytes, at
// least 1, in each direction: a Write blocks while the other end's is full.
func Pipe(bufferBytes int) (a, b *Conn) {
	return pipe(bufferBytes, "192.0.2.1:1024", "192.0.2.2:80")
}

func pipe(bufferBytes int, addrA, addrB addr) (a, b *Conn) {
	ab, ba := newStream(bufferBytes), newStream(bufferBytes)
	a = &Conn{in: ba, out: ab, local: addrA, remote: addrB}
	b = &Conn{in: ab, out: ba, local: addrB, remote: addrA}
	return a, b
}

// Read reads what the peer has written. After its Close or CloseWrite, io.EOF
// follows the last byte.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.in.read(b)
	return n, c.opError("read", err)
}

// Write returns when all of b is in the peer's buffer. Concurrent calls do not
// mix their bytes.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.out.write(b)
	return n, c.opError("write", err)
}

// Close ends both directions. The peer reads what is in its buffer, then io.EOF;
// its writes fail with EPIPE. Like a socket's, a second Close returns
// [net.ErrClosed].
func (c *Conn) Close() error {
	c.numCloses.Add(1)
	if !c.isClosed.CompareAndSwap(false, true) {
		return c.opError("close", net.ErrClosed)
	}
	c.in.closeReader()
	c.out.closeWriter()
	return nil
}

// CloseWrite ends the direction to the peer, which reads io.EOF after what is in
// its buffer.
func (c *Conn) CloseWrite() error {
	return c.opError("close", c.out.shutdown())
}

// Reset closes the connection as a socket does whose linger time is zero: what
// is in the buffers is lost, and the peer's reads and writes fail at once with
// ECONNRESET. After Close it does nothing. It does not count as a Close.
func (c *Conn) Reset() {
	if !c.isClosed.CompareAndSwap(false, true) {
		return
	}
	c.in.resetReader()
	c.out.resetWriter()
}

// NumCloses returns how often Close was called on this end.
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

// An addr looks like an IP address with a port, from the range for
// documentation, because handlers split and parse what they find in
// Request.RemoteAddr.
type addr string

func (addr) Network() string  { return "mem" }
func (a addr) String() string { return string(a) }
