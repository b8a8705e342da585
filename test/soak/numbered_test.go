// Package soak_test has tests that are short in a plain go test, and run for as long
// as WSPROXY_SOAK says.
package soak_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// soakTime returns how long a soak run lasts; 0 for a plain go test.
func soakTime() time.Duration {
	s := os.Getenv("WSPROXY_SOAK")
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 30 * time.Second
	}
	return d
}

// A numberedSize says how much a tunnel carries in each direction.
type numberedSize struct {
	tunnels  int // at once, for each way
	messages int
	largest  int           // bytes of one message
	patience time.Duration // for one tunnel
}

func sizeOfNumbered() numberedSize {
	if soakTime() > 0 {
		return numberedSize{tunnels: 8, messages: 60, largest: 5 << 20, patience: 3 * time.Minute}
	}
	return numberedSize{tunnels: 3, messages: 60, largest: 256 << 10, patience: 30 * time.Second}
}

// Both ends know all messages, so that one that is lost, changed, or out of order
// is seen at once.
func TestNumberedMessagesArriveWholeAndInOrder(t *testing.T) {
	testNumbered(t, false)
}

// The end that closes does so while the other still sends.
func TestNumberedMessagesArriveAfterClose(t *testing.T) {
	testNumbered(t, true)
}

func testNumbered(t *testing.T, closesEarly bool) {
	size, give := sizeOfNumbered(), time.Now().Add(soakTime())
	for round := uint64(1); round == 1 || time.Now().Before(give); round++ {
		seed := round
		if soakTime() > 0 {
			seed = rand.Uint64()
		}
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { runNumbered(t, size, seed, closesEarly) })
		if t.Failed() {
			return
		}
	}
}

// runNumbered runs tunnels in all ways, some with small buffers in the proxy.
func runNumbered(t *testing.T, size numberedSize, seed uint64, closesEarly bool) {
	var running sync.WaitGroup
	for way := range 8 {
		n := startNumbered(t, way&1 != 0, way&2 != 0, []int{0, 64 << 10}[way>>2])
		for i := range size.tunnels {
			nt := n.open(t, size, seed+uint64(way*1000+i), closesEarly)
			running.Go(nt.run) // until the tunnel has ended, or its deadline
		}
	}
	running.Wait()
}

// A numberedProxy is a proxy and the listener of its backend.
type numberedProxy struct {
	addr  string
	isTLS bool
	ln    net.Listener
}

func startNumbered(t *testing.T, isTLS, isDetached bool, socketBuffer int) *numberedProxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	p, err := wsproxy.New(
		wsproxy.WithBackends("http://"+ln.Addr().String()),
		wsproxy.WithDetached(isDetached),
		wsproxy.WithLimits(wsproxy.Limits{SocketBuffer: socketBuffer}),
		wsproxy.WithLogger(slog.New(slog.DiscardHandler)),
		wsproxy.WithTrace(&wsproxy.Trace{Closed: func(e wsproxy.TunnelEnd) {
			if e.Cut || e.Cause != wsproxy.CauseClosed {
				t.Errorf("tunnel %d of %v ended with %v, cut: %t, %v", e.ID, e.Engine, e.Cause, e.Cut, e.Err)
			}
		}}),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	srv := httptest.NewUnstartedServer(p)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	if isTLS {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	return &numberedProxy{srv.Listener.Addr().String(), isTLS, ln}
}

// A numberedTunnel is a tunnel and what its ends send.
type numberedTunnel struct {
	client, backend *numberedEnd
}

func (n *numberedProxy) open(t *testing.T, size numberedSize, seed uint64, closesEarly bool) *numberedTunnel {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	closer := rng.IntN(2)
	isTiny := rng.IntN(4) == 0
	if isTiny {
		size.messages, size.largest = size.messages/4, 8<<10
	}
	c, err := net.Dial("tcp", n.addr)
	if err != nil {
		t.Fatal(err)
	}
	client := newNumberedEnd(t, "client", c, rng.Uint64(), size, isTiny)
	if n.isTLS {
		client.peer = wstest.NewClient(t, tls.Client(client.conn, &tls.Config{InsecureSkipVerify: true}))
	} else {
		client.peer = wstest.NewClient(t, client.conn)
	}
	client.peer.RequestUpgrade("/", nil)
	if c, err = n.ln.Accept(); err != nil {
		t.Fatal(err)
	}
	backend := newNumberedEnd(t, "backend", c, rng.Uint64(), size, isTiny)
	backend.peer = wstest.NewBackend(t, backend.conn)
	backend.peer.AcceptUpgrade(nil)
	client.peer.WantUpgrade()

	for i, e := range []*numberedEnd{client, backend} {
		e.isCloser, e.closesEarly = i == closer, closesEarly
		e.seed = seed
	}
	client.wanted, backend.wanted = newMessages(backend.messages.seed, size), newMessages(client.messages.seed, size)
	return &numberedTunnel{client, backend}
}

// run returns when both ends are done.
func (t *numberedTunnel) run() {
	var running sync.WaitGroup
	for _, e := range []*numberedEnd{t.client, t.backend} {
		giveUp := time.AfterFunc(e.size.patience, func() { e.conn.Close() })
		defer giveUp.Stop()
		running.Go(e.receive)
		running.Go(e.send)
	}
	running.Wait()
}

// A numberedEnd is one end of a tunnel.
type numberedEnd struct {
	t           *testing.T
	name        string
	seed        uint64 // of the tunnel
	conn        *unevenConn
	peer        *wstest.Peer
	size        numberedSize
	messages    *messages // to be sent
	wanted      *messages // to be received
	isCloser    bool
	closesEarly bool
	rng         *rand.Rand // of the sender
	pings       int        // sent so far

	allReceived   chan struct{} // closed with the last message, or the stream's end
	closeReceived chan struct{} // closed with the Close frame, or the stream's end
	ended         chan struct{} // closed with the stream's end
}

func newNumberedEnd(t *testing.T, name string, c net.Conn, seed uint64, size numberedSize, isTiny bool) *numberedEnd {
	rng := rand.New(rand.NewPCG(seed, 2))
	conn := &unevenConn{TCPConn: c.(*net.TCPConn)}
	switch {
	case isTiny:
		conn.SetReadBuffer(4 << 10) // over loopback, some 10 KB/s are left
	case rng.IntN(2) == 0:
		conn.SetReadBuffer(64 << 10)
	}
	if rng.IntN(3) == 0 {
		conn.pause = time.Duration(rng.IntN(1000)) * time.Microsecond
	}
	return &numberedEnd{
		t: t, name: name, conn: conn, size: size, rng: rng, messages: newMessages(seed, size),
		allReceived: make(chan struct{}), closeReceived: make(chan struct{}), ended: make(chan struct{}),
	}
}

// An unevenConn is read with pauses.
type unevenConn struct {
	*net.TCPConn
	pause time.Duration // after each read
}

func (c *unevenConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	if c.pause > 0 {
		time.Sleep(c.pause)
	}
	return n, err
}

func (e *numberedEnd) errorf(format string, args ...any) {
	e.t.Errorf("seed %d: %s: %s", e.seed, e.name, fmt.Sprintf(format, args...))
}

// receive compares what comes with what is wanted.
func (e *numberedEnd) receive() {
	onceAll := sync.OnceFunc(func() { close(e.allReceived) })
	onceClose := sync.OnceFunc(func() { close(e.closeReceived) })
	defer close(e.ended)
	defer onceClose()
	defer onceAll()
	r := bufio.NewReaderSize(e.peer, 16<<10)
	var message []byte
	count := 0
	for {
		f, err := wstest.ReadFrame(r)
		switch {
		case err != nil:
			select {
			case <-e.closeReceived:
			default:
				e.errorf("after %d of %d messages: %v", count, e.size.messages, err)
			}
			return
		case f.Opcode == wstest.OpClose:
			if count != e.size.messages {
				e.errorf("got %v after %d of %d messages", f, count, e.size.messages)
			}
			onceClose()
			if e.name == "backend" {
				return
			}
			continue
		case f.Opcode > wstest.OpBinary:
			continue
		}
		message = append(message, f.Payload...)
		if !f.Fin {
			continue
		}
		if want := e.wanted.next(); !bytes.Equal(message, want) {
			e.errorf("message %d has %d bytes; want %d (same bytes up to there: %t)", count, len(message), len(want),
				bytes.HasPrefix(want, message) || bytes.HasPrefix(message, want))
			return
		}
		message = message[:0]
		if count++; count == e.size.messages {
			onceAll()
		}
	}
}

// send sends all messages, closes or answers the other end's Close, and ends the
// connection: the backend is the first to do so.
func (e *numberedEnd) send() {
	for range e.size.messages {
		if err := e.write(e.appendMessage(nil, e.messages.next())); err != nil {
			e.errorf("write: %v", err)
			return
		}
	}
	if e.isCloser && !e.closesEarly {
		<-e.allReceived
	}
	if !e.isCloser {
		<-e.closeReceived
	}
	if err := e.peer.WriteFrames(wstest.Close(1000, "")); err != nil {
		e.errorf("write Close: %v", err)
	}
	if e.name == "client" {
		<-e.ended
	}
	<-e.closeReceived
	e.peer.Conn().Close()
}

// maxClientPings is how many pings a client sends: more may be a flood.
const maxClientPings = 100

// appendMessage appends a message in fragments, with pings between them.
func (e *numberedEnd) appendMessage(dst, message []byte) []byte {
	opcode := byte(wstest.OpBinary)
	for isLast := false; !isLast; opcode = wstest.OpContinuation {
		n := len(message)
		if isLast = e.rng.IntN(3) == 0; !isLast {
			n = e.rng.IntN(len(message) + 1)
		}
		dst = e.appendFrame(dst, wstest.Frame{Fin: isLast, Opcode: opcode, Payload: message[:n]})
		message = message[n:]
		if e.rng.IntN(4) == 0 && (e.name == "backend" || e.pings < maxClientPings) {
			e.pings++
			dst = e.appendFrame(dst, wstest.Frame{Fin: true, Opcode: wstest.OpPing, Payload: make([]byte, e.rng.IntN(126))})
		}
	}
	return dst
}

func (e *numberedEnd) appendFrame(dst []byte, f wstest.Frame) []byte {
	if e.name == "backend" {
		return wstest.AppendFrame(dst, f, nil)
	}
	k := e.rng.Uint32()
	return wstest.AppendFrame(dst, f, &[4]byte{byte(k), byte(k >> 8), byte(k >> 16), byte(k >> 24)})
}

// write writes b in pieces.
func (e *numberedEnd) write(b []byte) error {
	most := 64 << 10
	switch {
	case len(b) < 2000 && e.rng.IntN(4) == 0:
		most = 10
	case len(b) < 100_000 && e.rng.IntN(2) == 0:
		most = 3000
	}
	for len(b) > 0 {
		n := min(1+e.rng.IntN(most), len(b))
		if _, err := e.peer.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// messages is a sequence of messages that is the same for the same seed.
type messages struct {
	seed    uint64
	rng     *rand.Rand
	bytes   *rand.ChaCha8
	largest int
	buf     []byte
}

func newMessages(seed uint64, size numberedSize) *messages {
	var key [32]byte
	for i := range key {
		key[i] = byte(seed >> (i % 8 * 8))
	}
	return &messages{seed: seed, rng: rand.New(rand.NewPCG(seed, 3)), bytes: rand.NewChaCha8(key), largest: size.largest}
}

// next returns the next message, which is valid until the one after it.
func (m *messages) next() []byte {
	var n int
	switch m.rng.IntN(16) {
	case 0, 1:
	case 2, 3, 4, 5, 6, 7:
		n = m.rng.IntN(200)
	case 8, 9, 10, 11, 12, 13:
		n = m.rng.IntN(8 << 10)
	default:
		n = m.rng.IntN(m.largest + 1)
	}
	if cap(m.buf) < n {
		m.buf = make([]byte, n)
	}
	b := m.buf[:n]
	m.bytes.Read(b)
	return b
}
