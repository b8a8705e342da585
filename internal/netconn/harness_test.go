package netconn

import (
	"crypto/tls"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/wsproxy/wsproxy/internal/wstest"
	"github.com/wsproxy/wsproxy/wsproxytest/memnet"
)

// kinds are the kinds of connections that a tunnel has.
var kinds = []struct {
	name string
	pair func(testing.TB) (near, far net.Conn)
}{
	{"TCP", tcpPair},
	{"unix", unixPair},
	{"wrapped", wrappedPair},
	{"TLS", tlsPair},
	{"TLS that we dialed", dialedTLSPair},
	{"TLS over a wrapper", wrappedTLSPair},
	{"memory", memoryPair},
}

// forEachKind runs test with both ends of each kind of connection. The near end is
// a Conn with buffered.
func forEachKind(t *testing.T, buffered []byte, test func(t *testing.T, c *Conn, far net.Conn)) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			near, far := kind.pair(t)
			test(t, New(near, buffered), far)
		})
	}
}

func tcpPair(t testing.TB) (near, far net.Conn) {
	return socketPair(t, "tcp", "127.0.0.1:0")
}

func unixPair(t testing.TB) (near, far net.Conn) {
	return socketPair(t, "unix", filepath.Join(t.TempDir(), "socket"))
}

func socketPair(t testing.TB, network, addr string) (near, far net.Conn) {
	t.Helper()
	far, near = wstest.SocketPair(t, network, addr)
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

func wrappedPair(t testing.TB) (near, far net.Conn) {
	near, far = tcpPair(t)
	return &wrapper{Conn: near}, far
}

// A wrapper has only the methods of [net.Conn], like the connection of a listener
// that counts its connections.
type wrapper struct {
	net.Conn
	mu     sync.Mutex
	closes int
}

func (w *wrapper) Close() error {
	w.mu.Lock()
	w.closes++
	w.mu.Unlock()
	return w.Conn.Close()
}

func (w *wrapper) numCloses() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closes
}

func memoryPair(t testing.TB) (near, far net.Conn) {
	a, b := memnet.Pipe(64 << 10)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func tlsPair(t testing.TB) (near, far net.Conn) {
	near, far = tcpPair(t)
	return wstest.ShakeHands(t, near, far)
}

func wrappedTLSPair(t testing.TB) (near, far net.Conn) {
	near, far = wrappedPair(t)
	return wstest.ShakeHands(t, near, far)
}

// dialedTLSPair returns a TLS connection to a backend. The server sends a session
// ticket, so that there are bytes to read that are not data.
func dialedTLSPair(t testing.TB) (near, far net.Conn) {
	near, far = tcpPair(t)
	client := TLSClient(near, &tls.Config{InsecureSkipVerify: true})
	server := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{wstest.Certificate()}})
	shakeHands(t, client, server)
	return client, server
}

func shakeHands(t testing.TB, client, server *tls.Conn) {
	t.Helper()
	errc := make(chan error, 1)
	go func() { errc <- server.Handshake() }() // ends with the handshake
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-errc; err != nil {
		t.Fatal(err)
	}
}

// fill calls Fill and returns a copy of the bytes.
func fill(c *Conn, head string) (string, error) {
	b, err := c.Fill([]byte(head))
	if err != nil {
		return "", err
	}
	defer b.Free()
	return string(b.Bytes()), nil
}
