package wsproxytest

import (
	"fmt"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/backendtest"
)

// A Backend describes a backend for [NewBackends] or [NewScene].
type Backend struct {
	ID     string // default: the URL
	URL    string // default: "http://" and the ID; only a Scene dials it
	Weight int    // default: 1

	// NumTunnels is what [wsproxy.Backend.NumTunnels] returns, also if it is negative. In a
	// Scene it is where the proxy begins to count.
	NumTunnels int

	// MaxTunnels and Priority are those of [wsproxy.BackendConfig]. They decide which
	// backends are candidates in a Scene, and with which others [wsproxy.Backend.Load] compares
	// one that refuses.
	MaxTunnels, Priority int

	// Refusals is the number of upgrades that the backend has refused, while it has accepted
	// none. If it is positive, [wsproxy.Backend.Load] is that of a backend that refuses. It
	// does not decay, but in a Scene it halves each second. Zero and negative mean that it does
	// not refuse.
	Refusals int

	// Flags are raised as a first failure raises them. [wsproxy.Backend.Health] has them, and
	// [wsproxy.Backend.State] is BackendFailing, unless it is [wsproxy.FlagFull] alone. A
	// candidate has flags if it is to be tried again, or if all have some. A balancer must
	// not avoid it: see [wsproxy.Balancer].
	//
	// In a Scene the proxy avoids the backend for 1 s, if [wsproxy.WithEjection] does not say
	// otherwise, and then tries it again. FlagCheckFailed stays.
	Flags []wsproxy.Flag

	// State is the backend's place in the set: BackendUp, the default, BackendDraining or
	// BackendRemoved. The last two are never candidates. BackendFailing is an error: it
	// follows from Flags.
	State wsproxy.BackendState
}

// NewBackends returns backends for a test of a Balancer, in their order. All but the removed
// ones are in one set. It panics if a configuration is not valid or an ID stands
// there twice.
//
//	candidates := wsproxytest.NewBackends(
//		wsproxytest.Backend{ID: "a", NumTunnels: 10},
//		wsproxytest.Backend{ID: "b", NumTunnels: 3, Weight: 2},
//	)
//	b, err := balancer.Pick(httptest.NewRequest("GET", "/chat", nil), candidates)
func NewBackends(backends ...Backend) []*wsproxy.Backend {
	_, all, err := newProxy(backends, false)
	if err != nil {
		panic(fmt.Errorf("wsproxytest: %w", err))
	}
	return all
}

// newProxy returns a proxy with backends, and all of them, the removed ones included. IsLive
// says that the proxy will be used.
func newProxy(backends []Backend, isLive bool, opts ...wsproxy.Option) (*wsproxy.Proxy, []*wsproxy.Backend, error) {
	configs := make([]wsproxy.BackendConfig, len(backends))
	var inSet []wsproxy.BackendConfig
	for i, b := range backends {
		var err error
		if configs[i], err = b.config(); err != nil {
			return nil, nil, err
		}
		if b.State != wsproxy.BackendRemoved {
			inSet = append(inSet, configs[i])
		}
	}
	p, err := wsproxy.New(append(opts, wsproxy.WithBackendConfigs(configs...))...)
	if err != nil {
		return nil, nil, err
	}
	all := p.Backends()
	if err := p.SetBackends(inSet...); err != nil {
		return nil, nil, err
	}
	for i, b := range backends {
		s := backendtest.State{NumTunnels: b.NumTunnels, Refusals: b.Refusals, IsLive: isLive}
		for _, f := range b.Flags {
			s.Flags = append(s.Flags, f.String())
		}
		backendtest.Set(all[i], s)
	}
	return p, all, nil
}

// config returns the configuration of b. It checks the fields that are not in it.
func (b *Backend) config() (wsproxy.BackendConfig, error) {
	c := wsproxy.BackendConfig{
		ID: b.ID, URL: b.URL, Weight: b.Weight, MaxTunnels: b.MaxTunnels, Priority: b.Priority,
		Drain: b.State == wsproxy.BackendDraining,
	}
	if b.URL == "" {
		c.URL = "http://" + b.ID
	}
	switch b.State {
	case wsproxy.BackendUp, wsproxy.BackendDraining, wsproxy.BackendRemoved:
	default:
		return c, fmt.Errorf("backend %s: State is %v; want up, draining or removed, and Flags for its faults", c.ID, b.State)
	}
	for _, f := range b.Flags {
		if f < wsproxy.FlagResting || f > wsproxy.FlagUnreachable {
			return c, fmt.Errorf("backend %s: there is no %v", c.ID, f)
		}
	}
	return c, nil
}
