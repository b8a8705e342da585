package wsproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/wsproxy/wsproxy/internal/health"
)

// An attempt is one backend that is tried for an upgrade. It owns a place at the
// backend, then also the backend's connection, then also the client's, until it is
// closed or a tunnel owns all of them.
type attempt struct {
	u *upgrade
	choice

	isKept      bool // another one is tried, but the client gets the response of this one if none does better
	isOneOfMany bool // none of the backends can be reached, and the upgrade may wait for another one

	isTrial bool // the backend is refusing: see Backend.beginTrial

	switchedAt time.Duration // of a 101, since the proxy's start

	backendResponse             // after run
	header          http.Header // of the client's response; after run
	client          net.Conn    // after the client's connection was hijacked
}

// close closes the connections and gives the place back.
func (a *attempt) close() {
	defer a.u.p.releaseUpgrade(a.backend) // even if Close panics
	if a.client != nil {
		defer a.client.Close()
	}
	if a.conn != nil {
		a.backendResponse.close()
	}
}

// run performs the opening handshake with the backend. If it does not succeed, it
// closes a; the error is a [*BackendError] if another backend may do better.
func (a *attempt) run() error {
	isDone := false
	defer func() { // also if something panics or ends the goroutine
		if !isDone {
			a.close()
		}
	}()
	defer a.endTrialAndProbation()
	u := a.u
	if err := u.tracePicked(&a.choice); err != nil {
		return err
	}
	out, err := u.newOutboundRequest(a.backend)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := u.checkDeadline(start); err != nil {
		return err
	}
	deadline := u.attemptDeadline(start, a)
	a.backendResponse, err = u.p.roundTrip(u.r.Context(), &u.canceler, out, deadline)
	took := time.Since(start)
	u.times.addAttempt(start, a.connected, took)
	var hookErr error
	if err == nil {
		hookErr = a.decide()
		if dropped, ok := hookErr.(*BackendError); ok {
			err, hookErr = dropped, nil
		}
		a.recordResponse(err != nil, hookErr != nil)
	}
	change, reason := u.recordOutcome(a, err, took, deadline)
	status := a.status()
	if err != nil && !a.isKept { // before the hooks, which may block
		a.dropResponse()
		a.close()
		isDone = true
	}
	u.p.reportHealth(a.backend, change, reason)
	hookErr = cmp.Or(hookErr, u.traceAttempted(a.backend, took, status, err))
	isDone = isDone || a.isKept || hookErr == nil
	return cmp.Or(err, hookErr)
}

// status returns the status of the backend's response, or 0.
func (a *attempt) status() int {
	if a.resp == nil {
		return 0
	}
	return a.resp.StatusCode
}

// decide returns nil if the client gets the backend's response. It returns a
// [*BackendError] if another backend is to be tried instead, and any other error if the
// upgrade ends.
func (a *attempt) decide() error {
	if isRetryable(a.resp.StatusCode) && a.u.isLeft(true) && a.u.p.retries.allow(a.u.p.now()) {
		a.isKept = true
		return &BackendError{ID: a.backend.id, Op: "handshake", Err: statusFailure(a.resp), isConnected: true}
	}
	return a.u.applyResponseHook(a)
}

// dropResponse closes the backend's connection, if there is one.
func (a *attempt) dropResponse() {
	if a.conn == nil {
		return
	}
	if a.isSwitch() {
		a.writeGoingAway()
	}
	a.backendResponse.close()
	a.backendResponse = backendResponse{}
}

// recordResponse records whether the backend has refused the upgrade: see [Backend.Load].
// That a hook refuses the client of a 101 says nothing about the backend.
func (a *attempt) recordResponse(isDropped, isRefusedByHook bool) {
	now := a.u.p.now()
	isRefused := !a.isSwitch() || isDropped
	if !isRefused && !isRefusedByHook {
		a.switchedAt = now
	}
	switch {
	case a.hasMoved():
	case isRefused:
		a.backend.recordRefused()
	case !isRefusedByHook:
		a.backend.recordOpened(now)
	}
}

// endTrialAndProbation ends what [upgrade.pick] has begun for a backend that refuses or has a flag.
func (a *attempt) endTrialAndProbation() {
	if a.isTrial {
		a.isTrial = false
		a.backend.endTrial()
	}
	a.endProbation()
}

// reportRefused reports that the client gets the backend's own response.
func (a *attempt) reportRefused() {
	i := a.u.refused(nil, ReasonAnswer)
	i.Backend, i.Status = a.backend, a.resp.StatusCode
	a.u.p.reportRefused(i, a.resp)
}

// checkDeadline returns why no attempt may begin at now, or nil. A hook may have used
// up the time, or the queue: then no backend is to blame.
func (u *upgrade) checkDeadline(now time.Time) error {
	switch {
	case u.deadline.IsZero() || now.Before(u.deadline):
		return u.canceled()
	case u.hasWaited && !u.callerDeadline:
		u.stage = ReasonQueueTimeout
		return &queueTimeoutError{u.waitCause}
	}
	u.stage = ReasonDeadline
	return context.DeadlineExceeded
}

// attemptDeadline returns the deadline of an attempt that begins at now. Zero means none.
func (u *upgrade) attemptDeadline(now time.Time, a *attempt) time.Time {
	left := u.deadline.Sub(now)
	switch {
	case u.deadline.IsZero():
		return u.deadline
	case u.isLeft(false):
		left /= 2
	case a.isOneOfMany:
		left = min(left, max(left/2, minWaiterTime))
	}
	return now.Add(left)
}

// minWaiterTime is what an upgrade has for a backend that cannot be reached, though it may wait
// for another one instead.
const minWaiterTime = time.Second

// recordOutcome records what a shows about its backend: it ended with err, and took so long
// until its response or its deadline. It returns what has changed, and why, and ends the
// probation.
func (u *upgrade) recordOutcome(a *attempt, err error, took time.Duration, deadline time.Time) (c health.Change, reason error) {
	defer a.endTrialAndProbation()
	isOver := !deadline.IsZero() && !time.Now().Before(deadline)
	r := result{
		err: err, status: a.status(), took: took, canceled: u.canceled(),
		mayBeShort: isOver && (u.callerDeadline || u.hasWaited),
	}
	if a.resp != nil {
		r.header = a.resp.Header
	}
	var e health.Event
	e.Outcome, e.RetryAfter = r.outcome(time.Now())
	u.p.countAttempt(a.backend, e.Outcome, took)
	if a.hasMoved() {
		return health.Change{}, nil
	}
	switch e.Outcome {
	case health.Unreached, health.Unanswered, health.Busy:
		e.Client = hashString(clientIP(u.r))
		if err == nil {
			err = statusFailure(a.resp)
		}
	default:
		err = nil // it is no failure of the backend
	}
	return u.p.changeHealth(a.backend, e, err), err
}

// isRetryable reports whether a backend's status says that another backend may do
// better.
func isRetryable(status int) bool {
	switch status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// statusFailure returns the error of an attempt whose response the client does not get.
func statusFailure(resp *http.Response) error {
	return fmt.Errorf("answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
}

// An attemptErrors joins the failures of all attempts, in their order. There is at least one.
type attemptErrors struct{ failed []*BackendError }

func (e *attemptErrors) Error() string { return errors.Join(e.Unwrap()...).Error() }

func (e *attemptErrors) Unwrap() []error {
	errs := make([]error, len(e.failed))
	for i, failure := range e.failed {
		errs[i] = failure
	}
	return errs
}

// last returns the failure of the last attempt.
func (e *attemptErrors) last() *BackendError { return e.failed[len(e.failed)-1] }
