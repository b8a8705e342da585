package memnet

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
)

const listenerAddr addr = "192.0.2.2:80"

// A Listener is a [net.Listener]. Its Dial connects to it.
type Listener struct {
	bufferBytes int

	mu        sync.Mutex
	changed   sync.Cond // for changes of queue and isClosed
	queue     []*Conn   // dialed, not yet accepted
	isClosed  bool
	numDialed int
}

// Listen returns a Listener whose connections have buffers of bufferBytes; see
// [Pipe].
func Listen(bufferBytes int) *Listener {
	l := &Listener{bufferBytes: bufferBytes}
	l.changed.L = &l.mu
	return l
}

// Accept waits for the next dialed connection, a [*Conn].
func (l *Listener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if l.isClosed {
			return nil, l.opError("accept", net.ErrClosed)
		}
		if len(l.queue) > 0 {
			c := l.queue[0]
			l.queue = l.queue[1:]
			return c, nil
		}
		l.changed.Wait()
	}
}

// Close makes Accept and Dial fail, and resets the connections that were not
// accepted.
func (l *Listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed {
		return l.opError("close", net.ErrClosed)
	}
	l.isClosed = true
	for _, c := range l.queue {
		c.Reset()
	}
	l.queue = nil
	l.changed.Broadcast()
	return nil
}

// Addr returns the RemoteAddr of dialed connections.
func (l *Listener) Addr() net.Addr { return listenerAddr }

// Dial returns the client's end of a new connection, a [*Conn], and queues the
// other end for Accept. Like a kernel with a backlog it does not wait for Accept,
// so it uses ctx only to check whether it is done. Each connection has a LocalAddr
// of its own.
func (l *Listener) Dial(ctx context.Context) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, l.opError("dial", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed {
		return nil, l.opError("dial", syscall.ECONNREFUSED)
	}
	l.numDialed++
	dialer := addr(fmt.Sprintf("192.0.2.1:%d", 1024+l.numDialed))
	front, back := pipe(l.bufferBytes, dialer, listenerAddr)
	l.queue = append(l.queue, back)
	l.changed.Broadcast()
	return front, nil
}

// DialContext is Dial with the signature that an http.Transport wants. It ignores
// the network and the address.
func (l *Listener) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return l.Dial(ctx)
}

func (l *Listener) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: listenerAddr.Network(), Addr: listenerAddr, Err: err}
}
