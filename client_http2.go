package wsproxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"time"

	"github.com/wsproxy/wsproxy/internal/handshake"
)

// An http2Client is a client over HTTP/2 (RFC 8441). Its request was an extended CONNECT, and
// is a GET now: see [connectWriter]. There is no connection to hijack. The 200 that opens the
// WebSocket goes through WriteHeader, so that middleware sees it, and what follows goes beneath
// middleware, as after a hijack: a compressor must not get at it.
type http2Client struct {
	u       *upgrade
	w       http.ResponseWriter
	connect *connectWriter
	isTaken bool // the stream
}

// begin clears the deadlines that the server has set for the request. Over HTTP/2 they end the
// stream and its body also while a backend is asked.
func (c *http2Client) begin() {
	c.connect.SetReadDeadline(time.Time{})
	c.connect.SetWriteDeadline(time.Time{})
}

// check looks for the server's ResponseWriter behind the wrappers that middleware puts around
// it.
func (c *http2Client) check() error {
	w := unwrapAll(c.w)
	if isStream(w) {
		return nil
	}
	c.u.p.logNoStream(w, c.u.info.id)
	return fmt.Errorf("wsproxy: %T has no Unwrap, and no Flush or no SetWriteDeadline: %w", w, http.ErrNotSupported)
}

// unwrapAll returns the ResponseWriter behind the last Unwrap.
func unwrapAll(w http.ResponseWriter) http.ResponseWriter {
	for {
		t, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = t.Unwrap()
	}
}

// isStream reports whether w has what a stream needs: each part goes to the client at once, and
// a write that waits for the client can be ended.
func isStream(w http.ResponseWriter) bool {
	switch w.(type) {
	case http.Flusher, interface{ FlushError() error }:
		_, ok := w.(interface {
			SetReadDeadline(time.Time) error
			SetWriteDeadline(time.Time) error
		})
		return ok
	}
	return false
}

func (c *http2Client) header() http.Header { return c.w.Header() }

// opening returns no bytes: the first write to the stream sends the 200.
func (c *http2Client) opening(_ *headBuffer, h http.Header, a handshake.Agreement) ([]byte, error) {
	h, err := handshake.ConnectHeader(h, a)
	if err != nil {
		return nil, err
	}
	return nil, c.announce(h)
}

// announce calls WriteHeader with 200 and the header h.
func (c *http2Client) announce(h http.Header) error {
	own := c.w.Header()
	clear(own)
	maps.Copy(own, h)
	c.connect.state.Store(connectAnnounced)
	c.w.WriteHeader(http.StatusOK)
	if c.connect.state.Load() != connectAnnounced {
		return errors.New("a middleware has answered WriteHeader(200) with another status")
	}
	return nil
}

// hijack takes the stream. The server reads nothing ahead that a read of it does not return.
func (c *http2Client) hijack() (net.Conn, *bufio.Reader, error) {
	c.isTaken = true
	return c.connect.take(unwrapAll(c.w), c.u.r), nil, nil
}

// forward sends the backend's response as that to any other request: neither the client's
// connection nor its stream is to be closed in another way. A 2xx becomes 502, because it would
// open a WebSocket.
func (c *http2Client) forward(a *attempt) error {
	header := c.w.Header()
	a.addTo(header)
	header.Del("Upgrade")
	if a.resp.StatusCode < 300 {
		a.reportRefused()
		deleteContentFields(header)
		c.connect.SetWriteDeadline(time.Now().Add(responseTimeout))
		http.Error(c.w, "the backend did not open a WebSocket", http.StatusBadGateway)
		return nil
	}
	copyResponse(c.w, a)
	return nil
}

func (c *http2Client) refuse(i *RefusedInfo) {
	if c.isTaken {
		return
	}
	if c.u.p.refusal.ByClose && c.refuseByClose(i) {
		return
	}
	c.connect.SetWriteDeadline(time.Now().Add(responseTimeout))
	switch c.connect.state.Load() {
	case connectRefused, connectUnserved:
		return // the client has a middleware's response
	case connectAnnounced:
		panic(http.ErrAbortHandler) // middleware has the 200 that the client must not get
	}
	c.connect.unserved = i.Status // an error handler may write a 2xx
	c.u.p.respondRefused(c.w, i)
}

// refuseByClose accepts the client's WebSocket and closes it: see [Refusal.ByClose].
func (c *http2Client) refuseByClose(i *RefusedInfo) (isDone bool) {
	code, ok := i.closeCode()
	if !ok || !isStream(unwrapAll(c.w)) || c.connect.state.Load() != connectWaiting || !c.u.p.beginLinger() {
		return false
	}
	defer c.u.p.endLinger()
	h, err := handshake.ConnectHeader(http.Header{requestIDHeader: {i.RequestID}},
		handshake.Agreement{Subprotocol: handshake.FirstSubprotocol(c.u.r.Header)})
	if err != nil {
		return false
	}
	if c.announce(h) != nil {
		return false // the client has a middleware's response
	}
	stream, _, _ := c.hijack()
	defer stream.Close() // the handler's return ends it
	stream.SetDeadline(time.Now().Add(lingerTimeout))
	// A client whose window is 0 takes no Close frame.
	stop := context.AfterFunc(c.u.p.lingering, func() { stream.SetWriteDeadline(time.Now().Add(closeFrameTimeout)) })
	stream.Write(nil) // the 200, without the Content-Type that the server finds for other bytes
	_, err = stream.Write(i.appendClose(nil, code))
	stop()
	if err != nil {
		return true
	}
	c.u.p.registry.removeUpgrade(c.u) // Shutdown does not wait for the client
	stop = context.AfterFunc(c.u.p.lingering, func() { stream.SetReadDeadline(longAgo) })
	defer stop()
	readToClose(stream) // the client waits for the end of the stream
	return true
}
