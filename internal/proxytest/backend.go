package proxytest

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/wstest"
	"github.com/wsproxy/wsproxy/wsproxytest/memnet"
)

// WantUntouched checks that a backend got no connection.
func WantUntouched(t testing.TB, b interface{ NumAccepted() int }) {
	t.Helper()
	if n := b.NumAccepted(); n != 0 {
		t.Errorf("backend got %d connections; want none", n)
	}
}

// ReceivedHead returns the head of the only request that a backend got, parsed and
// as bytes, and the bytes that came after it. All connections of the backend must
// have ended.
func ReceivedHead(t testing.TB, b *wstest.RawBackend) (req *http.Request, head, rest string) {
	t.Helper()
	received := b.Received(t)
	if len(received) != 1 {
		t.Fatalf("backend got %d connections; want 1", len(received))
	}
	head, rest, ok := strings.Cut(received[0], "\r\n\r\n")
	if !ok {
		t.Fatalf("backend received %q; want a request", received[0])
	}
	head += "\r\n\r\n"
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head)))
	if err != nil {
		t.Fatalf("backend received %q: %v", head, err)
	}
	return req, head, rest
}

// RequestAtBackend opens a tunnel with a request, and returns the request that the
// backend got.
func RequestAtBackend(t testing.TB, request string, opts ...wsproxy.Option) *http.Request {
	t.Helper()
	backend := wstest.StartBackend(t)
	opts = append([]wsproxy.Option{wsproxy.WithBackends(backend.URL())}, opts...)
	_, s := Start(t, opts...)
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(request)
	leg := backend.Accepted(t)
	req := leg.AcceptUpgrade(nil)
	WantSwitch(t, client)
	return req
}

// A BackendInMemory is a backend that a test plays in a synctest bubble.
type BackendInMemory struct{ ln *memnet.Listener }

// NewBackendInMemory returns a backend that listens until the test ends.
func NewBackendInMemory(t testing.TB) *BackendInMemory {
	b := &BackendInMemory{memnet.Listen(64 << 10)}
	t.Cleanup(func() { b.ln.Close() })
	return b
}

// Option makes a proxy dial b, whatever the address.
func (b *BackendInMemory) Option() wsproxy.Option { return wsproxy.WithDialer(b.Dial) }

// Dial connects to b. It is a [wsproxy.DialFunc] that ignores the address.
func (b *BackendInMemory) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return b.ln.DialContext(ctx, network, addr)
}

// Accept returns the other end of the proxy's next connection.
func (b *BackendInMemory) Accept(t testing.TB) *wstest.Peer {
	t.Helper()
	c, err := b.ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return wstest.NewBackend(t, c)
}
