package relay

import (
	"crypto/rand"
	"sync/atomic"

	"github.com/wsproxy/wsproxy/internal/frame"
)

// A direction is one half of a relay: it moves frames from its source to its
// destination.
type direction struct {
	r    *Relay // immutable
	from Side   // the source; immutable

	// Owned by the mover.
	done    bool // nothing is passed any more: ward is not open, or will not be
	deaf    bool // what the source still sends need not even be parsed
	ended   bool // the source has: nothing is read any more
	tracker frame.Tracker
	held    *piece // read, but not a whole header or control frame yet
	owed    *debt  // how the destination will stand once all is flushed

	// Written by the mover, read by anybody.
	counts counts

	// Set by those who have changed what is asked, or ward.
	marked atomic.Bool

	// Guarded by r.mu; see also ending.
	ward      ward
	seen      bool // the source has sent its Close frame, or never will
	closeSeen bool // the source has sent its Close frame
}

// A piece is what stands before the next step of a tracker can be told.
type piece struct {
	len   int
	bytes [frame.MaxHeld]byte
}

// head returns what stands before what will be read.
func (d *direction) head() []byte {
	if d.held == nil {
		return nil
	}
	return d.held.bytes[:d.held.len]
}

// to returns the destination.
func (d *direction) to() Side {
	if d.from == Client {
		return Backend
	}
	return Client
}

func (d *direction) src() link { return d.r.driver.link(d.from) }
func (d *direction) dst() link { return d.r.driver.link(d.to()) }

// other returns the opposite direction.
func (d *direction) other() *direction {
	if d == &d.r.up {
		return &d.r.down
	}
	return &d.r.up
}

// take handles what was read, after what was held back before it.
func (d *direction) take(p []byte) {
	if d.marked.Load() {
		// Somebody waits for a boundary: first the frame that is under way.
		n := d.tracker.Finish(p)
		d.write(p[:n])
		d.obey()
		p = p[n:]
	}
	if !d.done {
		p = d.pass(p)
	}
	d.discard(p)
}

// pass writes all whole frames of p, up to a Close frame or a broken rule, and
// returns what is left after that.
func (d *direction) pass(p []byte) (rest []byte) {
	n := 0
	for n < len(p) {
		step, err := d.tracker.Next(p[n:])
		if err != nil {
			d.write(p[:n])
			d.violate(err.(*frame.Violation))
			return p[n:]
		}
		if step.Len == 0 {
			d.write(p[:n])
			d.hold(p[n:])
			return nil
		}
		n += step.Len
		if step.Control == frame.Close {
			isLast := d.closeRead(frame.CloseCode(p[n-step.Len : n]))
			if d.writeOut(p[:n], isLast) {
				d.stop()
				d.settle(debt{ward: closed})
			}
			return p[n:]
		}
	}
	d.write(p)
	return nil
}

// discard parses p only to find the source's Close frame.
func (d *direction) discard(p []byte) {
	for len(p) > 0 && !d.deaf {
		step, err := d.tracker.Next(p)
		if err != nil {
			d.broke(err.(*frame.Violation))
			return
		}
		if step.Len == 0 {
			d.hold(p)
			return
		}
		if step.Control == frame.Close {
			d.closeRead(frame.CloseCode(p[:step.Len]))
		}
		p = p[step.Len:]
	}
}

// hold keeps p, which is less than a whole header or control frame.
func (d *direction) hold(p []byte) {
	d.held = new(piece)
	d.held.len = copy(d.held.bytes[:], p)
}

// drop forgets what is kept for the destination, which is lost or cut.
func (d *direction) drop() {
	n := d.dst().drop()
	if d.owed != nil {
		n -= min(n, d.owed.own)
		d.owed = nil
	}
	d.counts.bytes.Add(-uint64(n))
}

// stop makes what still comes be discarded, whatever its size.
func (d *direction) stop() {
	d.done = true
	d.tracker.Ignore()
}

// write writes p to the destination and reports whether it took all of it.
func (d *direction) write(p []byte) bool { return d.writeOut(p, false) }

// writeOut is write that may be told that the end of the stream follows.
func (d *direction) writeOut(p []byte, isLast bool) bool {
	if len(p) == 0 || d.done {
		return !d.done
	}
	n, err := d.dst().write(p, isLast)
	d.counts.bytes.Add(uint64(n))
	if err != nil {
		d.stop()
		d.writeFailed(err)
		return false
	}
	d.counts.messages.Add(uint64(d.tracker.TakeMessages()))
	return true
}

// obey looks what others want: it writes the Close frame that was asked for, if
// the destination stands at a boundary. Else the mark stays for the next time.
func (d *direction) obey() {
	if !d.marked.Load() {
		return
	}
	d.r.mu.Lock()
	atBoundary := d.tracker.AtBoundary()
	d.marked.Store(!atBoundary)
	isOpen, asked := d.ward == open && !d.r.cut, d.r.endingLocked().of(d).asked
	d.r.mu.Unlock()
	switch {
	case !isOpen:
		d.stop()
		d.drop()
	case atBoundary && asked.code != 0 && d.owed == nil:
		d.say(asked)
	}
}

// say writes a Close frame of ours. The destination stands at a boundary.
func (d *direction) say(f farewell) {
	var key *[4]byte
	if d.to() == Backend {
		key = new([4]byte)
		rand.Read(key[:]) // never fails
	}
	d.stop()
	n, err := d.dst().write(frame.AppendClose(nil, f.code, f.reason, key), false)
	if err != nil {
		d.writeFailed(err)
		return
	}
	d.settle(debt{closed, f.code, n})
}

// violate ends the tunnel because the source broke a rule. The destination stands
// at a boundary.
func (d *direction) violate(v *frame.Violation) {
	if f := d.broke(v); f.code != 0 {
		d.say(f)
	}
	d.stop()
}

// finish ends the direction: nothing more will be read. What was held back is
// dropped, for nothing of it has been written.
func (d *direction) finish(err error) {
	d.ended = true
	f := d.sourceEnded(err)
	switch {
	case d.done || f.code == 0:
	case d.tracker.AtBoundary() || d.takeBack():
		d.say(f)
	default:
		d.stop()
		d.settle(debt{ward: severed})
	}
}

// takeBack removes the frame that is under way from what the destination has not
// taken yet, if nothing of it was written.
func (d *direction) takeBack() bool {
	n := d.tracker.Begun()
	if !d.dst().takeBack(n) {
		return false
	}
	d.counts.bytes.Add(-n)
	return true
}
