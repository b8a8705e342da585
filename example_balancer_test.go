package wsproxy_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/wsproxy/wsproxy"
)

// A balancer of one's own is one function: here the backend's ID is chosen by the
// request, and LeastTunnels decides for requests that do not choose.
func ExampleBalancerFunc() {
	stable, beta := startBackend("stable"), startBackend("beta")
	defer stable.Close()
	defer beta.Close()

	otherwise := wsproxy.LeastTunnels()
	byChannel := func(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
		channel := r.URL.Query().Get("channel")
		for _, b := range candidates {
			if b.ID() == channel {
				return b, nil
			}
		}
		return otherwise.Pick(r, candidates)
	}
	proxy, err := wsproxy.New(
		wsproxy.WithBackendConfigs(
			wsproxy.BackendConfig{ID: "stable", URL: stable.URL},
			wsproxy.BackendConfig{ID: "beta", URL: beta.URL},
		),
		wsproxy.WithBalancer(wsproxy.BalancerFunc(byChannel)),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()
	service := httptest.NewServer(proxy)
	defer service.Close()

	fmt.Println(askAt(service.URL+"?channel=beta", "hello"))
	fmt.Println(askAt(service.URL+"?channel=beta", "hello"))
	fmt.Println(askAt(service.URL+"?channel=unknown", "hello"))

	// Output:
	// beta got hello
	// beta got hello
	// stable got hello
}

// Backends share no memory. Where each keeps its own rooms, everybody in one room
// must reach the same backend.
func ExampleHash() {
	a, b := startBackend("a"), startBackend("b")
	defer a.Close()
	defer b.Close()
	proxy, err := wsproxy.New(
		wsproxy.WithBackendConfigs(
			wsproxy.BackendConfig{ID: "a", URL: a.URL},
			wsproxy.BackendConfig{ID: "b", URL: b.URL},
		),
		wsproxy.WithBalancer(wsproxy.Hash(wsproxy.ByQuery("room"))),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()
	service := httptest.NewServer(proxy)
	defer service.Close()

	for _, room := range []string{"garden", "kitchen", "attic"} {
		url := service.URL + "?room=" + room
		fmt.Printf("%s: %s, %s\n", room, askAt(url, "alice"), askAt(url, "bob"))
	}

	// Output:
	// garden: b got alice, b got bob
	// kitchen: a got alice, a got bob
	// attic: a got alice, a got bob
}
