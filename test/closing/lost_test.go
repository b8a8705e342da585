package closing_test

import (
	"crypto/tls"
	"io"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// Services that resume sessions after an abnormal end forget them at a Close frame
// that no client has sent.
func TestLostClientIsAnEndOfStreamToItsBackend(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*end){
		"end of stream": (*end).vanish,
		"reset":         (*end).reset,
	} {
		t.Run(name, func(t *testing.T) {
			forEachWay(t, func(t *testing.T, w way) { testLostClient(t, w, setup{}, lose) })
		})
	}
	t.Run("close_notify", func(t *testing.T) {
		forEachWay(t, func(t *testing.T, w way) {
			testLostClient(t, w, setup{}, (*end).Close)
		})
	})
	t.Run("before a unix backend", func(t *testing.T) {
		forEachPlainWay(t, func(t *testing.T, w way) { testLostClient(t, w, setup{isUnix: true}, (*end).vanish) })
	})
	for name, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(name+" without close_notify", func(t *testing.T) {
			forEachTLSWay(t, func(t *testing.T, w way) {
				testLostClient(t, w, setup{clientTLS: version}, (*end).vanish)
			})
		})
	}
}

func testLostClient(t *testing.T, w way, su setup, lose func(*end)) {
	s := start(t, w, su)
	client, backend := s.open()
	atBackend := backend.listen(reaction{})
	client.Send(wstest.Text("hello"))
	atBackend.waitBytes(5)
	lose(client)
	atBackend.wantEOF(noClose, 2*time.Second)
	atBackend.wantTexts("hello")
	backend.Close()
	e := s.wantClosed(3 * time.Second)
	if e.Cause != wsproxy.CauseLost || e.Side != wsproxy.SideClient || e.Cut {
		t.Errorf("tunnel ended with %+v; want the client lost, and no cut", e)
	}
	s.wantGone(2 * time.Second)
}

func TestClientLostInsideAFrameLeavesItUnfinished(t *testing.T) {
	forEachWay(t, func(t *testing.T, w way) {
		s := start(t, w, setup{})
		client, backend := s.open()
		atBackend := backend.listen(reaction{})
		b := wstest.AppendFrame(nil, wstest.Binary(make([]byte, 1000)), &[4]byte{1, 2, 3, 4})
		client.SendRaw(b[:500])
		atBackend.waitBytes(1)
		client.vanish()
		atBackend.waitEnd(2 * time.Second)
		if atBackend.code != noClose || atBackend.err != io.ErrUnexpectedEOF {
			t.Errorf("%s; want no Close frame, and the stream's end inside a frame", atBackend)
		}
		backend.Close()
		s.wantClosed(3 * time.Second)
	})
}

// A tab that is closed sends 1001 and reads no more, so that a write to it may fail
// before its Close frame is read.
func TestCloseOfAClosedTabReachesTheBackend(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*end){"close": (*end).vanish, "reset": (*end).reset} {
		t.Run(name, func(t *testing.T) {
			forEachWay(t, func(t *testing.T, w way) {
				s := start(t, w, setup{socketBuffer: 64 << 10, readBuffer: 64 << 10})
				for i := 0; i < 10 && !t.Failed(); i++ {
					testClosedTab(t, s, lose)
				}
			})
		})
	}
}

func testClosedTab(t *testing.T, s *scene, lose func(*end)) {
	client, backend := s.open()
	atBackend := backend.listen(reaction{})
	go func() {
		data := messages(1, 16<<10)
		for backend.WriteFrames(data...) == nil {
		}
	}()
	time.Sleep(50 * time.Millisecond)
	client.Send(wstest.Close(1001, ""))
	lose(client)
	atBackend.wantClose(1001, 2*time.Second)
	backend.Close()
	if e := s.wantClosed(patience); e.Cause != wsproxy.CauseClosed || e.Side != wsproxy.SideClient || e.Code != 1001 {
		t.Errorf("tunnel ended with %+v; want the client's 1001", e)
	}
}

// The proxy's write to the client fails while the client's Close frame still waits
// behind data that the backend has not read.
func TestCloseOfAClosedTabReachesABackendThatReadsLater(t *testing.T) {
	forEachPlainWay(t, func(t *testing.T, w way) {
		s := start(t, w, setup{socketBuffer: 64 << 10})
		client, backend := s.open()
		backend.socket.SetReadBuffer(64 << 10)
		left := fillWhole(t, client, backend)
		client.Send(wstest.Close(1001, ""))
		for give := time.Now().Add(patience); client.numQueued() > 0 && time.Now().Before(give); {
			time.Sleep(time.Millisecond)
		}
		client.reset()
		go writeTexts(backend)
		time.Sleep(700 * time.Millisecond)
		backend.slow.rate.Store(int64(left*frameSize/3 + 1))
		atBackend := backend.listen(reaction{})
		atBackend.wantClose(1001, patience)
		if want := left * framePayload; atBackend.numBytes() != want {
			t.Errorf("%s; want %d bytes", atBackend, want)
		}
		backend.Close()
		e := s.wantClosed(patience)
		if e.Cause != wsproxy.CauseClosed || e.Side != wsproxy.SideClient || e.Code != 1001 {
			t.Errorf("tunnel ended with %+v; want the client's 1001", e)
		}
	})
}

func TestLostBackendIsClose1012ToItsClient(t *testing.T) {
	t.Parallel()
	for name, su := range map[string]setup{
		"plain":   {},
		"TLS 1.2": {backendTLS: tls.VersionTLS12},
		"TLS 1.3": {backendTLS: tls.VersionTLS13},
		"unix":    {isUnix: true},
		"bare":    {isBackBare: true},
	} {
		t.Run(name, func(t *testing.T) {
			forEachPlainWay(t, func(t *testing.T, w way) {
				s := start(t, w, su)
				client, backend := s.open()
				atClient := client.answer()
				backend.Send(wstest.Text("hello"))
				backend.vanish()
				atClient.wantEOF(1012, 2*time.Second)
				atClient.wantTexts("hello")
				client.Close()
				e := s.wantClosed(patience)
				if e.Cause != wsproxy.CauseLost || e.Side != wsproxy.SideBackend || e.Code != 1012 {
					t.Errorf("tunnel ended with %+v; want the backend lost, code 1012", e)
				}
			})
		})
	}
}

// A connection without CloseWrite is closed where the end of its stream is due.
func TestConnectionWithoutCloseWriteIsClosedInstead(t *testing.T) {
	t.Parallel()
	t.Run("client", func(t *testing.T) {
		forEachPlainWay(t, func(t *testing.T, w way) {
			s := start(t, w, setup{isClientBare: true})
			client, backend := s.open()
			atClient := client.listen(reaction{})
			backend.answer()
			client.Send(wstest.Close(1000, ""))
			atClient.wantEOF(1000, 2*time.Second)
			if e := s.wantClosed(3 * time.Second); e.Cut || e.Code != 1000 {
				t.Errorf("tunnel ended with %+v; want 1000, and no cut", e)
			}
		})
	})
	t.Run("backend", func(t *testing.T) {
		forEachPlainWay(t, func(t *testing.T, w way) { testLostClient(t, w, setup{isBackBare: true}, (*end).vanish) })
	})
	t.Run("shutdown", func(t *testing.T) {
		forEachPlainWay(t, func(t *testing.T, w way) {
			testHundredAndTwo(t, w, enders[0], setup{isClientBare: true, isBackBare: true}, 1001, 1001)
		})
	})
}

// Closing a socket with unread input would drop what the backend has not taken yet.
func TestBackendWithoutCloseWriteGetsAllThatALostClientSent(t *testing.T) {
	forEachPlainWay(t, func(t *testing.T, w way) {
		s := start(t, w, setup{isBackBare: true})
		client, backend := s.open()
		backend.socket.SetReadBuffer(32 << 10)
		backend.slow.rate.Store(128 << 10)
		data := messages(32, 8<<10)
		isOver, sent := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(sent)
			for {
				backend.WriteFrames(wstest.Text("on and on"))
				select {
				case <-isOver:
					return
				case <-time.After(time.Millisecond):
				}
			}
		}()
		client.listen(reaction{})
		client.Send(data...)
		client.socket.CloseWrite()
		time.AfterFunc(100*time.Millisecond, func() { close(isOver) }) // some of it comes after the end of the stream
		atBackend := backend.listen(reaction{})
		atBackend.wantEOF(noClose, patience)
		atBackend.wantData(data...)
		<-sent
		backend.Close()
		e := s.wantClosed(patience)
		if e.Cause != wsproxy.CauseLost || e.Side != wsproxy.SideClient || e.Cut {
			t.Errorf("tunnel ended with %+v; want the client lost, and no cut", e)
		}
	})
}
