package stacks_test

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"

	"github.com/gobwas/httphead"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsflate"
	"github.com/gobwas/ws/wsutil"
)

var gobwasStack = goStack{
	name: "gobwas/ws",
	dial: func(o order) (*peer, string, error) {
		d := ws.Dialer{TLSConfig: &tls.Config{RootCAs: authority.pool}}
		if o.Compression != "" {
			d.Extensions = []httphead.Option{wsflate.DefaultParameters.Option()}
		}
		c, buffered, handshake, err := d.Dial(context.Background(), o.URL)
		if err != nil {
			return nil, "", err
		}
		var r io.Reader = c
		if buffered != nil {
			r = buffered
		}
		p := newGobwasPeer(c, r, ws.StateClientSide, len(handshake.Extensions) > 0)
		p.conn = c
		var extensions strings.Builder
		httphead.WriteOptions(&extensions, handshake.Extensions)
		return p, extensions.String(), nil
	},
	accept: func(w http.ResponseWriter, r *http.Request, compression string) (*peer, error) {
		e := wsflate.Extension{Parameters: wsflate.DefaultParameters}
		var u ws.HTTPUpgrader
		if compression != "" {
			u.Negotiate = e.Negotiate
		}
		c, buffered, _, err := u.Upgrade(r, w)
		if err != nil {
			return nil, err
		}
		_, isCompressed := e.Accepted()
		return newGobwasPeer(c, buffered, ws.StateServerSide, isCompressed), nil
	},
}

// A gobwasConn is a connection with a reader and writers of wsutil.
type gobwasConn struct {
	net.Conn
	state        ws.State
	isCompressed bool

	reader     *wsutil.Reader
	compressed wsflate.MessageState // of the message that is read
	inflater   *wsflate.Reader

	mu        sync.Mutex // held while a frame is written, or a message
	isClosing bool       // guarded by mu: our Close frame has been written
}

func newGobwasPeer(c net.Conn, r io.Reader, state ws.State, isCompressed bool) *peer {
	g := &gobwasConn{Conn: c, state: state, isCompressed: isCompressed}
	g.reader = &wsutil.Reader{Source: r, State: state, CheckUTF8: !isCompressed}
	if isCompressed {
		g.reader.State |= ws.StateExtended
		g.reader.Extensions = []wsutil.RecvExtension{&g.compressed}
		g.inflater = wsflate.NewReader(nil, func(r io.Reader) wsflate.Decompressor { return flate.NewReader(r) })
	}
	p := &peer{
		send:  g.send,
		ping:  func(payload string) error { return g.writeFrame(ws.NewPingFrame([]byte(payload))) },
		close: g.writeClose,
		end:   func() { c.Close() },
	}
	return newPeer(p, g.readEvents)
}

func (g *gobwasConn) send(m *message, payload []byte) error {
	op := ws.OpBinary
	if m.Text != nil {
		op = ws.OpText
	}
	if g.isCompressed {
		f, err := wsflate.CompressFrame(ws.NewFrame(op, true, payload))
		if err != nil {
			return err
		}
		return g.writeFrame(f)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if m.Fragments <= 1 {
		return wsutil.WriteMessage(g, g.state, op, payload)
	}
	w := wsutil.NewWriterSize(g, g.state, op, len(payload))
	for _, part := range m.cut(payload) {
		if _, err := w.Write(part); err != nil {
			return err
		}
		if err := w.FlushFragment(); err != nil {
			return err
		}
	}
	return w.Flush()
}

func (g *gobwasConn) writeFrame(f ws.Frame) error {
	if g.state.ClientSide() {
		f = ws.MaskFrame(f)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return ws.WriteFrame(g, f)
}

func (g *gobwasConn) writeClose(code int, reason string) error {
	var body []byte
	if code != noCode {
		body = ws.NewCloseFrameBody(ws.StatusCode(code), reason)
	}
	g.mu.Lock()
	g.isClosing = true
	g.mu.Unlock()
	return g.writeFrame(ws.NewCloseFrame(body))
}

func (g *gobwasConn) readEvents(put func(event)) (end event) {
	control := func(h ws.Header, r io.Reader) error { return g.readControl(h, r, put) }
	g.reader.OnIntermediate = control
	for {
		h, err := g.reader.NextFrame()
		if err == nil && h.OpCode.IsControl() {
			if err = control(h, g.reader); err == nil {
				continue
			}
		}
		var payload []byte
		if err == nil {
			payload, err = g.readPayload()
		}
		if closed := (wsutil.ClosedError{}); errors.As(err, &closed) {
			return event{code: int(closed.Code), reason: closed.Reason}
		}
		if err != nil {
			return event{err: err}
		}
		put(event{kind: "message", payload: payload, isText: h.OpCode == ws.OpText})
	}
}

func (g *gobwasConn) readPayload() ([]byte, error) {
	if !g.compressed.IsCompressed() {
		return io.ReadAll(g.reader)
	}
	g.inflater.Reset(g.reader)
	return io.ReadAll(g.inflater)
}

// readControl handles a control frame. The handler of wsutil answers a Close frame even if it is
// an answer.
func (g *gobwasConn) readControl(h ws.Header, r io.Reader, put func(event)) error {
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(r, payload); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case h.OpCode == ws.OpPong:
		put(event{kind: "pong", payload: payload})
		return nil
	case h.OpCode == ws.OpClose && g.isClosing && len(payload) == 0:
		return wsutil.ClosedError{Code: noCode}
	case h.OpCode == ws.OpClose && g.isClosing:
		code, reason := ws.ParseCloseFrameData(payload)
		return wsutil.ClosedError{Code: code, Reason: reason}
	}
	return wsutil.ControlFrameHandler(g, g.state)(h, bytes.NewReader(payload))
}
