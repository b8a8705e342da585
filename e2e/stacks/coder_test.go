package stacks_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"sync/atomic"

	"github.com/coder/websocket"
)

var coderCompressions = map[string]websocket.CompressionMode{
	"":            websocket.CompressionDisabled,
	"takeover":    websocket.CompressionContextTakeover,
	"no takeover": websocket.CompressionNoContextTakeover,
}

// Its pings have payloads of its own choice: the numbers 1, 2, 3.
var coderStack = goStack{
	name: "coder/websocket",
	dial: func(o order) (*peer, string, error) {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authority.pool}}
		pongs := make(chan string, len(pings))
		c, resp, err := websocket.Dial(context.Background(), o.URL, &websocket.DialOptions{
			HTTPClient:      &http.Client{Transport: transport},
			CompressionMode: coderCompressions[o.Compression],
			OnPongReceived:  func(_ context.Context, payload []byte) { pongs <- string(payload) },
		})
		if err != nil {
			return nil, "", err
		}
		return newCoderPeer(c, pongs), extensionsOf(resp.Header), nil
	},
	accept: func(w http.ResponseWriter, r *http.Request, compression string) (*peer, error) {
		pongs := make(chan string, len(pings))
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{
			InsecureSkipVerify: true,
			CompressionMode:    coderCompressions[compression],
			OnPongReceived:     func(_ context.Context, payload []byte) { pongs <- string(payload) },
		})
		if err != nil {
			return nil, err
		}
		return newCoderPeer(c, pongs), nil
	},
}

// newCoderPeer returns a peer with c, whose pongs come from the channel.
func newCoderPeer(c *websocket.Conn, pongs <-chan string) *peer {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	c.SetReadLimit(-1)
	p := &peer{
		send: func(m *message, payload []byte) error { return sendCoder(ctx, c, m, payload) },
		end: func() {
			cancel()
			c.CloseNow()
		},
	}
	p.ping = func(string) error {
		if err := c.Ping(ctx); err != nil {
			return err
		}
		p.events <- event{kind: "pong", payload: []byte(<-pongs)}
		return nil
	}
	var isClosing atomic.Bool
	p.close = func(code int, reason string) error {
		isClosing.Store(true)
		err := c.Close(websocket.StatusCode(code), reason) // waits for the answer
		if errors.As(err, new(websocket.CloseError)) {
			return nil // it has another code
		}
		return err
	}
	return newPeer(p, func(put func(event)) event {
		for {
			kind, payload, err := c.Read(ctx)
			if closed := (websocket.CloseError{}); errors.As(err, &closed) {
				return event{code: int(closed.Code), reason: closed.Reason}
			}
			if isClosing.Load() {
				return event{}
			}
			if err != nil {
				return event{err: err}
			}
			put(event{kind: "message", payload: payload, isText: kind == websocket.MessageText})
		}
	})
}

func sendCoder(ctx context.Context, c *websocket.Conn, m *message, payload []byte) error {
	kind := websocket.MessageBinary
	if m.Text != nil {
		kind = websocket.MessageText
	}
	if m.Fragments <= 1 {
		return c.Write(ctx, kind, payload)
	}
	w, err := c.Writer(ctx, kind)
	if err != nil {
		return err
	}
	for _, part := range m.cut(payload) {
		if _, err := w.Write(part); err != nil { // a frame
			return err
		}
	}
	return w.Close()
}
