//go:build linux && !wsproxy_portable

package relay

import (
	"net"
	"syscall"
	"time"

	"github.com/wsproxy/wsproxy/internal/epoll"
	"github.com/wsproxy/wsproxy/internal/netconn"
)

// A looped is a relay that an event loop moves. Its sockets are duplicates, which
// the loop alone uses and closes. It is all that an idle tunnel has here, so it is
// kept small: what is seldom needed stands behind a pointer.
type looped struct {
	Relay
	loop  *loop
	done  func(End)
	conns *conns // what is left of it once the loop has taken over; written under mu

	// Owned by the loop.
	sockets  [2]epoll.Socket
	links    [2]keeping
	isQueued bool
	isSwept  bool // it is among those that a sweep looks at
	hasLeft  bool

	// Guarded by loop.mu.
	hasEntered bool
	isWoken    bool
	token      epoll.Token // immutable once it has entered
}

// conns are what the sockets are duplicates of, and what only some tunnels need.
type conns struct {
	client, backend *netconn.Conn
	dialed          *dialed   // beneath backend, whose socket is not a duplicate then; else nil
	early           [2][]byte // by link: read before the loop took over, and taken from here then
	stalls          *stalls   // nil if they are not watched
}

// rest returns what is left when the loop has taken over, nil if nothing.
func (c *conns) rest() *conns {
	if c.stalls == nil && len(c.early[clientLink]) == 0 && len(c.early[backendLink]) == 0 {
		return nil
	}
	return &conns{early: c.early, stalls: c.stalls}
}

// Indexes of sockets and links.
const (
	backendLink = iota // the first, for it may be watched before there is a tunnel
	clientLink
)

// newLooped returns a relay that an event loop moves, or nil if none can.
func newLooped(c Config) *Relay {
	if c.Loops == nil {
		return nil
	}
	t := &looped{conns: &conns{client: c.Client, backend: c.Backend, stalls: newStalls(c)}}
	if !t.takeOver(c) {
		return nil
	}
	_, fromClient := c.Client.Unwrap()
	_, fromBackend := c.Backend.Unwrap()
	t.conns.early = [...][]byte{clientLink: fromClient, backendLink: fromBackend}
	t.links[clientLink] = keeping{t: t, hasEarly: len(fromClient) > 0}
	t.links[backendLink] = keeping{t: t, hasEarly: len(fromBackend) > 0}
	t.init(t, c)
	if len(fromClient) > 0 || len(fromBackend) > 0 {
		t.loop.wake(t)
	}
	return &t.Relay
}

// takeOver makes t's sockets the same connections as those of c, and reports
// whether that is possible.
func (t *looped) takeOver(c Config) bool {
	client := streamSocket(c.Client)
	if client == nil {
		return false
	}
	inner, _ := c.Backend.Unwrap()
	if d, ok := inner.(*dialed); ok {
		t.loop, t.conns.dialed = d.loop, d
		return t.sockets[clientLink].TakeOver(client) == nil
	}
	backend := streamSocket(c.Backend)
	if backend == nil {
		return false
	}
	if t.loop = c.Loops.pick(); t.loop == nil {
		return false
	}
	if t.sockets[clientLink].TakeOver(client) != nil {
		return false // out of descriptors
	}
	if t.sockets[backendLink].TakeOver(backend) != nil {
		t.sockets[clientLink].Close()
		return false
	}
	return true
}

// streamSocket returns the plain socket beneath c, if it carries a stream, else nil. A
// unixpacket connection does not: a short read of one does not mean that nothing is
// left.
func streamSocket(c *netconn.Conn) syscall.Conn {
	s := c.PlainSocket()
	if u, ok := s.(*net.UnixConn); ok {
		if a := u.LocalAddr(); a == nil || a.Network() != "unix" {
			return nil
		}
	}
	return s
}

// takeEarly returns what was read from c before the loop took over, which c has, and
// has no more then.
func (t *looped) takeEarly(c *keeping) []byte {
	c.hasEarly = false
	early := &t.conns.early[c.index()]
	p := *early
	*early = nil
	return p
}

func (t *looped) greet(p []byte, timeout time.Duration) error {
	n, err := t.sockets[clientLink].Write(p)
	if err == epoll.ErrAgain {
		return blocking{t.conns.client}.greet(p[n:], timeout)
	}
	return err
}

// run waits until the loop has done all.
func (t *looped) run() End {
	ended := make(chan End, 1)
	if !t.enter(func(end End) { ended <- end }) {
		return t.fallBack().run()
	}
	return <-ended
}

func (t *looped) start(done func(End)) {
	if !t.enter(done) {
		t.fallBack().start(done)
	}
}

// enter hands t over to its loop.
func (t *looped) enter(done func(End)) bool {
	t.done = done
	c := t.conns
	t.setConns(c.rest())
	if c.dialed != nil && !c.dialed.handOver(t) || c.dialed == nil && !t.loop.enter(t) {
		t.setConns(c)
		return false
	}
	// From here on t is the loop's. What the connections hold besides their
	// descriptors is most of the memory of an idle tunnel.
	c.client.Close()
	c.backend.Close()
	return true
}

func (t *looped) setConns(c *conns) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conns = c
}

// fallBack makes t, which has moved nothing yet, a relay of the portable engine.
func (t *looped) fallBack() driver {
	t.sockets[clientLink].Close()
	if t.conns.dialed == nil {
		t.sockets[backendLink].Close()
	}
	t.conns.backend = plainBackend(t.conns.backend)
	p := new(portable)
	p.fill(&t.Relay, t.conns.client, t.conns.backend, t.stalls())
	t.mu.Lock()
	defer t.mu.Unlock()
	t.driver = p
	if t.cut {
		p.client.interrupt()
		p.backend.interrupt()
	}
	if at := t.endingLocked().expireAt; !at.IsZero() {
		p.expireInLocked(time.Until(at))
	}
	return p
}

// finish closes the sockets and tells that t has ended.
func (t *looped) finish() { t.done(t.close()) }

func (t *looped) expireInLocked(d time.Duration) {
	t.endingLocked().expireAt = time.Now().Add(d)
	t.loop.wake(t)
}

// isExpired reports whether expire is to be called now.
func (t *looped) isExpired(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := &t.endingLocked().expireAt
	if at.IsZero() || now.Before(*at) {
		return false
	}
	*at = time.Time{}
	return true
}

// isEnding reports whether time matters to t.
func (t *looped) isEnding() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ending != nil && (t.ending.begun || !t.ending.expireAt.IsZero())
}

func (t *looped) link(s Side) link {
	if s == Client {
		return &t.links[clientLink]
	}
	return &t.links[backendLink]
}

func (t *looped) stalls() *stalls {
	if t.conns == nil {
		return nil
	}
	return t.conns.stalls
}

func (*looped) kind() Engine { return EventLoop }

func (t *looped) isCut() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cut
}

// hasEnded reports whether nothing is to be moved any more.
func (t *looped) hasEnded() bool {
	return t.up.ended && t.down.ended && t.links[0].isFlushed() && t.links[1].isFlushed()
}

// A keeping link keeps what its peer does not take at once. It belongs to the loop.
type keeping struct {
	t    *looped
	kept *[]byte // to be written as soon as that is possible; nil if nothing

	hasEarly   bool // before all that is read comes what has been read already; see takeEarly
	isReadable bool // a read may find something
	isUrgent   bool // it stays readable up to epoll.ErrAgain: there may be a mark
	isLast     bool // it stays readable up to its end, which has come
}

func (c *keeping) isClient() bool { return c == &c.t.links[clientLink] }

// index returns which of its tunnel's links it is.
func (c *keeping) index() int {
	if c.isClient() {
		return clientLink
	}
	return backendLink
}

func (c *keeping) socket() *epoll.Socket { return &c.t.sockets[c.index()] }

// writer returns the direction that writes to the link.
func (c *keeping) writer() *direction {
	if c.isClient() {
		return &c.t.down
	}
	return &c.t.up
}

// note notes what the poller has told.
func (c *keeping) note(e epoll.Edges) {
	const end = epoll.PeerDone | epoll.Failed | epoll.HungUp
	if e&(epoll.Readable|epoll.Urgent|end) != 0 {
		c.isReadable = true
		c.isUrgent = c.isUrgent || e&epoll.Urgent != 0
		c.isLast = c.isLast || e&end != 0
	}
	if e&^(epoll.Readable|epoll.Urgent) != 0 && c.kept != nil {
		c.flush()
	}
}

// flush writes what is kept.
func (c *keeping) flush() {
	n, err := c.socket().Write(*c.kept)
	switch {
	case err == epoll.ErrAgain:
		*c.kept = (*c.kept)[n:]
	case err != nil:
		d := c.writer()
		d.stop()
		d.drop()
		d.writeFailed(err)
	default:
		c.kept = nil
		c.writer().flushed()
	}
}

// keep keeps p after what is kept already.
func (c *keeping) keep(p []byte) {
	if c.kept == nil {
		c.kept = new([]byte)
		c.t.loop.tellWritable(c)
	}
	*c.kept = append(*c.kept, p...)
}

// numKept returns how many bytes are kept.
func (c *keeping) numKept() int {
	if c.kept == nil {
		return 0
	}
	return len(*c.kept)
}

func (c *keeping) write(p []byte, isLast bool) (int, error) {
	if c.kept != nil {
		c.keep(p)
		return len(p), nil
	}
	write := (*epoll.Socket).Write
	if isLast {
		write = (*epoll.Socket).WriteLast
	}
	n, err := write(c.socket(), p)
	if err == epoll.ErrAgain {
		c.keep(p[n:])
		return len(p), nil
	}
	return n, err
}

func (c *keeping) isFlushed() bool { return c.kept == nil }

func (c *keeping) takeBack(n uint64) bool {
	have := uint64(c.numKept())
	if n > have {
		return false
	}
	if n == have {
		c.kept = nil
		return true
	}
	*c.kept = (*c.kept)[:have-n]
	return true
}

func (c *keeping) drop() int {
	n := c.numKept()
	c.kept = nil
	return n
}

func (c *keeping) closeWrite() error   { return c.socket().CloseWrite() }
func (c *keeping) canCloseWrite() bool { return true }
func (c *keeping) wake()               { c.t.loop.wake(c.t) }
func (c *keeping) limit(time.Time)     { c.t.loop.wake(c.t) }
func (c *keeping) rearm(time.Time)     {}
func (c *keeping) interruptWrite()     {}
func (c *keeping) interrupt()          { c.t.loop.wake(c.t) }
func (c *keeping) reset()              { c.t.loop.wake(c.t) } // see resetStalled
func (c *keeping) close()              { c.socket().Close() }
func (c *keeping) abandon()            { c.socket().Close() }
