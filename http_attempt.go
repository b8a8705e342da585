package wsproxy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/internal/handshake"
	"github.com/wsproxy/wsproxy/internal/health"
)

// A plainAttempt is one backend that is tried for a plainRequest.
type plainAttempt struct {
	q *plainRequest
	choice

	connectBy   atomic.Pointer[time.Time] // nil: no deadline
	proxyHeader []byte                    // of its connection; nil: none
	isConnected bool
	isReused    bool        // the connection has carried another request before
	isAnswering atomic.Bool // the backend's response has begun
}

// run sends the request to the backend and returns its response. If it does not succeed, the
// backend counts the request no longer; the error is a [*BackendError] if the backend is at
// fault.
func (a *plainAttempt) run(body io.ReadCloser) (resp *http.Response, err error) {
	q := a.q
	isDone := false
	defer func() { // also if something panics or ends the goroutine
		a.endProbation()
		if !isDone {
			q.releaseBackend()
		}
	}()
	if err := q.tracePicked(&a.choice); err != nil {
		return nil, err
	}
	transport, target := a.backend.httpTransport()
	q.transport = transport
	out, sent, err := q.newRequest(a.backend, target, body)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if !a.setConnectBy(start) { // a hook may have used up the time
		q.stage = ReasonDeadline
		return nil, context.DeadlineExceeded
	}
	a.proxyHeader = q.transport.target.proxyHeader(q.r, &q.info)
	resp, err = a.send(out)
	took := time.Since(start)
	bodyErr := sent.err()
	if err == nil || contextErr(q.r.Context()) != nil {
		bodyErr = nil
	}
	a.recordOutcome(resp, err, bodyErr)
	status := 0
	if err == nil {
		status = resp.StatusCode
		if err = a.applyResponseHook(resp); err != nil {
			resp.Body.Close()
		}
	}
	failure, _ := err.(*BackendError)
	var reported error // a nil *BackendError would be an error
	if failure != nil {
		reported = failure
	}
	if hookErr := q.traceAttempted(a.backend, took, status, reported); err == nil && hookErr != nil {
		resp.Body.Close()
		err = hookErr
	}
	if err == nil {
		isDone = true
		q.p.registry.counters.responded.Add(1)
		q.countAffinity()
		q.allowEarly(sent)
		resp.Body = &responseBody{resp.Body, resp, q}
		return resp, nil
	}
	if bodyErr != nil {
		q.stage = ReasonClientLeft
		return nil, bodyError(bodyErr)
	}
	return nil, err
}

// setConnectBy sets the deadline for the attempt's connection at now. It returns false if no time is
// left.
func (a *plainAttempt) setConnectBy(now time.Time) bool {
	q := a.q
	if q.deadline.IsZero() {
		return true
	}
	left := q.deadline.Sub(now)
	if q.mayRetry() && q.isLeft() {
		left /= 2
	}
	by := now.Add(left)
	a.connectBy.Store(&by)
	return left > 0
}

// newRequest returns the request for target, which is b's, after the Rewrite hook, and its body.
func (q *plainRequest) newRequest(b *Backend, target *target, body io.ReadCloser) (*http.Request, *requestBody, error) {
	u, refusal := handshake.OutboundURL(q.r.URL, target.prefix)
	if refusal != nil {
		q.stage = ReasonCheck
		return nil, nil, refusalError(refusal)
	}
	out := q.emptyRequest()
	out.URL, out.Host, out.Header = u, q.r.Host, q.outboundHeader()
	rewritten, err := q.rewrite(out, b)
	if err != nil {
		return nil, nil, err
	}
	out = q.emptyRequest() // of the hook's request nothing else is used
	out.URL, out.Host, out.Header = rewritten.URL, rewritten.Host, rewritten.Header
	if err := handshake.FinishPlain(out, q.r); err != nil {
		return nil, nil, fmt.Errorf("wsproxy: request for backend %s: %w", b.id, err)
	}
	out.URL.Scheme, out.URL.Host = "http", target.transportHost()
	if body == nil {
		return out, nil, nil
	}
	sent := &requestBody{ReadCloser: body, r: q.r, trailer: handshake.PlainTrailer(q.r)}
	out.Body, out.ContentLength, out.Trailer = sent, q.r.ContentLength, sent.trailer
	if out.Trailer != nil {
		out.ContentLength = -1 // over HTTP/2 a request may have both, over HTTP/1.1 a trailer needs chunks
	}
	out.Close = out.Header["Expect"] != nil // otherwise the transport sends the body even after a 401
	return out, sent, nil
}

// emptyRequest returns a request for a backend without a URL, a Host and a header.
func (q *plainRequest) emptyRequest() *http.Request {
	return &http.Request{Method: q.r.Method, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
}

// allowEarly lets the client's response begin, though its request has perhaps not ended. Over
// HTTP/1.1 the server would otherwise read the rest of the request first, and the backend would
// not get it.
func (q *plainRequest) allowEarly(sent *requestBody) {
	if q.r.ProtoMajor != 1 || sent.hasEnded() {
		return
	}
	http.NewResponseController(q.w).EnableFullDuplex()
	// In this mode the server panics at the next request of a connection, if it has read the end
	// of this one itself (Go 1.26).
	q.w.Header().Set("Connection", "close")
}

// send sends out over a connection to the backend, and returns the response after a check. An
// error is a [*BackendError], or a dialer has panicked.
func (a *plainAttempt) send(out *http.Request) (*http.Response, error) {
	interim := &interimSender{w: unwrapAll(a.q.w), isOff: !a.q.r.ProtoAtLeast(1, 1)}
	defer interim.stop()
	ctx := context.WithValue(a.q.r.Context(), plainAttemptKey{}, a)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn:              a.connects,
		GotConn:              a.connected,
		GotFirstResponseByte: func() { a.isAnswering.Store(true) },
		Got1xxResponse:       interim.send,
	})
	resp, err := a.q.transport.RoundTrip(out.WithContext(ctx))
	if err != nil {
		return nil, a.failure(err)
	}
	if err := handshake.CheckPlainAnswer(resp); err != nil {
		resp.Body.Close()
		return nil, a.failure(err)
	}
	return resp, nil
}

// connects is called when the request needs a connection. If it had one before, that one was closed
// without a response, perhaps after a long poll: so the time begins anew.
func (a *plainAttempt) connects(string) {
	if a.isConnected {
		now := time.Now()
		a.q.setDeadline(now)
		a.setConnectBy(now)
	}
}

// connected is called when the request has its connection. From then on the backend may take
// as long as it wants: so no other request waits for the result of this one.
func (a *plainAttempt) connected(info httptrace.GotConnInfo) {
	a.isConnected, a.isReused = true, info.Reused
	a.endProbation()
	if !info.Reused && !a.hasMoved() && a.backend.health.flags().Has(health.Unreachable) {
		a.q.p.recordHealth(a.backend, health.Event{Outcome: health.Responded}, nil) // which only clears this flag
	}
}

// failure returns the error of an attempt that has ended with err.
func (a *plainAttempt) failure(err error) error {
	switch err.(type) {
	case *BackendError, *hookPanic:
		return err // of the dial
	}
	op := "dial"
	if a.isConnected {
		op = "request"
		err = a.q.transport.target.explain(handshake.RedactError(err)) // a backend may repeat the tokens of the request
	}
	return &BackendError{ID: a.backend.id, Op: op, Err: err, isConnected: a.isConnected}
}

// recordOutcome records the outcome of the attempt: resp, or err. BodyErr is why the client's
// body could not be read to its end, or nil. It ends the probation.
func (a *plainAttempt) recordOutcome(resp *http.Response, err, bodyErr error) {
	p := a.q.p
	r := plainResult{
		err:       err,
		isClients: bodyErr != nil || contextErr(a.q.r.Context()) != nil,
		isStale:   a.isReused && !a.isAnswering.Load(),
	}
	if resp != nil {
		r.status = resp.StatusCode
	}
	e := health.Event{Outcome: r.outcome()}
	a.backend.counters.countRequest(e.Outcome, r.status)
	if a.hasMoved() {
		return
	}
	var reason error
	if e.Outcome == health.Unreached || e.Outcome == health.Unanswered {
		e.Client = hashString(clientIP(a.q.r))
		if reason = err; err == nil {
			reason = statusFailure(resp)
		}
	}
	change := p.changeHealth(a.backend, e, reason)
	a.endProbation() // before the hook, which may block
	p.reportHealth(a.backend, change, reason)
}

// applyResponseHook sets the header of resp, which the client gets, and calls the Response hook
// with it.
func (a *plainAttempt) applyResponseHook(resp *http.Response) error {
	q := a.q
	q.stage = ReasonHook
	h := handshake.AnswerHeader(resp.Header)
	q.bindTo(&a.choice, resp.StatusCode, h)
	if q.p.response != nil {
		r := &ProxyResponse{Request: q.r, Backend: a.backend, RequestID: q.info.id, StatusCode: resp.StatusCode, Header: h}
		if err := responseHookError(q.p.callResponse(r)); err != nil {
			return err
		}
		h = r.Header
	}
	h, err := handshake.FinishPlainAnswer(resp.StatusCode, h, resp.Header)
	if err != nil {
		return &responseError{err}
	}
	resp.Header = h
	if resp.StatusCode == http.StatusUpgradeRequired && q.r.ProtoMajor == 1 {
		q.w.Header()["Upgrade"], q.w.Header()["Connection"] = []string{"websocket"}, []string{"Upgrade"}
	}
	return nil
}
