package relay

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/internal/histogram"
	"github.com/wsproxy/wsproxy/internal/limit"
	"github.com/wsproxy/wsproxy/internal/netconn"
)

// An EngineKind tells how the bytes of a tunnel are moved.
type EngineKind uint8

const (
	Portable  EngineKind = iota // a goroutine for each direction
	EventLoop                   // one goroutine for many tunnels
)

func (k EngineKind) String() string {
	switch k {
	case Portable:
		return "portable"
	case EventLoop:
		return "event loop"
	}
	return fmt.Sprintf("EngineKind(%d)", uint8(k))
}

// Limits are an engine's.
type Limits struct {
	// CloseTimeout bounds the end of a tunnel; 0 means no bound.
	CloseTimeout time.Duration

	// WriteStall is how long a side may take nothing of what waits for it; 0 means no bound.
	// The end of a tunnel has bounds of its own.
	WriteStall time.Duration

	// Stalled is how many tunnels may be stalled at once; 0 means no bound.
	Stalled int

	// ClientMessages and ClientBytes bound the rates of each tunnel's client: the messages
	// that end, and all bytes, those of headers and control frames included.
	ClientMessages, ClientBytes limit.Rate

	// Idle is how long no byte of a peer may be passed until the tunnel ends. Lifetime is how
	// long a tunnel is open at most; it ends at a random point of the last fifth. 0 means no
	// limit.
	Idle, Lifetime time.Duration

	// PingClient and PingBackend are after how long a quiet peer is pinged; 0 means never. A
	// peer must answer within PingTimeout: 0 means the interval, negative that it need not.
	PingClient, PingBackend, PingTimeout time.Duration
}

// An Engine moves the bytes of all tunnels of a proxy: on event loops where it can, else
// with goroutines of each tunnel. It starts nothing before its first tunnel, and Close
// ends its goroutines.
type Engine struct {
	closeTimeout time.Duration           // immutable
	writeStall   time.Duration           // immutable; 0 means no bound
	rates        rates                   // immutable
	open         openLimits              // immutable
	start        time.Time               // immutable
	roundTrips   [2]*histogram.Histogram // of pings to clients and to backends; immutable
	unanswered   [2]atomic.Uint64        // pings to clients and to backends
	onLoops      atomic.Int64            // tunnels
	buffered     atomic.Int64            // bytes, by loops
	loops        loops
	sweeper      sweeper
	stalled      stalled
	parker       netconn.Parker
}

// NewEngine returns an engine.
func NewEngine(l Limits) *Engine {
	e := &Engine{
		closeTimeout: l.CloseTimeout, writeStall: l.WriteStall, rates: newRates(l), open: newOpenLimits(l),
		start: time.Now(), stalled: stalled{max: l.Stalled},
	}
	e.roundTrips = [2]*histogram.Histogram{histogram.NewLatency(), histogram.NewLatency()}
	e.sweeper.engine = e
	if e.closeTimeout <= 0 {
		e.closeTimeout = 1<<63 - 1
	}
	return e
}

// RoundTrips returns how long pings took that a side, the client or the backend, has answered
// with their pongs.
func (e *Engine) RoundTrips(s Side) *histogram.Histogram { return e.roundTrips[s-Client] }

// Stats are gauges and counters of an engine.
type Stats struct {
	EventLoopTunnels int                  // tunnels that a loop relays
	Stalled          int                  // open tunnels of which a side has taken nothing for stallTime of what waits for it
	Buffered         int64                // bytes of which a side does not take any now; those of portable tunnels as of the last tick
	EventLoopLag     *histogram.Histogram // from one look of a loop for events to the next

	// Each has ended its tunnel.
	ClientPingsUnanswered, BackendPingsUnanswered uint64
}

// Stats returns the current values. It looks at no tunnel.
func (e *Engine) Stats() Stats {
	return Stats{
		EventLoopTunnels: int(e.onLoops.Load()), Stalled: int(e.stalled.num.Load()),
		Buffered: e.buffered.Load() + e.sweeper.blocked.Load(), EventLoopLag: e.loops.lag(),
		ClientPingsUnanswered: e.unanswered[0].Load(), BackendPingsUnanswered: e.unanswered[1].Load(),
	}
}

// now returns the time since the engine began.
func (e *Engine) now() time.Duration { return time.Since(e.start) }

// tickAt returns the tick in which t is.
func (e *Engine) tickAt(t time.Time) ticks { return tickOf(t.Sub(e.start)) }

// Close waits until the loops have ended, for a second at most: a hook may hold a
// connection that has no tunnel yet. The caller must have ended all tunnels. Tunnels that
// begin later are portable.
func (e *Engine) Close() {
	e.loops.close()
	e.parker.Close()
}

// A driver moves the bytes of one relay.
type driver interface {
	run() End
	start()

	// conn returns the connection of a leg.
	conn(Side) conn

	// notify makes the engine call act soon. It never waits.
	notify()

	// watch makes the engine call tick, until that reports that it need not. A loop does so
	// by itself, after each step.
	watch()

	// connClosed is called after each connection was closed.
	connClosed()

	kind() EngineKind

	// now returns the current tick. It is for the goroutine that reads a leg or checks the relay.
	now() ticks

	// isRead reports whether a leg is being read: nothing waits for its other leg, and no rate
	// holds it back.
	isRead(Side) bool
}

// A conn is the connection of one leg as its engine uses it. write and unwrite are for the
// goroutine that reads the other leg, the rest is for any.
type conn interface {
	// write writes p, or buffers the part that the system does not take at once. isLast says
	// that shut follows.
	write(p []byte, isLast bool) (int, error)

	// hasBegunWrite reports whether a write has begun whose bytes may not count as passed
	// yet, because another goroutine writes them. It may have ended since.
	hasBegunWrite() bool

	// buffered returns how many bytes are buffered.
	buffered() int

	// isFull reports whether bytes wait that the system does not take now.
	isFull() bool

	// unwrite removes the last n bytes from the buffer, if all of them are there.
	unwrite(n uint64) bool

	// drop empties the buffer and returns how many bytes were in it.
	drop() int

	// unsent returns how many bytes were written that the peer's system has not, as far as
	// ours tells.
	unsent() int

	// canShut reports whether the stream can be ended alone; shut does that.
	canShut() bool
	shut()

	// wake makes the goroutine that reads the connection call attend.
	wake()

	// close closes the connection as how says: closeConn, abandonConn or resetConn.
	close(how action)

	// interrupt ends a call of close that waits.
	interrupt()
}

// stallTime is how long a side takes nothing before its tunnel counts as stalled.
const stallTime = time.Second

// stalled holds the tunnels that are stalled, so that they can be counted and bounded.
type stalled struct {
	max int // immutable; 0 means no bound

	num atomic.Int64 // len(relays), for reading without the lock

	mu     sync.Mutex
	relays map[*Relay]stalledSide
}

// A stalledSide has taken nothing for a time.
type stalledSide struct {
	relay *Relay
	side  Side
	lasts time.Duration
}

// record records how long a relay has been stalled.
func (s *stalled) record(r *Relay, lasts time.Duration, side Side) {
	if lasts < stallTime && s.num.Load() == 0 {
		return // the usual case, without the lock
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if lasts < stallTime {
		delete(s.relays, r)
	} else {
		if s.relays == nil {
			s.relays = make(map[*Relay]stalledSide)
		}
		s.relays[r] = stalledSide{r, side, lasts}
	}
	s.num.Store(int64(len(s.relays)))
}

// enforce ends the tunnels beyond the bound, those first that have been stalled for the
// longest time.
func (s *stalled) enforce() {
	for _, x := range s.excess() {
		x.relay.closeStalled(x.side, x.lasts)
	}
}

func (s *stalled) excess() []stalledSide {
	if s.max == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.relays) - s.max
	if n <= 0 {
		return nil
	}
	var all []stalledSide
	for _, x := range s.relays {
		all = append(all, x)
	}
	slices.SortFunc(all, func(a, b stalledSide) int { return cmp.Compare(b.lasts, a.lasts) })
	for _, x := range all[:n] {
		delete(s.relays, x.relay)
	}
	s.num.Store(int64(s.max))
	return all[:n]
}
