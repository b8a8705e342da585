package wstest

import (
	"net"
	"sync"
	"testing"
	"time"
)

// A server accepts connections on a port of 127.0.0.1 until its test ends.
type server struct {
	ln       net.Listener
	accepted func(net.Conn) // called by the goroutine that accepts
	running  sync.WaitGroup // that goroutine, and those that accepted starts

	mu        sync.Mutex
	conns     []net.Conn // all accepted connections; stop closes them
	isStopped bool
}

// start starts the server. The caller must have set accepted.
func (s *server) start(t testing.TB) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.ln = ln
	s.running.Go(s.accept) // until stop
	t.Cleanup(s.stop)
}

func (s *server) accept() {
	for {
		c, err := s.ln.Accept()
		if err != nil || !s.add(c) {
			return
		}
		s.accepted(c)
	}
}

// add adds c to the connections that stop closes. If the server is stopped, it
// closes c and returns false.
func (s *server) add(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isStopped {
		c.Close()
		return false
	}
	s.conns = append(s.conns, c)
	return true
}

func (s *server) stop() {
	s.ln.Close()
	s.closeConns()
	s.running.Wait()
}

func (s *server) closeConns() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isStopped = true
	for _, c := range s.conns {
		c.Close()
	}
}

// URL returns http://127.0.0.1:port.
func (s *server) URL() string { return "http://" + s.ln.Addr().String() }

// NumAccepted returns the number of accepted connections, including those that no
// call of Accepted has returned.
func (s *server) NumAccepted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// A Backend accepts TCP connections. The test scripts their backend ends.
type Backend struct {
	server
	queue chan net.Conn
}

// StartBackend returns a Backend that runs until the test ends.
func StartBackend(t testing.TB) *Backend {
	t.Helper()
	b := &Backend{queue: make(chan net.Conn, 1024)} // more than any test leaves unaccepted
	b.accepted = func(c net.Conn) { b.queue <- c }
	b.start(t)
	return b
}

// Accepted waits, for 5 s at most, for the next connection.
func (b *Backend) Accepted(t testing.TB) *Peer {
	t.Helper()
	timeout := time.NewTimer(stepTimeout)
	defer timeout.Stop()
	select {
	case c := <-b.queue:
		return NewBackend(t, c)
	case <-timeout.C:
		t.Fatalf("backend: no connection in %v; %d before", stepTimeout, b.NumAccepted())
		return nil
	}
}
