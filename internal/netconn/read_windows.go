//go:build windows

package netconn

import (
	"net"
	"syscall"
)

// A rawReader waits for readability with the runtime's zero-byte read, and gets a
// buffer only after it.
type rawReader struct {
	conn   net.Conn
	raw    syscall.RawConn
	try    func(fd uintptr) bool // r.wait; stored to avoid an allocation in each call
	waited bool
}

// newReader returns a reader for a plain socket, and nil for other connections.
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

// wait makes the runtime wait once. The runtime calls it again when the connection
// is readable.
func (r *rawReader) wait(uintptr) bool {
	done := r.waited
	r.waited = true
	return done
}
