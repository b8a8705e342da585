//go:build linux && !wsproxy_portable

package relay

import (
	"bytes"
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A handLoop is a scene whose loop the test moves by hand, over unix sockets, where what
// is written arrives at once. So the test knows what the loop has done.
type handLoop struct {
	*scene
	l *loop
	d *loopDriver

	// letRun makes the loop run by itself.
	letRun func()
}

// An endOwner is told of the end of a scene.
type endOwner struct{ scene *scene }

func (*endOwner) BackendEnding(_ bool, _, _ Counts) {}

func (*endOwner) BackendClosed() {}

func (o *endOwner) Ended(end End) {
	o.scene.end = end
	close(o.scene.done)
}

func newHandLoop(t *testing.T) *handLoop {
	t.Helper()
	e, l := withOneLoop(t)
	owner := new(endOwner)
	s := e.prepare(t, networks[1], setup{Config: Config{Owner: owner}})
	owner.scene = s
	h := &handLoop{scene: s, l: l, d: relayOf(s).driver.(*loopDriver)}
	h.letRun = sync.OnceFunc(func() { go l.run() }) // ends with the test
	t.Cleanup(h.letRun)
	for _, peer := range []*wstest.Peer{s.client, s.backend} {
		peer.Conn().(*net.UnixConn).SetWriteBuffer(1 << 20) // so that more waits than the other takes
	}
	s.isRunning = true
	relayOf(s).Start()
	h.settle()
	return h
}

// settle moves the loop until it has nothing to do any more.
func (h *handLoop) settle() {
	for quiet := 0; quiet < 2; quiet++ {
		h.l.poller.Poll()
		h.l.handleEvents()
		h.l.mu.Lock()
		if len(h.l.queue)+len(h.l.woken)+len(h.l.awake)+len(h.l.ending) > 0 {
			quiet = 0
		}
		h.l.mu.Unlock()
		h.l.work()
		h.l.stepWoken()
		h.l.stepEnding()
	}
}

// send makes a side send b, and returns how much of it was taken.
func (h *handLoop) send(side Side, b []byte) (sentBytes int) {
	h.scene.t.Helper()
	src, _ := h.peers(side)
	for sentBytes < len(b) {
		n := writeAtOnce(h.scene.t, src.Conn(), b[sentBytes:])
		if h.settle(); n == 0 {
			break
		}
		sentBytes += n
	}
	return sentBytes
}

// writeAtOnce writes as much of b as c takes without waiting.
func writeAtOnce(t *testing.T, c net.Conn, b []byte) (n int) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Write(func(fd uintptr) bool {
		for m := 0; n < len(b) && err == nil; n += max(m, 0) {
			m, err = syscall.Write(int(fd), b[n:])
		}
		return true
	})
	if err != nil && err != syscall.EAGAIN {
		t.Fatal(err)
	}
	return n
}

func (h *handLoop) buffered(side Side) int { return h.d.loopConn(side).buffered() }

// memory returns how much is allocated for the buffers of a side.
func (h *handLoop) memory(side Side) int {
	b := h.d.loopConn(side).buffers
	if b == nil {
		return 0
	}
	return cap(b.out) + cap(b.early)
}

// sendUntilFull sends frames of size from side until nothing is taken any more.
func (h *handLoop) sendUntilFull(side Side, size int) {
	frame := wire(side, wstest.Binary(make([]byte, size)))
	for range 64 << 20 / size {
		if h.send(side, frame) < len(frame) {
			return
		}
	}
	h.scene.t.Fatalf("the %v is read for ever, although the other side takes nothing", side)
}

func TestLoopBoundsItsBuffers(t *testing.T) {
	for _, size := range []int{100, 20_000, 32_000, 150_000, 1 << 20, 5 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			h := newHandLoop(t)
			check := func(when string) {
				t.Helper()
				if got := h.memory(Client) + h.memory(Backend); got > 128<<10 {
					t.Errorf("%s: %d bytes of memory for both sides; want 128 KiB at most", when, got)
				}
				for _, side := range bothSides {
					if got := h.buffered(side); got > 64<<10+300 {
						t.Errorf("%s: %d bytes are buffered for the %v; want 64 KiB at most", when, got, side)
					}
				}
				if h.l.pipe.Pipe == nil {
					return
				}
				if n, err := h.l.pipe.Read(make([]byte, 1)); n != 0 || err == nil {
					t.Errorf("%s: the pipe is not empty: %d, %v", when, n, err)
				}
			}
			h.sendUntilFull(Client, size)
			h.sendUntilFull(Backend, size)
			if h.buffered(Client) == 0 || h.buffered(Backend) == 0 {
				t.Fatal("nothing is buffered")
			}
			check("both send")
			h.client.CloseWrite()
			h.backend.CloseWrite()
			h.settle()
			check("both have ended their streams")
			h.Close(CauseShutdown, 0, "")
			h.settle()
			check("the relay is closing")
		})
	}
}

// fillUp makes a side send small messages until something is buffered, and returns what
// it has sent.
func (h *handLoop) fillUp(from Side) (sent []byte) {
	h.scene.t.Helper()
	for i := 0; h.buffered(otherSide(from)) == 0; i++ {
		b := wire(from, wstest.Text(fmt.Sprintf("message %d %s", i, bytes.Repeat([]byte("x"), 500))))
		if h.send(from, b) < len(b) {
			h.scene.t.Fatal("nothing is taken, although nothing is buffered")
		}
		sent = append(sent, b...)
	}
	return sent
}

func TestLoopTakesBackAFrameOfWhichNothingWasWritten(t *testing.T) {
	forEachSide(t, func(t *testing.T, from Side) {
		ways := map[string]func(*wstest.Peer){
			"ends its stream": (*wstest.Peer).CloseWrite,
			"closes":          (*wstest.Peer).Close,
		}
		for name, end := range ways {
			t.Run(name, func(t *testing.T) {
				h := newHandLoop(t)
				src, dst := h.peers(from)
				whole := h.fillUp(from)
				before := h.buffered(otherSide(from))
				h.send(from, wire(from, wstest.Binary(make([]byte, 20_000)))[:10_000])
				end(src)
				h.settle()
				if n := h.buffered(otherSide(from)); n < before || n > before+150 {
					t.Errorf("%d bytes are buffered; want the %d of before, and a Close frame at most", n, before)
				}
				h.letRun()
				dst.WantRaw(string(whole))
				want := End{Side: from, Cause: CauseLost}
				if from == Backend {
					want.Code = 1012
					dst.WantClose(1012)
					dst.Send(wstest.Close(1012, ""))
				} else {
					dst.WantEOF()
				}
				dst.Close()
				h.wantEnd(want)
				toBackend, toClient := h.Counts()
				counts := map[Side]Counts{Client: toBackend, Backend: toClient}[from]
				if counts.Bytes != uint64(len(whole)) {
					t.Errorf("%d bytes are counted; want the %d that have passed", counts.Bytes, len(whole))
				}
			})
		}
	})
}

func TestLoopFinishesWithAFrameThatWasWrittenInPart(t *testing.T) {
	forEachSide(t, func(t *testing.T, from Side) {
		h := newHandLoop(t)
		src, dst := h.peers(from)
		frame := wire(from, wstest.Binary(make([]byte, 8<<20)))
		sent := frame[:h.send(from, frame)]
		if h.buffered(otherSide(from)) == 0 || len(sent) == len(frame) {
			t.Fatal("nothing is buffered")
		}
		src.CloseWrite()
		h.settle()
		h.letRun()
		dst.WantRaw(string(sent))
		dst.WantEOF() // and no Close frame
		dst.Close()
		if h.wait(); !h.end.Cut || h.end.Side != from || h.end.Cause != CauseLost {
			t.Errorf("ended with %+v; want the %v lost and a cut", h.end, from)
		}
	})
}
