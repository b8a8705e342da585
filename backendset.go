package wsproxy

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/wsproxy/wsproxy/internal/affinity"
	"github.com/wsproxy/wsproxy/internal/health"
)

// A backendSet is one configuration of backends. It does not change once it is in use.
type backendSet struct {
	all []*Backend // in configuration order

	active        []*Backend // those of all that may get new tunnels: they do not drain
	firstPriority int        // the lowest one of active

	bindings *affinity.Table[*Backend] // of all, by cookie; nil: there is no cookie
}

// newBackendSet returns the set of backends whose targets are set.
func newBackendSet(all []*Backend) *backendSet {
	s := &backendSet{all: all}
	for _, b := range all {
		if b.hashes != nil {
			s.addBinding(b)
		}
		if b.drains() {
			continue
		}
		c := &b.target.Load().config
		if len(s.active) == 0 || c.Priority < s.firstPriority {
			s.firstPriority = c.Priority
		}
		s.active = append(s.active, b)
	}
	return s
}

// addBinding has b found by the cookies of its clients.
func (s *backendSet) addBinding(b *Backend) {
	if s.bindings == nil {
		s.bindings = affinity.NewTable[*Backend](b.p.affinity.signer, len(s.all))
	}
	s.bindings.Add(b.hashes, b)
}

// candidates are the backends that a balancer may choose.
type candidates struct {
	set      *backendSet
	backends []*Backend // in configuration order
	tier     health.Tier
	priority int
	isBound  bool // there is one, which the request is bound to
}

// candidates appends to dst the backends that the balancer may choose at now: of those that
// were not tried, the ones of the lowest tier, and of these the ones of the lowest priority.
// The tier is chosen before limits are looked at: backends that have their MaxTunnels are not
// candidates, and no others take their place, unless the request needs no place among tunnels.
// If there is none, the error says why.
func (s *backendSet) candidates(dst, tried []*Backend, now time.Duration, needsPlace bool) (candidates, error) {
	c := candidates{set: s, backends: dst}
	isEmpty := true // of the tier so far
	for _, b := range s.active {
		if len(tried) > 0 && slices.Contains(tried, b) {
			continue
		}
		// A set may be large: so the target is loaded once, and tier is called where it matters.
		t, tier := b.target.Load(), health.TierGood
		if b.health.flags() != 0 {
			tier = b.health.tier(now, len(tried) > 0)
		}
		priority := t.config.Priority
		switch {
		case isEmpty || tier < c.tier || tier == c.tier && priority < c.priority:
			isEmpty = false
			c.tier, c.priority = tier, priority
			c.backends = c.backends[:0]
		case tier > c.tier || priority > c.priority:
			continue
		}
		if !needsPlace || !t.isMax(b.tunnels.Load()) {
			c.backends = append(c.backends, b)
		}
	}
	switch {
	case len(c.backends) > 0:
		return c, nil
	case !isEmpty:
		return c, fmt.Errorf("%w: every backend that may be used has its MaxTunnels", ErrLimit)
	}
	return c, ErrNoBackend
}

// hasOther reports whether a backend is left to try after those that were tried. An upgrade that
// may wait does not try one after the other of those that cannot be reached.
func (s *backendSet) hasOther(tried []*Backend, now time.Duration, mayWait, needsPlace bool) bool {
	for _, b := range s.active { // the usual case needs no list
		isFirst := b.health.flags() == 0 && b.target.Load().config.Priority == s.firstPriority
		if isFirst && !(needsPlace && b.hasMaxTunnels()) && !slices.Contains(tried, b) {
			return true
		}
	}
	c, err := s.candidates(nil, tried, now, needsPlace)
	return err == nil && !(mayWait && c.tier == health.TierUnreachable)
}

// SetBackends replaces the set of backends. It may be called concurrently. The counters
// belong to a backend's ID. No tunnel is closed, but for those of a backend whose
// [BackendConfig.Drain] it sets: a removed backend gets no new tunnels and keeps the ones that
// it has. An empty set is allowed: upgrades then get 503. If SetBackends returns an error,
// which joins a [*ConfigError] for each mistake, nothing has changed.
func (p *Proxy) SetBackends(configs ...BackendConfig) error {
	return p.setBackends("SetBackends", configs)
}

// Backends returns the backends of the current set, in configuration order.
func (p *Proxy) Backends() []*Backend { return slices.Clone(p.set.Load().all) }

// setBackends compiles configs and makes them the set.
func (p *Proxy) setBackends(option string, configs []BackendConfig) error {
	targets, err := compileTargets(option, configs)
	if err != nil {
		return err
	}
	moved, unused := p.replaceSet(targets)
	p.queue.wake()
	for _, h := range unused {
		h.CloseIdleConnections()
	}
	p.checker.follow()
	for _, m := range moved {
		p.reportHealth(m.backend, m.change, nil)
	}
	return nil
}

// A movedBackend has a new address, and the flags of its old one no longer.
type movedBackend struct {
	backend *Backend
	change  health.Change
}

// replaceSet makes the backends of targets the set. Unused are the transports that get no
// further requests.
func (p *Proxy) replaceSet(targets []*target) (moved []movedBackend, unused []*httpTransport) {
	p.mu.Lock()
	defer p.mu.Unlock()
	isFirst := p.set.Load() == nil
	hasChanged := false // the state of a backend
	all := make([]*Backend, len(targets))
	inSet := make(map[*Backend]bool, len(targets))
	for i, t := range targets {
		b := p.known[t.config.ID]
		if b == nil {
			b = p.newBackend(t.config.ID)
			p.known[b.id] = b
		}
		old := b.target.Swap(t)
		hasMoved := old != nil && !old.hasSameAddress(t)
		if hasMoved {
			moved = append(moved, movedBackend{b, b.forgetFaults()}) // they were those of the old address
		}
		hasDrained := old != nil && old.config.Drain && !b.drains()
		hasChanged = hasChanged || hasMoved || old == nil || b.removed.Load() || old.config.Drain != t.config.Drain
		if !isFirst && (old == nil || hasMoved || hasDrained || b.removed.Load()) {
			b.beginSlowStart()
		}
		p.followConfigLocked(b, old)
		all[i], inSet[b] = b, true
	}
	p.set.Store(newBackendSet(all))
	for _, b := range p.known {
		hasChanged = b.removed.Swap(!inSet[b]) == inSet[b] || hasChanged
		b.updateState()
		if h := b.transport.Load(); h != nil && (!inSet[b] || !h.target.hasSameAddress(b.target.Load())) && b.transport.CompareAndSwap(h, nil) {
			unused = append(unused, h)
		}
		p.forgetLocked(b)
	}
	if hasChanged && !isFirst {
		p.recordStateChange()
	}
	return moved, unused
}

// forgetLocked removes b from known, unless b is in the set or has tunnels.
func (p *Proxy) forgetLocked(b *Backend) {
	if b.removed.Load() && b.NumTunnels() == 0 && p.known[b.id] == b {
		delete(p.known, b.id)
	}
}

// release undoes reserve.
func (p *Proxy) release(b *Backend) {
	left := b.tunnels.Add(-1)
	p.queue.wake()
	if left == 0 && (b.removed.Load() || b.drains()) {
		p.emptied(b)
	}
}

// compileTargets compiles a set. The error joins those of all backends.
func compileTargets(option string, configs []BackendConfig) ([]*target, error) {
	var errs []error
	targets := make([]*target, len(configs))
	places := make(map[string]string) // by ID
	for i, c := range configs {
		name := fmt.Sprintf("%s[%d]", option, i)
		t, bad := compileTarget(name, c)
		errs = append(errs, bad...)
		if id := t.config.ID; places[id] != "" && id != "" {
			errs = append(errs, &ConfigError{Option: name + ".ID", Value: id, Err: fmt.Errorf("%s has the same ID", places[id])})
		} else {
			places[id] = name
		}
		targets[i] = t
	}
	return targets, errors.Join(errs...)
}
