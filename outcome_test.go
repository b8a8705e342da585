package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/health"
)

// dialFailed and handshakeFailed return the error of an attempt that failed before, and
// after, the connection was made.
func dialFailed(err error) error { return &BackendError{ID: "a", Op: "dial", Err: err} }
func handshakeFailed(err error) error {
	return &BackendError{ID: "a", Op: "handshake", Err: err, isConnected: true}
}

// ofSystem returns the error of package net for a system call that failed.
func ofSystem(call string, errno syscall.Errno) error {
	return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError(call, errno)}
}

func TestOutcomeOfAnAttemptOfAPlainRequest(t *testing.T) {
	for _, tt := range []struct {
		name string
		plainResult
		want health.Outcome
	}{
		{"connection refused", plainResult{err: dialFailed(ofSystem("connect", syscall.ECONNREFUSED))}, health.Unreached},
		{"not connected in time", plainResult{err: dialFailed(context.DeadlineExceeded)}, health.Unreached},
		{"TLS failed", plainResult{err: &BackendError{ID: "a", Op: "handshake", Err: errors.New("TLS: bad certificate")}}, health.Unreached},
		{"no descriptor", plainResult{err: dialFailed(ofSystem("socket", syscall.EMFILE))}, health.Neutral},
		{"closed instead of a response", plainResult{err: handshakeFailed(io.EOF)}, health.Unanswered},
		{"malformed", plainResult{err: handshakeFailed(errors.New("malformed HTTP response"))}, health.Unanswered},
		{"an idle connection turned out to be closed", plainResult{err: handshakeFailed(io.EOF), isStale: true}, health.Neutral},
		{"dialed again, and refused", plainResult{err: dialFailed(ofSystem("connect", syscall.ECONNREFUSED)), isStale: true}, health.Unreached},
		{"client left while connecting", plainResult{err: dialFailed(context.Canceled), isClients: true}, health.Neutral},
		{"client left", plainResult{err: handshakeFailed(context.Canceled), isClients: true}, health.Neutral},
		{"the dialer panicked", plainResult{err: &hookPanic{"WithDialer", "oh"}}, health.Neutral},
		{"200", plainResult{status: 200}, health.Answered},
		{"304", plainResult{status: 304}, health.Answered},
		{"499", plainResult{status: 499}, health.Answered},
		{"500", plainResult{status: 500}, health.Neutral},
		{"502", plainResult{status: 502}, health.Unanswered},
		{"503", plainResult{status: 503}, health.Neutral},
		{"504", plainResult{status: 504}, health.Unanswered},
	} {
		if got := tt.outcome(); got != tt.want {
			t.Errorf("%s: outcome %v; want %v", tt.name, got, tt.want)
		}
	}
}

func TestOutcomeOfAnAttempt(t *testing.T) {
	const justUnder, atOnce = minFairTimeout - 1, time.Millisecond
	timeout := context.DeadlineExceeded
	for _, tt := range []struct {
		name string
		result
		want health.Outcome
	}{
		{"connection refused", result{err: dialFailed(ofSystem("connect", syscall.ECONNREFUSED)), took: atOnce}, health.Unreached},
		{"name not found", result{err: dialFailed(&net.DNSError{Err: "no such host", Name: "a", IsNotFound: true}), took: atOnce}, health.Unreached},
		{"not connected in time", result{err: dialFailed(timeout), took: 5 * time.Second}, health.Unreached},
		{"not connected in a short time of the proxy's own", result{err: dialFailed(timeout), took: atOnce}, health.Unreached},
		{"TLS failed", result{err: &BackendError{ID: "a", Op: "handshake", Err: errors.New("TLS: bad certificate")}, took: atOnce}, health.Unreached},
		{"TLS not complete in time", result{err: &BackendError{ID: "a", Op: "handshake", Err: timeout}, took: 5 * time.Second}, health.Unreached},

		{"connected, but no response in time", result{err: handshakeFailed(timeout), took: 5 * time.Second}, health.Unanswered},
		{"no response in a short time of the proxy's own", result{err: handshakeFailed(timeout), took: atOnce}, health.Unanswered},
		{"malformed", result{err: handshakeFailed(errors.New("malformed HTTP response")), took: atOnce}, health.Unanswered},
		{"closed instead of a response", result{err: handshakeFailed(io.EOF), took: atOnce}, health.Unanswered},
		{"reset instead of a response", result{err: handshakeFailed(ofSystem("read", syscall.ECONNRESET)), took: atOnce}, health.Unanswered},
		{"dropped by the hook", result{err: handshakeFailed(fmt.Errorf("no: %w", ErrTryNext)), status: 101, took: atOnce}, health.Unanswered},
		{"a 404 dropped by the hook", result{err: handshakeFailed(ErrTryNext), status: 404, took: atOnce}, health.Unanswered},
		{"a 503 with Retry-After dropped by the hook", result{err: handshakeFailed(ErrTryNext), status: 503, header: http.Header{"Retry-After": {"5"}}}, health.Unanswered},

		{"client left before a second", result{err: handshakeFailed(context.Canceled), canceled: context.Canceled, took: justUnder}, health.Neutral},
		{"client left after a second", result{err: handshakeFailed(context.Canceled), canceled: context.Canceled, took: minFairTimeout}, health.Unanswered},
		{"client left before a second of the dial", result{err: dialFailed(context.Canceled), canceled: context.Canceled, took: justUnder}, health.Neutral},
		{"client left after a second of the dial", result{err: dialFailed(context.Canceled), canceled: context.Canceled, took: minFairTimeout}, health.Unreached},
		{"shut down after 5 s", result{err: handshakeFailed(ErrShutdown), canceled: ErrShutdown, took: 5 * time.Second}, health.Neutral},
		{"short deadline before a second", result{err: handshakeFailed(timeout), mayBeShort: true, took: justUnder}, health.Neutral},
		{"short deadline after a second", result{err: handshakeFailed(timeout), mayBeShort: true, took: minFairTimeout}, health.Unanswered},
		{"short deadline before a second of the dial", result{err: dialFailed(timeout), mayBeShort: true, took: justUnder}, health.Neutral},
		{"short deadline after a second of the dial", result{err: dialFailed(timeout), mayBeShort: true, took: minFairTimeout}, health.Unreached},
		{"closed under a short deadline", result{err: handshakeFailed(io.EOF), mayBeShort: true, took: atOnce}, health.Unanswered},
		{"refused under a short deadline", result{err: dialFailed(ofSystem("connect", syscall.ECONNREFUSED)), mayBeShort: true, took: atOnce}, health.Unreached},

		{"a hook's own error", result{err: errors.New("no")}, health.Neutral},
		{"a hook's own error about a 101", result{err: &responseError{errors.New("no")}, status: 101}, health.Opened},
	} {
		if got, _ := tt.outcome(time.Now()); got != tt.want {
			t.Errorf("%s: outcome is %v; want %v", tt.name, got, tt.want)
		}
	}
}

func TestLocalFaultBlamesNoBackend(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.EADDRNOTAVAIL, syscall.EPERM} {
		for _, call := range []string{"socket", "connect"} {
			r := result{err: dialFailed(ofSystem(call, errno)), took: time.Millisecond}
			if got, _ := r.outcome(time.Now()); got != health.Neutral {
				t.Errorf("%v: outcome is %v; want neutral", r.err, got)
			}
		}
	}
	for _, errno := range []syscall.Errno{syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EACCES, syscall.ENOENT} {
		r := result{err: dialFailed(ofSystem("connect", errno)), took: time.Millisecond}
		if got, _ := r.outcome(time.Now()); got != health.Unreached {
			t.Errorf("%v: outcome is %v; want unreached", r.err, got)
		}
	}
}

func TestOutcomeOfAResponse(t *testing.T) {
	now := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		status     int
		retryAfter string
		want       health.Outcome
		wantAfter  time.Duration
	}{
		{101, "", health.Opened, 0},
		{200, "", health.Answered, 0},
		{204, "", health.Answered, 0},
		{301, "", health.Answered, 0},
		{302, "120", health.Answered, 0},
		{400, "", health.Answered, 0},
		{401, "", health.Answered, 0},
		{404, "", health.Answered, 0},
		{426, "", health.Answered, 0},
		{429, "7", health.Answered, 0},
		{499, "", health.Answered, 0},
		{500, "", health.Responded, 0},
		{500, "7", health.Responded, 0},
		{501, "", health.Responded, 0},
		{505, "", health.Responded, 0},
		{599, "", health.Responded, 0},
		{502, "", health.Unanswered, 0},
		{502, "7", health.Unanswered, 0},
		{504, "", health.Unanswered, 0},
		{503, "", health.Unanswered, 0},
		{503, "7", health.Busy, 7 * time.Second},
		{503, "0", health.Busy, 0},
		{503, "3600", health.Busy, time.Hour}, // the health bounds it
		{503, "4294967295", health.Busy, 4294967295 * time.Second},
		{503, "Sat, 01 Aug 2026 12:00:09 GMT", health.Busy, 9 * time.Second},
		{503, "Saturday, 01-Aug-26 12:00:09 GMT", health.Busy, 9 * time.Second},
		{503, "Sat, 01 Aug 2026 11:00:00 GMT", health.Busy, 0}, // over already
		{503, "soon", health.Unanswered, 0},
		{503, "-1", health.Unanswered, 0},
		{503, "+1", health.Unanswered, 0},
		{503, "1.5", health.Unanswered, 0},
		{503, "7 s", health.Unanswered, 0},
		{503, "4294967296", health.Unanswered, 0},
		{503, "99999999999999999999", health.Unanswered, 0},
	} {
		h := http.Header{}
		if tt.retryAfter != "" {
			h.Set("Retry-After", tt.retryAfter)
		}
		// Whether the client gets the response, or another backend is tried, shows nothing.
		for _, err := range []error{nil, handshakeFailed(errors.New("answered so"))} {
			r := result{err: err, status: tt.status, header: h, took: time.Millisecond}
			got, after := r.outcome(now)
			if got != tt.want || after != tt.wantAfter {
				t.Errorf("%d, Retry-After %q, error %v: outcome is %v, %v; want %v, %v", tt.status, tt.retryAfter, err, got, after, tt.want, tt.wantAfter)
			}
		}
	}
}

func TestResponseCountsThoughTheClientHasLeft(t *testing.T) {
	for status, want := range map[int]health.Outcome{101: health.Opened, 404: health.Answered, 502: health.Unanswered, 500: health.Responded} {
		r := result{status: status, canceled: context.Canceled, took: time.Millisecond}
		if got, _ := r.outcome(time.Now()); got != want {
			t.Errorf("%d: outcome is %v; want %v", status, got, want)
		}
	}
}
