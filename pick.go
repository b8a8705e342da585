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
//   - Candidates: see [backendSet.candidates]. The balancer chooses, unless the request is
//     bound to a backend (affinity.go).
//   - Number of attempts: at most maxAttempts backends, each once, and all upgrades together
//     as many as the budget allows ([limit.Budget]).
//   - Deadlines: all attempts end by the upgrade's deadline. While another backend is
//     left to try, or to wait for, an attempt ends when half of the remaining time has passed.
//   - Failure of an attempt: the connection failed, or the deadline passed, or the
//     response is not a proper one; while another backend is left, also 502, 503 and
//     504; or the Response hook returned ErrTryNext. Any other response ends the search:
//     it is the client's.
//   - If the queue is on, the upgrade waits where no backend has a place; and where all its
//     attempts failed to connect, it waits and begins anew (queue.go).
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
	defer func() { u.keep(nil) }()
	for {
		a, err := u.pickInTurn()
		if err != nil && (len(u.failed) == 0 || !isNoneLeft(err)) {
			return nil, err
		}
		if err == nil {
			if err = a.run(); err == nil {
				return a, nil
			}
			if a.isKept {
				u.keep(a)
			}
			if cause := u.canceled(); cause != nil {
				return nil, cause
			}
			failure, ok := err.(*BackendError)
			if !ok {
				return nil, err // a hook's
			}
			u.failed = append(u.failed, failure)
			if a.isKept || u.isLeft(failure.isConnected) && u.p.retries.allow(u.p.now()) {
				continue
			}
		}
		if !u.mayBeginAnew() {
			return u.noneLeft()
		}
		u.waitCause = &attemptErrors{u.failed}
		u.tried, u.failed = u.tried[:0], nil
		u.hasWaited = true // it will have, before the next attempt
	}
}

// isLeft reports whether another backend may be tried after an attempt that has failed. If no
// backend was reached, an upgrade that may wait does not try one after the other.
func (u *upgrade) isLeft(wasReached bool) bool {
	return len(u.tried) < maxAttempts && u.hasOther(u.p.queue.isOn() && !wasReached)
}

// hasOther is [backendSet.hasOther] for the request.
func (in *inbound) hasOther(mayWait bool) bool {
	return !in.isConfined() && in.p.set.Load().hasOther(in.tried, in.p.now(), mayWait, !in.isPlain)
}

// isNoneLeft reports whether err of [upgrade.pickInTurn] means that no other backend can be tried.
func isNoneLeft(err error) bool { return errors.Is(err, ErrNoBackend) || errors.Is(err, ErrLimit) }

// mayBeginAnew reports whether the upgrade waits and begins anew: the queue is on, and all its
// attempts have failed to connect. That is no retry: the queue has its own rate.
func (u *upgrade) mayBeginAnew() bool {
	isLate := !u.deadline.IsZero() && !time.Now().Before(u.deadline)
	return u.p.queue.isOn() && u.kept == nil && !isLate && !slices.ContainsFunc(u.failed, isFinal)
}

// isFinal reports whether it is of no use to wait after a failed attempt: the backend was
// reached, or the fault is this host's.
func isFinal(failure *BackendError) bool { return failure.isConnected || dialer.IsLocal(failure) }

// keep keeps a, whose response the client gets if no other attempt does better, and closes the
// one that was kept before.
func (u *upgrade) keep(a *attempt) {
	if u.kept != nil {
		u.kept.close()
	}
	u.kept = a
}

// noneLeft returns the attempt that was kept, or else the failures of all attempts.
func (u *upgrade) noneLeft() (*attempt, error) {
	if a := u.kept; a != nil {
		u.stage = ReasonHook
		err := u.applyResponseHook(a)
		if err == nil {
			u.kept = nil
			return a, nil
		}
		dropped, ok := err.(*BackendError)
		if !ok {
			return nil, err
		}
		for i, failure := range u.failed {
			if failure.ID == dropped.ID {
				u.failed[i] = dropped
			}
		}
	}
	u.stage = ReasonUnreachable
	return nil, &attemptErrors{u.failed}
}

// pick lets the balancer choose a backend and reserves a place there. The caller owns
// the attempt that it returns. If the upgrade is to wait instead, u.pickResult says so.
func (u *upgrade) pick() (*attempt, error) {
	for {
		u.pickResult = limit.GoesOn
		mayWait := u.p.queue.isOn() && len(u.tried) == 0
		b, c, err := u.choose(mayWait)
		switch {
		case err != nil && len(c.backends) == 0:
			return nil, u.noCandidate(err, limit.AllStuck)
		case err != nil:
			return nil, u.noCandidate(err, limit.Stuck)
		}
		if !b.reserve() {
			continue // other upgrades have taken the last places in the meantime
		}
		if b.removed.Load() || b.drains() { // read after reserve, so that SetBackends and Drain see the place or pick sees the removal or the drain
			u.p.release(b)
			continue
		}
		a := &attempt{u: u}
		if !u.begin(&a.choice, b, &c, mayWait) {
			u.p.release(b)
			continue // another upgrade has begun to try it in the meantime
		}
		a.isOneOfMany = mayWait && c.tier == health.TierUnreachable && len(c.set.active) > 1
		a.isTrial = b.beginTrial()
		return a, nil
	}
}

// A choice is a backend that was chosen for a request.
type choice struct {
	backend       *Backend
	numMoves      uint64 // of the backend, when it was chosen
	numCandidates int
	isProbation   bool // a flag of the backend is raised: see Backend.beginProbation
}

// choose returns the request's backend, and the candidates: the backend that the request is bound
// to, as the only candidate, or else the balancer's choice. After an error there are candidates
// only if it is the balancer's, or says why the bound request gets no backend.
func (in *inbound) choose(mayWait bool) (*Backend, candidates, error) {
	now := in.p.now()
	set := in.p.set.Load()
	in.stage = ReasonHook
	if b, err := in.boundBackend(set, now, mayWait); b != nil {
		return b, candidates{set: set, backends: []*Backend{b}, tier: b.tier(now, len(in.tried) > 0), isBound: true}, err
	} else if err != nil {
		return nil, candidates{}, err
	}
	c, err := set.candidates(make([]*Backend, 0, len(set.active)), in.tried, now, !in.isPlain)
	if len(in.tried) == 0 && err == nil {
		in.p.reportTier(&c)
	}
	if mayWait && err == nil {
		err = c.leaveToOthers(now)
	}
	if err != nil {
		return nil, c, err
	}
	b, err := in.p.callPick(in.r, c.backends)
	if err == nil && (b == nil || !slices.Contains(c.backends, b)) {
		err = fmt.Errorf("wsproxy: balancer %T picked a backend that is no candidate", in.p.balancer)
	}
	return b, c, err
}

// begin records in ch that an attempt on b begins, which was chosen of c. It returns false if
// another request has begun to try a backend that has a flag.
func (in *inbound) begin(ch *choice, b *Backend, c *candidates, mayWait bool) bool {
	numMoves := b.moves.Load()
	isProbation, ok := b.beginProbation(in.p.now(), c.condition(mayWait))
	if !ok {
		return false
	}
	in.tried, in.picked = append(in.tried, b), b
	in.numAttempts++
	*ch = choice{backend: b, numMoves: numMoves, numCandidates: len(c.backends), isProbation: isProbation}
	return true
}

// condition returns when an upgrade may begin to try one of c.
func (c *candidates) condition(mayWait bool) health.Condition {
	switch {
	case c.tier == health.TierGood:
		return health.IfAlone
	case c.tier == health.TierUnreachable && mayWait:
		return health.IfWaited
	}
	return health.Always
}

// leaveToOthers removes the candidates that cannot be reached and that another upgrade has
// tried a moment ago or is trying: this one waits for the result.
func (c *candidates) leaveToOthers(now time.Duration) error {
	if c.tier != health.TierUnreachable {
		return nil
	}
	c.backends = slices.DeleteFunc(c.backends, func(b *Backend) bool { return !b.mayBeTried(now) })
	if len(c.backends) == 0 {
		return errUnreachable
	}
	return nil
}

// errUnreachable is why an upgrade waits for backends that cannot be reached.
var errUnreachable = errors.New("wsproxy: every backend is unreachable")

// noCandidate returns err, because of which no backend was picked, and sets the stage. If it is
// for want of a place, or of a backend that can be reached, the upgrade waits, and r says who
// else is stuck.
func (u *upgrade) noCandidate(err error, r limit.Result) error {
	switch {
	case errors.Is(err, ErrLimit):
		u.stage, u.pickResult, u.waitCause = ReasonBackendLimit, r, err
	case isBoundError(err):
		u.stage, u.pickResult, u.waitCause = ReasonUnreachable, r, cmp.Or(u.waitCause, err)
	case err == errUnreachable:
		u.pickResult, u.waitCause = r, cmp.Or(u.waitCause, err) // its own attempts say more
	case errors.Is(err, ErrNoBackend):
		u.stage = ReasonNoBackend
	}
	return err
}

func (in *inbound) tracePicked(c *choice) error {
	return callHook(in.p, "Trace.Picked", in.info.id, in.p.trace.Picked,
		PickedInfo{Request: in.r, RequestID: in.info.id, Backend: c.backend, Attempt: in.numAttempts, Candidates: c.numCandidates})
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

// hasMoved reports whether the backend has got a new address since it was chosen. What the
// attempt shows is about the old one, and not recorded.
func (c *choice) hasMoved() bool { return c.backend.moves.Load() != c.numMoves }

// endTrialAndProbation ends what [upgrade.pick] has begun for a backend that refuses or has a flag.
func (a *attempt) endTrialAndProbation() {
	if a.isTrial {
		a.isTrial = false
		a.backend.endTrial()
	}
	a.endProbation()
}

// endProbation ends what begin has begun for a backend that has a flag.
func (c *choice) endProbation() {
	if c.isProbation {
		c.isProbation = false
		c.backend.endProbation()
	}
}

// reportRefused reports that the client gets the backend's own response.
func (a *attempt) reportRefused() {
	i := a.u.refused(nil, ReasonAnswer)
	i.Backend, i.Status = a.backend, a.resp.StatusCode
	a.u.p.reportRefused(i, a.resp)
}

func (in *inbound) traceAttempted(b *Backend, took time.Duration, status int, err error) error {
	return callHook(in.p, "Trace.Attempted", in.info.id, in.p.trace.Attempted, AttemptInfo{
		Request: in.r, RequestID: in.info.id, Backend: b, Attempt: in.numAttempts, Duration: took, Status: status, Err: err,
	})
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
