package wsproxy

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
)

// A Balancer chooses the backend for an upgrade.
//
// Pick is called concurrently. It must not block, and must not keep or modify
// candidates, which lists the backends that may be chosen now (in the set, below
// their limit, not yet tried for this request; those whose last attempt failed
// only when no other is left), in configuration order, and is never empty. It
// must return one of them, or an error, which ends the upgrade: a [*StatusError]
// chooses the client's status, [ErrNoBackend] gives 503, any other error 500. After
// an attempt that failed, ErrNoBackend means that no other backend is to be tried:
// the client gets what the attempt would have given it.
//
// r is the client's request; Pick must not modify it. Counting is done by the
// proxy: [Backend.NumTunnels] includes upgrades under way. What must be said to
// the client, such as a cookie, is said in the hook of [WithResponse]; what
// became of a pick is seen in [Trace].
//
// The built-in balancers may be shared by several proxies. A balancer around one
// of them may hand on a part of its candidates; if that is none, they return
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

// LeastTunnels returns a [Balancer] that chooses the backend with the fewest
// tunnels in proportion to its weight, the one to come counted: the lowest
// (NumTunnels+1)/Weight. Equal ones take turns.
//
// It is the default, and right for most: WebSocket connections live long, so
// that what a restart or a burst has made uneven stays uneven unless the next
// ones make up for it. The counts are this proxy's own: replicas that share
// backends each even out their own part. It takes no lock.
func LeastTunnels() Balancer { return new(leastTunnels) }

type leastTunnels struct {
	// next is where the search starts, so that the first of several equal
	// candidates is not always the same one.
	next atomic.Uint64
}

func (l *leastTunnels) Pick(_ *http.Request, candidates []*Backend) (*Backend, error) {
	n := len(candidates)
	if n == 0 {
		return nil, ErrNoBackend
	}
	start := int((l.next.Add(1) - 1) % uint64(n))
	best, skipped := candidates[start], 0
	load, weight := best.nextLoad()
	for i := 1; i < n; i++ {
		j := start + i
		if j >= n {
			j -= n
		}
		b := candidates[j]
		if bl, bw := b.nextLoad(); bl*weight < load*bw {
			best, skipped, load, weight = b, i, bl, bw
		}
	}
	if skipped > 0 {
		// The next search starts after the one chosen: without this, the one
		// that follows a busy backend would get its turns too.
		l.next.Add(uint64(skipped))
	}
	return best, nil
}

// nextLoad returns the tunnels that b would have with one more, and its weight.
// Products of float64 are exact up to 2^53 and cannot overflow.
func (b *Backend) nextLoad() (tunnels, weight float64) {
	return float64(b.NumTunnels() + 1), float64(b.Weight())
}

// RoundRobin returns a [Balancer] that lets the backends take turns, smoothly by
// weight: weights 5, 1 and 1 give a a b a c a a, and not five times a in a row.
// Over requests whose candidates differ, because some backend is full, failing
// or new, each backend still gets its share of those requests that it was a
// candidate for.
//
// Choose it where tunnels are short or the number of backends never changes, and
// an even rate of upgrades matters more than an even number of tunnels: after a
// backend's restart it stays with fewer tunnels than the others. It takes one
// lock, for a time linear in the candidates.
func RoundRobin() Balancer { return new(roundRobin) }

type roundRobin struct {
	mu sync.Mutex

	// turns has those that have been candidates, in configuration order as far
	// as it is known, so that candidates are found in one walk. Those that the
	// set has lost are removed when they are come across.
	turns []turn
	count uint64 // calls of mark
}

// A turn tells what one backend is owed. It gains its weight at each pick that it
// is a candidate for, and pays the sum of all candidates' weights when chosen.
type turn struct {
	backend *Backend
	weight  float64 // as of the last pick
	credit  float64 // an integer, until the candidates' total changes
	total   float64 // what credit is a fraction of
	marked  uint64  // the value of count when it was last a candidate
}

func (rr *roundRobin) Pick(_ *http.Request, candidates []*Backend) (*Backend, error) {
	if len(candidates) == 0 {
		return nil, ErrNoBackend
	}
	rr.mu.Lock()
	defer rr.mu.Unlock()
	total, ok := rr.markLocked(candidates)
	if !ok {
		rr.learnLocked(candidates)
		total, _ = rr.markLocked(candidates)
	}
	return rr.chooseLocked(total), nil
}

// markLocked finds candidates among the turns and returns the sum of their
// weights. It reports false if one is not there, or is there in another order.
func (rr *roundRobin) markLocked(candidates []*Backend) (total float64, ok bool) {
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
		t.marked, t.weight = rr.count, float64(b.Weight())
		total += t.weight
		i++
	}
	return total, true
}

// chooseLocked returns the marked backend that is owed most.
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
			// A turn is worth the same among few as among many. Without this, where
			// candidates vary regularly, some backends fall behind without end.
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

// learnLocked puts candidates among the turns. Those that are there already share
// out their places in their own order: each call can only bring the turns closer
// to configuration order, so that in the end markLocked finds any candidates.
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
// Choose it where many proxies share the backends and each sees few upgrades, so
// that neither counts nor turns of one of them mean much. It takes no lock and
// keeps no state.
func Random() Balancer { return random{} }

type random struct{}

func (random) Pick(_ *http.Request, candidates []*Backend) (*Backend, error) {
	if len(candidates) == 0 {
		return nil, ErrNoBackend
	}
	total := 0.0
	for _, b := range candidates {
		total += float64(b.Weight())
	}
	point := rand.Float64() * total
	for _, b := range candidates {
		if point -= float64(b.Weight()); point < 0 {
			return b, nil
		}
	}
	// Rounding, or a weight that changed meanwhile.
	return candidates[len(candidates)-1], nil
}
