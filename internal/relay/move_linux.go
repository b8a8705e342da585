//go:build linux && !wsproxy_portable

package relay

import (
	"github.com/wsproxy/wsproxy/internal/epoll"
)

const (
	// spliceMin is how much of a payload must be left for it to go through a pipe:
	// below, two calls that copy cost less than two that do not.
	spliceMin = 32 << 10

	// spliceSize is how much goes into the pipe at once. The part that the
	// destination does not take is buffered in memory, so it is as small as a read:
	// below 64 KiB.
	spliceSize = 56 << 10

	// turnSize is how many bytes one direction moves at most while others wait.
	turnSize = 256 << 10
)

// move moves a bounded part of what there is to read from d.
func (l *loop) move(d *leg) {
	t := d.r.driver.(*loopDriver)
	src, dst := t.loopConn(d.side), t.loopConn(d.other().side)
	switch {
	case !t.mayMove(d):
		return
	case src.buffers != nil && len(src.buffers.early) > 0:
		d.handle(src.takeEarly())
	case d.mayBeSpliced(src, dst) && l.pipe.acquire():
		l.splice(d, src, dst)
	default:
		l.read(d, src, dst)
	}
	if !t.isHeld && d.isOverRate() {
		t.isHeld = true
		l.sweepTunnel(t)
	}
}

// mayMove reports whether there may be something to move from d at once.
func (t *loopDriver) mayMove(d *leg) bool {
	src := t.loopConn(d.side)
	return !src.isClosed && src.mayBeRead(d, t.loopConn(d.other().side))
}

// mayBeRead reports whether c is to be read now. While something is buffered for dst,
// c is not read, unless its frames are dropped, or its end has come: then what is left of
// a frame that will never be whole may still be taken back. A client that exceeds its rate
// is not read before a tick, unless the tunnel ends or nothing more can come.
func (c *loopConn) mayBeRead(d *leg, dst *loopConn) bool {
	if !c.isReadable && (c.buffers == nil || len(c.buffers.early) == 0) {
		return false
	}
	if d.side == Client && c.t.isHeld && c.hangUp == present && (!d.r.attention.Load() || d.isOverRate()) {
		return false
	}
	n := dst.buffered()
	return n == 0 || c.hangUp != present && n < readSize || d.r.attention.Load() && d.readState() != readOpen
}

// read moves the bytes of one read.
func (l *loop) read(d *leg, src, dst *loopConn) {
	held := copy(l.buf, d.head())
	room := l.buf[held:]
	if n := dst.buffered(); n < readSize {
		room = room[:len(room)-n]
	}
	n, err := src.socket.Read(room)
	if err != nil {
		src.isReadable, src.isUrgent = false, false
		if err != epoll.ErrAgain {
			d.ended(err)
		}
		return
	}
	// Less than there was room for is all that there was: but for a mark, and but for
	// descriptors that the other end of a unix socket sends along, which harms itself.
	src.isReadable = src.hangUp != present || src.isUrgent || n == len(room)
	d.handle(l.buf[:held+n])
}

// mayBeSpliced reports whether so much payload is to come that need not be seen. At a
// mark a splice finds nothing, or the end.
func (d *leg) mayBeSpliced(src, dst *loopConn) bool {
	return d.tracker.Rest() >= spliceMin && dst.buffered() == 0 && !src.isUrgent && (!d.r.attention.Load() || d.readState() == readOpen)
}

// splice moves payload through the pipe.
func (l *loop) splice(d *leg, src, dst *loopConn) {
	o := d.other()
	for moved := 0; moved < turnSize && d.tracker.Rest() > 0 && dst.buffered() == 0; {
		n, err := l.pipe.Fill(&src.socket, int(min(d.tracker.Rest(), spliceSize)))
		if err != nil {
			src.isReadable, src.isUrgent = false, false
			if err != epoll.ErrAgain {
				d.ended(err)
			}
			return
		}
		d.heard()
		if d.r.attention.Load() {
			d.receive()
		}
		d.tracker.Skip(n)
		moved += n
		m, err := l.pipe.Drain(&dst.socket, n)
		o.passed.bytes.Add(uint64(m))
		if err == epoll.ErrAgain {
			dst.buffer(l.pipe.takeAll(n - m))
			o.passed.bytes.Add(uint64(n - m))
			err = nil
		}
		if err != nil {
			l.pipe.close() // with what is in it
			o.writeFailed(err)
			return
		}
		d.stampPassed()
		messages := uint64(d.tracker.TakeMessages())
		o.passed.messages.Add(messages)
		d.countRead(n, messages)
		if d.isOverRate() {
			return
		}
	}
}

// A pipe is a loop's, and empty between turns. One is enough for all tunnels of a loop,
// and the loop keeps it.
type pipe struct {
	*epoll.Pipe     // nil until it is needed, and while there can be none
	without     int // splices to do without, after there could be none
}

// acquire reports whether there is a pipe, and opens it when it is first needed. Out of
// descriptors, bytes are copied.
func (p *pipe) acquire() bool {
	if p.Pipe != nil {
		return true
	}
	if p.without > 0 {
		p.without--
		return false
	}
	var err error
	if p.Pipe, err = epoll.NewPipe(); err != nil {
		p.Pipe, p.without = nil, 1000
	}
	return err == nil
}

// takeAll takes the n bytes out that are in the pipe.
func (p *pipe) takeAll(n int) []byte {
	b := make([]byte, n)
	for read := 0; read < n; {
		m, err := p.Read(b[read:])
		if err != nil || m == 0 {
			panic("BUG: a pipe holds less than was put in")
		}
		read += m
	}
	return b
}

func (p *pipe) close() {
	if p.Pipe != nil {
		p.Close()
		p.Pipe = nil
	}
}
