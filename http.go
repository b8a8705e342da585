package wsproxy

import (
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"github.com/wsproxy/wsproxy/internal/handshake"
)

// This file proxies requests that are no upgrade: see [WithHTTP]. The retry rule is another one
// than that of upgrades, because a response may take long and a request may have a body:
//
//   - Another backend is tried only where the connection has failed, so that nothing was sent,
//     and only for GET, HEAD and OPTIONS without a body. The bounds are those of pick.go.
//   - The transport itself sends such a request again to the same backend, if a connection that
//     it has used before turns out to be closed; also one of another method without a body, if its
//     client has marked it as idempotent by an Idempotency-Key.
//   - Any response is the client's, whatever its status.

// A plainRequest is a request that is no upgrade, on its way to a backend and until the client
// has the response. The server's goroutine works on it, which is also that of RoundTrip. The
// functions that the transport calls on other goroutines are those of interimSender and
// requestBody.
type plainRequest struct {
	inbound
	w http.ResponseWriter

	deadline time.Time // of all connects together; zero: none

	hasPlace  bool           // among the requests of Limits.PerClient
	backend   *Backend       // it counts the request; nil: none does
	transport *httpTransport // of backend; nil before the first attempt

	failed []*BackendError // all attempts

	isBroken bool // the backend's response has ended too early
}

// servePlain serves r, which is no upgrade.
func (p *Proxy) servePlain(w http.ResponseWriter, r *http.Request) {
	q := &plainRequest{inbound: inbound{p: p, r: r, isPlain: true}, w: w}
	q.identify()
	p.registry.counters.requests.Add(1)
	defer p.registry.counters.requests.Add(-1)
	defer q.release()
	q.checkForwarded()
	if err := q.check(); err != nil {
		q.refuse(err)
		return
	}
	reverse := httputil.ReverseProxy{
		Rewrite:       func(*httputil.ProxyRequest) {}, // RoundTrip makes the request for the backend
		Transport:     q,
		FlushInterval: -1,
		ErrorLog:      discardLog,
		BufferPool:    copyBuffers,
		ErrorHandler:  func(_ http.ResponseWriter, _ *http.Request, err error) { q.refuse(err) },
	}
	reverse.ServeHTTP(w, q.withoutHeader())
	if q.isBroken {
		panic(http.ErrAbortHandler) // the client must not take a part for the whole
	}
}

// discardLog drops what the ReverseProxy would log: log.go logs it.
var discardLog = log.New(io.Discard, "", 0)

// withoutHeader returns the request for the ReverseProxy, which must not change the header and the
// URL: newRequest makes them.
func (q *plainRequest) withoutHeader() *http.Request {
	r := &http.Request{Method: q.r.Method, URL: new(url.URL), Body: q.r.Body, ContentLength: q.r.ContentLength}
	return r.WithContext(q.r.Context())
}

// check returns an error if the request cannot be proxied, or the proxy's policy or a limit
// refuses it.
func (q *plainRequest) check() error {
	q.stage = ReasonShutdown
	if q.p.registry.hasStopped() {
		return ErrShutdown
	}
	q.stage = ReasonCheck
	if refusal := handshake.CheckPlain(q.r); refusal != nil {
		return refusalError(refusal)
	}
	if q.r.Method != http.MethodOptions { // a CORS preflight is for the backend, and comes without credentials
		if err := q.checkOrigin(); err != nil {
			return err
		}
	}
	return q.admit()
}

// admit returns an error if the limits or the Admit hook do not let the request in.
func (q *plainRequest) admit() error {
	if err := q.setClientKey(); err != nil {
		return err
	}
	if q.p.admission.boundsRates() && !q.isBound() { // a bound one is of a session that was let in before
		if err := q.p.admission.allowRate(q.p.now(), q.clientKey); err != nil {
			return err
		}
	}
	if err := q.callAdmit(); err != nil {
		return err
	}
	if err := contextErr(q.r.Context()); err != nil {
		return err // while the Admit hook ran
	}
	if err := q.p.admission.reserveRequest(q.clientKey); err != nil {
		return err
	}
	q.hasPlace = true
	return nil
}

// release gives the places of the request back.
func (q *plainRequest) release() {
	if q.hasPlace {
		q.hasPlace = false
		q.p.admission.releaseRequest(q.clientKey)
	}
	q.releaseBackend()
}

// releaseBackend gives the place of the request at its backend back.
func (q *plainRequest) releaseBackend() {
	if q.backend == nil {
		return
	}
	q.backend.requests.Add(-1)
	if q.transport != nil {
		q.transport.finish(q.backend)
	}
	q.backend, q.transport = nil, nil
}

// refuse responds to the request, which gets no response of a backend because of err.
func (q *plainRequest) refuse(err error) {
	i := q.refused(err, reasonOf(err, q.stage, contextErr(q.r.Context()) != nil))
	q.release() // the client may come again before it has been refused
	q.p.reportRefused(i, nil)
	q.p.respondRefused(q.w, &i)
}

// RoundTrip returns the response of a backend. Of outreq it uses the body.
func (q *plainRequest) RoundTrip(outreq *http.Request) (*http.Response, error) {
	q.setDeadline(time.Now())
	mayRetry := q.mayRetry()
	if mayRetry {
		q.p.retries.addUpgrade(q.p.now())
	}
	for {
		a, err := q.pick()
		if err != nil && (len(q.failed) == 0 || !isNoneLeft(err)) {
			return nil, err
		}
		if err == nil {
			var resp *http.Response
			if resp, err = a.run(outreq.Body); err == nil {
				return resp, nil
			}
			failure, ok := err.(*BackendError)
			if !ok {
				return nil, err // a hook's, or the client's
			}
			if cause := contextErr(q.r.Context()); cause != nil {
				return nil, cause
			}
			q.failed = append(q.failed, failure)
			if mayRetry && !failure.isConnected && q.isLeft() && q.p.retries.allow(q.p.now()) {
				continue
			}
		}
		q.stage = ReasonUnreachable
		return nil, &attemptErrors{q.failed}
	}
}

// setDeadline sets the deadline for all connects that begin at now or later.
func (q *plainRequest) setDeadline(now time.Time) {
	if q.p.handshakeTimeout > 0 {
		q.deadline = now.Add(q.p.handshakeTimeout)
	}
}

// mayRetry reports whether another backend may be tried, if nothing was sent.
func (q *plainRequest) mayRetry() bool {
	switch q.r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return q.r.ContentLength == 0
	}
	return false
}

// isLeft reports whether another backend may be tried after an attempt that has failed.
func (q *plainRequest) isLeft() bool { return len(q.tried) < maxAttempts && q.hasOther(false) }

// pick lets the balancer choose a backend, which counts the request until releaseBackend is called.
func (q *plainRequest) pick() (*plainAttempt, error) {
	for {
		b, c, err := q.choose(false)
		if err != nil {
			q.setNoCandidateStage(err)
			return nil, err
		}
		a := &plainAttempt{q: q}
		if b.removed.Load() || b.drains() && !c.isBound || !q.begin(&a.choice, b, &c, false) {
			continue // the set has changed in the meantime, or another request has begun to try it
		}
		b.requests.Add(1)
		q.backend = b
		return a, nil
	}
}
