package relay

import (
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// narrow returns n with sockets that hold little, so that what a peer does not read
// soon stays with the tunnel.
func narrow(n network) network {
	const bufferBytes = 128 << 10 // less than a few segments of the loopback interface makes it crawl
	wide := n.client
	pair := func(t testing.TB) (near, far net.Conn) {
		near, far = wide(t)
		for _, c := range []net.Conn{near, far} {
			c := c.(interface {
				SetReadBuffer(int) error
				SetWriteBuffer(int) error
			})
			c.SetReadBuffer(bufferBytes)
			c.SetWriteBuffer(bufferBytes)
		}
		return near, far
	}
	n.client, n.backend = pair, pair
	return n
}

// A backlog is what one peer has sent, and the other does not read.
type backlog struct {
	*scene
	from     Side
	src, dst *wstest.Peer
	wire     []byte // that src sends
	sent     int    // bytes of it that were taken
}

// withBacklog runs test for a backlog from each side.
func withBacklog(t *testing.T, test func(t *testing.T, b *backlog)) {
	narrowNetworks := []network{narrow(networks[0]), narrow(networks[1]), memory(4 << 10)}
	forEachEngineAtOnce(t, func(t *testing.T, e engine) {
		for _, n := range narrowNetworks {
			if e.needsSockets && !n.isSockets {
				continue
			}
			t.Run(n.name, func(t *testing.T) {
				t.Parallel()
				forEachSide(t, func(t *testing.T, from Side) {
					t.Parallel() // stalling takes time
					test(t, newBacklog(t, e.start(t, n, setup{}), from))
				})
			})
		}
	})
}

func newBacklog(t *testing.T, s *scene, from Side) *backlog {
	t.Helper()
	b := &backlog{scene: s, from: from}
	b.src, b.dst = s.peers(from)
	b.wire = wire(from, someFrames(3<<20)...)
	b.src.Conn().SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	var err error
	if b.sent, err = b.src.Conn().Write(b.wire); !isTimeout(err) {
		t.Fatalf("Write() = %d, %v; want a timeout", b.sent, err)
	}
	return b
}

// someFrames returns binary messages of all sizes, of about so many bytes together.
func someFrames(bytes int) []wstest.Frame {
	random := rand.NewChaCha8([32]byte{1})
	sizes := rand.New(random)
	var frames []wstest.Frame
	for bytes > 0 {
		payload := make([]byte, 1<<sizes.IntN(18)+sizes.IntN(100))
		random.Read(payload)
		frames = append(frames, wstest.Binary(payload))
		bytes -= len(payload)
	}
	return frames
}

// sendRest sends what is left, and more, from now on. What it returns is closed when
// all has been taken.
func (b *backlog) sendRest(more ...wstest.Frame) (taken <-chan struct{}) {
	rest := append(b.wire[b.sent:len(b.wire):len(b.wire)], wire(b.from, more...)...)
	donec := make(chan struct{})
	go func() { // ends with the scene
		defer close(donec)
		b.src.Write(rest)
	}()
	return donec
}

// wantAll reads all that was sent, and not in one go.
func (b *backlog) wantAll() {
	b.t.Helper()
	hash := sha256.New()
	b.dst.Conn().SetReadDeadline(time.Time{})
	n, err := io.CopyN(hash, b.dst, int64(len(b.wire)))
	if err != nil {
		b.t.Fatalf("got %d of %d bytes, then %v", n, len(b.wire), err)
	}
	if [32]byte(hash.Sum(nil)) != sha256.Sum256(b.wire) {
		b.t.Fatal("what arrived is not what was sent")
	}
}

func TestCloseFrameComesAfterTheLeftover(t *testing.T) {
	withBacklog(t, func(t *testing.T, b *backlog) {
		b.sendRest(wstest.Close(1000, "that was all"))
		b.wantAll()
		b.dst.Want(wstest.Close(1000, "that was all"))
		b.dst.Send(wstest.Close(1000, ""))
		b.src.WantClose(1000)
		b.hangUp()
		b.wantEnd(End{Side: b.from, Cause: CauseClosed, Code: 1000})
	})
}

func TestShutdownComesAfterTheLeftover(t *testing.T) {
	withBacklog(t, func(t *testing.T, b *backlog) {
		b.Close(CauseShutdown, 0, "")
		if b.from == Client {
			b.sendRest()
			wantWholeFrames(t, b)
			b.answerShutdown()
			return
		}
		b.src.WantClose(1001) // at once: nothing waits in that direction
		b.sendRest(wstest.Close(1001, ""))
		b.wantAll()
		b.client.WantClose(1001)
		b.client.WriteFrames(wstest.Close(1001, "")) // too late on a machine with much to do
		b.hangUpLate()
		b.wantEnd(End{Side: Proxy, Cause: CauseShutdown, Code: 1001})
	})
}

// wantWholeFrames reads the beginning of what was sent, whole frames all of it,
// and the Close frame of a shutdown after that.
func wantWholeFrames(t *testing.T, b *backlog) {
	t.Helper()
	for got := 0; ; {
		f, err := b.dst.ReadFrame()
		if err != nil {
			t.Fatalf("got error %v after %d bytes; want whole frames, then a Close frame", err, got)
		}
		if f.Opcode == wstest.OpClose {
			return
		}
		p := wire(b.from, f)
		if string(p) != string(b.wire[got:got+len(p)]) {
			t.Fatalf("the frame after %d bytes is not what was sent", got)
		}
		got += len(p)
	}
}

func TestCloseOfTheSideThatALeftoverWaitsForIsNotHeldUp(t *testing.T) {
	withBacklog(t, func(t *testing.T, b *backlog) {
		b.dst.Send(wstest.Close(1000, "enough"))
		b.src.Want(wstest.Close(1000, "enough"))
		b.sendRest(wstest.Close(1000, ""))
		b.wantAll()
		b.dst.WantClose(1000)
		b.hangUp()
		b.wantEnd(End{Side: otherSide(b.from), Cause: CauseClosed, Code: 1000})
	})
}

func TestEndOfAStreamComesAfterTheLeftover(t *testing.T) {
	withBacklog(t, func(t *testing.T, b *backlog) {
		taken := b.sendRest()
		go func() { // ends with the scene
			<-taken
			b.src.Conn().(interface{ CloseWrite() error }).CloseWrite()
		}()
		b.wantAll()
		b.wantLossOf(b.from)
		b.dst.Send(wstest.Close(1000, ""))
		b.src.WantClose(1000)
		b.src.Close()
		b.dst.Close()
		b.wantEnd(lossOf(b.from))
	})
}

// The leftover was read before the reset: it still reaches the other side.
func TestResetWhileALeftoverWaits(t *testing.T) {
	withBacklog(t, func(t *testing.T, b *backlog) {
		if _, isUnix := b.src.Conn().(*net.UnixConn); isUnix {
			t.Skip("there are no resets")
		}
		reset(t, b.src)
		wantPrefix(t, b.dst, b.wire)
		b.dst.Conn().Close()
		if got := b.wait(); got.Side != b.from || got.Cause != CauseLost {
			t.Errorf("ended with %+v; want the %v lost", got, b.from)
		}
	})
}

// wantPrefix wants a part of b that is more than nothing, and then the end: a
// Close frame, if the part stands at a boundary.
func wantPrefix(t *testing.T, p *wstest.Peer, b []byte) {
	t.Helper()
	p.Conn().SetReadDeadline(time.Now().Add(5 * time.Second))
	all, err := io.ReadAll(p.Conn())
	n := 0
	for n < min(len(all), len(b)) && all[n] == b[n] {
		n++
	}
	if n == 0 || len(all)-n > 139 || isTimeout(err) {
		t.Errorf("got %d bytes, %d of them as they were sent, then %v; want some, then the end", len(all), n, err)
	}
}

// The reset of the side that takes nothing frees what waits for it.
func TestResetOfTheSideThatALeftoverWaitsFor(t *testing.T) {
	withBacklog(t, func(t *testing.T, b *backlog) {
		b.sendRest()
		b.dst.Conn().Close() // with what it has not read: a reset
		end := lossOf(otherSide(b.from))
		b.wantLossOf(end.Side)
		b.src.Conn().Close()
		if got := b.wait(); got.Side != end.Side || got.Cause != end.Cause || got.Code != end.Code {
			t.Errorf("ended with %+v; want %+v", got, end)
		}
	})
}
