package wsproxy

import (
	"context"
	"net"
	"sync"
	"time"
)

// A canceler is what an upgrade waits for: a backend, on a connection or in a dialer.
// Whoever wants the upgrade to end gives it up, and that is what the wait ends by, or
// by a deadline. The zero value waits for nothing.
//
// Contexts would do that too, but the three that it took, one below the other, cost
// 5 % of what it costs to open and close a tunnel.
type canceler struct {
	mu         sync.Mutex
	cause      error              // why it is given up; nil if it is not
	conn       net.Conn           // on which it waits; nil if on none
	cancelDial context.CancelFunc // of the dialer's context; nil if there is none
}

// cancel ends the wait because of cause, unless it is given up already. It does not
// wait itself. Anybody may call it, at any time.
func (c *canceler) cancel(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return
	}
	c.cause = cause
	if c.cancelDial != nil {
		c.cancelDial()
	}
	if c.conn != nil {
		go c.interrupt() // ends with one call, which a dialer's own connection may delay
	}
}

// interrupt ends what waits on the connection, which knows no context: by a deadline.
func (c *canceler) interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.conn.SetDeadline(time.Unix(1, 0))
	}
}

// checkContext returns why the wait was given up, or nil. It gives it up if ctx has ended,
// or will have as soon as its timer is looked at.
func (c *canceler) checkContext(ctx context.Context) error {
	err := ctx.Err()
	if d, ok := ctx.Deadline(); ok && err == nil && !time.Now().Before(d) {
		err = context.DeadlineExceeded
	}
	if err != nil {
		c.cancel(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// bind bounds what waits on conn from now on, by cancel and by deadline, which may be
// zero. It returns why the wait is given up already, or nil.
func (c *canceler) bind(conn net.Conn, deadline time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		c.conn = conn
		conn.SetDeadline(deadline)
	}
	return c.cause
}

// unbind is the end of bind. It returns why the wait was given up meanwhile, or nil: then
// nothing bounds the connection any more.
func (c *canceler) unbind() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil && c.cause == nil {
		c.conn.SetDeadline(time.Time{})
	}
	c.conn = nil
	return c.cause
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
	defer c.mu.Unlock()
	if c.cancelDial = cancelDial; c.cause != nil {
		cancelDial()
	}
	return ctx, cancelDial // after the dial it cancels nothing more
}
