package wsproxy

import (
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
)

// A Balancer chooses the backend for an upgrade, and with [WithHTTP] for any other request.
//
// Pick is called concurrently. It must not block, and must not retain or modify candidates.
// There is at least one, and they are in configuration order. They are the backends that are
// in the set, do not drain, and were not yet tried for this request, or not since it has
// waited (see [Limits.Queue]); and of these the ones of the first of these tiers that is not
// empty:
//
//  1. without a [Flag],
//  2. resting or full,
//  3. ejected,
//  4. with a failed check,
//  5. unreachable.
//
// A backend with several flags is in the last of their tiers. Within a tier, those of the
// lowest [BackendConfig.Priority] are candidates. Backends that have their MaxTunnels are
// left out at the end: if that leaves none, the upgrade waits or is refused, and no other
// tier takes their place. A request that is no upgrade needs no place, and they stay.
//
// When the time of its flags is over, a backend is in the first tier for one upgrade at a
// time, in order to find out whether it works again; for a second or third attempt it is not.
// Its [Backend.State] is still BackendFailing. So a balancer must not avoid failing backends:
// one that is never picked stays failing for ever.
//
// Pick must return one of the candidates, or an error, which ends the upgrade: a
// [*StatusError] chooses the client's status, [ErrNoBackend] gives 503, any other error
// 500. [ErrLimit] says that no backend that this request may use has a place: it is answered
// with 503 too, or the upgrade waits (see [Limits]). After an attempt that failed, ErrNoBackend
// and ErrLimit mean that no other backend is to be tried: the client gets the response for the
// failed attempt, or waits if no backend was reached and the queue is on.
//
// r is the client's request; Pick must not modify it. The proxy counts tunnels:
// [Backend.NumTunnels] includes upgrades under way. To set a cookie in the client's
// response, use the hook of [WithResponse]; to see the result of a pick, use [Trace].
//
// With [WithAffinity] a request that is bound to a backend goes there, and Pick is not called. It
// is called for a request that is not bound, or whose own backend cannot be used. The tunnels of
// bound clients are counted as all others are: so [LeastTunnels] evens out with new clients what
// bound ones do not.
//
// A backend that is in its slow start ([WithSlowStart]) shows its whole weight: only the built-in
// balancers know of it.
//
// Several proxies may share a built-in balancer. A balancer around a built-in one may
// pass on some of its candidates; for an empty list the built-in ones return
// [ErrNoBackend].
//
// [github.com/wsproxy/wsproxy/wsproxytest.TestBalancer] checks this contract.
type Balancer interface {
	Pick(r *http.Request, candidates []*Backend) (*Backend, error)
}

// BalancerFunc makes a [Balancer] of a function.
type BalancerFunc func(r *http.Request, candidates []*Backend) (*Backend, error)

// Pick calls f.
func (f BalancerFunc) Pick(r *http.Request, candidates []*Backend) (*Backend, error) {
	return f(r, candidates)
}

// LeastTunnels returns a [Balancer] that chooses the backend with the fewest tunnels in
// proportion to its weight, including the new one: the lowest (NumTunnels+1)/Weight.
// Backends with equal values take turns. With [WithHTTP] other requests in flight count as
// tunnels.
//
// A backend that refuses more upgrades than it accepts (see [Backend.Load]) is chosen only
// in its turn among all candidates, which comes as often as its weight says, about once a
// second at most, and only if it would be chosen by its tunnels: so it gets no more than its
// even share of the clients. If all candidates refuse, all are compared, by the number of
// tunnels and refusals.
//
// It is the default, and right for most uses: WebSocket connections live long, so that
// an uneven load after a restart or a burst stays uneven unless new tunnels even it out.
// The counts are this proxy's own: replicas that share backends each even out their own
// tunnels. It takes no lock, unless a backend refuses.
func LeastTunnels() Balancer { return new(leastTunnels) }

type leastTunnels struct {
	// next is the index at which the search starts, so that the first of several
	// equal candidates is not always the same one.
	next atomic.Uint64

	turn atomic.Uint64 // whose turn it is, while a candidate refuses
}

func (l *leastTunnels) Pick(_ *http.Request, candidates []*Backend) (*Backend, error) {
	n := len(candidates)
	if n == 0 {
		return nil, ErrNoBackend
	}
	share := sharesOf(candidates)
	start := int((l.next.Add(1) - 1) % uint64(n))
	var best *Backend
	var tunnels, weight float64 // of best, with one more
	skipped := 0
	hasRefusing := false
	for i := range n {
		j := start + i
		if j >= n {
			j -= n
		}
		b := candidates[j]
		if b.refusals.isRefusing.Load() { // countRefusals takes a lock
			if isRefusing, _ := b.countRefusals(); isRefusing {
				hasRefusing = true
				continue
			}
		}
		// Products of float64 cannot overflow, and are exact up to 2^53 but for a slow start.
		bt, bw := float64(b.numClients()+1), float64(b.Weight())
		if share.isSlow {
			bw = share.of(b)
		}
		if best == nil || bt*weight < tunnels*bw {
			best, skipped, tunnels, weight = b, i, bt, bw
		}
	}
	if hasRefusing {
		if best == nil {
			return leastRefusing(candidates, share), nil
		}
		b := l.inTurn(candidates, share)
		isRefusing, numRefusals := b.refusing()
		if isRefusing && numRefusals == 0 && float64(b.numClients()+1)*weight <= tunnels*share.of(b) {
			return b, nil
		}
	}
	if skipped > 0 {
		// The next search starts after the chosen backend. Otherwise the backend
		// that follows a busy one would get its turns too.
		l.next.Add(uint64(skipped))
	}
	return best, nil
}

// inTurn returns the candidate whose turn it is. The turns are spread evenly in proportion
// to weights: the multiples of the golden ratio, modulo 1, are.
func (l *leastTunnels) inTurn(candidates []*Backend, share shares) *Backend {
	_, fraction := math.Modf(float64(l.turn.Add(1)%(1<<20)) * math.Phi)
	return atFraction(candidates, share, fraction)
}

// leastRefusing returns one of candidates, which all refuse.
func leastRefusing(candidates []*Backend, share shares) *Backend {
	var best *Backend
	least := math.Inf(1)
	for _, b := range candidates {
		_, numRefusals := b.refusing()
		if load := float64(b.numClients()+numRefusals+1) / share.of(b); load < least {
			best, least = b, load
		}
	}
	return best
}

// RoundRobin returns a [Balancer] that lets the backends take turns, smoothly by
// weight: weights 5, 1 and 1 give a a b a c a a, and not five times a in a row.
// If the candidates differ between requests, because a backend has its MaxTunnels, a flag or is new,
// each backend still gets its share of the requests that it was a candidate for.
//
// Choose it if tunnels are short or the number of backends never changes, and an even
// rate of upgrades matters more than an even number of tunnels: a backend that was
// restarted stays with fewer tunnels than the others. It takes one lock, for a time
// linear in the candidates.
func RoundRobin() Balancer { return new(roundRobin) }

type roundRobin struct {
	mu sync.Mutex

	// turns has the backends that have been candidates, in configuration order as
	// far as it is known, so that one pass finds all candidates. chooseLocked removes
	// backends that are not in the set any longer.
	turns []turn
	count uint64 // calls of markLocked
}

// A turn has the credit of one backend. Each pick with the backend as a candidate adds
// the backend's weight; when the backend is chosen, the sum of all candidates' weights is
// subtracted.
type turn struct {
	backend *Backend
	weight  float64 // as of the last pick
	credit  float64 // an integer, until the candidates' total changes
	total   float64 // the candidates' sum of weights that credit refers to
	marked  uint64  // the value of count when it was last a candidate
}

func (rr *roundRobin) Pick(_ *http.Request, candidates []*Backend) (*Backend, error) {
	if len(candidates) == 0 {
		return nil, ErrNoBackend
	}
	share := sharesOf(candidates)
	rr.mu.Lock()
	defer rr.mu.Unlock()
	total, ok := rr.markLocked(candidates, share)
	if !ok {
		rr.learnLocked(candidates)
		total, _ = rr.markLocked(candidates, share)
	}
	return rr.chooseLocked(total), nil
}

// markLocked marks the turns of candidates and returns the sum of their weights. It
// returns false if a candidate has no turn, or the turns are in another order.
func (rr *roundRobin) markLocked(candidates []*Backend, share shares) (total float64, ok bool) {
	rr.count++
	i := 0
	for _, b := range candidates {
		for i < len(rr.turns) && rr.turns[i].backend != b {
			i++
		}
		if i == len(rr.turns) {
			return total, false
		}
		t := &rr.turns[i]
		t.marked, t.weight = rr.count, share.of(b)
		total += t.weight
		i++
	}
	return total, true
}

// chooseLocked returns the marked backend with the highest credit.
func (rr *roundRobin) chooseLocked(total float64) *Backend {
	var best *turn
	stale := false
	for i := range rr.turns {
		t := &rr.turns[i]
		if t.marked != rr.count {
			stale = stale || t.backend.removed.Load()
			continue
		}
		if t.total != total {
			// A turn has the same value among few candidates as among many.
			// Otherwise some backends would fall behind without limit if the
			// candidates vary regularly.
			t.credit *= total / t.total
			t.total = total
		}
		t.credit += t.weight
		if best == nil || t.credit > best.credit {
			best = t
		}
	}
	best.credit -= total
	chosen := best.backend
	if stale {
		rr.turns = slices.DeleteFunc(rr.turns, func(t turn) bool {
			return t.marked != rr.count && t.backend.removed.Load()
		})
	}
	return chosen
}

// learnLocked adds candidates to the turns. Candidates that have turns already share
// these places in their own order. So each call can only bring the turns closer to
// configuration order, until markLocked finds any candidates.
func (rr *roundRobin) learnLocked(candidates []*Backend) {
	known := make(map[*Backend]turn, len(rr.turns))
	for _, t := range rr.turns {
		known[t.backend] = t
	}
	wanted := make(map[*Backend]bool, len(candidates))
	for _, b := range candidates {
		wanted[b] = true
	}
	merged := make([]turn, 0, len(rr.turns)+len(candidates))
	rest := candidates
	for _, t := range rr.turns {
		if !wanted[t.backend] {
			merged = append(merged, t)
			continue
		}
		for placed := false; !placed && len(rest) > 0; rest = rest[1:] {
			t, placed = known[rest[0]]
			if !placed {
				t = turn{backend: rest[0], total: 1}
			}
			merged = append(merged, t)
		}
	}
	for _, b := range rest {
		merged = append(merged, turn{backend: b, total: 1})
	}
	rr.turns = merged
}

// Random returns a [Balancer] that chooses at random in proportion to weights.
//
// Choose it if many proxies share the backends and each proxy has few upgrades, so that
// the counts or turns of one proxy say little. It takes no lock and has no state.
func Random() Balancer { return random{} }

type random struct{}

func (random) Pick(_ *http.Request, candidates []*Backend) (*Backend, error) {
	if len(candidates) == 0 {
		return nil, ErrNoBackend
	}
	return atFraction(candidates, sharesOf(candidates), rand.Float64()), nil
}

// atFraction returns the candidate at a fraction, at least 0 and below 1, of the sum of their
// weights.
func atFraction(candidates []*Backend, share shares, fraction float64) *Backend {
	total := 0.0
	for _, b := range candidates {
		total += share.of(b)
	}
	point := fraction * total
	for _, b := range candidates {
		if point -= share.of(b); point < 0 {
			return b
		}
	}
	// Because of rounding, or of a weight that changed meanwhile.
	return candidates[len(candidates)-1]
}
