package proxytest

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// ServeHTTP2 is Serve over HTTP/2 and TLS. The test's binary must import http2ws.
func ServeHTTP2(t testing.TB, h http.Handler, configure ...func(*http.Server)) *Site {
	t.Helper()
	s := newSite()
	srv := httptest.NewUnstartedServer(s.count(h))
	srv.Config.ErrorLog = DiscardLog
	for _, f := range configure {
		f(srv.Config)
	}
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	s.URL = srv.URL
	return s
}

// An HTTP2Client is one connection to a server, as that of a browser. It follows no rules of
// the protocol but flow control, so that a test can break any other, and it works with every
// release of Go: since 1.27 the transport of x/net is that of net/http, which refuses a
// request with :protocol.
type HTTP2Client struct {
	conn net.Conn

	writing sync.Mutex // held to write frames
	framer  *http2.Framer
	encoder *hpack.Encoder
	block   bytes.Buffer // of the encoder
	nextID  uint32

	mu       sync.Mutex
	changed  sync.Cond // of the fields below, and of those of all streams
	streams  map[uint32]*HTTP2Stream
	settings map[http2.SettingID]uint32 // nil until the server has sent them
	window   int                        // for DATA of all streams
	goAway   bool                       // the server has sent GOAWAY
	err      error                      // how the connection ended
}

// NewHTTP2Client connects to a site of ServeHTTP2 with settings, until the test ends. It has the
// server's settings.
func NewHTTP2Client(t testing.TB, url string, settings ...http2.Setting) *HTTP2Client {
	t.Helper()
	conn, err := tls.Dial("tcp", strings.TrimPrefix(url, "https://"),
		&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	c := &HTTP2Client{conn: conn, framer: http2.NewFramer(conn, conn), streams: make(map[uint32]*HTTP2Stream), window: 65535, nextID: 1}
	c.changed.L = &c.mu
	c.encoder = hpack.NewEncoder(&c.block)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := c.framer.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	// As browsers do, or one stream that is not read would stall all.
	if err := c.framer.WriteWindowUpdate(0, 15<<20); err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(c.read) // until the connection is closed
	t.Cleanup(func() {
		conn.Close()
		reading.Wait()
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.settings == nil && c.err == nil {
		c.changed.Wait()
	}
	if c.err != nil {
		t.Fatal(c.err)
	}
	return c
}

// Setting returns a setting of the server.
func (c *HTTP2Client) Setting(id http2.SettingID) uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.settings[id]
}

// HasGoAway reports whether the server has sent GOAWAY.
func (c *HTTP2Client) HasGoAway() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.goAway
}

// Close closes the connection.
func (c *HTTP2Client) Close() { c.conn.Close() }

// read handles all frames of the server.
func (c *HTTP2Client) read() {
	for {
		f, err := c.framer.ReadFrame()
		if streamErr, ok := errors.AsType[http2.StreamError](err); ok {
			err = nil
			c.reset(streamErr.StreamID, streamErr.Code)
		} else if err == nil {
			c.handle(f)
		}
		if err != nil {
			c.mu.Lock()
			c.err = err
			c.changed.Broadcast()
			c.mu.Unlock()
			return
		}
	}
}

func (c *HTTP2Client) handle(f http2.Frame) {
	switch f := f.(type) {
	case *http2.PingFrame:
		if !f.IsAck() {
			c.write(func() error { return c.framer.WritePing(true, f.Data) })
		}
		return
	case *http2.SettingsFrame:
		if f.IsAck() {
			return
		}
		defer c.write(c.framer.WriteSettingsAck)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.changed.Broadcast()
	s := c.streams[f.Header().StreamID]
	if s == nil {
		s = new(HTTP2Stream) // of no interest
	}
	switch f := f.(type) {
	case *http2.SettingsFrame:
		c.settings = make(map[http2.SettingID]uint32)
		f.ForeachSetting(func(s http2.Setting) error {
			c.settings[s.ID] = s.Val
			return nil
		})
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			c.window += int(f.Increment)
		} else {
			s.window += int(f.Increment)
		}
	case *http2.GoAwayFrame:
		c.goAway = true
	case *http2.RSTStreamFrame:
		s.endLocked(f.ErrCode)
	case *http2.MetaHeadersFrame:
		if s.response == nil {
			s.response = f
		}
		s.hasEnded = s.hasEnded || f.StreamEnded()
	case *http2.DataFrame:
		s.received = append(s.received, f.Data()...)
		s.hasEnded = s.hasEnded || f.StreamEnded()
	}
}

// reset records that a frame of the server was malformed.
func (c *HTTP2Client) reset(id uint32, code http2.ErrCode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[id]; s != nil {
		s.endLocked(code)
	}
	c.changed.Broadcast()
}

func (c *HTTP2Client) write(frame func() error) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	return frame()
}

// Field is a field of a request, or one of its pseudo-header fields.
type Field = hpack.HeaderField

// ConnectFields returns the fields of an extended CONNECT for a WebSocket, and more.
func ConnectFields(path string, more ...Field) []Field {
	return append([]Field{
		{Name: ":method", Value: "CONNECT"}, {Name: ":protocol", Value: "websocket"},
		{Name: ":scheme", Value: "https"}, {Name: ":path", Value: path}, {Name: ":authority", Value: "chat.example"},
		{Name: "sec-websocket-version", Value: "13"},
	}, more...)
}

// Send sends a request with the fields, in their order. The request's stream stays open.
func (c *HTTP2Client) Send(t testing.TB, fields []Field) *HTTP2Stream {
	t.Helper()
	s := &HTTP2Stream{c: c, window: 65535}
	err := c.write(func() error {
		s.id = c.nextID
		c.nextID += 2
		c.mu.Lock()
		c.streams[s.id] = s
		if size, ok := c.settings[http2.SettingInitialWindowSize]; ok {
			s.window = int(size)
		}
		c.mu.Unlock()
		c.block.Reset()
		for _, f := range fields {
			c.encoder.WriteField(f)
		}
		return c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: c.block.Bytes(), EndHeaders: true})
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Connect sends an extended CONNECT and returns its response. If that is 200, the peer is the
// stream as a connection, else nil.
func (c *HTTP2Client) Connect(t testing.TB, fields []Field) (*wstest.Peer, *http.Response) {
	t.Helper()
	s := c.Send(t, fields)
	resp := s.Response(t)
	if resp.StatusCode != http.StatusOK {
		return nil, resp
	}
	return wstest.NewClient(t, s), resp
}

// Open opens a tunnel.
func (c *HTTP2Client) Open(t testing.TB, path string, more ...Field) (*wstest.Peer, *http.Response) {
	t.Helper()
	peer, resp := c.Connect(t, ConnectFields(path, more...))
	if peer == nil {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("got status %d; want 200; body %.200q", resp.StatusCode, body)
	}
	return peer, resp
}

// An HTTP2Stream is a stream as a connection: its end is END_STREAM, and Reset cancels it.
type HTTP2Stream struct {
	c  *HTTP2Client
	id uint32

	// Guarded by c.mu.
	window    int // for DATA
	response  *http2.MetaHeadersFrame
	received  []byte
	hasEnded  bool
	resetCode *http2.ErrCode
	isShut    bool // an END_STREAM or RST_STREAM was sent
	readBy    deadline
	writeBy   deadline
}

// endLocked records a RST_STREAM. One behind the END_STREAM only says that the server takes
// nothing more.
func (s *HTTP2Stream) endLocked(code http2.ErrCode) {
	s.isShut = true
	if !s.hasEnded {
		s.resetCode = &code
	}
}

// Response waits for the head of the response. Its body is the stream.
func (s *HTTP2Stream) Response(t testing.TB) *http.Response {
	t.Helper()
	s.SetReadDeadline(time.Now().Add(10 * time.Second))
	defer s.SetReadDeadline(time.Time{})
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	for s.response == nil {
		if err := s.errLocked(&s.readBy); err != nil {
			t.Fatalf("stream %d: got error %v; want a response", s.id, err)
		}
		s.c.changed.Wait()
	}
	status, _ := strconv.Atoi(s.response.PseudoValue("status"))
	resp := &http.Response{StatusCode: status, Proto: "HTTP/2.0", ProtoMajor: 2, Header: make(http.Header), Body: s}
	for _, f := range s.response.RegularFields() {
		resp.Header.Add(f.Name, f.Value)
	}
	return resp
}

// ResetCode waits for a RST_STREAM in place of an END_STREAM and returns its code.
func (s *HTTP2Stream) ResetCode(t testing.TB) http2.ErrCode {
	t.Helper()
	s.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, s); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("stream %d: got error %v; want a reset", s.id, err)
	}
	return *s.resetCode
}

// errLocked returns why the stream cannot be waited for, or nil.
func (s *HTTP2Stream) errLocked(by *deadline) error {
	switch {
	case by.isPast:
		return os.ErrDeadlineExceeded
	case s.resetCode != nil:
		return fmt.Errorf("stream %d: %v: %w", s.id, *s.resetCode, syscall.ECONNRESET)
	case s.c.err != nil:
		return s.c.err
	}
	return nil
}

// Read implements [net.Conn]. It gives the server the window back.
func (s *HTTP2Stream) Read(p []byte) (int, error) {
	n, err := s.take(p)
	if n > 0 {
		s.c.write(func() error {
			s.c.framer.WriteWindowUpdate(0, uint32(n))
			return s.c.framer.WriteWindowUpdate(s.id, uint32(n))
		})
	}
	return n, err
}

func (s *HTTP2Stream) take(p []byte) (int, error) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	for len(s.received) == 0 {
		if err := s.errLocked(&s.readBy); err != nil {
			return 0, err
		}
		if s.hasEnded {
			return 0, io.EOF
		}
		s.c.changed.Wait()
	}
	n := copy(p, s.received)
	s.received = s.received[n:]
	return n, nil
}

// Write implements [net.Conn]. It waits for the windows.
func (s *HTTP2Stream) Write(p []byte) (written int, err error) {
	for len(p) > 0 {
		n, err := s.reserve(len(p))
		if err != nil {
			return written, err
		}
		if err := s.c.write(func() error { return s.c.framer.WriteData(s.id, false, p[:n]) }); err != nil {
			return written, err
		}
		written += n
		p = p[n:]
	}
	return written, nil
}

// reserve waits until bytes fit into the windows, and returns how many.
func (s *HTTP2Stream) reserve(most int) (int, error) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	for min(s.window, s.c.window) <= 0 || s.isShut {
		if err := s.errLocked(&s.writeBy); err != nil {
			return 0, err
		}
		if s.isShut {
			return 0, syscall.EPIPE
		}
		s.c.changed.Wait()
	}
	n := min(most, s.window, s.c.window, 16<<10)
	s.window -= n
	s.c.window -= n
	return n, nil
}

// CloseWrite sends END_STREAM.
func (s *HTTP2Stream) CloseWrite() error {
	if !s.shut() {
		return nil
	}
	return s.c.write(func() error { return s.c.framer.WriteData(s.id, true, nil) })
}

// Reset sends RST_STREAM.
func (s *HTTP2Stream) Reset() {
	s.shut()
	s.c.write(func() error { return s.c.framer.WriteRSTStream(s.id, http2.ErrCodeCancel) })
}

func (s *HTTP2Stream) shut() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	wasOpen := !s.isShut
	s.isShut = true
	return wasOpen
}

// Close sends END_STREAM. At the end of a test the connection may be closed already.
func (s *HTTP2Stream) Close() error {
	s.CloseWrite()
	return nil
}

// LocalAddr implements [net.Conn].
func (s *HTTP2Stream) LocalAddr() net.Addr { return s.c.conn.LocalAddr() }

// RemoteAddr implements [net.Conn].
func (s *HTTP2Stream) RemoteAddr() net.Addr { return s.c.conn.RemoteAddr() }

// SetDeadline implements [net.Conn].
func (s *HTTP2Stream) SetDeadline(t time.Time) error {
	s.SetReadDeadline(t)
	return s.SetWriteDeadline(t)
}

// SetReadDeadline implements [net.Conn].
func (s *HTTP2Stream) SetReadDeadline(t time.Time) error { return s.readBy.set(s.c, t) }

// SetWriteDeadline implements [net.Conn].
func (s *HTTP2Stream) SetWriteDeadline(t time.Time) error { return s.writeBy.set(s.c, t) }

// A deadline wakes those that wait for a stream.
type deadline struct {
	isPast bool
	timer  *time.Timer
}

func (d *deadline) set(c *HTTP2Client, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.isPast = false; t.IsZero() {
		return nil
	}
	var timer *time.Timer
	timer = time.AfterFunc(time.Until(t), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if d.timer == timer {
			d.isPast = true
			c.changed.Broadcast()
		}
	})
	d.timer = timer
	return nil
}
