package relay

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A bulk is a huge message. It is made while it is written, the same each time: to
// hold it whole would be slow with the race detector.
type bulk struct {
	from     Side
	bytes    int                  // of payload
	fragment func(*rand.Rand) int // returns the payload bytes of the next one
}

// writeTo writes the message, with a ping after each fragment, or after as many as a client
// may send at once.
func (m bulk) writeTo(w io.Writer) {
	noise := make([]byte, 1<<20) // what payloads are cut from
	random := rand.New(rand.NewPCG(1, uint64(m.from)))
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	buffered := bufio.NewWriterSize(w, 256<<10)
	opcode := byte(wstest.OpBinary)
	pings := 0
	for left := m.bytes; left >= 0; opcode = wstest.OpContinuation {
		n := m.fragment(random)
		if n >= left {
			opcode |= 0x80 // the last one
			n = left
			left = -1
		} else {
			left -= n
		}
		buffered.Write(m.header(opcode, n))
		for n > 0 {
			piece := noise[random.IntN(len(noise)):]
			piece = piece[:min(n, len(piece))]
			buffered.Write(piece)
			n -= len(piece)
		}
		if pings++; m.from == Backend || pings <= maxControls {
			buffered.Write(wire(m.from, wstest.Ping(fmt.Sprint(left))))
		}
	}
	buffered.Flush()
}

// header returns a frame's header. Its key is any, for noise looks the same masked.
func (m bulk) header(finAndOpcode byte, bytes int) []byte {
	b := []byte{finAndOpcode, 0}
	switch {
	case bytes <= 125:
		b[1] = byte(bytes)
	case bytes <= 0xffff:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(bytes))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(bytes))
	}
	if m.from == Client {
		b[1] |= 0x80
		b = append(b, "key!"...)
	}
	return b
}

// sum returns the length and the hash of what writeTo writes.
func (m bulk) sum() (int64, hash.Hash) {
	h := sha256.New()
	counted := &counter{Writer: h}
	m.writeTo(counted)
	return counted.bytes, h
}

type counter struct {
	io.Writer
	bytes int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.bytes += int64(len(p))
	return c.Writer.Write(p)
}

func TestHugeMessagesPassBothWaysAtOnce(t *testing.T) {
	messageBytes := 64 << 20
	if testing.Short() {
		messageBytes = 4 << 20
	}
	fragmentations := []struct {
		name     string
		fragment func(*rand.Rand) int
	}{
		{"one frame", func(*rand.Rand) int { return messageBytes }},
		{"1 MiB", func(*rand.Rand) int { return 1 << 20 }},
		{"any size", func(r *rand.Rand) int { return r.IntN(1 << r.IntN(20)) }},
	}
	forEachEngine(t, func(t *testing.T, e engine) {
		for _, n := range networks[:2] { // real sockets
			for _, f := range fragmentations {
				t.Run(n.name+"/"+f.name, func(t *testing.T) {
					s := e.start(t, n, setup{})
					together(
						func() { s.passBulk(bulk{Client, messageBytes, f.fragment}) },
						func() { s.passBulk(bulk{Backend, messageBytes, f.fragment}) })
					s.Close(CauseShutdown, 0, "")
					s.wantShutdown()
				})
			}
		}
	})
}

// passBulk sends m, and compares what arrives.
func (s *scene) passBulk(m bulk) {
	src, dst := s.peers(m.from)
	wantBytes, want := m.sum()
	together( // both end when the tunnel is cut
		func() { m.writeTo(src) },
		func() {
			got := sha256.New()
			dst.Conn().SetReadDeadline(time.Now().Add(time.Minute))
			n, err := io.CopyBuffer(got, io.LimitReader(dst.Conn(), wantBytes), make([]byte, 256<<10))
			if err != nil || string(got.Sum(nil)) != string(want.Sum(nil)) {
				s.t.Errorf("from the %v: %d of %d bytes arrived, or others than were sent; %v", m.from, n, wantBytes, err)
				s.Abort(CauseShutdown)
			}
		})
}
