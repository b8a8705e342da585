package proxytest

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"testing"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// Exchange sends request over a new connection, and returns the response and its
// body. The server must close the connection behind it.
func Exchange(t testing.TB, url, request string) (*http.Response, string) {
	t.Helper()
	return Finish(t, wstest.Dial(t, url), request)
}

// Finish is Exchange over a connection that is open.
func Finish(t testing.TB, client *wstest.Peer, request string) (*http.Response, string) {
	t.Helper()
	client.WriteRequest(request)
	resp := client.ReadResponse()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("body of %s: %v after %q", resp.Status, err, body)
	}
	client.WantEOF()
	return resp, string(body)
}

// ExchangeRaw is Exchange that returns the response as bytes.
func ExchangeRaw(t testing.TB, url, request string) string {
	t.Helper()
	client := wstest.Dial(t, url)
	client.WriteRequest(request)
	answer, err := io.ReadAll(client)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

// Open opens a tunnel with request, and returns its client and the 101.
func Open(t testing.TB, url, request string) (*wstest.Peer, *http.Response) {
	t.Helper()
	client := wstest.Dial(t, url)
	client.WriteRequest(request)
	return client, WantSwitch(t, client)
}

// WantSwitch reads a response, which must be a 101.
func WantSwitch(t testing.TB, client *wstest.Peer) *http.Response {
	t.Helper()
	resp := client.ReadResponse()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("got status %d; want 101; body %.200q", resp.StatusCode, body)
	}
	return resp
}

// WantEcho sends a message through a tunnel and waits for it to come back.
func WantEcho(t testing.TB, client *wstest.Peer) {
	t.Helper()
	client.Send(wstest.Text("hello"))
	client.Want(wstest.Text("hello"))
}

// HangUp closes a tunnel to an echo server by the closing handshake.
func HangUp(t testing.TB, client *wstest.Peer) {
	t.Helper()
	client.Send(wstest.Close(1000, ""))
	client.WantClose(1000)
	client.WantEOF()
	client.Close()
}

// ReadHead reads the head of a message, and returns its bytes.
func ReadHead(t testing.TB, client *wstest.Peer) string {
	t.Helper()
	var head bytes.Buffer
	b := make([]byte, 1)
	for !bytes.HasSuffix(head.Bytes(), []byte("\r\n\r\n")) {
		if _, err := client.Read(b); err != nil {
			t.Fatalf("%v after %q", err, head.String())
		}
		head.WriteByte(b[0])
	}
	return head.String()
}

// WantStatus checks the status of a response.
func WantStatus(t testing.TB, resp *http.Response, want int) {
	t.Helper()
	if resp.StatusCode != want {
		t.Errorf("client got status %d; want %d", resp.StatusCode, want)
	}
}

// WantField checks all lines of a field.
func WantField(t testing.TB, h http.Header, name string, want ...string) {
	t.Helper()
	if got := h.Values(name); !slices.Equal(got, want) {
		t.Errorf("%s is %q; want %q", name, got, want)
	}
}

// OpenThrough opens a tunnel through the proxy at url to the backend b.
func OpenThrough(t *testing.T, url string, b *wstest.Backend) (client, backend *wstest.Peer) {
	t.Helper()
	client = wstest.Dial(t, url)
	client.RequestUpgrade("/", nil)
	backend = b.Accepted(t)
	backend.AcceptUpgrade(nil)
	client.WantUpgrade()
	return client, backend
}
