//go:build unix

package netconn

import (
	"io"
	"net"
	"os"
	"syscall"
)

// A rawReader waits for readability through the runtime's poller and takes a
// buffer only when there is something to put into it.
type rawReader struct {
	raw syscall.RawConn
	src source
	try func(fd uintptr) bool // r.read, made once: a closure a call would be an allocation a call

	large bool // the last read filled a small buffer, or would have

	// Arguments and results of try, valid during one call of fill.
	head []byte
	buf  *Buffer
	err  error
}

// A source is read from without waiting.
type source interface {
	// readNow reads from fd. The error is errWouldBlock if nothing has come, io.EOF at
	// the end; there is either an error or a byte.
	readNow(fd int, p []byte) (int, error)
}

// newReader returns a reader for plain sockets, and for TLS that [TLSClient] made
// over one.
func newReader(c net.Conn) reader {
	r := new(rawReader)
	if t := newTLSSource(c); t != nil {
		r.raw, r.src = rawConn(t.socket.Conn), t
	} else {
		r.raw, r.src = rawConn(c), socket{c}
	}
	if r.raw == nil {
		return nil
	}
	r.try = r.read
	return r
}

func (r *rawReader) fill(head []byte) (*Buffer, error) {
	r.head = head
	if err := r.raw.Read(r.try); err != nil {
		return nil, err
	}
	b, err := r.buf, r.err
	r.head, r.buf, r.err = nil, nil, nil
	return b, err
}

// read tries to read, and reports whether that is all: false means that there
// is nothing yet. The attempt must be made here: the poller is edge-triggered and
// calls this before it waits, so that a callback which only waited could wait for
// bytes that have come already.
func (r *rawReader) read(fd uintptr) bool {
	pool := &smallBuffers
	if r.large {
		pool = &largeBuffers
	}
	b := pool.get(r.head)
	n, err := r.src.readNow(int(fd), b.space())
	if n > 0 {
		b.extend(n)
		r.large = b.len >= smallSize
		r.buf = b
		return true // an error will come again
	}
	b.Free()
	if err == errWouldBlock {
		return false
	}
	r.err = err
	return true
}

// A socket is a plain socket as a source.
type socket struct{ net.Conn }

func (s socket) readNow(fd int, p []byte) (int, error) {
	n, err := syscall.Read(fd, p)
	for err == syscall.EINTR {
		n, err = syscall.Read(fd, p)
	}
	switch {
	case n > 0:
		return n, nil
	case err == syscall.EAGAIN:
		return 0, errWouldBlock
	case err == nil:
		return 0, io.EOF
	}
	return 0, &net.OpError{Op: "read", Net: s.LocalAddr().Network(), Err: os.NewSyscallError("read", err)}
}

// errWouldBlock is what crypto/tls takes for a deadline that has passed: it keeps what
// it has read of a record, and goes on with it the next time.
var errWouldBlock error = wouldBlockError{}

type wouldBlockError struct{}

func (wouldBlockError) Error() string   { return "nothing to read yet" }
func (wouldBlockError) Timeout() bool   { return true }
func (wouldBlockError) Temporary() bool { return true }
