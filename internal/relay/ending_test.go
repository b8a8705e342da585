package relay

import (
	"bytes"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy/internal/wstest"
	"github.com/wsproxy/wsproxy/wsproxytest/memnet"
)

// wantEndAfter is wantEnd, a time after start. The end may be a few ticks late, unless it
// is due at once.
func (s *scene) wantEndAfter(start time.Time, d time.Duration, want End) error {
	s.t.Helper()
	err := s.wantEnd(want)
	if took := time.Since(start); took < d || took > d+5*tickInterval || d == 0 && took != 0 {
		s.t.Errorf("ended after %v; want %v", took, d)
	}
	return err
}

func TestHalfClosedSideGetsAllTheRest(t *testing.T) {
	const messages = 50
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		forEachSide(t, func(t *testing.T, from Side) {
			if from == Client && n.cannotHalfClose {
				t.Skip("the backend's connection is closed")
			}
			s := e.start(t, n, setup{})
			src, dst := s.peers(from)
			big := wstest.Binary(make([]byte, 50_000))
			src.CloseWrite()
			s.wantLossOf(from)
			errc := make(chan error, 1)
			go func() {
				for range messages {
					if err := dst.WriteFrames(big); err != nil {
						errc <- err
						return
					}
				}
				errc <- dst.WriteFrames(wstest.Close(1000, ""))
			}()
			for range messages {
				src.Want(big)
			}
			src.WantClose(1000)
			if err := <-errc; err != nil {
				t.Fatal(err)
			}
			if from == Client {
				dst.CloseWrite()
			}
			s.wantEOFs()
			s.wantEnd(lossOf(from))
		})
	})
}

func TestHalfClosedTunnelEndsAfterSilence(t *testing.T) {
	sideInBubble(t, func(t *testing.T, e engine, from Side) {
		s := e.start(t, memory(1<<20), setup{})
		src, dst := s.peers(from)
		start := time.Now()
		src.CloseWrite()
		s.wantLossOf(from)
		dst.Send(wstest.Text("one more message"))
		src.Want(wstest.Text("one more message"))
		time.Sleep(silenceTimeout - time.Millisecond)
		dst.Send(wstest.Text("still talking"))
		src.Want(wstest.Text("still talking"))
		want := lossOf(from)
		want.Cut = true
		err := s.wantEndAfter(start, silenceTimeout, want)
		if err != io.EOF {
			t.Errorf("ended with error %v; want io.EOF", err)
		}
	})
}

func TestUnansweredCloseFrameEndsAfterSilence(t *testing.T) {
	sideInBubble(t, func(t *testing.T, e engine, from Side) {
		s := e.start(t, memory(1<<20), setup{})
		src, dst := s.peers(from)
		start := time.Now()
		src.Send(wstest.Close(4000, "bye"))
		dst.WantClose(4000)
		time.Sleep(silenceTimeout)
		src.WantClose(4000) // in the place of the side that is silent
		rest := map[Side]time.Duration{Client: unknownTimeout, Backend: endTimeout}[from]
		s.wantEndAfter(start, silenceTimeout+rest, End{Side: from, Cause: CauseClosed, Code: 4000, Cut: true})
		s.client.WantEOF()
		s.backend.WantEOF()
	})
}

func TestUnansweredCloseFramesOfOursEndSoon(t *testing.T) {
	inBubble(t, func(t *testing.T, e engine) {
		for _, cause := range []Cause{CauseApplication, CauseShutdown} {
			s := e.start(t, memory(1<<20), setup{})
			start := time.Now()
			s.Close(cause, 4000, "")
			s.backend.WantClose(1001)
			s.client.WantClose(4000)
			if took := time.Since(start); took < answerTimeout || took > answerTimeout+2*tickInterval {
				t.Errorf("the client's Close frame came after %v; want %v", took, answerTimeout)
			}
			s.wantEndAfter(start, answerTimeout+unknownTimeout, End{Side: Proxy, Cause: cause, Code: 4000})
			s.client.WantEOF()
			s.backend.WantEOF()
		}
	})
}

func TestClientsCloseFrameWaitsForABackendThatSendsOn(t *testing.T) {
	inBubble(t, func(t *testing.T, e engine) {
		s := e.start(t, memory(1<<20), setup{})
		start := time.Now()
		s.Close(CauseShutdown, 0, "")
		s.backend.WantClose(1001)
		hasStopped := make(chan struct{})
		go func() {
			for s.backend.WriteFrames(wstest.Text("news")) == nil {
				time.Sleep(answerTimeout / 2)
			}
			close(hasStopped)
		}()
		for {
			f, err := s.client.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if f.Opcode == wstest.OpClose {
				break
			}
		}
		if took := time.Since(start); took < answersTimeout || took > answersTimeout+2*tickInterval {
			t.Errorf("the client's Close frame came after %v; want %v", took, answersTimeout)
		}
		s.client.Send(wstest.Close(1001, ""))
		s.client.WantEOF()
		s.client.Close()
		s.wait()
		<-hasStopped
	})
}

func TestSocketsAreClosedInOrder(t *testing.T) {
	closeBoth := func(s *scene) {
		s.client.Send(wstest.Close(1000, ""))
		s.backend.WantClose(1000)
		s.backend.Send(wstest.Close(1000, ""))
		s.client.WantClose(1000)
	}
	end := End{Side: Client, Cause: CauseClosed, Code: 1000}
	inBubble(t, func(t *testing.T, e engine) {
		t.Log("both hang up at once")
		s := e.start(t, memory(1<<20), setup{})
		start := time.Now()
		closeBoth(s)
		s.hangUp()
		s.wantEndAfter(start, 0, end)

		t.Log("the backend does not hang up")
		s = e.start(t, memory(1<<20), setup{})
		start = time.Now()
		closeBoth(s)
		s.client.WantEOF()
		s.client.Close()
		s.wantEndAfter(start, endTimeout, end)
		s.backend.WantEOF()

		t.Log("the client does not hang up")
		s = e.start(t, memory(1<<20), setup{})
		start = time.Now()
		closeBoth(s)
		s.backend.CloseWrite()
		s.client.WantEOF() // our stream has ended
		s.client.Send(wstest.Text("late"))
		s.wantEndAfter(start, unknownTimeout, end)
		s.backend.WantEOF()

		t.Log("the backend's stream is not ended before it hangs up")
		s = e.start(t, memory(1<<20), setup{})
		start = time.Now()
		closeBoth(s)
		s.client.WantEOF()
		s.backend.Conn().SetReadDeadline(time.Now().Add(endTimeout - 1))
		if n, err := s.backend.Conn().Read(make([]byte, 1)); !isTimeout(err) {
			t.Errorf("backend read %d, %v; want nothing: TIME_WAIT is to be its own", n, err)
		}
		s.client.Close()
		s.wantEndAfter(start, endTimeout, end)
	})
}

func TestClientWhoseStreamCannotBeEndedIsClosedAtOnce(t *testing.T) {
	hidden := func(t testing.TB) (near, far net.Conn) {
		near, far = memnet.Pipe(1 << 20)
		return struct{ net.Conn }{near}, far
	}
	inBubble(t, func(t *testing.T, e engine) {
		s := e.start(t, network{client: hidden, backend: hidden}, setup{})
		start := time.Now()
		s.client.Send(wstest.Close(1000, ""))
		s.backend.Send(wstest.Close(1000, ""))
		s.client.WantClose(1000)
		s.backend.WantClose(1000)
		s.backend.Close()
		s.wantEndAfter(start, 0, End{Side: Client, Cause: CauseClosed, Code: 1000})
		s.client.WantEOF()
	})
}

func TestSideThatBreaksARuleAfterAShutdownIsNotWaitedFor(t *testing.T) {
	sideInBubble(t, func(t *testing.T, e engine, from Side) {
		s := e.start(t, memory(1<<20), setup{})
		src, _ := s.peers(from)
		start := time.Now()
		s.Close(CauseShutdown, 0, "")
		s.backend.WantClose(1001)
		b := wire(from, wstest.Ping("in two parts"), wstest.Frame{Fin: true, Opcode: 0xB})
		src.SendRaw(b[:4])
		synctest.Wait()
		src.SendRaw(b[4:])
		src.SendRaw([]byte("and worse"))
		if from == Client {
			s.backend.Send(wstest.Close(1001, ""))
		} else {
			s.client.Want(wstest.Ping("in two parts"))
		}
		s.client.WantClose(1001)
		if from == Backend {
			s.client.Send(wstest.Close(1001, ""))
		}
		s.hangUp()
		s.wantEndAfter(start, 0, End{Side: Proxy, Cause: CauseShutdown, Code: 1001})
	})
}

// shout sends b over and over until it is taken no more, and answer once, after
// heard is closed.
func shout(p *wstest.Peer, b, answer []byte, heard <-chan struct{}) {
	for {
		select {
		case <-heard:
			p.Write(answer)
			heard = nil
		default:
		}
		if _, err := p.Write(b); err != nil {
			return
		}
		time.Sleep(20 * time.Millisecond) // other tests need the processor too
	}
}

// A socket that is closed with unread bytes in it sends a reset, which destroys
// the Close frame on its way.
func TestClientThatIsStillSendingGetsTheCloseFrame(t *testing.T) {
	const limit = 64 << 10
	message := masked(wstest.Binary(make([]byte, limit)))
	tests := []struct {
		name string
		code uint16
		send []byte // over and over, after the first message
		act  func(*scene)
	}{
		{"breaks the protocol", 1002, bytes.Repeat([]byte("no frame"), 8<<10), func(*scene) {}},
		{"sends too much", 1009, masked(wstest.Binary(make([]byte, limit+1))), func(*scene) {}},
		{"loses its backend", 1012, message, func(s *scene) { s.backend.Close() }},
		{"is sent away", 1001, message, func(s *scene) { s.Close(CauseShutdown, 0, "") }},
	}
	forEachEngineAtOnce(t, func(t *testing.T, e engine) {
		for _, n := range networks[:3] { // TCP, unix and TLS: what has resets, or loses bytes like one
			if e.needsSockets && !n.isSockets {
				continue
			}
			for _, tt := range tests {
				t.Run(n.name+"/"+tt.name, func(t *testing.T) {
					t.Parallel() // each waits for the send queue to stay empty
					s := e.start(t, n, setup{Config: Config{MaxMessage: limit}})
					s.client.SendRaw(message)
					s.backend.Want(wstest.Binary(make([]byte, limit)))
					go io.Copy(io.Discard, s.backend)
					heard, shouted := make(chan struct{}), make(chan struct{})
					go func() {
						shout(s.client, tt.send, masked(wstest.Close(tt.code, "")), heard)
						close(shouted)
					}()
					tt.act(s)
					s.client.WantClose(tt.code)
					close(heard)
					s.backend.Conn().Close()
					s.client.WantEOF()
					s.wait()
					<-shouted
				})
			}
		}
	})
}

func TestClientThatDoesNotStopSendingIsClosedSoon(t *testing.T) {
	forEachEngineAtOnce(t, func(t *testing.T, e engine) {
		s := e.start(t, networks[0], setup{Config: Config{MaxMessage: 100}})
		start := time.Now()
		go shout(s.client, masked(wstest.Binary(make([]byte, 64<<10))), nil, nil)
		s.backend.WantClose(1001)
		s.backend.Close()
		s.client.WantClose(1009)
		if b, err := io.ReadAll(s.client); len(b) > 0 || err != nil {
			t.Errorf("client read %q, %v; want the end of the stream in order", b, err)
		}
		end := s.wait()
		if took := wstest.Took(start, time.Now()); end.Cut || took > raceFactor*3*emptyTimeout {
			t.Errorf("ended with %+v after %v; want an end in order after %v", end, took, emptyTimeout)
		}
	})
}
