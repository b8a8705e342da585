package wsproxy_test

import (
	"net/http"
	"slices"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestSetBackendsWithMistakeChangesNothing(t *testing.T) {
	p, s := proxytest.Start(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	before := p.Backends()
	err := p.SetBackends(
		wsproxy.BackendConfig{ID: before[0].ID(), URL: "http://elsewhere", Weight: 7},
		wsproxy.BackendConfig{URL: "ftp://a", Weight: -1})
	var got []string
	for _, e := range configErrors(t, err) {
		got = append(got, e.Option)
	}
	if len(got) != 2 || got[0] != "SetBackends[1].URL" || got[1] != "SetBackends[1].Weight" {
		t.Errorf("mistakes are in %q; want SetBackends[1].URL and .Weight", got)
	}
	after := p.Backends()
	if len(after) != 1 || after[0] != before[0] || after[0].URL() != before[0].ID() || after[0].Weight() != 1 {
		t.Errorf("Backends() = %v; want what was before", after)
	}
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantEcho(t, client)
}

func TestSetBackendsPreservesCounters(t *testing.T) {
	url := wstest.StartEcho(t)
	p, s := proxytest.Start(t, wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "a", URL: url}))
	a := p.Backends()[0]
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
	if err := p.SetBackends(wsproxy.BackendConfig{ID: "b", URL: url}, wsproxy.BackendConfig{ID: "a", URL: url + "/new", Weight: 5}); err != nil {
		t.Fatal(err)
	}
	if got := p.Backends()[1]; got != a || a.NumTunnels() != 1 || a.URL() != url+"/new" || a.Weight() != 5 {
		t.Errorf("backend a is %v of weight %d with %d tunnels; want the one of before, changed", a.URL(), a.Weight(), a.NumTunnels())
	}
	proxytest.WantEcho(t, client)
}

func TestSetBackendsForgetsBackendAfterItsTunnels(t *testing.T) {
	url := wstest.StartEcho(t)
	p, s := proxytest.Start(t, wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "a", URL: url}))
	a := p.Backends()[0]
	first, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
	second, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))

	p.SetBackends()
	if a.State() != wsproxy.BackendRemoved || len(p.Backends()) != 0 {
		t.Errorf("a is %v, Backends() has %d; want removed and 0", a.State(), len(p.Backends()))
	}
	proxytest.WantEcho(t, first)
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)

	// It comes back while it has tunnels: the same one.
	p.SetBackends(wsproxy.BackendConfig{ID: "a", URL: url})
	if got := p.Backends()[0]; got != a || got.NumTunnels() != 2 || got.State() != wsproxy.BackendUp {
		t.Errorf("a came back as another, with %d tunnels, %v; want itself, 2, up", got.NumTunnels(), got.State())
	}
	p.SetBackends()
	proxytest.HangUp(t, first)
	proxytest.WantEcho(t, second)
	proxytest.HangUp(t, second)
	s.Wait()
	if n := a.NumTunnels(); n != 0 {
		t.Errorf("a has %d tunnels; want 0", n)
	}
	p.SetBackends(wsproxy.BackendConfig{ID: "a", URL: url})
	if p.Backends()[0] == a {
		t.Error("a was not forgotten with its last tunnel")
	}
}

func TestSetBackendsForgetsBackendRemovedDuringUpgrade(t *testing.T) {
	for name, answer := range map[string]string{"refusal": proxytest.Refusing(403, ""), "failure": "nonsense\r\n\r\n"} {
		t.Run(name, func(t *testing.T) {
			backend := wstest.StartRaw(t, answer)
			var p *wsproxy.Proxy
			p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), wsproxy.WithRewrite(func(*wsproxy.ProxyRequest) error {
				return p.SetBackends()
			}))
			a := p.Backends()[0]
			proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
			s.Wait()
			p.SetBackends(wsproxy.BackendConfig{URL: backend.URL()})
			if p.Backends()[0] == a {
				t.Error("backend was not forgotten with its last upgrade")
			}
		})
	}
}

// An upgrade under way keeps to what it has checked the path for.
func TestUpgradeUsesOneVersionOfItsBackend(t *testing.T) {
	old, changed := wstest.StartRaw(t, proxytest.Refusing(403, "")), wstest.StartRaw(t, proxytest.Refusing(403, ""))
	var p *wsproxy.Proxy
	p, s := proxytest.Start(t, wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "a", URL: old.URL()}),
		wsproxy.WithRewrite(func(*wsproxy.ProxyRequest) error {
			return p.SetBackends(wsproxy.BackendConfig{ID: "a", URL: changed.URL() + "/base"})
		}))
	proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/../admin"))
	if req, _, _ := proxytest.ReceivedHead(t, old); req.RequestURI != "/../admin" {
		t.Errorf("backend was asked for %q; want /../admin", req.RequestURI)
	}
	proxytest.WantUntouched(t, changed)
}

func TestSetBackendsStopsUpgradeToPickedBackend(t *testing.T) {
	url := wstest.StartEcho(t)
	one := wsproxy.BackendConfig{ID: "a", URL: url, MaxTunnels: 1}
	for _, tt := range []struct {
		name   string
		change func(*wsproxy.Proxy)
		status int
	}{
		{"removed", func(p *wsproxy.Proxy) { p.SetBackends() }, http.StatusServiceUnavailable},
		{"replaced", func(p *wsproxy.Proxy) { p.SetBackends(wsproxy.BackendConfig{ID: "b", URL: url}) }, http.StatusSwitchingProtocols},
		{"removed and added again", func(p *wsproxy.Proxy) { p.SetBackends(); p.SetBackends(one) }, http.StatusSwitchingProtocols},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var p *wsproxy.Proxy
			var first *wsproxy.Backend // that was picked
			p, s := proxytest.Start(t, wsproxy.WithBackendConfigs(one), wsproxy.WithBalancer(wsproxy.BalancerFunc(
				func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
					if first == nil {
						first = candidates[0]
						tt.change(p)
						return first, nil
					}
					return candidates[0], nil
				})))
			client := wstest.Dial(t, s.URL)
			client.WriteRequest(proxytest.UpgradeTo("/chat"))
			proxytest.WantStatus(t, client.ReadResponse(), tt.status)
			if n := first.NumTunnels(); n != 0 {
				t.Errorf("removed backend has %d tunnels; want none", n)
			}
			// The counter is that of all tunnels of the ID.
			for tunnel := range p.Tunnels() {
				if b := tunnel.Info().Backend; !slices.Contains(p.Backends(), b) {
					t.Errorf("tunnel is with a backend %v of ID %s; want it in the set", b.State(), b.ID())
				}
			}
			if tt.status == http.StatusServiceUnavailable {
				p.SetBackends(one)
				proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
			}
			if b := p.Backends()[0]; b.NumTunnels() != 1 || b.NumTunnels() != p.Stats().Tunnels {
				t.Errorf("backend %s has %d tunnels of %d; want 1 of 1", b.ID(), b.NumTunnels(), p.Stats().Tunnels)
			}
		})
	}
}

func TestRemovedBackendsAreThoseThatStillHaveTunnels(t *testing.T) {
	url := wstest.StartEcho(t)
	configs := []wsproxy.BackendConfig{{ID: "b", URL: url}, {ID: "a", URL: url}, {ID: "unused", URL: url}}
	var first string // candidate
	p, s := proxytest.Start(t, wsproxy.WithBackendConfigs(configs...), wsproxy.WithBalancer(wsproxy.BalancerFunc(
		func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			i := slices.IndexFunc(candidates, func(b *wsproxy.Backend) bool { return b.ID() == first })
			return candidates[i], nil
		})))
	var clients []*wstest.Peer
	for _, first = range []string{"a", "b"} {
		client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
		clients = append(clients, client)
	}
	wantRemoved := func(want ...string) {
		t.Helper()
		var got []string
		if !proxytest.Becomes(func() bool {
			got = nil
			for _, b := range p.RemovedBackends() {
				got = append(got, b.ID())
			}
			return slices.Equal(got, want)
		}) {
			t.Errorf("RemovedBackends() = %q; want %q", got, want)
		}
	}
	wantRemoved()
	p.SetBackends()
	wantRemoved("a", "b")
	p.SetBackends(configs[0])
	wantRemoved("a")
	proxytest.HangUp(t, clients[0])
	wantRemoved()
	proxytest.HangUp(t, clients[1])
}
