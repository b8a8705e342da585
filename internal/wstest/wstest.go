// Package wstest provides WebSocket peers for tests that read like a script:
//
//	client.RequestUpgrade("/chat", nil)
//	backend.AcceptUpgrade(nil)
//	client.WantUpgrade()
//	client.Send(wstest.Text("hello"))
//	backend.Want(wstest.Text("hello"))
//	backend.CloseWrite()
//	client.WantEOF()
//
// The peers send and check frames and bytes, and follow no rules of the protocol by
// themselves, so a script can break any rule. The package shares no code with the
// packages that it tests. TestHarnessTour shows more.
package wstest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stepTimeout bounds the time of each step. In a synctest bubble it is in the
// bubble's time: a script must sleep before it expects a later event.
const stepTimeout = 5 * time.Second

// A role decides which frames are masked.
type role string

const (
	client  role = "client"  // sends masked frames, wants unmasked frames
	backend role = "backend" // sends unmasked frames, wants masked frames
)

// A Peer is one end of a connection that follows a script.
//
// A step waits for 5 s at most, and fails the test if it cannot be done. So steps
// must run on the test's own goroutine. Methods that return an error have no time
// limit and may run on other goroutines: one that reads and one that writes at a
// time.
type Peer struct {
	t    testing.TB
	role role
	conn net.Conn
	r    *bufio.Reader // of conn
	key  string        // Sec-WebSocket-Key of RequestUpgrade
}

// NewClient returns a peer with the role of a client on c. It closes c when the
// test ends.
func NewClient(t testing.TB, c net.Conn) *Peer { return newPeer(t, client, c) }

// NewBackend returns a peer with the role of a backend on c. It closes c when the
// test ends.
func NewBackend(t testing.TB, c net.Conn) *Peer { return newPeer(t, backend, c) }

// Dial returns a client that is connected to a URL of the form http://host:port.
func Dial(t testing.TB, url string) *Peer {
	t.Helper()
	c, err := net.DialTimeout("tcp", strings.TrimPrefix(url, "http://"), stepTimeout)
	if err != nil {
		t.Fatal(err)
	}
	return NewClient(t, c)
}

func newPeer(t testing.TB, role role, c net.Conn) *Peer {
	t.Cleanup(func() { c.Close() })
	return &Peer{t: t, role: role, conn: c, r: bufio.NewReader(c)}
}

// Send writes frames with one call, masked as the role demands.
func (p *Peer) Send(frames ...Frame) {
	p.t.Helper()
	p.SendRaw(p.appendFrames(nil, frames))
}

// SendRaw writes b with one call.
func (p *Peer) SendRaw(b []byte) {
	p.t.Helper()
	p.conn.SetWriteDeadline(time.Now().Add(stepTimeout))
	if n, err := p.conn.Write(b); err != nil {
		p.t.Fatalf("%s: sent %d of %d bytes: %v", p.role, n, len(b), err)
	}
}

// Want reads frames and compares all fields but Masked. It checks masking by the
// peer's role.
func (p *Peer) Want(frames ...Frame) {
	p.t.Helper()
	for i, want := range frames {
		got, err := p.readFrameInTime()
		if err != nil {
			p.t.Fatalf("%s: frame %d of %d: got error %v; want %v", p.role, i+1, len(frames), err, want)
		}
		if !isSame(got, want) {
			p.t.Fatalf("%s: frame %d of %d: got %v; want %v", p.role, i+1, len(frames), got, want)
		}
		p.checkMasking(got)
	}
}

// WantClose reads a Close frame with the code and any reason. Code 0 means that the
// frame must have no code.
func (p *Peer) WantClose(code uint16) {
	p.t.Helper()
	got, err := p.readFrameInTime()
	if err != nil {
		p.t.Fatalf("%s: got error %v; want close %d", p.role, err, code)
	}
	if got.Opcode != OpClose || closeCode(got) != code {
		p.t.Fatalf("%s: got %v; want close %d", p.role, got, code)
	}
	p.checkMasking(got)
}

// WantPing reads a Ping frame with any payload, and returns the Pong frame that answers it.
func (p *Peer) WantPing() (pong Frame) {
	p.t.Helper()
	got, err := p.readFrameInTime()
	if err != nil {
		p.t.Fatalf("%s: got error %v; want a ping", p.role, err)
	}
	if got.Opcode != OpPing {
		p.t.Fatalf("%s: got %v; want a ping", p.role, got)
	}
	p.checkMasking(got)
	return Pong(string(got.Payload))
}

// WantRaw reads len(s) bytes and compares them with s.
func (p *Peer) WantRaw(s string) {
	p.t.Helper()
	p.setReadTimeout()
	got := make([]byte, len(s))
	n, err := io.ReadFull(p.r, got)
	if err != nil {
		p.t.Fatalf("%s: got %s, then error %v; want %s", p.role, excerpt(got[:n]), err, excerpt(s))
	}
	if string(got) != s {
		p.t.Fatalf("%s: got %s; want %s", p.role, excerpt(got), excerpt(s))
	}
}

// WantEOF waits for the other end's end of stream. A reset fails the test, and so
// does a byte before the end of stream.
func (p *Peer) WantEOF() {
	p.t.Helper()
	if err := p.readEnd("EOF"); err != io.EOF {
		p.t.Fatalf("%s: got error %v; want EOF", p.role, err)
	}
}

// WantEOFOrReset is WantEOF for a peer that may have sent something too late: its system reports
// a reset if the other end has not read it before it closed the connection.
func (p *Peer) WantEOFOrReset() {
	p.t.Helper()
	if err := p.readEnd("EOF or a reset"); err != io.EOF && !isReset(err) {
		p.t.Fatalf("%s: got error %v; want EOF or a reset", p.role, err)
	}
}

// readEnd waits for the end of the stream and returns its error. A byte before it fails the test,
// which wants something else.
func (p *Peer) readEnd(want string) error {
	p.t.Helper()
	p.setReadTimeout()
	_, err := p.r.Peek(1)
	if err == nil {
		b, _ := p.r.Peek(p.r.Buffered())
		p.t.Fatalf("%s: got %s; want %s", p.role, excerpt(b), want)
	}
	return err
}

// WantReset waits for a reset. It skips the bytes before it: how many of them
// arrive depends on timing.
func (p *Peer) WantReset() {
	p.t.Helper()
	p.setReadTimeout()
	n, err := io.Copy(io.Discard, p.r)
	switch {
	case err == nil:
		p.t.Fatalf("%s: got EOF after %d bytes; want a reset", p.role, n)
	case !isReset(err):
		p.t.Fatalf("%s: got error %v after %d bytes; want a reset", p.role, err, n)
	}
}

// CloseWrite closes the write side.
func (p *Peer) CloseWrite() {
	p.t.Helper()
	c, ok := p.conn.(interface{ CloseWrite() error })
	if !ok {
		p.t.Fatalf("%s: a %T has no CloseWrite", p.role, p.conn)
	}
	if err := c.CloseWrite(); err != nil {
		p.t.Fatalf("%s: %v", p.role, err)
	}
}

// Close closes the connection. The kernel sends a reset if received bytes have not
// been read.
func (p *Peer) Close() {
	p.t.Helper()
	if err := p.conn.Close(); err != nil {
		p.t.Fatalf("%s: %v", p.role, err)
	}
}

// Reset closes the connection with a reset.
func (p *Peer) Reset() {
	p.t.Helper()
	switch c := p.conn.(type) {
	case interface{ Reset() }:
		c.Reset()
	case interface{ SetLinger(sec int) error }:
		if err := c.SetLinger(0); err != nil {
			p.t.Fatalf("%s: %v", p.role, err)
		}
		p.Close()
	default:
		p.t.Fatalf("%s: a %T cannot be reset", p.role, c)
	}
}

// Conn returns the connection, for its addresses and its socket options. Do not
// read from it: the peer may have read ahead.
func (p *Peer) Conn() net.Conn { return p.conn }

// ReadFrame reads a frame from the connection and unmasks it.
func (p *Peer) ReadFrame() (Frame, error) {
	p.conn.SetReadDeadline(time.Time{})
	return ReadFrame(p.r)
}

// WriteFrames writes frames like Send. Any goroutine may call it.
func (p *Peer) WriteFrames(frames ...Frame) error {
	_, err := p.Write(p.appendFrames(nil, frames))
	return err
}

// Peek waits for a byte, until the connection's deadline, and returns it without
// reading it.
func (p *Peer) Peek() (byte, error) {
	b, err := p.r.Peek(1)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

// Read implements [io.Reader].
func (p *Peer) Read(b []byte) (int, error) {
	p.conn.SetReadDeadline(time.Time{})
	return p.r.Read(b)
}

// Write implements [io.Writer].
func (p *Peer) Write(b []byte) (int, error) {
	p.conn.SetWriteDeadline(time.Time{})
	return p.conn.Write(b)
}

func (p *Peer) appendFrames(dst []byte, frames []Frame) []byte {
	for _, f := range frames {
		if p.role == backend {
			dst = AppendFrame(dst, f, nil)
			continue
		}
		var key [4]byte
		binary.NativeEndian.PutUint32(key[:], rand.Uint32())
		dst = AppendFrame(dst, f, &key)
	}
	return dst
}

func (p *Peer) readFrameInTime() (Frame, error) {
	p.setReadTimeout()
	return ReadFrame(p.r)
}

// setReadTimeout sets the deadline of a step's reads. It ignores the error: on a
// closed connection the read that follows returns a better one.
func (p *Peer) setReadTimeout() { p.conn.SetReadDeadline(time.Now().Add(stepTimeout)) }

func (p *Peer) checkMasking(f Frame) {
	p.t.Helper()
	if want := p.role == backend; f.Masked != want {
		p.t.Fatalf("%s: got %v with masked = %v; want %v", p.role, f, f.Masked, want)
	}
}

func isSame(a, b Frame) bool {
	return a.Fin == b.Fin && a.RSV == b.RSV && a.Opcode == b.Opcode && bytes.Equal(a.Payload, b.Payload)
}

func closeCode(f Frame) uint16 {
	if len(f.Payload) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(f.Payload)
}

// isReset reports whether err is a reset. It checks the text for Windows, where the
// error of a reset is not syscall.ECONNRESET.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || strings.Contains(err.Error(), "forcibly closed")
}
