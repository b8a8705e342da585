package closing_test

import (
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// An ender is a way in which the proxy ends a tunnel.
type ender struct {
	name string
	code int // for the client
	end  func(s *scene) (done <-chan error)
}

var enders = []ender{
	{"Shutdown", 1001, (*scene).shutdown},
	{"Tunnel.Close", 4001, func(s *scene) <-chan error {
		s.t.Helper()
		if err := s.tunnel().Close(4001, "enough"); err != nil {
			s.t.Fatal(err)
		}
		done := make(chan error, 1)
		done <- nil
		return done
	}},
}

// forEachEnder runs test with each ender in each way.
func forEachEnder(t *testing.T, test func(t *testing.T, w way, by ender)) {
	t.Parallel()
	for _, by := range enders {
		t.Run(by.name, func(t *testing.T) {
			forEachWay(t, func(t *testing.T, w way) { test(t, w, by) })
		})
	}
}

// wantEnded checks the end of a tunnel that lost nothing.
func wantEnded(t *testing.T, s *scene, done <-chan error, code int) {
	t.Helper()
	if e := s.wantClosed(patience); e.Cut || e.Side != wsproxy.SideProxy || e.Code != code {
		t.Errorf("tunnel ended with %+v; want the proxy's %d, and no cut", e, code)
	}
	if err := wantShutdown(t, done, patience); err != nil {
		t.Errorf("Shutdown() = %v", err)
	}
}

func TestProxysCloseFollowsWhatTheBackendStillSends(t *testing.T) {
	forEachEnder(t, func(t *testing.T, w way, by ender) {
		testHundredAndTwo(t, w, by, setup{}, 1001, by.code)
	})
}

func TestProxysCloseGivesWayToAnApplicationsCode(t *testing.T) {
	forEachEnder(t, func(t *testing.T, w way, by ender) {
		testHundredAndTwo(t, w, by, setup{}, 4003, 4003)
	})
}

func TestProxysCloseReachesUnixBackends(t *testing.T) {
	forEachPlainWay(t, func(t *testing.T, w way) {
		testHundredAndTwo(t, w, enders[0], setup{isUnix: true}, 1001, 1001)
	})
}

// testHundredAndTwo has a backend that sends 100 messages, two more after the
// proxy's Close, and its own Close.
func testHundredAndTwo(t *testing.T, w way, by ender, su setup, answer, want int) {
	s := start(t, w, su)
	client, backend := s.open()
	frames, texts := numbered(1, 102)
	atClient := client.answer()
	atBackend := backend.listen(reaction{onClose: func(int) {
		backend.WriteFrames(append(frames[100:102:102], wstest.Close(uint16(answer), ""))...)
	}})
	backend.Send(frames[:100]...)
	done := by.end(s)
	atBackend.wantClose(1001, patience)
	atClient.wantEOF(want, 2*time.Second)
	atClient.wantTexts(texts...)
	client.Close()
	atBackend.waitEnd(patience)
	backend.Close()
	wantEnded(t, s, done, want)
}

func TestProxysCloseFollowsABareEndOfStream(t *testing.T) {
	forEachEnder(t, func(t *testing.T, w way, by ender) {
		s := start(t, w, setup{})
		client, backend := s.open()
		frames, texts := numbered(1, 100)
		atClient := client.answer()
		atBackend := backend.listen(reaction{onClose: func(int) {
			backend.WriteFrames(frames[99])
			backend.socket.CloseWrite()
		}})
		backend.Send(frames[:99]...)
		done := by.end(s)
		atBackend.wantClose(1001, patience)
		atClient.wantEOF(by.code, 2*time.Second)
		atClient.wantTexts(texts...)
		client.Close()
		wantEnded(t, s, done, by.code)
	})
}

func TestProxysCloseFollowsWhatASlowClientReads(t *testing.T) {
	forEachEnder(t, func(t *testing.T, w way, by ender) {
		s := start(t, w, setup{readBuffer: 64 << 10})
		client, backend := s.open()
		client.slow.rate.Store(inSoak[int64](64<<10, 300<<10))
		data := messages(64, inSoak(8<<10, 64<<10))
		atClient, atBackend := client.answer(), backend.answer()
		if err := backend.WriteFrames(data...); err != nil {
			t.Fatal(err)
		}
		done := by.end(s)
		atClient.wantEOF(by.code, patience)
		atClient.wantData(data...)
		client.Close()
		atBackend.wantClose(1001, patience)
		wantEnded(t, s, done, by.code)
	})
}

// The message is passed to its end, and the Close frame follows it.
func TestProxysCloseFollowsABigMessageToTheClient(t *testing.T) {
	forEachEnder(t, func(t *testing.T, w way, by ender) {
		s, client, backend, data := startBig(t, w)
		client.slow.rate.Store(bigRate)
		atClient := client.answer()
		written := make(chan error, 1)
		go func() { written <- backend.WriteFrames(data) }()
		atBackend := backend.listen(reaction{onClose: func(code int) {
			<-written
			backend.WriteFrames(wstest.Close(uint16(code), ""))
		}})
		atClient.waitBytes(len(data.Payload) / 8)
		done := by.end(s)
		atBackend.wantClose(1001, patience)
		atClient.wantEOF(by.code, 2*patience)
		atClient.wantData(data)
		client.Close()
		wantEnded(t, s, done, by.code)
	})
}

func TestProxysCloseFollowsABigMessageToTheBackend(t *testing.T) {
	forEachEnder(t, func(t *testing.T, w way, by ender) {
		s, client, backend, data := startBig(t, w)
		backend.slow.rate.Store(bigRate)
		atClient, atBackend := client.answer(), backend.answer()
		go client.WriteFrames(data)
		atBackend.waitBytes(len(data.Payload) / 8)
		done := by.end(s)
		atBackend.wantClose(1001, 2*patience)
		atBackend.wantData(data)
		atClient.wantEOF(by.code, patience)
		client.Close()
		wantEnded(t, s, done, by.code)
	})
}

var bigRate = inSoak[int64](512<<10, 8<<20)

// startBig opens a tunnel for a message of some seconds.
func startBig(t *testing.T, w way) (s *scene, client, backend *end, data wstest.Frame) {
	s = start(t, w, setup{socketBuffer: 64 << 10})
	client, backend = s.open()
	client.socket.SetReadBuffer(64 << 10)
	backend.socket.SetReadBuffer(64 << 10)
	return s, client, backend, wstest.Binary(pattern(inSoak(4<<20, 100<<20)))
}

func TestProxysCloseWaitsASecondForASilentBackend(t *testing.T) {
	forEachEnder(t, func(t *testing.T, w way, by ender) {
		s := start(t, w, setup{})
		client, backend := s.open()
		atClient, atBackend := client.answer(), backend.listen(reaction{})
		begin := time.Now()
		done := by.end(s)
		atBackend.wantClose(1001, patience)
		atClient.wantEOF(by.code, patience)
		client.Close()
		closeAt, _ := atClient.times()
		wantAround(t, "Close to the client", begin, closeAt, time.Second, 500*time.Millisecond+margin)
		s.wantClosed(3*time.Second + margin)
		wantShutdown(t, done, 3*time.Second+margin)
	})
}

// A backend that sends on after the proxy's Close is relayed for five seconds.
func TestProxysCloseWaitsFiveSecondsForABackendThatSendsOn(t *testing.T) {
	forEachEnder(t, func(t *testing.T, w way, by ender) {
		s := start(t, w, setup{})
		client, backend := s.open()
		atClient, atBackend := client.answer(), backend.listen(reaction{})
		go writeTexts(backend)
		begin := time.Now()
		done := by.end(s)
		atBackend.wantClose(1001, patience)
		atClient.wantEOF(by.code, patience)
		client.Close()
		closeAt, _ := atClient.times()
		wantAround(t, "Close to the client", begin, closeAt, 5*time.Second, 750*time.Millisecond)
		if e := s.wantClosed(3*time.Second + margin); e.Cut {
			t.Errorf("tunnel ended with %+v; want no cut: the client got all until its Close frame", e)
		}
		wantShutdown(t, done, 3*time.Second+margin)
	})
}

// A user who is signed out is sent nothing more.
func TestCloseWith1008EndsTheClientAtOnce(t *testing.T) {
	forEachWay(t, func(t *testing.T, w way) {
		s := start(t, w, setup{})
		client, backend := s.open()
		atClient, atBackend := client.answer(), backend.listen(reaction{})
		go writeTexts(backend)
		atClient.waitBytes(1)
		begin := time.Now()
		if err := s.tunnel().Close(1008, "signed out"); err != nil {
			t.Fatal(err)
		}
		atClient.wantClose(1008, patience)
		closeAt, _ := atClient.times()
		wantSoon(t, "1008", begin, closeAt, time.Second+margin) // the backend sends on: another code would wait 5 s
		atBackend.wantClose(1001, patience)
		atClient.wantEOF(1008, 3*time.Second)
		client.Close()
		s.wantClosed(7 * time.Second)
	})
}

// A slow loris sends the bytes of a frame one by one, and never the last.
func TestShutdownDoesNotWaitForASlowLoris(t *testing.T) {
	t.Parallel()
	key := &[4]byte{1, 2, 3, 4}
	for name, whole := range map[string][]byte{
		"in a header":        wstest.AppendFrame(nil, wstest.Binary(make([]byte, 70000)), key)[:14],
		"in a control frame": wstest.AppendFrame(nil, wstest.Ping("a ping that never ends"), key),
	} {
		t.Run(name, func(t *testing.T) {
			forEachWay(t, func(t *testing.T, w way) {
				s := start(t, w, setup{})
				client, backend := s.open()
				atClient, atBackend := client.listen(reaction{}), backend.answer()
				client.SendRaw(whole[:1])
				go client.trickle(whole[1 : len(whole)-1])
				time.Sleep(200 * time.Millisecond)
				begin := time.Now()
				done := s.shutdown()
				atBackend.wantClose(1001, patience)
				atClient.wantClose(1001, patience)
				closeAt, _ := atClient.times()
				wantSoon(t, "1001", begin, closeAt, 200*time.Millisecond+margin)
				s.wantClosed(4 * time.Second)
				wantShutdown(t, done, 4*time.Second)
			})
		})
	}
}

// trickle writes b byte by byte, and closes nothing.
func (e *end) trickle(b []byte) {
	for i := range b {
		time.Sleep(500 * time.Millisecond)
		if _, err := e.Write(b[i : i+1]); err != nil {
			return
		}
	}
}
