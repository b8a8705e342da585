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

// dialedPair is tcpPair with a near end that the engine has dialed.
func dialedPair(t testing.TB, e *Engine) (near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialing, can, err := e.Dial("tcp", ln.Addr().String())
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

// prepareDialed prepares a scene whose backend the engine has dialed. The client's
// connection is of the given kind.
func prepareDialed(t *testing.T, client func(testing.TB) (near, far net.Conn)) *scene {
	t.Helper()
	e := NewEngine(Limits{})
	n := network{client: client, backend: func(t testing.TB) (near, far net.Conn) { return dialedPair(t, e) }}
	return engineOf(t, e).prepare(t, n, setup{})
}

func TestEngineDialRefusesWhatItCannotDial(t *testing.T) {
	e := NewEngine(Limits{})
	defer e.Close()
	for _, to := range [][2]string{
		{"unix", "/tmp/socket"}, {"tcp", "localhost:80"}, {"tcp", "127.0.0.1"}, {"tcp", "[fe80::1%lo]:80"}, {"tcp4", "127.0.0.1:80"},
	} {
		if c, can, err := e.Dial(to[0], to[1]); c != nil || can || err != nil {
			t.Errorf("Dial(%q, %q) = %v, %v, %v; want it to do nothing", to[0], to[1], c, can, err)
		}
	}
	e.Close()
	if c, can, err := e.Dial("tcp", "127.0.0.1:80"); c != nil || can || err != nil {
		t.Errorf("Dial() after Close = %v, %v, %v; want it to do nothing", c, can, err)
	}
}

func TestLoopTakesADialedConnection(t *testing.T) {
	s := prepareDialed(t, tcpPair)
	if got := relayOf(s).Engine(); got != EventLoop {
		t.Errorf("engine is %v", got)
	}
	s.begin()
	passBothWaysAtOnce(s)
	s.Close(CauseShutdown, 0, "")
	s.endShutdown()
}

// What came for a dialed connection before its tunnel began is not lost.
func TestLoopPassesWhatCameBeforeTheTunnel(t *testing.T) {
	e := NewEngine(Limits{})
	near, far := dialedPair(t, e)
	far.Write(unmasked(wstest.Text("early")))
	client, farClient := tcpPair(t)
	n := network{
		client:  func(testing.TB) (net.Conn, net.Conn) { return client, farClient },
		backend: func(testing.TB) (net.Conn, net.Conn) { return near, far },
	}
	time.Sleep(20 * time.Millisecond) // the loop has had the event
	s := engineOf(t, e).start(t, n, setup{})
	s.client.Want(wstest.Text("early"))
}

func TestPortableTakesADialedConnection(t *testing.T) {
	t.Run("the client is no plain socket", func(t *testing.T) {
		s := prepareDialed(t, wrappedPair)
		s.begin()
		wantPortable(s)
	})
	t.Run("the client is over TLS", func(t *testing.T) {
		s := prepareDialed(t, tlsPair)
		s.begin()
		wantPortable(s)
	})
}

// wantPortable wants a tunnel that runs to have the portable engine, and to work.
func wantPortable(s *scene) {
	s.t.Helper()
	passBothWaysAtOnce(s)
	if got := relayOf(s).Engine(); got != Portable {
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

func TestWithoutDescriptorsADialedConnectionIsUsedAsItIs(t *testing.T) {
	var s *scene
	e := NewEngine(Limits{})
	nearClient, farClient := tcpPair(t)
	nearBackend, farBackend := dialedPair(t, e)
	n := network{
		client:  func(testing.TB) (near, far net.Conn) { return nearClient, farClient },
		backend: func(testing.TB) (near, far net.Conn) { return nearBackend, farBackend },
	}
	withoutDescriptors(t, func() { s = engineOf(t, e).prepare(t, n, setup{}) })
	s.begin()
	wantPortable(s) // two goroutines use it at once
	s.Abort(CauseShutdown)
	s.wait()
}

// A connection that the engine has dialed has deadlines as one of package net has.
func TestDeadlinesOfADialedConnection(t *testing.T) {
	e := NewEngine(Limits{})
	defer e.Close()
	near, far := dialedPair(t, e)
	defer near.Close()
	const soon = 20 * time.Millisecond
	for range 20 {
		near.SetReadDeadline(time.Now().Add(soon))
		if n, err := near.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Read() = %d, %v; want os.ErrDeadlineExceeded", n, err)
		}
		near.SetReadDeadline(time.Time{})
		if _, err := near.Write([]byte("x")); err != nil {
			t.Fatalf("Write() without a deadline: %v", err)
		}
		woken := make(chan error, 1)
		go func() {
			_, err := near.Read(make([]byte, 1))
			woken <- err
		}()
		near.SetReadDeadline(longAgo)
		if err := <-woken; !errors.Is(err, os.ErrDeadlineExceeded) {
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
	near.SetWriteDeadline(time.Now().Add(soon))
	if err := <-filled; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write() to a peer that takes nothing: %v; want a deadline", err)
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

func TestCloseWakesADialedConnection(t *testing.T) {
	e := NewEngine(Limits{})
	defer e.Close()
	near, _ := dialedPair(t, e)
	woken := make(chan error, 1)
	go func() {
		_, err := near.Read(make([]byte, 1))
		woken <- err
	}()
	time.Sleep(10 * time.Millisecond)
	near.Close()
	if err := <-woken; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read() that Close wakes: %v; want net.ErrClosed", err)
	}
}
