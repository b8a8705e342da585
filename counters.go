package wsproxy

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/internal/health"
	"github.com/wsproxy/wsproxy/internal/histogram"
	"github.com/wsproxy/wsproxy/internal/relay"
)

// This file has the counters of [Stats] and [BackendStats], and at its end what reads them.

// proxyCounters are the counters of a Proxy, backendCounters those of one backend. To count an
// upgrade takes a few atomic additions.
type proxyCounters struct {
	opened     atomic.Uint64
	refusals   [len(reasonNames)]atomic.Uint64 // by reason
	unpicked   refusedCounts                   // see Stats.RefusedUnpicked
	retries    atomic.Uint64
	affinity   [numAffinityResults]atomic.Uint64
	responded  atomic.Uint64
	requests   atomic.Int64 // in flight
	handshakes *histogram.Histogram
	lifetimes  *histogram.Histogram

	ended endedTunnels // guarded by registry.mu
	ends  tunnelEnds   // guarded by registry.mu
}

func (c *proxyCounters) init() {
	c.handshakes, c.lifetimes = histogram.NewLatency(), histogram.NewLifetime()
}

// countRefused counts a request that was refused or has failed.
func (c *proxyCounters) countRefused(i *RefusedInfo) {
	c.refusals[i.Reason].Add(1)
	switch {
	case i.isPlain:
	case i.Backend == nil:
		c.unpicked.add(i.Reason)
	default:
		i.Backend.counters.noTunnel.add(i.Reason)
	}
}

type backendCounters struct {
	opened   atomic.Uint64
	noTunnel refusedCounts                            // upgrades
	classes  [5]atomic.Uint64                         // see BackendStats.ResponseClasses
	attempts [health.NumAttemptOutcomes]atomic.Uint64 // by outcome

	ejectedByResponses, ejectedByTunnels atomic.Uint64
	probesPassed, probesFailed           atomic.Uint64
	lastProbe                            atomic.Uint32 // a ProbeResult

	drains struct{ emptied, left, resumed, superseded atomic.Uint64 } // see DrainCounts

	handshakes *histogram.Histogram
	lifetimes  *histogram.Histogram

	ended endedTunnels // guarded by registry.mu
}

func (c *backendCounters) init() {
	c.handshakes, c.lifetimes = histogram.NewLatency(), histogram.NewLifetime()
}

// countRequest counts an attempt of a request that is no upgrade, which has shown o. The status
// is that of the response, from 200 to 599; 0 without one.
func (c *backendCounters) countRequest(o health.Outcome, status int) {
	if status != 0 {
		c.classes[status/100-1].Add(1)
	} else {
		c.attempts[o].Add(1)
	}
}

// countEjection counts an ejection because of an attempt, or of a tunnel that was lost.
func (c *backendCounters) countEjection(o health.Outcome) {
	if o == health.Lost {
		c.ejectedByTunnels.Add(1)
	} else {
		c.ejectedByResponses.Add(1)
	}
}

// countProbe counts a probe that has ended, or that is late.
func (c *backendCounters) countProbe(hasPassed bool) {
	if hasPassed {
		c.probesPassed.Add(1)
		c.lastProbe.Store(uint32(ProbePassed))
	} else {
		c.probesFailed.Add(1)
		c.lastProbe.Store(uint32(ProbeFailed))
	}
}

// countDrain counts a call of Drain that returns err.
func (c *backendCounters) countDrain(isTakenOver bool, err error) {
	switch {
	case isTakenOver:
		c.drains.superseded.Add(1)
	case err == nil:
		c.drains.emptied.Add(1)
	case err == ErrResumed:
		c.drains.resumed.Add(1)
	default:
		c.drains.left.Add(1)
	}
}

// countAttempt counts an attempt that has ended with o, after it took so long.
func (p *Proxy) countAttempt(b *Backend, o health.Outcome, took time.Duration) {
	b.counters.attempts[o].Add(1)
	if o == health.Opened {
		b.counters.handshakes.Observe(took)
		p.registry.counters.handshakes.Observe(took)
	}
}

// refusedCounts count upgrades that got no tunnel.
type refusedCounts struct{ refused, failed atomic.Uint64 }

func (c *refusedCounts) add(r Reason) {
	if r.isFailure() {
		c.failed.Add(1)
	} else {
		c.refused.Add(1)
	}
}

func (c *refusedCounts) load() (refused, failed uint64) { return c.refused.Load(), c.failed.Load() }

// panicCounts count panics by the hook. There are few hooks, and few panics.
type panicCounts struct {
	mu     sync.Mutex
	byHook map[string]uint64 // guarded by mu; nil before the first one
}

func (c *panicCounts) add(hook string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byHook == nil {
		c.byHook = make(map[string]uint64)
	}
	c.byHook[hook]++
}

// sorted returns the counts, by hook.
func (c *panicCounts) sorted() []PanicCount {
	c.mu.Lock()
	defer c.mu.Unlock()
	var counts []PanicCount
	for _, hook := range slices.Sorted(maps.Keys(c.byHook)) {
		counts = append(counts, PanicCount{hook, c.byHook[hook]})
	}
	return counts
}

// endedTunnels are the totals of tunnels that have ended.
type endedTunnels struct {
	toBackend, toClient Traffic

	counts []EndCount // in no order; a list is small, because few pairs happen
}

// add adds a tunnel. End is nil if it has never opened.
func (e *endedTunnels) add(end *relay.End, toBackend, toClient Traffic) {
	e.toBackend.add(toBackend)
	e.toClient.add(toClient)
	if end == nil {
		return
	}
	side, cause := Side(end.Side), Cause(end.Cause)
	for i := range e.counts {
		if c := &e.counts[i]; c.Side == side && c.Cause == cause {
			c.Count++
			return
		}
	}
	e.counts = append(e.counts, EndCount{side, cause, 1})
}

// sorted returns a copy of the counts.
func (e *endedTunnels) sorted() []EndCount {
	return slices.SortedFunc(slices.Values(e.counts), func(a, b EndCount) int {
		return cmp.Or(cmp.Compare(a.Side, b.Side), cmp.Compare(a.Cause, b.Cause))
	})
}

// tunnelEnds are further totals of tunnels that have ended, for all backends together. The lists
// are small, and in no order.
type tunnelEnds struct {
	cut       uint64
	codes     []CodeCount
	lifetimes []endLifetimes
}

// endLifetimes count the lifetimes of one EndLifetimes.
type endLifetimes struct {
	side  Side
	cause Cause
	lived *histogram.Histogram
}

// add adds a tunnel that has lived for so long.
func (e *tunnelEnds) add(end *relay.End, lived time.Duration) {
	if end.Cut {
		e.cut++
	}
	e.addCode(Side(end.Side), countedCode(end.Code))
	e.lifetimesOf(Side(end.Side), Cause(end.Cause)).Observe(lived)
}

func (e *tunnelEnds) addCode(side Side, code int) {
	for i := range e.codes {
		if c := &e.codes[i]; c.Side == side && c.Code == code {
			c.Count++
			return
		}
	}
	e.codes = append(e.codes, CodeCount{side, code, 1})
}

// countedCode returns the code as which a Close code counts: see [CodeCount].
func countedCode(code int) int {
	if code == 0 || code >= 1000 && code <= 1015 {
		return code
	}
	return -1
}

// lifetimesOf returns the lifetimes of the tunnels with such an end, which begin with the first one.
func (e *tunnelEnds) lifetimesOf(side Side, cause Cause) *histogram.Histogram {
	for _, l := range e.lifetimes {
		if l.side == side && l.cause == cause {
			return l.lived
		}
	}
	h := histogram.NewLifetime()
	e.lifetimes = append(e.lifetimes, endLifetimes{side, cause, h})
	return h
}

// sortedCodes returns a copy of the codes.
func (e *tunnelEnds) sortedCodes() []CodeCount {
	return slices.SortedFunc(slices.Values(e.codes), func(a, b CodeCount) int {
		return cmp.Or(cmp.Compare(a.Side, b.Side), cmp.Compare(a.Code, b.Code))
	})
}

// sortedLifetimes returns the lifetimes so far.
func (e *tunnelEnds) sortedLifetimes() []EndLifetimes {
	var all []EndLifetimes
	for _, l := range e.lifetimes {
		all = append(all, EndLifetimes{l.side, l.cause, newHistogram(l.lived)})
	}
	slices.SortFunc(all, func(a, b EndLifetimes) int {
		return cmp.Or(cmp.Compare(a.Side, b.Side), cmp.Compare(a.Cause, b.Cause))
	})
	return all
}

// snapshot returns the counters without the traffic of open tunnels, and these tunnels.
func (r *registry) snapshot() (Stats, []*Tunnel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &r.counters
	s := Stats{
		Upgrading: len(r.upgrades), Tunnels: r.numTunnels,
		Opened: c.opened.Load(), Retries: c.retries.Load(),
		Affinity: AffinityCounts{
			Bound: c.affinity[affinityBound].Load(), New: c.affinity[affinityNew].Load(),
			Rebound: c.affinity[affinityRebound].Load(), Invalid: c.affinity[affinityInvalid].Load(),
		},
		Requests: int(c.requests.Load()), Responded: c.responded.Load(),
		ToBackend: c.ended.toBackend, ToClient: c.ended.toClient, Ended: c.ended.sorted(),
		Cut: c.ends.cut, CloseCodes: c.ends.sortedCodes(), LifetimesByEnd: c.ends.sortedLifetimes(),
		Handshakes: newHistogram(c.handshakes), Lifetimes: newHistogram(c.lifetimes),
	}
	s.RefusedUnpicked, s.FailedUnpicked = c.unpicked.load() // before refusals, which has all of them
	for i := range c.refusals {
		s.addRefusals(Reason(i), c.refusals[i].Load())
	}
	return s, r.tunnelsLocked()
}

// addRefusals adds the n requests that were refused or failed for one reason.
func (s *Stats) addRefusals(r Reason, n uint64) {
	switch {
	case n == 0:
		return
	case r.isFailure():
		s.Failed += n
	default:
		s.Refused += n
	}
	s.Refusals = append(s.Refusals, RefusalCount{r, n})
}

// backendSnapshot is snapshot for one backend.
func (r *registry) backendSnapshot(b *Backend) (BackendStats, []*Tunnel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &b.counters
	attempts := func(o health.Outcome) uint64 { return c.attempts[o].Load() }
	s := BackendStats{
		Tunnels: len(b.open), Opened: c.opened.Load(),
		Requests: int(b.requests.Load()),
		Accepted: attempts(health.Opened), Refused: attempts(health.Answered) + attempts(health.Responded),
		Full: attempts(health.Busy), Failed: attempts(health.Unanswered), Unreached: attempts(health.Unreached),
		Abandoned:          attempts(health.Neutral),
		EjectedByResponses: c.ejectedByResponses.Load(), EjectedByTunnels: c.ejectedByTunnels.Load(),
		ProbesPassed: c.probesPassed.Load(), ProbesFailed: c.probesFailed.Load(), LastProbe: ProbeResult(c.lastProbe.Load()),
		Drains: DrainCounts{
			Emptied: c.drains.emptied.Load(), Left: c.drains.left.Load(),
			Resumed: c.drains.resumed.Load(), Superseded: c.drains.superseded.Load(),
		},
		ToBackend: c.ended.toBackend, ToClient: c.ended.toClient, Ended: c.ended.sorted(),
		Handshakes: newHistogram(c.handshakes), Lifetimes: newHistogram(c.lifetimes),
	}
	s.UpgradesRefused, s.UpgradesFailed = c.noTunnel.load()
	for i := range c.classes {
		s.ResponseClasses[i] = c.classes[i].Load()
		s.Responded += s.ResponseClasses[i]
	}
	return s, slices.Collect(maps.Values(b.open))
}

func newHistogram(h *histogram.Histogram) Histogram {
	s := h.Snapshot()
	buckets := make([]Bucket, len(s.Buckets))
	for i, b := range s.Buckets {
		buckets[i] = Bucket(b)
	}
	return Histogram{Count: s.Count, Sum: s.Sum, Buckets: buckets}
}

// addOpenTraffic adds the traffic of tunnels that were open when the totals were read. The caller
// holds no lock. A tunnel that ends meanwhile is not counted twice: the totals are those of the
// moment at which it was still open.
func addOpenTraffic(tunnels []*Tunnel, toBackend, toClient *Traffic) {
	for _, t := range tunnels {
		b, c := t.relay.Totals()
		toBackend.add(Traffic(b))
		toClient.add(Traffic(c))
	}
}

func (t *Traffic) add(u Traffic) {
	t.Bytes += u.Bytes
	t.Messages += u.Messages
}
