package wsproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/wsproxy/wsproxy/internal/dialer"
	"github.com/wsproxy/wsproxy/internal/health"
)

// The retry rule, all of it. Nothing has been sent to the client before a backend has
// given its response, so that another backend may be tried.
//
//   - Candidates: the backends of the set that were not tried for this upgrade and
//     are below their MaxTunnels; of these, the ones that are not avoided, or if all
//     are, all of them ([backendSet.candidates]). The balancer chooses.
//   - Number of attempts: at most maxAttempts backends, each once.
//   - Deadlines: all attempts end by the upgrade's deadline. While another backend is
//     left to try, an attempt ends when half of the remaining time has passed.
//   - Failure of an attempt: the connection failed, or the deadline passed, or the
//     response is not a proper one; while another backend is left, also 502, 503 and
//     504; or the Response hook returned ErrTryNext. Any other response ends the search:
//     it is the client's.
//   - The search ends when a hook or the balancer returned an error, when the
//     upgrade was canceled, or when no backend is left.
//   - Outcome for the backend: success for a proper response other than 502,
//     503 and 504; failure for the rest, unless the client or this host is to blame
//     ([upgrade.outcome]). Its consequences are in internal/health.

const (
	maxAttempts = 3

	// minFairTimeout is how long a backend may take to respond without being blamed
	// for a client that leaves, or a deadline of the caller's that passes. After that
	// it is blamed: a backend that swallows connections has the fewest tunnels, and
	// one impatient client after another would be sent to it first.
	minFairTimeout = time.Second
)

// An attempt is one backend that is tried for an upgrade. It owns a place at the
// backend, then also the backend's connection, then also the client's, until it is
// closed or a tunnel owns all of them.
type attempt struct {
	u       *upgrade
	backend *Backend
	isLast  bool // no other backend will be tried after this one
	isTrial bool // the backend is refusing: see Backend.beginTrial

	switchedAt time.Duration // of a 101, since the proxy's start

	backendResponse             // after run
	header          http.Header // of the client's response; after run
	client          net.Conn    // after the client's connection was hijacked
}

// close closes the connections and gives the place back.
func (a *attempt) close() {
	defer a.u.p.release(a.backend) // even if Close panics
	if a.client != nil {
		defer a.client.Close()
	}
	if a.conn != nil {
		a.backendResponse.close()
	}
}

// tryBackends makes attempts, one backend after the other, until one has responded. The
// caller owns the attempt that it returns.
func (u *upgrade) tryBackends() (*attempt, error) {
	var failed []error
	for {
		a, err := u.pick()
		isNoneLeft := errors.Is(err, ErrNoBackend) || errors.Is(err, ErrLimit)
		switch {
		case isNoneLeft && len(failed) > 0:
			u.stage = ReasonUnreachable
			return nil, &attemptErrors{failed} // they say more than that no other is left
		case errors.Is(err, ErrNoBackend):
			u.stage = ReasonNoBackend
			return nil, err
		case errors.Is(err, ErrLimit):
			u.stage = ReasonBackendLimit
			return nil, err
		case err != nil:
			return nil, err
		}
		if err = a.run(); err == nil {
			return a, nil
		}
		if cause := u.canceled(); cause != nil {
			return nil, cause
		}
		if _, ok := err.(*BackendError); !ok {
			return nil, err // a hook's
		}
		if failed = append(failed, err); a.isLast {
			u.stage = ReasonUnreachable
			return nil, &attemptErrors{failed}
		}
	}
}

// pick lets the balancer choose a backend and reserves a place there. The caller owns
// the attempt that it returns.
func (u *upgrade) pick() (*attempt, error) {
	for {
		set := u.p.set.Load()
		candidates, err := set.candidates(make([]*Backend, 0, len(set.all)), u.tried, u.p.now())
		if err != nil {
			return nil, err
		}
		b, err := u.p.callPick(u.r, candidates)
		if err != nil {
			return nil, err
		}
		if b == nil || !slices.Contains(candidates, b) {
			return nil, fmt.Errorf("wsproxy: balancer %T picked a backend that is no candidate", u.p.balancer)
		}
		if !b.reserve() {
			continue // other upgrades have taken the last places in the meantime
		}
		if b.removed.Load() { // read after reserve, so that SetBackends sees the place or pick sees the removal
			u.p.release(b)
			continue
		}
		u.tried = append(u.tried, b)
		a := &attempt{u: u, backend: b, isLast: len(u.tried) == maxAttempts || !set.hasOther(u.tried)}
		a.isTrial = b.beginTrial()
		if err := a.tracePicked(len(candidates)); err != nil {
			return nil, err
		}
		return a, nil
	}
}

// tracePicked calls the hook. Unless the hook returns, it closes a.
func (a *attempt) tracePicked(numCandidates int) (err error) {
	isDone := false
	defer func() {
		if !isDone {
			a.endTrial()
			a.close()
		}
	}()
	u := a.u
	err = callHook(u.p, "Trace.Picked", u.info.id, u.p.trace.Picked,
		PickedInfo{Request: u.r, RequestID: u.info.id, Backend: a.backend, Attempt: len(u.tried), Candidates: numCandidates})
	isDone = err == nil
	return err
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
	u, b := a.u, a.backend
	if b.beginProbe() {
		defer b.endProbe()
	}
	defer a.endTrial()
	out, err := u.newOutboundRequest(b)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := u.checkDeadline(start); err != nil {
		return err
	}
	a.backendResponse, err = u.p.roundTrip(u.r.Context(), &u.canceler, out, u.attemptDeadline(start, a.isLast))
	took := time.Since(start)
	var hookErr error
	if err == nil {
		hookErr = a.decide()
		if dropped, ok := hookErr.(*BackendError); ok {
			err, hookErr = dropped, nil
		}
		a.recordResponse(err != nil, hookErr != nil)
	}
	if err != nil && a.conn != nil {
		a.dropResponse()
	}
	u.recordOutcome(a, err, took)
	hookErr = cmp.Or(hookErr, a.traceAttempted(took, err))
	switch {
	case err != nil:
		return err
	case hookErr != nil:
		return hookErr
	}
	isDone = true
	return nil
}

// decide returns nil if the client gets the backend's response. It returns a
// [*BackendError] if another backend is to be tried instead, and any other error if the
// upgrade ends.
func (a *attempt) decide() error {
	if !a.isLast && isRetryable(a.resp.StatusCode) {
		return &BackendError{ID: a.backend.id, Op: "handshake", Err: statusFailure(a.resp)}
	}
	return a.u.applyResponseHook(a)
}

// dropResponse closes the backend's connection.
func (a *attempt) dropResponse() {
	if a.isSwitch() {
		a.writeGoingAway()
	}
	a.backendResponse.close()
	a.backendResponse = backendResponse{}
}

// recordResponse records whether the backend has refused the upgrade: see [Backend.Load].
// That a hook refuses the client of a 101 says nothing about the backend.
func (a *attempt) recordResponse(isDropped, isRefusedByHook bool) {
	switch {
	case !a.isSwitch() || isDropped:
		a.backend.recordRefused()
	case !isRefusedByHook:
		a.switchedAt = a.u.p.now()
		a.backend.recordOpened(a.switchedAt)
	}
}

// endTrial ends the trial that [upgrade.pick] has begun, if any.
func (a *attempt) endTrial() {
	if a.isTrial {
		a.isTrial = false
		a.backend.endTrial()
	}
}

// reportRefused reports that the client gets the backend's own response.
func (a *attempt) reportRefused() {
	a.u.p.reportRefused(a.u.refused(nil, ReasonAnswer), a.resp)
}

func (a *attempt) traceAttempted(took time.Duration, err error) error {
	u := a.u
	if u.p.trace.Attempted == nil {
		return nil
	}
	info := AttemptInfo{
		Request: u.r, RequestID: u.info.id, Backend: a.backend, Attempt: len(u.tried), Duration: took, Err: err,
	}
	if a.resp != nil {
		info.Status = a.resp.StatusCode
	}
	return callHook(u.p, "Trace.Attempted", u.info.id, u.p.trace.Attempted, info)
}

// checkDeadline returns why no attempt may begin at now, or nil. A hook may have used
// up the time: then no backend is to blame.
func (u *upgrade) checkDeadline(now time.Time) error {
	if !u.deadline.IsZero() && !now.Before(u.deadline) {
		u.stage = ReasonDeadline
		return context.DeadlineExceeded
	}
	return u.canceled()
}

// attemptDeadline returns the deadline of an attempt that begins at now. Zero means
// none.
func (u *upgrade) attemptDeadline(now time.Time, isLast bool) time.Time {
	if u.deadline.IsZero() || isLast {
		return u.deadline
	}
	return now.Add(u.deadline.Sub(now) / 2)
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

// statusFailure returns the error for a response whose status is a retryable one.
func statusFailure(resp *http.Response) error {
	return fmt.Errorf("answered %s", http.StatusText(resp.StatusCode))
}

// recordOutcome records the outcome of a, an attempt that took so long until its response
// and ended with err.
func (u *upgrade) recordOutcome(a *attempt, err error, took time.Duration) {
	b := a.backend
	switch o := u.outcome(a, err, took); o {
	case health.OK:
		if b.recordSuccess() {
			u.p.reportHealth(b, BackendUp, nil)
		}
	case health.Unreached, health.BadResponse:
		if err == nil {
			err = statusFailure(a.resp)
		}
		if b.recordFailure(u.p.now(), o, err) {
			u.p.reportHealth(b, BackendFailing, err)
		}
	}
}

// reportHealth logs a change of b's state, and calls the hook. That a hook panics has no
// consequence but a line: the change is not the upgrade's.
func (p *Proxy) reportHealth(b *Backend, s BackendState, err error) {
	if s == BackendFailing {
		p.logFailing(b, err)
	} else {
		p.logRecovered(b)
	}
	callHook(p, "Trace.Health", "", p.trace.Health, HealthInfo{Backend: b, State: s, Err: err})
}

// outcome returns the outcome of a: see recordOutcome.
func (u *upgrade) outcome(a *attempt, err error, took time.Duration) health.Outcome {
	failed, _ := err.(*BackendError)
	switch {
	case err == nil && !isRetryable(a.resp.StatusCode):
		return health.OK
	case errors.Is(err, ErrTryNext):
		return health.BadResponse
	case u.isAbandoned(took):
		return health.Neutral // the client or the proxy ended the attempt
	case dialer.IsLocal(err):
		return health.Neutral
	case failed == nil:
		return health.BadResponse // 502, 503 or 504
	case failed.Timeout() && u.callerDeadline && took < minFairTimeout:
		return health.Neutral // a middleware's deadline left the backend too little time
	case failed.Timeout(), failed.Op != "handshake":
		return health.Unreached
	}
	return health.BadResponse
}

// isAbandoned reports whether an attempt that took so long ended because it was canceled,
// and not because the backend was slow.
func (u *upgrade) isAbandoned(took time.Duration) bool {
	cause := u.canceled()
	return cause != nil && (took < minFairTimeout || cause == ErrShutdown)
}

// An attemptErrors joins the failures of all attempts, in their order.
type attemptErrors struct{ errs []error }

func (e *attemptErrors) Error() string   { return errors.Join(e.errs...).Error() }
func (e *attemptErrors) Unwrap() []error { return e.errs }

// last returns the failure that decides the client's status.
func (e *attemptErrors) last() error { return e.errs[len(e.errs)-1] }
