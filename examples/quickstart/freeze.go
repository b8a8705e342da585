package main

import (
	"net"
	"sync"
)

// A freezer freezes a backend, like SIGSTOP: its listener still accepts connections, because
// the kernel does, but the backend reads nothing and answers nothing. Only reads are held. A
// chat sends nothing but responses to what it reads.
type freezer struct {
	killed chan struct{} // closed by kill

	mu     sync.Mutex
	thawed chan struct{} // closed by thaw; nil unless the backend is frozen
}

func newFreezer() *freezer { return &freezer{killed: make(chan struct{})} }

func (f *freezer) freeze() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.thawed == nil {
		f.thawed = make(chan struct{})
	}
}

// thaw ends freeze. What has arrived meanwhile is read then.
func (f *freezer) thaw() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.thawed != nil {
		close(f.thawed)
		f.thawed = nil
	}
}

// kill makes held reads fail. It is called once.
func (f *freezer) kill() { close(f.killed) }

func (f *freezer) isFrozen() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.thawed != nil
}

// wait waits while the backend is frozen. It returns an error if the backend is killed.
func (f *freezer) wait() error {
	f.mu.Lock()
	thawed := f.thawed
	f.mu.Unlock()
	if thawed == nil {
		return nil
	}
	select {
	case <-thawed:
		return nil
	case <-f.killed:
		return net.ErrClosed
	}
}

// A freezingListener is the listener of a backend with a freezer.
type freezingListener struct {
	net.Listener
	freezer *freezer
}

func (l freezingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if err := l.freezer.wait(); err != nil {
		conn.Close()
		return nil, err
	}
	return freezingConn{conn, l.freezer}, nil
}

type freezingConn struct {
	net.Conn
	freezer *freezer
}

// Read waits after it has read: a Read that was waiting for the peer when the backend was
// frozen returns nothing either.
func (c freezingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if waitErr := c.freezer.wait(); waitErr != nil {
		return 0, waitErr
	}
	return n, err
}
