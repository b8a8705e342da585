package relay

import (
	"crypto/tls"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/wsproxy/wsproxy/internal/netconn"
)

// The portable engine has a goroutine for each direction, which waits in Fill. A read
// deadline in the past wakes it.

// longAgo is a deadline that wakes at once.
var longAgo = time.Unix(1, 0)

// A portable is the driver of one relay of this engine.
type portable struct {
	r               *Relay
	client, backend blockingConn

	isSwept   atomic.Bool // it is in the sweeper's list
	isRunning atomic.Bool

	isReplaced atomic.Bool // a loop has the tunnel

	pumps     sync.WaitGroup // the backend's
	openConns sync.WaitGroup

	// Guarded by the sweeper's lock.
	prev, next *portable     // in its list
	held       chan struct{} // closed when the client's reader may go on; nil if it does not wait: see holdBack
}

func newPortable(r *Relay, client, backend *netconn.Conn) *portable {
	p := &portable{r: r}
	p.client = blockingConn{Conn: client, p: p}
	p.backend = blockingConn{Conn: backend, p: p}
	p.openConns.Add(2)
	return p
}

func (p *portable) writeResponse(b []byte, timeout time.Duration) error {
	p.client.SetWriteDeadline(time.Now().Add(timeout))
	_, err := p.client.Write(b)
	p.client.SetWriteDeadline(time.Time{})
	return err
}

// run uses the calling goroutine and one more.
func (p *portable) run() End {
	p.begin()
	p.pumps.Add(1)
	go p.pumpBackend() // until the backend's leg has ended
	p.pump(&p.r.client)
	p.pumps.Wait()
	return p.finish()
}

// begin records that the tunnel runs, and starts its limits of time.
func (p *portable) begin() {
	p.isRunning.Store(true)
	if e := p.r.engine; e.open.areOn() {
		e.sweeper.addOpen(p.r)
	}
}

func (p *portable) pumpBackend() {
	p.pump(&p.r.backend)
	p.pumps.Done()
}

// start uses two goroutines. The client's is the one that finishes; that it begins with
// little on its stack saves 2 KB of an idle tunnel.
func (p *portable) start() {
	p.begin()
	p.pumps.Add(1)
	go p.pumpBackend() // until the backend's leg has ended
	go p.pumpClient()  // until the tunnel has ended
}

func (p *portable) pumpClient() {
	p.pump(&p.r.client)
	p.pumps.Wait()
	p.reportEnd()
}

func (p *portable) reportEnd() {
	end := p.finish()
	if p.r.owner != nil {
		p.r.owner.Ended(end)
	}
}

// finish waits until both connections are closed, and returns the end.
func (p *portable) finish() End {
	p.openConns.Wait()
	p.r.engine.sweeper.remove(p)
	p.r.engine.stalled.record(p.r, 0, Proxy)
	return p.r.end()
}

// pump reads l until nothing more can be read.
func (p *portable) pump(l *leg) {
	c := p.blocking(l.side)
	var turn turn
	for {
		l.attend()
		p.attendAndAct(l)
		if p.isHeldBack(l) {
			p.holdBack()
			continue
		}
		b, err := c.Fill(l.head())
		if err == nil {
			n := len(b.Bytes())
			l.handle(b.Bytes())
			b.Free()
			if turn.addRead(n) {
				p.r.engine.parker.Park()
			}
			continue
		}
		if c.takeWakeUp(err) && !l.mustCloseNow() {
			c.SetReadDeadline(time.Time{}) // before attend: a later wake sets it again
			continue
		}
		l.ended(err)
		p.attendAndAct(l)
		return
	}
}

// isHeldBack reports whether l is not to be read now because of a rate. A client that is
// gone is read without one: it can send nothing more.
func (p *portable) isHeldBack(l *leg) bool {
	return l.isOverRate() && peerHangUp(socketBeneath(p.client.Conn)) == present
}

// holdBack makes the client's reader wait until a tick finds that it may go on, or until
// something else is to be done.
func (p *portable) holdBack() {
	s, c := &p.r.engine.sweeper, &p.client
	released := s.hold(p)
	if c.hasWakeUp() || !p.isHeldBack(&p.r.client) {
		s.release(p) // it was woken before it waited
	}
	<-released
	if c.hasWakeUp() && !p.r.client.mustCloseNow() {
		c.handled = c.wakeUps.Load()
		c.SetReadDeadline(time.Time{}) // before attend: a later wake sets it again
	}
}

// A turn is the time in which a goroutine moves bytes without ever waiting for more.
type turn struct{ start time.Time }

const (
	// turnTime is how long a turn lasts. A goroutine that always finds bytes to read is
	// never parked, and as long as goroutines can run, the runtime looks for others that
	// could only every 10 ms. Beside four clients that flooded a proxy with pings, a
	// fifth had a p50 of 57 ms; after turns of 2 ms it was 9 ms, and bulk took 1.02 of
	// the CPU; after 1 ms 6 ms and 1.14.
	turnTime = 1500 * time.Microsecond

	// fullRead is how much a read returns at least if more may have come already.
	fullRead = 4 << 10
)

// addRead adds a read of n bytes to the turn. It reports whether the turn is over, and
// begins another one then.
func (t *turn) addRead(n int) (isOver bool) {
	if n < fullRead {
		t.start = time.Time{}
		return false
	}
	now := time.Now()
	switch {
	case t.start.IsZero():
		t.start = now
	case now.Sub(t.start) >= turnTime:
		t.start = time.Time{}
		return true
	}
	return false
}

func (l *leg) mustCloseNow() bool {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	return l.mustClose
}

// attendAndAct does what is due, on the goroutine that reads l.
func (p *portable) attendAndAct(l *leg) {
	if !l.r.attention.Load() {
		return
	}
	p.r.mu.Lock()
	if c := p.r.closing; c != nil {
		l.ensureClosingLocked().due &^= wakeReader // it is awake, and attends
	}
	p.r.mu.Unlock()
	l.attend()
	p.r.act(p)
}

func (p *portable) blocking(s Side) *blockingConn {
	if s == Client {
		return &p.client
	}
	return &p.backend
}

func (p *portable) conn(s Side) conn { return p.blocking(s) }
func (*portable) kind() EngineKind   { return Portable }
func (p *portable) now() ticks       { return tickOf(p.r.engine.now()) }

func (p *portable) isRead(s Side) bool {
	other := p.blocking(p.r.leg(s).other().side)
	return !other.isFull() && !(s == Client && p.r.flow != nil && p.r.engine.sweeper.holds(p))
}

// notify uses a goroutine: a connection of the program's may block in any method.
func (p *portable) notify() {
	go p.r.act(p) // ends with a few calls
}

func (p *portable) watch() { p.r.engine.sweeper.add(p) }

func (p *portable) connClosed() { p.openConns.Done() }

// sample returns the state of a leg's connection now.
func (p *portable) sample(l *leg, isEnding bool) sample {
	c, o := p.blocking(l.side), p.blocking(l.other().side)
	var s sample
	s.isBlocked, s.hasWritten = c.isBlocked(), c.hasWritten
	if !s.isBlocked && !isEnding && !o.isBlocked() {
		return s
	}
	queued := 0
	socket := socketBeneath(c.Conn)
	if n, ok := sendQueue(socket); ok {
		queued = n
	} else {
		s.isQueueUnknown = !c.ClosesInOrder() // else it counts as empty
	}
	s.taken = int64(l.kept().Bytes+l.ownBytes()) - int64(queued) // a part of a write may be queued that does not count yet
	s.isQueued, s.isQueueShorter = s.isBlocked || queued > 0, queued < c.queued
	c.queued = queued
	if o.isBlocked() {
		s.hangUp = peerHangUp(socket)
	}
	return s
}

// A blockingConn writes until all is written, so that it buffers nothing.
type blockingConn struct {
	*netconn.Conn
	p *portable

	writes writeCount // the sweeper compares it with seen

	// wakeUps changes before and after each wake-up. The reader compares it with handled.
	wakeUps atomic.Uint32
	handled uint32 // owned by the reader

	seen   uint32 // owned by the sweeper
	blocks bool   // owned by the sweeper: the write was under way at the last tick already

	// hasWritten says that a write was under way since the last tick. Owned by the sweeper.
	hasWritten bool

	queued int // at the last sample, in the system's send queue; owned by the sweeper
}

// A writeCount counts the begins and the ends of writes: it is odd while one is under way. The
// count is in the upper half, and in the lower one is how many bytes that write has, so that both
// change in one atomic addition.
type writeCount struct{ atomic.Uint64 }

func (c *writeCount) begin(bytes int) { c.Add(1<<32 + uint64(bytes)) }
func (c *writeCount) end(bytes int)   { c.Add(1<<32 - uint64(bytes)) }

// load returns the count, and the bytes of the write under way.
func (c *writeCount) load() (count uint32, bytes int64) {
	n := c.Load()
	return uint32(n >> 32), int64(uint32(n))
}

func (c *blockingConn) write(b []byte, _ bool) (int, error) {
	c.writes.begin(len(b)) // before the look at isSwept: see removeIdle
	if !c.p.isSwept.Load() {
		c.p.watch()
	}
	n, err := c.Conn.Write(b)
	c.writes.end(len(b))
	return n, err
}

// isWriting reports whether a write is under way.
func (c *blockingConn) isWriting() bool {
	n, _ := c.writes.load()
	return n%2 == 1
}

// note compares the state of writes with that of the last tick.
func (c *blockingConn) note() {
	n, _ := c.writes.load()
	c.blocks = n%2 == 1 && n == c.seen
	c.hasWritten = n%2 == 1 || n != c.seen
	c.seen = n
}

// isBlocked reports whether one write has been under way for a tick.
func (c *blockingConn) isBlocked() bool { return c.blocks }

// blockedBytes returns how many bytes that write has, some of which may be written.
func (c *blockingConn) blockedBytes() int64 {
	if !c.blocks {
		return 0
	}
	_, bytes := c.writes.load()
	return bytes
}

func (c *blockingConn) hasBegunWrite() bool { return c.writes.Load() > 0 }
func (c *blockingConn) buffered() int       { return 0 }
func (c *blockingConn) isFull() bool        { return c.isWriting() }
func (c *blockingConn) unwrite(uint64) bool { return false }
func (c *blockingConn) drop() int           { return 0 }
func (c *blockingConn) unsent() int {
	s := socketBeneath(c.Conn)
	if _, isUnix := s.(*net.UnixConn); isUnix {
		return 0 // the system tells the memory that they take
	}
	n, _ := sendQueue(s)
	return n
}

func (c *blockingConn) canShut() bool { return c.CanCloseWrite() }
func (c *blockingConn) shut()         { c.CloseWrite() }

// wake makes a read that waits return. Before Run the reader attends anyway.
func (c *blockingConn) wake() {
	if c.p.isRunning.Load() {
		c.wakeUps.Add(1)
		c.SetReadDeadline(longAgo)
		c.wakeUps.Add(1)
		c.release()
	}
}

// release makes the reader go on, if it is held back.
func (c *blockingConn) release() {
	if c.p.r.flow != nil && c == &c.p.client {
		c.p.r.engine.sweeper.release(c.p)
	}
}

// hasWakeUp reports whether there was a wake-up that the reader has not taken.
func (c *blockingConn) hasWakeUp() bool { return c.wakeUps.Load() != c.handled }

// takeWakeUp reports whether a read has failed because of a wake-up, and takes it. A
// timeout that a connection of the program's reports by itself is an error like others. A
// wake-up whose deadline comes after this is not taken: its second change is.
func (c *blockingConn) takeWakeUp(err error) bool {
	n := c.wakeUps.Load()
	if n == c.handled || !os.IsTimeout(err) {
		return false
	}
	c.handled = n
	return true
}

func (c *blockingConn) close(how action) {
	c.release()
	switch {
	case how&resetConn != 0:
		c.Reset()
	case how&abandonConn != 0:
		c.Abandon()
	default:
		c.Close()
	}
}

func (c *blockingConn) interrupt() { c.Interrupt() }

// socketBeneath returns the socket that carries c, directly or beneath TLS; nil if it is
// unknown.
func socketBeneath(c *netconn.Conn) syscall.Conn {
	inner := c.NetConn()
	if t, ok := inner.(*tls.Conn); ok {
		inner = t.NetConn()
	}
	return netconn.Socket(inner)
}

// setUserTimeouts bounds how long the system waits for each peer to take what was written.
func (p *portable) setUserTimeouts() {
	if limit := p.r.engine.writeStall; limit > 0 {
		setUserTimeout(socketBeneath(p.client.Conn), limit)
		setUserTimeout(socketBeneath(p.backend.Conn), limit)
	}
}

// A sweeper ticks for all portable tunnels that write or end, or whose client is held back, and
// checks the tunnels that have limits of time while they are open. It has a goroutine while there are
// any.
type sweeper struct {
	engine *Engine // immutable

	blocked atomic.Int64 // bytes of writes that were under way for a tick, at the last one; 0 without a goroutine

	mu    sync.Mutex
	first *portable     // of a list, so that add allocates nothing and needs little of a stack
	wheel *wheel        // of all portable tunnels; nil before the first one that has limits
	stop  chan struct{} // ends the goroutine; nil if there is none
}

// add puts p into the list, if it is not there yet.
func (s *sweeper) add(p *portable) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addLocked(p)
}

func (s *sweeper) addLocked(p *portable) {
	if p.isSwept.Swap(true) {
		return
	}
	p.next = s.first
	if p.next != nil {
		p.next.prev = p
	}
	s.first = p
	s.startLocked()
}

// startLocked starts the goroutine, unless there is one.
func (s *sweeper) startLocked() {
	if s.stop == nil {
		s.stop = make(chan struct{})
		go s.run(s.stop) // until the last tunnel is removed
	}
}

// stopIfIdleLocked ends the goroutine if there is no tunnel for it.
func (s *sweeper) stopIfIdleLocked() {
	if s.stop != nil && s.first == nil && (s.wheel == nil || s.wheel.len == 0) {
		close(s.stop)
		s.stop = nil
		s.blocked.Store(0)
	}
}

// addOpen starts the limits of time that r has while it is open.
func (s *sweeper) addOpen(r *Relay) {
	now := tickOf(s.engine.now())
	r.startOpenLimits(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wheel == nil {
		s.wheel = newWheel(now)
	}
	s.wheel.add(r, now)
	s.startLocked()
}

// checkOpen checks the limits of the tunnels for which that is due.
func (s *sweeper) checkOpen() {
	now := tickOf(s.engine.now())
	for _, r := range s.due(now) {
		next := r.checkOpen(now)
		s.mu.Lock()
		s.wheel.add(r, next)
		s.startLocked() // another goroutine may have stopped it while r was in no slot
		s.stopIfIdleLocked()
		s.mu.Unlock()
	}
}

// due takes the relays out of the wheel that are due up to tick now.
func (s *sweeper) due(now ticks) []*Relay {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wheel == nil || !s.wheel.beginCheck(now) {
		return nil
	}
	return s.wheel.due(now)
}

// hold puts p into the list until release, which closes the channel.
func (s *sweeper) hold(p *portable) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addLocked(p)
	p.held = make(chan struct{})
	return p.held
}

// release makes the client's reader go on, if it is held back.
func (s *sweeper) release(p *portable) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.held != nil {
		close(p.held)
		p.held = nil
	}
}

func (s *sweeper) holds(p *portable) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return p.held != nil
}

// remove takes p out of the list, and its relay out of the wheel.
func (s *sweeper) remove(p *portable) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.isSwept.Swap(false) {
		s.unlinkLocked(p)
	}
	if s.wheel != nil {
		s.wheel.remove(p.r)
		s.stopIfIdleLocked()
	}
}

// removeIdle is remove, unless a write or the end has begun since the tick, or the client
// is held back. They call add only if p is not in the list.
func (s *sweeper) removeIdle(p *portable) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !p.isSwept.Swap(false) {
		return // it has ended
	}
	if p.isWriting() || p.held != nil || p.r.attention.Load() && !p.isReplaced.Load() {
		p.isSwept.Store(true)
		return
	}
	s.unlinkLocked(p)
}

func (s *sweeper) unlinkLocked(p *portable) {
	if p.prev != nil {
		p.prev.next = p.next
	} else {
		s.first = p.next
	}
	if p.next != nil {
		p.next.prev = p.prev
	}
	p.prev, p.next = nil, nil
	s.stopIfIdleLocked()
}

// tunnels returns the list.
func (s *sweeper) tunnels() (all []*portable) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := s.first; p != nil; p = p.next {
		all = append(all, p)
	}
	return all
}

func (s *sweeper) run(stop <-chan struct{}) {
	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-stop:
			return
		case now := <-tick.C:
			select {
			case <-stop: // another goroutine sweeps the tunnels of now
				return
			default:
			}
			s.setBlocked(stop, s.sweep(min(now.Sub(last), 2*tickInterval)))
			s.checkOpen()
			last = now
		}
	}
}

// setBlocked sets s.blocked, unless the goroutine that stop belongs to has been told to end.
func (s *sweeper) setBlocked(stop <-chan struct{}, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop == stop {
		s.blocked.Store(bytes)
	}
}

// sweep ticks for all tunnels. It returns how many bytes writes have that block.
func (s *sweeper) sweep(d time.Duration) (blocked int64) {
	tunnels := s.tunnels()
	for _, p := range tunnels {
		again := p.tick(d)
		blocked += p.client.blockedBytes() + p.backend.blockedBytes()
		if !again {
			s.removeIdle(p)
		}
	}
	if len(tunnels) > 0 {
		tunnels[0].r.engine.stalled.enforce()
	}
	return blocked
}

// isWriting reports whether a write is under way.
func (p *portable) isWriting() bool {
	return p.client.isWriting() || p.backend.isWriting()
}

// tick looks at p, and reports whether it is to be looked at again.
func (p *portable) tick(d time.Duration) (again bool) {
	r := p.r
	if !p.isRunning.Load() {
		return !p.isReplaced.Load() // time matters when it runs
	}
	wasHeld := r.flow != nil && r.engine.sweeper.holds(p)
	if wasHeld && !p.isHeldBack(&r.client) {
		r.engine.sweeper.release(p)
	}
	p.client.note()
	p.backend.note()
	isMoving := p.client.seen%2 == 1 || p.backend.seen%2 == 1
	isEnding := r.attention.Load()
	if !isEnding && !p.client.isBlocked() && !p.backend.isBlocked() && !r.hasTimes() {
		return isMoving || wasHeld
	}
	client, backend := p.sample(&r.client, isEnding), p.sample(&r.backend, isEnding)
	client.isHeldBack = wasHeld
	again = r.tick(d, client, backend) || isMoving || wasHeld
	if r.isDue() {
		p.notify()
	}
	lasts, side := r.stalledFor(client, backend)
	r.engine.stalled.record(r, lasts, side)
	if !p.isSwept.Load() {
		r.engine.stalled.record(r, 0, Proxy) // it has ended meanwhile
	}
	return again
}

// hasTimes reports whether the relay has clocks, which tick frees.
func (r *Relay) hasTimes() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closing != nil
}

// isDue reports whether the engine has something to do.
func (r *Relay) isDue() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closing != nil && r.closing.legs[0].due|r.closing.legs[1].due != 0
}
