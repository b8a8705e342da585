package relay

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"syscall"
	"time"

	"github.com/wsproxy/wsproxy/internal/frame"
)

// This file is the end of a tunnel, from top to bottom: why it ends, what each side is
// told, the states of a leg, what each event changes, and when a leg is closed.

// A Side is the client, the backend, or the proxy between them.
type Side uint8

const (
	Proxy Side = iota
	Client
	Backend
)

func (s Side) String() string {
	switch s {
	case Proxy:
		return "proxy"
	case Client:
		return "client"
	case Backend:
		return "backend"
	}
	return fmt.Sprintf("Side(%d)", uint8(s))
}

// A Cause is why a tunnel ended.
type Cause uint8

const (
	CauseClosed       Cause = iota // a side sent a Close frame
	CauseLost                      // a side's stream ended, or was reset, without one
	CauseProtocol                  // a side broke the protocol
	CauseTooBig                    // a side sent a message over the limit
	CauseShutdown                  // the proxy shuts down
	CauseApplication               // the program closed the tunnel
	CausePanic                     // a hook of the program panicked
	CauseStalled                   // a side takes nothing, for too long or in too many tunnels
	CauseControlFlood              // the client sent too many control frames
	CauseIdle                      // no frame of either side came for some time
	CauseLifetime                  // the tunnel has been open for long enough
	CauseDrain                     // the backend is drained
	CauseRebalance                 // the backend has more than its share
	CauseBackendDown               // the backend has failed its health check for some time
	CausePingTimeout               // a side did not answer a ping
)

var causeNames = [...]string{
	CauseClosed: "closed", CauseLost: "lost", CauseProtocol: "protocol", CauseTooBig: "too big",
	CauseShutdown: "shutdown", CauseApplication: "application", CausePanic: "panic", CauseStalled: "stalled",
	CauseControlFlood: "control flood", CauseIdle: "idle", CauseLifetime: "lifetime", CauseDrain: "drain",
	CauseRebalance: "rebalance", CauseBackendDown: "backend down",
	CausePingTimeout: "ping timeout",
}

func (c Cause) String() string {
	if int(c) < len(causeNames) {
		return causeNames[c]
	}
	return fmt.Sprintf("Cause(%d)", uint8(c))
}

// An End tells how a tunnel ended. Its cause is the first; what happens later only moves
// the legs.
type End struct {
	Side  Side
	Cause Cause
	Code  int   // of the Close frame of Side if the cause is CauseClosed, else of ours to the client, or to the backend; 0 if there was none
	Err   error // what Side did wrong
	Cut   bool  // bytes were dropped, a Close frame was not written, or a leg was closed because of no progress or CloseTimeout
}

// A closeFrame is the content of a Close frame. Code 0 means that none is sent.
type closeFrame struct {
	code   int
	reason string // for people who watch a connection from outside
}

// closeFrames are the Close frames that the client and the backend are sent, by the cause
// and the side that caused it.
//
// A side that closed gets the other side's answer instead. A client that was lost is lost
// to the backend too, without a Close frame: services that resume sessions after an
// abnormal end forget them at 1001. A client whose backend was lost is told 1012, because
// the 1006 of a bare end tells a browser nothing.
//
// An empty reason is replaced by that of the violation, or by the program's.
var closeFrames = [...][3]struct{ toClient, toBackend closeFrame }{
	CauseClosed: {},
	CauseLost: {
		Backend: {toClient: closeFrame{frame.StatusServiceRestart, "backend lost"}},
	},
	CauseProtocol: {
		Client:  {closeFrame{frame.StatusProtocolError, ""}, closeFrame{frame.StatusGoingAway, "client broke the protocol"}},
		Backend: {closeFrame{frame.StatusServiceRestart, "backend broke the protocol"}, closeFrame{frame.StatusProtocolError, ""}},
	},
	CauseTooBig: {
		Client:  {closeFrame{frame.StatusTooBig, ""}, closeFrame{frame.StatusGoingAway, "client's message too big"}},
		Backend: {closeFrame{frame.StatusInternalError, "backend's message too big"}, closeFrame{frame.StatusTooBig, ""}},
	},
	CauseShutdown: {
		Proxy: {closeFrame{frame.StatusGoingAway, "shutting down"}, closeFrame{frame.StatusGoingAway, "shutting down"}},
	},
	CauseApplication: { // the program chooses the client's code
		Proxy: {closeFrame{frame.StatusNormal, ""}, closeFrame{frame.StatusGoingAway, "closed by the proxy"}},
	},
	CausePanic: {
		Proxy: {closeFrame{frame.StatusInternalError, "internal error"}, closeFrame{frame.StatusGoingAway, "closed by the proxy"}},
	},
	CauseStalled: {
		Backend: {toClient: closeFrame{frame.StatusServiceRestart, "backend stalled"}},
	},
	CauseControlFlood: {
		Client: {closeFrame{frame.StatusPolicyViolation, ""}, closeFrame{frame.StatusGoingAway, "client sent too many control frames"}},
	},
	CauseIdle: {
		Proxy: {closeFrame{frame.StatusGoingAway, "idle"}, closeFrame{frame.StatusGoingAway, "idle"}},
	},
	// 1012 asks the client to come again, and it will get another backend.
	CauseLifetime: {
		Proxy: {closeFrame{frame.StatusServiceRestart, "reconnect"}, closeFrame{frame.StatusGoingAway, "open for long enough"}},
	},
	CauseDrain: {
		Proxy: {closeFrame{frame.StatusServiceRestart, "reconnect"}, closeFrame{frame.StatusGoingAway, "draining"}},
	},
	CauseRebalance: {
		Proxy: {closeFrame{frame.StatusServiceRestart, "reconnect"}, closeFrame{frame.StatusGoingAway, "rebalancing"}},
	},
	CauseBackendDown: {
		Proxy: {closeFrame{frame.StatusServiceRestart, "backend down"}, closeFrame{frame.StatusGoingAway, "health check failed"}},
	},
	CausePingTimeout: { // a client that does not answer is lost to the backend
		Client:  {toClient: closeFrame{frame.StatusGoingAway, "ping timeout"}},
		Backend: {closeFrame{frame.StatusServiceRestart, "backend does not answer"}, closeFrame{frame.StatusGoingAway, "ping timeout"}},
	},
}

// echoOf returns the Close frame that answers one with code: "When sending a Close frame
// in response, the endpoint typically echos the status code it received."
// https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
func echoOf(code int) closeFrame {
	if code == frame.StatusNoStatus || frame.ValidCode(code) {
		return closeFrame{code: code}
	}
	return closeFrame{code: frame.StatusProtocolError}
}

// isApplicationCode reports whether code is for applications to define.
// https://www.rfc-editor.org/rfc/rfc6455#section-7.4.2
func isApplicationCode(code int) bool { return code >= 3000 && code <= 4999 }

// A readState says what happens to the bytes of a leg's peer.
type readState uint8

const (
	// Frames are passed to the other leg.
	readOpen readState = iota

	// The other leg's write half is no longer open. Frames are parsed and dropped until
	// the peer's Close frame.
	readDiscarding

	// The peer's Close frame was read. Input is dropped without parsing it: "the
	// application MUST NOT send any more data frames after sending a Close frame".
	// https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
	readCloseReceived

	// The peer broke the protocol or sent too much. Input is dropped without parsing it:
	// after failing the connection, "an endpoint MUST NOT continue to attempt to process
	// data". https://www.rfc-editor.org/rfc/rfc6455#section-7.1.7
	readViolated

	// The stream has ended, or was reset. Over TLS an end without close_notify is an end
	// of the stream as well.
	readEnded
)

// A writeState says which frames may still be written to a leg's peer.
type writeState uint8

const (
	// Frames may be written.
	writeOpen writeState = iota

	// A Close frame, the other peer's or ours, is the last in the buffer.
	writeClosing

	// The Close frame is written. The stream is not ended yet: the peer may still send,
	// and some servers stop sending at an end of stream.
	writeClosed

	// The other side was lost at a frame boundary: the buffer is written, then the stream
	// is ended, without a Close frame.
	writeEnding

	// As writeEnding, but inside a frame.
	writeTruncated

	// The stream is ended. This happens only to a client, or to a backend whose client was
	// lost. A connection without CloseWrite is closed instead.
	writeShut

	// A write failed.
	writeLost
)

// isPastClose reports whether the Close frame is written, or there will be none.
func (s writeState) isPastClose() bool { return s >= writeClosed }

// closing is the state that a relay needs only while it ends, or while one of its sides
// is stuck. An idle tunnel has none.
type closing struct {
	hasCause bool
	end      End // valid if hasCause

	// The backend was sent a Close frame, and the client's waits until the backend has
	// answered: whatever the backend had sent before arrives.
	asksBackend bool
	toClient    closeFrame // valid if asksBackend

	age     time.Duration // since the first tick after the cause
	isAging bool          // there was such a tick

	legs [2]legClosing // see leg.closing
}

// legClosing is a leg's part of closing.
type legClosing struct {
	frames    []controlFrame // ours, for the next frame boundary; see enqueueLocked
	own       uint64         // bytes of frames of ours that were written
	ownQueued int            // of these, those written since the buffer was last empty
	dropped   int            // bytes that the system dropped with a reset

	closeSent        int // the code of our Close frame, or of the application's in its place; 0 before it is written
	closeReceived    int // the code of the peer's Close frame
	hasCloseReceived bool
	writeErr         error // of the write that failed

	clock clock
	due   action
}

// An action is a task of the engine's with a connection.
type action uint8

const (
	wakeReader    action = 1 << iota // make the goroutine that reads the leg call attend
	shutStream                       // end the stream to the peer
	closeConn                        // close the connection
	abandonConn                      // close it without a word, at once
	interruptConn                    // end a close that waits, as that of TLS does
	resetConn                        // close it with a reset, so that the system drops its queue
)

// recordLocked returns r.closing, to record an event in it. Readers look at states from
// now on, and the engine ticks.
func (r *Relay) recordLocked() *closing {
	c := r.ensureClosingLocked()
	if !r.attention.Load() {
		r.attention.Store(true)
		r.driver.watch()
	}
	return c
}

// ensureClosingLocked returns r.closing, and makes it if there is none. A relay whose peer
// takes nothing for a moment needs its clocks, but its readers need not look at states.
func (r *Relay) ensureClosingLocked() *closing {
	if r.closing == nil {
		r.closing = new(closing)
		for i := range r.closing.legs {
			r.closing.legs[i].clock = clock{hasChanged: true, taken: math.MinInt64}
		}
	}
	return r.closing
}

// recordLocked returns l's part of r.closing, as that of the relay does.
func (l *leg) recordLocked() *legClosing { return &l.r.recordLocked().legs[l.side-Client] }

// ensureClosingLocked returns l's part of r.closing, as that of the relay does.
func (l *leg) ensureClosingLocked() *legClosing {
	return &l.r.ensureClosingLocked().legs[l.side-Client]
}

// setReadLocked changes l's read state. It never goes back to an earlier one.
func (l *leg) setReadLocked(s readState) {
	if s <= l.read {
		return
	}
	l.read = s
	l.recordLocked().clock.hasChanged = true
	l.r.advanceLocked()
}

// setWriteLocked changes l's write state. Where a stream cannot be ended alone, a client is
// closed instead, which has answered or has had time to, and a backend as soon as it has
// sent nothing for a moment: with unread input, closing would drop its queue.
func (l *leg) setWriteLocked(s writeState) {
	if s <= l.write || l.mustClose {
		return
	}
	l.write = s
	c := l.recordLocked()
	c.clock.hasChanged = true
	if s == writeShut {
		switch {
		case l.conn().canShut():
			c.due |= shutStream
		case l.side == Client:
			l.closeLocked(closeConn)
		}
	}
	l.r.advanceLocked()
}

// startClosingLocked records the cause, unless there is one already, and enqueues the Close
// frames that closeFrames has for it.
//
// Where the proxy ends the tunnel, and where the client broke a rule, the client's Close
// frame waits for the backend's answer. The program's 1008 does not wait: it signs a user
// out.
func (r *Relay) startClosingLocked(end End, reason string) {
	c := r.recordLocked()
	if c.hasCause {
		return
	}
	c.hasCause, c.end = true, end
	if end.Side == Backend && r.owner != nil {
		toBackend, toClient := r.Counts()
		isUsed := toBackend.Bytes > 0 || r.driver.conn(Backend).hasBegunWrite()
		r.owner.BackendEnding(end.Cause == CauseLost && !isUsed, toBackend, toClient)
	}
	for i := range c.legs {
		l := &c.legs[i]
		l.clock.hasChanged = true
		l.frames = slices.DeleteFunc(l.frames, func(f controlFrame) bool { return f.op == frame.Ping })
	}
	frames := closeFrames[end.Cause][end.Side]
	if end.Side == Proxy && end.Code != 0 {
		frames.toClient = closeFrame{code: end.Code}
	}
	toClient, toBackend := frames.toClient.withReason(reason), frames.toBackend.withReason(reason)
	switch {
	case end.Cause == CauseClosed, end.Cause == CauseLost, end.Cause == CauseStalled:
		return // the leg's end tells the other side
	case end.Side == Backend, end.Cause == CausePingTimeout,
		end.Side == Proxy && toClient.code == frame.StatusPolicyViolation:
		r.client.enqueueCloseLocked(toClient)
	default:
		c.asksBackend, c.toClient = true, toClient
	}
	r.backend.enqueueCloseLocked(toBackend)
	r.advanceLocked()
}

// withReason returns f with a reason, if it has none of its own.
func (f closeFrame) withReason(reason string) closeFrame {
	if f.reason == "" {
		f.reason = reason
	}
	return f
}

// receivedClose records the peer's Close frame and reports whether the frame is passed
// to the other leg. The caller writes it.
func (l *leg) receivedClose(code int) (passes bool) {
	r := l.r
	r.mu.Lock()
	defer r.mu.Unlock()
	c := l.recordLocked()
	c.hasCloseReceived, c.closeReceived = true, code
	r.startClosingLocked(End{Side: l.side, Cause: CauseClosed, Code: code}, "")
	o := l.other()
	passes = l.read == readOpen && o.write == writeOpen && !o.hasCloseLocked()
	if c := r.closing; passes && l.side == Backend && c.asksBackend {
		// The backend has answered. A code of the application's own goes to the client in
		// place of ours, unless the client broke a rule.
		if passes = isApplicationCode(code) && c.end.Side == Proxy; passes {
			c.asksBackend = false
			o.recordLocked().closeSent = code
		}
	}
	l.setReadLocked(readCloseReceived)
	return passes
}

// violated records that the peer broke a rule.
func (l *leg) violated(v *frame.Violation) {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	cause := CauseTooBig
	switch v.Code {
	case frame.StatusProtocolError:
		cause = CauseProtocol
	case frame.StatusPolicyViolation:
		cause = CauseControlFlood
	}
	l.r.startClosingLocked(End{Side: l.side, Cause: cause, Err: v}, v.Reason)
	l.setReadLocked(readViolated)
	l.other().enqueueCloseLocked(l.lastCloseLocked())
}

// ended records that nothing more can be read from l, because of err, and ends the other
// leg's write half: by a Close frame if one is due and the leg stands at a frame boundary.
// The goroutine that reads l calls it. A second call, after a reset that follows the end
// of the stream, only records that l takes nothing more.
func (l *leg) ended(err error) {
	r, o := l.r, l.other()
	err = l.checkStall(err)
	r.mu.Lock()
	if !l.mustClose {
		cause := err
		if isStall(l.ensureClosingLocked().writeErr) { // one of two calls gets the system's error
			cause = l.ensureClosingLocked().writeErr
		}
		r.startClosingLocked(l.lost(cause), "")
		r.closing.end.Cut = r.closing.end.Cut || isStall(err)
	}
	l.setReadLocked(readEnded)
	if err != io.EOF {
		l.setWriteLocked(writeLost) // after a reset it takes nothing more either
	}
	isWritten := o.write == writeOpen && !o.mustClose
	if isWritten && !o.hasCloseLocked() {
		o.enqueueCloseLocked(l.lastCloseLocked())
	}
	r.mu.Unlock()
	if !isWritten {
		return // what l's tracker stands in was dropped: nothing of it is in the buffer
	}

	isAtBoundary := l.tracker.AtBoundary() || l.unwriteFrame()
	if isAtBoundary {
		l.writeFrames() // the tracker may stand inside the frame that was taken back
	}
	o.finishWriting(isAtBoundary)
}

// lastCloseLocked returns the Close frame that the other leg is sent because nothing more
// of l is passed: it has ended, or has broken a rule.
func (l *leg) lastCloseLocked() closeFrame {
	o := l.other().ensureClosingLocked()
	end := l.r.closing.end
	switch {
	case o.hasCloseReceived:
		// The other peer has sent a Close frame, which l's peer did not answer. The proxy
		// answers in its place.
		return echoOf(o.closeReceived)
	case end.Side == l.side && l.side == Backend:
		return closeFrames[end.Cause][Backend].toClient
	}
	return closeFrame{}
}

// finishWriting ends l's write half after its other leg has ended, unless a Close frame
// does that.
func (l *leg) finishWriting(isAtBoundary bool) {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	if l.write != writeOpen {
		return
	}
	if isAtBoundary {
		l.setWriteLocked(writeEnding)
	} else {
		l.r.closing.end.Cut = true
		l.setWriteLocked(writeTruncated)
	}
	l.flushedLocked()
}

// flushed is called when l's buffer has become empty.
func (l *leg) flushed() {
	if !l.r.attention.Load() {
		return
	}
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	l.flushedLocked()
}

// flushedLocked changes the states that wait for the buffer, if it is empty.
func (l *leg) flushedLocked() {
	if l.mustClose || l.conn().buffered() > 0 {
		return
	}
	l.ensureClosingLocked().ownQueued = 0
	switch l.write {
	case writeClosing:
		l.setWriteLocked(writeClosed)
	case writeEnding, writeTruncated:
		l.setWriteLocked(writeShut)
	}
}

// writeFailed records that a write to l failed. Whether its peer has sent a Close frame
// is in what can still be read from it, so that the cause is known only then: see tick.
func (l *leg) writeFailed(err error) {
	err = l.checkStall(err)
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	if l.mustClose {
		return
	}
	if c := l.recordLocked(); c.writeErr == nil {
		c.writeErr = err
	}
	if end := &l.r.closing.end; isStall(err) && end.Side == l.side && end.Err == io.EOF {
		*end = l.lost(err) // the end was read before the reason was known
	}
	if o := l.other(); o.write == writeLost { // neither side is read on
		l.r.startClosingLocked(o.lost(o.ensureClosingLocked().writeErr), "")
	}
	l.r.closing.end.Cut = l.r.closing.end.Cut || isStall(err)
	l.setWriteLocked(writeLost)
}

// A stallError reports that a side has taken nothing of what waited for it.
type stallError struct {
	lasts time.Duration
	err   error // the system's, if that has ended the connection; else nil
}

func (e *stallError) Error() string {
	text := fmt.Sprintf("took nothing for %v", e.lasts.Round(time.Millisecond))
	if e.err != nil {
		text += ": " + e.err.Error()
	}
	return text
}

func (e *stallError) Unwrap() error { return e.err }

func isStall(err error) bool {
	_, is := err.(*stallError)
	return is
}

// givenUp are the errors of a connection that the system has ended because the peer did not
// acknowledge what it was sent. The last two say in addition that a router has reported it.
var givenUp = [...]syscall.Errno{syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.ENETUNREACH}

// checkStall returns a [*stallError] in place of err, with which a read or a write of l has
// failed, if the system has given the peer up while bytes waited for it: see setUserTimeout.
// Without such bytes it was TCP keepalive.
func (l *leg) checkStall(err error) error {
	limit := l.r.engine.writeStall
	if limit == 0 || isStall(err) || !slices.ContainsFunc(givenUp[:], func(e syscall.Errno) bool { return errors.Is(err, e) }) {
		return err
	}
	n := l.conn().unsent()
	if n == 0 {
		return err
	}
	l.setDropped(n)
	return &stallError{limit, err}
}

// lost returns the End of a tunnel whose leg l was lost because of err.
func (l *leg) lost(err error) End {
	if isStall(err) {
		return End{Side: l.side, Cause: CauseStalled, Err: err, Cut: true}
	}
	return End{Side: l.side, Cause: CauseLost, Err: err}
}

// Close ends the tunnel: each side is sent a Close frame as closeFrames has it; code and
// reason, if code is not 0, are for the client. It does not wait, and does nothing if the
// tunnel is ending already: then it returns false.
func (r *Relay) Close(cause Cause, code int, reason string) (hasBegun bool) {
	r.mu.Lock()
	hasBegun = r.closing == nil || !r.closing.hasCause
	r.startClosingLocked(End{Side: Proxy, Cause: cause, Code: code}, reason)
	r.mu.Unlock()
	r.notify()
	return hasBegun
}

// Abort closes both connections at once, from New on; after Open a loop does so when Run
// or Start is called. It does not wait.
func (r *Relay) Abort(cause Cause) {
	r.mu.Lock()
	r.abortLocked(End{Side: Proxy, Cause: cause})
	r.mu.Unlock()
	r.notify()
}

func (r *Relay) abortLocked(end End) {
	c := r.recordLocked()
	isDone := r.client.isDoneLocked() && r.backend.isDoneLocked()
	if !c.hasCause {
		c.hasCause, c.end = true, end
	}
	c.end.Cut = c.end.Cut || !isDone
	for _, l := range [...]*leg{&r.client, &r.backend} {
		if l.mustClose {
			l.recordLocked().due |= interruptConn
		}
		l.closeLocked(abandonConn)
	}
}

// isDoneLocked reports whether all that l's peer is owed was written, and all that is
// wanted from it was read.
func (l *leg) isDoneLocked() bool {
	return l.mustClose || l.isInputOverLocked() && (l.write == writeClosed || l.write == writeShut || l.write == writeLost)
}

// isInputOverLocked reports whether nothing that may still come from l's peer matters.
func (l *leg) isInputOverLocked() bool {
	switch l.read {
	case readCloseReceived, readViolated, readEnded:
		return true
	}
	o := l.other()
	switch o.write {
	case writeClosed, writeTruncated, writeShut, writeLost:
		return true
	}
	return o.mustClose
}

// advanceLocked moves both legs as far towards their end as their states allow.
// setReadLocked and setWriteLocked call it, so that their callers need not.
func (r *Relay) advanceLocked() {
	r.client.advanceLocked()
	r.backend.advanceLocked()
	if r.closing.asksBackend && (r.backend.mustClose || r.backend.read > readDiscarding) {
		r.stopAskingLocked()
	}
}

// stopAskingLocked sends the client the Close frame that has waited for the backend.
func (r *Relay) stopAskingLocked() {
	r.closing.asksBackend = false
	r.client.enqueueCloseLocked(r.closing.toClient)
}

// advanceLocked closes l when its time has come, as far as states tell; what takes time
// is in tick. A leg may go when its input is over and its write half has ended.
//
// A client's stream is ended then: "the server MUST close the connection immediately".
// The client is closed at its own end of stream, because closing a socket with unread
// input sends a reset, which can destroy the Close frame on its way. A backend is closed
// after its end of stream, so that TIME_WAIT stays with the backend and does not use up
// our ports: a client "SHOULD wait for the server to close the connection".
// https://www.rfc-editor.org/rfc/rfc6455#section-7.1.1
func (l *leg) advanceLocked() {
	o := l.other()
	switch {
	case l.read == readOpen && (o.write != writeOpen || o.mustClose):
		l.setReadLocked(readDiscarding) // also where l is closed: its reader may have bytes still
		return
	case l.mustClose, !l.isInputOverLocked():
		return
	}
	switch l.write {
	case writeClosed:
		switch {
		case l.side == Client && (l.read == readCloseReceived || l.read == readEnded || l.conn().canShut()):
			// Where the stream cannot be ended alone, this closes the connection. The client
			// has time to answer first, because its answer would be unread input.
			l.setWriteLocked(writeShut)
		case l.side == Backend && l.read == readEnded:
			l.closeLocked(closeConn)
		}
	case writeShut:
		if l.read == readEnded {
			l.closeLocked(closeConn)
		}
	case writeLost:
		l.closeLocked(closeConn)
	}
}

// closeLocked makes the engine close l's connection in one of the ways of an [action].
func (l *leg) closeLocked(how action) {
	if l.mustClose {
		return
	}
	l.mustClose = true
	c := l.recordLocked()
	c.due = c.due&wakeReader | how
	if l.read != readEnded && (l.write == writeClosing || l.hasCloseLocked()) {
		l.r.closing.end.Cut = true // its Close frame will not be written
	}
	l.r.advanceLocked()
}

// cutLocked closes l because a limit of time has passed.
func (l *leg) cutLocked(how action) {
	l.r.recordLocked().end.Cut = true
	l.closeLocked(how)
}
