package wsproxy

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/internal/health"
)

// This file records the health of each backend and reports its changes. What an attempt shows
// is decided in outcome.go, and what follows from it in internal/health.

// A Flag is a fault of a backend. The backends of an upgrade are chosen by their flags: see
// [Balancer]. A response below 500 clears FlagResting, FlagFull and FlagEjected, except those
// that a lost tunnel has raised: see [RaisedFlag]. A new address clears all flags.
type Flag uint8

const (
	// FlagResting: the backend was reached, and gave no proper response in time, or closed
	// the connection instead; or the client left after it had waited for 1 s or more; or the
	// response was 502, 504, 503 without Retry-After, or one that a hook dropped with
	// [ErrTryNext]; or the backend closed the connection of a tunnel within a second, without a
	// Close frame, before a byte of the client's was passed to it. It is avoided for 1 s.
	FlagResting Flag = iota + 1

	// FlagFull: the backend responded with 503 and Retry-After. It is avoided for that time,
	// at most 30 s.
	FlagFull

	// FlagEjected: what raises FlagResting happened several times in a row: see [Ejection].
	FlagEjected

	// FlagCheckFailed: probes of [WithHealthCheck] failed. It is cleared by probes that pass.
	FlagCheckFailed

	// FlagUnreachable: the connection (TCP, TLS) failed or was not made in time, or the client
	// left after it had waited for it for 1 s or more. The backend is avoided for 1 s; that
	// doubles with each further failure up to 30 s, and is up to a fifth shorter at random. The
	// time ends early if a probe passes, or if another unreachable backend is reached again;
	// see also [Limits.Queue]. It is cleared as soon as the backend is reached.
	FlagUnreachable
)

// String returns "resting", "full", "ejected", "check failed" or "unreachable".
func (f Flag) String() string {
	if f < FlagResting || f > FlagUnreachable {
		return fmt.Sprintf("Flag(%d)", uint8(f))
	}
	return f.internal().String()
}

func (f Flag) internal() health.Flag { return health.Flag(f - FlagResting) }

// Health is what a proxy knows about the faults of a backend.
type Health struct {
	Flags []RaisedFlag // the worst first; empty for a backend without a known fault

	// Refusing reports that the backend refuses more upgrades than it accepts. That is no
	// flag: see [Backend.Load].
	Refusing bool
}

// A RaisedFlag is a flag that is raised. The backend is avoided until a time. Then it is on
// probation: one upgrade at a time tries it, until an attempt succeeds and clears the flag. What
// a lost tunnel has raised is cleared by a tunnel that lives for 1 s, or carries messages both ways.
type RaisedFlag struct {
	Flag   Flag
	Reason string    // the text of the error that raised it last
	Since  time.Time // when it was raised
	Until  time.Time // the backend is avoided before it, which may be over; zero for FlagCheckFailed
}

// An Ejection is the rule by which a backend is ejected that is reached, but fails: see
// [WithEjection]. Negative values are errors.
type Ejection struct {
	// Failures is how many failures in a row eject a backend: those that raise
	// [FlagResting]. Responses that fail and tunnels that are lost are counted apart: a 101
	// says nothing about how long its tunnel will live. The failures of one client address
	// (see [ByClientIP]) count once in 10 s, or once a second if the backend has opened no
	// tunnel in these 10 s. So one client cannot take a backend from others that use it. Zero
	// means 5.
	Failures int

	// Backoff is how long a backend is ejected. After that time one more failure ejects it
	// again; the time doubles up to MaxBackoff, and is up to a fifth shorter at random. Zero
	// means 1 s, and 30 s for MaxBackoff, or Backoff if that is more. Any other MaxBackoff below
	// Backoff is an error.
	Backoff, MaxBackoff time.Duration

	// MaxShare is the largest part of the set that is ejected, rounded down; but one backend
	// always may be. Zero means 0.5; more than 1 is an error.
	MaxShare float64

	// Off ejects no backend. Backends still rest.
	Off bool
}

// Health returns the flags of the backend. [Backend.State] is the summary.
func (b *Backend) Health() Health {
	var all Health
	all.Refusing, _ = b.refusing()
	h := &b.health
	if h.flags() == 0 {
		return all
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for f := FlagUnreachable; f >= FlagResting; f-- {
		if !h.state.Flags().Has(f.internal()) {
			continue
		}
		reason, since, until := h.state.Describe(f.internal())
		r := RaisedFlag{Flag: f, Reason: reason, Since: b.p.start.Add(since)}
		if until < math.MaxInt64 {
			r.Until = b.p.start.Add(until)
		}
		all.Flags = append(all.Flags, r)
	}
	return all
}

// backendHealth is the health of one backend.
type backendHealth struct {
	// mu is acquired under queue.mu, Proxy.mu and Proxy.ejecting. No other lock is acquired
	// under it: the queue is woken afterwards.
	mu    sync.Mutex
	state health.Backend // guarded by mu

	// published are the flags of state, and the two bits below, so that most upgrades take
	// no lock.
	published atomic.Uint32

	lastOpened atomic.Int64 // the last 101, a time since the proxy's start; -1 if there was none
}

const (
	bitNotClean  = 1 << 8 // an attempt that succeeds changes state
	bitNeedsLife = 1 << 9 // a tunnel that lives changes state
)

func (h *backendHealth) flags() health.Flags { return health.Flags(h.published.Load()) }

// update changes the state. That is published before the lock is released.
func (h *backendHealth) update(change func(*health.Backend) health.Change) health.Change {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := change(&h.state)
	published := uint32(h.state.Flags())
	if !h.state.IsClean() {
		published |= bitNotClean
	}
	if h.state.NeedsLife() {
		published |= bitNeedsLife
	}
	h.published.Store(published)
	return c
}

// tier returns how the backend compares with others at now: see [health.Backend.Tier].
func (b *Backend) tier(now time.Duration, isRetry bool) health.Tier {
	if b.health.flags() == 0 { // the usual case
		return health.TierGood
	}
	return b.health.tier(now, isRetry)
}

func (h *backendHealth) tier(now time.Duration, isRetry bool) health.Tier {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state.Tier(now, isRetry)
}

// beginProbation records that an upgrade begins to try the backend, if a flag is raised. Then one
// endProbation follows. If the condition does not hold, ok is false.
func (b *Backend) beginProbation(now time.Duration, c health.Condition) (hasBegun, ok bool) {
	h := &b.health
	if h.flags() == 0 {
		return false, true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state.Flags() == 0 {
		return false, true
	}
	ok = h.state.BeginProbation(now, c)
	return ok, ok
}

func (b *Backend) endProbation() {
	b.health.mu.Lock()
	b.health.state.EndProbation()
	b.health.mu.Unlock()
	b.p.queue.wake()
}

// mayBeTried reports whether an upgrade that may wait may try the backend at now, though it
// cannot be reached: see [health.Backend.WaiterRetryAt].
func (b *Backend) mayBeTried(now time.Duration) bool {
	h := &b.health
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state.Flags() == 0 || h.state.WaiterRetryAt() <= now
}

// nextChange is [health.Backend.NextChange].
func (b *Backend) nextChange(now time.Duration) (at time.Duration, ok bool) {
	h := &b.health
	if h.flags() == 0 {
		return 0, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state.NextChange(now)
}

// recordHealth records an event of b, which has its outcome, client and Retry-After. Err is
// the reason of a failure. It tells of the flags that have changed.
func (p *Proxy) recordHealth(b *Backend, e health.Event, err error) {
	p.reportHealth(b, p.changeHealth(b, e, err), err)
}

// changeHealth records an event of b, and reports no change.
func (p *Proxy) changeHealth(b *Backend, e health.Event, err error) health.Change {
	h := &b.health
	e.At = p.now()
	e.LastOpened = time.Duration(h.lastOpened.Load())
	if e.Outcome == health.Opened {
		h.lastOpened.Store(int64(e.At))
	}
	isFailure := err != nil
	if e.Outcome == health.Neutral || !isFailure && h.published.Load() == 0 {
		return health.Change{}
	}
	if isFailure {
		e.Reason = err.Error()
	}
	e.Random = rand.Float64()
	change := h.update(func(s *health.Backend) health.Change { return s.Record(e, p.ejection) })
	if change.WantsEjection {
		change.Raised |= p.eject(b, e).Raised
	}
	b.afterChange(change)
	return change
}

// afterChange does what follows from flags that were cleared or raised: others may be candidates
// now. If a backend is reached again, the others may be too: where all were restarted, the first
// one would get all clients.
func (b *Backend) afterChange(c health.Change) {
	b.updateState()
	b.recordFlagChange(c)
	if c.Cleared.Has(health.Unreachable) {
		for _, other := range b.p.set.Load().active {
			other.hasten()
		}
	}
	if c.Cleared&slowStartFlags != 0 {
		b.beginSlowStart()
	}
	if c.Cleared|c.Raised != 0 {
		b.p.queue.wake()
	}
}

// hasten is [health.Backend.Hasten].
func (b *Backend) hasten() {
	if b.health.flags().Has(health.Unreachable) {
		now := b.p.now()
		b.health.update(func(s *health.Backend) health.Change { return s.Hasten(now) })
	}
}

// eject ejects b, unless too many others of the set are ejected.
func (p *Proxy) eject(b *Backend, e health.Event) health.Change {
	p.ejecting.Lock()
	defer p.ejecting.Unlock()
	all := p.set.Load().all
	numEjected := 0
	for _, other := range all {
		if other != b && other.health.flags().Has(health.Ejected) {
			numEjected++
		}
	}
	if !p.ejection.Allows(numEjected, len(all)) {
		return health.Change{}
	}
	change := b.health.update(func(s *health.Backend) health.Change { return s.Eject(e, p.ejection) })
	if change.IsEjected {
		b.counters.countEjection(e.Outcome)
	}
	return change
}

// recordLife records, one second after the 101 of a tunnel, that its backend has not ended it,
// if that can change anything. A tunnel that has begun to end may be open for longer: its
// client may not have answered the Close frame yet.
func (p *Proxy) recordLife(t *Tunnel) {
	b, id := t.backend, t.id
	if !b.needsLife() {
		return
	}
	time.AfterFunc(health.MinLife-(p.now()-t.opened), func() {
		p.registry.addReport() // Shutdown waits for the hook
		defer p.registry.removeReport()
		t := p.registry.tunnelOf(b, id)
		if t != nil && !t.relay.IsEnding() && !b.hasMovedSince(t.opened) {
			p.recordHealth(b, health.Event{Outcome: health.Lived}, nil)
		}
	})
}

// needsLife reports whether a tunnel that lives can change the health of the backend.
func (b *Backend) needsLife() bool { return b.health.published.Load()&bitNeedsLife != 0 }

// reportHealth logs the flags of b that have changed, and calls the hook. That a hook panics
// has no consequence but a line: the change is not the upgrade's.
func (p *Proxy) reportHealth(b *Backend, c health.Change, err error) {
	for f := FlagResting; f <= FlagUnreachable; f++ {
		switch i := f.internal(); {
		case c.Raised.Has(i):
			p.logFailing(b, f, err)
			callHooks(p, "Trace.Health", "", p.traceHooks().health, HealthInfo{Backend: b, Flag: f, Raised: true, State: b.State(), Err: err})
		case c.Cleared.Has(i):
			p.logRecovered(b, f)
			callHooks(p, "Trace.Health", "", p.traceHooks().health, HealthInfo{Backend: b, Flag: f, State: b.State()})
		}
	}
}

// reportTier logs once that upgrades get backends with a flag or of a later priority, and once
// that this is over.
func (p *Proxy) reportTier(c *candidates) {
	isOther := c.tier != health.TierGood || c.priority != c.set.firstPriority
	switch {
	case isOther && !p.usesOthers.Swap(true):
		p.logOthersUsed(c.tier, c.priority)
	case !isOther && p.usesOthers.Load() && slices.ContainsFunc(c.backends, func(b *Backend) bool { return b.health.flags() == 0 }):
		if p.usesOthers.Swap(false) {
			p.logOthersUnused()
		}
	}
}
