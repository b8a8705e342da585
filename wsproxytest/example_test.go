package wsproxytest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/wsproxytest"
)

// A test of a balancer of one's own, which sends guests to the backend named "guests" as
// long as that one is up.
func ExampleNewBackends() {
	balancer := wsproxy.BalancerFunc(func(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
		for _, b := range candidates {
			if b.ID() == "guests" && b.State() == wsproxy.BackendUp {
				return b, nil
			}
		}
		return wsproxy.LeastTunnels().Pick(r, candidates)
	})
	for _, state := range []wsproxy.BackendState{wsproxy.BackendUp, wsproxy.BackendFailing} {
		candidates := wsproxytest.NewBackends(
			wsproxytest.Backend{ID: "chat-1", NumTunnels: 20},
			wsproxytest.Backend{ID: "chat-2", NumTunnels: 10},
			wsproxytest.Backend{ID: "guests", NumTunnels: 30, State: state},
		)
		b, err := balancer.Pick(httptest.NewRequest("GET", "/chat", nil), candidates)
		fmt.Println("guests is", state, "and the balancer picks", b, err)
	}

	// Output:
	// guests is up and the balancer picks guests <nil>
	// guests is failing and the balancer picks chat-2 <nil>
}
