package relay

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy/internal/frame"
	"github.com/wsproxy/wsproxy/internal/wstest"
	"github.com/wsproxy/wsproxy/wsproxytest/memnet"
)

var bothSides = []Side{Client, Backend}

// forEachSide runs test for the direction from each side.
func forEachSide(t *testing.T, test func(t *testing.T, from Side)) {
	for _, from := range bothSides {
		t.Run("from the "+from.String(), func(t *testing.T) { test(t, from) })
	}
}

// sideInBubble is inBubble for the direction from each side.
func sideInBubble(t *testing.T, test func(t *testing.T, e engine, from Side)) {
	forEachSide(t, func(t *testing.T, from Side) {
		inBubble(t, func(t *testing.T, e engine) { test(t, e, from) })
	})
}

func TestShutdownWaitsForTheEndOfAFrame(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		forEachSide(t, func(t *testing.T, from Side) {
			s := e.start(t, n, setup{})
			src, dst := s.peers(from)
			big := string(wire(from, wstest.Binary(make([]byte, 200_000))))
			half := len(big) / 2

			go src.Write([]byte(big[:half]))
			dst.WantRaw(big[:half])
			s.Close(CauseShutdown, 0, "")
			if from == Backend {
				src.WantClose(1001) // at once: the other direction stands at a boundary
			}
			go src.Write(append([]byte(big[half:]), wire(from, wstest.Text("more"))...))
			dst.WantRaw(big[half:])
			s.wantMoreOfTheBackendOnly(from, wstest.Text("more"))
			s.answerShutdown()
		})
	})
}

// wantMoreOfTheBackendOnly wants what from has sent after a shutdown began to reach the
// client. What the client sends is dropped from the backend's Close frame on.
func (s *scene) wantMoreOfTheBackendOnly(from Side, more wstest.Frame) {
	s.t.Helper()
	if from == Client {
		s.backend.WantClose(1001)
	} else {
		s.client.Want(more)
	}
}

// A halting connection can stop in the middle of what it writes.
type halting struct {
	*memnet.Conn
	goOn chan struct{} // nil where it does not stop
}

func (h *halting) Write(b []byte) (int, error) {
	if h.goOn == nil {
		return h.Conn.Write(b)
	}
	n, err := h.Conn.Write(b[:len(b)/2])
	if err != nil {
		return n, err
	}
	<-h.goOn
	m, err := h.Conn.Write(b[n:])
	return n + m, err
}

// A deadline that wakes a read must not harm the connection that is read.
func TestShutdownInsideATLSRecordHarmsNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, e engine) {
		a, b := memnet.Pipe(64 << 10)
		far := &halting{Conn: b}
		n := memory(64 << 10)
		n.client = func(t testing.TB) (net.Conn, net.Conn) { return wstest.ShakeHands(t, a, far) }
		s := e.start(t, n, setup{})
		frame := string(masked(wstest.Text("in two records")))
		s.client.SendRaw([]byte(frame[:10]))
		s.backend.WantRaw(frame[:10])

		far.goOn = make(chan struct{})
		go s.client.Write([]byte(frame[10:]))
		synctest.Wait()
		s.Close(CauseShutdown, 0, "")
		synctest.Wait() // it has been woken, and waits for the rest
		close(far.goOn)
		s.backend.WantRaw(frame[10:])
		s.wantShutdown()
	})
}

func TestShutdownComesBetweenFragments(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		forEachSide(t, func(t *testing.T, from Side) {
			s := e.start(t, n, setup{})
			src, dst := s.peers(from)
			first := wstest.Fragment(wstest.OpText, false, "first")
			src.Send(first)
			dst.Want(first)
			s.Close(CauseShutdown, 0, "")
			s.backend.WantClose(1001)
			rest := wstest.Fragment(wstest.OpContinuation, true, "rest")
			src.Send(rest)
			if from == Backend {
				dst.Want(rest)
			}
			s.answerShutdown()
		})
	})
}

// partsOf returns beginnings of a frame of which nothing may be written before
// more of it has come: those of its header, or of a whole control frame.
func partsOf(from Side) map[string][]byte {
	parts := make(map[string][]byte)
	add := func(name string, frame []byte, most int) {
		for n := 1; n <= most; n++ {
			parts[fmt.Sprintf("%d bytes of %s", n, name)] = frame[:n]
		}
	}
	long := wire(from, wstest.Binary(make([]byte, 1<<16)))
	add("a long header", long, len(long)-1<<16-1) // 9 or 13
	ping := wire(from, wstest.Ping("hello"))
	add("a ping", ping, len(ping)-1)
	return parts
}

func TestShutdownDoesNotWaitForAHeldPart(t *testing.T) {
	sideInBubble(t, func(t *testing.T, e engine, from Side) {
		for name, part := range partsOf(from) {
			s := e.start(t, memory(1<<20), setup{})
			src, _ := s.peers(from)
			src.SendRaw(part)
			synctest.Wait() // it is held back now
			start := time.Now()
			s.Close(CauseShutdown, 0, "")
			s.backend.WantClose(1001)
			if took := time.Since(start); took != 0 {
				t.Errorf("%s: the Close frame came after %v; want at once", name, took)
			}
			whole := wstest.Ping("hello")
			if part[0]&0x0F == wstest.OpBinary {
				whole = wstest.Binary(make([]byte, 1<<16))
			}
			src.SendRaw(wire(from, whole)[len(part):])
			if from == Backend {
				s.client.Want(whole)
			}
			s.answerShutdown()
		}
	})
}

func TestSourceThatEndsInAHeldPartLeavesABoundary(t *testing.T) {
	sideInBubble(t, func(t *testing.T, e engine, from Side) {
		for name, part := range partsOf(from) {
			s := e.start(t, memory(1<<20), setup{})
			src, dst := s.peers(from)
			src.Send(wstest.Text("whole"))
			src.SendRaw(part)
			src.CloseWrite()
			dst.Want(wstest.Text("whole"))
			s.wantLossOf(from)
			dst.Send(wstest.Close(1000, ""))
			src.WantClose(1000) // the answer passes, for src can still read
			s.client.Close()
			s.backend.Close()
			if s.wantEnd(lossOf(from)); t.Failed() {
				t.Fatal(name)
			}
		}
	})
}

func TestSourceThatEndsInsideAFrameCutsTheDestination(t *testing.T) {
	ends := map[string]func(*testing.T, *wstest.Peer){
		"end of stream": func(_ *testing.T, p *wstest.Peer) { p.CloseWrite() },
		"close":         func(_ *testing.T, p *wstest.Peer) { p.Close() },
		"reset":         reset,
	}
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		forEachSide(t, func(t *testing.T, from Side) {
			for name, end := range ends {
				if name == "reset" && n.cannotReset {
					continue
				}
				t.Run(name, func(t *testing.T) {
					s := e.start(t, n, setup{})
					src, dst := s.peers(from)
					part := string(wire(from, wstest.Text("never whole"))[:10])
					src.SendRaw([]byte(part))
					dst.WantRaw(part)
					start := time.Now()
					end(t, src)
					wantGone(t, dst) // without a frame
					if took := wstest.Took(start, time.Now()); took >= raceFactor*time.Second {
						t.Errorf("the other side's stream ended %v after the %v's; want at once", took, from)
					}
					dst.Close()
					if got := s.wait(); got.Side != from || got.Cause != CauseLost || !got.Cut {
						t.Errorf("ended with %+v; want the %v lost, and cut", got, from)
					}
				})
			}
		})
	})
}

// wantGone wants p to read the end of its stream, in order or not, and nothing
// before it.
func wantGone(t *testing.T, p *wstest.Peer) {
	t.Helper()
	p.Conn().SetReadDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 1)
	n, err := p.Conn().Read(b)
	if n > 0 || err == nil {
		t.Errorf("got byte %x; want the end", b[:n])
	} else if isTimeout(err) {
		t.Error("got nothing; want the end")
	}
}

func isTimeout(err error) bool {
	e, ok := err.(interface{ Timeout() bool })
	return ok && e.Timeout()
}

func TestNothingFollowsACloseFrameOfOurs(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		s := e.start(t, n, setup{Config: Config{MaxMessage: 10}})
		s.Close(CauseShutdown, 0, "")
		s.backend.WantClose(1001)
		s.client.Send(wstest.Text("late"), wstest.Ping("late"), wstest.Fragment(wstest.OpText, false, "la"))
		s.client.Send(wstest.Fragment(wstest.OpContinuation, true, "te, and over the limit of messages"))
		s.answerShutdown()
	})
}

func TestShutdownRelaysTheBackendUntilItsClose(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		s := e.start(t, n, setup{})
		s.Close(CauseShutdown, 0, "")
		s.backend.WantClose(1001)
		last := []wstest.Frame{wstest.Text("last"), wstest.Ping("words"), wstest.Fragment(wstest.OpText, false, "not whole")}
		s.backend.Send(last...)
		s.client.Want(last...)
		rest := wstest.Fragment(wstest.OpContinuation, true, "rest")
		s.backend.Send(rest, wstest.Close(1001, "not for the client"), wstest.Text("behind it"))
		s.client.Want(rest, wstest.Close(1001, "shutting down"))
		s.client.Send(wstest.Close(1001, ""))
		s.hangUp()
		s.wantEnd(End{Side: Proxy, Cause: CauseShutdown, Code: 1001})
	})
}

func TestShutdownPassesAnApplicationCodeOfTheBackend(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		s := e.start(t, n, setup{})
		s.Close(CauseShutdown, 0, "")
		s.backend.WantClose(1001)
		s.backend.Send(wstest.Close(4100, "come again"))
		s.client.Want(wstest.Close(4100, "come again"))
		s.client.Send(wstest.Close(4100, ""))
		s.hangUp()
		s.wantEnd(End{Side: Proxy, Cause: CauseShutdown, Code: 4100})
	})
}

func TestNothingFollowsTheCloseFrameOfAPeer(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		forEachSide(t, func(t *testing.T, from Side) {
			s := e.start(t, n, setup{})
			src, dst := s.peers(from)
			src.Send(wstest.Text("before"), wstest.Close(1000, "bye"), wstest.Text("in one write"), wstest.Close(1001, ""))
			dst.Want(wstest.Text("before"), wstest.Close(1000, "bye"))
			if from == Backend || !n.cannotHalfClose { // else it may be answered by a reset
				src.Send(wstest.Text("later"))
				src.SendRaw([]byte("no frame at all"))
			}
			dst.Send(wstest.Text("still talking"), wstest.Close(1000, ""))
			src.Want(wstest.Text("still talking"), wstest.Close(1000, ""))
			s.hangUp()
			s.wantEnd(End{Side: from, Cause: CauseClosed, Code: 1000})
		})
	})
}

func TestShutdownAfterAPeersCloseAddsNothing(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		forEachSide(t, func(t *testing.T, from Side) {
			s := e.start(t, n, setup{})
			src, dst := s.peers(from)
			src.Send(wstest.Close(1000, ""))
			dst.WantClose(1000)
			s.Close(CauseShutdown, 0, "")
			dst.Send(wstest.Text("still talking"), wstest.Close(1000, ""))
			src.Want(wstest.Text("still talking"), wstest.Close(1000, ""))
			s.hangUp()
			s.wantEnd(End{Side: from, Cause: CauseClosed, Code: 1000})
		})
	})
}

func TestNoDirectionCarriesTwoCloseFrames(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		rounds := 30
		if testing.Short() {
			rounds = 3
		}
		for range rounds {
			s := e.start(t, n, setup{})
			var wg sync.WaitGroup
			wg.Go(func() { s.Close(CauseShutdown, 0, "") })
			wg.Go(func() { s.client.WriteFrames(wstest.Text("x"), wstest.Close(1000, "")) })
			wg.Go(func() { s.backend.WriteFrames(wstest.Text("x"), wstest.Close(1000, "")) })
			for _, p := range []*wstest.Peer{s.client, s.backend} {
				wg.Go(func() { countCloses(t, p) })
			}
			wg.Wait()
			s.wait()
		}
	})
}

// countCloses reads until a Close frame has come, ends the stream, and wants
// nothing more to come.
func countCloses(t *testing.T, p *wstest.Peer) {
	for {
		f, err := p.ReadFrame()
		if err != nil {
			t.Errorf("got error %v; want a Close frame", err)
			return
		}
		if f.Opcode == wstest.OpClose {
			break
		}
	}
	p.Conn().(interface{ CloseWrite() error }).CloseWrite()
	if f, err := p.ReadFrame(); err == nil {
		t.Errorf("got %v after the Close frame; want nothing", f)
	}
}

func TestCloseBeforeRun(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		s := e.prepare(t, n, setup{fromClient: masked(wstest.Text("early")), fromBackend: unmasked(wstest.Text("early"))})
		s.Close(CauseShutdown, 0, "")
		s.begin()
		s.client.Want(wstest.Text("early"))
		s.wantShutdown()
		toBackend, toClient := s.Counts()
		if want := (Counts{uint64(len(unmasked(wstest.Text("early")))), 1}); toBackend != (Counts{}) || toClient != want {
			t.Errorf("Counts() = %+v, %+v; want none and %+v", toBackend, toClient, want)
		}
	})
}

func TestPeerThatBreaksTheProtocolWhileTheOtherSideHasClosed(t *testing.T) {
	// What follows the bad frame looks like a good one.
	bad := map[string]func(from Side) []byte{
		"protocol": func(from Side) []byte { return wire(from, wstest.Frame{Fin: true, Opcode: 3}) },
		"too big":  func(from Side) []byte { return wire(from, wstest.Text(strings.Repeat("x", 20))) },
	}
	sideInBubble(t, func(t *testing.T, e engine, from Side) {
		for name, bad := range bad {
			s := e.start(t, memory(1<<20), setup{Config: Config{MaxMessage: 10}})
			src, dst := s.peers(from)
			dst.Send(wstest.Close(4000, "bye"))
			src.WantClose(4000)
			src.SendRaw(bad(from))
			synctest.Wait()
			src.Send(wstest.Text("not for you"))
			synctest.Wait()
			dst.WantClose(4000) // the answer that src does not give
			src.Send(wstest.Close(4000, ""))
			s.hangUp()
			start := time.Now()
			other := map[Side]Side{Client: Backend, Backend: Client}[from]
			if s.wantEnd(End{Side: other, Cause: CauseClosed, Code: 4000}); t.Failed() {
				t.Fatal(name)
			}
			if took := time.Since(start); took != 0 {
				t.Errorf("%s: ended after %v; want at once", name, took)
			}
		}
	})
}

func TestBrokenFrameIsNotPassedButWhatStandsBeforeIs(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		forEachSide(t, func(t *testing.T, from Side) {
			s := e.start(t, n, setup{})
			src, dst := s.peers(from)
			src.Send(wstest.Text("good"), wstest.Frame{Fin: true, Opcode: 0xB, Payload: []byte("bad")}, wstest.Text("behind"))
			dst.Want(wstest.Text("good"))
			toSrc, toDst := uint16(1002), uint16(1001)
			if from == Backend {
				toDst = 1012
			}
			if from == Client {
				dst.WantClose(toDst)
				dst.Send(wstest.Text("an answer to what was good"), wstest.Close(toDst, ""))
				src.Want(wstest.Text("an answer to what was good"))
				src.WantClose(toSrc)
				src.Send(wstest.Close(toSrc, ""))
			} else {
				dst.WantClose(toDst)
				src.WantClose(toSrc)
				dst.Send(wstest.Close(toDst, ""))
				src.Send(wstest.Close(toSrc, ""))
			}
			s.hangUp()
			s.wantEnd(End{Side: from, Cause: CauseProtocol, Code: map[Side]int{Client: 1002, Backend: 1012}[from]})
		})
	})
}

func TestUnansweredCloseIsAnsweredForAPeerThatHangsUp(t *testing.T) {
	tests := []struct {
		name      string
		sent      wstest.Frame
		wantCode  uint16
		codeInEnd int
	}{
		{"normal", wstest.Close(1000, "bye"), 1000, 1000},
		{"of an application", wstest.Close(4000, ""), 4000, 4000},
		{"without a code", wstest.Close(0, ""), 0, frame.StatusNoStatus},
		// With an unknown extension the payload of a Close frame is its own.
		{"that may not be sent", wstest.Close(1006, ""), 1002, 1006},
		{"that is none", wstest.Close(7, ""), 1002, 7},
	}
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		forEachSide(t, func(t *testing.T, from Side) {
			for _, tt := range tests {
				t.Run(tt.name, func(t *testing.T) {
					s := e.start(t, n, setup{Config: Config{Unknown: tt.wantCode == 1002}})
					src, dst := s.peers(from)
					src.Send(tt.sent)
					dst.Want(tt.sent)
					dst.Send(wstest.Text("last words"))
					dst.CloseWrite()
					src.Want(wstest.Text("last words"))
					src.WantClose(tt.wantCode)
					if from == Backend {
						src.CloseWrite()
					}
					s.wantEOFs()
					s.wantEnd(End{Side: from, Cause: CauseClosed, Code: tt.codeInEnd})
				})
			}
		})
	})
}
