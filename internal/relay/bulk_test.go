package relay

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A fragmentation says how a message is cut: it returns the payload bytes of the
// fragment behind others.
type fragmentation struct {
	name string
	next func(random *rand.Rand) int
}

var fragmentations = []fragmentation{
	{"one frame", func(*rand.Rand) int { return 1 << 30 }},
	{"1 MiB", func(*rand.Rand) int { return 1 << 20 }},
	{"any size", func(r *rand.Rand) int { return r.IntN(1 << r.IntN(20)) }},
}

// message returns a binary message as side sends it, with a ping behind each of its
// fragments. Random payload is not masked, which takes long: it looks the same.
func (f fragmentation) message(side Side, payload []byte) []byte {
	random := rand.New(rand.NewPCG(1, uint64(side)))
	var b []byte
	opcode := byte(wstest.OpBinary)
	for isLast := false; !isLast; opcode = wstest.OpContinuation {
		n := f.next(random)
		isLast = n >= len(payload)
		n = min(n, len(payload))
		header := len(b)
		b = wstest.AppendFrame(b, wstest.Frame{Fin: isLast, Opcode: opcode, Payload: payload[:n]}, nil)
		if side == Client {
			b[header+1] |= 0x80
			b = slices.Insert(b, len(b)-n, 'k', 'e', 'y', byte(n))
		}
		b = append(b, wire(side, wstest.Ping(fmt.Sprint(n)))...)
		payload = payload[n:]
	}
	return b
}

func TestHugeMessagesPassBothWaysAtOnce(t *testing.T) {
	messageBytes := 64 << 20
	if testing.Short() {
		messageBytes = 4 << 20
	}
	payload := make([]byte, messageBytes)
	rand.NewChaCha8([32]byte{}).Read(payload)
	for _, f := range fragmentations {
		messages := map[Side][]byte{Client: f.message(Client, payload), Backend: f.message(Backend, payload)}
		t.Run(f.name, func(t *testing.T) {
			forEachEngine(t, func(t *testing.T, e engine) {
				for _, n := range networks[:2] { // real sockets
					t.Run(n.name, func(t *testing.T) { passBothWays(t, e.start(t, n, setup{}), messages) })
				}
			})
		})
	}
}

// passBothWays sends messages, and compares what arrives.
func passBothWays(t *testing.T, s *scene, messages map[Side][]byte) {
	pass := func(from Side) func() {
		src, dst := s.peers(from)
		message := messages[from]
		return func() {
			together(
				func() { src.Write(message) },
				func() {
					hash := sha256.New()
					dst.Conn().SetReadDeadline(time.Now().Add(time.Minute))
					n, err := io.CopyN(hash, dst.Conn(), int64(len(message)))
					if err != nil || [32]byte(hash.Sum(nil)) != sha256.Sum256(message) {
						t.Errorf("from the %v: %d of %d bytes arrived, or others; %v", from, n, len(message), err)
						s.Cut(CauseShutdown)
					}
				})
		}
	}
	together(pass(Client), pass(Backend))
	s.Goodbye(CauseShutdown, 0, "")
	s.wantGoodbye()
	for from, counts := range map[Side]func() Counts{
		Client:  func() Counts { c, _ := s.Counts(); return c },
		Backend: func() Counts { _, c := s.Counts(); return c },
	} {
		if got, want := counts(), (Counts{uint64(len(messages[from])), 1}); got != want {
			t.Errorf("counts from the %v are %+v; want %+v", from, got, want)
		}
	}
}
