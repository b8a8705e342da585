//go:build !wsproxy_portable

package relay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/wsproxy/wsproxy/internal/epoll"
	"github.com/wsproxy/wsproxy/internal/netconn"
)

// Dial connects to addr, an IP address and a port, for a tunnel that the event loop
// is to have: the connection is the loop's from the start, and need not be taken over
// from the runtime's poller, which makes it about a tenth cheaper to open and close a
// tunnel. Options and errors are those of a [net.Dialer]. It reports false if it
// cannot do that, and has done nothing then.
func (s *Loops) Dial(ctx context.Context, network, addr string) (c net.Conn, err error, can bool) {
	to, err := netip.ParseAddrPort(addr)
	if network != "tcp" || err != nil || to.Addr().Zone() != "" {
		return nil, nil, false
	}
	l := s.pick()
	if l == nil {
		return nil, nil, false
	}
	d := &dialed{loop: l, to: netip.AddrPortFrom(to.Addr().Unmap(), to.Port()), ready: make(chan struct{}, 1)}
	if err := d.dial(ctx); err != nil {
		if err == errNoLoop {
			return nil, nil, false
		}
		return nil, &net.OpError{Op: "dial", Net: network, Addr: d.RemoteAddr(), Err: err}, true
	}
	return d, nil, true
}

// errNoLoop says that the loop takes nobody any more.
var errNoLoop = errors.New("no event loop")

// A dialed is a connection to a backend that has no tunnel yet. Its loop tells it
// what its poller says. Read and Write must not be called at the same time.
type dialed struct {
	loop  *loop          // immutable
	to    netip.AddrPort // immutable
	ready chan struct{}  // has a value when who waits is to look again
	token epoll.Token    // immutable once it is watched

	mu       sync.Mutex
	socket   epoll.Socket
	deadline time.Time
	timer    *time.Timer // for the deadline; nil before there is one to come
	edges    epoll.Edges // what was told, for the tunnel
	tunnel   *looped     // that has taken the socket over; nil before
	isClosed bool        // or taken over
}

func (d *dialed) dial(ctx context.Context) error {
	isPending, err := d.socket.Dial(d.to)
	if err != nil {
		return err
	}
	if !d.loop.watch(d) {
		d.socket.Close()
		return errNoLoop
	}
	if !isPending {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { d.SetDeadline(longAgo) })
	defer stop()
	err = d.do(func() error {
		isPending, err := d.socket.HasConnected(d.to)
		if isPending {
			return epoll.ErrAgain
		}
		return err
	})
	if ctx.Err() == context.Canceled {
		err = ctx.Err()
	} else if ctx.Err() != nil {
		err = os.ErrDeadlineExceeded
	}
	if err != nil {
		d.Close()
	}
	return err
}

// do calls try again and again, until it has not to wait any more.
func (d *dialed) do(try func() error) error {
	for {
		d.mu.Lock()
		err := d.stateLocked()
		if err == nil {
			err = try()
		}
		d.mu.Unlock()
		if err != epoll.ErrAgain {
			return err
		}
		<-d.ready
	}
}

func (d *dialed) stateLocked() error {
	switch {
	case d.isClosed:
		return net.ErrClosed
	case !d.deadline.IsZero() && !time.Now().Before(d.deadline):
		return os.ErrDeadlineExceeded
	}
	return nil
}

// wake makes who waits look again.
func (d *dialed) wake() {
	select {
	case d.ready <- struct{}{}:
	default:
	}
}

// note is called by the loop.
func (d *dialed) note(e epoll.Edges) {
	d.mu.Lock()
	t := d.tunnel
	d.edges |= e
	d.mu.Unlock()
	if t != nil { // since the event was looked up
		d.loop.note(t, backendLink, e)
		return
	}
	d.wake()
}

func (d *dialed) Read(p []byte) (n int, err error) {
	err = d.do(func() error {
		n, err = d.socket.Read(p)
		if n < len(p) {
			d.edges &^= epoll.Readable // less than there was room for is all that there was
		}
		return err
	})
	return n, d.opError("read", err)
}

func (d *dialed) Write(p []byte) (n int, err error) {
	err = d.do(func() error {
		m, err := d.socket.Write(p[n:])
		n += m
		return err
	})
	return n, d.opError("write", err)
}

// opError makes of what do returns what a [net.TCPConn] returns.
func (d *dialed) opError(op string, err error) error {
	if err == net.ErrClosed || err == os.ErrDeadlineExceeded {
		return &net.OpError{Op: op, Net: "tcp", Addr: d.RemoteAddr(), Err: err}
	}
	return err
}

func (d *dialed) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.isClosed {
		return nil
	}
	d.isClosed = true
	if d.timer != nil {
		d.timer.Stop()
	}
	d.loop.unwatch(d)
	d.wake()
	return d.socket.Close()
}

// handOver makes the socket t's, and returns what was told about it meanwhile. It
// reports false if the loop cannot take t.
func (d *dialed) handOver(t *looped) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.isClosed || !d.loop.join(t, d) {
		return false
	}
	d.isClosed, d.tunnel = true, t
	if d.timer != nil {
		d.timer.Stop()
	}
	return true
}

// toNet returns a connection of package net that is the same, and closes d.
func (d *dialed) toNet() (net.Conn, error) {
	d.mu.Lock()
	f, err := d.socket.File()
	d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	d.Close()
	return c, nil
}

func (d *dialed) LocalAddr() net.Addr  { return &net.TCPAddr{} }
func (d *dialed) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(d.to) }

func (d *dialed) SetReadDeadline(t time.Time) error  { return d.SetDeadline(t) }
func (d *dialed) SetWriteDeadline(t time.Time) error { return d.SetDeadline(t) }

func (d *dialed) SetReadBuffer(bytes int) error {
	return d.do(func() error { return d.socket.SetReadBuffer(bytes) })
}

func (d *dialed) SetWriteBuffer(bytes int) error {
	return d.do(func() error { return d.socket.SetWriteBuffer(bytes) })
}

// SetDeadline sets one deadline for both: there is never more than one of them to
// wait for.
func (d *dialed) SetDeadline(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.isClosed {
		return d.opError("set", net.ErrClosed)
	}
	d.deadline = t
	if d.timer != nil {
		d.timer.Stop()
	}
	switch left := time.Until(t); {
	case t.IsZero():
	case left <= 0:
		d.wake()
	default:
		d.timer = time.AfterFunc(left, d.wake) // stopped by Close
	}
	return nil
}

// plainBackend returns c, and if it is a dialed one that no loop can have a tunnel
// with, the same as a connection of package net. If that cannot be made, c is closed.
func plainBackend(c *netconn.Conn) *netconn.Conn {
	inner, buffered := c.Unwrap()
	d, ok := inner.(*dialed)
	if !ok {
		return c
	}
	plain, err := d.toNet()
	if err != nil {
		d.Close() // out of descriptors: two must not wait for d at once, who would miss what the other is told
		return c
	}
	return netconn.New(plain, buffered)
}
