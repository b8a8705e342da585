package stacks_test

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// rawStack shows what is on the wire: it reports of how many frames a message was. Between the
// fragments of its own messages it sends pings, and the other side must have answered them
// before its Close frame.
var rawStack = goStack{
	name: "raw frames",
	dial: func(o order) (*peer, string, error) {
		c, err := dialRaw(o.URL)
		if err != nil {
			return nil, "", err
		}
		extensions, r, err := upgradeRaw(c, o)
		if err != nil {
			c.Close()
			return nil, "", err
		}
		p := newRawPeer(c, r, &[4]byte{1, 2, 3, 4})
		p.conn = c
		return p, extensions, nil
	},
	accept: func(w http.ResponseWriter, r *http.Request, _ string) (*peer, error) {
		c, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return nil, err
		}
		if _, err := io.WriteString(c, wstest.UpgradeAnswer(r.Header.Get("Sec-WebSocket-Key"), nil)); err != nil {
			c.Close()
			return nil, err
		}
		return newRawPeer(c, buffered.Reader, nil), nil
	},
}

func dialRaw(rawURL string) (net.Conn, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "wss" {
		return tls.Dial("tcp", u.Host, &tls.Config{RootCAs: authority.pool})
	}
	return net.Dial("tcp", u.Host)
}

// upgradeRaw opens a WebSocket over c.
func upgradeRaw(c net.Conn, o order) (extensions string, r *bufio.Reader, err error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		return "", nil, err
	}
	header := http.Header{"Host": {u.Host}}
	if o.Compression != "" {
		header.Set("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits, permessage-deflate")
	}
	c.SetDeadline(time.Now().Add(patience))
	defer c.SetDeadline(time.Time{})
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	if _, err := io.WriteString(c, wstest.UpgradeRequest(u.RequestURI(), key, header)); err != nil {
		return "", nil, err
	}
	r = bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return "", nil, err
	}
	if got, want := resp.Header.Get("Sec-WebSocket-Accept"), wstest.Accept(key); resp.StatusCode != 101 || got != want {
		return "", nil, fmt.Errorf("got status %d, accept %q; want 101, %q", resp.StatusCode, got, want)
	}
	return extensionsOf(resp.Header), r, nil
}

// A rawConn is a connection that frames are written to.
type rawConn struct {
	net.Conn
	key *[4]byte // that masks them; nil: none

	mu         sync.Mutex // held while frames are written
	isClosing  bool       // guarded by mu: our Close frame has been written
	unanswered int        // guarded by mu: pings between fragments
}

const between = "between fragments" // the payload of a ping

func newRawPeer(c net.Conn, r *bufio.Reader, key *[4]byte) *peer {
	conn := &rawConn{Conn: c, key: key}
	p := &peer{
		send: func(m *message, payload []byte) error { return conn.write(framesOf(m, payload)...) },
		ping: func(payload string) error { return conn.write(wstest.Ping(payload)) },
		close: func(code int, reason string) error {
			if code == noCode {
				code = 0 // which means the same to wstest
			}
			return conn.write(wstest.Close(uint16(code), reason))
		},
		end: func() { c.Close() },
	}
	return newPeer(p, func(put func(event)) event { return conn.readEvents(r, put) })
}

func (c *rawConn) write(frames ...wstest.Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b []byte
	for _, f := range frames {
		switch {
		case f.Opcode == wstest.OpClose && c.isClosing:
			return nil // what has come is an answer
		case f.Opcode == wstest.OpClose:
			c.isClosing = true
		case f.Opcode == wstest.OpPing && string(f.Payload) == between:
			c.unanswered++
		}
		b = wstest.AppendFrame(b, f, c.key)
	}
	_, err := c.Write(b)
	return err
}

// framesOf returns the frames of a message, with a ping behind each that another one follows.
func framesOf(m *message, payload []byte) (frames []wstest.Frame) {
	opcode := byte(wstest.OpBinary)
	if m.Text != nil {
		opcode = wstest.OpText
	}
	parts := m.cut(payload)
	for i, part := range parts {
		isLast := i == len(parts)-1
		frames = append(frames, wstest.Frame{Fin: isLast, Opcode: opcode, Payload: part})
		if !isLast {
			frames = append(frames, wstest.Ping(between))
		}
		opcode = wstest.OpContinuation
	}
	return frames
}

func (c *rawConn) readEvents(r *bufio.Reader, put func(event)) (end event) {
	var m event
	for {
		f, err := wstest.ReadFrame(r)
		if err != nil {
			return event{err: err}
		}
		switch f.Opcode {
		case wstest.OpPing:
			c.write(wstest.Pong(string(f.Payload)))
		case wstest.OpPong:
			if !c.isBetween(f) {
				put(event{kind: "pong", payload: f.Payload})
			}
		case wstest.OpClose:
			c.write(f)
			return c.closed(f)
		default:
			if m.frames++; m.frames == 1 {
				m.isText = f.Opcode == wstest.OpText
			}
			m.payload = append(m.payload, f.Payload...)
			if f.Fin {
				m.kind = "message"
				put(m)
				m = event{}
			}
		}
	}
}

// isBetween reports whether a pong answers a ping between fragments.
func (c *rawConn) isBetween(pong wstest.Frame) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unanswered == 0 || string(pong.Payload) != between {
		return false
	}
	c.unanswered--
	return true
}

func (c *rawConn) closed(f wstest.Frame) event {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.unanswered > 0:
		return event{err: fmt.Errorf("%d pings between fragments were not answered", c.unanswered)}
	case len(f.Payload) < 2:
		return event{code: noCode}
	}
	return event{code: int(binary.BigEndian.Uint16(f.Payload)), reason: string(f.Payload[2:])}
}

func extensionsOf(h http.Header) string {
	return strings.Join(h.Values("Sec-WebSocket-Extensions"), ", ")
}
