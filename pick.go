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
	"github.com/wsproxy/wsproxy/internal/limit"
)

// The retry rule, all of it. Nothing has been sent to the client before a backend has
// given its response, so that another backend may be tried.
//
//   - Candidates: see [backendSet.candidates]. The balancer chooses.
//   - Number of attempts: at most maxAttempts backends, each once, and all upgrades together
//     as many as the budget allows ([limit.Budget]).
//   - Deadlines: all attempts end by the upgrade's deadline. While another backend is
//     left to try, an attempt ends when half of the remaining time has passed.
//   - Failure of an attempt: the connection failed, or the deadline passed, or the
//     response is not a proper one; while another backend is left, also 502, 503 and
//     504; or the Response hook returned ErrTryNext. Any other response ends the search:
//     it is the client's.
//   - Where no backend has a place, and where all attempts failed to connect, the upgrade
//     waits and begins anew, if the queue is on (queue.go). It does not wait for faults of
//     this host.
//   - The search ends when a hook or the balancer returned an error, when the
//     upgrade was canceled, or when no backend is left. Then the client gets the last
//     response that a backend gave, if any did.
//   - What an attempt shows about its backend is in outcome.go, and what follows from that
//     in internal/health.

const maxAttempts = 3

// An attempt is one backend that is tried for an upgrade. It owns a place at the
// backend, then also the backend's connection, then also the client's, until it is
// closed or a tunnel owns all of them.
type attempt struct {
	u       *upgrade
	backend *Backend
	isLast  bool // no other backend will be tried after this one
	isHeld  bool // another one is tried, but the client gets the response of this one if none does better

	isProbation bool // a flag of the backend is up: see Backend.beginProbation
	isTrial     bool // the backend is refusing: see Backend.beginTrial

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
	u.p.retries.addUpgrade(u.p.now())
	var failed []error
	var held *attempt
	defer func() {
		if held != nil {
			held.close()
		}
	}()
	for {
		a, err := u.pickInTurn()
		if err != nil && (len(failed) == 0 || !isNoneLeft(err)) {
			return nil, err
		}
		if err == nil {
			if err = a.run(); err == nil {
				return a, nil
			}
			if a.isHeld {
				if held != nil {
					held.close()
				}
				held = a
			}
			if cause := u.canceled(); cause != nil {
				return nil, cause
			}
			if _, ok := err.(*BackendError); !ok {
				return nil, err // a hook's
			}
			if failed = append(failed, err); a.mayRetry() {
				continue
			}
		}
		if !u.p.queue.isOn() || slices.ContainsFunc(failed, endsSearch) {
			break
		}
		u.tried, failed = u.tried[:0], nil // it waits, and begins anew
	}
	return u.noneLeft(&held, failed)
}

// endsSearch reports whether an upgrade is not to wait after an attempt that failed with err:
// its backend was reached, or this host is at fault. That raises no flag, so the upgrade would
// find the same backends at once, again and again.
func endsSearch(err error) bool {
	failed, ok := err.(*BackendError)
	return ok && failed.isConnected || dialer.IsLocal(err)
}

// isNoneLeft reports whether err of [upgrade.pickInTurn] means that no other backend can be tried.
func isNoneLeft(err error) bool { return errors.Is(err, ErrNoBackend) || errors.Is(err, ErrLimit) }

// noneLeft returns the attempt whose response the client gets, and takes it from held, or
// else the failures of all attempts.
func (u *upgrade) noneLeft(held **attempt, failed []error) (*attempt, error) {
	if a := *held; a != nil {
		err := u.applyResponseHook(a)
		if err == nil {
			*held = nil
			return a, nil
		}
		if _, ok := err.(*BackendError); !ok {
			return nil, err
		}
		failed = append(failed, err)
	}
	u.stage = ReasonUnreachable
	return nil, &attemptErrors{failed}
}

// mayRetry reports whether another backend may be tried after a, which has failed, and counts
// that.
func (a *attempt) mayRetry() bool {
	return a.isHeld || !a.isLast && a.u.p.retries.allow(a.u.p.now())
}

// pick lets the balancer choose a backend and reserves a place there. The caller owns
// the attempt that it returns. If the upgrade may wait instead, pick sets u.stuck.
func (u *upgrade) pick() (*attempt, error) {
	for {
		now := u.p.now()
		set := u.p.set.Load()
		u.stage, u.stuck = ReasonHook, limit.Went
		c, err := set.candidates(make([]*Backend, 0, len(set.active)), u.tried, now)
		if len(u.tried) == 0 && err == nil {
			u.p.reportTier(&c)
			err = u.leaveToOthers(&c, now)
		}
		if err != nil {
			u.stuck = limit.AllStuck
			return nil, u.noCandidate(err)
		}
		b, err := u.p.callPick(u.r, c.backends)
		if err != nil {
			u.stuck = limit.Stuck
			return nil, u.noCandidate(err)
		}
		if b == nil || !slices.Contains(c.backends, b) {
			return nil, fmt.Errorf("wsproxy: balancer %T picked a backend that is no candidate", u.p.balancer)
		}
		if !b.reserve() {
			continue // other upgrades have taken the last places in the meantime
		}
		if b.removed.Load() { // read after reserve, so that SetBackends sees the place or pick sees the removal
			u.p.release(b)
			continue
		}
		isProbation, ok := b.beginProbation(now, c.tier == health.TierGood || u.mayWait() && c.tier == health.TierUnreachable)
		if !ok {
			u.p.release(b)
			continue // another upgrade has begun to try it in the meantime
		}
		u.tried, u.picked = append(u.tried, b), b
		u.numAttempts++
		a := &attempt{u: u, backend: b, isProbation: isProbation, isLast: len(u.tried) == maxAttempts || !set.hasOther(u.tried, now)}
		a.isTrial = b.beginTrial()
		if err := a.tracePicked(len(c.backends)); err != nil {
			return nil, err
		}
		return a, nil
	}
}

// mayWait reports whether the upgrade may wait instead of trying a backend now.
func (u *upgrade) mayWait() bool { return u.p.queue.isOn() && len(u.tried) == 0 }

// leaveToOthers removes the candidates that cannot be reached and that another upgrade has
// tried a moment ago or is trying, if this one may wait for the result.
func (u *upgrade) leaveToOthers(c *candidates, now time.Duration) error {
	if !u.mayWait() || c.tier != health.TierUnreachable {
		return nil
	}
	c.backends = slices.DeleteFunc(c.backends, func(b *Backend) bool { return !b.mayTryWaiting(now) })
	if len(c.backends) == 0 {
		return errUnreachable
	}
	return nil
}

// errUnreachable is why an upgrade waits for backends that cannot be reached.
var errUnreachable = fmt.Errorf("%w: every backend is unreachable", ErrLimit)

// noCandidate sets the stage, and u.stuck unless err is about a limit. It returns err.
func (u *upgrade) noCandidate(err error) error {
	switch {
	case errors.Is(err, ErrLimit):
		u.stage = ReasonBackendLimit
		return err
	case errors.Is(err, ErrNoBackend):
		u.stage = ReasonNoBackend
	}
	u.stuck = limit.Went // it does not wait
	return err
}

// tracePicked calls the hook. Unless the hook returns, it closes a.
func (a *attempt) tracePicked(numCandidates int) (err error) {
	isDone := false
	defer func() {
		if !isDone {
			a.endTrials()
			a.close()
		}
	}()
	u := a.u
	err = callHook(u.p, "Trace.Picked", u.info.id, u.p.trace.Picked,
		PickedInfo{Request: u.r, RequestID: u.info.id, Backend: a.backend, Attempt: u.numAttempts, Candidates: numCandidates})
	isDone = err == nil
	return err
}

// run performs the opening handshake with the backend. If it does not succeed, it
// closes a; the error is a [*BackendError] if another backend may do better.
func (a *attempt) run() error {
	isDone := false
	defer func() { // also if something panics or ends the goroutine
		if !isDone && !a.isHeld {
			a.close()
		}
	}()
	defer a.endTrials()
	u := a.u
	out, err := u.newOutboundRequest(a.backend)
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
	u.recordOutcome(a, err, took)
	if err != nil && a.conn != nil && !a.isHeld {
		a.dropResponse()
	}
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
	if isRetryable(a.resp.StatusCode) && !a.isLast && a.u.p.retries.allow(a.u.p.now()) {
		a.isHeld = true
		return &BackendError{ID: a.backend.id, Op: "handshake", Err: statusFailure(a.resp), isConnected: true}
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

// endTrials ends what [upgrade.pick] has begun for a backend that has failed before.
func (a *attempt) endTrials() {
	if a.isTrial {
		a.isTrial = false
		a.backend.endTrial()
	}
	if a.isProbation {
		a.isProbation = false
		a.backend.endProbation()
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
		Request: u.r, RequestID: u.info.id, Backend: a.backend, Attempt: u.numAttempts, Duration: took, Err: err,
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

// recordOutcome records what a shows about its backend: it ended with err, and took so long
// until its response.
func (u *upgrade) recordOutcome(a *attempt, err error, took time.Duration) {
	r := result{err: err, took: took, canceled: u.canceled(), isCallerDeadline: u.callerDeadline}
	if a.resp != nil {
		r.status, r.header = a.resp.StatusCode, a.resp.Header
	}
	var e health.Event
	e.Outcome, e.RetryAfter = r.outcome(time.Now())
	switch e.Outcome {
	case health.Unreached, health.Unanswered, health.Busy:
		if err == nil {
			err = statusFailure(a.resp)
		}
		e.Client = hashString(clientIP(u.r))
		u.p.recordHealth(a.backend, e, err)
	default:
		u.p.recordHealth(a.backend, e, nil)
	}
}

// An attemptErrors joins the failures of all attempts, in their order.
type attemptErrors struct{ errs []error }

func (e *attemptErrors) Error() string   { return errors.Join(e.errs...).Error() }
func (e *attemptErrors) Unwrap() []error { return e.errs }

// isBadResponse reports whether the last attempt failed because of the backend's response.
func (e *attemptErrors) isBadResponse() bool {
	last, ok := e.errs[len(e.errs)-1].(*BackendError)
	return ok && last.isBadResponse()
}
