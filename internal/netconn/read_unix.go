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
	net string
	try func(fd uintptr) bool // r.read, made once: a closure a call would be an allocation a call

	large bool // the last read filled a small buffer, or would have

	// Arguments and results of try, valid during one call of fill.
	head []byte
	buf  *Buffer
	err  error
}

// newReader returns a reader for plain sockets.
func newReader(c net.Conn) reader {
	raw := rawConn(c)
	if raw == nil {
		return nil
	}
	r := &rawReader{raw: raw, net: c.LocalAddr().Network()}
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
	n, err := syscall.Read(int(fd), b.space())
	for err == syscall.EINTR {
		n, err = syscall.Read(int(fd), b.space())
	}
	if n > 0 {
		b.grow(n)
		r.large = b.len >= smallSize
		r.buf = b
		return true
	}
	b.Free()
	switch err {
	case syscall.EAGAIN:
		return false
	case nil:
		r.err = io.EOF
	default:
		r.err = &net.OpError{Op: "read", Net: r.net, Err: os.NewSyscallError("read", err)}
	}
	return true
}
