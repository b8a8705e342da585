package memnet

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// The errors of a closed connection, in the form of socket errors.
var (
	errReadReset  = os.NewSyscallError("read", syscall.ECONNRESET)
	errWriteReset = os.NewSyscallError("write", syscall.ECONNRESET)
	errPipe       = os.NewSyscallError("write", syscall.EPIPE)
)

// A stream is one direction of a connection. It is out of the writing end, and in
// of the reading end.
type stream struct {
	limitBytes int

	mu      sync.Mutex
	changed sync.Cond // for changes of all fields below

	buf       bytes.Buffer
	isWriting bool // a write is in progress; other writes wait for its end
	isEnded   bool // no bytes follow those in buf

	readErr, writeErr           error // the result of all further calls; nil while the side is open
	readDeadline, writeDeadline deadline
}

// A deadline is guarded by its stream's mu.
type deadline struct {
	timer    *time.Timer // nil before the first deadline
	numStops int
	isPassed bool
}

// defaultBufferBytes is more than most messages of tests have.
const defaultBufferBytes = 64 << 10

func newStream(limitBytes int) *stream {
	if limitBytes < 0 {
		panic(fmt.Sprintf("memnet: buffer of %d bytes", limitBytes))
	}
	if limitBytes == 0 {
		limitBytes = defaultBufferBytes
	}
	s := &stream{limitBytes: limitBytes}
	s.changed.L = &s.mu
	return s
}

func (s *stream) read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.readErr != nil:
			return 0, s.readErr
		case s.readDeadline.isPassed:
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		case s.buf.Len() > 0:
			s.changed.Broadcast()
			return s.buf.Read(b)
		case s.isEnded:
			return 0, io.EOF
		}
		s.changed.Wait()
	}
}

func (s *stream) write(b []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.beginWriteLocked(); err != nil {
		return 0, err
	}
	defer s.endWriteLocked()
	for {
		if err := s.writeFaultLocked(); err != nil {
			return n, err
		}
		if m := min(len(b)-n, s.limitBytes-s.buf.Len()); m > 0 {
			s.buf.Write(b[n : n+m])
			n += m
			s.changed.Broadcast()
		}
		if n == len(b) {
			return n, nil
		}
		s.changed.Wait()
	}
}

// beginWriteLocked waits until no other write is in progress. It does not use a
// second mutex, because waiting for a mutex does not block durably.
func (s *stream) beginWriteLocked() error {
	for s.isWriting {
		if err := s.writeFaultLocked(); err != nil {
			return err
		}
		s.changed.Wait()
	}
	s.isWriting = true
	return nil
}

func (s *stream) endWriteLocked() {
	s.isWriting = false
	s.changed.Broadcast()
}

func (s *stream) writeFaultLocked() error {
	if s.writeErr == nil && s.writeDeadline.isPassed {
		return os.ErrDeadlineExceeded
	}
	return s.writeErr
}

// shutdown ends the stream. The writing end stays open for reading.
func (s *stream) shutdown() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writeErr != nil && s.writeErr != errPipe {
		return s.writeErr
	}
	s.isEnded = true
	s.writeErr = errPipe
	s.changed.Broadcast()
	return nil
}

func (s *stream) closeWriter() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isEnded = true
	s.endWriterLocked()
}

func (s *stream) closeReader() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writeErr == nil {
		s.writeErr = errPipe
	}
	s.endReaderLocked()
}

func (s *stream) resetWriter() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readErr == nil {
		s.readErr = errReadReset
	}
	s.buf.Reset()
	s.endWriterLocked()
}

func (s *stream) resetReader() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writeErr != net.ErrClosed {
		s.writeErr = errWriteReset
	}
	s.endReaderLocked()
}

func (s *stream) endWriterLocked() {
	s.writeErr = net.ErrClosed
	s.writeDeadline.stop()
	s.changed.Broadcast()
}

func (s *stream) endReaderLocked() {
	s.readErr = net.ErrClosed
	s.buf.Reset()
	s.readDeadline.stop()
	s.changed.Broadcast()
}

// setDeadline sets d, which is one of the stream's deadlines. The zero time means
// no deadline.
func (s *stream) setDeadline(d *deadline, t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d.stop()
	d.isPassed = false
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		d.isPassed = true
		s.changed.Broadcast()
		return
	}
	numStops := d.numStops
	d.timer = time.AfterFunc(left, func() { s.expire(d, numStops) })
}

// expire marks d as passed. The timer that was started after numStops calls of stop
// calls it. If stop was called again, the timer fired too late to be stopped, and
// expire does nothing.
func (s *stream) expire(d *deadline, numStops int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.numStops == numStops {
		d.isPassed = true
		s.changed.Broadcast()
	}
}

func (d *deadline) stop() {
	d.numStops++
	if d.timer != nil {
		d.timer.Stop()
	}
}
