package security_test

import (
	"bytes"
	"compress/flate"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A megabyte that is a kilobyte on the wire passes a limit of four kilobytes, and
// arrives as it was sent: nothing inflates it.
func TestMessageSizeMeasuresCompressedBytes(t *testing.T) {
	var bomb bytes.Buffer
	w, err := flate.NewWriter(&bomb, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(make([]byte, 1<<20))
	w.Flush()
	frame := wstest.Frame{Fin: true, RSV: 4, Opcode: wstest.OpBinary, Payload: bytes.TrimSuffix(bomb.Bytes(), []byte{0, 0, 0xff, 0xff})}

	backend := wstest.StartBackend(t)
	closed := make(chan wsproxy.TunnelEnd, 1)
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), wsproxy.WithLimits(wsproxy.Limits{MessageSize: 4096}),
		wsproxy.WithTrace(&wsproxy.Trace{Closed: func(e wsproxy.TunnelEnd) { closed <- e }}))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.UpgradeWithOffers)
	leg := backend.Accepted(t)
	leg.AcceptUpgrade(map[string][]string{"Sec-Websocket-Extensions": {"permessage-deflate"}})
	proxytest.WantSwitch(t, client)
	client.Send(frame)
	leg.Want(frame)
	leg.Send(frame)
	client.Want(frame)

	// And what is more on the wire does not.
	client.Send(wstest.Frame{Fin: true, RSV: 4, Opcode: wstest.OpBinary, Payload: make([]byte, 4097)})
	client.WantClose(1009)
	leg.WantClose(1001)
	client.Close()
	leg.Close()
	if e := <-closed; e.Cause != wsproxy.CauseTooBig || e.Side != wsproxy.SideClient {
		t.Errorf("tunnel ended by %v %v; want client too big", e.Side, e.Cause)
	}
}
