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

// A handLoop is a scene whose loop the test turns by hand, over sockets where what is
// written is there at once. So the test knows what the loop does, and when.
type handLoop struct {
	*scene
	l *loop
	t *looped

	// letRun makes the loop run by itself.
	letRun func()
}

func byHand(t *testing.T) *handLoop {
	t.Helper()
	l, err := newLoop()
	if err != nil {
		t.Fatal(err)
	}
	s := engineOfLoop(t, l).prepare(t, networks[1], setup{})
	h := &handLoop{scene: s, l: l, t: s.tunnel.(*Relay).driver.(*looped)}
	h.letRun = sync.OnceFunc(func() { go l.run() }) // ends with the test
	t.Cleanup(h.letRun)
	for _, peer := range []*wstest.Peer{s.client, s.backend} {
		peer.Conn().(*net.UnixConn).SetWriteBuffer(1 << 20) // so that more waits than the other takes
	}
	s.isRunning = true
	s.tunnel.(*Relay).Start(func(end End) {
		s.end = end
		close(s.done)
	})
	h.settle()
	return h
}

// settle turns the loop until it has nothing to do any more.
func (h *handLoop) settle() {
	for isQuiet := false; !isQuiet; {
		isQuiet = true
		h.l.poller.Poll()
		for e, ok := h.l.poller.Next(); ok; e, ok = h.l.poller.Next() {
			isQuiet = false
			h.l.note(e.Owner.(*looped), e.Index, e.Edges)
		}
		h.l.mu.Lock()
		isQuiet = isQuiet && len(h.l.queue) == 0 && len(h.l.woken) == 0
		h.l.mu.Unlock()
		h.l.work()
		h.l.lookAtWoken()
	}
}

// send lets side send all of b that is taken.
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

// writeAtOnce writes what is taken of b without waiting.
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

// to returns the link with a side.
func (h *handLoop) to(side Side) *keeping { return h.t.link(side).(*keeping) }

// memory returns how much is allocated for what is kept for a side.
func (h *handLoop) memory(side Side) int {
	if kept := h.to(side).kept; kept != nil {
		return cap(*kept)
	}
	return 0
}

// endlessly sends frames of size from side until nothing is taken any more.
func (h *handLoop) endlessly(side Side, size int) {
	frame := wire(side, wstest.Binary(make([]byte, size)))
	for range 64 << 20 / size {
		if h.send(side, frame) < len(frame) {
			return
		}
	}
	h.scene.t.Fatalf("%v is read without end, although the other takes nothing", side)
}

func TestWhatIsKeptForWhoTakesNothingIsBounded(t *testing.T) {
	for _, size := range []int{100, 20_000, 32_000, 150_000, 1 << 20, 5 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			h := byHand(t)
			check := func(when string) {
				t.Helper()
				if got := h.memory(Client) + h.memory(Backend); got > 128<<10 {
					t.Errorf("%s: %d bytes are held for both sides; want 128 KiB at most", when, got)
				}
				for _, side := range bothSides {
					if kept := h.to(side).numKept(); kept > 64<<10+300 {
						t.Errorf("%s: %d bytes are kept for the %v; want 64 KiB at most", when, kept, side)
					}
				}
				if h.l.pipe.Pipe == nil {
					return
				}
				if n, err := h.l.pipe.Read(make([]byte, 1)); n != 0 || err == nil {
					t.Errorf("%s: the pipe is not empty: %d, %v", when, n, err)
				}
			}
			h.endlessly(Client, size)
			h.endlessly(Backend, size)
			if h.to(Client).isFlushed() || h.to(Backend).isFlushed() {
				t.Fatal("nothing is kept, so that this is about nothing")
			}
			check("both send")
			h.client.CloseWrite()
			h.backend.CloseWrite()
			h.settle()
			check("both have ended their streams")
			h.Goodbye(CauseShutdown, 0, "")
			h.settle()
			check("a goodbye was said")
		})
	}
}

// fillUp lets from send small messages until some of them are kept, and returns what
// it has sent.
func (h *handLoop) fillUp(from Side) (sent []byte) {
	h.scene.t.Helper()
	_, to := from, otherSide(from)
	for i := 0; h.to(to).isFlushed(); i++ {
		b := wire(from, wstest.Text(fmt.Sprintf("message %d %s", i, bytes.Repeat([]byte("x"), 500))))
		if h.send(from, b) < len(b) {
			h.scene.t.Fatal("nothing is taken, although nothing is kept")
		}
		sent = append(sent, b...)
	}
	return sent
}

func TestFrameOfWhichNothingWasWrittenIsTakenBackWhenItsSourceDies(t *testing.T) {
	forEachSide(t, func(t *testing.T, from Side) {
		ways := map[string]func(*handLoop, *wstest.Peer){
			"ends its stream": func(_ *handLoop, src *wstest.Peer) { src.CloseWrite() },
			"is gone":         func(_ *handLoop, src *wstest.Peer) { src.Close() },
		}
		for name, die := range ways {
			t.Run(name, func(t *testing.T) {
				h := byHand(t)
				src, dst := h.peers(from)
				whole := h.fillUp(from)
				before := h.to(otherSide(from)).numKept()
				part := wire(from, wstest.Binary(make([]byte, 20_000)))[:10_000]
				h.send(from, part)
				die(h, src)
				h.settle()
				kept := h.to(otherSide(from)).numKept()
				if kept < before || kept > before+150 {
					t.Errorf("%d bytes are kept; want the %d of before, and a Close frame", kept, before)
				}
				h.letRun()
				dst.WantRaw(string(whole))
				end, code := lossOf(from)
				dst.WantClose(code)
				dst.Send(wstest.Close(code, ""))
				dst.Close()
				h.wantEnd(end)
				toBackend, toClient := h.Counts()
				counts := map[Side]Counts{Client: toBackend, Backend: toClient}[from]
				if counts.Bytes != uint64(len(whole)) {
					t.Errorf("%d bytes are counted; want the %d that have passed", counts.Bytes, len(whole))
				}
			})
		}
	})
}

func TestFrameThatWasWrittenInPartIsNotTakenBack(t *testing.T) {
	forEachSide(t, func(t *testing.T, from Side) {
		h := byHand(t)
		src, dst := h.peers(from)
		frame := wire(from, wstest.Binary(make([]byte, 8<<20)))
		sent := frame[:h.send(from, frame)]
		if h.to(otherSide(from)).isFlushed() || len(sent) == len(frame) {
			t.Fatal("nothing is kept, so that this is about nothing")
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
