package wsproxy

import (
	"context"
	"net"
	"sync"
	"time"
)

// A canceler cancels an opening handshake with a backend while it waits in a dialer
// or on a connection. Its zero value is ready for use, and its methods are safe for
// concurrent use.
//
// One context for each of the three waits would do the same. They were measured to
// cost 5 % of the CPU that opening and closing a tunnel takes.
type canceler struct {
	// mu is held for the fields alone: a connection's methods, which may be a
	// dialer's own and may block, are called without it.
	mu         sync.Mutex
	cause      error              // why the handshake was canceled; nil if it was not
	conn       net.Conn           // the connection that the handshake waits on; nil if none
	cancelDial context.CancelFunc // cancels the dialer's context; nil if there is none
}

// cancel cancels the handshake because of cause. It does nothing if the handshake is
// canceled already. It does not block.
func (c *canceler) cancel(cause error) {
	c.mu.Lock()
	if c.cause != nil {
		c.mu.Unlock()
		return
	}
	c.cause = cause
	conn, cancelDial := c.conn, c.cancelDial
	c.mu.Unlock()
	if cancelDial != nil {
		cancelDial()
	}
	if conn != nil {
		go interrupt(conn) // ends after one call, which a dialer's own connection may delay
	}
}

// interrupt makes reads and writes of conn fail. The connection is not used again: its
// handshake is canceled.
func interrupt(conn net.Conn) { conn.SetDeadline(longAgo) }

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// err returns why the handshake was canceled, or nil.
func (c *canceler) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// bind bounds reads and writes of conn by cancel and by deadline, which may be zero,
// until unbind. If it returns an error, the reason of the cancellation, conn is not
// bound.
func (c *canceler) bind(conn net.Conn, deadline time.Time) error {
	if err := c.err(); err != nil {
		return err
	}
	conn.SetDeadline(deadline)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		c.conn = conn // after SetDeadline, which must not undo that of interrupt
	}
	return c.cause
}

// unbind ends what bind began. It returns why the handshake was canceled, and then the
// connection cannot be used; or nil, and then it has no deadline.
func (c *canceler) unbind() error {
	c.mu.Lock()
	conn, cause := c.conn, c.cause
	c.conn = nil
	c.mu.Unlock()
	if conn != nil && cause == nil {
		conn.SetDeadline(time.Time{})
	}
	return cause
}

// dialContext returns a context for a dialer, below parent. It ends by cancel and by
// deadline, which may be zero.
func (c *canceler) dialContext(parent context.Context, deadline time.Time) (context.Context, context.CancelFunc) {
	var ctx context.Context
	var cancelDial context.CancelFunc
	if deadline.IsZero() {
		ctx, cancelDial = context.WithCancel(parent)
	} else {
		ctx, cancelDial = context.WithDeadline(parent, deadline)
	}
	c.mu.Lock()
	c.cancelDial = cancelDial // stays after the dial, when it cancels nothing
	isCanceled := c.cause != nil
	c.mu.Unlock()
	if isCanceled {
		cancelDial()
	}
	return ctx, cancelDial
}

// contextErr is ctx.Err(), and [context.DeadlineExceeded] as soon as ctx's deadline
// has passed: its timer may fire a little later.
func contextErr(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d, ok := ctx.Deadline(); ok && !time.Now().Before(d) {
		return context.DeadlineExceeded
	}
	return nil
}
