package wsproxytest

import (
	"fmt"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/backendtest"
)

// A Backend is what a backend of a test shows to a Balancer.
type Backend struct {
	ID     string // default: the URL
	URL    string // default: "http://" and the ID; nothing is dialed
	Weight int    // default: 1

	NumTunnels int // what [wsproxy.Backend.NumTunnels] returns, also if it is negative

	// Refusals is the number of upgrades that the backend has refused, while it has accepted
	// none. If it is positive, [wsproxy.Backend.Load] is that of a backend that refuses. It
	// does not decay. Zero and negative mean that it does not refuse.
	Refusals int

	// State is BackendUp by default. A candidate that is BackendFailing is one that is to be
	// tried again, and must not be avoided: see [wsproxy.Balancer]. A removed backend is
	// never a candidate.
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
	configs := make([]wsproxy.BackendConfig, len(backends))
	for i, b := range backends {
		configs[i] = wsproxy.BackendConfig{ID: b.ID, URL: b.URL, Weight: b.Weight}
		if b.URL == "" {
			configs[i].URL = "http://" + b.ID
		}
	}
	p, err := wsproxy.New(wsproxy.WithBackendConfigs(configs...))
	if err != nil {
		panic(fmt.Errorf("wsproxytest: %w", err))
	}
	all := p.Backends()
	inSet := configs[:0:0]
	for i, b := range backends {
		if b.State != wsproxy.BackendRemoved {
			inSet = append(inSet, configs[i])
		}
	}
	if err := p.SetBackends(inSet...); err != nil {
		panic(fmt.Errorf("wsproxytest: %w", err))
	}
	for i, b := range backends {
		backendtest.Set(all[i], backendtest.State{
			NumTunnels: b.NumTunnels, Refusals: b.Refusals,
			IsFailing: b.State == wsproxy.BackendFailing,
		})
	}
	return all
}
