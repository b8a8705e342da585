package wsproxytest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

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

// A sticky balancer sends a client to the backend that its cookie names, and a new one to the
// backend with the lowest load.
type sticky struct{}

func (sticky) Pick(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
	least := candidates[0]
	cookie, err := r.Cookie("backend")
	for _, b := range candidates {
		if err == nil && b.ID() == cookie.Value {
			return b, nil // also if it has a flag: then it is to be tried again
		}
		if b.Load() < least.Load() {
			least = b
		}
	}
	return least, nil
}

// A test of the sticky balancer, with a backend that had failed and is to be tried again.
func ExampleNewBackends_sticky() {
	returning := httptest.NewRequest("GET", "/chat", nil)
	returning.AddCookie(&http.Cookie{Name: "backend", Value: "chat-2"})

	chat1 := wsproxytest.Backend{ID: "chat-1", NumTunnels: 3}
	chat2 := wsproxytest.Backend{ID: "chat-2", NumTunnels: 40}
	failed := wsproxytest.Backend{ID: "chat-2", NumTunnels: 40, Flags: []wsproxy.Flag{wsproxy.FlagUnreachable}}
	for _, candidates := range [][]*wsproxy.Backend{
		wsproxytest.NewBackends(chat1, chat2),
		wsproxytest.NewBackends(chat1, failed),
		wsproxytest.NewBackends(chat1), // chat-2 may not be chosen now
	} {
		last := candidates[len(candidates)-1]
		b, err := sticky{}.Pick(returning, candidates)
		fmt.Printf("the last candidate, %v, is %v: %v, %v\n", last, last.State(), b, err)
	}

	// Output:
	// the last candidate, chat-2, is up: chat-2, <nil>
	// the last candidate, chat-2, is failing: chat-2, <nil>
	// the last candidate, chat-1, is up: chat-1, <nil>
}

func ExampleTestBalancer() {
	err := wsproxytest.TestBalancer(func() wsproxy.Balancer { return sticky{} })
	fmt.Println(err)

	// A balancer that avoids failing backends, as if the proxy did not do that already.
	err = wsproxytest.TestBalancer(func() wsproxy.Balancer {
		return wsproxy.BalancerFunc(func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			for _, b := range candidates {
				if b.State() == wsproxy.BackendUp {
					return b, nil
				}
			}
			return candidates[0], nil
		})
	})
	fmt.Println(err)

	// Output:
	// <nil>
	// wsproxytest: Pick must not avoid a candidate that has a flag: of 200 requests of clients it gave 200 to backend-2.example, and none while that was a candidate that is resting; a balancer need not look at flags
}

// A backend restarts for 3 s. The clients that come meanwhile wait. The documentation of Scene
// has a short form of this test.
func TestRestartIsAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scene := wsproxytest.NewScene(t, []wsproxytest.Backend{{ID: "chat"}},
			wsproxy.WithBalancer(sticky{}),
			wsproxy.WithLimits(wsproxy.Limits{Queue: 100}))
		before := scene.Connect(httptest.NewRequest("GET", "/room/blue", nil))

		scene.SetBehavior("chat", wsproxytest.Down())
		if code := before.Wait(); code != 1012 {
			t.Errorf("the tunnel ended with code %d; want 1012", code)
		}
		time.AfterFunc(3*time.Second, func() { scene.SetBehavior("chat", wsproxytest.Echo()) })

		start := time.Now()
		clients := make(chan *wsproxytest.Client)
		for range 20 {
			go func() { clients <- scene.Connect(httptest.NewRequest("GET", "/room/blue", nil)) }()
		}
		for range 20 {
			if c := <-clients; c.Status != http.StatusSwitchingProtocols {
				t.Errorf("a client that waited got status %d; want 101", c.Status)
			}
		}
		if d := time.Since(start); d < 3*time.Second || d > 4*time.Second {
			t.Errorf("the clients waited for %v; want 3s to 4s", d)
		}
		if n := scene.Backend("chat").NumTunnels(); n != 20 {
			t.Errorf("chat has %d tunnels; want 20", n)
		}
	})
}

// One of two backends refuses all upgrades. It has no tunnels, but gets no more than its share
// of the clients, because the balancer compares Load and not NumTunnels.
func TestRefusingBackendIsNoBlackHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scene := wsproxytest.NewScene(t,
			[]wsproxytest.Backend{{ID: "chat-1", NumTunnels: 1000}, {ID: "chat-2"}},
			wsproxy.WithBalancer(sticky{}))
		scene.SetBehavior("chat-2", wsproxytest.Refuse(http.StatusForbidden, nil))

		numRefused := 0
		for range 60 {
			c := scene.Connect(httptest.NewRequest("GET", "/chat", nil))
			switch {
			case c.Status == http.StatusForbidden:
				numRefused++
			case c.Backend != scene.Backend("chat-1"):
				t.Errorf("a client got status %d of backend %v", c.Status, c.Backend)
			}
			time.Sleep(time.Second)
		}
		if numRefused > 35 {
			t.Errorf("%d of 60 clients were refused; want half of them, and few more", numRefused)
		}
	})
}
