// Package relay moves frames between the two connections of a tunnel until it
// ends, and ends it properly.
//
// It knows connections, frames and limits: no HTTP, no options, no backends, no
// logger. Its caller hands it two connections and gets an [End].
//
// # What a relay does
//
// Every byte of a whole frame that one side sends arrives at the other, in order
// and unchanged, until a Close frame has passed in that direction. Headers and
// control frames are held back until they are complete; payloads of data frames
// never are. A side that takes nothing stops its other side from being read.
//
// A frame of the relay's own is written only at a frame boundary of what has been
// written. It goes in after all that has been read, once the source stands at a
// boundary too. If the source ends inside a frame of which a part has been
// written, no frame can be written any more, and that direction is cut. After a
// Close frame, its own or a peer's, a direction carries nothing more: what its
// source still sends is parsed and discarded.
//
// The end of a tunnel has one cause, the first. Once there is one, the relay
// waits until each side has been sent a Close frame and has sent one, or has
// ended its stream: for ever where the proxy shuts down (the caller cuts when its
// patience ends), else for lingerTimeout. Then it closes the sockets in order
// (see finishLocked).
//
// # Who does it
//
// Each direction has one mover, which alone reads its source, writes to its
// destination and touches its tracker. Whoever wants a frame written asks for it under
// the lock and wakes the mover: asking never blocks, and no two write to one
// connection.
//
// Who the mover is differs between engines, which all keep what is said above. The
// portable one has a goroutine for each direction, takes any connection, and wakes
// by a read deadline in the past. The event loop (Linux, plain sockets on both
// sides) moves for many tunnels on one goroutine. What they do alike is in
// direction.go and ending.go; what they do differently is behind [driver] and
// [link].
package relay

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/internal/frame"
	"github.com/wsproxy/wsproxy/internal/netconn"
)

const (
	// lingerTimeout bounds a tunnel's end: how long one side may take to answer
	// a Close frame, or to go on when the other has ended its stream.
	lingerTimeout = 5 * time.Second

	// drainTimeout bounds the wait for a peer's end of stream before a socket is
	// closed.
	drainTimeout = 1 * time.Second
)

// Config says what to relay.
type Config struct {
	// Client and Backend are the two connections. The relay owns them.
	Client, Backend *netconn.Conn

	// Loops is the event loop, for connections that it can take. Nil means the
	// portable engine.
	Loops *Loops

	// Deflate and Unknown say which extensions were negotiated; see [frame.Rules].
	Deflate, Unknown bool

	// MaxMessage bounds messages in both directions; 0 means no bound.
	MaxMessage uint64

	// WatchStalls is for StalledFor and CutStalled, which do nothing without it.
	WatchStalls bool
}

// A Relay is one tunnel. Run or Start is called once; the other methods at any
// time, by anybody.
type Relay struct {
	up   direction // from the client to the backend
	down direction // from the backend to the client

	mu       sync.Mutex
	driver   driver  // set by New, and again where the event loop cannot take it
	ending   *ending // nil up to its first need: an idle tunnel has none
	finished bool    // no frame is to be written any more; see finishLocked
	hungUp   bool    // the client's stream has been ended, or need not be
	cut      bool    // nothing is to be waited for any more
}

// A driver moves the bytes of one relay, as its engine does.
type driver interface {
	// run relays until the tunnel has ended and both connections are closed.
	run() End

	// start is run behind the caller's back; see [Relay.Start].
	start(done func(End))

	// greet is [Relay.Greet].
	greet(p []byte, timeout time.Duration) error

	// expireInLocked makes [Relay.expire] be called after d, and not when it was to
	// be called before.
	expireInLocked(d time.Duration)

	// link returns the connection with a side.
	link(Side) link

	// stalls is nil unless they are watched.
	stalls() *stalls

	// kind tells which engine it is.
	kind() Engine
}

// A link is the connection with one side, as an engine moves its bytes.
type link interface {
	// write takes all of p, or fails. What it cannot write at once it keeps. IsLast
	// says that closeWrite follows at once. It belongs, as do the next four, to the
	// mover of the direction to this side.
	write(p []byte, isLast bool) (int, error)

	// isFlushed reports whether nothing is kept.
	isFlushed() bool

	// takeBack removes the last n bytes from what is kept, if all of them are
	// there still.
	takeBack(n uint64) bool

	// drop forgets what is kept, and returns how many bytes that were.
	drop() int

	// closeWrite ends the stream to the peer.
	closeWrite() error

	// canCloseWrite reports whether closeWrite can work.
	canCloseWrite() bool

	// wake makes the mover of the direction from this side look how things stand:
	// see isOver and obey. It never waits.
	wake()

	// limit is wake as soon as until has passed. It takes the place of an earlier
	// limit.
	limit(until time.Time)

	// rearm is limit, or lifts it if until is zero, after the mover was woken.
	rearm(until time.Time)

	// interruptWrite makes a write fail that waits for the peer.
	interruptWrite()

	// interrupt makes all that waits for the peer fail, from now on.
	interrupt()

	// reset closes the connection, sooner than close would, with a reset: what the
	// system still keeps for the peer it forgets. It never waits.
	reset()

	// close closes the connection. It may say goodbye where TLS wants that.
	close()

	// abandon is close without a word.
	abandon()
}

// An Engine is who moves the bytes of a tunnel.
type Engine uint8

const (
	Portable  Engine = iota // a goroutine for each direction
	EventLoop               // one goroutine for many tunnels
)

func (e Engine) String() string {
	switch e {
	case Portable:
		return "portable"
	case EventLoop:
		return "event loop"
	}
	return fmt.Sprintf("Engine(%d)", uint8(e))
}

// An End tells how a tunnel ended.
type End struct {
	Side  Side
	Cause Cause
	Code  int   // of the first Close frame that passed, or of ours; 0 if there was none
	Err   error // what Side did wrong
	Cut   bool  // a side that was still there was sent no Close frame, or did not answer in time
}

// Counts are what passed in one direction, frames of the relay's own not included.
type Counts struct{ Bytes, Messages uint64 }

// A Dialing is a connection of [Loops.Dial], which may be under way still.
type Dialing interface {
	net.Conn

	// Connect waits until it is connected, up to the deadline for writes. It comes
	// before all reads and writes. An error is that of a [net.Dialer].
	Connect() error
}

// New returns a Relay over c, which does nothing before Run or Start.
func New(c Config) *Relay {
	if r := newLooped(c); r != nil {
		return r
	}
	c.Backend = plainBackend(c.Backend)
	return newPortable(c)
}

// init makes r relay what c says, moved by d.
func (r *Relay) init(d driver, c Config) {
	r.driver = d
	rules := frame.Rules{Deflate: c.Deflate, Unknown: c.Unknown, MaxMessage: c.MaxMessage}
	r.down = direction{r: r, from: Backend, tracker: frame.Tracker{Rules: rules}}
	rules.Masked = true
	r.up = direction{r: r, from: Client, tracker: frame.Tracker{Rules: rules}}
}

// Engine tells which engine the relay has. It may still change in Run or Start, to
// the portable one, if the system has no more room for sockets in an event loop.
func (r *Relay) Engine() Engine {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.driver.kind()
}

// Greet writes p to the client, before Run or Start: what stands before the first
// frame.
func (r *Relay) Greet(p []byte, timeout time.Duration) error { return r.driver.greet(p, timeout) }

// Run relays until the tunnel has ended and both connections are closed.
func (r *Relay) Run() End { return r.driver.run() }

// Start is Run behind the caller's back. Done is called at the end; it must not
// wait for anything, for it may be called by who moves the bytes of other tunnels.
func (r *Relay) Start(done func(End)) { r.driver.start(done) }

// Goodbye ends the tunnel: both sides are sent a Close frame as soon as they
// stand at a boundary. Code and reason are what the client hears, where the code
// is not 0. It does not wait, and does nothing if the end has begun already.
func (r *Relay) Goodbye(cause Cause, code int, reason string) {
	r.mu.Lock()
	defer r.unlock()
	r.beginLocked(End{Side: Proxy, Cause: cause, Code: code}, reason)
}

// Cut ends the tunnel at once: nothing is written or waited for any more. It
// does not block.
func (r *Relay) Cut(cause Cause) {
	r.mu.Lock()
	defer r.unlock()
	r.beginLocked(End{Side: Proxy, Cause: cause}, "")
	r.cutLocked()
}

// Counts returns what has passed to the backend and to the client.
func (r *Relay) Counts() (toBackend, toClient Counts) {
	return r.up.counts.load(), r.down.counts.load()
}

// counts are live: written by a direction's mover, read by anybody.
type counts struct{ bytes, messages atomic.Uint64 }

func (c *counts) load() Counts { return Counts{c.bytes.Load(), c.messages.Load()} }
