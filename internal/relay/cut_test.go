package relay

import (
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy/internal/wstest"
	"github.com/wsproxy/wsproxy/wsproxytest/memnet"
)

// stall lets client send until nothing is taken any more, because the backend
// does not read.
func stall(t *testing.T, s *scene, from Side) (sentBytes int) {
	t.Helper()
	src, _ := s.peers(from)
	frame := wire(from, wstest.Binary(make([]byte, 1<<20)))
	for range 1000 {
		src.Conn().SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		n, err := src.Conn().Write(frame)
		sentBytes += n
		if isTimeout(err) {
			return sentBytes
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatalf("%d bytes were taken from a side whose other does not read", sentBytes)
	return 0
}

func TestAbortBeforeRunPassesNothing(t *testing.T) {
	forEachEngine(t, func(t *testing.T, e engine) {
		s := e.prepare(t, networks[0], setup{fromClient: masked(wstest.Text("early"))})
		s.client.Send(wstest.Text("one"))
		s.backend.Send(wstest.Text("two"))
		s.Abort(CauseLost)
		s.begin()
		s.wait()
		if toBackend, toClient := s.Counts(); toBackend.Bytes+toClient.Bytes != 0 {
			t.Errorf("%d bytes were passed to the backend and %d to the client; want none", toBackend.Bytes, toClient.Bytes)
		}
	})
}

func TestAbortEndsEverythingAtOnce(t *testing.T) {
	states := []struct {
		name string
		make func(*testing.T, *scene)
	}{
		{"idle", func(*testing.T, *scene) {}},
		{"client's stream is stalled", func(t *testing.T, s *scene) { stall(t, s, Client) }},
		{"backend's stream is stalled", func(t *testing.T, s *scene) { stall(t, s, Backend) }},
		{"both streams are stalled", func(t *testing.T, s *scene) { stall(t, s, Client); stall(t, s, Backend) }},
		{"Close frames are sent", func(_ *testing.T, s *scene) { s.Close(CauseShutdown, 0, "") }},
		{"Close frames cannot be sent", func(t *testing.T, s *scene) {
			stall(t, s, Client)
			stall(t, s, Backend)
			s.Close(CauseShutdown, 0, "")
		}},
	}
	forEachNetworkAtOnce(t, func(t *testing.T, e engine, n network) {
		for _, tt := range states {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel() // stalling takes time
				s := e.start(t, n, setup{})
				tt.make(t, s)
				start := time.Now()
				s.Abort(CauseShutdown)
				if took := wstest.Took(start, time.Now()); took > raceFactor*500*time.Millisecond {
					t.Errorf("Abort took %v; want it not to wait", took)
				}
				if end := s.wait(); end.Side != Proxy || end.Cause != CauseShutdown || !end.Cut {
					t.Errorf("ended with %+v; want a shutdown that cut", end)
				}
				if took := wstest.Took(start, time.Now()); took > raceFactor*time.Second {
					t.Errorf("ended after %v; want at once", took)
				}
			})
		}
	})
}

func TestAbortBeforeRunClosesBothSides(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		s := e.prepare(t, n, setup{fromClient: masked(wstest.Text("early"))})
		s.Abort(CauseShutdown)
		s.begin()
		s.wantEnd(End{Side: Proxy, Cause: CauseShutdown, Cut: true})
		wantGone(t, s.client)
		wantGone(t, s.backend)
	})
}

func TestAbortAfterBothAnswersOnlyHastensTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, e engine) {
		s := e.start(t, memory(1<<20), setup{})
		start := time.Now()
		s.Close(CauseShutdown, 0, "")
		s.backend.WantClose(1001)
		s.backend.Send(wstest.Close(1001, ""))
		s.client.WantClose(1001)
		s.client.Send(wstest.Close(1001, ""))
		synctest.Wait() // for the ends of both streams now
		s.Abort(CauseShutdown)
		s.wantEndAfter(start, 0, End{Side: Proxy, Cause: CauseShutdown, Code: 1001})
	})
}

func TestCloseResetsASideThatTakesNothing(t *testing.T) {
	sideInBubble(t, func(t *testing.T, e engine, from Side) {
		s := e.start(t, memory(1<<10), setup{})
		src, _ := s.peers(from)
		src.Conn().SetWriteDeadline(time.Now().Add(time.Millisecond))
		src.Conn().Write(wire(from, wstest.Binary(make([]byte, 1<<20))))
		start := time.Now()
		s.Close(CauseApplication, 4000, "")
		// A client that is not stuck still gets its Close frame; one that is cannot.
		code, rest := 4000, unknownTimeout
		if from == Backend {
			code, rest = 1001, endTimeout
		}
		s.wantEndAfter(start, stuckTimeout+rest, End{Side: Proxy, Cause: CauseApplication, Code: code, Cut: true})
	})
}

func TestTLSPeerThatDoesNotReadHoldsNothingUp(t *testing.T) {
	secure := func(t testing.TB) (near, far net.Conn) {
		a, b := memnet.Pipe(32 << 10)
		return wstest.ShakeHands(t, a, b)
	}
	plain := memory(32 << 10).client
	networks := map[Side]network{
		Client:  {client: secure, backend: plain},
		Backend: {client: plain, backend: secure},
	}
	for unread, n := range networks {
		inBubble(t, func(t *testing.T, e engine) {
			s := e.start(t, n, setup{})
			talker, _ := s.peers(otherSide(unread))
			go talker.WriteFrames(wstest.Binary(make([]byte, 1<<20)))
			synctest.Wait()
			start := time.Now()
			s.Close(CauseShutdown, 0, "")
			s.Abort(CauseShutdown)
			if end := s.wait(); !end.Cut {
				t.Errorf("ended with %+v; want a cut", end)
			}
			if took := time.Since(start); took != 0 {
				t.Errorf("%v does not read: ended after %v; want at once", unread, took)
			}
		})
	}
}

// A gate is a connection that takes nothing any more once it is shut.
type gate struct {
	*memnet.Conn
	full  atomic.Pointer[memnet.Conn] // nil while it is open
	tried chan struct{}               // gets a value at each write while it is shut
}

func (g *gate) shut() {
	full, _ := memnet.Pipe(1)
	full.Write([]byte{0})
	g.full.Store(full)
}

func (g *gate) Write(b []byte) (int, error) {
	full := g.full.Load()
	if full == nil {
		return g.Conn.Write(b)
	}
	g.tried <- struct{}{}
	return full.Write(b)
}

func (g *gate) SetDeadline(t time.Time) error {
	g.SetWriteDeadline(t)
	return g.SetReadDeadline(t)
}

func (g *gate) SetWriteDeadline(t time.Time) error {
	if full := g.full.Load(); full != nil {
		full.SetWriteDeadline(t)
	}
	return g.Conn.SetWriteDeadline(t)
}

func TestAbortDoesNotWaitWhileTLSCloses(t *testing.T) {
	forEachEngine(t, func(t *testing.T, e engine) {
		if e.needsSockets {
			t.Skip("needs sockets")
		}
		var g *gate
		secure := func(t testing.TB) (near, far net.Conn) {
			a, b := memnet.Pipe(32 << 10)
			g = &gate{Conn: a, tried: make(chan struct{}, 10)}
			return wstest.ShakeHands(t, g, b)
		}
		s := e.start(t, network{client: memory(32 << 10).client, backend: secure}, setup{})
		s.client.Send(wstest.Close(1000, ""))
		s.backend.WantClose(1000)
		g.shut() // the relay has nothing to write there before the end
		s.backend.Send(wstest.Close(1000, ""))
		s.client.WantClose(1000)
		s.client.Close()
		s.backend.CloseWrite()
		<-g.tried // TLS writes its close_notify, which may take five seconds
		start := time.Now()
		s.Close(CauseShutdown, 0, "")
		s.Abort(CauseShutdown)
		if took := wstest.Took(start, time.Now()); took > raceFactor*time.Second {
			t.Errorf("Close and Abort took %v; want them not to wait", took)
		}
		s.wantEnd(End{Side: Client, Cause: CauseClosed, Code: 1000})
		if took := wstest.Took(start, time.Now()); took > raceFactor*time.Second {
			t.Errorf("ended after %v; want it cut at once", took)
		}
	})
}
