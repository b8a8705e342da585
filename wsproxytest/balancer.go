package wsproxytest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/wsproxy/wsproxy"
)

// TestBalancer checks that the balancers of newBalancer follow the contract of
// [wsproxy.Balancer]. It returns nil, or one error for each broken rule, joined
// with [errors.Join]. Each error says how the rule was broken. newBalancer must
// return a new Balancer each time it is called.
//
//	func TestMyBalancer(t *testing.T) {
//		if err := wsproxytest.TestBalancer(newMyBalancer); err != nil {
//			t.Error(err)
//		}
//	}
//
// A balancer may refuse a request that lacks cookies, a query or a remote address
// with an error. It must choose a backend for an ordinary request. After an attempt that has
// failed it may return [wsproxy.ErrNoBackend], [wsproxy.ErrLimit] or a [*wsproxy.StatusError].
// It need not treat candidates with flags like others, but must choose each of them for some
// request. If a balancer needs more than a browser sends, wrap it in a [wsproxy.BalancerFunc]
// that adds the missing parts to a clone of the request.
//
// Run it with the race detector: TestBalancer makes concurrent calls, but by itself
// it detects only data races that lead to a panic or a wrong choice. It reports a
// call that has not returned after a second, and makes no further calls. The
// request's context is then canceled, so that a call that waits for it returns.
func TestBalancer(newBalancer func() wsproxy.Balancer) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	pool, err := newPool()
	if err != nil {
		return err
	}
	defer pool.close()
	t := &tester{ctx: ctx, newBalancer: newBalancer, pool: pool}
	t.run()
	return errors.Join(t.violations...)
}

// The rules, as the errors name them.
const (
	ruleNew         = "newBalancer must return a Balancer"
	ruleChoose      = "Pick must choose a backend for an ordinary request"
	ruleCandidate   = "Pick must return one of candidates"
	ruleNil         = "Pick must not return nil without an error"
	rulePanic       = "Pick must not panic"
	ruleBlock       = "Pick must not block"
	ruleModify      = "Pick must not modify candidates"
	ruleRequest     = "Pick must not modify the request"
	ruleRetain      = "Pick must not retain candidates"
	ruleChange      = "Pick must work after backends were removed and added"
	ruleNumber      = "Pick must work with any number of candidates"
	ruleAnyRequest  = "Pick must not fail on a request that lacks something"
	ruleRetry       = "Pick must work when its choice was tried already"
	ruleAllFlagged  = "Pick must choose a backend where all candidates have flags"
	ruleProbation   = "Pick must not avoid a candidate that has a flag"
	ruleConcurrency = "Pick must be safe for concurrent use"
)

const blockedAfter = time.Second // time limit of one call of Pick

// A tester performs one TestBalancer.
type tester struct {
	ctx         context.Context // of all requests
	newBalancer func() wsproxy.Balancer
	pool        *pool

	violations []error
	reported   map[string]bool // rules with a violation; only the first one is reported
	isBlocked  bool            // a call of Pick has not returned: no further checks
}

// run performs all checks. The first checks give the clearest errors.
func (t *tester) run() {
	if !t.checkOrdinary() {
		return // all other checks would report the same fault
	}
	for _, check := range []func(wsproxy.Balancer){
		t.checkRetention, t.checkChanges, t.checkNumbers, t.checkRequests,
		t.checkRetries, t.checkAllFlagged, t.checkProbation, t.checkConcurrency,
	} {
		if t.isBlocked {
			return
		}
		check(t.newBalancer())
	}
}

// checkOrdinary checks that the balancer chooses a backend for ordinary requests.
// It returns false if it does not.
func (t *tester) checkOrdinary() bool {
	if t.newBalancer == nil {
		t.report(violation{rule: ruleNew, detail: "the function is nil"})
		return false
	}
	b := t.newBalancer()
	if b == nil {
		t.report(violation{rule: ruleNew, detail: "it returned nil"})
		return false
	}
	for range 10 {
		found := t.pick(b, ordinary, t.pool.some(3)).violations
		t.report(found...)
		if slices.ContainsFunc(found, violation.isChoice) || t.isBlocked {
			return false
		}
	}
	return true
}

// checkRetention checks that the balancer does not retain candidates. After each
// call it overwrites all slices that it has passed, with a backend that is never a
// candidate, or with nil.
func (t *tester) checkRetention(b wsproxy.Balancer) {
	var old [][]*wsproxy.Backend
	for i := range 20 {
		p := t.pick(b, ordinary, t.pool.some(3))
		if i > 0 && slices.ContainsFunc(p.violations, violation.isChoice) {
			t.reportAs(ruleRetain, "after the slice of an earlier call was overwritten", p.violations)
			return
		}
		t.report(p.violations...)
		if t.isBlocked {
			return
		}
		poison := t.pool.outsider()
		if i%2 == 1 {
			poison = nil
		}
		old = append(old, p.given)
		for _, given := range old {
			for j := range given {
				given[j] = poison
			}
		}
	}
}

// checkChanges checks the balancer while backends are removed and added.
func (t *tester) checkChanges(b wsproxy.Balancer) {
	for i := range 30 {
		candidates, err := t.pool.change(i)
		if err != nil {
			t.violations = append(t.violations, err)
			return
		}
		for range 5 {
			found := t.pick(b, ordinary, candidates).violations
			if t.reportAs(ruleChange, fmt.Sprintf("after %d changes of the set", i), found) {
				return
			}
		}
	}
}

// checkNumbers checks the balancer with 1 to 1000 candidates.
func (t *tester) checkNumbers(b wsproxy.Balancer) {
	for _, n := range []int{1, 2, 1, 3, 10, 1, 100, 1000, 999, 1, 5} {
		for range 5 {
			found := t.pick(b, ordinary, t.pool.some(n)).violations
			if t.reportAs(ruleNumber, "", found) {
				return
			}
		}
	}
}

// checkRequests checks the balancer with unusual requests.
func (t *tester) checkRequests(b wsproxy.Balancer) {
	for _, q := range unusual {
		for range 3 {
			found := t.pick(b, q, t.pool.some(3)).violations
			if len(found) > 0 && found[0].rule == ruleChoose {
				break // the balancer may refuse such a request
			}
			if t.reportAs(ruleAnyRequest, "", found) {
				return
			}
		}
	}
}

// checkRetries checks the balancer when the backend that it has chosen has failed, and is no
// candidate any longer for the same request.
func (t *tester) checkRetries(b wsproxy.Balancer) {
	for i := range 10 {
		all := t.pool.some(4)
		first := t.pick(b, client(i), all)
		if t.reportAs(ruleRetry, "", first.violations) {
			return
		}
		left := slices.DeleteFunc(slices.Clone(all), func(b *wsproxy.Backend) bool { return b == first.chosen })
		again := t.pick(b, client(i), left)
		if isEnd(again.err) {
			continue // the client gets the response for the first attempt
		}
		when := fmt.Sprintf("after %s was tried", first.chosen)
		if t.reportAs(ruleRetry, when, again.violations) {
			return
		}
	}
}

// isEnd reports whether err is one with which a balancer may end an upgrade after an attempt
// that has failed.
func isEnd(err error) bool {
	var status *wsproxy.StatusError
	return errors.Is(err, wsproxy.ErrNoBackend) || errors.Is(err, wsproxy.ErrLimit) || errors.As(err, &status)
}

// checkAllFlagged checks balancers with candidates that all have the same flag.
func (t *tester) checkAllFlagged(wsproxy.Balancer) {
	for f := wsproxy.FlagResting; f <= wsproxy.FlagUnreachable; f++ {
		b, candidates := t.newBalancer(), flagged(allFlagged, f)
		for i := range 10 {
			found := t.pick(b, client(i), candidates).violations
			if t.reportAs(ruleAllFlagged, fmt.Sprintf("where all are %v", f), found) {
				return
			}
		}
	}
}

// checkProbation checks that a candidate with a flag, which one upgrade is to try, is chosen by
// some client, if it is chosen without the flag: it would stay failing for ever.
func (t *tester) checkProbation(b wsproxy.Balancer) {
	usual, ok := t.numChosen(b, flagged(noneFlagged, 0))
	if !ok {
		return
	}
	most := 0 // the index of the candidate that most clients get
	for i, n := range usual {
		if n > usual[most] {
			most = i
		}
	}
	for _, f := range []wsproxy.Flag{wsproxy.FlagResting, wsproxy.FlagFull, wsproxy.FlagEjected, wsproxy.FlagUnreachable} {
		candidates := flagged(most, f)
		n, ok := t.numChosen(t.newBalancer(), candidates)
		if !ok {
			return
		}
		if n[most] == 0 {
			t.report(violation{ruleProbation, fmt.Sprintf("of %d requests of clients it gave %d to %s, and none while that was a candidate that is %v; a balancer need not look at flags",
				probationPicks, usual[most], candidates[most], f)})
			return
		}
	}
}

// probationPicks is so many that a random choice among four candidates is not wrong by chance:
// it leaves one out once in 10^24 times.
const probationPicks = 200

// numChosen returns how many clients get each of candidates. It returns false if a choice is
// wrong, which it records.
func (t *tester) numChosen(b wsproxy.Balancer, candidates []*wsproxy.Backend) (n []int, ok bool) {
	n = make([]int, len(candidates))
	for i := range probationPicks {
		p := t.pick(b, client(i), candidates)
		if t.reportAs(ruleProbation, "", p.violations) {
			return nil, false
		}
		n[slices.Index(candidates, p.chosen)]++
	}
	return n, true
}

// checkConcurrency checks the balancer with calls from several goroutines.
func (t *tester) checkConcurrency(b wsproxy.Balancer) {
	const callers, calls = 8, 100
	found := make(chan []violation, callers)
	for i := range callers {
		// Ends after its calls, or after the first wrong result.
		go func() { found <- t.pickOften(b, calls, i) }()
	}
	for range callers {
		t.reportAs(ruleConcurrency, fmt.Sprintf("%d goroutines call it", callers), <-found)
	}
}

// pickOften calls Pick a number of times, and returns the violations of the first
// call that has any.
func (t *tester) pickOften(b wsproxy.Balancer, calls, seed int) []violation {
	for i := range calls {
		n := 1 + (i*7+seed*3)%20
		if found := t.pick(b, ordinary, t.pool.some(n)).violations; len(found) > 0 {
			return found
		}
	}
	return nil
}

// report records violations, the first of each rule.
func (t *tester) report(found ...violation) {
	for _, v := range found {
		if t.reported[v.rule] {
			continue
		}
		if t.reported == nil {
			t.reported = make(map[string]bool)
		}
		t.reported[v.rule] = true
		t.isBlocked = t.isBlocked || v.rule == ruleBlock
		t.violations = append(t.violations, v)
	}
}

// reportAs records violations. Those that concern the choice are recorded as
// violations of rule, because the balancer has chosen correctly in the checks
// before. It returns whether there were any of them, or a call is blocked.
func (t *tester) reportAs(rule, when string, found []violation) bool {
	for _, v := range found {
		if !v.isChoice() {
			t.report(v)
			continue
		}
		detail := v.detail
		if when != "" {
			detail = when + ", " + detail
		}
		t.report(violation{rule: rule, detail: detail})
	}
	return slices.ContainsFunc(found, violation.isChoice) || t.isBlocked
}

// A violation is the error of a broken rule.
type violation struct {
	rule, detail string
}

func (v violation) Error() string { return "wsproxytest: " + v.rule + ": " + v.detail }

// isChoice reports whether v concerns the result of Pick, as opposed to its side
// effects.
func (v violation) isChoice() bool {
	switch v.rule {
	case ruleChoose, ruleCandidate, ruleNil, rulePanic:
		return true
	}
	return false
}
