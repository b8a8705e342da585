package netconn

import (
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// A tlsReader reads from a TLS connection that another package has created, such
// as a client's connection from net/http. crypto/tls reads ahead into its own
// buffers, so the tlsReader must call Read, and needs a buffer while it waits. It
// uses a tiny buffer. If a read fills it, the tlsReader reads the rest of the
// record with a deadline in the past: such a read returns the bytes that
// crypto/tls has, and does not wait.
type tlsReader struct {
	conn *tls.Conn

	// Owned by the goroutine that calls fill.
	large bool // the last record that did not fit into the tiny buffer filled a small one, or would have

	mu        sync.Mutex
	deadline  time.Time // of setReadDeadline
	isPolling bool      // conn has a deadline in the past, in place of deadline
}

// newTLSReader returns a reader for TLS over a plain socket, and nil for other
// connections: a wrapper may not support deadlines.
func newTLSReader(c net.Conn) *tlsReader {
	t, ok := c.(*tls.Conn)
	if !ok || plainSocket(t.NetConn()) == nil {
		return nil
	}
	return &tlsReader{conn: t}
}

func (r *tlsReader) fill(head []byte) (*Buffer, error) {
	b := waitBuffers.get(head)
	n, err := r.conn.Read(b.space())
	if n == 0 {
		b.Free()
		return nil, err
	}
	b.extend(n)
	if len(b.space()) == 0 {
		b = r.readRest(b)
	}
	return b, nil // the next read returns an error again
}

// readRest returns a buffer with the bytes of b and the rest of the record. It
// frees b.
func (r *tlsReader) readRest(b *Buffer) *Buffer {
	pool := &smallBuffers
	if r.large {
		pool = &largeBuffers
	}
	whole := pool.get(b.Bytes())
	b.Free()
	r.beginPoll()
	n, _ := r.conn.Read(whole.space()) // the error is a timeout, or the next read returns it again
	r.endPoll()
	whole.extend(n)
	r.large = whole.len >= smallSize
	return whole
}

// beginPoll sets a deadline in the past, so that reads return at once.
func (r *tlsReader) beginPoll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.isPolling = true
	r.conn.SetReadDeadline(longAgo)
}

// endPoll sets the deadline of setReadDeadline again.
func (r *tlsReader) endPoll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.isPolling = false
	r.conn.SetReadDeadline(r.deadline)
}

// setReadDeadline implements Conn.SetReadDeadline. During a poll, endPoll sets the
// deadline.
func (r *tlsReader) setReadDeadline(t time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deadline = t
	if r.isPolling {
		return nil
	}
	return r.conn.SetReadDeadline(t)
}
