package relay

import (
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// relayOf returns the relay behind a scene's tunnel.
func relayOf(s *scene) *Relay { return s.tunnel.(interface{ relay() *Relay }).relay() }

func (r *Relay) relay() *Relay { return r }

// startPinging returns a scene that runs, and its relay.
func startPinging(t *testing.T, e engine, n network) (*scene, *Relay) {
	t.Helper()
	s := e.start(t, n, setup{})
	return s, relayOf(s)
}

// ping sends a ping of the relay's own.
func (r *Relay) ping(to Side) { r.leg(to).sendPing() }

// wantPingPong wants a ping of ours at dst, which answers, and the answer not to pass:
// what dst sends next is what src gets.
func wantPingPong(src, dst *wstest.Peer) {
	dst.Send(dst.WantPing(), wstest.Text("after the pong"))
	src.Want(wstest.Text("after the pong"))
}

func TestRelaySendsFramesOfItsOwnAtTheNextBoundary(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		forEachSide(t, func(t *testing.T, from Side) {
			to := otherSide(from)
			big := wire(from, wstest.Binary(make([]byte, 200_000)))
			states := []struct {
				name          string
				before, after []byte // what the other side sends before and after the ping
				isInFrame     bool
			}{
				{name: "idle", after: wire(from, wstest.Text("next"))},
				{name: "between fragments", before: wire(from, wstest.Fragment(wstest.OpText, false, "first")),
					after: wire(from, wstest.Fragment(wstest.OpContinuation, true, "second"))},
				{name: "within a large frame", before: big[:100_000], after: big[100_000:], isInFrame: true},
				{name: "within a small frame", before: wire(from, wstest.Text("under way"))[:10],
					after: wire(from, wstest.Text("under way"))[10:], isInFrame: true},
			}
			for _, tt := range states {
				t.Run(tt.name, func(t *testing.T) {
					s, p := startPinging(t, e, n)
					src, dst := s.peers(from)
					go src.Write(tt.before)
					dst.WantRaw(string(tt.before))
					p.ping(to)
					if tt.isInFrame {
						go src.Write(tt.after)
						dst.WantRaw(string(tt.after))
						wantPingPong(src, dst)
					} else {
						wantPingPong(src, dst) // at once
						go src.Write(tt.after)
						dst.WantRaw(string(tt.after))
					}
				})
			}
		})
	})
}

// A header of which a part was read is not passed on before all of it is there, so that a
// frame of ours may go before it.
func TestRelaySendsFramesOfItsOwnBeforeAPartOfAHeader(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		forEachSide(t, func(t *testing.T, from Side) {
			s, p := startPinging(t, e, n)
			src, dst := s.peers(from)
			frame := wire(from, wstest.Binary(make([]byte, 1000)))
			src.SendRaw(frame[:3])
			p.ping(otherSide(from))
			wantPingPong(src, dst)
			src.SendRaw(frame[3:])
			dst.WantRaw(string(frame))
		})
	})
}

// A side that takes nothing gets the frame of ours behind what waits for it, and nothing
// waits for it meanwhile but what was read.
func TestRelaySendsFramesOfItsOwnBehindWhatWasRead(t *testing.T) {
	forEachEngine(t, func(t *testing.T, e engine) {
		forEachSide(t, func(t *testing.T, from Side) {
			t.Parallel() // stalling takes time
			s, p := startPinging(t, e, networks[0])
			src, dst := s.peers(from)
			message := wire(from, wstest.Binary(make([]byte, 1<<20)))
			sent := stall(t, s, from)
			p.ping(otherSide(from))
			messages := (sent + len(message) - 1) / len(message)
			go func() { // ends when all is read, or with the test
				src.Conn().SetWriteDeadline(time.Time{})
				src.Write(message[sent-(messages-1)*len(message):])
			}()
			pings := 0
			for range messages + 1 {
				f, err := dst.ReadFrame()
				switch {
				case err != nil:
					t.Fatal(err)
				case f.Opcode == wstest.OpPing:
					pings++
				case len(f.Payload) != 1<<20:
					t.Fatalf("read %v; want a message of 1 MiB or the ping", f)
				}
			}
			if pings != 1 {
				t.Errorf("%d pings in %d messages; want 1", pings, messages)
			}
		})
	})
}

func TestRelaySwallowsPongsOnce(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		forEachSide(t, func(t *testing.T, of Side) {
			s, p := startPinging(t, e, n)
			dst, src := s.peers(of) // dst is pinged
			dst.Send(wstest.Pong("unasked"))
			src.Want(wstest.Pong("unasked"))
			p.ping(of)
			pong := dst.WantPing()
			part := wstest.Fragment(wstest.OpText, false, "first")
			dst.Send(wstest.Pong("other"), part, pong, wstest.Fragment(wstest.OpContinuation, true, "last"), pong)
			src.Want(wstest.Pong("other"), part, wstest.Fragment(wstest.OpContinuation, true, "last"), pong)
			src.Send(wstest.Ping("theirs"))
			dst.Want(wstest.Ping("theirs"))
			dst.Send(wstest.Pong("theirs"))
			src.Want(wstest.Pong("theirs"))
		})
	})
}

func TestRelaySwallowsAPongInTwoParts(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		forEachSide(t, func(t *testing.T, of Side) {
			s, p := startPinging(t, e, n)
			dst, src := s.peers(of)
			p.ping(of)
			pong := wire(of, dst.WantPing())
			for _, b := range pong {
				dst.SendRaw([]byte{b})
			}
			dst.Send(wstest.Text("after the pong"))
			src.Want(wstest.Text("after the pong"))
		})
	})
}

func TestCountsAreWithoutFramesOfTheRelaysOwn(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		s, p := startPinging(t, e, n)
		s.client.Send(wstest.Text("hello"))
		s.backend.Want(wstest.Text("hello"))
		for _, to := range bothSides {
			p.ping(to)
		}
		s.client.Send(s.client.WantPing())
		s.backend.Send(s.backend.WantPing())
		s.client.Send(wstest.Close(1000, ""))
		s.backend.WantClose(1000)
		s.backend.Send(wstest.Close(1000, ""))
		s.client.WantClose(1000)
		s.hangUp()
		s.wantEnd(End{Side: Client, Cause: CauseClosed, Code: 1000})
		toBackend, toClient := s.Counts()
		wantUp := Counts{uint64(len(masked(wstest.Text("hello"), wstest.Close(1000, "")))), 1}
		wantDown := Counts{uint64(len(unmasked(wstest.Close(1000, "")))), 0}
		if toBackend != wantUp || toClient != wantDown {
			t.Errorf("counts %+v and %+v; want %+v and %+v", toBackend, toClient, wantUp, wantDown)
		}
	})
}

func TestNothingOfOursFollowsAClose(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		forEachSide(t, func(t *testing.T, from Side) {
			s, p := startPinging(t, e, n)
			src, dst := s.peers(from)
			src.Send(wstest.Close(1000, ""))
			dst.WantClose(1000)
			p.ping(otherSide(from))
			dst.Send(wstest.Close(1000, ""))
			src.WantClose(1000)
			s.hangUp()
			s.wantEnd(End{Side: from, Cause: CauseClosed, Code: 1000})
		})
	})
}

// A ping leaves nothing behind that an idle tunnel would have to pay for.
func TestRelayForgetsAPingThatWasSent(t *testing.T) {
	forEachEngine(t, func(t *testing.T, e engine) {
		s, p := startPinging(t, e, networks[0])
		p.ping(Client)
		s.client.WantPing()
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			p.mu.Lock()
			isIdle := p.closing == nil
			p.mu.Unlock()
			if isIdle {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the tunnel is still looked at")
			}
		}
		p.ping(Backend)
		wantPingPong(s.client, s.backend)
	})
}
