package wsproxy

import (
	"cmp"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/internal/health"
	"github.com/wsproxy/wsproxy/internal/histogram"
	"github.com/wsproxy/wsproxy/internal/relay"
)

// This file counts: what [Stats] and [BackendStats] are made of.

// snapshot returns the counters without the traffic of open tunnels, and these tunnels.
func (r *registry) snapshot() (Stats, []*Tunnel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &r.counters
	return Stats{
		Upgrading: len(r.upgrades), Tunnels: r.numTunnels,
		Opened: c.opened.Load(), Refused: c.refused.Load(), Failed: c.failed.Load(),
		Requests: int(c.requests.Load()), Responded: c.responded.Load(),
		ToBackend: c.ended.toBackend, ToClient: c.ended.toClient, Ended: c.ended.sorted(),
		Handshakes: newHistogram(c.handshakes), Lifetimes: newHistogram(c.lifetimes),
	}, r.tunnelsLocked()
}

// backendSnapshot is snapshot for one backend.
func (r *registry) backendSnapshot(b *Backend) (BackendStats, []*Tunnel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &b.counters
	attempts := func(o health.Outcome) uint64 { return c.attempts[o].Load() }
	return BackendStats{
		Tunnels: len(b.open), Opened: c.opened.Load(), Upgrading: int(b.upgrading.Load()),
		Requests: int(b.requests.Load()), Responded: c.responded.Load(),
		Accepted: attempts(health.Opened), Refused: attempts(health.Answered) + attempts(health.Responded),
		Full: attempts(health.Busy), Failed: attempts(health.Unanswered), Unreached: attempts(health.Unreached),
		Abandoned: attempts(health.Neutral),
		ToBackend: c.ended.toBackend, ToClient: c.ended.toClient, Ended: c.ended.sorted(),
		Handshakes: newHistogram(c.handshakes), Lifetimes: newHistogram(c.lifetimes),
	}, slices.Collect(maps.Values(b.open))
}

func newHistogram(h *histogram.Histogram) Histogram {
	s := h.Snapshot()
	buckets := make([]Bucket, len(s.Buckets))
	for i, b := range s.Buckets {
		buckets[i] = Bucket(b)
	}
	return Histogram{Count: s.Count, Sum: s.Sum, Buckets: buckets}
}

// proxyCounters are the counters of a Proxy, backendCounters those of one backend. To count an
// upgrade takes a few atomic additions.
type proxyCounters struct {
	opened, refused, failed atomic.Uint64
	responded               atomic.Uint64
	requests                atomic.Int64 // in flight
	handshakes              *histogram.Histogram
	lifetimes               *histogram.Histogram

	ended endedTunnels // guarded by registry.mu
}

func (c *proxyCounters) init() {
	c.handshakes, c.lifetimes = histogram.NewLatency(), histogram.NewLifetime()
}

type backendCounters struct {
	opened     atomic.Uint64
	responded  atomic.Uint64
	attempts   [health.NumAttemptOutcomes]atomic.Uint64 // by outcome
	handshakes *histogram.Histogram
	lifetimes  *histogram.Histogram

	ended endedTunnels // guarded by registry.mu
}

func (c *backendCounters) init() {
	c.handshakes, c.lifetimes = histogram.NewLatency(), histogram.NewLifetime()
}

// countRequest counts an attempt of a request that is no upgrade, which has shown o.
func (c *backendCounters) countRequest(o health.Outcome, hasResponse bool) {
	if hasResponse {
		c.responded.Add(1)
	} else {
		c.attempts[o].Add(1)
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

// addOpenTraffic adds the traffic of tunnels that were open when the totals were read. The caller
// holds no lock. A tunnel that ends meanwhile is not counted twice: the totals are those of the
// moment at which it was still open.
func addOpenTraffic(tunnels []*Tunnel, toBackend, toClient *Traffic) {
	for _, t := range tunnels {
		b, c := t.Traffic()
		toBackend.add(b)
		toClient.add(c)
	}
}

func (t *Traffic) add(u Traffic) {
	t.Bytes += u.Bytes
	t.Messages += u.Messages
}
