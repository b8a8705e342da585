//go:build linux && !wsproxy_portable

package relay

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// dialedPair is tcpPair with a near end that the loops have dialed.
func dialedPair(t testing.TB, loops *Loops) (near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialing, can, err := loops.Dial("tcp", ln.Addr().String())
	if err != nil || !can {
		t.Fatalf("Dial() = %v, %v", err, can)
	}
	if err := dialing.Connect(); err != nil {
		t.Fatal(err)
	}
	if far, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	return dialing, far
}

// dialedScene prepares a scene whose backend the loops have dialed. The client's
// connection is of the given kind.
func dialedScene(t *testing.T, client func(testing.TB) (near, far net.Conn)) (*scene, *Loops) {
	t.Helper()
	e, loops := onLoops(t)
	n := network{client: client, backend: func(t testing.TB) (near, far net.Conn) { return dialedPair(t, loops) }}
	s := e.prepare(t, n, setup{})
	return s, loops
}

func TestDialedConnectionNeedNotBeTakenOver(t *testing.T) {
	s, _ := dialedScene(t, tcpPair)
	if got := s.tunnel.(*Relay).Engine(); got != EventLoop {
		t.Errorf("engine is %v", got)
	}
	s.begin()
	passBothWaysAtOnce(s)
	s.Goodbye(CauseShutdown, 0, "")
	s.wantGoodbye()
}

func TestDialedConnectionIsNoObstacleToThePortableEngine(t *testing.T) {
	t.Run("the client is no plain socket", func(t *testing.T) {
		s, _ := dialedScene(t, wrappedPair)
		s.begin()
		wantPortable(s)
	})
	t.Run("the client is over TLS", func(t *testing.T) {
		s, _ := dialedScene(t, tlsPair)
		s.begin()
		wantPortable(s)
	})
	t.Run("the loop can watch no more", func(t *testing.T) {
		s, loops := dialedScene(t, tcpPair)
		fallBacks["the loop can watch no more"](loops, s.tunnel.(*Relay).driver.(*looped))
		s.begin()
		wantPortable(s)
	})
}

// wantPortable wants a tunnel that runs to have the portable engine, and to work.
func wantPortable(s *scene) {
	s.t.Helper()
	passBothWaysAtOnce(s)
	if got := s.tunnel.(*Relay).Engine(); got != Portable {
		s.t.Errorf("engine is %v", got)
	}
}

func passBothWaysAtOnce(s *scene) {
	s.t.Helper()
	big := wstest.Binary(make([]byte, 4<<20))
	go s.client.WriteFrames(big)
	go s.backend.WriteFrames(big)
	s.backend.Want(big)
	s.client.Want(big)
}

// Two goroutines wait for it at once then.
func TestWithoutDescriptorsADialedConnectionIsUsedAsItIs(t *testing.T) {
	var s *scene
	e, loops := onLoops(t)
	nearClient, farClient := tcpPair(t)
	nearBackend, farBackend := dialedPair(t, loops)
	n := network{
		client:  func(testing.TB) (near, far net.Conn) { return nearClient, farClient },
		backend: func(testing.TB) (near, far net.Conn) { return nearBackend, farBackend },
	}
	withoutDescriptors(t, func() { s = e.prepare(t, n, setup{}) })
	s.begin()
	wantPortable(s)
	s.Goodbye(CauseShutdown, 0, "")
	s.wantGoodbye()
}

// What waits for it is woken by deadlines, each by its own.
func TestDeadlinesOfADialedConnection(t *testing.T) {
	_, loops := onLoops(t)
	near, far := dialedPair(t, loops)
	defer near.Close()
	const never, soon = time.Hour, 20 * time.Millisecond
	for range 20 {
		near.SetReadDeadline(time.Now().Add(soon))
		near.SetWriteDeadline(time.Now().Add(never))
		if n, err := near.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Read() = %d, %v; want os.ErrDeadlineExceeded", n, err)
		}
		if _, err := near.Write([]byte("x")); err != nil {
			t.Fatalf("Write() by a later deadline: %v", err)
		}
		near.SetReadDeadline(time.Time{})
		woken := make(chan error, 1)
		go func() {
			_, err := near.Read(make([]byte, 1))
			woken <- err
		}()
		near.SetReadDeadline(longAgo)
		if err := <-woken; !isDeadline(err) {
			t.Fatalf("Read() that is woken: %v; want a deadline", err)
		}
	}
	near.SetDeadline(time.Time{})
	filled := make(chan error, 1)
	go func() {
		for { // until nothing is taken any more
			if _, err := near.Write(make([]byte, 1<<20)); err != nil {
				filled <- err
				return
			}
		}
	}()
	near.SetReadDeadline(longAgo) // does not concern it
	near.SetWriteDeadline(time.Now().Add(soon))
	if err := <-filled; !isDeadline(err) {
		t.Errorf("Write() without room: %v; want a deadline", err)
	}
	near.Close()
	for name, err := range map[string]error{
		"Read":        second(near.Read(make([]byte, 1))),
		"Write":       second(near.Write(make([]byte, 1))),
		"SetDeadline": near.SetDeadline(time.Time{}),
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s after Close: %v; want net.ErrClosed", name, err)
		}
	}
	far.Close()
}

func second(_ int, err error) error { return err }
