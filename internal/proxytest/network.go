package proxytest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/wsproxy/wsproxy/internal/wstest"
	"github.com/wsproxy/wsproxy/wsproxytest/memnet"
)

// A Network dials backends in memory, by host name.
type Network struct {
	Start    time.Time // of the time in dials
	mu       sync.Mutex
	backends map[string]FakeBackend
	dials    []string // "host at time since Start"
}

// A FakeBackend says how a backend behaves. The zero value accepts connections and
// never answers.
type FakeBackend struct {
	DialErr error         // of the dial
	Delay   time.Duration // from a request to its answer
	Answer  string        // to every request; see [Switching]. {end} at its end ends the stream
	Late    time.Duration // from the head of Answer to what follows it
	HangsUp bool          // closes the connection when the first frame comes, and echoes none
	Freezes bool          // answers no frame, and no Close frame either

	// Choose, unless it is nil, returns how the request is answered. DialErr is not used.
	Choose func(*http.Request) FakeBackend
}

// NewNetwork returns a network without backends.
func NewNetwork() *Network {
	return &Network{Start: time.Now(), backends: make(map[string]FakeBackend)}
}

// Set makes the backend at host behave like b from now on.
func (n *Network) Set(host string, b FakeBackend) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.backends[host] = b
}

// TakeDials returns the dials since the last call.
func (n *Network) TakeDials() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	dials := n.dials
	n.dials = nil
	return dials
}

// Dial is a [wsproxy.DialFunc]. It fails for a host without a backend.
func (n *Network) Dial(_ context.Context, _, addr string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	host, _, _ := net.SplitHostPort(addr)
	n.dials = append(n.dials, fmt.Sprintf("%s at %v", host, time.Since(n.Start)))
	b, ok := n.backends[host]
	if !ok {
		b.DialErr = fmt.Errorf("%s: no such backend", addr)
	}
	if b.DialErr != nil {
		return nil, b.DialErr
	}
	front, back := memnet.Pipe(4096)
	go b.Serve(back) // until the proxy closes front
	return front, nil
}

// Serve answers a request on c, and echoes frames until a Close frame comes.
func (b FakeBackend) Serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	if b.Choose != nil {
		b = b.Choose(req)
	}
	time.Sleep(b.Delay)
	answer, isEnd := strings.CutSuffix(b.Answer, "{end}")
	answer = strings.ReplaceAll(answer, "{accept}", wstest.Accept(req.Header.Get("Sec-WebSocket-Key")))
	if b.Late > 0 {
		head, body, _ := strings.Cut(answer, "\r\n\r\n")
		io.WriteString(c, head+"\r\n\r\n")
		time.Sleep(b.Late)
		answer = body
	}
	io.WriteString(c, answer)
	for !isEnd {
		f, err := wstest.ReadFrame(r)
		if err != nil || b.HangsUp {
			return
		}
		if b.Freezes {
			continue
		}
		c.Write(wstest.AppendFrame(nil, f, nil))
		if f.Opcode == wstest.OpClose {
			return
		}
	}
}
