package wsotel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
	"github.com/wsproxy/wsproxy/wsproxymetrics"
)

// A meter collects metrics.
type meter struct {
	reader   *sdkmetric.ManualReader
	provider *sdkmetric.MeterProvider
}

func newMeter(t *testing.T) *meter {
	t.Helper()
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	t.Cleanup(func() { provider.Shutdown(context.Background()) })
	return &meter{reader, provider}
}

// collect returns the metrics by name.
func (m *meter) collect(t *testing.T) map[string]metricdata.Metrics {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := m.reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	byName := make(map[string]metricdata.Metrics)
	for _, s := range all.ScopeMetrics {
		for _, d := range s.Metrics {
			byName[d.Name] = d
		}
	}
	return byName
}

// values returns the values of all series but those of the histograms that hooks record, by their
// names and attributes.
func values(t *testing.T, collected map[string]metricdata.Metrics) map[string]float64 {
	t.Helper()
	all := make(map[string]float64)
	add := func(name string, points []metricdata.DataPoint[float64]) {
		for _, p := range points {
			all[name+seriesOf(p.Attributes)] = p.Value
		}
	}
	for name, m := range collected {
		switch data := m.Data.(type) {
		case metricdata.Gauge[float64]:
			add(name, data.DataPoints)
		case metricdata.Sum[float64]:
			if !data.IsMonotonic || data.Temporality != metricdata.CumulativeTemporality {
				t.Errorf("%s is not a monotonic, cumulative counter", name)
			}
			add(name, data.DataPoints)
		case metricdata.Histogram[float64]:
		default:
			t.Errorf("%s is a %T", name, data)
		}
	}
	return all
}

func seriesOf(attrs attribute.Set) string {
	return "{" + attrs.Encoded(attribute.DefaultEncoder()) + "}"
}

// series is seriesOf with these names and values.
func series(names, values []string, more ...attribute.KeyValue) string {
	attrs := more
	for i, name := range names {
		attrs = append(attrs, attribute.String(name, values[i]))
	}
	return seriesOf(attribute.NewSet(attrs...))
}

// wanted returns the values of values, as wsproxymetrics has them.
func wanted(p *wsproxy.Proxy, common ...attribute.KeyValue) map[string]float64 {
	all := make(map[string]float64)
	for _, s := range wsproxymetrics.Read(p) {
		name := s.Metric.Name
		h := s.Histogram
		if h == nil {
			all[name+series(s.Metric.Labels, s.Labels, common...)] = s.Value
		}
		if h == nil || isRecorded(name) {
			continue
		}
		add := func(suffix string, v float64, more ...attribute.KeyValue) {
			all[name+suffix+series(s.Metric.Labels, s.Labels, slices.Concat(common, more)...)] = v
		}
		for _, b := range h.Buckets {
			add("_bucket", float64(b.Count), attribute.String("le", fmt.Sprint(b.Bound.Seconds())))
		}
		add("_bucket", float64(h.Count), attribute.String("le", "+Inf"))
		add("_count", float64(h.Count))
		add("_sum", h.Sum.Seconds())
	}
	return all
}

func isRecorded(name string) bool {
	return slices.Contains([]string{handshakeMetric, lifetimeMetric, phaseMetric, queueWaitMetric}, name)
}

// driveTraffic opens and ends tunnels, and is refused. It returns when the proxy has counted all.
func driveTraffic(t *testing.T, p *wsproxy.Proxy, url string) (open *wstest.Peer) {
	t.Helper()
	open, _ = proxytest.Open(t, url, proxytest.UpgradeTo("/"))
	for range 3 {
		client, _ := proxytest.Open(t, url, proxytest.UpgradeTo("/"))
		proxytest.WantEcho(t, client)
		proxytest.HangUp(t, client)
	}
	lost, _ := proxytest.Open(t, url, proxytest.UpgradeTo("/"))
	proxytest.WantEcho(t, lost)
	lost.Reset()
	proxytest.Exchange(t, url, proxytest.UpgradeTo("/refused"))
	proxytest.Exchange(t, url, proxytest.Head("GET / HTTP/1.1", "Host: chat.example", "Connection: close"))
	if !proxytest.Becomes(func() bool { s := p.Stats(); return s.Tunnels == 1 && s.Upgrading == 0 }) {
		t.Fatal("the tunnels have not ended")
	}
	return open
}

// refuseSome refuses upgrades of the path /refused.
var refuseSome = wsproxy.WithAdmit(func(r *http.Request) (any, error) {
	if r.URL.Path == "/refused" {
		return nil, &wsproxy.StatusError{Status: 403, Err: errors.New("not you")}
	}
	return nil, nil
})

func TestMetricsAreThoseOfWsproxymetrics(t *testing.T) {
	for _, name := range []string{"", "chat", "chat\xff"} {
		t.Run("name "+name, func(t *testing.T) {
			p := proxytest.NewProxy(t, refuseSome, wsproxy.WithBackendConfigs(
				wsproxy.BackendConfig{ID: "a\xff", URL: wstest.StartEcho(t)}, wsproxy.BackendConfig{ID: `"b"`, URL: wstest.StartEcho(t)}))
			m := newMeter(t)
			s := instrument(t, p, Options{MeterProvider: m.provider, Name: name}, sdktrace.AlwaysSample())
			open := driveTraffic(t, p, proxytest.Serve(t, s).URL)
			var common []attribute.KeyValue
			if name != "" {
				common = []attribute.KeyValue{attribute.String("proxy", strings.ReplaceAll(name, "chat\xff", `"chat\xff"`))}
			}
			collected := m.collect(t)
			got, want := values(t, collected), wanted(p, common...)
			for series, v := range want {
				if g, ok := got[series]; !ok || g != v && !strings.HasPrefix(series, "wsproxy_event_loop_lag_seconds") { // loops go on
					t.Errorf("%s is %v (%t); want %v", series, g, ok, v)
				}
				delete(got, series)
			}
			if len(got) > 0 {
				t.Errorf("there are %q too", slices.Sorted(maps.Keys(got)))
			}
			for _, d := range wsproxymetrics.Metrics() {
				if got, ok := collected[d.Name]; ok && got.Description != d.Help {
					t.Errorf("%s is described as %q; want %q", d.Name, got.Description, d.Help)
				}
			}
			wantHistograms(t, collected, p, common...)
			proxytest.HangUp(t, open)
		})
	}
}

// wantHistograms checks that those which hooks record have the counts and the bounds of the core.
func wantHistograms(t *testing.T, collected map[string]metricdata.Metrics, p *wsproxy.Proxy, common ...attribute.KeyValue) {
	t.Helper()
	got := make(map[string]metricdata.HistogramDataPoint[float64])
	for name, m := range collected {
		if data, ok := m.Data.(metricdata.Histogram[float64]); ok {
			if m.Unit != "s" {
				t.Errorf("%s has the unit %q; want s", name, m.Unit)
			}
			for _, point := range data.DataPoints {
				got[name+seriesOf(point.Attributes)] = point
			}
		}
	}
	for _, s := range wsproxymetrics.Read(p) {
		if s.Histogram == nil || !isRecorded(s.Metric.Name) || s.Histogram.Count == 0 {
			continue
		}
		series := s.Metric.Name + series(s.Metric.Labels, s.Labels, common...)
		point, ok := got[series]
		delete(got, series)
		if !ok || point.Count != s.Histogram.Count {
			t.Errorf("%s has counted %d; want %d", series, point.Count, s.Histogram.Count)
			continue
		}
		var bounds []float64
		for _, b := range s.Histogram.Buckets {
			bounds = append(bounds, b.Bound.Seconds())
		}
		if !slices.Equal(point.Bounds, bounds) {
			t.Errorf("%s has the bounds %v; want %v", series, point.Bounds, bounds)
		}
		if d := point.Sum - s.Histogram.Sum.Seconds(); d < -0.1 || d > 0.1 {
			t.Errorf("%s has the sum %v; want about %v", series, point.Sum, s.Histogram.Sum.Seconds())
		}
	}
	if len(got) > 0 {
		t.Errorf("there are the histograms %q too", slices.Sorted(maps.Keys(got)))
	}
}

// Each metric is there when what it counts has happened; the test above compares what there is.
func TestEachMetricHasAnInstrument(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	recorder := &recordingMeter{names: make(map[string]string)}
	m, err := newMetrics(p, recorder, nil)
	if err != nil {
		t.Fatal(err)
	}
	m.registration.Unregister()
	for _, d := range wsproxymetrics.Metrics() {
		want := map[string]string{d.Name: d.Kind.String()}
		if d.Kind == wsproxymetrics.Histogram && !isRecorded(d.Name) {
			want = map[string]string{d.Name + "_bucket": "counter", d.Name + "_sum": "counter", d.Name + "_count": "counter"}
		}
		for name, kind := range want {
			if recorder.names[name] != kind {
				t.Errorf("%s is a %q; want a %s", name, recorder.names[name], kind)
			}
			delete(recorder.names, name)
		}
	}
	if len(recorder.names) > 0 {
		t.Errorf("there are the instruments %v too", recorder.names)
	}
}

// A recordingMeter stores the kinds of instruments by name.
type recordingMeter struct {
	noop.Meter
	names map[string]string
}

func (m *recordingMeter) Float64ObservableGauge(name string, _ ...metric.Float64ObservableGaugeOption) (metric.Float64ObservableGauge, error) {
	m.names[name] = "gauge"
	return noop.Float64ObservableGauge{}, nil
}

func (m *recordingMeter) Float64ObservableCounter(name string, _ ...metric.Float64ObservableCounterOption) (metric.Float64ObservableCounter, error) {
	m.names[name] = "counter"
	return noop.Float64ObservableCounter{}, nil
}

func (m *recordingMeter) Float64Histogram(name string, _ ...metric.Float64HistogramOption) (metric.Float64Histogram, error) {
	m.names[name] = "histogram"
	return noop.Float64Histogram{}, nil
}

func TestUnitsFollowNames(t *testing.T) {
	for name, want := range map[string]string{
		"wsproxy_bytes_total": "By", "wsproxy_buffered_bytes": "By", "wsproxy_ping_rtt_seconds": "s",
		"wsproxy_tunnels": "", "wsproxy_upgrades_total": "",
	} {
		if got := unitOf(name); got != want {
			t.Errorf("unitOf(%s) = %q; want %q", name, got, want)
		}
	}
}

func TestRemovedBackendLeavesNoObservedSeries(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "a", URL: wstest.StartEcho(t)}, wsproxy.BackendConfig{ID: "b", URL: wstest.StartEcho(t)}))
	m := newMeter(t)
	instrument(t, p, Options{MeterProvider: m.provider}, sdktrace.AlwaysSample())
	hasSeries := func(id string) bool {
		for series := range values(t, m.collect(t)) {
			if strings.Contains(series, "backend="+id) {
				return true
			}
		}
		return false
	}
	if !hasSeries("a") || !hasSeries("b") {
		t.Fatal("a backend has no series")
	}
	if err := p.SetBackends(wsproxy.BackendConfig{ID: "b", URL: p.Backends()[1].URL()}); err != nil {
		t.Fatal(err)
	}
	if hasSeries("a") || !hasSeries("b") {
		t.Error("the backend that was removed has series, or the other one has none")
	}
}

// Of an upgrade that is not sampled, and of one that the proxy's own handler gets.
func TestMetricsAreThoseOfAllUpgrades(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	m := newMeter(t)
	s := instrument(t, p, Options{MeterProvider: m.provider}, sdktrace.NeverSample())
	for _, h := range []http.Handler{s, p} {
		client, _ := proxytest.Open(t, proxytest.Serve(t, h).URL, proxytest.UpgradeTo("/"))
		proxytest.HangUp(t, client)
	}
	s.wantNothingKept(t)
	wantHistograms(t, m.collect(t), p)
}

// The exemplar of a measurement leads to the trace of the upgrade, also at the tunnel's end.
func TestHistogramsHaveExemplarsOfTraces(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	m := newMeter(t)
	s := instrument(t, p, Options{MeterProvider: m.provider}, sdktrace.AlwaysSample())
	client, _ := proxytest.Open(t, proxytest.Serve(t, s).URL, proxytest.UpgradeTo("/"))
	proxytest.HangUp(t, client)
	s.wantNothingKept(t)
	id := s.ended(t, upgradeSpan).SpanContext().TraceID()
	collected := m.collect(t)
	for _, name := range []string{handshakeMetric, lifetimeMetric} {
		data, _ := collected[name].Data.(metricdata.Histogram[float64])
		if len(data.DataPoints) != 1 || len(data.DataPoints[0].Exemplars) != 1 ||
			trace.TraceID(data.DataPoints[0].Exemplars[0].TraceID) != id {
			t.Errorf("%s is %+v; want an exemplar of trace %v", name, data.DataPoints, id)
		}
	}
}

func TestCloseEndsMetrics(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	m := newMeter(t)
	for range 2 { // it may be instrumented again
		s := instrument(t, p, Options{MeterProvider: m.provider}, sdktrace.AlwaysSample())
		if got := values(t, m.collect(t)); len(got) == 0 {
			t.Error("there are no metrics")
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if got := values(t, m.collect(t)); len(got) > 0 {
			t.Errorf("after Close there are %d series; want none", len(got))
		}
	}
}

func TestInstrumentationsOfOneProviderDifferByName(t *testing.T) {
	m := newMeter(t)
	var proxies []*wsproxy.Proxy
	for _, name := range []string{"a", "b"} {
		p := proxytest.NewProxy(t, wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "x", URL: wstest.StartEcho(t)}))
		instrument(t, p, Options{MeterProvider: m.provider, Name: name}, sdktrace.AlwaysSample())
		proxies = append(proxies, p)
	}
	client, _ := proxytest.Open(t, proxytest.Serve(t, proxies[1]).URL, proxytest.UpgradeTo("/"))
	got := values(t, m.collect(t))
	for name, want := range map[string]float64{"a": 0, "b": 1} {
		series := "wsproxy_tunnels" + series([]string{"backend", "proxy"}, []string{"x", name})
		if v, ok := got[series]; !ok || v != want {
			t.Errorf("%s is %v (%t); want %v", series, v, ok, want)
		}
	}
	proxytest.HangUp(t, client)
}

// The global providers and the global propagator do nothing by themselves.
func TestDefaultsAreTheGlobalOnes(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	i, err := New(p, Options{})
	if err != nil {
		t.Fatal(err)
	}
	client, _ := proxytest.Open(t, proxytest.Serve(t, i).URL, proxytest.UpgradeTo("/", "traceparent: "+incomingParent))
	proxytest.WantEcho(t, client)
	proxytest.HangUp(t, client)
	if err := i.Close(); err != nil {
		t.Error(err)
	}
}

func TestNewReturnsErrorOfMeter(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	_, err := New(p, Options{TracerProvider: tracenoop.NewTracerProvider(), MeterProvider: brokenProvider{}})
	if err == nil || !strings.HasPrefix(err.Error(), "wsotel: metric wsproxy_") || !errors.Is(err, errBroken) {
		t.Errorf("New() = %v; want an error that names the metric", err)
	}
}

var errBroken = errors.New("broken")

type brokenProvider struct{ noop.MeterProvider }

func (brokenProvider) Meter(string, ...metric.MeterOption) metric.Meter { return brokenMeter{} }

type brokenMeter struct{ noop.Meter }

func (brokenMeter) Float64ObservableCounter(string, ...metric.Float64ObservableCounterOption) (metric.Float64ObservableCounter, error) {
	return nil, errBroken
}
