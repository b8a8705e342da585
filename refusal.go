package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/wsproxy/wsproxy/internal/handshake"
)

// This file is about requests that get no tunnel: the reason, the hook and the log line for
// it, and what the client gets.

// A Reason is why a request got no tunnel, or, if it was no upgrade, no response of a backend.
type Reason uint8

const (
	ReasonCheck        Reason = iota + 1 // the request is no upgrade (see [WithHTTP]), breaks RFC 6455, or cannot be sent
	ReasonOrigin                         // its Origin matches none of [WithOriginPatterns]
	ReasonAdmit                          // the hook of [WithAdmit] returned an error, or panicked
	ReasonHook                           // the balancer or another hook did, or made a request or response that is invalid
	ReasonLimit                          // Limits.Tunnels or Admitting is reached
	ReasonBackendLimit                   // every backend that was left to choose has its MaxTunnels, with [Affinity.Refuse] the client's own one; or the balancer returned [ErrLimit]
	ReasonClientLimit                    // the client has its Limits.PerClient
	ReasonRate                           // Limits.Handshakes or HandshakesPerClient is exceeded
	ReasonQueueFull                      // no backend had a place or could be reached, and Limits.Queue upgrades waited already
	ReasonQueueTimeout                   // it waited for a backend until [Timeouts.Handshake] had passed
	ReasonNoBackend                      // the set is empty, or all in it drain, or the balancer returned [ErrNoBackend]
	ReasonUnreachable                    // no backend gave a proper response; with [Affinity.Refuse] the client's own one fails
	ReasonAnswer                         // the backend refused the upgrade; the client got its response
	ReasonClientLeft                     // the client disconnected
	ReasonDeadline                       // a middleware's deadline passed, or [Timeouts.Handshake] while no backend was being tried
	ReasonShutdown                       // the proxy is shut down
	ReasonFault                          // the client's connection cannot be hijacked, or the proxy panicked
)

var reasonNames = [...]string{
	ReasonCheck: "check", ReasonOrigin: "origin", ReasonAdmit: "admit", ReasonHook: "hook",
	ReasonLimit: "limit", ReasonBackendLimit: "backend limit", ReasonClientLimit: "client limit", ReasonRate: "rate",
	ReasonQueueFull: "queue full", ReasonQueueTimeout: "queue timeout",
	ReasonNoBackend: "no backend", ReasonUnreachable: "unreachable",
	ReasonAnswer: "answer", ReasonClientLeft: "client left", ReasonDeadline: "deadline",
	ReasonShutdown: "shutdown", ReasonFault: "fault",
}

// String returns one or two words.
func (r Reason) String() string {
	if int(r) < len(reasonNames) && reasonNames[r] != "" {
		return reasonNames[r]
	}
	return fmt.Sprintf("Reason(%d)", uint8(r))
}

// isFailure reports whether such a request counts as failed in [Stats], and not as refused.
func (r Reason) isFailure() bool {
	return r == ReasonNoBackend || r == ReasonUnreachable || r == ReasonQueueTimeout
}

// A Refusal says what a client gets that is refused. See [WithRefusal].
type Refusal struct {
	// RetryAfter is when a client should come again that gets 429 or 503 because of a limit,
	// the queue or a shutdown, or because no backend is left; for a rate it is the time that
	// the client has to wait, if that is longer, and an hour at most. The Retry-After of the
	// response is drawn from one to two times that, so that clients do not all come back at
	// once, and rounded up to whole seconds. Zero means 2 s, negative means no Retry-After.
	RetryAfter time.Duration

	// ByClose makes the proxy accept the WebSocket of a client that is refused, and close
	// it at once. A browser tells its page nothing of a status, but the code of a Close
	// frame, with the text of the [Reason]:
	//
	//	1008  origin, client limit, rate of one client, and a 4xx of admit or hook
	//	1011  a 500, 501 or 502 of admit or hook
	//	1012  shutdown
	//	1013  limit, backend limit, rate, queue full, queue timeout, no backend, unreachable,
	//	      deadline, and any other 5xx of admit or hook
	//
	// The code of a client whose backend has refused it is chosen by a hook of [WithResponse]
	// that returns a [*StatusError].
	//
	// The 101 has the first subprotocol that the client offers, X-Request-Id, no
	// extension, and nothing of middleware or of the hook of [WithResponse]. The error
	// handler is not called. A request that fails a check of RFC 6455 gets its status,
	// and so does one that the backend has refused, one whose connection cannot be hijacked,
	// and one that offers a subprotocol that is no token.
	//
	// The proxy waits for 2 s at most until the client closes the connection, or until
	// [Proxy.Shutdown] or [Proxy.Close] returns: neither waits for such a client. It waits
	// for a tenth of [Limits.Tunnels] clients at once at most, or 1,000 without that limit.
	// Any more get a status.
	ByClose bool
}

// A RefusedInfo describes a request that got no tunnel, or, if it was no upgrade, no response of a
// backend.
type RefusedInfo struct {
	Request   *http.Request // the client's; must not be modified or retained
	RequestID string        // see [TunnelInfo.RequestID]
	Reason    Reason
	Backend   *Backend // the one whose response the client gets, or else the one that was picked last; nil if none was

	// Status is the status of the client's response: the backend's if Reason is
	// ReasonAnswer, else the one that fits Err. A handler of [WithErrorHandler] may send
	// another one, and with [Refusal.ByClose] the client gets 101 instead. Over HTTP/2 it gets
	// 502 in place of a backend's 2xx, which would open a WebSocket. If it has left it gets
	// none.
	Status int

	Err   error // what the handler of [WithErrorHandler] gets; nil if Reason is ReasonAnswer
	Value any   // what the hook of [WithAdmit] returned; nil if it returned an error

	Times UpgradeTimes // of an upgrade; zero for another request

	isPlain bool // see WithHTTP
}

// reportRefused counts and logs a request that got no tunnel, and calls the hook. Resp is
// the backend's response that the client gets, or nil. If a hook wants the connection to be
// closed without a response, reportRefused panics.
func (p *Proxy) reportRefused(i RefusedInfo, resp *http.Response) {
	p.registry.counters.countRefused(&i)
	p.logRefused(&i, resp)
	callHooks(p, "Trace.Refused", i.RequestID, p.traceHooks().refused, i)
	if panicked, ok := errors.AsType[*hookPanic](i.Err); ok && panicked.value == http.ErrAbortHandler {
		panic(http.ErrAbortHandler) // what net/http understands, on its goroutine
	}
}

// reasonOf returns the reason of an upgrade that ended with err at stage, which is the
// reason that an ordinary error has there. IsCanceled reports whether the upgrade was canceled:
// otherwise an error of a context is a hook's own.
func reasonOf(err error, stage Reason, isCanceled bool) Reason {
	if exceeded, ok := err.(*limitError); ok {
		return exceeded.reason
	}
	panicked, _ := errors.AsType[*hookPanic](err)
	switch {
	case panicked != nil && panicked.hook == panicOfProxy:
		return ReasonFault
	case panicked != nil:
		return stage
	case err == ErrShutdown && isCanceled:
		return ReasonShutdown
	case err == context.Canceled && isCanceled:
		return ReasonClientLeft
	case err == context.DeadlineExceeded && isCanceled:
		return ReasonDeadline
	}
	return stage
}

// refuse responds to r, which is no upgrade, or came after Shutdown.
func (p *Proxy) refuse(w http.ResponseWriter, r *http.Request, err error, reason Reason) {
	u := newUpgrade(p, w, r)
	u.identify()
	i := u.refused(err, reason)
	p.reportRefused(i, nil)
	if reason == ReasonShutdown && handshake.Validate(u.r) == nil {
		u.client.refuse(&i)
	} else {
		p.respondRefused(w, &i)
	}
}

// respondRefused sends the response for a request that has got neither a tunnel nor a
// backend's response.
func (p *Proxy) respondRefused(w http.ResponseWriter, i *RefusedInfo) {
	h := w.Header()
	status, _ := errors.AsType[*StatusError](i.Err)
	if status != nil {
		for name, values := range status.Header {
			h[name] = slices.Clone(values)
		}
	}
	if i.isForAWhile() && h.Get("Retry-After") == "" {
		if after := p.refusal.retryAfter(i.Err); after > 0 {
			h.Set("Retry-After", strconv.Itoa(after))
		}
	}
	h.Set(requestIDHeader, i.RequestID)
	if !i.isPlain || i.Reason == ReasonShutdown {
		closeAfter(i.Request, h)
	}
	if p.errorHandler != nil {
		p.errorHandler(w, i.Request, i.Err)
		return
	}
	text := http.StatusText(i.Status)
	if status != nil && status.Err != nil && i.Status == status.Status {
		text = status.Err.Error()
	}
	http.Error(w, text, i.Status)
}

// isForAWhile reports whether the client is to come again.
func (i *RefusedInfo) isForAWhile() bool {
	switch i.Reason {
	case ReasonLimit, ReasonBackendLimit, ReasonClientLimit, ReasonRate, ReasonQueueFull, ReasonQueueTimeout,
		ReasonNoBackend, ReasonUnreachable, ReasonShutdown:
		return i.Status == http.StatusServiceUnavailable || i.Status == http.StatusTooManyRequests
	}
	return i.Reason == ReasonAdmit && errors.Is(i.Err, ErrLimit)
}

// retryAfter returns the value of Retry-After for a client that is refused with err, or 0.
func (f Refusal) retryAfter(err error) int {
	after := orDefault(f.RetryAfter, defaultRetryAfter)
	if exceeded, ok := errors.AsType[*limitError](err); ok && after > 0 {
		after = max(after, min(exceeded.wait, maxRetryAfter))
	}
	return int(math.Ceil(after.Seconds() * (1 + rand.Float64())))
}

// closeAfter makes the server close the client's connection after the answer: an
// attempt to upgrade leaves none that could be used again. HTTP/2 has no such
// field, nor connections of one request.
func closeAfter(r *http.Request, h http.Header) {
	if r.ProtoMajor != 1 {
		return
	}
	h.Set("Connection", "close") // net/http looks at the first value
	if h.Get("Upgrade") != "" {
		// "A sender of Upgrade MUST also send an 'Upgrade' connection option".
		// https://www.rfc-editor.org/rfc/rfc9110#section-7.8-15
		h.Add("Connection", "Upgrade")
	}
}

// statusOf returns the status for a client whose upgrade ended with err, because of reason.
func statusOf(err error, reason Reason) int {
	var status *StatusError
	var exceeded *limitError
	var response *responseError
	var attempts *attemptErrors
	switch {
	case errors.As(err, &status):
		if status.Status < 400 || status.Status > 599 {
			return http.StatusInternalServerError // a hook's mistake
		}
		return status.Status
	case errors.As(err, &exceeded):
		return exceeded.status()
	case reason == ReasonDeadline:
		return http.StatusGatewayTimeout
	case reason == ReasonClientLeft:
		return http.StatusBadGateway
	case errors.As(err, &attempts) && attempts.last().isBadResponse():
		return http.StatusBadGateway
	case reason == ReasonShutdown, reason == ReasonNoBackend, reason == ReasonUnreachable, reason == ReasonQueueTimeout, reason == ReasonBackendLimit,
		reason == ReasonAdmit && errors.Is(err, ErrLimit):
		return http.StatusServiceUnavailable
	case errors.As(err, &response):
		return http.StatusBadGateway
	}
	return http.StatusInternalServerError
}
