package wsproxy

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/internal/relay"
)

// Drain empties the backend with that ID, for instance before it is restarted: it gets no new
// tunnels, and its tunnels are closed over a time, as [CloseOptions.Over] says. Their clients
// get Close 1012, which asks them to come again, and they get another backend; the backend gets
// 1001. An upgrade that has picked the backend already is closed in the same way as soon as it
// is open. [Backend.State] is [BackendDraining].
//
// Drain returns nil when the backend has no tunnel and no upgrade left: it can then be stopped.
// The backend drains until [Proxy.Resume]. The error is otherwise
//
//   - a [*DrainError], when ctx ends first: the tunnels that are left stay open, and the
//     backend drains on without new ones. Call Drain again, or Resume;
//   - [ErrResumed], when Resume was called;
//   - [ErrShutdown], when [Proxy.Shutdown] or [Proxy.Close] was called, which end all tunnels;
//   - an error that names the ID, if it is neither in the set nor that of a removed backend
//     that still has tunnels.
//
// A hook that calls Drain waits for itself if the backend is that of its own upgrade, or of its
// own tunnel that is open. In Trace.Closed the tunnel is open no longer.
//
// In a handler of an admin page, do not pass the context of the request: it ends when the
// page is closed, and the drain stops halfway. Use [context.WithoutCancel] and a timeout, as
// the Example does.
//
// Drain may be called again while it runs: the new call closes the tunnels that are left at its
// own pace. The earlier one stops closing, and goes on waiting. [Proxy.SetBackends] does not
// end it, whether the new set has the backend or not. A backend that comes back into the set
// still drains, unless it had no tunnels left before. [BackendConfig.Drain] is the same as a
// configuration. Both are independent: a backend gets new tunnels when it is resumed and its
// configuration does not drain it.
func (p *Proxy) Drain(ctx context.Context, id string, over time.Duration) error {
	b, d, c, err := p.beginDrain(id)
	if err != nil {
		return err
	}
	defer p.endClosing(b, c)
	p.queue.wake()
	p.logDrainBegins(b)
	if set := p.set.Load(); len(set.active) == 0 && slices.Contains(set.all, b) {
		p.logNoneLeft(b)
	}
	err = p.drainBackend(ctx, b, d, c, over)
	b.counters.countDrain(c.isTakenOver.Load(), err)
	p.logDrainEnds(b, err)
	return err
}

// drainBackend closes the tunnels of b, and waits until none is left or the drain ends.
func (p *Proxy) drainBackend(ctx context.Context, b *Backend, d *drain, c *closingRun, over time.Duration) error {
	numEnded, numCut := p.registry.endedOf(b)
	p.closePaced(ctx, c.stop, p.registry.tunnelsOf(b), over, func(t *Tunnel) bool { return t.closeFor(c.cause) })
	select {
	case <-d.empty:
	case <-d.resumed:
	case <-p.registry.stopped:
	case <-ctx.Done():
	}
	switch {
	case isClosed(d.empty):
		return nil
	case isClosed(d.resumed):
		return ErrResumed
	case isClosed(p.registry.stopped):
		return ErrShutdown
	}
	left := b.NumTunnels()
	if left == 0 {
		return nil // the last one is about to close d.empty
	}
	ended, cut := p.registry.endedOf(b)
	cut -= numCut
	return &DrainError{ID: b.id, Closed: ended - numEnded - cut, Cut: cut, Left: left, Err: ctx.Err()}
}

// Resume ends the drain of the backend with that ID: it gets new tunnels again, and a
// [Proxy.Drain] under way returns [ErrResumed]. Tunnels that have begun to end do
// end, and the others stay open. With [WithSlowStart] the backend starts slowly. If the backend does
// not drain, Resume does nothing. It returns an error, and changes nothing, if there is no
// backend with that ID, or if its [BackendConfig.Drain] is set: that is changed by
// [Proxy.SetBackends].
func (p *Proxy) Resume(id string) error {
	hasResumed, err := p.resume(id)
	if hasResumed {
		p.logResumed(id)
		p.queue.wake()
	}
	return err
}

// A drain has the events that the calls of Drain for one backend wait for, until Resume.
type drain struct {
	empty   chan struct{} // closed when the backend has no tunnel left; guarded by Proxy.mu
	resumed chan struct{} // closed by Resume
}

// A closingRun closes the tunnels of one backend at a pace. A backend has one at most: a new one
// stops the old one.
type closingRun struct {
	cause        relay.Cause
	isConfigured bool          // of BackendConfig.Drain
	stop         chan struct{} // closed to stop it; see Backend.closing
	isTakenOver  atomic.Bool   // another run has stopped it
}

// drains reports whether the backend gets no new tunnels because of Drain or BackendConfig.Drain.
func (b *Backend) drains() bool { return b.drain.Load() != nil || b.target.Load().config.Drain }

// beginDrain makes the backend with that ID drain, and stops what closes its tunnels now. One
// endClosing follows.
func (p *Proxy) beginDrain(id string) (*Backend, *drain, *closingRun, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.known[id]
	switch {
	case b == nil:
		return nil, nil, nil, fmt.Errorf("wsproxy: drain backend %q: %w", id, errUnknownBackend)
	case isClosed(p.registry.stopped):
		return nil, nil, nil, ErrShutdown
	}
	d := b.drain.Load()
	if d == nil {
		d = &drain{empty: make(chan struct{}), resumed: make(chan struct{})}
		b.drain.Store(d)
		b.updateState()
		p.set.Store(newBackendSet(p.set.Load().all))
		p.recordStateChange()
	}
	c := b.beginClosingLocked(relay.CauseDrain, false)
	p.signalEmptyLocked(b)
	return b, d, c, nil
}

func (p *Proxy) resume(id string) (hasResumed bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.known[id]
	switch {
	case b == nil:
		return false, fmt.Errorf("wsproxy: resume backend %q: %w", id, errUnknownBackend)
	case b.target.Load().config.Drain:
		return false, fmt.Errorf("wsproxy: resume backend %q: its BackendConfig.Drain is set, which SetBackends changes", id)
	}
	d := b.drain.Swap(nil)
	if d == nil {
		return false, nil
	}
	close(d.resumed)
	b.updateState()
	if b.closing != nil && b.closing.cause == relay.CauseDrain {
		b.stopClosingLocked()
	}
	b.beginSlowStart()
	p.set.Store(newBackendSet(p.set.Load().all))
	p.recordStateChange()
	return true, nil
}

// followConfigLocked begins or ends what BackendConfig.Drain does to the tunnels of b, whose
// target was old. A call of Drain that closes them goes on at its own pace: see endClosing.
func (p *Proxy) followConfigLocked(b *Backend, old *target) {
	isSet, wasSet := b.target.Load().config.Drain, old != nil && old.config.Drain
	switch {
	case isSet && !wasSet && (b.closing == nil || b.closing.cause != relay.CauseDrain):
		p.closeInBackgroundLocked(b, relay.CauseDrain, true)
	case !isSet && b.closing != nil && b.closing.isConfigured:
		b.stopClosingLocked()
	}
}

// closeIfDown closes the tunnels of b, which has failed its check for long. It returns nil if
// something else closes them.
func (p *Proxy) closeIfDown(b *Backend) *closingRun {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b.closing != nil {
		return nil
	}
	p.closeInBackgroundLocked(b, relay.CauseBackendDown, false)
	if b.closing == nil { // there are none
		return new(closingRun)
	}
	return b.closing
}

// stopClosingDown ends what closeIfDown has begun.
func (p *Proxy) stopClosingDown(b *Backend) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b.closing != nil && b.closing.cause == relay.CauseBackendDown {
		b.stopClosingLocked()
	}
}

// closeInBackgroundLocked closes the tunnels of b at the default pace on a goroutine, if there
// are any and the proxy is not shut down.
func (p *Proxy) closeInBackgroundLocked(b *Backend, cause relay.Cause, isConfigured bool) {
	if b.NumTunnels() == 0 || !p.registry.beginClosing() {
		return
	}
	c := b.beginClosingLocked(cause, isConfigured)
	go p.runClosing(b, c) // ends when c.stop is closed, and after 9 s at the latest
}

// runClosing closes the tunnels of b for c.
func (p *Proxy) runClosing(b *Backend, c *closingRun) {
	defer p.registry.endClosing()
	defer p.endClosing(b, c)
	p.closePaced(context.Background(), c.stop, p.registry.tunnelsOf(b), 0, func(t *Tunnel) bool { return t.closeFor(c.cause) })
}

// beginClosingLocked returns the run that closes the tunnels of b from now on.
func (b *Backend) beginClosingLocked(cause relay.Cause, isConfigured bool) *closingRun {
	if b.closing != nil {
		b.closing.isTakenOver.Store(true)
	}
	b.stopClosingLocked()
	b.closing = &closingRun{cause: cause, isConfigured: isConfigured, stop: make(chan struct{})}
	return b.closing
}

// endClosing records that c has ended. What a call of Drain has left is closed for
// BackendConfig.Drain, if that is set.
func (p *Proxy) endClosing(b *Backend, c *closingRun) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b.closing != c {
		return
	}
	b.closing = nil
	if !c.isConfigured && b.target.Load().config.Drain {
		p.closeInBackgroundLocked(b, relay.CauseDrain, true)
	}
}

func (b *Backend) stopClosingLocked() {
	if b.closing != nil {
		close(b.closing.stop)
		b.closing = nil
	}
}

// stopClosing stops what closes the tunnels of single backends: all are closed now.
func (p *Proxy) stopClosing() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.known {
		b.stopClosingLocked()
	}
}

// emptied records that b had no tunnel for a moment, and gets no new ones.
func (p *Proxy) emptied(b *Backend) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.signalEmptyLocked(b)
	p.forgetLocked(b)
}

// signalEmptyLocked ends the drain and the closing run of b if it has no tunnels.
func (p *Proxy) signalEmptyLocked(b *Backend) {
	if b.NumTunnels() > 0 {
		return
	}
	b.stopClosingLocked()
	if d := b.drain.Load(); d != nil && !isClosed(d.empty) {
		close(d.empty)
	}
}
