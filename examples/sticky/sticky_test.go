package main

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/wsproxytest"
)

func TestClientsStayOnTheirBackend(t *testing.T) {
	out := new(strings.Builder)
	err := run(t.Context(), out)
	t.Logf("it printed:\n%s", out)
	if err != nil {
		t.Errorf("run() = %v; want nil", err)
	}
}

func TestRegionalPassesBalancerTest(t *testing.T) {
	if err := wsproxytest.TestBalancer(func() wsproxy.Balancer { return newRegional() }); err != nil {
		t.Error(err)
	}
}

func TestRegionalChoosesABackendOfTheRegion(t *testing.T) {
	proxy, err := wsproxy.New(wsproxy.WithBackendConfigs(
		wsproxy.BackendConfig{ID: "eu-1", URL: "http://10.0.0.1:8080"},
		wsproxy.BackendConfig{ID: "us-1", URL: "http://10.0.0.2:8080"},
		wsproxy.BackendConfig{ID: "us-2", URL: "http://10.0.0.3:8080"},
	))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Close() })
	for _, tt := range []struct{ region, want string }{{"eu", "eu"}, {"us", "us"}, {"ap", ""}, {"", ""}} {
		balancer := newRegional()
		for range 5 {
			b, err := balancer.Pick(httptest.NewRequest("GET", "/?region="+tt.region, nil), proxy.Backends())
			if err != nil || !strings.HasPrefix(b.ID(), tt.want) {
				t.Errorf("region %q: Pick() = %v, %v; want a backend of %q", tt.region, b, err, tt.want)
			}
		}
	}
}
