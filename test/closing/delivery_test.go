package closing_test

import (
	"io"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// The proxy's send buffer takes all of the data at once, so that the backend's
// Close frame is read long before the client has read the data.
func TestSlowClientGetsEverything(t *testing.T) {
	t.Parallel()
	t.Run("TCP", func(t *testing.T) {
		forEachWay(t, func(t *testing.T, w way) { testSlowClient(t, w, setup{readBuffer: 64 << 10}) })
	})
	t.Run("unix", func(t *testing.T) {
		forEachPlainWay(t, func(t *testing.T, w way) { testSlowClient(t, w, setup{readBuffer: 64 << 10, isUnix: true}) })
	})
}

func testSlowClient(t *testing.T, w way, su setup) {
	s := start(t, w, su)
	client, backend := s.open()
	client.slow.rate.Store(inSoak[int64](60<<10, 320<<10))
	data := messages(64, inSoak(8<<10, 64<<10))
	atClient, atBackend := client.answer(), backend.listen(reaction{})
	stop := client.tick(500 * time.Millisecond)
	defer stop()
	go backend.WriteFrames(append(data, wstest.Close(1000, ""))...)

	atClient.waitClose(patience)
	stop()
	atClient.wantEOF(1000, patience)
	atClient.wantData(data...)
	client.Close()
	atBackend.wantClose(1000, patience)
	backend.Close()
	e := s.wantClosed(patience)
	if e.Cut || e.Code != 1000 || e.ToClient.Messages != 64 {
		t.Errorf("tunnel ended with %+v; want 64 messages to the client, code 1000, and no cut", e)
	}
}

// tick sends a small frame again and again, until stop is called or a write fails.
func (e *end) tick(every time.Duration) (stop func()) {
	stopc, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stopc:
				return
			case <-time.After(every):
			}
			if e.WriteFrames(wstest.Ping("tick")) != nil {
				return
			}
		}
	}()
	isStopped := false
	return func() {
		if !isStopped {
			isStopped = true
			close(stopc)
			<-done
		}
	}
}

// What the proxy sees of such a client is progress in steps of several seconds.
func TestVerySlowClientIsNotCut(t *testing.T) {
	forEachWay(t, func(t *testing.T, w way) {
		s := start(t, w, setup{readBuffer: 32 << 10})
		client, backend := s.open()
		client.slow.rate.Store(20 << 10)
		data := messages(inSoak(20, 100), 8<<10)
		atClient, atBackend := client.answer(), backend.listen(reaction{})
		go backend.WriteFrames(append(data, wstest.Close(1000, ""))...)
		atClient.wantClose(1000, 2*patience)
		atClient.wantData(data...)
		atClient.wantEOF(1000, patience)
		client.Close()
		atBackend.waitClose(patience)
		backend.Close()
		if e := s.wantClosed(patience); e.Cut {
			t.Errorf("tunnel ended with %+v; want no cut", e)
		}
	})
}

// When the backend is reset, the proxy's receive buffer is full of what it had sent.
func TestResetBackendsDataReachesASlowClient(t *testing.T) {
	forEachWay(t, func(t *testing.T, w way) {
		s := start(t, w, setup{socketBuffer: inSoak(256<<10, 1<<20), readBuffer: 64 << 10})
		client, backend := s.open()
		left := fillWhole(t, backend, client)
		backend.reset()
		client.slow.rate.Store(int64(left*frameSize/12 + 1))
		atClient := client.answer()
		defer client.tick(500 * time.Millisecond)() // answered with a reset once the proxy has closed the connection
		atClient.wantEOF(1012, patience)
		client.Close()
		if want := left * framePayload; atClient.numBytes() != want {
			t.Errorf("%s; want %d bytes", atClient, want)
		}
		e := s.wantClosed(patience)
		if e.Cut || e.Cause != wsproxy.CauseLost || e.Side != wsproxy.SideBackend || e.Code != 1012 {
			t.Errorf("tunnel ended with %+v; want the backend lost, code 1012, and no cut", e)
		}
	})
}

// Of each frame of fillWhole, the header of 4 bytes included, to which a client adds
// a key of 4.
const (
	frameSize    = 4 << 10
	framePayload = frameSize - 4
)

// fillWhole makes one end of a tunnel write frames until the proxy takes no more, and
// the other read until the proxy's system has the last one as a whole. It returns how
// many have not been read.
func fillWhole(t *testing.T, from, to *end) (frames int) {
	t.Helper()
	from.socket.SetWriteBuffer(16 << 10) // else most of it waits on this side
	var key *[4]byte
	if from.name == "client" {
		key = &[4]byte{1, 2, 3, 4}
	}
	frame := wstest.AppendFrame(nil, wstest.Binary(pattern(framePayload)), key)
	var rest []byte
	for {
		frames++
		from.socket.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		if n, err := from.socket.Write(frame); err != nil {
			rest = frame[n:]
			break
		}
	}
	for give := time.Now().Add(patience); len(rest) > 0 || from.numQueued() > 0; {
		if time.Now().After(give) {
			t.Fatalf("%s: %d bytes are still queued", from.name, from.numQueued())
		}
		if _, err := io.CopyN(io.Discard, to.Peer, int64(4*len(frame))); err != nil {
			t.Fatalf("%s: %v", to.name, err)
		}
		frames -= 4
		from.socket.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		n, _ := from.socket.Write(rest)
		rest = rest[n:]
		time.Sleep(20 * time.Millisecond)
	}
	return frames
}
