package wsprometheus_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/wsproxy/wsproxy"
	wsprometheus "github.com/wsproxy/wsproxy/contrib/prometheus"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
	"github.com/wsproxy/wsproxy/wsproxymetrics"
)

// newRegistry returns a registry that has the metrics of p, and checks what it can.
func newRegistry(t testing.TB, p *wsproxy.Proxy, name string) *prometheus.Registry {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(wsprometheus.New(p, wsprometheus.Options{Name: name})); err != nil {
		t.Fatal(err)
	}
	return r
}

// scrape returns what the handler of promhttp responds with.
func scrape(t testing.TB, g prometheus.Gatherer) string {
	t.Helper()
	return get(t, promhttp.HandlerFor(g, promhttp.HandlerOpts{}))
}

// get works in a synctest bubble too: it uses no connection.
func get(t testing.TB, h http.Handler) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("scrape: status %d: %.500s", w.Code, w.Body)
	}
	return w.Body.String()
}

// parse returns the families of a text as Prometheus reads it.
func parse(t testing.TB, text string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("parse: %v\n%s", err, text)
	}
	return families
}

// values returns the values of a text by series: name{label="value",...}, with the labels in
// alphabetical order. Those of a histogram are its count and its sum, and each bucket.
func values(t testing.TB, text string) map[string]float64 {
	t.Helper()
	all := make(map[string]float64)
	for name, family := range parse(t, text) {
		for _, m := range family.Metric {
			switch {
			case m.Histogram != nil:
				all[series(name+"_count", m)] = float64(m.Histogram.GetSampleCount())
				all[series(name+"_sum", m)] = m.Histogram.GetSampleSum()
				for _, b := range m.Histogram.Bucket {
					all[series(name+"_bucket", m, "le", fmt.Sprint(b.GetUpperBound()))] = float64(b.GetCumulativeCount())
				}
			case m.Counter != nil:
				all[series(name, m)] = m.Counter.GetValue()
			case m.Gauge != nil:
				all[series(name, m)] = m.Gauge.GetValue()
			default:
				t.Errorf("%s is a %v", name, family.GetType())
			}
		}
	}
	return all
}

// series returns the name of a series, with a label more.
func series(name string, m *dto.Metric, more ...string) string {
	var labels []string
	for _, l := range m.Label {
		labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
	}
	if len(more) > 0 {
		labels = append(labels, fmt.Sprintf("%s=%q", more[0], more[1]))
	}
	slices.Sort(labels)
	if len(labels) == 0 {
		return name
	}
	return name + "{" + strings.Join(labels, ",") + "}"
}

// site is a proxy with some traffic and a backend whose ID needs escapes.
func site(t testing.TB) *wsproxy.Proxy {
	t.Helper()
	p, s := proxytest.Start(t, wsproxy.WithBackendConfigs(
		wsproxy.BackendConfig{ID: `a"\` + "\nü", URL: wstest.StartEcho(t), MaxTunnels: 10}, wsproxy.BackendConfig{ID: "b", URL: "http://127.0.0.1:1"}),
		wsproxy.WithLimits(wsproxy.Limits{Tunnels: 1000, Handshakes: wsproxy.Rate{PerSecond: 100, Burst: 10}}),
		proxytest.FirstCandidate)
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
	proxytest.WantEcho(t, client)
	proxytest.HangUp(t, client)
	proxytest.Exchange(t, s.URL, proxytest.Head("GET / HTTP/1.1", "Host: x"))
	s.Wait()
	return p
}

// What wsproxymetrics writes by itself is what the client library of Prometheus writes.
func TestTextOfCoreIsThatOfCollector(t *testing.T) {
	p := site(t)
	for _, name := range []string{"", "one", "o\"n\\e\n", "\xff", `"one"`} {
		own := get(t, wsproxymetrics.Handler(p, wsproxymetrics.Options{Name: name}))
		theirs := scrape(t, newRegistry(t, p, name))
		ours, want := values(t, own), values(t, theirs)
		for s, v := range ours {
			// Reading takes no lock for long, so the loop looks at its connections meanwhile.
			if strings.HasPrefix(s, "wsproxy_event_loop_lag_seconds") {
				want[s] = v
			}
		}
		if diff := cmp.Diff(want, ours); diff != "" {
			t.Errorf("with the name %q, values of the Collector (-) and of Handler (+) differ:\n%s", name, diff)
		}
		a, b := parse(t, theirs), parse(t, own)
		for _, family := range a {
			got := b[family.GetName()]
			if got.GetHelp() != family.GetHelp() || got.GetType() != family.GetType() {
				t.Errorf("%s: Handler has %v and the help %q; want %v and %q", family.GetName(), got.GetType(), got.GetHelp(), family.GetType(), family.GetHelp())
			}
		}
	}
}

func TestMetricsPassPromlint(t *testing.T) {
	for _, text := range []string{
		scrape(t, newRegistry(t, site(t), "one")), get(t, wsproxymetrics.Handler(site(t), wsproxymetrics.Options{})),
	} {
		problems, err := promlint.New(strings.NewReader(text)).Lint()
		if err != nil {
			t.Error(err)
		}
		for _, p := range problems {
			t.Errorf("promlint: %s: %s", p.Metric, p.Text)
		}
	}
}

func TestTwoProxiesOfOneProgramAreToldApart(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	idle := proxytest.NewProxy(t, wsproxy.WithBackends("http://127.0.0.1:1"))
	for name, p := range map[string]*wsproxy.Proxy{"chat": site(t), "games": idle} {
		if err := r.Register(wsprometheus.New(p, wsprometheus.Options{Name: name})); err != nil {
			t.Fatal(err)
		}
	}
	got := values(t, scrape(t, r))
	for s, want := range map[string]float64{
		`wsproxy_upgrades_total{backend="",proxy="chat",result="refused"}`:  1,
		`wsproxy_upgrades_total{backend="",proxy="games",result="refused"}`: 0,
	} {
		if v, ok := got[s]; !ok || v != want {
			t.Errorf("%s is %v, %v; want %v", s, v, ok, want)
		}
	}
	if err := r.Register(wsprometheus.New(idle, wsprometheus.Options{Name: "games"})); err == nil {
		t.Error("a second proxy with the same name was registered")
	}
	if !r.Unregister(wsprometheus.New(idle, wsprometheus.Options{Name: "games"})) {
		t.Error("a Collector of the same name cannot be unregistered")
	}
}

func TestRemovedBackendLeavesNoSeries(t *testing.T) {
	kept, removed := wsproxy.BackendConfig{ID: "kept", URL: "http://127.0.0.1:1"}, wsproxy.BackendConfig{ID: "removed", URL: wstest.StartEcho(t)}
	p, s := proxytest.Start(t, wsproxy.WithBackendConfigs(removed, kept), proxytest.FirstCandidate)
	r := newRegistry(t, p, "")
	of := func(id string) (all []string) {
		for s := range values(t, scrape(t, r)) {
			if strings.Contains(s, `backend="`+id+`"`) {
				all = append(all, s)
			}
		}
		return all
	}
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
	proxytest.WantEcho(t, client)
	before := len(of("removed"))
	if err := p.SetBackends(kept); err != nil {
		t.Fatal(err)
	}
	if n := len(of("removed")); n != before || n < 40 { // its histograms too
		t.Errorf("a removed backend with a tunnel has %d series; want the %d that it had", n, before)
	}
	proxytest.HangUp(t, client)
	if !proxytest.Becomes(func() bool { return len(of("removed")) == 0 }) {
		t.Errorf("a removed backend without tunnels has %q; want no series", of("removed"))
	}
	if len(of("kept")) == 0 {
		t.Error("the other backend has no series either")
	}

	p.SetBackends(removed) // its counters begin at zero
	if v := values(t, scrape(t, r))[`wsproxy_upgrades_total{backend="removed",result="opened"}`]; v != 0 {
		t.Errorf("the backend was added again and has opened %v tunnels; want 0", v)
	}
}

// No label has a value that a client chooses.
func TestTenThousandClientsMakeAsManySeriesAsOne(t *testing.T) {
	const clients = 10_000
	scene := newScene(t, wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{make([]byte, 16)}}),
		wsproxy.WithOriginPatterns("https://site.example"))
	// Each number of a client is in its address, path, query, host, origin, IDs, subprotocol and
	// codes. Every second one is refused, and each of the others closes with a code of its own.
	visit := func(i int) {
		lines := []string{
			fmt.Sprintf("X-Forwarded-For: 10.%d.%d.%d", i>>16, i>>8&255, i&255), fmt.Sprintf("X-Request-Id: request-%d", i),
			fmt.Sprintf("User-Agent: agent/%d", i), fmt.Sprintf("Cookie: session=%d", i), fmt.Sprintf("Sec-WebSocket-Protocol: v%d", i),
		}
		path := fmt.Sprintf("/room/%d?user=%d", i, i)
		if i%2 == 1 {
			scene.refusedAs(path, append(lines, fmt.Sprintf("Origin: https://evil-%d.example", i))...)
			return
		}
		client := scene.openAs(path, append(lines, "Origin: https://site.example")...)
		code := uint16(3000 + i%2000)
		client.Send(wstest.Close(code, ""))
		client.WantClose(code)
		client.Close()
	}
	names := func() []string { return slices.Sorted(maps.Keys(values(t, scrape(t, scene.registry)))) }
	visit(0)
	visit(1)
	scene.waitUntilIdle()
	few := names()
	for i := 2; i < clients; i++ {
		visit(i)
	}
	scene.waitUntilIdle()
	if diff := cmp.Diff(few, names()); diff != "" {
		t.Errorf("%d clients make other series than two (-two +all):\n%s", clients, diff)
	}
	got := values(t, scrape(t, scene.registry))
	if n := got[`wsproxy_close_codes_total{code="other",side="client"}`]; n != clients/2 {
		t.Errorf("%v tunnels ended with other codes; want %d", n, clients/2)
	}
	if n := got[`wsproxy_refusals_total{reason="origin"}`]; n != clients/2 {
		t.Errorf("%v clients were refused because of their origin; want %d", n, clients/2)
	}
}
