//go:build linux && !wsproxy_portable

package relay

import (
	"github.com/wsproxy/wsproxy/internal/epoll"
)

const (
	// spliceMin is how much of a payload must be left for it to go through a pipe:
	// below, two calls that copy cost less than two that do not.
	spliceMin = 32 << 10

	// spliceSize is how much goes into the pipe at once. What the destination does
	// not take of it is kept in memory, so that it is bounded as what a read
	// returns is: below 64 KiB.
	spliceSize = 56 << 10

	// turnSize bounds what one direction moves while others wait.
	turnSize = 256 << 10
)

// move moves a bounded part of what d has to move, and reports whether there may
// be more at once.
func (l *loop) move(d *direction) (again bool) {
	d.obey()
	src, dst := d.src().(*keeping), d.dst().(*keeping)
	switch {
	case d.ended || !src.mayBeRead(dst):
		return false
	case src.hasEarly:
		d.take(src.t.takeEarly(src))
	case d.mayBeSpliced(src, dst) && l.pipe.open():
		l.splice(d, src, dst)
	default:
		l.read(d, src, dst)
	}
	d.obey()
	return src.mayBeRead(dst) && !d.ended
}

// mayBeRead reports whether c is to be read now, for dst. While something is kept
// for dst nothing more is read, unless c's end has come: then what is left of a
// frame that will never be whole may still be taken back.
func (c *keeping) mayBeRead(dst *keeping) bool {
	if !c.isReadable && !c.hasEarly {
		return false
	}
	return dst.kept == nil || c.isLast && len(*dst.kept) < readSize
}

// read moves what one read returns.
func (l *loop) read(d *direction, src, dst *keeping) {
	held := copy(l.buf, d.head())
	room := l.buf[held : len(l.buf)-dst.numKept()]
	n, err := src.socket().Read(room)
	if err != nil {
		src.readFailed(d, err)
		return
	}
	// Less than there was room for is all that there was: but for a mark, and but for
	// descriptors that the other end of a unix socket sends along, which harms itself.
	src.isReadable = src.isLast || src.isUrgent || n == len(room)
	d.held = nil
	d.take(l.buf[:held+n])
}

// readFailed notes that a read has found nothing.
func (c *keeping) readFailed(d *direction, err error) {
	c.isReadable, c.isUrgent = false, false
	if err != epoll.ErrAgain {
		d.finish(err)
	}
}

// mayBeSpliced reports whether so much payload is to come that nobody need see it. At a
// mark a splice finds nothing, or the end.
func (d *direction) mayBeSpliced(src, dst *keeping) bool {
	return d.tracker.Rest() >= spliceMin && !d.done && dst.kept == nil && !src.isUrgent
}

// splice moves payload through the pipe.
func (l *loop) splice(d *direction, src, dst *keeping) {
	for moved := 0; moved < turnSize && d.tracker.Rest() > 0 && dst.kept == nil; {
		n, err := l.pipe.Fill(src.socket(), int(min(d.tracker.Rest(), spliceSize)))
		if err != nil {
			src.readFailed(d, err)
			return
		}
		d.tracker.Skip(n)
		moved += n
		m, err := l.pipe.Drain(dst.socket(), n)
		d.counts.bytes.Add(uint64(m))
		if err == epoll.ErrAgain {
			dst.keep(l.pipe.empty(n - m))
			d.counts.bytes.Add(uint64(n - m))
			err = nil
		}
		if err != nil {
			l.pipe.close() // with what is in it
			d.stop()
			d.writeFailed(err)
			return
		}
		d.counts.messages.Add(uint64(d.tracker.TakeMessages()))
	}
}

// A pipe is a loop's, and empty between turns: a direction has it only while its
// bytes move. So one is enough for all tunnels of a loop, whoever keeps up or not, and
// the loop keeps it.
type pipe struct {
	*epoll.Pipe     // nil until it is needed, and while there can be none
	without     int // splices to do without, after there could be none
}

// open reports whether there is a pipe. Out of descriptors, bytes are copied.
func (p *pipe) open() bool {
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

// empty returns the n bytes that are in the pipe.
func (p *pipe) empty(n int) []byte {
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
