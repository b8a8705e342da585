package relay

import (
	"crypto/rand"
	"errors"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/wsproxy/wsproxy/internal/frame"
	"github.com/wsproxy/wsproxy/internal/netconn"
)

// A direction is one half of a relay: it moves frames from src to dst.
type direction struct {
	// Immutable.
	r        *Relay
	src, dst *netconn.Conn
	from, to Side

	// Owned by the direction's goroutine.
	tracker frame.Tracker
	held    []byte // read, but not a whole header or control frame yet
	done    bool   // nothing is passed any more: ward is not open
	deaf    bool   // what the source still sends need not even be parsed

	// Written by the direction's goroutine, read by anybody.
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

func (d *direction) init(r *Relay, src, dst *netconn.Conn, from, to Side, rules frame.Rules) {
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

// run moves frames until the source has ended.
func (d *direction) run() {
	for {
		d.obey()
		b, err := d.src.Fill(d.held)
		if err != nil {
			if isDeadline(err) && !d.isOver() {
				continue
			}
			d.finish(err)
			return
		}
		d.held = nil
		d.take(b.Bytes())
		b.Free()
	}
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
				d.settle(closed, 0)
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
	n, err := d.dst.Write(p)
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
	case atBoundary && asked.code != 0:
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
	if _, err := d.dst.Write(frame.AppendClose(nil, f.code, f.reason, key)); err != nil {
		d.writeFailed(err)
		return
	}
	d.settle(closed, f.code)
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
	f := d.sourceEnded(err)
	switch {
	case d.done || f.code == 0:
	case d.tracker.AtBoundary():
		d.say(f)
	default:
		d.breakOff()
	}
}

// breakOff ends the stream to the destination inside a frame. That is all that it
// can be told, so it is told at once; where only closing tells it, what it still
// sends is not waited for.
func (d *direction) breakOff() {
	d.settle(severed, 0)
	if d.dst.CloseWrite() != nil {
		d.other().limit(longAgo)
	}
}

// isDeadline reports whether err says that a read deadline has passed. What the
// kernel says of a peer that is dead, ETIMEDOUT, is a timeout as well.
func isDeadline(err error) bool {
	return os.IsTimeout(err) && !errors.Is(err, syscall.ETIMEDOUT)
}
