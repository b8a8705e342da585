package wsproxy

import (
	"context"
	"net"
	"sync"
	"time"
)

// A wait is what an upgrade waits for: a backend, on a connection or in a dialer.
// Whoever wants the upgrade to end gives it up, and that is what the wait ends by, or
// by a deadline. The zero value waits for nothing.
//
// Contexts would do that too, but the three that it took, one below the other, cost
// 5 % of what it costs to open and close a tunnel.
type wait struct {
	mu     sync.Mutex
	cause  error              // why it is given up; nil if it is not
	conn   net.Conn           // on which it waits; nil if on none
	cancel context.CancelFunc // of the dialer's context; nil if there is none
}

// giveUp ends the wait because of cause, unless it is given up already. It does not
// wait itself. Anybody may call it, at any time.
func (w *wait) giveUp(cause error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cause != nil {
		return
	}
	w.cause = cause
	if w.cancel != nil {
		w.cancel()
	}
	if w.conn != nil {
		go w.interrupt() // ends with one call, which a dialer's own connection may delay
	}
}

// interrupt ends what waits on the connection, which knows no context: by a deadline.
func (w *wait) interrupt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != nil {
		w.conn.SetDeadline(time.Unix(1, 0))
	}
}

// givenUp returns why the wait was given up, or nil. It gives it up if ctx has ended,
// or will have as soon as its timer is looked at.
func (w *wait) givenUp(ctx context.Context) error {
	err := ctx.Err()
	if d, ok := ctx.Deadline(); ok && err == nil && !time.Now().Before(d) {
		err = context.DeadlineExceeded
	}
	if err != nil {
		w.giveUp(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cause
}

// begin bounds what waits on conn from now on, by giveUp and by deadline, which may be
// zero. It returns why the wait is given up already, or nil.
func (w *wait) begin(conn net.Conn, deadline time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cause == nil {
		w.conn = conn
		conn.SetDeadline(deadline)
	}
	return w.cause
}

// end is the end of begin. It returns why the wait was given up meanwhile, or nil: then
// nothing bounds the connection any more.
func (w *wait) end() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != nil && w.cause == nil {
		w.conn.SetDeadline(time.Time{})
	}
	w.conn = nil
	return w.cause
}

// context returns a context for a dialer, below parent. It ends by giveUp and by
// deadline, which may be zero.
func (w *wait) context(parent context.Context, deadline time.Time) (context.Context, context.CancelFunc) {
	var ctx context.Context
	var cancel context.CancelFunc
	if deadline.IsZero() {
		ctx, cancel = context.WithCancel(parent)
	} else {
		ctx, cancel = context.WithDeadline(parent, deadline)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cancel = cancel; w.cause != nil {
		cancel()
	}
	return ctx, cancel // after the dial it cancels nothing more
}
