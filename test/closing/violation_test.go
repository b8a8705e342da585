package closing_test

import (
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// unmasked is what no client may send.
var unmasked = wstest.AppendFrame(nil, wstest.Text("x"), nil)

func TestViolationBeforeASilentBackendIsClosedSoon(t *testing.T) {
	forEachWay(t, func(t *testing.T, w way) {
		s := start(t, w, setup{})
		client, backend := s.open()
		atClient, atBackend := client.listen(reaction{}), backend.listen(reaction{})
		begin := time.Now()
		client.SendRaw(unmasked)
		atBackend.wantClose(1001, patience)
		atClient.wantClose(1002, 1500*time.Millisecond+margin)
		atClient.wantEOF(1002, margin)
		closeAt, endAt := atClient.times()
		wantSoon(t, "1002", begin, closeAt, 1500*time.Millisecond+margin)
		wantSoon(t, "end of the stream", closeAt, endAt, margin)
		wantSoon(t, "closed connection", closeAt, client.writeUntilRefused(), 1750*time.Millisecond+margin)
		e := s.wantClosed(3 * time.Second)
		if e.Cause != wsproxy.CauseProtocol || e.Side != wsproxy.SideClient || e.Code != 1002 {
			t.Errorf("tunnel ended with %+v; want the client's violation, code 1002", e)
		}
	})
}

// writeUntilRefused writes until the other end has closed the connection, and
// returns when that was seen.
func (e *end) writeUntilRefused() time.Time {
	for give := time.Now().Add(patience); time.Now().Before(give); time.Sleep(20 * time.Millisecond) {
		if e.WriteFrames(wstest.Text("x")) != nil {
			break
		}
	}
	return time.Now()
}

func TestViolationBeforeABackendThatAnswersIsClosedAtOnce(t *testing.T) {
	forEachWay(t, func(t *testing.T, w way) {
		s := start(t, w, setup{})
		client, backend := s.open()
		atClient, atBackend := client.listen(reaction{}), backend.answer()
		begin := time.Now()
		client.SendRaw(unmasked)
		atBackend.wantClose(1001, patience)
		atClient.wantEOF(1002, patience)
		closeAt, endAt := atClient.times()
		wantSoon(t, "1002", begin, closeAt, 200*time.Millisecond+margin)
		wantSoon(t, "end of the stream", closeAt, endAt, margin)
	})
}

func TestViolationHidesNoAnswerOfTheBackend(t *testing.T) {
	forEachWay(t, func(t *testing.T, w way) {
		s := start(t, w, setup{})
		for i := 0; i < 20 && !t.Failed(); i++ {
			testTenAndAViolation(t, s)
		}
	})
}

func testTenAndAViolation(t *testing.T, s *scene) {
	client, backend := s.open()
	defer client.Close()
	atClient := client.listen(reaction{})
	atBackend := backend.listen(reaction{
		onData: func(b []byte) { backend.WriteFrames(wstest.Text(string(b))) },
		onClose: func(code int) {
			backend.WriteFrames(wstest.Close(uint16(code), ""))
			backend.Close()
		},
	})
	key := &[4]byte{1, 2, 3, 4}
	frames, texts := numbered(1, 10)
	var b []byte
	for _, f := range frames {
		b = wstest.AppendFrame(b, f, key)
	}
	bad := wstest.Text("eleven")
	bad.RSV = 2
	client.SendRaw(wstest.AppendFrame(b, bad, key))
	atClient.wantEOF(1002, patience)
	atClient.wantTexts(texts...)
	atBackend.wantClose(1001, patience)
	atBackend.wantTexts(texts...)
}
