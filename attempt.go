package wsproxy

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/wsproxy/wsproxy/internal/handshake"
	"github.com/wsproxy/wsproxy/internal/netconn"
	"github.com/wsproxy/wsproxy/internal/relay"
)

// An answer is what a backend has said to an upgrade. It holds the backend's
// connection and its reserved place until a tunnel takes them or it is closed.
type backendResponse struct {
	backend   *Backend
	conn      net.Conn
	reader    *responseReader // what was read after resp; nil after a 101
	resp      *http.Response
	agreement handshake.Agreement // if resp is a 101
	early     []byte              // frames that came right after a 101
}

// close gives up a backend that has answered.
func (u *upgrade) close(a *backendResponse) {
	defer u.p.release(a.backend) // even if Close panics
	a.conn.Close()
	a.reader.free()
}

// attempt asks b, whose place is reserved. It returns an answer; or an error, and
// then the place is given back: a [*BackendError] if another backend may do
// better.
func (u *upgrade) attempt(b *Backend, isLast bool) (*backendResponse, error) {
	var a *backendResponse
	isDone := false
	defer func() { // whatever panics or ends the goroutine
		switch {
		case isDone:
		case a != nil:
			u.close(a)
		default:
			u.p.release(b)
		}
	}()
	if b.isFailing() {
		b.probing.Add(1)
		defer b.probing.Add(-1)
	}
	q, err := u.newOutboundRequest(b)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := u.checkDeadline(start); err != nil {
		return nil, err
	}
	a, err = u.roundTrip(b, q, u.attemptDeadline(start, isLast), isLast)
	u.recordOutcome(b, a, err, start)
	hookErr := u.traceAttempted(b, a, start, err)
	switch {
	case err != nil:
		return nil, err
	case hookErr != nil:
		return nil, hookErr
	}
	isDone = true
	return a, nil
}

// minFairTimeout is how long a backend may take to answer before it is to blame for a
// client that leaves. A backend that swallows connections has the fewest tunnels:
// it must not be tried first by one impatient client after another.
const minFairTimeout = time.Second

// recordOutcome notes whether b, which was asked at start, has worked.
func (u *upgrade) recordOutcome(b *Backend, a *backendResponse, err error, start time.Time) {
	switch {
	case a != nil && !isRetryable(a.resp.StatusCode):
		b.recordSuccess()
	case u.isAbandoned(start):
		// The client has gone, or the proxy is going.
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		// There is no descriptor left on this side.
	case u.callerDeadline && isTimeout(err) && time.Since(start) < minFairTimeout:
		// It had less time than a backend may take, because of a middleware.
	case b.recordFailure(u.p.now(), a != nil || isReached(err)):
		if err == nil {
			err = statusFailure(a)
		}
		u.p.logAttrs(slog.LevelWarn, "backend failing", slog.String(logBackend, b.id), slog.Any("err", err))
	}
}

func isTimeout(err error) bool {
	failed, ok := err.(*BackendError)
	return ok && failed.Timeout()
}

// isReached reports whether err is about what a backend has done with the request.
func isReached(err error) bool {
	failed, ok := err.(*BackendError)
	return ok && failed.Op == "handshake" && !failed.Timeout()
}

// A question is what one backend is asked. It is complete before the dial: what
// the Rewrite hook has spoiled is no fault of the backend's.
type outboundRequest struct {
	target *target // loaded once: where the question goes, and what its path was checked for
	out    *http.Request
	key    string
	head   []byte // out with key, in the upgrade's head
}

// newOutboundRequest builds the question for b, the Rewrite hook last.
func (u *upgrade) newOutboundRequest(b *Backend) (*outboundRequest, error) {
	q := &outboundRequest{target: b.target.Load()}
	url, refusal := handshake.OutboundURL(u.r.URL, q.target.prefix)
	if refusal != nil {
		return nil, refused(refusal)
	}
	q.out = &http.Request{
		Method: http.MethodGet, URL: url, Host: u.r.Host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: handshake.OutboundHeader(u.r, u.trusted),
	}
	if u.p.rewrite != nil {
		r := &ProxyRequest{In: u.r, Out: q.out, Backend: b}
		if err := u.p.callRewrite(r); err != nil {
			return nil, err
		}
		if q.out = r.Out; q.out == nil || q.out.URL == nil {
			return nil, fmt.Errorf("wsproxy: request for backend %s: the Rewrite hook has left none, or none with a URL", b.id)
		}
	}
	var nonce [16]byte
	rand.Read(nonce[:]) // never fails
	q.key = handshake.Key(nonce)
	var err error
	if q.head, err = handshake.AppendRequest(u.head.empty(), q.out, q.key); err != nil {
		return nil, fmt.Errorf("wsproxy: request for backend %s: %w", b.id, err)
	}
	u.head.keep(q.head)
	return q, nil
}

// A headBuffer is memory for the head of a message while it is built and written,
// one message after the other. It comes from a pool. The zero value has none yet.
type headBuffer struct{ mem *[]byte }

var heads = sync.Pool{New: func() any {
	b := make([]byte, 0, typicalHead)
	return &b
}}

// empty returns the buffer to append to. It ends what was in it before.
func (b *headBuffer) empty() []byte {
	if b.mem == nil {
		b.mem = heads.Get().(*[]byte)
	}
	return (*b.mem)[:0]
}

// keep makes head, which began as empty, the buffer, if it has outgrown it.
func (b *headBuffer) keep(head []byte) { *b.mem = head }

// free gives the buffer back. A large one is not held for the next upgrade.
func (b *headBuffer) free() {
	if b.mem != nil && cap(*b.mem) <= 4*typicalHead {
		heads.Put(b.mem)
	}
	b.mem = nil
}

// checkDeadline tells why no backend is to be asked any more, or returns nil: a hook may
// have taken all the time, and then nobody else is to blame.
func (u *upgrade) checkDeadline(now time.Time) error {
	if !u.deadline.IsZero() && !now.Before(u.deadline) {
		return context.DeadlineExceeded
	}
	return u.canceled()
}

// attemptDeadline bounds one attempt: while another may follow, by half of what is
// left.
func (u *upgrade) attemptDeadline(now time.Time, isLast bool) time.Time {
	if u.deadline.IsZero() || isLast {
		return u.deadline
	}
	return now.Add(u.deadline.Sub(now) / 2)
}

// roundTrip dials b, asks q and reads what b answers, all by the deadline.
func (u *upgrade) roundTrip(b *Backend, q *outboundRequest, deadline time.Time, isLast bool) (*backendResponse, error) {
	conn, dialing, err := u.dial(q.target, deadline)
	if err == nil && conn == nil {
		err = errors.New("the dialer returned no connection")
	}
	if err != nil {
		return nil, &BackendError{ID: b.id, Op: "dial", Err: err}
	}
	a := &backendResponse{backend: b, conn: conn}
	isDone := false
	defer func() { // whatever panics
		if !isDone {
			conn.Close()
			a.reader.free()
		}
	}()
	netconn.LimitBuffers(conn, u.p.socketBuffer) // before much can come: what was offered cannot be taken back
	op := "handshake"
	if err = u.canceler.bind(conn, deadline); err == nil && dialing != nil {
		if err = dialing.Connect(); err != nil {
			op = "dial"
		}
	}
	if err == nil {
		err = u.exchange(a, q)
	}
	cause := u.canceler.unbind()
	switch {
	case cause != nil:
		err = cause
	case errors.Is(err, os.ErrDeadlineExceeded), err != nil && !deadline.IsZero() && !time.Now().Before(deadline):
		err = context.DeadlineExceeded // rather than a deadline of the connection's, or half a line
	case err == nil && !isLast && isRetryable(a.resp.StatusCode):
		err = statusFailure(a)
	}
	if err != nil {
		return nil, &BackendError{ID: b.id, Op: op, Err: err}
	}
	isDone = true
	return a, nil
}

// dial connects to t. If the event loop will probably get the tunnel, it makes the
// connection itself, and may still be connecting when dial returns: see
// [relay.Dialing].
func (u *upgrade) dial(t *target, deadline time.Time) (net.Conn, relay.Dialing, error) {
	if u.p.isDefaultDial && !t.isTLS && u.r.TLS == nil {
		if c, can, err := u.p.loops.Dial(t.network, t.addr); can {
			return c, c, err
		}
	}
	ctx, cancel := u.canceler.dialContext(u.r.Context(), deadline)
	defer cancel()
	c, err := u.p.dial(ctx, t.network, t.addr)
	return c, nil, err
}

// isRetryable reports whether an answer says that another backend may do better.
func isRetryable(status int) bool {
	switch status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// statusFailure makes an error of an answer that says so.
func statusFailure(a *backendResponse) error {
	return fmt.Errorf("answered %s", http.StatusText(a.resp.StatusCode))
}

// exchange asks q over a.conn, over TLS if q's target says so, and fills a in.
func (u *upgrade) exchange(a *backendResponse, q *outboundRequest) error {
	if q.target.isTLS {
		c := netconn.TLSClient(a.conn, u.p.tlsFor(q.target))
		if err := c.Handshake(); err != nil { // not HandshakeContext, which closes a connection that is ours
			return fmt.Errorf("TLS: %w", err)
		}
		a.conn = c
	}
	_, writeErr := a.conn.Write(q.head)
	var err error
	a.reader = newResponseReader(a.conn)
	a.resp, err = a.reader.read(q.out)
	if writeErr != nil && (err != nil || a.resp.StatusCode == http.StatusSwitchingProtocols) {
		return writeErr // unless the backend has refused what it has not read as a whole
	}
	if err != nil {
		return err
	}
	if a.resp.StatusCode != http.StatusSwitchingProtocols {
		return nil
	}
	if a.agreement, err = handshake.Verify(a.resp, q.key, q.out.Header, u.r.Header); err != nil {
		return err
	}
	a.early = a.reader.buffered()
	a.reader.free()
	a.reader = nil
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

// isAbandoned reports whether an attempt that began at start failed because nobody waits
// for it any more.
func (u *upgrade) isAbandoned(start time.Time) bool {
	cause := u.canceled()
	return cause != nil && (time.Since(start) < minFairTimeout || cause == ErrShutdown)
}

func (u *upgrade) traceAttempted(b *Backend, a *backendResponse, start time.Time, err error) error {
	if u.p.trace.Attempted == nil {
		return nil
	}
	info := AttemptInfo{Request: u.r, Backend: b, Attempt: len(u.tried), Duration: time.Since(start), Err: err}
	if a != nil {
		info.Status = a.resp.StatusCode
	}
	return callHook(u.p, "Trace.Attempted", u.p.trace.Attempted, info)
}

// forwardResponse gives the client what the backend answered instead of 101, and closes
// both connections after it: an attempt to upgrade leaves no connection that
// could be used again. Redirects are not followed.
func (u *upgrade) forwardResponse() error {
	a, w := u.response, u.w
	defer u.close(a)
	h, err := u.applyResponseHook(a, handshake.AnswerHeader(a.resp.Header))
	if err != nil {
		return err
	}
	header := w.Header()
	for name, values := range h {
		header[name] = append(header[name], values...)
	}
	if a.resp.StatusCode == http.StatusUpgradeRequired {
		header.Set("Upgrade", "websocket") // what there is to upgrade to here, whatever the backend offers
	}
	closeAfter(u.r, header)
	if a.resp.ContentLength > 0 {
		header.Set("Content-Length", fmt.Sprint(a.resp.ContentLength))
	}
	until := time.Now().Add(responseTimeout)
	a.conn.SetDeadline(until)
	if http.NewResponseController(w).SetWriteDeadline(until) != nil {
		return u.forwardHijacked(header, until) // a wrapper hides it: on the connection itself, then
	}
	u.recordForwarded()
	w.WriteHeader(a.resp.StatusCode)
	if _, err := io.Copy(w, a.resp.Body); err != nil {
		// The client must not take a part for the whole.
		panic(http.ErrAbortHandler)
	}
	return nil
}

// recordForwarded counts and logs an upgrade whose client gets the backend's own answer.
func (u *upgrade) recordForwarded() {
	u.p.registry.refused.Add(1)
	u.p.logAttrs(slog.LevelDebug, "upgrade refused by the backend", slog.String(logBackend, u.response.backend.id),
		slog.String(logClient, u.r.RemoteAddr), slog.String("host", u.r.Host), slog.String("path", u.r.URL.Path),
		slog.Int("status", u.response.resp.StatusCode))
}

// forwardHijacked is the rest of forwardResponse on the client's connection, for an answer
// that the client does not read must not be held for ever.
func (u *upgrade) forwardHijacked(header http.Header, until time.Time) error {
	conn, _, err := http.NewResponseController(u.w).Hijack()
	if err != nil {
		return fmt.Errorf("wsproxy: hijack the client's connection: %w", err)
	}
	u.isHijacked = true
	u.recordForwarded()
	client := netconn.New(conn, nil)
	defer client.Close()
	conn.SetDeadline(until)
	resp := &http.Response{
		StatusCode: u.response.resp.StatusCode, ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: u.response.resp.Body, ContentLength: u.response.resp.ContentLength, Close: true,
	}
	if resp.ContentLength < 0 {
		resp.TransferEncoding = []string{"chunked"} // a part must not be taken for the whole
	}
	if resp.Write(conn) == nil {
		client.Drain(time.Now().Add(drainTimeout))
	}
	return nil
}

// A responseReader reads a backend's answer: its header under a limit of size, its
// body without.
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

// free gives r back; r may be nil.
func (r *responseReader) free() {
	if r != nil {
		r.limited.R = nil
		r.buf.Reset(nil)
		responseReaders.Put(r)
	}
}

// read returns the answer to out. Interim answers are dropped.
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

// buffered returns a copy of what has been read after the answer.
func (r *responseReader) buffered() []byte {
	b, _ := r.buf.Peek(r.buf.Buffered())
	return slices.Clone(b)
}
