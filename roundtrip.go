package wsproxy

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/wsproxy/wsproxy/internal/frame"
	"github.com/wsproxy/wsproxy/internal/handshake"
	"github.com/wsproxy/wsproxy/internal/netconn"
	"github.com/wsproxy/wsproxy/internal/relay"
)

// This file performs one opening handshake with one backend: dial, TLS, request, verified
// response. It knows no client, so that a health probe can use it as well as an upgrade.
// The rule by which an upgrade uses it is in pick.go.

// An outboundRequest is the opening handshake that one backend is sent. It is complete
// before the dial: a fault of the Rewrite hook is not the backend's.
type outboundRequest struct {
	target  *target       // where the request goes; the path was checked for this target
	out     *http.Request // what head was made of
	offer   http.Header   // a 101 may only agree to extensions and a subprotocol that are in offer and in out.Header
	key     string        // Sec-WebSocket-Key
	head    []byte        // out as it is on the wire
	forLoop bool          // the event loop will probably relay the connection

	requestID   string // for the log; empty for a probe
	proxyHeader []byte // of the PROXY protocol, before TLS and the head; nil: none
}

// encode makes the head of the request, with a new key, in buf.
func (r *outboundRequest) encode(buf *headBuffer) error {
	var nonce [16]byte
	rand.Read(nonce[:]) // never fails
	r.key = handshake.Key(nonce)
	var err error
	if r.head, err = handshake.AppendRequest(buf.reset(), r.out, r.key); err != nil {
		return fmt.Errorf("wsproxy: request for backend %s: %w", r.target.config.ID, err)
	}
	buf.store(r.head)
	return nil
}

// A backendResponse is a response of a backend, with its connection.
type backendResponse struct {
	conn      net.Conn
	connected time.Time       // when the connection was made, TLS included; zero if it was not
	reader    *responseReader // reads the body of resp; nil after a 101
	resp      *http.Response
	agreement handshake.Agreement // if resp is a 101
	early     []byte              // bytes that the backend sent right behind a 101
}

// close closes the connection.
func (r *backendResponse) close() {
	defer r.reader.free() // even if Close panics
	r.conn.Close()
}

// isSwitch reports whether the response is a verified 101: the backend has opened a
// WebSocket.
func (r *backendResponse) isSwitch() bool {
	return r.resp.StatusCode == http.StatusSwitchingProtocols
}

// writeGoingAway writes a Close frame with 1001 to a backend that has opened a WebSocket, and
// waits a moment until the backend closes the connection: with unread input, ours would be a
// reset, which drops the frame.
func (r *backendResponse) writeGoingAway() {
	var key [4]byte
	rand.Read(key[:]) // never fails
	r.conn.SetDeadline(time.Now().Add(goingAwayTimeout))
	_, err := r.conn.Write(frame.AppendControl(nil, frame.Close, frame.ClosePayload(frame.StatusGoingAway, ""), &key))
	if err == nil {
		io.Copy(io.Discard, r.conn)
	}
}

var errNoConn = errors.New("the dialer returned no connection")

// roundTrip dials the target of out, sends out and reads the response, all by
// deadline, which may be zero, and until c is canceled. A 101 is verified. Ctx is for
// the dialer. An error is a [*BackendError], or the dialer has panicked, and leaves no connection
// open: the response has only the time of the connection then.
func (p *Proxy) roundTrip(ctx context.Context, c *canceler, out *outboundRequest, deadline time.Time) (backendResponse, error) {
	var r backendResponse
	fail := func(op string, err error) (backendResponse, error) {
		err = &BackendError{ID: out.target.config.ID, Op: op, Err: err, isConnected: !r.connected.IsZero()}
		return backendResponse{connected: r.connected}, err
	}
	conn, dialing, err := p.dialTarget(ctx, c, out, deadline)
	if err == nil && conn == nil {
		err = errNoConn
	}
	if isHookPanic(err) {
		return backendResponse{}, err
	}
	if err != nil {
		return fail("dial", err)
	}
	r.conn = conn
	isDone := false
	defer func() { // also if something panics
		if !isDone {
			r.close()
		}
	}()
	// Before the peer can send much: a window that was offered cannot be taken back.
	netconn.LimitBuffers(conn, p.socketBuffer)
	op := "handshake"
	if err = c.bind(conn, deadline); err == nil && dialing != nil {
		if err = dialing.Connect(); err != nil {
			op = "dial"
		}
	}
	if err == nil {
		err = p.exchange(&r, out)
	}
	cause := c.unbind()
	switch {
	case cause != nil:
		err = cause
	case errors.Is(err, os.ErrDeadlineExceeded), err != nil && !deadline.IsZero() && !time.Now().Before(deadline):
		err = context.DeadlineExceeded // rather than the connection's error, or one about half a line
	}
	if err != nil {
		return fail(op, err)
	}
	isDone = true
	return r, nil
}

// dialTarget connects to the target of out. If the event loop will probably relay the
// connection, and the target has one address, the loop makes the connection, and it may
// still be connecting when dialTarget returns: see [relay.Dialing].
func (p *Proxy) dialTarget(ctx context.Context, c *canceler, out *outboundRequest, deadline time.Time) (net.Conn, relay.Dialing, error) {
	t := out.target
	loopDials := p.isDefaultDial && !t.isTLS && out.forLoop
	if loopDials {
		if conn, ok, err := p.engine.Dial(t.network, t.addr); ok {
			return conn, conn, err
		}
	}
	ctx, cancel := c.dialContext(ctx, deadline)
	defer cancel()
	if !p.isDefaultDial || !t.isName {
		conn, err := p.callDial(ctx, t.network, t.addr, out.requestID)
		return conn, nil, err
	}
	addrs, err := p.dialer.Resolve(ctx, t.host, t.port)
	if err != nil {
		return nil, nil, err
	}
	if loopDials && len(addrs) == 1 {
		if conn, ok, err := p.engine.Dial(t.network, addrs[0].String()); ok {
			return conn, conn, err
		}
	}
	conn, err := p.dialer.Dial(ctx, addrs)
	return conn, nil, err
}

// exchange sends out over r.conn, over TLS if out's target says so, and reads the
// response into r.
func (p *Proxy) exchange(r *backendResponse, out *outboundRequest) error {
	begin := out.head
	if out.target.isTLS {
		if err := p.startTLS(r, out); err != nil {
			return err
		}
	} else if out.proxyHeader != nil {
		begin = slices.Concat(out.proxyHeader, out.head) // one write, and one segment
	}
	r.connected = time.Now()
	_, writeErr := r.conn.Write(begin)
	var err error
	r.reader = newResponseReader(r.conn)
	r.resp, err = r.reader.read(out.out)
	if writeErr != nil && (err != nil || r.resp.StatusCode == http.StatusSwitchingProtocols) {
		return out.target.explain(writeErr) // unless the backend refused a request that it had not read to its end
	}
	if err != nil {
		return out.target.explain(err)
	}
	if r.resp.StatusCode != http.StatusSwitchingProtocols {
		return nil
	}
	if r.agreement, err = handshake.Verify(r.resp, out.key, out.out.Header, out.offer); err != nil {
		return err
	}
	r.early = r.reader.buffered()
	r.reader.free()
	r.reader = nil
	return nil
}

// startTLS makes r.conn a connection over TLS, behind the PROXY header.
func (p *Proxy) startTLS(r *backendResponse, out *outboundRequest) error {
	if out.proxyHeader != nil {
		if _, err := r.conn.Write(out.proxyHeader); err != nil {
			return fmt.Errorf("PROXY header: %w", err)
		}
	}
	c := netconn.TLSClient(r.conn, p.tlsFor(out.target))
	if err := c.Handshake(); err != nil { // not HandshakeContext, which closes the connection itself
		return fmt.Errorf("TLS: %w", out.target.explain(err))
	}
	r.conn = c
	return nil
}

// tlsFor returns the configuration for one connection to t.
func (p *Proxy) tlsFor(t *target) *tls.Config {
	c := p.tls.Clone()
	c.ServerName = t.config.ServerName
	if c.ServerName == "" {
		c.ServerName = t.host
	}
	return c
}

// A responseReader reads a backend's response: its head under a limit of size, its
// body without one.
type responseReader struct {
	limited io.LimitedReader
	buf     *bufio.Reader
}

var responseReaders = sync.Pool{New: func() any {
	return &responseReader{buf: bufio.NewReaderSize(nil, 4<<10)}
}}

func newResponseReader(conn net.Conn) *responseReader {
	r := responseReaders.Get().(*responseReader)
	r.limited = io.LimitedReader{R: conn, N: maxResponseHead}
	r.buf.Reset(&r.limited)
	return r
}

// free puts r back into the pool. A nil r is none.
func (r *responseReader) free() {
	if r != nil {
		r.limited.R = nil
		r.buf.Reset(nil)
		responseReaders.Put(r)
	}
}

// read returns the response to out. Interim responses are dropped.
func (r *responseReader) read(out *http.Request) (*http.Response, error) {
	resp, err := handshake.ReadAnswer(r.buf, out)
	if r.limited.N <= 0 {
		return nil, errors.New("answer's header is larger than 64 KiB")
	}
	if err != nil {
		return nil, err
	}
	if c := resp.StatusCode; c != http.StatusSwitchingProtocols && (c < 200 || c > 599) {
		return nil, fmt.Errorf("answered with status %d", c)
	}
	r.limited.N = math.MaxInt64
	return resp, nil
}

// buffered returns a copy of the bytes that were read after the head of the response.
func (r *responseReader) buffered() []byte {
	b, _ := r.buf.Peek(r.buf.Buffered())
	return slices.Clone(b)
}

// A headBuffer is memory for the head of a message while it is built and written, one
// message after the other. The memory comes from a pool. The zero value has none yet.
type headBuffer struct{ mem *[]byte }

var heads = sync.Pool{New: func() any {
	b := make([]byte, 0, typicalHead)
	return &b
}}

// reset discards the message in the buffer, and returns the memory to append the next
// one to.
func (b *headBuffer) reset() []byte {
	if b.mem == nil {
		b.mem = heads.Get().(*[]byte)
	}
	return (*b.mem)[:0]
}

// store makes head, which was appended to what reset returned, the buffer's memory:
// append may have moved it.
func (b *headBuffer) store(head []byte) { *b.mem = head }

// free puts the memory back into the pool, unless it has grown large.
func (b *headBuffer) free() {
	if b.mem != nil && cap(*b.mem) <= 4*typicalHead {
		heads.Put(b.mem)
	}
	b.mem = nil
}
