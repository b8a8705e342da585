package stacks_test

import (
	"crypto/tls"
	"errors"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
)

var gorillaStack = goStack{
	name: "gorilla/websocket",
	dial: func(o order) (*peer, string, error) {
		d := websocket.Dialer{
			TLSClientConfig:   &tls.Config{RootCAs: authority.pool},
			EnableCompression: o.Compression != "",
			HandshakeTimeout:  patience,
		}
		c, resp, err := d.Dial(o.URL, nil)
		if err != nil {
			return nil, "", err
		}
		p := newGorillaPeer(c)
		p.conn = c.NetConn()
		return p, extensionsOf(resp.Header), nil
	},
	accept: func(w http.ResponseWriter, r *http.Request, compression string) (*peer, error) {
		u := websocket.Upgrader{
			CheckOrigin:       func(*http.Request) bool { return true },
			EnableCompression: compression != "",
		}
		c, err := u.Upgrade(w, r, nil)
		if err != nil {
			return nil, err
		}
		return newGorillaPeer(c), nil
	},
}

func newGorillaPeer(c *websocket.Conn) *peer {
	p := &peer{
		send: func(m *message, payload []byte) error { return sendGorilla(c, m, payload) },
		ping: func(payload string) error {
			return c.WriteControl(websocket.PingMessage, []byte(payload), time.Now().Add(patience))
		},
		close: func(code int, reason string) error {
			frame := websocket.FormatCloseMessage(code, reason) // empty for 1005
			return c.WriteControl(websocket.CloseMessage, frame, time.Now().Add(patience))
		},
		end: func() { c.Close() },
	}
	return newPeer(p, func(put func(event)) event {
		c.SetPongHandler(func(payload string) error {
			put(event{kind: "pong", payload: []byte(payload)})
			return nil
		})
		for {
			kind, payload, err := c.ReadMessage()
			if closed := (*websocket.CloseError)(nil); errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure {
				return event{code: closed.Code, reason: closed.Text}
			}
			if err != nil {
				return event{err: err}
			}
			put(event{kind: "message", payload: payload, isText: kind == websocket.TextMessage})
		}
	})
}

func sendGorilla(c *websocket.Conn, m *message, payload []byte) error {
	kind := websocket.BinaryMessage
	if m.Text != nil {
		kind = websocket.TextMessage
	}
	if m.Fragments <= 1 {
		return c.WriteMessage(kind, payload)
	}
	w, err := c.NextWriter(kind) // a frame each time its buffer is full
	if err != nil {
		return err
	}
	if _, err := w.Write(payload); err != nil {
		return err
	}
	return w.Close()
}
