package relay

import (
	"cmp"
	"time"
)

const (
	// tickInterval is how often an engine looks at the tunnels that have a limit of
	// time, and how exactly the limits below are kept: none passes early.
	tickInterval = 250 * time.Millisecond

	// silenceTimeout closes a leg from whose peer something is expected, and with which
	// nothing moves.
	silenceTimeout = 5 * time.Second

	// stuckTimeout closes a leg whose peer takes nothing of what waits for it. The send
	// queue falls in steps: a client that reads 20 KB/s shows one every 5 s, one that
	// reads 10 KB/s every 9 to 13 s.
	stuckTimeout = 15 * time.Second

	// answerTimeout is how long the client's Close frame waits for a backend that sends
	// nothing after its own.
	answerTimeout = 1 * time.Second

	// answersTimeout is how long it waits for a backend that goes on sending.
	answersTimeout = 5 * time.Second

	// lostTimeout is how long a side is still read after a write to it has failed.
	lostTimeout = 1 * time.Second

	// lostSendsTimeout is how long it is read on if it goes on sending.
	lostSendsTimeout = 5 * time.Second

	// emptyTimeout is how long the send queue of a leg that is done has been empty when
	// the leg is closed.
	emptyTimeout = 1 * time.Second

	// unknownTimeout takes the place of emptyTimeout where the send queue is unknown.
	unknownTimeout = 5 * time.Second

	// goneTimeout is how long a client has sent nothing when a backend is closed that has
	// sent its Close frame and ended its stream: most take nothing more then. It is also
	// how long a backend has sent nothing that is closed because its stream cannot be
	// ended alone.
	goneTimeout = tickInterval

	// endTimeout is how long a backend may take to end its stream.
	endTimeout = 1 * time.Second

	// hangUpTimeout and halfCloseTimeout close both legs when the peer of one has gone,
	// but what it sent before cannot be read, because the other takes nothing for that
	// long. A bare end of the stream may be a half-close, whose sender still reads.
	hangUpTimeout    = 5 * time.Second
	halfCloseTimeout = 15 * time.Second
)

// A hangUp tells whether a peer is gone, though not all of its bytes were read yet.
type hangUp uint8

const (
	present    hangUp = iota
	halfClosed        // its end of stream has arrived
	hungUp            // both streams have ended, or were reset
)

// A sample is the state of one leg's connection at a tick.
type sample struct {
	taken          int64 // bytes written to the leg that its peer's kernel has
	isQueued       bool  // bytes wait, in the engine or in the system's send queue
	isQueueUnknown bool  // the system does not tell
	isQueueShorter bool  // than at the tick before: the peer has taken some of what is being written
	isBlocked      bool  // the engine holds bytes that cannot be written now
	isHeldBack     bool  // the leg was not read, because of its rate
	hasWritten     bool  // a write to the leg was under way since the last tick: the other leg was not read all the time
	hangUp         hangUp
}

// A clock measures, in ticks, how long nothing has happened on a leg. A time begins with
// the first tick at which its condition holds, so that it is never too long, and is -1
// while the condition does not hold.
type clock struct {
	// Events since the last tick.
	hasChanged  bool // a state has changed
	hasReceived bool // the peer has sent something
	hasInput    bool // the peer has sent something that is waited for

	// Reads outside a message since the peer was sent a Close frame, 2 at most: each begins
	// one. From the second on its bytes are no progress.
	newMessages uint8

	taken   int64         // sample.taken at the last progress
	quiet   time.Duration // the leg was read, and nothing came
	silent  time.Duration // the same, and nothing was taken either
	stuck   time.Duration // something waits, and nothing was taken
	empty   time.Duration // nothing waits
	lost    time.Duration // a write has failed, and the leg was read
	done    time.Duration // the leg is done
	answers time.Duration // the sum of the times in which the leg was read since its Close frame was written
}

// receiveLocked records that bytes of the peer have come. A peer that was sent a Close
// frame and sends on makes no progress, but for the message under way and one more.
func (l *leg) receiveLocked(isInMessage bool) {
	c := &l.recordLocked().clock
	c.hasReceived = true
	if l.write.isPastClose() && !isInMessage {
		c.newMessages = min(c.newMessages+1, 2)
	}
	c.hasInput = c.hasInput || c.newMessages < 2 && !l.isInputOverLocked()
}

// updateLocked moves l's clock on by d, in which l was read or not. isBusy says that its
// reader has written meanwhile, so that something may have come that it has not read yet.
func (l *leg) updateLocked(d time.Duration, s sample, isRead, isBusy bool) {
	c := &l.ensureClosingLocked().clock
	isTaken := s.taken > c.taken || s.isQueueShorter
	c.taken = max(c.taken, s.taken)
	count := func(t *time.Duration, runs, beginsAnew bool) {
		switch {
		case !runs:
			*t = -1
		case beginsAnew || c.hasChanged || *t < 0:
			*t = 0
		default:
			*t += d
		}
	}
	count(&c.quiet, isRead && !isBusy, c.hasReceived)
	count(&c.silent, isRead, c.hasInput || isTaken)
	count(&c.stuck, s.isQueued, isTaken)
	count(&c.empty, !s.isQueued, false)
	count(&c.lost, isRead && l.write == writeLost, false)
	count(&c.done, l.isInputOverLocked() && (l.write == writeClosed || l.write == writeShut), false)
	if l.write.isPastClose() && isRead && !c.hasChanged {
		c.answers += d
	}
	c.hasChanged, c.hasReceived, c.hasInput = false, false, false
}

// tick moves time on by d and applies the limits that have passed. It reports whether the
// relay is to be looked at again at the next tick.
func (r *Relay) tick(d time.Duration, client, backend sample) (again bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.ensureClosingLocked()
	isClientRead := !backend.isBlocked && !client.isHeldBack || r.client.read != readOpen
	isBackendRead := !client.isBlocked || r.backend.read != readOpen
	r.client.updateLocked(d, client, isClientRead, backend.hasWritten)
	r.backend.updateLocked(d, backend, isBackendRead, client.hasWritten)
	if c.hasCause {
		if c.isAging {
			c.age += d
		}
		c.isAging = true
		r.client.tickClosingLocked(client)
		r.backend.tickClosingLocked(backend)
		r.tickAskingLocked()
		return true
	}
	r.client.tickOpenLocked(client, isClientRead)
	if !c.hasCause {
		r.backend.tickOpenLocked(backend, isBackendRead)
	}
	if c.hasCause || client.isBlocked || backend.isBlocked || r.isPendingLocked() {
		return true
	}
	r.closing = nil
	r.attention.Store(false)
	return false
}

// isPendingLocked reports whether r.closing is needed though there is no cause.
func (r *Relay) isPendingLocked() bool {
	for i := range r.closing.legs {
		if c := &r.closing.legs[i]; c.writeErr != nil || len(c.frames) > 0 || c.due != 0 {
			return true
		}
	}
	return r.client.read != readOpen || r.backend.read != readOpen
}

// tickOpenLocked looks at a leg of a tunnel that has no cause to end yet.
func (l *leg) tickOpenLocked(s sample, isRead bool) {
	c, o := l.ensureClosingLocked(), l.other()
	if l.write == writeLost && c.clock.quiet >= lostTimeout {
		l.r.startClosingLocked(l.lost(c.writeErr), "")
		l.closeLocked(abandonConn)
		return
	}
	if c.clock.lost >= lostSendsTimeout {
		l.r.startClosingLocked(l.lost(c.writeErr), "")
		l.cutLocked(abandonConn)
		return
	}
	limit := hangUpTimeout
	if s.hangUp == halfClosed && l.write != writeLost {
		limit = halfCloseTimeout
	}
	isGone := s.hangUp != present || l.write == writeLost
	if isGone && !isRead && o.ensureClosingLocked().clock.stuck >= limit {
		l.r.abortLocked(l.lost(cmp.Or(c.writeErr, errHungUp)))
		return
	}
	if limit := l.r.engine.writeStall; limit > 0 && s.isBlocked && c.clock.stuck >= limit {
		l.r.endStalledLocked(l.side, c.clock.stuck, limit)
	}
}

// tickClosingLocked closes l when a time has passed.
func (l *leg) tickClosingLocked(s sample) {
	c, o := &l.ensureClosingLocked().clock, l.other().ensureClosingLocked()
	isInputOver := l.isInputOverLocked()
	emptyFor := emptyTimeout
	if s.isQueueUnknown {
		emptyFor = unknownTimeout
	}
	switch {
	case l.mustClose:
	case l.r.closing.age >= l.r.engine.closeTimeout:
		l.cutLocked(abandonConn)
	case l.r.closing.end.Cause == CausePingTimeout && l.r.closing.end.Side == l.side && l.r.closing.age >= unansweredTime:
		l.cutLocked(abandonConn)
	case c.stuck >= stuckTimeout:
		l.cutLocked(resetConn)
	case (l.write == writeShut || l.write == writeClosed && l.side == Client) && isInputOver && c.empty >= emptyFor:
		l.closeLocked(closeConn)
	case l.write == writeClosed && l.side == Backend && isInputOver && min(c.done, c.empty) >= endTimeout:
		l.closeLocked(closeConn)
	case l.write == writeLost && c.quiet >= lostTimeout:
		l.closeLocked(abandonConn)
	case c.lost >= lostSendsTimeout:
		l.cutLocked(abandonConn)
	case l.write == writeShut && !l.conn().canShut() && c.quiet >= goneTimeout:
		l.closeLocked(closeConn)
	case l.side == Backend && l.read == readEnded && l.ensureClosingLocked().hasCloseReceived && o.clock.quiet >= goneTimeout:
		l.closeLocked(closeConn)
	case l.side == Backend && l.r.closing.asksBackend && l.write.isPastClose():
		// It has answerTimeout and answersTimeout to answer, and its messages count.
	case !isInputOver && !s.isQueued && c.silent >= silenceTimeout:
		l.cutLocked(abandonConn)
	}
}

// tickAskingLocked stops waiting for a backend that does not answer.
func (r *Relay) tickAskingLocked() {
	clock := &r.backend.ensureClosingLocked().clock
	if r.closing.asksBackend && r.backend.write.isPastClose() &&
		(clock.quiet >= answerTimeout || clock.answers >= answersTimeout) {
		r.stopAskingLocked()
	}
}

// stalledFor returns for how long a side has taken nothing of what the engine holds for
// it, and which one: the longer of two. It is 0 if the tunnel is ending, which bounds
// that too.
func (r *Relay) stalledFor(client, backend sample) (time.Duration, Side) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.closing
	if c == nil || c.hasCause {
		return 0, Proxy
	}
	var longest time.Duration
	var side Side
	if client.isBlocked {
		longest, side = c.legs[0].clock.stuck, Client
	}
	if d := c.legs[1].clock.stuck; backend.isBlocked && d > longest {
		longest, side = d, Backend
	}
	return longest, side
}

// closeStalled ends the tunnel because it is one of too many that are stalled.
func (r *Relay) closeStalled(side Side, lasts time.Duration) {
	r.mu.Lock()
	if c := r.closing; c != nil && !c.hasCause && r.leg(side).ensureClosingLocked().clock.stuck >= stallTime {
		r.endStalledLocked(side, lasts, stallTime)
	}
	r.mu.Unlock()
	r.notify()
}

// endStalledLocked ends the tunnel because side has taken nothing for a time: that leg is
// reset, which frees the memory that the system keeps for it, and the other is closed as if
// the side were lost. Where both have taken nothing for limit, both are reset.
func (r *Relay) endStalledLocked(side Side, lasts, limit time.Duration) {
	c := r.ensureClosingLocked()
	areBoth := min(c.legs[0].clock.stuck, c.legs[1].clock.stuck) >= limit
	r.startClosingLocked(r.leg(side).lost(&stallError{lasts: lasts}), "")
	for _, l := range [...]*leg{&r.client, &r.backend} {
		if l.side == side || areBoth {
			l.closeLocked(resetConn)
		}
	}
}
