package wsproxy

import (
	"cmp"
	"errors"
	"fmt"
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
	isBound       bool // the request is bound to the backend
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
	if len(in.tried) > 1 {
		in.p.registry.counters.retries.Add(1)
	}
	*ch = choice{backend: b, numMoves: numMoves, numCandidates: len(c.backends), isProbation: isProbation, isBound: c.isBound}
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
	u.setNoCandidateStage(err)
	switch {
	case errors.Is(err, ErrLimit):
		u.pickResult, u.waitCause = r, err
	case isBoundError(err), err == errUnreachable:
		u.pickResult, u.waitCause = r, cmp.Or(u.waitCause, err) // its own attempts say more
	}
	return err
}

// setNoCandidateStage sets the stage of a request for which no backend was picked because of err,
// if it is for want of one.
func (in *inbound) setNoCandidateStage(err error) {
	switch {
	case errors.Is(err, ErrLimit):
		in.stage = ReasonBackendLimit
	case isBoundError(err):
		in.stage = ReasonUnreachable
	case errors.Is(err, ErrNoBackend):
		in.stage = ReasonNoBackend
	}
}

func (in *inbound) tracePicked(c *choice) error {
	return callHooks(in.p, "Trace.Picked", in.info.id, in.p.traceHooks().picked,
		PickedInfo{Request: in.r, RequestID: in.info.id, Backend: c.backend, Attempt: in.numAttempts, Candidates: c.numCandidates})
}

// hasMoved reports whether the backend has got a new address since it was chosen. What the
// attempt shows is about the old one, and not recorded.
func (c *choice) hasMoved() bool { return c.backend.moves.Load() != c.numMoves }

// endProbation ends what begin has begun for a backend that has a flag.
func (c *choice) endProbation() {
	if c.isProbation {
		c.isProbation = false
		c.backend.endProbation()
	}
}

func (in *inbound) traceAttempted(b *Backend, took time.Duration, status int, err error) error {
	return callHooks(in.p, "Trace.Attempted", in.info.id, in.p.traceHooks().attempted, AttemptInfo{
		Request: in.r, RequestID: in.info.id, Backend: b, Attempt: in.numAttempts, Duration: took, Status: status, Err: err,
	})
}
