//go:build !wsproxy_portable

package relay

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// dialledPair is tcpPair with a near end that the loops have dialled.
func dialledPair(t testing.TB, loops *Loops) (near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	near, err, can := loops.Dial(context.Background(), "tcp", ln.Addr().String())
	if err != nil || !can {
		t.Fatalf("Dial() = %v, %v", err, can)
	}
	if far, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	return near, far
}

// dialled prepares a scene whose backend the loops have dialled. The client's
// connection is of the given kind.
func dialled(t *testing.T, client func(testing.TB) (near, far net.Conn)) (*scene, *Loops) {
	t.Helper()
	e, loops := onLoops(t)
	n := network{client: client, backend: func(t testing.TB) (near, far net.Conn) { return dialledPair(t, loops) }}
	s := e.prepare(t, n, setup{})
	return s, loops
}

func TestDialledConnectionNeedNotBeTakenOver(t *testing.T) {
	s, _ := dialled(t, tcpPair)
	if got := s.tunnel.(*Relay).Engine(); got != EventLoop {
		t.Errorf("engine is %v", got)
	}
	s.begin()
	passBothWaysAtOnce(s)
	s.Goodbye(CauseShutdown, 0, "")
	s.wantGoodbye()
}

func TestDialledConnectionIsNoObstacleToThePortableEngine(t *testing.T) {
	t.Run("the client is no plain socket", func(t *testing.T) {
		s, _ := dialled(t, wrappedPair)
		s.begin()
		wantPortable(s)
	})
	t.Run("the client is over TLS", func(t *testing.T) {
		s, _ := dialled(t, tlsPair)
		s.begin()
		wantPortable(s)
	})
	t.Run("the loop can watch no more", func(t *testing.T) {
		s, loops := dialled(t, tcpPair)
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

// Without descriptors nothing can be made of it for the portable engine, whose two
// goroutines would wait for it at once.
func TestWithoutDescriptorsADialledConnectionIsGivenUp(t *testing.T) {
	var s *scene
	e, loops := onLoops(t)
	nearClient, farClient := tcpPair(t)
	nearBackend, farBackend := dialledPair(t, loops)
	n := network{
		client:  func(testing.TB) (near, far net.Conn) { return nearClient, farClient },
		backend: func(testing.TB) (near, far net.Conn) { return nearBackend, farBackend },
	}
	withoutDescriptors(t, func() { s = e.prepare(t, n, setup{}) })
	s.begin()
	s.client.WantClose(1012)
	s.client.Send(wstest.Close(1012, ""))
	s.client.WantEOF()
	s.client.Close()
	s.backend.WantEOF()
	err := s.wantEnd(End{Side: Backend, Cause: CauseLost, Code: 1012})
	if !errors.Is(err, net.ErrClosed) {
		t.Errorf("ended with error %v; want net.ErrClosed", err)
	}
}
