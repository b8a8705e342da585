package benchmarks

import (
	"testing"

	"github.com/wsproxy/wsproxy/benchmarks/internal/wire"
	"github.com/wsproxy/wsproxy/internal/frame"
)

// BenchmarkTracker measures the cost of tracking a frame. The stream is passed in
// pieces of the size of a buffer, as in a relay.
func BenchmarkTracker(b *testing.B) {
	for _, bb := range []struct {
		name   string
		opcode frame.Opcode
		size   int
	}{
		{"128B", frame.Binary, 128},
		{"1MiB", frame.Binary, 1 << 20},
		{"control", frame.Ping, 8},
	} {
		payload := make([]byte, bb.size)
		b.Run(bb.name+"/masked", func(b *testing.B) {
			track(b, frame.Rules{Masked: true}, wire.ClientFrame(bb.opcode, payload))
		})
		b.Run(bb.name+"/unmasked", func(b *testing.B) {
			track(b, frame.Rules{}, wire.ServerFrame(bb.opcode, payload))
		})
	}
}

const (
	streamBytes = 4 << 20
	pieceBytes  = 32 << 10
)

// track tracks a stream that repeats one frame.
func track(b *testing.B, rules frame.Rules, whole []byte) {
	var stream []byte
	frames := 0
	for len(stream) < streamBytes {
		stream = append(stream, whole...)
		frames++
	}
	b.ReportAllocs()
	for b.Loop() {
		tracker := frame.Tracker{Rules: rules}
		for at := 0; at < len(stream); {
			at += trackPiece(b, &tracker, stream[at:min(at+pieceBytes, len(stream))])
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(frames), "ns/frame")
}

// trackPiece tracks p and returns how many bytes were consumed.
func trackPiece(b *testing.B, tracker *frame.Tracker, p []byte) int {
	n := 0
	for n < len(p) {
		step, err := tracker.Next(p[n:])
		if err != nil {
			b.Fatal(err)
		}
		if step.Len == 0 {
			break
		}
		n += step.Len
	}
	return n
}
