//go:build windows

package netconn

import (
	"net"
	"syscall"
)

// A rawReader waits for readability by the runtime's zero-byte read, and takes a
// buffer only after it.
type rawReader struct {
	conn   net.Conn
	raw    syscall.RawConn
	try    func(fd uintptr) bool // r.wait, made once
	waited bool
}

// newReader returns a reader for plain sockets.
func newReader(c net.Conn) reader {
	raw := rawConn(c)
	if raw == nil {
		return nil
	}
	r := &rawReader{conn: c, raw: raw}
	r.try = r.wait
	return r
}

func (r *rawReader) fill(head []byte) (*Buffer, error) {
	r.waited = false
	if err := r.raw.Read(r.try); err != nil {
		return nil, err
	}
	b := largeBuffers.get(head)
	n, err := r.conn.Read(b.space())
	if n == 0 {
		b.Free()
		return nil, err
	}
	b.extend(n)
	return b, nil
}

// wait lets the runtime wait once: it calls this again when there is something.
func (r *rawReader) wait(uintptr) bool {
	done := r.waited
	r.waited = true
	return done
}
