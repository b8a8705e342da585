package frame

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// seeds are the first streams of the fuzz tests.
func seeds() [][]byte {
	more, end := wstest.Fragment(wstest.OpText, false, "he"), wstest.Fragment(wstest.OpContinuation, true, "llo")
	messages := []wstest.Frame{wstest.Text("hello"), more, wstest.Ping("x"), end, wstest.Binary(make([]byte, 300)), wstest.Close(1000, "bye"), wstest.Pong("")}
	return [][]byte{
		fromBackend(messages...),
		fromClient(messages...),
		fromBackend(compressed(more), end),
		fromBackend(more, compressed(end)),
		fromBackend(wstest.Binary(make([]byte, 1<<16))),
		fromBackend(wstest.Text("good"), wstest.Frame{Fin: true, Opcode: 3}),
		fromBackend(wstest.Text("longer than the limit of messages")),
		fromBackend(more, more),
		header(true, Binary, 1<<63),
		header(true, Ping, 1<<63),
		header(true, Ping, 126),
		header(false, Close, 0),
		header(true, Binary, 1<<62),
		[]byte("\x89\x7e\x00\x01x"), // longer forms of lengths
		[]byte("\x89\x7f\x00\x00\x00\x00\x00\x00\x00\x01x"),
		[]byte("\x82\xff\x00\x00\x00\x00\x00\x00\x00\x01keyyx"),
		append([]byte("\x89\xff\x00\x00\x00\x00\x00\x00\x00\x7dkeyy"), make([]byte, 125)...),
		[]byte("\x81\xff\x80"), // two rules are broken
	}
}

// rulesOf returns the rules that the bits of b select.
func rulesOf(b byte) Rules {
	rules := Rules{Masked: b&1 != 0, Deflate: b&2 != 0, Unknown: b&4 != 0}
	if b&8 != 0 {
		rules.MaxMessage = 20
	}
	return rules
}

// An outcome is the result of a Tracker for a stream. events has one letter for
// each byte, d for data and the opcode for a control frame, so that it does not
// depend on how the stream was split.
type outcome struct {
	events   string
	messages uint32
	err      Violation
	held     int // bytes that must be passed again
}

// followPieces passes stream to a Tracker in pieces whose lengths cut returns. Like
// a relay it buffers the bytes that must be passed again.
func followPieces(rules Rules, stream []byte, cut func(left int) int) (o outcome, maxHeld int) {
	tr := Tracker{Rules: rules}
	var events, held []byte
	for at := 0; at < len(stream); {
		end := at + cut(len(stream)-at)
		p := append(held, stream[at:end]...)
		at, held = end, nil
		for len(p) > 0 {
			step, err := tr.Next(p)
			var v *Violation
			if errors.As(err, &v) {
				return outcome{string(events), tr.TakeMessages(), *v, 0}, maxHeld
			}
			if step.Len == 0 {
				held = append([]byte(nil), p...)
				maxHeld = max(maxHeld, len(held))
				break
			}
			events = appendEvents(events, step)
			p = p[step.Len:]
		}
	}
	return outcome{string(events), tr.TakeMessages(), Violation{}, len(held)}, maxHeld
}

func appendEvents(events []byte, step Step) []byte {
	if step.Control != 0 {
		return fmt.Appendf(events, "[%X:%d]", byte(step.Control), step.Len)
	}
	for range step.Len {
		events = append(events, 'd')
	}
	return events
}

func FuzzTrackerSameForAnySplit(f *testing.F) {
	for i, seed := range seeds() {
		for bits := range byte(16) {
			f.Add(seed, bits, uint64(i))
		}
	}
	f.Fuzz(func(t *testing.T, stream []byte, bits byte, split uint64) {
		rules := rulesOf(bits)
		random := rand.New(rand.NewPCG(split, 0))
		want, _ := followPieces(rules, stream, func(left int) int { return left })
		for name, cut := range map[string]func(int) int{
			"byte by byte": func(int) int { return 1 },
			"any pieces":   func(left int) int { return 1 + random.IntN(min(left, 200)) },
			"first byte":   func(left int) int { return max(1, left-1) },
		} {
			got, maxHeld := followPieces(rules, stream, cut)
			if got != want {
				t.Errorf("%+v, %x, %s: got %+v; want %+v, as for the whole", rules, stream, name, got, want)
			}
			if maxHeld > MaxHeld {
				t.Errorf("%+v, %x, %s: %d bytes were held; want at most %d", rules, stream, name, maxHeld, MaxHeld)
			}
		}
	})
}

func FuzzHeaderRoundTrip(f *testing.F) {
	for _, tt := range headerTests {
		f.Add([]byte(tt.wire))
	}
	for _, seed := range seeds() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		h, size, err := ParseHeader(p)
		if err != nil || size == 0 {
			return
		}
		wire := AppendHeader(nil, h)
		if len(wire) > size || len(wire) > MaxHeader {
			t.Errorf("%x was parsed as %+v, which is appended as %x: longer", p[:size], h, wire)
		}
		again, n, err := ParseHeader(wire)
		if again != h || n != len(wire) || err != nil {
			t.Errorf("%x was parsed as %+v, appended as %x and parsed as %+v, %d, %v", p[:size], h, wire, again, n, err)
		}
		if len(wire) == size && string(wire) != string(p[:size]) {
			t.Errorf("%x was parsed as %+v and appended as %x; want the same bytes", p[:size], h, wire)
		}
	})
}
