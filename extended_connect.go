package wsproxy

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/wsproxy/wsproxy/internal/h2stream"
	"github.com/wsproxy/wsproxy/internal/handshake"
)

// This file is about a WebSocket over HTTP/2 (RFC 8441) as handlers and middleware see it: an
// extended CONNECT becomes a GET, and only a Proxy can accept it. client_http2.go opens the
// tunnel.

// serveConnect calls next with the GET that takes the place of r, an extended CONNECT, and ends
// the client's stream when next has returned. If no Proxy has served it, the client gets 501.
//
// A status of 2xx is the acceptance of a WebSocket here, so that only a Proxy may send one: the
// client would read the page of another handler as frames.
func serveConnect(w http.ResponseWriter, r *http.Request, next http.Handler) {
	c := &connectWriter{innerWriter: innerWriter{w}, body: r.Body, unserved: http.StatusNotImplemented}
	hasReturned := false
	defer func() {
		wasReset := c.stream != nil && c.stream.Finish()
		if wasReset && hasReturned {
			panic(http.ErrAbortHandler)
		}
	}()
	next.ServeHTTP(c, c.asGet(r))
	hasReturned = true
	c.finishUnserved()
}

// classify is [handshake.Classify], and also knows the GET in place of an extended CONNECT.
func classify(r *http.Request) (isUpgrade bool, otherwise *handshake.Refusal) {
	if connectOf(r) != nil {
		return true, nil
	}
	return handshake.Classify(r)
}

// connectKey is the context key of the connectWriter of an extended CONNECT.
type connectKey struct{}

// connectOf returns the connectWriter of r if r is the GET in place of an extended CONNECT, or
// nil. No client can send such a request: what tells is the context. A request of another kind
// that a middleware makes with the same context is none.
func connectOf(r *http.Request) *connectWriter {
	if r.ProtoMajor != 2 || r.Method != http.MethodGet {
		return nil
	}
	c, _ := r.Context().Value(connectKey{}).(*connectWriter)
	return c
}

// A connectWriter is the ResponseWriter of an extended CONNECT: beneath middleware with [Front],
// else around what the Proxy was given.
type connectWriter struct {
	innerWriter                // immutable
	body        io.ReadCloser  // immutable: what the client sends
	state       atomic.Uint32  // a middleware's timer may call WriteHeader at any time
	unserved    int            // the status in place of a 2xx that is not a Proxy's
	stream      *h2stream.Conn // nil if there is none
}

// States of a connectWriter.
const (
	// No status was written.
	connectWaiting = iota

	// A handler or middleware has written a status that refuses the client. All calls are
	// passed on.
	connectRefused

	// The client has got a status in place of a 2xx. What follows is discarded.
	connectUnserved

	// A proxy calls WriteHeader(200), and has not taken the stream yet.
	connectAnnounced

	// A proxy has taken the stream. Middleware can write nothing.
	connectTaken
)

// asGet returns the GET that handlers see in place of r. It has no body: the client's bytes are
// frames, and come only after the 200.
func (c *connectWriter) asGet(r *http.Request) *http.Request {
	get := r.WithContext(context.WithValue(r.Context(), connectKey{}, c))
	get.Method = http.MethodGet
	get.Header = r.Header.Clone()
	delete(get.Header, handshake.ProtocolKey)
	delete(get.Header, "Content-Length")
	get.Body, get.ContentLength, get.TransferEncoding, get.Trailer = http.NoBody, 0, nil, nil
	return get
}

func (c *connectWriter) WriteHeader(status int) {
	isFinal := status >= 200
	switch c.state.Load() {
	case connectWaiting:
		switch {
		case status < 300 && isFinal, status == http.StatusSwitchingProtocols:
			c.refuseUnserved()
			return
		case isFinal:
			c.state.Store(connectRefused)
		}
	case connectAnnounced:
		if isFinal && status != http.StatusOK {
			c.state.Store(connectRefused)
		} else if isFinal {
			deleteContentFields(c.w.Header()) // those of a compressor, which is not used now
		}
	case connectUnserved, connectTaken:
		return
	}
	c.w.WriteHeader(status)
}

// refuseUnserved sends the status in place of a 2xx.
func (c *connectWriter) refuseUnserved() {
	c.state.Store(connectUnserved)
	deleteContentFields(c.w.Header())
	text := http.StatusText(c.unserved)
	if c.unserved == http.StatusNotImplemented {
		text = "WebSockets over HTTP/2 are not served here: the handler is no wsproxy.Proxy"
	}
	http.Error(c.w, text, c.unserved)
}

// finishUnserved sends the status if the handler has sent none.
func (c *connectWriter) finishUnserved() {
	if c.state.Load() == connectWaiting {
		c.refuseUnserved()
	}
}

// begin reports whether a body may be written now, and else what Write returns.
func (c *connectWriter) begin(n int) (mayWrite bool, written int, err error) {
	if c.state.Load() == connectWaiting {
		c.WriteHeader(http.StatusOK)
	}
	switch c.state.Load() {
	case connectUnserved:
		return false, n, nil // the handler's page: an error would make it complain
	case connectAnnounced:
		return false, 0, http.ErrBodyNotAllowed
	case connectTaken:
		return false, 0, http.ErrHijacked
	}
	return true, 0, nil
}

func (c *connectWriter) Write(p []byte) (int, error) {
	if ok, n, err := c.begin(len(p)); !ok {
		return n, err
	}
	return c.w.Write(p)
}

func (c *connectWriter) WriteString(s string) (int, error) {
	if ok, n, err := c.begin(len(s)); !ok {
		return n, err
	}
	return io.WriteString(c.w, s)
}

func (c *connectWriter) Flush() { c.FlushError() }

func (c *connectWriter) FlushError() error {
	if ok, _, err := c.begin(0); !ok {
		if err == http.ErrBodyNotAllowed {
			err = nil // the proxy flushes the 200
		}
		return err
	}
	return http.NewResponseController(c.w).Flush()
}

// take makes a connection of the stream, over w, which is c.w or beneath it. The next write to
// it sends the 200.
func (c *connectWriter) take(w http.ResponseWriter, r *http.Request) *h2stream.Conn {
	deleteContentFields(w.Header()) // where a middleware has held its WriteHeader back
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	c.stream = h2stream.New(c.body, w, local, peerAddr(r.RemoteAddr))
	c.state.Store(connectTaken)
	return c.stream
}

// A peerAddr is the RemoteAddr of a request as a [net.Addr].
type peerAddr string

func (a peerAddr) Network() string {
	if strings.Contains(string(a), ":") {
		return "tcp"
	}
	return "unix"
}

func (a peerAddr) String() string { return string(a) }
