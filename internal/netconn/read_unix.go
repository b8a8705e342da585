//go:build unix

package netconn

import (
	"io"
	"net"
	"os"
	"syscall"
)

// A rawReader waits for readability with the runtime's poller, and gets a buffer
// only when there are bytes to read.
type rawReader struct {
	raw syscall.RawConn
	src source
	try func(fd uintptr) bool // r.read; stored to avoid the allocation of a closure in each call

	large bool // the last read filled a small buffer, or would have

	// Arguments and results of try, valid during one call of fill.
	head []byte
	buf  *Buffer
	err  error
}

// A source can be read without waiting.
type source interface {
	// readNow reads from fd. The error is errWouldBlock if there are no bytes, and
	// io.EOF at the end of stream. It returns either an error or at least one byte.
	readNow(fd int, p []byte) (int, error)
}

// newReader returns a reader for a plain socket, or for TLS over one that
// [TLSClient] returned. For other connections it returns nil.
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

// read tries to read from fd, and reports whether it is done. If it returns false,
// the poller waits and calls it again. It must always try to read: the poller is
// edge-triggered, and a call that only asked to wait could miss bytes that have
// arrived already.
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
		return true // the next read returns an error again
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

// errWouldBlock is the error of a read that would have to wait. For crypto/tls it
// is a deadline that has passed: it stores the part of a record that it has read,
// and continues with the next call.
var errWouldBlock error = wouldBlockError{}

type wouldBlockError struct{}

func (wouldBlockError) Error() string   { return "nothing to read yet" }
func (wouldBlockError) Timeout() bool   { return true }
func (wouldBlockError) Temporary() bool { return true }
