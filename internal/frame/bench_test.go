package frame

import (
	"testing"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// BenchmarkTracker tells what following a stream costs a frame. The stream comes
// in pieces of the size of a buffer, as it does in a relay.
func BenchmarkTracker(b *testing.B) {
	const pieceBytes = 32 << 10
	benchmarks := []struct {
		name  string
		frame wstest.Frame
	}{
		{"small128B", wstest.Binary(make([]byte, 128))},
		{"1MiB", wstest.Binary(make([]byte, 1<<20))},
		{"controls", wstest.Ping("12345678")},
	}
	for _, bm := range benchmarks {
		b.Run(bm.name, func(b *testing.B) {
			var stream []byte
			frames := 0
			for len(stream) < 4<<20 {
				stream = wstest.AppendFrame(stream, bm.frame, &testKey)
				frames++
			}
			b.SetBytes(int64(len(stream)))
			b.ReportAllocs()
			for b.Loop() {
				tr := Tracker{Rules: Rules{Masked: true}}
				for end, at := 0, 0; at < len(stream); {
					end = min(at+pieceBytes, len(stream))
					at += followPiece(b, &tr, stream[at:end])
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(frames), "ns/frame")
		})
	}
}

// followPiece returns how much of p could be taken.
func followPiece(b *testing.B, tr *Tracker, p []byte) int {
	n := 0
	for n < len(p) {
		step, err := tr.Next(p[n:])
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
