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
// written. It goes in behind all that has been read, once the source stands at a
// boundary too. If the source ends inside a frame of which a part has been
// written, no frame can be written any more, and that direction is cut. Behind a
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
// Each direction belongs to one goroutine, which alone reads its source, writes
// to its destination and touches its tracker. Who wants a frame written asks for
// it under the lock and wakes the goroutine by a read deadline in the past: asking
// never blocks, and no two goroutines write to one connection.
package relay

import (
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

	// Deflate and Unknown say which extensions were negotiated; see [frame.Rules].
	Deflate, Unknown bool

	// MaxMessage bounds messages in both directions; 0 means no bound.
	MaxMessage uint64
}

// A Relay is one tunnel. Run is called once; the other methods at any time, by
// anybody.
type Relay struct {
	up   direction // from the client to the backend
	down direction // from the backend to the client

	running sync.WaitGroup // the goroutine of down

	mu       sync.Mutex
	begun    bool // the end has: what follows is set
	end      End
	linger   *time.Timer // expires the wait for answers
	finished bool        // no frame is to be written any more; see finishLocked
	hungUp   bool        // the client's stream has been ended, or need not be
	cut      bool        // nothing is to be waited for any more
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

// New returns a Relay over c, which does nothing before Run.
func New(c Config) *Relay {
	r := new(Relay)
	rules := frame.Rules{Deflate: c.Deflate, Unknown: c.Unknown, MaxMessage: c.MaxMessage}
	r.down.init(r, c.Backend, c.Client, Backend, Client, rules)
	rules.Masked = true
	r.up.init(r, c.Client, c.Backend, Client, Backend, rules)
	return r
}

// Run relays until the tunnel has ended and both connections are closed. It uses
// the calling goroutine and one more.
func (r *Relay) Run() End {
	r.running.Add(1)
	go r.runDown() // ends with the backend's stream, at the latest when cut
	r.up.run()
	r.running.Wait()
	return r.close()
}

func (r *Relay) runDown() {
	defer r.running.Done()
	r.down.run()
}

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

// counts are live: written by a direction's goroutine, read by anybody.
type counts struct{ bytes, messages atomic.Uint64 }

func (c *counts) load() Counts { return Counts{c.bytes.Load(), c.messages.Load()} }
