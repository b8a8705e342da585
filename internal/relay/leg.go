package relay

import (
	"crypto/rand"
	"encoding/binary"
	"sync/atomic"

	"github.com/wsproxy/wsproxy/internal/frame"
)

// A leg is one of a tunnel's two connections: the state of its two halves, and the
// tracker of its peer's frames.
//
// The goroutine that reads a leg, or the loop, also writes to the other leg. It owns the
// tracker, which tells where the other leg stands at a frame boundary, and the other
// leg's buffer.
type leg struct {
	r    *Relay // immutable
	side Side   // immutable

	// Guarded by r.mu. See close.go.
	read      readState
	write     writeState
	mustClose bool // the engine closes the connection, or has closed it

	dropped atomic.Uint32 // bytes of passed that this leg's peer was not sent in the end; at most what systems and buffers hold

	// Owned by the reader.
	tracker frame.Tracker
	partial *partial // read bytes that are not a whole header or control frame yet

	// Bytes and messages passed to this leg, by the other leg's reader. It never decreases.
	passed counts

	passedAt atomic.Int32 // the tick in which bytes of l's peer were last passed; 0 if none were
	pingAt   ticks        // when the peer is pinged if it stays quiet; see checkPing, whose goroutine owns it
}

// A partial is the beginning of a header or of a control frame.
type partial struct {
	len   int
	bytes [frame.MaxHeld]byte
}

// Counts are the bytes and messages passed in one direction, without frames of the relay's
// own.
type Counts struct{ Bytes, Messages uint64 }

type counts struct{ bytes, messages atomic.Uint64 }

func (c *counts) load() Counts { return Counts{c.bytes.Load(), c.messages.Load()} }

// kept returns the bytes and messages passed to l, without the bytes that were dropped.
func (l *leg) kept() Counts {
	dropped := uint64(l.dropped.Load()) // first: passed has them already
	c := l.passed.load()
	c.Bytes -= dropped
	return c
}

// drop records that n of the bytes passed to l were dropped.
func (l *leg) drop(n uint64) { l.dropped.Add(uint32(n)) }

// other returns the tunnel's other leg.
func (l *leg) other() *leg {
	if l == &l.r.client {
		return &l.r.backend
	}
	return &l.r.client
}

func (l *leg) conn() conn { return l.r.driver.conn(l.side) }

// head returns the bytes that are handled again, before those that come next.
func (l *leg) head() []byte {
	if l.partial == nil {
		return nil
	}
	return l.partial.bytes[:l.partial.len]
}

// handle passes on bytes that were read from l, the head before them included. Only its
// reader calls it.
func (l *leg) handle(p []byte) {
	l.recordAnswer()
	o := l.other()
	numRead, messages := len(p)-len(l.head()), o.passed.messages.Load()
	l.partial = nil
	isOpen := true
	if l.r.attention.Load() {
		if isOpen = l.receive(); isOpen {
			// A frame of ours may wait for the end of the frame under way.
			n := l.tracker.Finish(p)
			l.forward(p[:n], false)
			l.attend()
			p = p[n:]
			isOpen = l.readState() == readOpen
		}
	}
	if isOpen {
		p = l.pass(p)
	}
	if len(p) > 0 {
		l.discard(p)
	}
	l.attend()
	l.countRead(numRead, o.passed.messages.Load()-messages)
}

// receive records that bytes have come, and reports whether l's frames are passed on.
func (l *leg) receive() (isOpen bool) {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	l.receiveLocked(l.tracker.InMessage())
	return l.read == readOpen
}

func (l *leg) readState() readState {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	return l.read
}

// pass writes all whole frames of p to the other leg, up to a Close frame or a broken
// rule, and returns the rest.
func (l *leg) pass(p []byte) (rest []byte) {
	n := 0
	for n < len(p) {
		step, err := l.tracker.Next(p[n:])
		switch {
		case err != nil:
			l.forward(p[:n], false)
			l.violated(err.(*frame.Violation))
			return nil
		case step.Len == 0:
			l.forward(p[:n], false)
			l.hold(p[n:])
			return nil
		}
		start := n
		n += step.Len
		if step.Control == 0 {
			continue
		}
		if step.Control == frame.Close && start > 0 {
			l.forward(p[:start], false) // so that it is counted before the end begins
			p, n, start = p[start:], step.Len, 0
		}
		switch l.filter(step.Control, p[start:n]) {
		case swallow:
			if !l.forward(p[:start], false) {
				return p[n:]
			}
			p, n = p[n:], 0
		case finish:
			o := l.other()
			if l.forward(p[:n], o.isShutNext()) {
				o.closeWritten()
			}
			return p[n:]
		case stop:
			l.forward(p[:start], false)
			return p[n:]
		case refuse:
			l.forward(p[:start], false)
			l.violated(errControlFlood)
			return nil
		}
	}
	l.forward(p, false)
	return nil
}

// A verdict is what becomes of a whole control frame.
type verdict uint8

const (
	pass    verdict = iota // it is written to the other leg
	swallow                // it is not
	finish                 // it is, and nothing may follow it
	stop                   // it is not, and neither is the rest
	refuse                 // the same, and it is a violation
)

// filter decides about each whole control frame that l's peer sends while frames are
// passed on.
func (l *leg) filter(op frame.Opcode, whole []byte) verdict {
	if op == frame.Close {
		if l.receivedClose(frame.CloseCode(whole)) {
			return finish
		}
		return stop
	}
	v := l.filterPing(op, whole)
	if v == pass && l.side == Client && !l.r.controls.allow(l.r.engine.now()) {
		return refuse
	}
	return v
}

// discard parses p only to find the peer's Close frame.
func (l *leg) discard(p []byte) {
	l.tracker.Ignore()
	for len(p) > 0 && l.readState() == readDiscarding {
		step, err := l.tracker.Next(p)
		switch {
		case err != nil:
			l.violated(err.(*frame.Violation))
		case step.Len == 0:
			l.hold(p)
			return
		case step.Control == frame.Close:
			l.receivedClose(frame.CloseCode(p[:step.Len]))
		}
		p = p[step.Len:]
	}
}

// hold keeps p, which is less than a whole header or control frame.
func (l *leg) hold(p []byte) {
	l.partial = new(partial)
	l.partial.len = copy(l.partial.bytes[:], p)
}

// forward writes p to the other leg. It reports whether the leg takes more. isLast says
// that the end of the stream follows at once.
func (l *leg) forward(p []byte, isLast bool) bool {
	if len(p) == 0 {
		return true
	}
	o := l.other()
	n, err := o.conn().write(p, isLast)
	o.passed.bytes.Add(uint64(n))
	l.recordPassed()
	if err != nil {
		o.writeFailed(err)
		return false
	}
	o.passed.messages.Add(uint64(l.tracker.TakeMessages()))
	return true
}

// unwriteFrame removes the frame under way from the other leg's buffer, and reports
// whether all of it was there.
func (l *leg) unwriteFrame() bool {
	n, o := l.tracker.Begun(), l.other()
	if !o.conn().unwrite(n) {
		return false
	}
	o.drop(n)
	return true
}

// A controlFrame is one of the relay's own.
type controlFrame struct {
	op      frame.Opcode
	payload []byte
}

// closeCode returns the status code of a Close frame.
func (f controlFrame) closeCode() int {
	if len(f.payload) < 2 {
		return frame.StatusNoStatus
	}
	return int(binary.BigEndian.Uint16(f.payload))
}

// enqueueLocked puts a frame of the relay's own in line for l: behind all that was read for it, at
// the next frame boundary. Nothing follows a Close frame.
func (l *leg) enqueueLocked(f controlFrame) {
	if l.write != writeOpen || l.mustClose || l.hasCloseLocked() {
		return
	}
	c := l.recordLocked()
	c.frames = append(c.frames, f)
	if f.op == frame.Close { // pings change nothing: a peer that takes none of them is stuck
		c.clock.hasChanged = true
	}
	l.other().recordLocked().due |= wakeReader
}

// enqueueCloseLocked enqueues a Close frame, if there is one to be sent.
func (l *leg) enqueueCloseLocked(f closeFrame) {
	if f.code != 0 {
		l.enqueueLocked(controlFrame{frame.Close, frame.ClosePayload(f.code, f.reason)})
	}
}

// hasCloseLocked reports whether a Close frame of ours is enqueued. While its reader writes
// it, it is not, and the leg is still writeOpen: that no second one comes then is because
// only the first cause enqueues any.
func (l *leg) hasCloseLocked() bool {
	if l.r.closing == nil {
		return false
	}
	frames := l.ensureClosingLocked().frames
	return len(frames) > 0 && frames[len(frames)-1].op == frame.Close
}

// attend writes the frames of ours that wait for the other leg, if that stands at a frame
// boundary. Only l's reader knows.
func (l *leg) attend() {
	if !l.r.attention.Load() || !l.tracker.AtBoundary() {
		return
	}
	l.writeFrames()
}

// writeFrames writes the frames of ours that wait for the other leg, which stands at a
// frame boundary.
func (l *leg) writeFrames() {
	o := l.other()
	for f, ok := o.nextFrame(); ok && o.writeFrame(f); f, ok = o.nextFrame() {
	}
}

// nextFrame takes the next frame of ours out of the queue.
func (l *leg) nextFrame() (f controlFrame, ok bool) {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	if l.r.closing == nil || l.write != writeOpen || l.mustClose {
		return f, false
	}
	c := l.ensureClosingLocked()
	if len(c.frames) == 0 {
		return f, false
	}
	f, c.frames = c.frames[0], c.frames[1:]
	return f, true
}

// writeFrame writes a frame of ours, masked towards the backend: "a client MUST mask all
// frames that it sends to the server".
// https://www.rfc-editor.org/rfc/rfc6455#section-5.1
func (l *leg) writeFrame(f controlFrame) bool {
	var key *[4]byte
	if l.side == Backend {
		key = new([4]byte)
		rand.Read(key[:]) // never fails
	}
	if f.op == frame.Ping {
		l.awaitPong(f.payload) // before it can be answered
	}
	n, err := l.conn().write(frame.AppendControl(nil, f.op, f.payload, key), f.op == frame.Close && l.isShutNext())
	if err != nil {
		l.writeFailed(err)
		return false
	}
	l.addOwn(n)
	if f.op == frame.Close {
		l.setCloseSent(f.closeCode())
		l.closeWritten()
	}
	return true
}

func (l *leg) addOwn(n int) {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	c := l.recordLocked()
	c.own += uint64(n)
	// With pings of ours the buffer may have been written in part: then dropBuffer is off
	// by their bytes. A Close frame is the last in the buffer.
	if l.conn().buffered() > 0 {
		c.ownQueued += n
	}
}

// ownBytes returns how many bytes of frames of ours were written to l.
func (l *leg) ownBytes() uint64 {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	if l.r.closing == nil {
		return 0
	}
	return l.ensureClosingLocked().own
}

// isShutNext reports whether l's stream is ended as soon as a Close frame is written.
func (l *leg) isShutNext() bool {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	return l.side == Client && l.isInputOverLocked()
}

// setCloseSent records the code of a Close frame of ours.
func (l *leg) setCloseSent(code int) {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	l.recordLocked().closeSent = code
}

// closeWritten records that a Close frame was written to l's buffer, ours or the other
// peer's.
func (l *leg) closeWritten() {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	l.setWriteLocked(writeClosing)
	l.flushedLocked()
}
