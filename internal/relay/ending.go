package relay

import (
	"io"
	"time"

	"github.com/wsproxy/wsproxy/internal/frame"
)

// longAgo is a deadline that wakes at once.
var longAgo = time.Unix(1, 0)

// A ward is how a direction's destination stands.
type ward uint8

const (
	// Frames pass. It ends when a Close frame is written, or nothing can be.
	open ward = iota

	// A Close frame has been written, the source's or ours. Nothing may follow:
	// "The application MUST NOT send any more data frames after sending a Close
	// frame." https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
	closed

	// No Close frame was written and none can be: the destination stands inside a
	// frame whose source has ended, or we have no patience left.
	severed

	// No Close frame was written and none need be: the destination is lost.
	gone
)

// An ending is what there is to know of a relay's end.
type ending struct {
	begun    bool      // end is set
	end      End       // of which there is only one cause, the first
	expireAt time.Time // when the event loop calls expire; zero: never
	up, down fate
}

// A fate is what there is to know of the end of a direction.
type fate struct {
	asked   farewell // what is to be written to the destination
	code    int      // of the Close frame of ours that was
	until   time.Time
	lostErr error // of a write to the source, which is what ended it
}

// endingLocked returns r's ending, which may not have begun yet.
func (r *Relay) endingLocked() *ending {
	if r.ending == nil {
		r.ending = new(ending)
	}
	return r.ending
}

// of returns d's part.
func (e *ending) of(d *direction) *fate {
	if d.from == Client {
		return &e.up
	}
	return &e.down
}

// fateLocked returns d's part in the end.
func (d *direction) fateLocked() *fate { return d.r.endingLocked().of(d) }

// beginLocked begins the end of the tunnel, unless it has begun: it notes the
// cause, asks both directions for the Close frames that the table of causes gives,
// and starts the clock.
func (r *Relay) beginLocked(end End, reason string) {
	e := r.endingLocked()
	if e.begun {
		return
	}
	e.begun = true
	e.end = end
	toClient, toBackend := farewells(end.Cause, end.Side)
	if end.Side == Proxy && end.Code != 0 {
		toClient = farewell{code: end.Code}
	}
	r.down.askLocked(toClient.with(reason))
	r.up.askLocked(toBackend.with(reason))
	if end.Cause != CauseShutdown {
		r.driver.expireInLocked(lingerTimeout)
	}
}

// expire ends the wait for answers: sides that have been sent a Close frame have
// had their time, and the rest is cut.
func (r *Relay) expire() {
	r.mu.Lock()
	defer r.unlock()
	if r.finished {
		return
	}
	e := r.endingLocked()
	late := e.end.Cut // it is the second time
	e.end.Cut = true
	switch {
	case !e.begun:
		// A side is lost, and the direction that could tell more of it is stuck in
		// a write to the other.
		r.beginLocked(r.lostLocked(), "")
		r.cutLocked()
	case r.up.ward != open && r.down.ward != open:
		r.finishLocked()
	case e.end.Cause == CauseClosed && !late:
		// Nobody answers the Close frame that a side has sent: we do.
		r.up.askLocked(echoOf(e.end.Code))
		r.down.askLocked(echoOf(e.end.Code))
		r.driver.expireInLocked(drainTimeout)
	default:
		r.cutLocked()
	}
}

// lostLocked returns the end of a tunnel of which one side takes nothing more.
func (r *Relay) lostLocked() End {
	d := &r.up
	if d.fateLocked().lostErr == nil {
		d = &r.down
	}
	return End{Side: d.from, Cause: CauseLost, Err: d.fateLocked().lostErr}
}

// settleLocked finishes, if both directions are settled.
func (r *Relay) settleLocked() {
	if r.up.isSettledLocked() && r.down.isSettledLocked() {
		r.finishLocked()
	}
}

// isSettledLocked reports whether nothing need be waited for in the direction: its
// destination has been sent a Close frame, or cannot be, and its source has sent
// one, or never will. What a source still sends to a destination that is lost
// reaches nobody: a backend that goes on pushing would be read for all of the
// linger, which costs as much as relaying does.
func (d *direction) isSettledLocked() bool {
	return d.ward == gone || d.ward != open && d.seen
}

// finishLocked closes the sockets in their order, because closing one with unread
// input sends a reset, which can destroy the Close frame on its way.
//
// Client: end our stream (see unlock), discard what comes until its end or
// drainTimeout, close.
//
// Backend: wait for its end of stream up to drainTimeout, then close. "The server
// MUST close the connection immediately", a client only "SHOULD wait": so
// TIME_WAIT is the backend's, and does not use up our ports.
// https://www.rfc-editor.org/rfc/rfc6455#section-7.1.1
func (r *Relay) finishLocked() {
	if r.finished {
		return
	}
	r.finished = true
	until := time.Now().Add(drainTimeout)
	r.down.limitLocked(until)
	if r.up.closeSeen && !r.up.src().canCloseWrite() {
		until = longAgo // our stream can only be ended by closing, and nothing more will come
	}
	r.up.limitLocked(until)
}

// unlock unlocks r.mu. If the relay has just finished, it then tells the client
// that nothing more will come, which over TLS may block for some seconds.
func (r *Relay) unlock() {
	hangUp := r.finished && !r.hungUp && !r.cut
	r.hungUp = r.hungUp || hangUp
	r.mu.Unlock()
	if hangUp {
		r.up.src().closeWrite()
	}
}

// cutLocked makes both directions end at once.
func (r *Relay) cutLocked() {
	e := r.endingLocked()
	e.end.Cut = e.end.Cut || !r.finished
	r.cut, r.finished = true, true
	for _, d := range [...]*direction{&r.up, &r.down} {
		d.marked.Store(true) // what has come must not be passed any more, if the mover sees it first
		d.src().interrupt()
	}
}

// close closes both connections, after both directions have ended. The lock must
// not be held meanwhile: over TLS it may take some seconds, and Goodbye and Cut
// never wait.
func (r *Relay) close() End {
	r.mu.Lock()
	shut := link.close
	if r.cut {
		shut = link.abandon
	}
	r.mu.Unlock()
	shut(r.up.src())
	shut(r.down.src())

	r.mu.Lock()
	defer r.mu.Unlock()
	end := r.endingLocked().end
	end.Cut = end.Cut || r.up.ward == severed || r.down.ward == severed
	end.Code = r.codeLocked()
	return end
}

// codeLocked returns the status code of the Close frame that ended the tunnel.
func (r *Relay) codeLocked() int {
	e := r.endingLocked()
	switch {
	case e.end.Cause == CauseClosed:
		return e.end.Code
	case e.down.code != 0:
		return e.down.code
	}
	return e.up.code
}

// What follows is a direction's part in the end. Methods without Locked are
// called by the direction's mover.

// askLocked asks for a Close frame at the next boundary.
func (d *direction) askLocked(f farewell) {
	if f.code == 0 || d.ward != open {
		return
	}
	d.fateLocked().asked = f
	d.wakeLocked()
}

// wakeLocked makes the direction's mover look how things stand.
func (d *direction) wakeLocked() {
	d.marked.Store(true)
	d.src().wake()
}

// limitLocked bounds how long the source is read from. Nothing else must be asked
// of the direction any more.
func (d *direction) limitLocked(until time.Time) {
	d.fateLocked().until = until
	d.src().limit(until)
}

// limit is limitLocked.
func (d *direction) limit(until time.Time) {
	d.r.mu.Lock()
	defer d.r.mu.Unlock()
	d.limitLocked(until)
}

// loseLocked notes that the destination is lost, and interrupts a write that waits
// for it.
func (d *direction) loseLocked() {
	if d.ward == open {
		d.ward = gone
		d.dst().interruptWrite()
		d.wakeLocked()
	}
}

// isOver tells why the mover was woken: the direction is over, or somebody wants
// something of it. Then it sets the limit that really holds.
func (d *direction) isOver() bool {
	d.r.mu.Lock()
	defer d.r.mu.Unlock()
	until := d.fateLocked().until
	if d.r.cut || !until.IsZero() && !time.Now().Before(until) {
		return true
	}
	d.src().rearm(until)
	return false
}

// closeRead notes that the source's Close frame has been read. It comes before
// the frame is passed on, else the answer could be taken for the first. It reports
// whether it is the last that the destination gets: once it is written, the relay
// finishes, and ends the stream.
func (d *direction) closeRead(code int) (isLast bool) {
	d.r.mu.Lock()
	defer d.r.unlock()
	d.deaf, d.seen, d.closeSeen = true, true, true
	d.r.beginLocked(End{Side: d.from, Cause: CauseClosed, Code: code}, "")
	d.r.settleLocked()
	return d.to() == Client && d.other().isSettledLocked()
}

// broke notes that the source broke a rule, and returns what the destination is
// still to be told.
func (d *direction) broke(v *frame.Violation) farewell {
	d.r.mu.Lock()
	defer d.r.unlock()
	cause := CauseTooBig
	if v.Code == frame.StatusProtocolError {
		cause = CauseProtocol
		d.deaf, d.seen = true, true // its stream cannot be parsed any more
	}
	d.r.beginLocked(End{Side: d.from, Cause: cause, Err: v}, v.Reason)
	d.r.settleLocked()
	return d.owedLocked()
}

// writeFailed notes that the destination is lost. Who hung up, and whether it
// said goodbye, is in what can still be read from it: the other direction gets
// drainTimeout to find out.
func (d *direction) writeFailed(err error) {
	d.r.mu.Lock()
	defer d.r.unlock()
	d.loseLocked()
	o := d.other()
	if f := o.fateLocked(); !o.seen && f.until.IsZero() {
		f.lostErr = err
		f.until = time.Now().Add(drainTimeout)
		o.wakeLocked() // it may have been woken already, and must not miss that
		if !d.r.ending.begun {
			d.r.driver.expireInLocked(lingerTimeout)
		}
	}
	d.r.settleLocked()
}

// sourceEnded notes that nothing more comes from the source, and returns what the
// destination is still to be told.
func (d *direction) sourceEnded(err error) farewell {
	d.r.mu.Lock()
	defer d.r.unlock()
	if lost := d.fateLocked().lostErr; isDeadline(err) && lost != nil {
		err = lost
	}
	d.r.beginLocked(End{Side: d.from, Cause: CauseLost, Err: err}, "")
	d.seen = true
	if err != io.EOF {
		d.other().loseLocked() // a reset: it takes nothing more either
	}
	d.r.settleLocked()
	return d.owedLocked()
}

// owedLocked returns what the destination is still to be told when its source can
// tell it nothing more.
func (d *direction) owedLocked() farewell {
	e := d.r.endingLocked()
	if e.end.Cause == CauseLost && e.end.Side == d.to() {
		d.loseLocked()
		d.r.settleLocked()
	}
	asked := e.of(d).asked
	switch {
	case d.ward != open || d.r.cut:
		return farewell{}
	case asked.code == 0 && e.end.Cause == CauseClosed:
		// The destination has sent its Close frame, and the source went away, or
		// wrong, instead of answering: the handshake is completed in its place.
		return echoOf(e.end.Code)
	}
	return asked
}

// A debt is how a direction's destination will stand once all is written that is
// kept for it.
type debt struct {
	ward ward
	code int // of a Close frame of ours
	own  int // the size of that frame
}

// settle notes how the destination stands, as soon as nothing is kept for it any
// more.
func (d *direction) settle(o debt) {
	if !d.dst().isFlushed() {
		d.owed = new(debt) // and not &o, which would be an allocation each time
		*d.owed = o
		return
	}
	d.settleNow(o)
	if o.ward == severed {
		d.breakOff()
	}
}

// flushed notes that nothing is kept for the destination any more.
func (d *direction) flushed() {
	if o := d.owed; o != nil {
		d.owed = nil
		d.settle(*o)
	}
}

func (d *direction) settleNow(o debt) {
	d.r.mu.Lock()
	defer d.r.unlock()
	if d.ward == open {
		d.ward = o.ward
		d.fateLocked().code = o.code
	}
	d.r.settleLocked()
}

// breakOff ends the stream to the destination inside a frame. That is all that it
// can be told, so it is told at once; where only closing tells it, what it still
// sends is not waited for.
func (d *direction) breakOff() {
	if d.dst().closeWrite() != nil {
		d.other().limit(longAgo)
	}
}

// echoOf returns what answers a Close frame with code: "When sending a Close frame
// in response, the endpoint typically echos the status code it received."
// https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
func echoOf(code int) farewell {
	if code == frame.StatusNoStatus || frame.ValidCode(code) {
		return farewell{code: code}
	}
	return farewell{code: frame.StatusProtocolError}
}
