package wsproxytest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/wsproxytest"
)

// A test of a balancer of one's own, which sends everybody to the backend named "guests" as
// long as that one has less than 16 tunnels.
func ExampleNewBackends() {
	otherwise := wsproxy.LeastTunnels()
	balancer := wsproxy.BalancerFunc(func(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
		for _, b := range candidates {
			if b.ID() == "guests" && b.Load() < 16 {
				return b, nil
			}
		}
		return otherwise.Pick(r, candidates)
	})
	for _, guests := range []wsproxytest.Backend{
		{ID: "guests", NumTunnels: 15},
		{ID: "guests", NumTunnels: 16},
		{ID: "guests", NumTunnels: 0, Refusals: 1}, // counts as carrying as many as chat-2
	} {
		candidates := wsproxytest.NewBackends(
			wsproxytest.Backend{ID: "chat-1", NumTunnels: 30},
			wsproxytest.Backend{ID: "chat-2", NumTunnels: 15},
			guests,
		)
		b, err := balancer.Pick(httptest.NewRequest("GET", "/chat", nil), candidates)
		fmt.Printf("guests has %d tunnels and load %d: %v, %v\n", guests.NumTunnels, candidates[2].Load(), b, err)
	}

	// Output:
	// guests has 15 tunnels and load 15: guests, <nil>
	// guests has 16 tunnels and load 16: chat-2, <nil>
	// guests has 0 tunnels and load 16: chat-2, <nil>
}
