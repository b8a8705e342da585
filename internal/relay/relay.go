// Package relay moves frames between the two connections of a tunnel until it
// ends, and ends it in order.
//
// It knows connections, frames and limits: no HTTP, no options, no backends, no
// logger. Its caller gives it two connections and gets an [End].
//
// # What a relay does
//
// Every byte of a whole frame that one side sends arrives at the other, in order
// and unchanged, until a Close frame has passed in that direction. Headers and
// control frames are held back until they are complete; payloads of data frames
// never are. A side that takes nothing stops its other side from being read.
//
// A frame of the relay's own is written only at a frame boundary, behind all that has
// been read. If the source ends inside a frame that has been written in part, no other
// frame can follow, and the other side gets a bare end of its stream.
//
// # Where things are
//
//   - close.go: the end of a tunnel, from top to bottom: causes, the table of Close
//     frames, the states of a leg, events, and when a leg is closed.
//   - clock.go: what ends because of time, while bytes wait or the tunnel ends.
//   - open.go: what ends because of time while the tunnel is open. wheel.go says at which tick
//     each tunnel is checked, ping.go has the pings of the relay's own.
//   - flow.go: what bounds the rate of a client.
//   - leg.go: how frames pass from one leg to the other, those of the peers and ours.
//   - engine.go: what both engines have in common.
//   - portable.go: the engine that has a goroutine for each direction, and takes any
//     connection.
//   - loop_linux.go: the engine that moves the bytes of many tunnels on one goroutine,
//     between sockets that never wait. loopconn_linux.go is one tunnel and its sockets,
//     move_linux.go how bytes move, dial_linux.go how a loop connects to a backend.
//   - queue_linux.go: how many written bytes the system still holds, and how long it may.
package relay

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/internal/frame"
	"github.com/wsproxy/wsproxy/internal/netconn"
)

// errHungUp is the error of a side that is gone, though not all of its bytes were read.
var errHungUp = errors.New("hung up while the other side took nothing")

// Config says what to relay.
type Config struct {
	// Client and Backend are the two connections. The relay owns them.
	Client, Backend *netconn.Conn

	// Deflate and Unknown say which extensions were negotiated; see [frame.Rules].
	Deflate, Unknown bool

	// MaxMessage bounds messages in both directions; 0 means no bound.
	MaxMessage uint64

	// Owner is told of events; it may be nil.
	Owner Owner
}

// An Owner is told what becomes of a relay. Its methods are called on goroutines that may
// move the bytes of other tunnels, so they must not wait.
type Owner interface {
	// BackendEnding is called once, when the tunnel begins to end, if the backend is the
	// side that ends it, with what has been passed until then. IsLost reports that it has
	// closed the connection without a Close frame, before a byte of the client's was written
	// to it. The relay's lock is held: the method must not call methods of the relay.
	BackendEnding(isLost bool, toBackend, toClient Counts)

	// BackendClosed is called when the connection with the backend is closed, before
	// the relay's end.
	BackendClosed()

	// Ended is called at the end of a relay that Start began.
	Ended(End)
}

// A Relay is one tunnel. Open is called first, and then Run or Start, once each; the
// other methods are safe for concurrent use at any time.
type Relay struct {
	client, backend leg

	engine *Engine // immutable
	owner  Owner   // immutable; may be nil

	// attention tells both readers that states, or frames of ours, have to be looked at.
	attention atomic.Bool

	controls controlBucket // owned by the client's reader

	// The limits of time while the relay is open: see open.go. Owned by the sweeper or the loop.
	opened, lifeEnd ticks
	place           place

	pings atomic.Pointer[pings] // changed under mu; nil while none is under way: see ping.go

	mu      sync.Mutex
	driver  driver   // changed by Open, constant after it: the engine reads it without the lock
	closing *closing // nil while nothing but data passes; see close.go
	flow    *flow    // the pointer is immutable, and nil if no rate bounds the client; see flow.go
}

// New returns a relay of the engine, which does nothing before Open.
func (e *Engine) New(c Config) *Relay {
	r := &Relay{engine: e, owner: c.Owner}
	rules := frame.Rules{Deflate: c.Deflate, Unknown: c.Unknown, MaxMessage: c.MaxMessage}
	r.backend = leg{r: r, side: Backend, tracker: frame.Tracker{Rules: rules}}
	rules.Masked = true
	r.client = leg{r: r, side: Client, tracker: frame.Tracker{Rules: rules}}
	r.driver = newPortable(r, c.Client, c.Backend)
	if e.rates.areBound() {
		r.flow = new(flow)
	}
	return r
}

// Open writes the response of the opening handshake to the client within timeout. Then it
// takes the connections over if the event loop can have them. After an error the
// connections are still open: Abort and Run close them.
func (r *Relay) Open(response []byte, timeout time.Duration) error {
	p := r.driver.(*portable)
	if err := p.writeResponse(response, timeout); err != nil {
		return err
	}
	if newLoopDriver(r, p) != nil {
		p.client.Close() // the loop has duplicates, or has taken the connection
		p.backend.Close()
	} else {
		p.usePlainBackend()
		p.setUserTimeouts()
	}
	return nil
}

// Run relays until the tunnel has ended and both connections are closed.
func (r *Relay) Run() End { return r.driver.run() }

// Start is Run in the background; the owner's Ended is called at the end.
func (r *Relay) Start() { r.driver.start() }

// Engine returns which engine moves the relay's bytes. Before Open it is Portable.
func (r *Relay) Engine() EngineKind {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.driver.kind()
}

// Counts returns the bytes and messages passed to the backend and to the client. At the end of a
// tunnel that is cut, bytes that were not sent are taken off.
func (r *Relay) Counts() (toBackend, toClient Counts) { return r.backend.kept(), r.client.kept() }

// Totals returns what Counts does, but nothing is taken off: they never decrease.
func (r *Relay) Totals() (toBackend, toClient Counts) {
	return r.backend.passed.load(), r.client.passed.load()
}

// IsEnding reports whether the tunnel has begun to end.
func (r *Relay) IsEnding() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.isEndingLocked()
}

func (r *Relay) isEndingLocked() bool { return r.closing != nil && r.closing.hasCause }

func (r *Relay) leg(s Side) *leg {
	if s == Client {
		return &r.client
	}
	return &r.backend
}

// notify makes the engine call act soon. It does not wait.
func (r *Relay) notify() {
	r.mu.Lock()
	d := r.driver
	r.mu.Unlock()
	d.notify()
}

// act does the actions that are due with both connections, if d is still the driver. Only
// d calls it. It reports whether it has done anything.
func (r *Relay) act(d driver) (hasActed bool) {
	for _, l := range [...]*leg{&r.client, &r.backend} {
		for due := l.takeDue(d); due != 0; due = l.takeDue(d) {
			hasActed = true
			l.act(d, due)
		}
	}
	return hasActed
}

func (l *leg) takeDue(d driver) action {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	if l.r.closing == nil || l.r.driver != d {
		return 0
	}
	c := l.ensureClosingLocked()
	due := c.due
	c.due = 0
	return due
}

func (l *leg) act(d driver, due action) {
	conn := d.conn(l.side)
	if due&wakeReader != 0 {
		conn.wake()
	}
	if due&shutStream != 0 {
		conn.shut()
	}
	if due&(closeConn|abandonConn|resetConn) == 0 {
		if due&interruptConn != 0 {
			conn.interrupt()
		}
		return
	}
	l.dropBuffer()
	if due&resetConn != 0 {
		l.setDropped(conn.unsent())
	}
	conn.close(due)
	if l.side == Backend && l.r.owner != nil {
		l.r.owner.BackendClosed()
	}
	d.connClosed()
}

// dropBuffer drops what l's peer was not sent, because the connection is closed or
// broken. It does not count as passed.
func (l *leg) dropBuffer() {
	n := l.conn().drop()
	if n == 0 {
		return
	}
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	if l.read != readEnded && l.write != writeLost {
		l.r.closing.end.Cut = true
	}
	l.drop(uint64(max(n-l.ensureClosingLocked().ownQueued, 0)))
}

// setDropped records how many bytes the system drops with a reset, n with those that are
// not the peers': frames of ours. Over TLS it is an estimate, as n has what TLS adds.
func (l *leg) setDropped(n int) {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	c := l.recordLocked()
	c.dropped = max(n-int(c.own), 0)
}

// end returns how the relay ended. It is called once, after the last write.
func (r *Relay) end() End {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range [...]*leg{&r.client, &r.backend} {
		l.drop(min(uint64(l.ensureClosingLocked().dropped), l.kept().Bytes))
	}
	end := r.closing.end
	if end.Cause != CauseClosed {
		end.Code = r.client.ensureClosingLocked().closeSent
		if end.Code == 0 {
			end.Code = r.backend.ensureClosingLocked().closeSent
		}
	}
	return end
}

// A Dialing is a connection of [Engine.Dial], which may be under way still.
type Dialing interface {
	net.Conn

	// Connect waits until it is connected, up to the deadline. It is called before all
	// reads and writes. Its errors are those of a [net.Dialer].
	Connect() error
}
