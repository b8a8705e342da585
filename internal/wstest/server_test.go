package wstest

import (
	"io"
	"net/http"
	"testing"
)

func TestEchoRespondsToEveryKindOfFrame(t *testing.T) {
	url := StartEcho(t)
	first, second := Dial(t, url), Dial(t, url)
	for _, client := range []*Peer{first, second} {
		client.Handshake("/", nil)
		client.Send(Fragment(OpText, false, "a"), Ping("p"), Fragment(OpContinuation, true, "b"))
		client.Want(Fragment(OpText, false, "a"), Pong("p"), Fragment(OpContinuation, true, "b"))
	}
	first.Send(Close(4000, "bye"))
	first.Want(Close(4000, ""))
	first.WantEOF()
	second.Send(Close(0, ""))
	second.Want(Close(0, ""))
	second.WantEOF()
}

func TestEchoRefusesPlainRequests(t *testing.T) {
	resp, err := http.Get(StartEcho(t))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("status = %d; want 400", resp.StatusCode)
	}
}

func TestRawBackendAnswersAndRecords(t *testing.T) {
	b := StartRaw(t, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"+
		"Upgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n\x81\x01a")
	request := UpgradeRequest("/", "dGhlIHNhbXBsZSBub25jZQ==", nil)

	first := Dial(t, b.URL())
	first.RequestUpgrade("/", nil)
	first.WantUpgrade()
	first.Want(Text("a"))
	first.Close()

	second := Dial(t, b.URL())
	second.WriteRequest(request[:20])
	second.WriteRequest(request[20:])
	second.ReadResponse()
	second.WantRaw("\x81\x01a")
	second.WriteRequest("more\r\n\r\n")
	second.CloseWrite()
	second.WantEOF()

	received := b.Received(t)
	if len(received) != 2 || b.NumAccepted() != 2 {
		t.Fatalf("received on %d of %d connections; want 2", len(received), b.NumAccepted())
	}
	if want := request + "more\r\n\r\n"; received[1] != want {
		t.Errorf("second connection received\n%q; want\n%q", received[1], want)
	}
}

func TestBackendReturnsConnectionsInOrder(t *testing.T) {
	b := StartBackend(t)
	for _, name := range []string{"first", "second"} {
		io.WriteString(Dial(t, b.URL()), name)
	}
	b.Accepted(t).WantRaw("first")
	b.Accepted(t).WantRaw("second")
	Dial(t, b.URL()) // this one is not accepted
}
