package netconn

import (
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// A tlsReader reads from a TLS connection that somebody else has made, as
// net/http makes a client's. It reads ahead into buffers that nobody can see, so
// it must be given a buffer before it waits. That is a tiny one: how much is left
// of a record that fills it is found out with a deadline that has passed, under
// which a read returns what crypto/tls has, and does not wait.
type tlsReader struct {
	conn *tls.Conn

	// Owned by the goroutine that calls fill.
	large bool // the last record that was too much for the held buffer filled a small one, or would have

	mu        sync.Mutex
	deadline  time.Time // of reads, as others have set it
	isPolling bool      // the deadline of conn is another one for the moment
}

// newTLSReader returns nil unless c is TLS over a plain socket: of a wrapper it is
// not known what it does with a deadline.
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
	return b, nil // an error will come again
}

// readRest returns what is in b, which it frees, and after it what is left of the
// record.
func (r *tlsReader) readRest(b *Buffer) *Buffer {
	pool := &smallBuffers
	if r.large {
		pool = &largeBuffers
	}
	whole := pool.get(b.Bytes())
	b.Free()
	r.beginPoll()
	n, _ := r.conn.Read(whole.space()) // an error is the deadline's, or will come again
	r.endPoll()
	whole.extend(n)
	r.large = whole.len >= smallSize
	return whole
}

// beginPoll makes reads return at once, until endPoll.
func (r *tlsReader) beginPoll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.isPolling = true
	r.conn.SetReadDeadline(longAgo)
}

func (r *tlsReader) endPoll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.isPolling = false
	r.conn.SetReadDeadline(r.deadline)
}

// setReadDeadline is SetReadDeadline for everybody else.
func (r *tlsReader) setReadDeadline(t time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deadline = t
	if r.isPolling {
		return nil
	}
	return r.conn.SetReadDeadline(t)
}
