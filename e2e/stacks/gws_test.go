package stacks_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net/http"
	"sync/atomic"

	"github.com/lxzan/gws"
)

const gwsMaxPayload = 32 << 20

// gwsCompression has windows of 32 KiB: a smaller one is named in the answer even if it was not
// offered, and coder/websocket and websockets refuse that.
func gwsCompression(compression string) gws.PermessageDeflate {
	return gws.PermessageDeflate{
		Enabled:               compression != "",
		ServerContextTakeover: compression == "takeover",
		ClientContextTakeover: compression == "takeover",
		ServerMaxWindowBits:   15,
		ClientMaxWindowBits:   15,
	}
}

var gwsStack = goStack{
	name: "lxzan/gws",
	dial: func(o order) (*peer, string, error) {
		h := new(gwsHandler)
		c, resp, err := gws.NewClient(h, &gws.ClientOption{
			Addr:                o.URL,
			TlsConfig:           &tls.Config{RootCAs: authority.pool},
			PermessageDeflate:   gwsCompression(o.Compression),
			ReadMaxPayloadSize:  gwsMaxPayload,
			WriteMaxPayloadSize: gwsMaxPayload,
			CheckUtf8Enabled:    true,
		})
		if err != nil {
			return nil, "", err
		}
		return newGWSPeer(c, h), extensionsOf(resp.Header), nil
	},
	accept: func(w http.ResponseWriter, r *http.Request, compression string) (*peer, error) {
		h := new(gwsHandler)
		c, err := gws.NewUpgrader(h, &gws.ServerOption{
			PermessageDeflate:   gwsCompression(compression),
			ReadMaxPayloadSize:  gwsMaxPayload,
			WriteMaxPayloadSize: gwsMaxPayload,
			CheckUtf8Enabled:    true,
		}).Upgrade(w, r)
		if err != nil {
			return nil, err
		}
		return newGWSPeer(c, h), nil
	},
}

// A gwsHandler passes on what a connection receives.
type gwsHandler struct {
	gws.BuiltinEventHandler
	put       func(event) // set before the reading begins
	end       event
	isClosing atomic.Bool // by WriteClose
}

func (h *gwsHandler) OnMessage(_ *gws.Conn, m *gws.Message) {
	defer m.Close()
	h.put(event{kind: "message", payload: bytes.Clone(m.Bytes()), isText: m.Opcode == gws.OpcodeText})
}

func (h *gwsHandler) OnPing(c *gws.Conn, payload []byte) { c.WritePong(payload) }

func (h *gwsHandler) OnPong(_ *gws.Conn, payload []byte) {
	h.put(event{kind: "pong", payload: bytes.Clone(payload)})
}

func (h *gwsHandler) OnClose(_ *gws.Conn, err error) {
	h.end = event{err: err}
	if closed := (*gws.CloseError)(nil); errors.As(err, &closed) {
		h.end = event{code: int(closed.Code), reason: string(closed.Reason)}
		if closed.Code == 0 {
			h.end.code = noCode
		}
	} else if h.isClosing.Load() {
		h.end = event{}
	}
}

func newGWSPeer(c *gws.Conn, h *gwsHandler) *peer {
	p := &peer{
		send: func(m *message, payload []byte) error {
			opcode := gws.OpcodeBinary
			if m.Text != nil {
				opcode = gws.OpcodeText
			}
			if m.Fragments <= 1 {
				return c.WriteMessage(opcode, payload)
			}
			return c.WriteFile(opcode, bytes.NewReader(payload)) // in frames of 128 KiB
		},
		ping: func(payload string) error { return c.WritePing([]byte(payload)) },
		end:  func() { c.NetConn().Close() },
	}
	p.close = func(code int, reason string) error {
		h.isClosing.Store(true)
		return c.WriteClose(uint16(code), []byte(reason)) // closes the connection at once
	}
	return newPeer(p, func(put func(event)) event {
		h.put = put
		c.ReadLoop()
		return h.end
	})
}
