package chaos_test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A backend answers messages, and behaves badly when it is told to.
type backend struct {
	addr string // on which it listens; known after the first listen

	mu       sync.Mutex
	ln       net.Listener // nil: connections are refused
	conns    map[net.Conn]bool
	behavior behavior
	rng      *rand.Rand // of what is bad
	running  sync.WaitGroup
}

// A behavior is how a backend behaves. The zero value is well.
type behavior struct {
	answers   []string      // to upgrades, in place of a 101
	delay     time.Duration // the longest one, of a response and of each message
	isGarbage bool          // some messages are answered with what is no frame
}

// behaviors by their names, as the commands of a child have them.
var behaviors = map[string]behavior{
	"well": {},
	"slow": {delay: 400 * time.Millisecond},
	"garbage": {isGarbage: true, answers: []string{
		"\x16\x03\x01 this is no HTTP\r\n\r\n", "HTTP/1.1 101 Swi{end}", "{end}",
		strings.ReplaceAll(proxytest.Switching, "{accept}", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
		proxytest.SwitchingWith("Sec-WebSocket-Extensions: permessage-deflate"),
	}},
	"refusing": {answers: []string{
		proxytest.Refusing(http.StatusServiceUnavailable, "not now"),
		proxytest.Refusing(http.StatusServiceUnavailable, "not now", "Retry-After: 1"),
		proxytest.Refusing(http.StatusBadGateway, "nor here"),
		proxytest.Refusing(http.StatusGatewayTimeout, "nor here"),
	}},
}

// newBackend returns a backend that listens on addr until the test ends.
func newBackend(t testing.TB, addr string, seed uint64) *backend {
	t.Helper()
	b := &backend{addr: addr, conns: make(map[net.Conn]bool), rng: rand.New(rand.NewPCG(seed, 0))}
	if err := b.listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.deny()
		b.closeConns(net.Conn.Close)
		b.running.Wait()
	})
	return b
}

// listen begins to accept connections.
func (b *backend) listen() error {
	ln, err := net.Listen("tcp", b.addr)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ln, b.addr = ln, ln.Addr().String()
	b.running.Go(func() { // until deny
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			b.running.Go(func() { b.serve(c) }) // until the proxy closes c, or closeConns
		}
	})
	return nil
}

// deny ends listen. Open connections stay.
func (b *backend) deny() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ln != nil {
		b.ln.Close()
	}
	b.ln = nil
}

// behave sets the behavior.
func (b *backend) behave(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.behavior = behaviors[name]
}

func (b *backend) current() behavior {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.behavior
}

// closeConns closes all connections.
func (b *backend) closeConns(how func(net.Conn) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		how(c)
	}
}

// reset closes a connection with a reset.
func reset(c net.Conn) error {
	c.(*net.TCPConn).SetLinger(0)
	return c.Close()
}

func (b *backend) add(c net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conns[c] = true
}

func (b *backend) remove(c net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, c)
	c.Close()
}

func (b *backend) serve(c net.Conn) {
	b.add(c)
	defer b.remove(c)
	r := bufio.NewReader(c)
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	is := b.current()
	b.wait(is.delay)
	answer := proxytest.Switching
	if n := len(is.answers); n > 0 {
		answer = is.answers[b.random(n)]
	}
	answer, isEnd := strings.CutSuffix(answer, "{end}")
	answer = strings.ReplaceAll(answer, "{accept}", wstest.Accept(req.Header.Get("Sec-WebSocket-Key")))
	io.WriteString(c, answer)
	if !isEnd {
		b.talk(c, r)
	}
}

// wait waits as a slow backend does, for most at most.
func (b *backend) wait(most time.Duration) {
	if most > 0 {
		time.Sleep(time.Duration(b.random(int(most))))
	}
}

func (b *backend) random(n int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rng.IntN(n)
}

// allAnswered is the reason of a backend's Close frame: a proxy sends one too, if the backend has
// failed after the client's Close frame.
const allAnswered = "all messages are answered"

// closeAnswer returns the answer to a Close frame, with its code.
func closeAnswer(f wstest.Frame) wstest.Frame {
	if len(f.Payload) < 2 {
		return f
	}
	return wstest.Frame{Fin: true, Opcode: wstest.OpClose, Payload: append(f.Payload[:2:2], allAnswered...)}
}

// talk answers messages until a Close frame comes. A text message asks for the addresses of the
// connection.
func (b *backend) talk(c net.Conn, r *bufio.Reader) {
	var with answerer
	var message []byte
	for {
		f, err := wstest.ReadFrame(r)
		if err != nil {
			return
		}
		switch f.Opcode {
		case wstest.OpClose:
			c.Write(wstest.AppendFrame(nil, closeAnswer(f), nil))
			return
		case wstest.OpPing:
			c.Write(wstest.AppendFrame(nil, wstest.Pong(string(f.Payload)), nil))
			continue
		case wstest.OpPong:
			continue
		case wstest.OpText: // asks for the addresses
			c.Write(wstest.AppendFrame(nil, wstest.Text(fmt.Sprint(c.LocalAddr(), c.RemoteAddr())), nil))
			continue
		}
		if message = append(message, f.Payload...); !f.Fin {
			continue
		}
		answer, err := with.answer(message)
		message = message[:0]
		if err != nil {
			c.Write(wstest.AppendFrame(nil, wstest.Close(wrongMessage, err.Error()), nil))
			return
		}
		is := b.current()
		b.wait(is.delay)
		if is.isGarbage && b.random(4) == 0 {
			c.Write([]byte("\xf7\xff this is no frame"))
			continue
		}
		c.Write(wstest.AppendFrame(nil, wstest.Binary(answer), nil)) // where it fails, so does the next read
	}
}

// numConns returns the number of open connections.
func (b *backend) numConns() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.conns)
}
