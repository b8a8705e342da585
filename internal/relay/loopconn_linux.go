//go:build linux && !wsproxy_portable

package relay

import (
	"net"
	"syscall"
	"time"

	"github.com/wsproxy/wsproxy/internal/epoll"
	"github.com/wsproxy/wsproxy/internal/netconn"
)

// A loopDriver is the driver of one relay whose bytes a loop moves. With the relay it is
// all that an idle tunnel has, so that it is small.
type loopDriver struct {
	r       *Relay
	loop    *loop
	client  loopConn
	backend *loopConn // perhaps of a dialedConn

	// Owned by the loop.
	isQueued  bool // it has more to do at once
	isSwept   bool // it is in the loop's list of those to tick
	isEnding  bool // it is in the loop's list of those that end, and have an event
	isStarted bool
	numClosed int8
	isHeld    bool // the client is not read before a tick, because of its rate: see mayBeRead

	ended chan End // nil unless Run waits for it

	// Guarded by loop.mu.
	mayStart bool // Run or Start was called
	isWoken  bool
}

// newLoopDriver makes r's driver one whose sockets are the same connections as those of
// p, under descriptors of their own. It returns nil if a connection is no plain socket, or
// if there are no descriptors left, or if r was aborted: then the backend's dialedConn may
// be closed.
func newLoopDriver(r *Relay, p *portable) *loopDriver {
	client := streamSocket(p.client.Conn)
	inner, fromBackend := p.backend.Unwrap()
	d, isDialed := inner.(*dialedConn)
	var backend syscall.Conn
	if !isDialed {
		backend = streamSocket(p.backend.Conn)
	}
	if client == nil || !isDialed && backend == nil {
		return nil
	}
	t := &loopDriver{r: r}
	t.client.t = t
	if isDialed {
		t.loop = d.loop
	} else {
		t.loop = r.engine.pickLoop()
	}
	if t.loop == nil || !t.takeOver(client, backend, d) {
		return nil
	}
	if limit := r.engine.writeStall; limit > 0 {
		t.client.socket.SetUserTimeout(limit)
		t.backend.socket.SetUserTimeout(limit)
	}
	_, fromClient := p.client.Unwrap()
	t.client.setEarly(fromClient)
	t.backend.setEarly(fromBackend)
	if !r.setDriver(t) {
		t.drop()
		return nil
	}
	p.isReplaced.Store(true)
	r.engine.onLoops.Add(1)
	return t
}

// setDriver makes d the driver, unless the relay was aborted meanwhile.
func (r *Relay) setDriver(d driver) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client.mustClose {
		return false
	}
	r.driver = d
	return true
}

// takeOver makes the connections t's, and watches them.
func (t *loopDriver) takeOver(client, backend syscall.Conn, d *dialedConn) bool {
	if !t.loop.takeOver(&t.client, client) {
		return false
	}
	if d != nil {
		t.backend = d.take()
	} else if c := new(loopConn); t.loop.takeOver(c, backend) {
		t.backend = c
	}
	if t.backend == nil {
		t.loop.remove(&t.client)
		t.client.socket.Close()
		return false
	}
	return true
}

// takeOver makes c the same connection as s, and watches it. It reports false if there
// are no descriptors left, or the loop is closing.
func (l *loop) takeOver(c *loopConn, s syscall.Conn) bool {
	if c.socket.TakeOver(s) != nil {
		return false
	}
	if !l.add(c) {
		c.socket.Close()
		return false
	}
	return true
}

// begin is called by the loop before it moves the first byte.
func (t *loopDriver) begin() {
	t.isStarted = true
	t.backend.t, t.backend.waiter = t, nil
	if t.r.attention.Load() {
		t.loop.sweepTunnel(t)
	}
	if t.loop.wheel != nil {
		t.loop.addOpen(t.r)
	}
}

// streamSocket returns the plain socket beneath c, if it carries a stream, else nil. A
// unixpacket connection does not: a short read of one does not mean that nothing is left.
func streamSocket(c *netconn.Conn) syscall.Conn {
	s := c.PlainSocket()
	if u, ok := s.(*net.UnixConn); ok {
		if a := u.LocalAddr(); a == nil || a.Network() != "unix" {
			return nil
		}
	}
	return s
}

// drop closes the sockets of a tunnel that has not begun.
func (t *loopDriver) drop() {
	for _, c := range [...]*loopConn{&t.client, t.backend} {
		t.loop.remove(c)
		c.socket.Close()
	}
}

// run waits until the loop has done all.
func (t *loopDriver) run() End {
	t.ended = make(chan End, 1)
	t.start()
	return <-t.ended
}

func (t *loopDriver) start() { t.loop.startTunnel(t) }

func (t *loopDriver) conn(s Side) conn { return t.loopConn(s) }
func (*loopDriver) kind() EngineKind   { return EventLoop }
func (t *loopDriver) notify()          { t.loop.wake(t) }
func (t *loopDriver) watch()           {} // step does
func (t *loopDriver) connClosed()      { t.numClosed++ }
func (t *loopDriver) now() ticks       { return t.loop.now }

func (t *loopDriver) isRead(s Side) bool {
	return !t.loopConn(t.r.leg(s).other().side).isFull() && !(s == Client && t.isHeld)
}

func (t *loopDriver) loopConn(s Side) *loopConn {
	if s == Client {
		return &t.client
	}
	return t.backend
}

// finish reports the end.
func (t *loopDriver) finish() {
	e := t.loop.engine
	e.stalled.record(t.r, 0, Proxy)
	e.onLoops.Add(-1)
	end := t.r.end()
	switch {
	case t.ended != nil:
		t.ended <- end
	case t.r.owner != nil:
		t.r.owner.Ended(end)
	}
}

// tick is the loop's call of Relay.tick. From then on the client is read again, if its
// rates allow that.
func (t *loopDriver) tick(d time.Duration) (again bool) {
	wasHeld := t.isHeld
	t.isHeld = wasHeld && t.r.client.isOverRate()
	if wasHeld && !t.r.attention.Load() && t.client.buffered() == 0 && t.backend.buffered() == 0 && !t.r.hasTimes() {
		return t.isHeld
	}
	client, backend := t.client.sample(&t.r.client), t.backend.sample(&t.r.backend)
	client.isHeldBack = wasHeld
	again = t.r.tick(d, client, backend) || t.isHeld
	lasts, side := t.r.stalledFor(client, backend)
	t.loop.engine.stalled.record(t.r, lasts, side)
	return again
}

// A loopConn is the socket of one leg, and what its peer has not taken yet. It belongs
// to the loop.
type loopConn struct {
	t       *loopDriver // nil before the tunnel begins, for a backend's
	waiter  *dialedConn // is told of events before that; nil where there is none
	socket  epoll.Socket
	buffers *buffers // nil while there is nothing in them

	isReadable bool // a read may return something
	isUrgent   bool // it stays readable up to epoll.ErrAgain: a mark may follow
	hangUp     hangUp
	isClosed   bool
}

// buffers are a connection's that has something in them.
type buffers struct {
	early []byte // was read before the loop took over: comes before all that is read
	out   []byte // is written as soon as the system takes it
}

func (c *loopConn) setEarly(p []byte) {
	if len(p) > 0 {
		c.buffers = &buffers{early: p}
	}
}

// takeEarly returns, once, the bytes that come before all that is read.
func (c *loopConn) takeEarly() []byte {
	if c.buffers == nil {
		return nil
	}
	p := c.buffers.early
	c.buffers.early = nil
	c.freeBuffers()
	return p
}

// freeBuffers frees the buffers if they are empty.
func (c *loopConn) freeBuffers() {
	if c.buffers != nil && len(c.buffers.early) == 0 && len(c.buffers.out) == 0 {
		c.buffers = nil
	}
}

// leg returns the leg that c belongs to.
func (c *loopConn) leg() *leg {
	if c == &c.t.client {
		return &c.t.r.client
	}
	return &c.t.r.backend
}

// onEvent records an event of the poller.
func (c *loopConn) onEvent(e epoll.Edges) {
	if e&^epoll.Writable != 0 {
		c.isReadable = true
		c.isUrgent = c.isUrgent || e&epoll.Urgent != 0
		c.hangUp = max(c.hangUp, hangUpOf(e))
	}
}

func (c *loopConn) write(p []byte, isLast bool) (int, error) {
	if c.isClosed {
		return 0, net.ErrClosed
	}
	if c.buffered() > 0 {
		c.buffer(p)
		return len(p), nil
	}
	write := (*epoll.Socket).Write
	if isLast {
		write = (*epoll.Socket).WriteLast
	}
	n, err := write(&c.socket, p)
	if err == epoll.ErrAgain {
		c.buffer(p[n:])
		return len(p), nil
	}
	return n, err
}

// buffer adds p to the buffer.
func (c *loopConn) buffer(p []byte) {
	if c.buffers == nil {
		c.buffers = new(buffers)
	}
	if len(c.buffers.out) == 0 {
		c.t.loop.watchWrites(c)
		c.t.loop.sweepTunnel(c.t)
	}
	c.buffers.out = append(c.buffers.out, p...)
	c.addBuffered(len(p))
}

// addBuffered counts bytes that were put into the buffer; a negative n those taken out.
func (c *loopConn) addBuffered(n int) { c.t.loop.engine.buffered.Add(int64(n)) }

// flush writes the buffer.
func (c *loopConn) flush() {
	if c.buffered() == 0 || c.isClosed {
		return
	}
	n, err := c.socket.Write(c.buffers.out)
	l := c.leg()
	switch {
	case err == epoll.ErrAgain:
		c.buffers.out = c.buffers.out[n:]
		c.addBuffered(-n)
	case err != nil:
		l.writeFailed(err)
		l.dropBuffer()
	default:
		c.drop()
		l.flushed()
	}
}

func (c *loopConn) buffered() int {
	if c.buffers == nil {
		return 0
	}
	return len(c.buffers.out)
}

func (c *loopConn) isFull() bool { return c.buffered() > 0 }

func (c *loopConn) unwrite(n uint64) bool {
	have := uint64(c.buffered())
	if n > have {
		return false
	}
	if have > 0 {
		c.buffers.out = c.buffers.out[:have-n]
		c.addBuffered(-int(n))
		c.freeBuffers()
	}
	return true
}

func (c *loopConn) drop() int {
	n := c.buffered()
	if n > 0 {
		c.buffers.out = nil
		c.addBuffered(-n)
		c.freeBuffers()
	}
	return n
}

func (c *loopConn) canShut() bool { return true }
func (c *loopConn) shut()         { c.socket.CloseWrite() }
func (c *loopConn) wake()         {} // the loop settles after each event
func (c *loopConn) interrupt()    {} // close does not wait

func (c *loopConn) hasBegunWrite() bool { return false } // all of it counts: the loop is one goroutine

func (c *loopConn) unsent() int {
	if c.socket.IsUnix() {
		return 0 // the system tells the memory that they take
	}
	return c.socket.SendQueue()
}

func (c *loopConn) close(how action) {
	c.t.loop.remove(c)
	c.isClosed = true
	c.drop()
	c.buffers = nil
	if how&resetConn != 0 {
		c.socket.Reset()
	} else {
		c.socket.Close()
	}
}

func (c *loopConn) sample(l *leg) sample {
	if c.isClosed {
		return sample{}
	}
	queued := c.socket.SendQueue()
	kept := c.buffered()
	return sample{taken: int64(l.kept().Bytes+l.ownBytes()) - int64(kept+queued), isQueued: kept+queued > 0, isBlocked: kept > 0, hangUp: c.hangUp}
}
