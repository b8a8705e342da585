package relay

import (
	"crypto/rand"
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/internal/frame"
)

// A direction is one half of a relay: it moves frames from src to dst.
type direction struct {
	// Immutable.
	r        *Relay
	src, dst link
	from, to Side

	// Owned by the mover.
	tracker frame.Tracker
	held    []byte // read, but not a whole header or control frame yet
	done    bool   // nothing is passed any more: ward is not open, or will not be
	deaf    bool   // what the source still sends need not even be parsed
	ended   bool   // the source has: nothing is read any more
	owed    *debt  // what the destination will be once all is flushed

	// Written by the mover, read by anybody.
	counts counts

	// Set by those who have changed asked or ward.
	marked atomic.Bool

	// Guarded by r.mu.
	ward      ward
	asked     farewell // what is to be written to dst
	code      int      // of the Close frame of ours that was written to dst
	seen      bool     // src has sent its Close frame, or never will
	closeSeen bool     // src has sent its Close frame
	until     time.Time
	lostErr   error // of a write to src, which is what ended it
}

func (d *direction) init(r *Relay, src, dst link, from, to Side, rules frame.Rules) {
	d.r, d.src, d.dst, d.from, d.to = r, src, dst, from, to
	d.tracker.Rules = rules
}

// other returns the opposite direction.
func (d *direction) other() *direction {
	if d == &d.r.up {
		return &d.r.down
	}
	return &d.r.up
}

// take handles what was read, behind what was held back before it.
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
// returns what is left behind that.
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
			d.closeRead(frame.CloseCode(p[n-step.Len : n]))
			if d.write(p[:n]) {
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
func (d *direction) hold(p []byte) { d.held = append([]byte(nil), p...) }

// drop forgets what is kept for the destination, which is lost or cut.
func (d *direction) drop() {
	n := d.dst.drop()
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
func (d *direction) write(p []byte) bool {
	if len(p) == 0 || d.done {
		return !d.done
	}
	n, err := d.dst.write(p)
	d.counts.bytes.Add(uint64(n))
	if err != nil {
		d.stop()
		d.writeFailed(err)
		return false
	}
	d.counts.messages.Store(d.tracker.Messages())
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
	isOpen, asked := d.ward == open && !d.r.cut, d.asked
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
	if d.to == Backend {
		key = new([4]byte)
		rand.Read(key[:]) // never fails
	}
	d.stop()
	n, err := d.dst.write(frame.AppendClose(nil, f.code, f.reason, key))
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
	if !d.dst.takeBack(n) {
		return false
	}
	d.counts.bytes.Add(-n)
	return true
}
