// Package wsproxytest checks what users of package wsproxy implement themselves.
package wsproxytest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/wsproxy/wsproxy"
)

// TestBalancer checks that the balancers that newBalancer returns keep the
// contract of [wsproxy.Balancer]. It returns nil, or a join (see [errors.Join])
// of one error for each rule that is broken, which tells how. newBalancer is
// called several times, and must return a new Balancer each time.
//
//	func TestMyBalancer(t *testing.T) {
//		if err := wsproxytest.TestBalancer(newMyBalancer); err != nil {
//			t.Error(err)
//		}
//	}
//
// A request may be refused with an error if it lacks something: cookies, a
// query, a remote address. For an ordinary request the balancer must choose; one
// that needs more than a browser sends is tested in a [wsproxy.BalancerFunc] that
// adds it to a clone of the request.
//
// Run it with the race detector: it makes concurrent calls, but sees only those
// data races that lead to a panic or a wrong choice. A call that has not returned
// after a second is reported and the rest is left out; the request's context is
// then done, so that one that waits for it ends.
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
	ruleRetain      = "Pick must not keep candidates"
	ruleChange      = "Pick must bear that backends are removed and added"
	ruleNumber      = "Pick must work with any number of candidates"
	ruleAnyRequest  = "Pick must bear a request that lacks something"
	ruleConcurrency = "Pick must be safe for concurrent use"
)

const blockedAfter = time.Second // one Pick

// A tester collects what one TestBalancer finds.
type tester struct {
	ctx         context.Context // of all requests
	newBalancer func() wsproxy.Balancer
	pool        *pool

	violations []error
	reported   map[string]bool // rules: the first violation of each is enough
	isBlocked  bool            // nothing more can be checked
}

// run makes all checks. Those that come first explain best what is wrong.
func (t *tester) run() {
	if !t.checkOrdinary() {
		return // all that follows would only say the same
	}
	for _, check := range []func(wsproxy.Balancer){
		t.checkRetention, t.checkChanges, t.checkNumbers, t.checkRequests, t.checkConcurrency,
	} {
		if t.isBlocked {
			return
		}
		check(t.newBalancer())
	}
}

// checkOrdinary reports whether the balancer chooses for ordinary requests.
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
		if len(choiceViolations(found)) > 0 {
			return false
		}
	}
	return true
}

// checkRetention overwrites all that the balancer was given, after each call: with
// a backend that is no candidate, or with nil.
func (t *tester) checkRetention(b wsproxy.Balancer) {
	var old [][]*wsproxy.Backend
	for i := range 20 {
		p := t.pick(b, ordinary, t.pool.some(3))
		if i > 0 && len(choiceViolations(p.violations)) > 0 {
			t.reportAs(ruleRetain, "after the slice of an earlier call was overwritten", p.violations)
			return
		}
		t.report(p.violations...)
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

// checkChanges removes backends from the set and adds others.
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

// checkNumbers offers one backend, a thousand, and numbers between.
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

// checkRequests sends what a balancer may not expect.
func (t *tester) checkRequests(b wsproxy.Balancer) {
	for _, q := range unusual {
		for range 3 {
			found := t.pick(b, q, t.pool.some(3)).violations
			if len(found) > 0 && found[0].rule == ruleChoose {
				break // it may refuse
			}
			if t.reportAs(ruleAnyRequest, "", found) {
				return
			}
		}
	}
}

// checkConcurrency calls one balancer from several goroutines.
func (t *tester) checkConcurrency(b wsproxy.Balancer) {
	const callers, calls = 8, 100
	found := make(chan []violation, callers)
	for i := range callers {
		// Ends after its calls, or with the first that is wrong.
		go func() { found <- t.pickOften(b, calls, i) }()
	}
	for range callers {
		t.reportAs(ruleConcurrency, fmt.Sprintf("%d goroutines call it", callers), <-found)
	}
}

// pickOften returns the violations of the first call that has any.
func (t *tester) pickOften(b wsproxy.Balancer, calls, seed int) []violation {
	for i := range calls {
		n := 1 + (i*7+seed*3)%20
		if found := t.pick(b, ordinary, t.pool.some(n)).violations; len(found) > 0 {
			return found
		}
	}
	return nil
}

// report notes violations, the first of each rule.
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

// reportAs notes violations, those that concern the choice as ones of rule,
// because the balancer chose well until then. It reports whether there were such.
func (t *tester) reportAs(rule, when string, found []violation) bool {
	wrong := choiceViolations(found)
	for i, v := range found {
		if !v.isChoice() {
			t.report(found[i])
			continue
		}
		detail := v.detail
		if when != "" {
			detail = when + ", " + detail
		}
		t.report(violation{rule: rule, detail: detail})
	}
	return len(wrong) > 0
}

// A violation tells how a rule was broken.
type violation struct {
	rule, detail string
}

func (v violation) Error() string { return "wsproxytest: " + v.rule + ": " + v.detail }

// isChoice reports whether v is about what Pick returned, not about what it did
// besides.
func (v violation) isChoice() bool {
	switch v.rule {
	case ruleChoose, ruleCandidate, ruleNil, rulePanic:
		return true
	}
	return false
}

// choiceViolations returns those of found that are about what Pick returned.
func choiceViolations(found []violation) []violation {
	var wrong []violation
	for _, v := range found {
		if v.isChoice() {
			wrong = append(wrong, v)
		}
	}
	return wrong
}
