package relay

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// allSorts are frames of all sorts, but no Close.
func allSorts() []wstest.Frame {
	return []wstest.Frame{
		wstest.Text("hello"),
		wstest.Text(""),
		wstest.Binary(bytes.Repeat([]byte{1, 2, 3}, 100)), // a length of 16 bits
		wstest.Ping("are you there?"),
		wstest.Pong(""),
		wstest.Fragment(wstest.OpText, false, "a message "),
		wstest.Ping("in between"),
		wstest.Fragment(wstest.OpContinuation, false, ""),
		wstest.Pong(strings.Repeat("p", 125)),
		wstest.Fragment(wstest.OpContinuation, true, "in parts"),
		wstest.Binary(make([]byte, 70_000)), // a length of 64 bits
	}
}

const messagesInAllSorts = 5

func TestFramesPassUntouchedInBothDirections(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		s := e.start(t, n, setup{})
		forEachSide(t, func(t *testing.T, from Side) {
			src, dst := s.peers(from)
			errc := make(chan error, 1)
			go func() { errc <- src.WriteFrames(allSorts()...) }()
			dst.Want(allSorts()...)
			if err := <-errc; err != nil {
				t.Fatal(err)
			}
		})
		s.Close(CauseShutdown, 0, "")
		s.wantShutdown()
	})
}

func TestBytesPassUnchangedMaskIncluded(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		s := e.start(t, n, setup{})
		forEachSide(t, func(t *testing.T, from Side) {
			src, dst := s.peers(from)
			var b []byte
			for i, f := range allSorts() {
				key := &[4]byte{byte(i), 2, 3, 4}
				if from == Backend {
					key = nil
				}
				b = wstest.AppendFrame(b, f, key)
			}
			b = append(b, "\x82"...) // a length in a longer form than it needs
			if from == Client {
				b = append(b, "\xff\x00\x00\x00\x00\x00\x00\x00\x02keyyxx"...)
			} else {
				b = append(b, "\x7f\x00\x00\x00\x00\x00\x00\x00\x02xx"...)
			}
			go src.Write(b)
			dst.WantRaw(string(b))
		})
	})
}

func TestStreamMayComeByteByByte(t *testing.T) {
	sideInBubble(t, func(t *testing.T, e engine, from Side) {
		s := e.start(t, memory(1<<20), setup{})
		src, dst := s.peers(from)
		b := wire(from, allSorts()[:10]...)
		for i := range b {
			src.SendRaw(b[i : i+1])
			synctest.Wait()
		}
		dst.WantRaw(string(b))
		s.Close(CauseShutdown, 0, "")
		s.wantShutdown()
	})
}

func TestHeaderMayBeSplitAtEveryByte(t *testing.T) {
	frames := map[string]wstest.Frame{
		"short": wstest.Text("hello"),
		"long":  wstest.Binary(make([]byte, 300)),
		"huge":  wstest.Binary(make([]byte, 1<<16)),
		"ping":  wstest.Ping("hello"),
	}
	sideInBubble(t, func(t *testing.T, e engine, from Side) {
		s := e.start(t, memory(1<<20), setup{})
		src, dst := s.peers(from)
		for name, f := range frames {
			b := wire(from, wstest.Text("before"), f)
			for split := range min(len(b), len("before")+20) {
				src.SendRaw(b[:split])
				synctest.Wait()
				src.SendRaw(b[split:])
				if dst.WantRaw(string(b)); t.Failed() {
					t.Fatalf("%s, split at %d", name, split)
				}
			}
		}
	})
}

// As above, over sockets. That the first part has been read before the second is
// sent is likely, not sure: a round trip the other way gives it time.
func TestHeaderMayBeSplitAtEveryByteOnSockets(t *testing.T) {
	forEachEngine(t, func(t *testing.T, e engine) {
		for _, n := range networks[:2] {
			t.Run(n.name, func(t *testing.T) {
				forEachSide(t, func(t *testing.T, from Side) {
					s := e.start(t, n, setup{})
					src, dst := s.peers(from)
					for _, f := range []wstest.Frame{
						wstest.Text("hello"), wstest.Binary(make([]byte, 300)), wstest.Binary(make([]byte, 1<<16)), wstest.Ping("hello"),
					} {
						b := wire(from, wstest.Text("before"), f)
						for split := range min(len(b), len("before")+20) {
							src.SendRaw(b[:split])
							dst.Send(wstest.Pong(""))
							src.Want(wstest.Pong(""))
							src.SendRaw(b[split:])
							if dst.WantRaw(string(b)); t.Failed() {
								t.Fatalf("%v, split at %d", f, split)
							}
						}
					}
				})
			})
		}
	})
}

func TestPayloadIsNotHeldBack(t *testing.T) {
	sideInBubble(t, func(t *testing.T, e engine, from Side) {
		s := e.start(t, memory(1<<20), setup{})
		src, dst := s.peers(from)
		b := wire(from, wstest.Text("slowly"))
		header := len(b) - len("slowly")
		for end := header + 1; end <= len(b); end++ {
			from := end - 1
			if end == header+1 {
				from = 0
			}
			src.SendRaw(b[from:end])
			dst.WantRaw(string(b[from:end]))
		}
	})
}

func TestEarlyBytesOfBothSidesComeFirst(t *testing.T) {
	early := []wstest.Frame{wstest.Text("early"), wstest.Ping("x"), wstest.Binary(make([]byte, 100_000))}
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		late := []wstest.Frame{wstest.Text("late")}
		// The last frame has begun already.
		head := func(from Side) (head, tail []byte) {
			b := wire(from, append(early, late...)...)
			return b[:len(b)-3], b[len(b)-3:]
		}
		clientHead, clientTail := head(Client)
		backendHead, backendTail := head(Backend)
		s := e.start(t, n, setup{fromClient: clientHead, fromBackend: backendHead})
		s.client.SendRaw(clientTail)
		s.backend.SendRaw(backendTail)
		for _, dst := range []*wstest.Peer{s.backend, s.client} {
			dst.Want(early...)
			dst.Want(late...)
		}
	})
}

func TestBadEarlyByteIsCaught(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		forEachSide(t, func(t *testing.T, from Side) {
			var early setup
			code := map[Side]int{Client: 1002, Backend: 1012}[from]
			bad := append(wire(from, wstest.Text("good")), "HTTP/1.1 200 OK\r\n"...)
			if early.fromClient = bad; from == Backend {
				early = setup{fromBackend: bad}
			}
			s := e.start(t, n, early)
			_, dst := s.peers(from)
			dst.Want(wstest.Text("good"))
			s.backend.WantClose(map[Side]uint16{Client: 1001, Backend: 1002}[from])
			s.backend.Send(wstest.Close(1000, ""))
			s.client.WantClose(uint16(code))
			s.client.Send(wstest.Close(1000, ""))
			s.hangUp()
			s.wantEnd(End{Side: from, Cause: CauseProtocol, Code: code})
		})
	})
}

func TestCountsAreOfWhatPassed(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		s := e.start(t, n, setup{fromClient: masked(wstest.Text("early"))})
		s.client.Send(allSorts()...)
		s.backend.Want(wstest.Text("early"))
		s.backend.Want(allSorts()...)
		s.backend.Send(wstest.Text("once"), wstest.Fragment(wstest.OpText, false, "not to its end"))
		s.client.Want(wstest.Text("once"), wstest.Fragment(wstest.OpText, false, "not to its end"))

		s.Close(CauseShutdown, 0, "")
		s.client.Send(wstest.Text("too late")) // discarded, as is the answer
		s.wantShutdown()
		toBackend, toClient := s.Counts()
		want := Counts{uint64(len(masked(wstest.Text("early"))) + len(masked(allSorts()...))), 1 + messagesInAllSorts}
		if toBackend != want {
			t.Errorf("to the backend: %+v; want %+v, frames of ours not counted", toBackend, want)
		}
		if want := (Counts{6 + 16, 1}); toClient != want {
			t.Errorf("to the client: %+v; want %+v", toClient, want)
		}
	})
}

func TestCompressedMessagesPassWhereDeflateWasAgreed(t *testing.T) {
	zip := wstest.Frame{Fin: true, RSV: 4, Opcode: wstest.OpText, Payload: []byte("zip")}
	forEachEngine(t, func(t *testing.T, e engine) {
		forEachSide(t, func(t *testing.T, from Side) {
			s := e.start(t, networks[0], setup{Config: Config{Deflate: true}})
			src, dst := s.peers(from)
			src.Send(zip)
			dst.Want(zip)

			s = e.start(t, networks[0], setup{})
			src, dst = s.peers(from)
			src.Send(zip)
			dst.WantClose(map[Side]uint16{Client: 1001, Backend: 1012}[from])
			s.backend.CloseWrite()
			src.WantClose(1002)
		})
	})
}

func TestUnknownExtensionMayGiveAMeaningToAllThatIsReserved(t *testing.T) {
	odd := []wstest.Frame{
		{Fin: true, RSV: 7, Opcode: wstest.OpText, Payload: []byte("x")},
		{Fin: true, Opcode: 3, Payload: []byte("three")},
		{Fin: false, Opcode: 0xF, Payload: []byte("fifteen")},
		{Fin: true, RSV: 1, Opcode: wstest.OpClose, Payload: []byte("not what it seems")},
		wstest.Ping("a real one"),
		wstest.Fragment(wstest.OpContinuation, true, "of nothing"),
	}
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		forEachSide(t, func(t *testing.T, from Side) {
			s := e.start(t, n, setup{Config: Config{Unknown: true}})
			src, dst := s.peers(from)
			src.Send(odd...)
			dst.Want(odd...)
			s.Close(CauseShutdown, 0, "")
			s.wantShutdown()
		})
	})
}

func TestLimitOfMessagesIsExact(t *testing.T) {
	exact := []wstest.Frame{
		wstest.Text(strings.Repeat("x", 100)),
		wstest.Fragment(wstest.OpText, false, strings.Repeat("x", 60)),
		wstest.Ping(strings.Repeat("p", 125)),
		wstest.Fragment(wstest.OpContinuation, true, strings.Repeat("x", 40)),
	}
	forEachEngine(t, func(t *testing.T, e engine) {
		forEachSide(t, func(t *testing.T, from Side) {
			s := e.start(t, networks[0], setup{Config: Config{MaxMessage: 100}})
			src, dst := s.peers(from)
			src.Send(exact...)
			dst.Want(exact...)
			first := wstest.Fragment(wstest.OpText, false, strings.Repeat("x", 60))
			src.Send(first, wstest.Fragment(wstest.OpContinuation, true, strings.Repeat("x", 41)))
			dst.Want(first)
			dst.WantClose(map[Side]uint16{Client: 1001, Backend: 1011}[from])
			s.backend.CloseWrite()
			src.WantClose(1009)
		})
	})
}

func TestLengthThatAPeerClaimsCostsNothing(t *testing.T) {
	sideInBubble(t, func(t *testing.T, e engine, from Side) {
		s := e.start(t, memory(1<<20), setup{})
		src, dst := s.peers(from)
		head := []byte("\x82\x7f\x40\x00\x00\x00\x00\x00\x00\x00")
		if from == Client {
			head[1] |= 0x80
			head = append(head, "keyy"...)
		}
		src.SendRaw(append(head, "a little"...))
		dst.WantRaw(string(head) + "a little")
	})
}

// A side that does not read stops the other from being read: what is under way is
// a buffer, and what the two connections hold.
func TestSideThatTakesNothingStopsTheOther(t *testing.T) {
	const pipeBytes, bufferBytes = 4 << 10, 32 << 10
	sideInBubble(t, func(t *testing.T, e engine, from Side) {
		s := e.start(t, memory(pipeBytes), setup{})
		src, dst := s.peers(from)
		big := wire(from, wstest.Binary(make([]byte, 1<<20)))
		src.Conn().SetWriteDeadline(time.Now().Add(time.Hour))
		sent, err := src.Conn().Write(big)
		if !isTimeout(err) {
			t.Fatalf("Write() = %d, %v; want a timeout", sent, err)
		}
		if most := 2*pipeBytes + bufferBytes; sent > most {
			t.Errorf("%d bytes are under way; want at most %d", sent, most)
		}
		// The other direction is not concerned, and it goes on where it stopped.
		dst.Send(wstest.Text("hello"))
		src.Want(wstest.Text("hello"))
		go src.Write(big[sent:])
		dst.WantRaw(string(big))
	})
}

func TestManyTunnelsAtOnce(t *testing.T) {
	const tunnels = 20
	forEachEngine(t, func(t *testing.T, e engine) {
		for i := range tunnels {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				n := networks[i%len(networks)]
				if e.needsSockets {
					n = networks[i%2]
				}
				s := e.start(t, n, setup{})
				for range 20 {
					s.client.Send(wstest.Text("ping"))
					s.backend.Want(wstest.Text("ping"))
					s.backend.Send(wstest.Text("pong"))
					s.client.Want(wstest.Text("pong"))
				}
				s.Close(CauseShutdown, 0, "")
				s.wantShutdown()
			})
		}
	})
}
