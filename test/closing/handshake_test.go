package closing_test

import (
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestClientThatNeverAnswersIsClosedSoonAfterItsBackend(t *testing.T) {
	forEachWay(t, func(t *testing.T, w way) {
		s := start(t, w, setup{})
		client, backend := s.open()
		atClient := client.listen(reaction{})
		backend.Send(wstest.Close(1000, ""))
		backend.Close()
		begin := time.Now()
		atClient.wantEOF(1000, 2*time.Second)
		e := s.wantClosed(2*time.Second + margin)
		wantSoon(t, "closed tunnel", begin, time.Now(), 2*time.Second+margin)
		if e.Cause != wsproxy.CauseClosed || e.Side != wsproxy.SideBackend || e.Code != 1000 {
			t.Errorf("tunnel ended with %+v; want closed by the backend with 1000", e)
		}
	})
}

func TestFragmentsArriveAfterTheClientsClose(t *testing.T) {
	forEachWay(t, func(t *testing.T, w way) {
		s := start(t, w, setup{})
		client, backend := s.open()
		atClient, atBackend := client.listen(reaction{}), backend.listen(reaction{})
		client.Send(wstest.Close(1000, ""))
		atBackend.wantClose(1000, patience)
		opcode := byte(wstest.OpText)
		var texts []string
		for i := range 9 {
			time.Sleep(time.Second)
			texts = append(texts, string(rune('0'+i)))
			if err := backend.WriteFrames(wstest.Fragment(opcode, i == 8, texts[i])); err != nil {
				t.Fatalf("backend: fragment %d: %v", i, err)
			}
			opcode = wstest.OpContinuation
		}
		backend.Send(wstest.Close(1000, ""))
		backend.Close()
		atClient.wantEOF(1000, 2*time.Second)
		atClient.wantTexts(texts...)
		client.Close()
		if e := s.wantClosed(patience); e.Cut || e.ToClient.Messages != 1 {
			t.Errorf("tunnel ended with %+v; want one message to the client, and no cut", e)
		}
	})
}

// A silent peer is one that sends nothing after the other side's Close frame. Its
// connection is closed first, and the other side is answered in its place.
func TestSilentPeerIsCutAfterFiveSeconds(t *testing.T) {
	t.Parallel()
	t.Run("client", func(t *testing.T) {
		forEachWay(t, func(t *testing.T, w way) {
			s := start(t, w, setup{})
			client, backend := s.open()
			testSilent(t, s, client, backend, wsproxy.SideBackend)
		})
	})
	t.Run("backend", func(t *testing.T) {
		forEachWay(t, func(t *testing.T, w way) {
			s := start(t, w, setup{})
			client, backend := s.open()
			testSilent(t, s, backend, client, wsproxy.SideClient)
		})
	})
}

func testSilent(t *testing.T, s *scene, silent, closer *end, side wsproxy.Side) {
	atSilent, atCloser := silent.listen(reaction{}), closer.listen(reaction{})
	begin := time.Now()
	closer.Send(wstest.Close(1000, ""))
	atSilent.wantClose(1000, patience)
	atSilent.waitEnd(8 * time.Second)
	_, endAt := atSilent.times()
	wantAround(t, "cut", begin, endAt, 5*time.Second, 750*time.Millisecond)
	atCloser.wantClose(1000, 2*time.Second)
	closer.Close()
	e := s.wantClosed(3 * time.Second)
	if !e.Cut || e.Side != side || e.Code != 1000 {
		t.Errorf("tunnel ended with %+v; want %v's 1000, and a cut", e, side)
	}
}

func TestClientThatSendsForEverIsCutAfterFiveSeconds(t *testing.T) {
	forEachWay(t, func(t *testing.T, w way) {
		s := start(t, w, setup{})
		client, backend := s.open()
		atClient, atBackend := client.listen(reaction{}), backend.listen(reaction{})
		go writeTexts(client)
		begin := time.Now()
		backend.Send(wstest.Close(1000, ""))
		atClient.wantClose(1000, patience)
		atClient.waitEnd(8 * time.Second)
		_, endAt := atClient.times()
		wantAround(t, "cut", begin, endAt, 5*time.Second, time.Second)
		atBackend.wantClose(1000, 2*time.Second)
		backend.Close()
		if e := s.wantClosed(3 * time.Second); !e.Cut {
			t.Errorf("tunnel ended with %+v; want a cut", e)
		}
		if atBackend.numBytes() == 0 {
			t.Error("the backend got nothing of what the client sent")
		}
	})
}

// writeTexts writes messages until that fails.
func writeTexts(e *end) {
	for e.WriteFrames(wstest.Text("on and on")) == nil {
		time.Sleep(5 * time.Millisecond)
	}
}

// A peer that takes nothing has 15 seconds, in which its system takes nothing. What
// was dropped then is not counted as passed: the client's system has all that it has
// acknowledged, and the client can read it after a reset.
func TestClientThatTakesNothingIsCutAfterFifteenSeconds(t *testing.T) {
	onlySoak(t)
	forEachWay(t, func(t *testing.T, w way) {
		s := start(t, w, setup{socketBuffer: 64 << 10, readBuffer: 64 << 10})
		client, backend := s.open()
		atBackend := backend.listen(reaction{})
		written := backend.fill(4 << 10)
		begin := time.Now()
		if err := s.tunnel().Close(4001, ""); err != nil {
			t.Fatal(err)
		}
		e := s.wantClosed(20 * time.Second)
		wantAround(t, "cut", begin, time.Now(), 15*time.Second, 1500*time.Millisecond)
		atBackend.waitEnd(patience)
		atClient := client.listen(reaction{})
		atClient.waitEnd(patience)
		most := atClient.numBytes() + atClient.numBytes()/1000 + 8<<10 // headers, and a frame that is not complete
		if w.isTLS {
			most += 32 << 10 // records that are not complete
		}
		if !e.Cut || int(e.ToClient.Bytes) >= written || int(e.ToClient.Bytes) > most {
			t.Errorf("tunnel ended with %+v; want a cut; %s of %d", e, atClient, written)
		}
	})
}

func TestBackendThatTakesNothingIsCutAfterFifteenSeconds(t *testing.T) {
	onlySoak(t)
	forEachWay(t, func(t *testing.T, w way) {
		s := start(t, w, setup{socketBuffer: 64 << 10})
		client, backend := s.open()
		backend.socket.SetReadBuffer(64 << 10)
		written := client.fill(4 << 10)
		begin := time.Now()
		if err := s.tunnel().Close(4001, ""); err != nil {
			t.Fatal(err)
		}
		e := s.wantClosed(20 * time.Second)
		wantAround(t, "cut", begin, time.Now(), 15*time.Second, 1500*time.Millisecond)
		atBackend := backend.listen(reaction{})
		atBackend.waitEnd(patience)
		most := atBackend.numBytes() + atBackend.numBytes()/250 + 8<<10 // headers, and a frame that is not complete
		if !e.Cut || int(e.ToBackend.Bytes) >= written || int(e.ToBackend.Bytes) > most {
			t.Errorf("tunnel ended with %+v; want a cut; %s of %d", e, atBackend, written)
		}
	})
}
