package wsproxy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/wsproxy/wsproxy/internal/dialer"
	"github.com/wsproxy/wsproxy/internal/health"
)

// A checker probes the backends of a Proxy: see [HealthCheck]. Package health decides when a
// probe begins, and when a backend has failed its check.
type checker struct {
	p      *Proxy
	cancel context.CancelFunc // ends all goroutines of the checker
	done   chan struct{}      // closed when they have ended

	changed  chan struct{} // the proxy has another set
	finished chan *check
	probes   sync.WaitGroup // goroutines of probes

	// Owned by the goroutine of run.
	set      *backendSet // in schedule and checks
	schedule *health.Schedule[*check]
	checks   map[*Backend]*check // of the backends in the set
}

// A check is the health check of one backend with one address.
type check struct {
	backend *Backend
	target  *target
	ctx     context.Context // of the probes; ends when the backend is removed or has another address
	cancel  context.CancelFunc

	// Owned by the goroutine of watch while a probe runs.
	state    health.Check
	lastErr  error         // of the last probe that failed
	failedAt time.Duration // when the backend has failed its check, since the proxy's start; 0 if it has not
	closing  *closingRun   // what closes its tunnels since then, or has closed them; nil: nothing
}

// newChecker starts the checker of p, which has a set. Stop ends it.
func newChecker(p *Proxy) *checker {
	ctx, cancel := context.WithCancel(context.Background())
	c := &checker{
		p:        p,
		cancel:   cancel,
		done:     make(chan struct{}),
		changed:  make(chan struct{}, 1),
		finished: make(chan *check),
		schedule: health.NewSchedule[*check](p.healthCheck.Interval, p.healthCheck.Timeout+probeGrace),
		checks:   make(map[*Backend]*check),
	}
	go c.run(ctx) // until stop, and then until all probes have returned
	return c
}

// stop ends the checker: no probe begins any longer, and the contexts of those under way end. It
// does not wait. It does nothing if c is nil.
func (c *checker) stop() {
	if c != nil {
		c.cancel()
	}
}

// wait waits until the goroutines of a checker that was stopped have ended, or until ctx ends.
func (c *checker) wait(ctx context.Context) {
	if c == nil {
		return
	}
	select {
	case <-c.done:
	case <-ctx.Done():
	}
}

// follow makes the checker follow a change of the set.
func (c *checker) follow() {
	if c == nil {
		return
	}
	select {
	case c.changed <- struct{}{}:
	default: // it will look at the set anyway
	}
}

// report raises the flag of b because of err, or clears it. It is called after each probe: the
// flag may have been forgotten with an address that has come back.
func (c *checker) report(b *Backend, err error) {
	now, reason := c.p.now(), ""
	if err != nil {
		reason = err.Error()
	}
	change := b.health.update(func(s *health.Backend) health.Change { return s.RecordCheck(now, err != nil, reason) })
	b.afterChange(change)
	c.p.reportHealth(b, change, err)
}

// run begins probes when they are due.
func (c *checker) run(ctx context.Context) {
	defer close(c.done)
	defer c.probes.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.changed:
		case k := <-c.finished:
			c.schedule.Finish(k)
		case <-timer.C:
		}
		c.update(ctx)
		c.begin()
		if wait, ok := c.schedule.Wait(c.p.now()); ok {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
	}
}

// update follows the set of the proxy.
func (c *checker) update(ctx context.Context) {
	set := c.p.set.Load()
	if set == c.set {
		return
	}
	c.set = set
	old := c.checks
	c.checks = make(map[*Backend]*check, len(set.all))
	inOrder := make([]*check, len(set.all))
	for i, b := range set.all {
		t, k := b.target.Load(), old[b]
		if k == nil || !k.target.hasSameAddress(t) {
			k = &check{backend: b, target: t}
			k.ctx, k.cancel = context.WithCancel(ctx)
		}
		c.checks[b], inOrder[i] = k, k
	}
	for _, k := range c.schedule.Replace(c.p.now(), inOrder, rand.Float64()) {
		k.cancel()
	}
}

// begin begins the probes that are due.
func (c *checker) begin() {
	now := c.p.now()
	for {
		k, ok := c.schedule.Due(now)
		if !ok {
			return
		}
		c.schedule.Start(now, k, rand.Float64())
		c.probes.Add(1)
		go c.watch(k) // ends with the probe, or with the context of the check
	}
}

// watch has a probe made, and records its result. A Probe that does not return has failed after
// its timeout, and again after each interval.
func (c *checker) watch(k *check) {
	defer c.probes.Done()
	defer c.finish(k)
	h := c.p.healthCheck
	ctx, cancel := context.WithTimeout(k.ctx, h.Timeout)
	defer cancel()
	result := make(chan error, 1)
	c.probes.Add(1)
	go c.probe(ctx, k.backend, result) // ends when the Probe returns
	isLate := false
	timer := time.NewTimer(h.Timeout + probeGrace)
	defer timer.Stop()
	for {
		select {
		case <-k.ctx.Done():
			return
		case err := <-result:
			if err == nil && contextErr(ctx) != nil {
				err = lateError(k.backend)
			}
			if !isLate {
				c.record(k, err)
			}
			return
		case <-timer.C:
			isLate = true
			c.record(k, lateError(k.backend))
			timer.Reset(h.Interval)
		}
	}
}

// finish tells run that no probe of k is under way any longer.
func (c *checker) finish(k *check) {
	select {
	case c.finished <- k:
	case <-k.ctx.Done(): // run has forgotten k, or has ended
	}
}

// probe calls the Probe, and sends its result also if it ends its goroutine.
func (c *checker) probe(ctx context.Context, b *Backend, result chan<- error) {
	defer c.probes.Done()
	err := fmt.Errorf("wsproxy: probe of backend %s: HealthCheck.Probe has ended its goroutine", b.id)
	defer func() { result <- err }()
	if err = c.p.callProbe(ctx, b); err != nil {
		err = fmt.Errorf("%w", err) // the text of a program's own error may panic; that of fmt does not
	}
}

// record records the result of a probe.
func (c *checker) record(k *check, err error) {
	if k.ctx.Err() != nil || !k.backend.target.Load().hasSameAddress(k.target) {
		return // it is about another address, or was canceled
	}
	if dialer.IsLocal(err) {
		return // this host has no descriptor or port left
	}
	k.backend.counters.countProbe(err == nil)
	k.state = k.state.Record(err == nil, c.p.healthCheck.Fall, c.p.healthCheck.Rise)
	if err != nil {
		k.lastErr = err
	}
	c.drain(k)
	if k.state.IsFailed() {
		c.report(k.backend, k.lastErr)
	} else {
		c.report(k.backend, nil)
	}
	if err == nil {
		k.backend.hasten() // it may be reached again
		c.p.queue.wake()
	}
}

// drain begins to close the tunnels of a backend that has failed its check for DrainAfter, and
// stops when the backend works again. What takes over may leave some, so it begins again then.
func (c *checker) drain(k *check) {
	now, after := c.p.now(), c.p.healthCheck.DrainAfter
	switch {
	case !k.state.IsFailed():
		if k.closing != nil {
			c.p.stopClosingDown(k.backend)
		}
		k.failedAt, k.closing = 0, nil
	case k.failedAt == 0:
		k.failedAt = max(now, 1)
	case after > 0 && now-k.failedAt >= after && (k.closing == nil || k.closing.isTakenOver.Load()):
		numTunnels := k.backend.NumTunnels()
		if closing := c.p.closeIfDown(k.backend); closing != nil {
			k.closing = closing
			if numTunnels > 0 {
				c.p.logClosedDown(k.backend, numTunnels)
			}
		}
	}
}

// lateError is the error of a Probe that has not returned in time.
func lateError(b *Backend) error {
	return fmt.Errorf("wsproxy: probe of backend %s: %w", b.id, context.DeadlineExceeded)
}
