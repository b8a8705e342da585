//go:build linux && !wsproxy_portable

package relay

import (
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/internal/epoll"
	"github.com/wsproxy/wsproxy/internal/histogram"
	"github.com/wsproxy/wsproxy/internal/netconn"
)

// The event loop: one goroutine moves the bytes of many tunnels, between sockets
// that never wait. A tunnel has neither a goroutine nor a buffer of its own; what a
// peer does not take at once is kept for it, and its other side is not read
// meanwhile.

const (
	// readSize is how much one read takes.
	readSize = 32 << 10

	// loopEndTimeout bounds the wait for an upgrade that a hook holds up.
	loopEndTimeout = time.Second

	// yieldInterval is how long a loop works before it lets others have its
	// processor. An ordinary TCP echo in a program whose tunnels carried as much as
	// they could had a p50 of 0.9 ms with one processor and 0.5 ms with two; 2.4 ms
	// with one when the loop finished its batch of events first.
	yieldInterval = time.Millisecond

	// longestTurn bounds how long a loop works after others have had its processor for
	// as long: see pause. It is what Go's scheduler lets a goroutine work. A program of
	// one processor, in which a goroutine computed, relayed 0.07 GB/s when the loop had
	// yieldInterval each time, and 0.55 with this; the portable engine 0.49.
	longestTurn = 10 * time.Millisecond

	// someTurn is for how long the loop works for tunnels that begin, end, or have a limit of
	// time, before it moves messages again: see stepSome.
	someTurn = 500 * time.Microsecond

	// crowdedYield is how long a yield takes if so many goroutines can run that messages would
	// wait for them. The loop is then crowded: it sleeps instead of waiting in the runtime's
	// poller, behind all of them, because the runtime looks at its timers before it runs the
	// next goroutine. When 5,000 clients connected again at once, a yield took up to 180 ms, and
	// the echoes of others had a p99 of 1.2 s; with this, and stepSome, 35 to 110 ms, on two
	// processors that were busy all the time.
	crowdedYield = 10 * time.Millisecond

	// crowdedPause is how long the loop waits for events when it is crowded.
	crowdedPause = 500 * time.Microsecond

	// The loop is not crowded any more after calmProbes short yields of another goroutine, with
	// a probePause before each.
	calmProbes = 20
	probePause = 5 * time.Millisecond
)

// numLoops returns how many loops there are: for half of the processors, because the
// program needs some too. On two processors a second loop gained nothing: in three runs
// of 4 to 8 rounds it took 0.97 to 1.12 of the CPU that one takes for an echo, and 0.8
// to 2.4 of its p99 (200 tunnels, 5,000 messages a second). Beside goroutines that
// compute on both processors messages had 0.8 of the p50, and an ordinary echo in a
// program under full load 1.2 ms instead of 0.6. What more processors want was not
// measured.
func numLoops() int { return max(runtime.GOMAXPROCS(0)/2, 1) }

// loops are the event loops of an engine. The zero value has started none.
type loops struct {
	mu       sync.Mutex
	loops    []*loop // nil before the first tunnel
	next     int
	isClosed bool
	lags     []*histogram.Histogram // of all loops, those that have ended included
}

// lag returns how long loops took from one look for events to the next.
func (s *loops) lag() *histogram.Histogram {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := histogram.NewLag()
	for _, h := range s.lags {
		sum.Add(h)
	}
	return sum
}

// close makes the loops end after their last tunnels, and waits for that, though not for
// long.
func (s *loops) close() {
	s.mu.Lock()
	loops := s.loops
	s.loops, s.isClosed = nil, true
	s.mu.Unlock()
	for _, l := range loops {
		l.close()
	}
	timeout := time.After(loopEndTimeout)
	for _, l := range loops {
		select {
		case <-l.done:
		case <-timeout:
			return
		}
	}
}

// pickLoop returns the loop of the next tunnel, or nil if it can have none.
func (e *Engine) pickLoop() *loop {
	s := &e.loops
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed {
		return nil
	}
	if s.loops == nil {
		for range numLoops() {
			l, err := newLoop(e)
			if err != nil {
				break // out of descriptors: fewer loops will do, or the next tunnel tries again
			}
			go l.run() // ends with close
			s.loops = append(s.loops, l)
			s.lags = append(s.lags, l.lag)
		}
	}
	if len(s.loops) == 0 {
		return nil
	}
	s.next++
	return s.loops[s.next%len(s.loops)]
}

// A loop is one goroutine and its tunnels.
type loop struct {
	engine *Engine
	poller *epoll.Poller[loopConn]
	done   chan struct{}        // closed when run returns
	lag    *histogram.Histogram // from one look for events to the next; immutable

	// Owned by the loop's goroutine.
	buf        []byte
	pipe       pipe
	queue      []*loopDriver // with more to move at once
	previous   []*loopDriver // the queue before, for its memory
	awake      []*loopDriver // that other goroutines have woken, and stepWoken has not stepped yet
	ending     []*loopDriver // that end, and have an event: see stepEnding
	swept      []*loopDriver // with a limit of time
	isSweeping bool          // a sweep is under way
	unswept    []*loopDriver // those of them that it has not reached
	sweepTime  time.Duration // since the sweep before it
	wheel      *wheel        // of all tunnels; nil if they have no limits while they are open
	tickTimer  *time.Timer
	isTicking  bool
	lastTick   time.Time
	clock      time.Duration // since the engine began, when the loop last read the clock: once for each tunnel that it steps
	now        ticks         // the same in ticks
	looked     time.Duration // when the loop last looked for events
	busy       time.Time     // since when the loop has not been parked
	mayWork    time.Duration // before it yields, but at least yieldInterval

	isSweepDue atomic.Bool
	isCrowded  atomic.Bool // see crowdedYield

	mu        sync.Mutex
	woken     []*loopDriver // that other goroutines have woken
	isWaiting bool
	isClosing bool
	members   int // watched connections
}

func newLoop(e *Engine) (*loop, error) {
	p, err := epoll.New[loopConn]()
	if err != nil {
		return nil, err
	}
	l := &loop{engine: e, poller: p, done: make(chan struct{}), lag: histogram.NewLag(), buf: make([]byte, netconn.MaxHead+readSize)}
	l.tickTimer = time.AfterFunc(time.Hour, l.sweepSoon) // stopped by run
	l.tickTimer.Stop()
	l.setNow(time.Now())
	l.looked = l.clock
	if e.open.areOn() {
		l.wheel = newWheel(l.now)
	}
	return l, nil
}

// close makes the loop end after its last connection. It does not wait.
func (l *loop) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.isClosing = true
	l.wakeLocked()
}

// wakeLocked ends the loop's wait for events.
func (l *loop) wakeLocked() {
	if l.isWaiting {
		l.isWaiting = false
		l.poller.Wake()
	}
}

// add watches c. It reports false if the loop is closing or the system refuses.
func (l *loop) add(c *loopConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosing || l.poller.Add(&c.socket, c) != nil {
		return false
	}
	l.members++
	return true
}

// remove stops watching c, which is still open.
func (l *loop) remove(c *loopConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.poller.Remove(&c.socket)
	l.members--
	l.wakeLocked()
}

// startTunnel makes the loop move t's bytes.
func (l *loop) startTunnel(t *loopDriver) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t.mayStart = true
	l.wakeTunnelLocked(t)
}

// wake makes the loop look at t, once it is started.
func (l *loop) wake(t *loopDriver) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wakeTunnelLocked(t)
}

func (l *loop) wakeTunnelLocked(t *loopDriver) {
	if !t.isWoken && t.mayStart {
		t.isWoken = true
		l.woken = append(l.woken, t)
		l.wakeLocked()
	}
}

// watchWrites makes the poller report when c, which takes nothing now, takes something
// again.
func (l *loop) watchWrites(c *loopConn) {
	if err := l.poller.WatchWrites(&c.socket); err != nil {
		panic("BUG: event loop: " + err.Error()) // it is watched
	}
}

// run moves what can be moved, again and again.
func (l *loop) run() {
	defer close(l.done)
	defer l.poller.Close()
	defer l.pipe.close()
	defer l.tickTimer.Stop()
	for l.next() {
		l.handleEvents()
		l.work()
		l.stepWoken()
		l.stepEnding()
		if !l.isSweeping && l.isSweepDue.CompareAndSwap(true, false) {
			l.beginSweep(time.Now())
		}
		if l.isSweeping {
			l.sweep()
		}
	}
}

// next gets the next events. It waits for them if there is nothing else to do. It
// reports false when the loop has nothing to do ever again.
func (l *loop) next() bool {
	l.recordLag()
	l.mu.Lock()
	isOver := l.isClosing && l.members == 0
	mayWait := len(l.queue)+len(l.woken)+len(l.awake)+len(l.ending) == 0 && !l.isSweeping && !l.isSweepDue.Load()
	l.isWaiting = mayWait && !isOver // after the end the poller must not be woken any more
	l.mu.Unlock()
	if isOver {
		return false
	}
	var err error
	hasParked, isCrowded := false, l.isCrowded.Load()
	switch {
	case !mayWait:
		err = l.poller.Poll()
	case isCrowded:
		if err = l.poller.Poll(); err == nil && !l.poller.HasNext() {
			time.Sleep(crowdedPause)
			hasParked = true
			err = l.poller.Poll()
		}
	default:
		hasParked, err = l.poller.Wait()
	}
	if hasParked {
		l.busy = time.Now()
		l.setNow(l.busy)
		if !isCrowded {
			l.looked = l.clock // the poller has looked all the time
		}
	}
	if err != nil {
		panic("BUG: event loop: " + err.Error()) // another part of the program has closed our descriptors
	}
	if mayWait {
		l.mu.Lock()
		l.isWaiting = false
		l.mu.Unlock()
	}
	return true
}

// recordLag records how long the loop has not looked for events, which it does next. A
// connection may have been ready for so long. Where the loop has stepped nothing it has not read
// the clock, and there is nothing to record.
func (l *loop) recordLag() {
	if d := l.clock - l.looked; d > 0 {
		l.lag.Observe(d)
		l.looked = l.clock
	}
}

// handleEvents steps each tunnel that has an event.
func (l *loop) handleEvents() {
	for c, e := l.poller.Next(); c != nil; c, e = l.poller.Next() {
		if c.waiter != nil {
			c.waiter.onEvent(e)
		}
		c.onEvent(e)
		t := c.t
		if t == nil || !t.isStarted {
			continue
		}
		if e&^(epoll.Readable|epoll.Urgent) != 0 {
			c.flush()
		}
		if c.hangUp != present || t.r.attention.Load() {
			l.stepLater(t)
		} else {
			l.step(t)
		}
	}
}

// stepLater makes stepEnding step t, which has an event.
func (l *loop) stepLater(t *loopDriver) {
	if !t.isEnding {
		t.isEnding = true
		l.ending = append(l.ending, t)
	}
}

// stepEnding steps some of the tunnels that end. When a backend is lost, thousands end at
// once, and the messages of others go first.
func (l *loop) stepEnding() {
	l.ending = stepSome(l.ending, func(t *loopDriver) {
		t.isEnding = false
		l.step(t)
	})
}

// stepSome calls step for the first tunnels, until it has taken someTurn, and returns the rest.
// Messages of other tunnels need not wait for many of these.
func stepSome(tunnels []*loopDriver, step func(*loopDriver)) (rest []*loopDriver) {
	if len(tunnels) == 0 {
		return tunnels
	}
	n := 0
	for start := time.Now(); n < len(tunnels) && (n == 0 || time.Since(start) < someTurn); n++ {
		step(tunnels[n])
	}
	return slices.Delete(tunnels, 0, n)
}

// work steps the tunnels that have more to do.
func (l *loop) work() {
	l.queue, l.previous = l.previous[:0], l.queue
	for i, t := range l.previous {
		l.previous[i] = nil
		t.isQueued = false
		l.step(t)
	}
}

// step moves a bounded part of what t has to move, and then yields if it is time.
func (l *loop) step(t *loopDriver) {
	if t.numClosed == 2 {
		return
	}
	if t.r.attention.Load() {
		l.settle(t) // after an abort nothing more is moved
	}
	l.move(&t.r.client)
	l.move(&t.r.backend)
	if t.r.attention.Load() {
		l.settle(t)
		if t.numClosed == 2 {
			if l.wheel != nil {
				l.wheel.remove(t.r)
			}
			t.finish()
			l.pause()
			return
		}
		l.sweepTunnel(t)
	}
	again := t.mayMove(&t.r.client) || t.mayMove(&t.r.backend)
	if again && !t.isQueued {
		t.isQueued = true
		l.queue = append(l.queue, t)
	}
	l.pause()
}

// settle writes frames of ours and does the actions that are due, until neither makes
// others due.
func (l *loop) settle(t *loopDriver) {
	for hasActed := true; hasActed; {
		t.r.client.attend()
		t.r.backend.attend()
		hasActed = t.r.act(t)
		for _, x := range [...]*leg{&t.r.client, &t.r.backend} {
			if t.loopConn(x.side).isClosed && x.readState() != readEnded {
				x.ended(net.ErrClosed)
				hasActed = true
			}
		}
	}
}

// pause yields, if it is time. There may be more to do. If other goroutines took the
// processor for long, as those that compute do, the loop may have it for as long.
func (l *loop) pause() {
	now := time.Now()
	l.setNow(now)
	if now.Sub(l.busy) <= max(l.mayWork, yieldInterval) {
		return
	}
	isCrowded := l.isCrowded.Load()
	if isCrowded {
		time.Sleep(yieldInterval)
	} else if err := l.poller.Yield(); err != nil {
		panic("BUG: event loop: " + err.Error()) // another part of the program has closed our descriptors
	}
	l.busy = time.Now()
	l.setNow(l.busy)
	took := l.busy.Sub(now)
	l.mayWork = min(took, longestTurn)
	if !isCrowded && took > crowdedYield {
		l.isCrowded.Store(true)
		go l.watchCrowd() // until it is over, or the loop is
	}
}

// watchCrowd waits until no more goroutines can run than the loop may wait for.
func (l *loop) watchCrowd() {
	for calm := 0; calm < calmProbes; calm++ {
		select {
		case <-l.done:
			return
		case <-time.After(probePause):
		}
		start := time.Now()
		runtime.Gosched() // behind all that can run now
		if time.Since(start) > crowdedYield/2 {
			calm = 0
		}
	}
	l.isCrowded.Store(false)
}

// setNow sets l.clock and l.now.
func (l *loop) setNow(now time.Time) {
	l.clock = now.Sub(l.engine.start)
	l.now = tickOf(l.clock)
}

// stepWoken steps the tunnels that other goroutines want something of.
func (l *loop) stepWoken() {
	l.mu.Lock()
	for _, t := range l.woken {
		t.isWoken = false
	}
	l.awake = append(l.awake, l.woken...)
	clear(l.woken)
	l.woken = l.woken[:0]
	l.mu.Unlock()
	l.awake = stepSome(l.awake, func(t *loopDriver) {
		if !t.isStarted {
			t.begin()
		}
		l.step(t)
	})
}

// sweepSoon makes the loop sweep.
func (l *loop) sweepSoon() {
	l.isSweepDue.Store(true)
	l.mu.Lock()
	l.wakeLocked()
	l.mu.Unlock()
}

// sweepTunnel makes the loop look at t at each tick, because time matters for it.
func (l *loop) sweepTunnel(t *loopDriver) {
	if t.isSwept {
		return
	}
	t.isSwept = true
	if len(l.swept) == 0 && !l.isSweeping {
		l.lastTick = time.Now()
	}
	l.swept = append(l.swept, t)
	l.tickSoon()
}

// tickSoon makes the loop sweep after the next tick.
func (l *loop) tickSoon() {
	if !l.isTicking {
		l.isTicking = true
		l.tickTimer.Reset(tickInterval)
	}
}

// addOpen starts the limits of time that r has while it is open.
func (l *loop) addOpen(r *Relay) {
	r.startOpenLimits(l.now)
	l.wheel.add(r, l.now)
	l.tickSoon()
}

// checkOpen checks the limits of the tunnels for which that is due.
func (l *loop) checkOpen(now ticks) {
	if !l.wheel.beginCheck(now) {
		return
	}
	for _, r := range l.wheel.due(now) {
		l.wheel.add(r, r.checkOpen(now))
	}
}

// beginSweep begins to tick for all tunnels that have a limit of time.
func (l *loop) beginSweep(now time.Time) {
	l.sweepTime = min(now.Sub(l.lastTick), 2*tickInterval)
	l.lastTick = now
	l.isSweeping = true
	l.unswept, l.swept = l.swept, nil
}

// sweep ticks for some of the tunnels, so that others need not wait for long.
func (l *loop) sweep() {
	l.unswept = stepSome(l.unswept, func(t *loopDriver) {
		if t.numClosed == 2 {
			return
		}
		if t.tick(l.sweepTime) {
			l.swept = append(l.swept, t)
		} else {
			t.isSwept = false
		}
		l.step(t)
	})
	if len(l.unswept) > 0 {
		return
	}
	l.isSweeping, l.unswept = false, nil
	l.engine.stalled.enforce()
	if l.wheel != nil {
		l.checkOpen(l.engine.tickAt(time.Now()))
	}
	l.isTicking = false
	if len(l.swept) > 0 || l.wheel != nil && l.wheel.len > 0 {
		l.tickSoon()
	}
}
