//go:build linux && !wsproxy_portable

package relay

import (
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/internal/epoll"
	"github.com/wsproxy/wsproxy/internal/netconn"
)

// The event loop: one goroutine moves the bytes of many tunnels, between sockets
// that never wait. A tunnel has neither a goroutine nor a buffer of its own; what a
// peer does not take at once is kept for it, and its other side is not read
// meanwhile.

const (
	// readSize is how much one read takes.
	readSize = 32 << 10

	// sweepInterval is how exactly the times are kept that bound a tunnel's end. To be
	// woken takes a program that rests some 0.4 ms of CPU: 10 times a second, one
	// tunnel that waits for its end took 4 ms a second.
	sweepInterval = 250 * time.Millisecond

	// closeTimeout bounds the wait for an upgrade that a hook holds up.
	closeTimeout = time.Second

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
)

// numLoops returns how many loops there are: for half of the processors, because the
// program needs some too. On two processors a second loop gained nothing: in three runs
// of 4 to 8 rounds it took 0.97 to 1.12 of the CPU that one takes for an echo, and 0.8
// to 2.4 of its p99 (200 tunnels, 5,000 messages a second). Beside goroutines that
// compute on both processors messages had 0.8 of the p50, and an ordinary echo in a
// program under full load 1.2 ms instead of 0.6. What more processors want was not
// measured.
func numLoops() int { return max(runtime.GOMAXPROCS(0)/2, 1) }

// Loops is the event-loop engine of one proxy. It starts nothing before its first
// tunnel, and what it has started ends with Close.
type Loops struct {
	mu       sync.Mutex
	loops    []*loop // nil before the first tunnel
	next     int
	isClosed bool
}

// NewLoops returns an engine.
func NewLoops() *Loops { return new(Loops) }

// Close ends the engine when its tunnels have ended, to which somebody must have
// seen. It waits for that, though not for ever: a hook may hold a connection to a
// backend that has no tunnel yet. Tunnels that begin later get the portable engine.
func (s *Loops) Close() {
	s.mu.Lock()
	loops := s.loops
	s.loops, s.isClosed = nil, true
	s.mu.Unlock()
	for _, l := range loops {
		l.close()
	}
	timeout := time.After(closeTimeout)
	for _, l := range loops {
		select {
		case <-l.done:
		case <-timeout:
			return
		}
	}
}

// pick returns the loop of the next tunnel, or nil if it can have none.
func (s *Loops) pick() *loop {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed {
		return nil
	}
	if s.loops == nil {
		for range numLoops() {
			l, err := newLoop()
			if err != nil {
				break // out of descriptors: those that there are will do, or the next tunnel tries again
			}
			go l.run() // ends with close
			s.loops = append(s.loops, l)
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
	poller *epoll.Poller
	done   chan struct{} // closed when run returns

	// Owned by the loop's goroutine.
	buf      []byte
	pipe     pipe
	queue    []*looped // those that have more to do at once
	previous []*looped // the queue before, for its memory
	ending   []*looped // those that a sweep looks at
	sweeper  *time.Timer
	busy     time.Time     // since when it has not been parked
	mayWork  time.Duration // before it lets others have the processor, but for yieldInterval

	isSweepDue atomic.Bool

	mu        sync.Mutex
	woken     []*looped // those of which somebody wants something; see wake
	isWaiting bool
	isClosing bool
	members   int // tunnels, and connections that will have one
}

func newLoop() (*loop, error) {
	p, err := epoll.New()
	if err != nil {
		return nil, err
	}
	l := &loop{poller: p, done: make(chan struct{}), buf: make([]byte, netconn.MaxHead+readSize)}
	l.sweeper = time.AfterFunc(time.Hour, l.sweepSoon) // stopped by run
	l.sweeper.Stop()
	return l, nil
}

// close makes the loop end after its last tunnel. It does not wait.
func (l *loop) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.isClosing = true
	l.ringLocked()
}

// ringLocked makes the loop look around, if it waits.
func (l *loop) ringLocked() {
	if l.isWaiting {
		l.isWaiting = false
		l.poller.Wake()
	}
}

// enter makes t one of the loop's tunnels.
func (l *loop) enter(t *looped) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosing {
		return false
	}
	token, err := l.poller.Add(t, &t.sockets[backendLink], &t.sockets[clientLink])
	if err != nil {
		return false
	}
	t.token = token
	l.members++
	l.enteredLocked(t)
	return true
}

// join is enter for a tunnel whose backend's socket is watched already.
func (l *loop) join(t *looped, d *dialed) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	t.token = d.token
	t.sockets[backendLink] = d.socket
	t.links[backendLink].note(d.edges)
	if l.poller.Join(t.token, t, &t.sockets[clientLink], clientLink) != nil {
		return false
	}
	if d.edges&^epoll.Writable != 0 {
		l.wakeLocked(t)
	}
	l.enteredLocked(t)
	return true
}

func (l *loop) enteredLocked(t *looped) {
	t.hasEntered = true
	if t.isWoken {
		l.woken = append(l.woken, t)
		l.ringLocked()
	}
}

// watch makes d a member of the loop, which has no tunnel yet.
func (l *loop) watch(d *dialed) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosing {
		return false
	}
	token, err := l.poller.Add(d, &d.socket)
	if err != nil {
		return false
	}
	d.token = token
	l.members++
	return true
}

// unwatch is the end of watch.
func (l *loop) unwatch(d *dialed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.poller.Remove(d.token, &d.socket)
	l.members--
	l.ringLocked()
}

// wake makes the loop look how things stand with t. Anybody may call it, at any
// time.
func (l *loop) wake(t *looped) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wakeLocked(t)
}

func (l *loop) wakeLocked(t *looped) {
	if t.isWoken {
		return
	}
	t.isWoken = true
	if t.hasEntered {
		l.woken = append(l.woken, t)
		l.ringLocked()
	}
}

// tellWritable makes the poller tell when c, which takes nothing now, takes something
// again.
func (l *loop) tellWritable(c *keeping) {
	l.mu.Lock() // t may not be done with entering
	token := c.t.token
	l.mu.Unlock()
	if err := l.poller.TellWritable(token, c.socket(), c.index()); err != nil {
		panic("BUG: event loop: " + err.Error()) // it is watched
	}
}

// leave closes t, whose both sides have ended.
func (l *loop) leave(t *looped) {
	t.hasLeft = true
	l.mu.Lock() // it may end before enter is done with it
	token := t.token
	l.members--
	l.mu.Unlock()
	l.poller.Remove(token, &t.sockets[backendLink], &t.sockets[clientLink])
	t.finish()
}

// run moves what can be moved, again and again.
func (l *loop) run() {
	defer close(l.done)
	defer l.poller.Close()
	defer l.pipe.close()
	defer l.sweeper.Stop()
	for l.next() {
		l.handleEvents()
		l.work()
		l.lookAtWoken()
		if l.isSweepDue.CompareAndSwap(true, false) {
			l.sweep(time.Now())
		}
	}
}

// note notes what the poller has told of one of t's sockets, and moves what can be
// moved because of it.
func (l *loop) note(t *looped, index int, e epoll.Edges) {
	t.links[index].note(e)
	l.turn(t)
}

// next gets the next events. It waits for them if there is nothing else to do. It
// reports whether there will be anything to do ever again.
func (l *loop) next() bool {
	l.mu.Lock()
	isOver := l.isClosing && l.members == 0
	mayWait := len(l.queue) == 0 && len(l.woken) == 0 && !l.isSweepDue.Load()
	l.isWaiting = mayWait && !isOver // the poller must not be rung any more after the end
	l.mu.Unlock()
	if isOver {
		return false
	}
	var err error
	hasParked := false
	if mayWait {
		hasParked, err = l.poller.Wait()
	} else {
		err = l.poller.Poll()
	}
	if hasParked {
		l.busy = time.Now()
	}
	if err != nil {
		panic("BUG: event loop: " + err.Error()) // somebody has closed our descriptors
	}
	if mayWait {
		l.mu.Lock()
		l.isWaiting = false
		l.mu.Unlock()
	}
	return true
}

// handleEvents gives those a turn to whom something has happened.
func (l *loop) handleEvents() {
	for e, ok := l.poller.Next(); ok; e, ok = l.poller.Next() {
		switch owner := e.Owner.(type) {
		case *looped:
			l.note(owner, e.Index, e.Edges)
		case *dialed:
			owner.note(e.Edges)
		}
	}
}

// work gives those a turn that have more to do.
func (l *loop) work() {
	l.queue, l.previous = l.previous[:0], l.queue
	for i, t := range l.previous {
		l.previous[i] = nil
		t.isQueued = false
		l.turn(t)
	}
}

// turn moves a bounded part of what t has to move, and then lets others have the
// processor if it is time.
func (l *loop) turn(t *looped) {
	if t.hasLeft {
		return
	}
	up, down := l.move(&t.up), l.move(&t.down)
	t.noteStalls()
	switch {
	case t.hasEnded():
		l.leave(t)
	case (up || down) && !t.isQueued:
		t.isQueued = true
		l.queue = append(l.queue, t)
	}
	l.pause()
}

// pause lets others have the processor, if it is time. There may be more to do. If they
// took it for long, as goroutines that compute do, the loop may have it for as long.
func (l *loop) pause() {
	now := time.Now()
	if now.Sub(l.busy) <= max(l.mayWork, yieldInterval) {
		return
	}
	if err := l.poller.Yield(); err != nil {
		panic("BUG: event loop: " + err.Error()) // somebody has closed our descriptors
	}
	l.busy = time.Now()
	l.mayWork = min(l.busy.Sub(now), longestTurn)
}

// lookAtWoken sees to what others want.
func (l *loop) lookAtWoken() {
	l.mu.Lock()
	woken := l.woken
	l.woken = nil
	for _, t := range woken {
		t.isWoken = false
	}
	l.mu.Unlock()
	for _, t := range woken {
		l.look(t)
	}
}

// look sees how things stand with t: somebody wants something of it, or time has
// passed.
func (l *loop) look(t *looped) {
	if t.hasLeft {
		return
	}
	l.resetStalled(t) // before a stream is ended in order
	t.lookAt(&t.up)
	t.lookAt(&t.down)
	l.turn(t)
	if !t.isSwept && !t.hasLeft && t.isEnding() {
		t.isSwept = true
		l.ending = append(l.ending, t)
		if len(l.ending) == 1 {
			l.sweeper.Reset(sweepInterval)
		}
	}
}

// sweepSoon makes the loop sweep.
func (l *loop) sweepSoon() {
	l.isSweepDue.Store(true)
	l.mu.Lock()
	l.ringLocked()
	l.mu.Unlock()
}

// sweep looks at all tunnels that are ending: time has passed.
func (l *loop) sweep(now time.Time) {
	still := l.ending[:0]
	for _, t := range l.ending {
		if t.hasLeft {
			continue
		}
		if t.isExpired(now) {
			t.expire()
		}
		l.look(t)
		still = append(still, t)
	}
	clear(l.ending[len(still):])
	l.ending = still
	if len(still) > 0 {
		l.sweeper.Reset(sweepInterval)
	}
}

// lookAt ends d if its time is up.
func (t *looped) lookAt(d *direction) {
	isOver := d.isOver()
	if isOver && t.isCut() {
		d.stop()
		d.drop()
	}
	if isOver && !d.ended && d.dst().isFlushed() {
		d.finish(os.ErrDeadlineExceeded)
	}
}
