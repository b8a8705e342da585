package wsproxy

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// A backendSet is one configuration of backends. It does not change once it is in use.
type backendSet struct {
	all []*Backend // in configuration order
}

// candidates appends to dst the backends that the balancer may choose at now: the
// ones that are not among tried and are not full. Of these it appends the ones that are not avoided
// ([Backend.isAvoided]), or all if all are avoided. If there is none, the error says
// why.
func (s *backendSet) candidates(dst, tried []*Backend, now time.Duration) ([]*Backend, error) {
	avoided, full := 0, 0
	for _, b := range s.all {
		isFull, isAvoided := b.isFull(), b.isAvoided(now, len(tried) > 0)
		switch { // the usual case comes first: a set may be large
		case !isFull && !isAvoided && (len(tried) == 0 || !slices.Contains(tried, b)):
			dst = append(dst, b)
		case slices.Contains(tried, b):
		case isFull:
			full++
		default:
			avoided++
		}
	}
	if len(dst) == 0 && avoided > 0 {
		dst = s.appendOthers(dst, tried)
	}
	switch {
	case len(dst) > 0:
		return dst, nil
	case full > 0:
		return nil, fmt.Errorf("%w: every backend has its MaxTunnels", ErrLimit)
	}
	return nil, ErrNoBackend
}

// appendOthers appends the backends that were not tried and are not full, avoided or not.
func (s *backendSet) appendOthers(dst, tried []*Backend) []*Backend {
	for _, b := range s.all {
		if !b.isFull() && !slices.Contains(tried, b) {
			dst = append(dst, b)
		}
	}
	return dst
}

// hasOther reports whether a backend is left that was not tried and is not full.
func (s *backendSet) hasOther(tried []*Backend) bool {
	return slices.ContainsFunc(s.all, func(b *Backend) bool {
		return !slices.Contains(tried, b) && !b.isFull()
	})
}

// SetBackends replaces the set of backends. The counters belong to a backend's ID. No
// tunnel is closed: a removed backend gets no new tunnels and keeps the ones that it
// has. An empty set is allowed: upgrades then get 503. If SetBackends returns an error,
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
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*Backend, len(targets))
	inSet := make(map[*Backend]bool, len(targets))
	for i, t := range targets {
		b := p.known[t.config.ID]
		if b == nil {
			b = p.newBackend(t.config.ID)
			p.known[b.id] = b
		}
		old := b.target.Swap(t)
		if old != nil && !old.hasSameAddress(t) {
			b.forgetFaults() // they were those of the old address
		}
		all[i], inSet[b] = b, true
	}
	p.set.Store(&backendSet{all: all})
	for _, b := range p.known {
		b.removed.Store(!inSet[b])
		p.forgetLocked(b)
	}
	return nil
}

// forgetLocked removes b from known, unless b is in the set or has tunnels.
func (p *Proxy) forgetLocked(b *Backend) {
	if b.removed.Load() && b.NumTunnels() == 0 && p.known[b.id] == b {
		delete(p.known, b.id)
	}
}

// release undoes reserve.
func (p *Proxy) release(b *Backend) {
	b.tunnels.Add(-1)
	if b.removed.Load() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.forgetLocked(b)
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
