package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
)

// This file is about requests that get no tunnel: the reason, whom it is told, and what the
// client gets.

// A Reason is why a request got no tunnel.
type Reason uint8

const (
	ReasonCheck        Reason = iota + 1 // the request is no upgrade, breaks RFC 6455, or has a path that cannot be sent
	ReasonOrigin                         // its Origin matches none of [WithOriginPatterns]
	ReasonAdmit                          // the hook of [WithAdmit] returned an error, or panicked
	ReasonHook                           // the balancer or another hook did, or made a request or response that is invalid
	ReasonBackendLimit                   // every backend that was left to choose has its MaxTunnels
	ReasonNoBackend                      // the set is empty, or the balancer returned [ErrNoBackend]
	ReasonUnreachable                    // no backend gave a proper response
	ReasonAnswer                         // the backend refused the upgrade; the client got its response
	ReasonClientLeft                     // the client disconnected
	ReasonDeadline                       // a middleware's deadline passed, or [Timeouts.Handshake] while no backend was being tried
	ReasonShutdown                       // the proxy is shut down
	ReasonFault                          // the client's connection cannot be hijacked, or the proxy panicked
)

var reasonNames = [...]string{
	ReasonCheck: "check", ReasonOrigin: "origin", ReasonAdmit: "admit", ReasonHook: "hook",
	ReasonBackendLimit: "backend limit", ReasonNoBackend: "no backend", ReasonUnreachable: "unreachable",
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

// A RefusedInfo describes a request that got no tunnel.
type RefusedInfo struct {
	Request   *http.Request // the client's; must not be modified or kept
	RequestID string        // see [TunnelInfo.RequestID]
	Reason    Reason
	Backend   *Backend // the one that was tried last; nil if none was

	// Status is the status of the client's response: the backend's if Reason is
	// ReasonAnswer, else the one that fits Err. A handler of [WithErrorHandler] may send
	// another one. If the client has left it gets none.
	Status int

	Err   error // what the handler of [WithErrorHandler] gets; nil if Reason is ReasonAnswer
	Value any   // what the hook of [WithAdmit] returned
}

// recordRefused counts and logs a request that got no tunnel, and calls the hook. Resp is
// the backend's response that the client gets, or nil. If a hook wants the connection to be
// closed without a response, recordRefused panics.
func (p *Proxy) recordRefused(i RefusedInfo, resp *http.Response) {
	if resp != nil {
		i.Status = resp.StatusCode
	} else {
		i.Status = statusOf(i.Err)
	}
	if i.Err != nil && isFailure(i.Err) {
		p.registry.failed.Add(1)
	} else {
		p.registry.refused.Add(1)
	}
	p.logRefused(&i, resp)
	callHook(p, "Trace.Refused", i.RequestID, p.trace.Refused, i)
	if panicked, ok := errors.AsType[*hookPanic](i.Err); ok && panicked.value == http.ErrAbortHandler {
		panic(http.ErrAbortHandler) // what net/http understands, on its goroutine
	}
}

// reasonOf returns the reason of an upgrade that ended with err at stage, which is the
// reason that an ordinary error has there.
func reasonOf(err error, stage Reason) Reason {
	panicked, _ := errors.AsType[*hookPanic](err)
	switch {
	case panicked != nil && panicked.hook == panicOfProxy:
		return ReasonFault
	case panicked != nil:
		return stage
	case err == ErrShutdown:
		return ReasonShutdown
	case err == context.Canceled:
		return ReasonClientLeft
	case err == context.DeadlineExceeded:
		return ReasonDeadline
	case stage != ReasonHook:
		return stage
	}
	var failed *BackendError
	switch {
	case errors.As(err, &failed):
		return ReasonUnreachable
	case errors.Is(err, ErrNoBackend):
		return ReasonNoBackend
	case errors.Is(err, ErrLimit):
		return ReasonBackendLimit
	}
	return ReasonHook
}

// refuse answers r, which is no upgrade, or came after Shutdown.
func (p *Proxy) refuse(w http.ResponseWriter, r *http.Request, err error) {
	info := new(requestInfo)
	r = p.identify(r, info)
	p.recordRefused(RefusedInfo{Request: r, RequestID: info.id, Reason: reasonOf(err, ReasonCheck), Err: err}, nil)
	p.respondError(w, r, info.id, err)
}

// respondError sends the response for a request that has neither got a tunnel nor a
// backend's response.
func (p *Proxy) respondError(w http.ResponseWriter, r *http.Request, requestID string, err error) {
	h := w.Header()
	var status *StatusError
	if errors.As(err, &status) {
		for name, values := range status.Header {
			h[name] = slices.Clone(values)
		}
	}
	if errors.Is(err, ErrLimit) || errors.Is(err, ErrShutdown) {
		h.Set("Retry-After", retryAfterSeconds)
	}
	h.Set(requestIDHeader, requestID)
	closeAfter(r, h)
	p.errorHandler(w, r, err)
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

// writeError is the default error handler.
func writeError(w http.ResponseWriter, _ *http.Request, err error) {
	code := statusOf(err)
	text := http.StatusText(code)
	var status *StatusError
	if errors.As(err, &status) && status.Err != nil && code == status.Status {
		text = status.Err.Error()
	}
	http.Error(w, text, code)
}

// statusOf maps an error to the status that the client gets.
func statusOf(err error) int {
	if all, ok := err.(*attemptErrors); ok {
		err = all.last()
	}
	var status *StatusError
	var failed *BackendError
	var response *responseError
	switch {
	case errors.As(err, &status):
		if status.Status < 400 || status.Status > 599 {
			return http.StatusInternalServerError // a hook's mistake
		}
		return status.Status
	case errors.Is(err, ErrNoBackend), errors.Is(err, ErrLimit), errors.Is(err, ErrShutdown):
		return http.StatusServiceUnavailable
	case err == context.DeadlineExceeded, errors.As(err, &failed) && failed.Timeout():
		return http.StatusGatewayTimeout
	case err == context.Canceled, failed != nil, errors.As(err, &response):
		return http.StatusBadGateway
	}
	return http.StatusInternalServerError
}
