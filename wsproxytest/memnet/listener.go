package memnet

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
)

// A Listener is a [net.Listener]. Its Dial connects to it. Its methods are safe for concurrent
// use.
type Listener struct {
	addr        addr
	bufferBytes int
	onClose     func() // may be nil

	mu        sync.Mutex
	changed   sync.Cond // for changes of queue and isClosed
	queue     []*Conn   // dialed, not yet accepted
	isClosed  bool
	numDialed int
}

// Listen returns a Listener that belongs to no [Network], at 192.0.2.2:80. Its connections
// have buffers of bufferBytes: see [Pipe]. It panics if bufferBytes is negative.
func Listen(bufferBytes int) *Listener { return newListener("192.0.2.2:80", bufferBytes) }

func newListener(at addr, bufferBytes int) *Listener {
	if bufferBytes < 0 {
		panic(fmt.Sprintf("memnet: buffer of %d bytes", bufferBytes))
	}
	l := &Listener{addr: at, bufferBytes: bufferBytes}
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
// accepted. The accepted ones stay open. A second Close returns [net.ErrClosed].
func (l *Listener) Close() error {
	if l.onClose != nil {
		l.onClose()
	}
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
func (l *Listener) Addr() net.Addr { return l.addr }

// numPorts is the number of ports of connections, from 1024 to 65535.
const numPorts = 1<<16 - 1024

// Dial returns the client's end of a new connection, a [*Conn], and queues the
// other end for Accept. Like a kernel with a backlog it does not wait for Accept,
// so it uses ctx only to check whether it is done. The LocalAddr of a connection is
// 192.0.2.1 with a port of its own; after 64,512 connections the ports are used again. If the
// listener is closed, the error wraps ECONNREFUSED.
func (l *Listener) Dial(ctx context.Context) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, l.opError("dial", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed {
		return nil, l.opError("dial", os.NewSyscallError("connect", syscall.ECONNREFUSED))
	}
	l.numDialed++
	dialer := addr(fmt.Sprintf("192.0.2.1:%d", 1024+l.numDialed%numPorts))
	front, back := pipe(l.bufferBytes, dialer, l.addr)
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
	return &net.OpError{Op: op, Net: l.addr.Network(), Addr: l.addr, Err: err}
}
