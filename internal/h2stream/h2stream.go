// Package h2stream makes a [net.Conn] of one stream of an HTTP/2 server: of the body of a
// request and of its ResponseWriter.
//
// A stream differs from a socket in these ways:
//
//   - The server ends the stream when the handler returns, and at no other time. So Close
//     only says that the stream is to end, there is no CloseWrite, and the handler must wait
//     for [Conn.Finish] before it returns.
//   - A write deadline that passes resets the stream.
//   - Nothing may be called after the handler has returned. From [Conn.Finish] on the
//     methods of a Conn do nothing.
package h2stream

import (
	"cmp"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

const (
	// waitSize is the size of the buffer in which the reader waits. It is with each idle
	// stream. The frames of most messages fit in.
	waitSize = 512

	// readSize is the size of the buffer after a read that filled the smaller one: that of
	// the largest DATA frame that a server accepts by default.
	readSize = 16 << 10
)

var readBuffers = sync.Pool{New: func() any { return new([readSize]byte) }}

// A Conn is a stream as a connection. One goroutine at a time may read, and one may write.
// The other methods may be called at any time.
//
// A goroutine of its own reads the body, because a read of a body cannot be interrupted and
// then go on: a deadline that [http.ResponseController] sets ends the body for good. It begins
// with the first read, and ends with the stream or with Close.
type Conn struct {
	body          io.ReadCloser            // immutable
	w             http.ResponseWriter      // immutable
	control       *http.ResponseController // of w; immutable
	local, remote net.Addr                 // immutable

	mu      sync.Mutex
	changed sync.Cond // of the fields below

	isReading  bool   // the reader's goroutine runs
	hasRead    bool   // it was started
	unread     []byte // what it has read; it waits until all of this is taken
	readErr    error  // how the body ended; after unread
	readIsPast bool   // the read deadline has passed
	readTimer  *time.Timer

	isWriting bool
	isClosed  bool
	isReset   bool // the stream was reset, or is to be
	isDone    bool // the handler returns
}

// New returns a Conn over the body of a request and a ResponseWriter, whose header the first
// write sends, even one of no bytes. W must have Flush, SetReadDeadline and SetWriteDeadline,
// and write to the stream directly, without a buffer of its own. The deadlines that the server
// has set for the request are cleared. An address may be nil.
func New(body io.ReadCloser, w http.ResponseWriter, local, remote net.Addr) *Conn {
	c := &Conn{body: body, w: w, control: http.NewResponseController(w), local: local, remote: remote}
	c.changed.L = &c.mu
	c.control.SetReadDeadline(time.Time{})
	c.control.SetWriteDeadline(time.Time{})
	return c
}

// Read implements [net.Conn]. The end of the client's stream is [io.EOF], and a reset any
// other error.
func (c *Conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	if err := c.waitLocked(); err != nil {
		return 0, err
	}
	n := copy(p, c.unread)
	c.unread = c.unread[n:]
	if len(c.unread) == 0 {
		c.changed.Broadcast()
	}
	return n, nil
}

// WaitRead waits until Read would return, and returns how many bytes there are. It takes no
// buffer while it waits.
func (c *Conn) WaitRead() (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.waitLocked(); err != nil {
		return 0, err
	}
	return len(c.unread), nil
}

// waitLocked waits until there is something to read, or returns the error of a read.
func (c *Conn) waitLocked() error {
	if !c.hasRead && !c.isClosed {
		c.hasRead, c.isReading = true, true
		go c.readBody() // ends with the stream or with Close
	}
	for {
		switch {
		case c.isClosed:
			return net.ErrClosed
		case c.readIsPast:
			return os.ErrDeadlineExceeded
		case len(c.unread) > 0:
			return nil
		case c.readErr != nil:
			return c.readErr
		}
		c.changed.Wait()
	}
}

// readBody reads the body until it has ended, or the Conn is closed.
func (c *Conn) readBody() {
	defer c.endReading()
	var small [waitSize]byte
	for {
		n, err := c.body.Read(small[:])
		if !c.deliver(small[:n], err) || n == len(small) && !c.readMore() {
			return
		}
	}
}

// readMore reads with a larger buffer, as long as reads fill it. It reports whether there may
// be more.
func (c *Conn) readMore() bool {
	large := readBuffers.Get().(*[readSize]byte)
	defer readBuffers.Put(large)
	for {
		n, err := c.body.Read(large[:])
		if !c.deliver(large[:n], err) {
			return false
		}
		if n < len(large) {
			return true
		}
	}
}

// deliver hands a result of the body's Read to the readers, and waits until they have taken
// all bytes. It reports whether there may be more.
func (c *Conn) deliver(p []byte, err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unread, c.readErr = p, err
	c.changed.Broadcast()
	for len(c.unread) > 0 && !c.isClosed {
		c.changed.Wait()
	}
	return err == nil && !c.isClosed
}

func (c *Conn) endReading() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.isReading, c.unread = false, nil
	c.changed.Broadcast()
}

// Write implements [net.Conn]. It returns when the bytes are with the connection that carries
// the stream, which waits for the windows of both. A write of no bytes sends the header of the
// response.
func (c *Conn) Write(p []byte) (int, error) {
	if !c.beginWrite() {
		return 0, net.ErrClosed
	}
	defer c.endWrite()
	n, err := c.w.Write(p)
	if err == nil {
		err = c.control.Flush()
	}
	if err != nil {
		return 0, err // how much of p the client has is unknown
	}
	return n, nil
}

func (c *Conn) beginWrite() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isClosed {
		return false
	}
	c.isWriting = true
	return true
}

func (c *Conn) endWrite() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.isWriting = false
	c.changed.Broadcast()
}

// LocalAddr implements [net.Conn].
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements [net.Conn].
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements [net.Conn].
func (c *Conn) SetDeadline(t time.Time) error {
	return cmp.Or(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements [net.Conn].
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isClosed {
		return net.ErrClosed
	}
	c.stopTimerLocked()
	left := time.Until(t)
	switch {
	case t.IsZero():
		c.readIsPast = false
	case left <= 0:
		c.readIsPast = true
		c.changed.Broadcast()
	default:
		c.readIsPast = false
		c.startTimerLocked(left)
	}
	return nil
}

func (c *Conn) startTimerLocked(d time.Duration) {
	var timer *time.Timer
	timer = time.AfterFunc(d, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.readTimer == timer { // there is no later deadline
			c.readIsPast = true
			c.changed.Broadcast()
		}
	})
	c.readTimer = timer
}

func (c *Conn) stopTimerLocked() {
	if c.readTimer != nil {
		c.readTimer.Stop()
		c.readTimer = nil
	}
}

// SetWriteDeadline implements [net.Conn], but for this: when the deadline passes, the stream
// is reset, at once if it has passed already.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.isClosed && !c.isWriting:
		return net.ErrClosed
	case !t.IsZero() && time.Until(t) <= 0:
		c.resetLocked()
		return nil
	}
	return c.control.SetWriteDeadline(t)
}

// Close makes reads and writes fail. It does not wait. The stream ends when the handler
// returns; if a write is under way, it is reset instead.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closeLocked()
}

// ClosesInOrder reports that Close drops nothing that was written: the end of the stream comes
// behind it on the same connection, and a client must not discard it because of what follows.
// https://www.rfc-editor.org/rfc/rfc9113#section-8.1
func (c *Conn) ClosesInOrder() bool { return true }

// Abort is Close, but resets the stream.
func (c *Conn) Abort() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isClosed {
		c.resetLocked()
	}
	return c.closeLocked()
}

func (c *Conn) closeLocked() error {
	if c.isClosed {
		return net.ErrClosed
	}
	c.isClosed = true
	if c.isWriting {
		c.resetLocked() // the handler can return only when the write has
	}
	c.stopTimerLocked()
	c.body.Close() // ends the read of the reader's goroutine
	c.changed.Broadcast()
	return nil
}

// resetLocked makes a write that waits fail, and all later ones. It sends one RST_STREAM:
//
// "An endpoint MUST NOT send frames other than PRIORITY on a closed stream."
// https://www.rfc-editor.org/rfc/rfc9113#section-5.1
func (c *Conn) resetLocked() {
	if !c.isDone && !c.isReset {
		c.isReset = true
		c.control.SetWriteDeadline(longAgo)
	}
}

// Finish waits until nothing uses the stream any more. The handler calls it before it
// returns. If the Conn is not closed yet, Finish resets the stream. It reports whether the
// stream was reset: then the handler must panic with [http.ErrAbortHandler], because a return
// would be an ordinary end of the stream.
func (c *Conn) Finish() (wasReset bool) {
	c.Abort()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.isReading || c.isWriting {
		c.changed.Wait()
	}
	c.isDone = true
	return c.isReset
}
