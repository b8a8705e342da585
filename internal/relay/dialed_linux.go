//go:build linux && !wsproxy_portable

package relay

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/wsproxy/wsproxy/internal/epoll"
	"github.com/wsproxy/wsproxy/internal/netconn"
)

// Dial begins to connect to addr, an IP address and a port, for a tunnel that the
// event loop is to have: the connection is the loop's from the start, and need not be
// taken over from the runtime's poller, which makes it about a tenth cheaper to open
// and close a tunnel. It does not wait: see [Dialing.Connect]. Options and errors are
// those of a [net.Dialer]. It reports false if it cannot do that, and has done nothing
// then.
func (s *Loops) Dial(network, addr string) (c Dialing, can bool, err error) {
	to, err := netip.ParseAddrPort(addr)
	if network != "tcp" || err != nil || to.Addr().Zone() != "" {
		return nil, false, nil
	}
	l := s.pick()
	if l == nil {
		return nil, false, nil
	}
	d := &dialed{loop: l, to: netip.AddrPortFrom(to.Addr().Unmap(), to.Port())}
	d.changed.L = &d.mu
	if d.isPending, err = d.socket.Dial(d.to); err != nil {
		return nil, true, d.dialError(err)
	}
	if !l.watch(d) {
		d.socket.Close()
		return nil, false, nil // it takes nobody any more
	}
	return d, true, nil
}

// A dialed is a connection to a backend that has no tunnel yet. Its loop tells it
// what its poller says.
type dialed struct {
	loop      *loop          // immutable
	to        netip.AddrPort // immutable
	isPending bool           // Connect has something to wait for; immutable
	token     epoll.Token    // immutable once it is watched

	mu        sync.Mutex
	changed   sync.Cond // of what follows: who waits is to look again
	socket    epoll.Socket
	deadlines [2]time.Time // of reads and writes
	timer     *time.Timer  // for the next of them; nil before there is one to come
	edges     epoll.Edges  // what was told, for the tunnel
	tunnel    *looped      // that has taken the socket over; nil before
	isClosed  bool         // or taken over
}

// Indexes of deadlines.
const (
	reading = iota
	writing
)

func (d *dialed) Connect() error {
	if !d.isPending {
		return nil
	}
	err := d.do(writing, func() error {
		isPending, err := d.socket.HasConnected(d.to)
		if isPending {
			return epoll.ErrAgain
		}
		return err
	})
	if err != nil {
		return d.dialError(err)
	}
	return nil
}

// dialError makes of err what a [net.Dialer] returns.
func (d *dialed) dialError(err error) error {
	return &net.OpError{Op: "dial", Net: "tcp", Addr: d.RemoteAddr(), Err: err}
}

// do calls try again and again, until it has not to wait any more.
func (d *dialed) do(what int, try func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		err := d.stateLocked(what)
		if err == nil {
			err = try()
		}
		if err == epoll.ErrAgain && what == writing {
			if err := d.loop.poller.TellWritable(d.token, &d.socket, backendLink); err != nil {
				return err
			}
		}
		if err != epoll.ErrAgain {
			return err
		}
		d.changed.Wait()
	}
}

func (d *dialed) stateLocked(what int) error {
	deadline := d.deadlines[what]
	switch {
	case d.isClosed:
		return net.ErrClosed
	case !deadline.IsZero() && !time.Now().Before(deadline):
		return os.ErrDeadlineExceeded
	}
	return nil
}

// note is called by the loop.
func (d *dialed) note(e epoll.Edges) {
	d.mu.Lock()
	t := d.tunnel
	d.edges |= e
	d.changed.Broadcast()
	d.mu.Unlock()
	if t != nil { // since the event was looked up
		d.loop.note(t, backendLink, e)
	}
}

func (d *dialed) Read(p []byte) (n int, err error) {
	err = d.do(reading, func() error {
		if d.edges&^epoll.Writable == 0 {
			return epoll.ErrAgain
		}
		n, err = d.socket.Read(p)
		if n < len(p) {
			d.edges &^= epoll.Readable // less than there was room for is all that there was
		}
		return err
	})
	return n, d.opError("read", err)
}

func (d *dialed) Write(p []byte) (n int, err error) {
	err = d.do(writing, func() error {
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
	d.changed.Broadcast()
	return d.socket.Close()
}

// handOver makes the socket t's, with what was told about it meanwhile. It reports
// false if the loop cannot take t.
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

func (d *dialed) SetReadDeadline(t time.Time) error  { return d.limit(t, reading) }
func (d *dialed) SetWriteDeadline(t time.Time) error { return d.limit(t, writing) }
func (d *dialed) SetDeadline(t time.Time) error      { return d.limit(t, reading, writing) }

func (d *dialed) SetReadBuffer(bytes int) error {
	return d.do(reading, func() error { return d.socket.SetReadBuffer(bytes) })
}

func (d *dialed) SetWriteBuffer(bytes int) error {
	return d.do(writing, func() error { return d.socket.SetWriteBuffer(bytes) })
}

func (d *dialed) limit(t time.Time, what ...int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.isClosed {
		return d.opError("set", net.ErrClosed)
	}
	for _, w := range what {
		d.deadlines[w] = t
	}
	d.rearmLocked()
	return nil
}

// rearmLocked makes who waits look at the deadlines now, and again when the next of
// them passes.
func (d *dialed) rearmLocked() {
	d.changed.Broadcast()
	if d.timer != nil {
		d.timer.Stop()
	}
	var next time.Duration
	for _, t := range d.deadlines {
		if left := time.Until(t); left > 0 && (next == 0 || left < next) {
			next = left
		}
	}
	if next > 0 {
		d.timer = time.AfterFunc(next, d.expire) // stopped by Close
	}
}

func (d *dialed) expire() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.isClosed {
		d.rearmLocked()
	}
}

// plainBackend returns c, and if it is a dialed one that no loop can have a tunnel
// with, the same as a connection of package net.
func plainBackend(c *netconn.Conn) *netconn.Conn {
	inner, buffered := c.Unwrap()
	d, ok := inner.(*dialed)
	if !ok {
		return c
	}
	plain, err := d.toNet()
	if err != nil {
		return c // out of descriptors: it will do
	}
	return netconn.New(plain, buffered)
}
