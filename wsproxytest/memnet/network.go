package memnet

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
)

// A Network connects dialers with listeners by their addresses. Addresses are compared as
// text: no name is resolved, and a network has no ports of its own choice. Its methods are
// safe for concurrent use. It holds nothing that would have to be closed, apart from its
// listeners and connections.
type Network struct {
	mu        sync.Mutex
	listeners map[addr]*Listener
}

// NewNetwork returns a network without listeners, as the zero Network is.
func NewNetwork() *Network { return new(Network) }

// Listen returns a listener at address, which is a host and a port, such as
// "chat.example:80". Its connections have buffers of the default size: see [Pipe]. Its Close
// frees the address. The error is a [*net.OpError]: it wraps EADDRINUSE if another listener
// has the address.
func (n *Network) Listen(address string) (*Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err == nil && (host == "" || port == "") {
		err = errors.New("want a host and a port")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	at := addr(address)
	if err == nil && n.listeners[at] != nil {
		err = os.NewSyscallError("bind", syscall.EADDRINUSE)
	}
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: at.Network(), Addr: at, Err: err}
	}
	l := newListener(at, 0)
	l.onClose = func() { n.free(l) }
	if n.listeners == nil {
		n.listeners = make(map[addr]*Listener)
	}
	n.listeners[at] = l
	return l, nil
}

// free makes the address of l free.
func (n *Network) free(l *Listener) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[l.addr] == l {
		delete(n.listeners, l.addr)
	}
}

// DialContext connects to the listener at address, a [*Conn]: see [Listener.Dial]. It ignores
// the network. It has the signature that [net/http.Transport] and wsproxy.WithDialer want. It
// never waits. The error is a [*net.OpError], and wraps ECONNREFUSED if no listener has
// the address.
func (n *Network) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[addr(address)]
	n.mu.Unlock()
	if l == nil {
		l = newListener(addr(address), 0)
		l.isClosed = true
	}
	return l.Dial(ctx)
}
