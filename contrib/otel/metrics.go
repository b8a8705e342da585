package wsotel

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/label"
	"github.com/wsproxy/wsproxy/wsproxymetrics"
)

// metrics are the instruments of a Proxy.
type metrics struct {
	common       []attribute.KeyValue
	observed     map[string]metric.Float64Observable // by name; read at each collection
	registration metric.Registration

	// Recorded by hooks: the API has no histogram that is read at a collection.
	handshake, lifetime, phase, queueWait metric.Float64Histogram
	admit, queue, dial, answer            metric.MeasurementOption // of phase
	commonOnly                            metric.MeasurementOption
}

// Histograms that hooks record. Any other one is three counters each.
const (
	handshakeMetric = "wsproxy_handshake_duration_seconds"
	lifetimeMetric  = "wsproxy_tunnel_duration_seconds"
	phaseMetric     = "wsproxy_upgrade_phase_seconds"
	queueWaitMetric = "wsproxy_queue_wait_seconds"
)

// newMetrics makes the instruments and registers them, so that each collection reads p once.
func newMetrics(p *wsproxy.Proxy, meter metric.Meter, common []attribute.KeyValue) (*metrics, error) {
	m := &metrics{
		common: common, observed: make(map[string]metric.Float64Observable),
		handshake: noop.Float64Histogram{}, lifetime: noop.Float64Histogram{},
		phase: noop.Float64Histogram{}, queueWait: noop.Float64Histogram{},
	}
	m.admit, m.queue, m.dial, m.answer = m.with("phase", "admit"), m.with("phase", "queue"), m.with("phase", "dial"), m.with("phase", "answer")
	m.commonOnly = m.with()
	stats := p.Stats()
	for _, d := range wsproxymetrics.Metrics() {
		if err := m.add(meter, d, &stats); err != nil {
			return nil, fmt.Errorf("wsotel: metric %s: %w", d.Name, err)
		}
	}
	all := make([]metric.Observable, 0, len(m.observed))
	for _, o := range m.observed {
		all = append(all, o)
	}
	var err error
	m.registration, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		m.observe(o, wsproxymetrics.Read(p))
		return nil
	}, all...)
	if err != nil {
		return nil, fmt.Errorf("wsotel: register the metrics: %w", err)
	}
	return m, nil
}

// add makes the instruments of one metric.
func (m *metrics) add(meter metric.Meter, d *wsproxymetrics.Metric, s *wsproxy.Stats) (err error) {
	switch {
	case d.Kind == wsproxymetrics.Gauge:
		m.observed[d.Name], err = meter.Float64ObservableGauge(d.Name, metric.WithDescription(d.Help), metric.WithUnit(unitOf(d.Name)))
	case d.Kind == wsproxymetrics.Counter:
		err = m.addCounter(meter, d.Name, d.Help, unitOf(d.Name))
	case d.Name == handshakeMetric:
		m.handshake, err = newHistogram(meter, d, &s.Handshakes)
	case d.Name == lifetimeMetric:
		m.lifetime, err = newHistogram(meter, d, &s.Lifetimes)
	case d.Name == phaseMetric:
		m.phase, err = newHistogram(meter, d, &s.Phases.Admit)
	case d.Name == queueWaitMetric:
		m.queueWait, err = newHistogram(meter, d, &s.QueueWaits)
	default:
		for suffix, unit := range map[string]string{"_bucket": "", "_count": "", "_sum": unitOf(d.Name)} {
			if err := m.addCounter(meter, d.Name+suffix, d.Help, unit); err != nil {
				return err
			}
		}
	}
	return err
}

func (m *metrics) addCounter(meter metric.Meter, name, help, unit string) (err error) {
	m.observed[name], err = meter.Float64ObservableCounter(name, metric.WithDescription(help), metric.WithUnit(unit))
	return err
}

// newHistogram makes a histogram with the bounds of h.
func newHistogram(meter metric.Meter, d *wsproxymetrics.Metric, h *wsproxy.Histogram) (metric.Float64Histogram, error) {
	bounds := make([]float64, len(h.Buckets))
	for i, b := range h.Buckets {
		bounds[i] = b.Bound.Seconds()
	}
	return meter.Float64Histogram(d.Name, metric.WithDescription(d.Help), metric.WithUnit(unitOf(d.Name)),
		metric.WithExplicitBucketBoundaries(bounds...))
}

// unitOf returns the unit of a metric, by its name. What is counted has none.
func unitOf(name string) string {
	switch base := strings.TrimSuffix(name, "_total"); {
	case strings.HasSuffix(base, "_seconds"):
		return "s"
	case strings.HasSuffix(base, "_bytes"):
		return "By"
	}
	return ""
}

// observe reports the samples. There are none of a backend that was removed.
func (m *metrics) observe(o metric.Observer, samples []wsproxymetrics.Sample) {
	for _, s := range samples {
		name, attrs := s.Metric.Name, m.attributes(s.Metric.Labels, s.Labels)
		if s.Metric.Kind == wsproxymetrics.Histogram {
			m.observeHistogram(o, name, attrs, s.Histogram)
			continue
		}
		o.ObserveFloat64(m.observed[name], s.Value, metric.WithAttributes(attrs...))
	}
}

// observeHistogram reports the three counters of a histogram, unless hooks record it.
func (m *metrics) observeHistogram(o metric.Observer, name string, attrs []attribute.KeyValue, h *wsproxy.Histogram) {
	bucket, ok := m.observed[name+"_bucket"]
	if !ok {
		return
	}
	observeBucket := func(le string, count uint64) {
		o.ObserveFloat64(bucket, float64(count), metric.WithAttributes(append(attrs, attribute.String("le", le))...))
	}
	for _, b := range h.Buckets {
		observeBucket(strconv.FormatFloat(b.Bound.Seconds(), 'g', -1, 64), b.Count)
	}
	observeBucket("+Inf", h.Count)
	o.ObserveFloat64(m.observed[name+"_sum"], h.Sum.Seconds(), metric.WithAttributes(attrs...))
	o.ObserveFloat64(m.observed[name+"_count"], float64(h.Count), metric.WithAttributes(attrs...))
}

// recordAttempt records an opening handshake, as [wsproxy.Stats] counts it.
func (m *metrics) recordAttempt(a wsproxy.AttemptInfo) {
	if a.Err == nil && a.Status == 101 {
		record(a.Request.Context(), m.handshake, a.Duration, m.with("backend", label.Text(a.Backend.ID())))
	}
}

// recordTimes records the phases that an upgrade has reached. One that was let in has the phase
// queue, also if it did not wait.
func (m *metrics) recordTimes(ctx context.Context, t wsproxy.UpgradeTimes, isLetIn bool) {
	record(ctx, m.phase, t.Admit, m.admit)
	if isLetIn {
		record(ctx, m.phase, t.Queue, m.queue)
	}
	if t.Queue > 0 {
		record(ctx, m.queueWait, t.Queue, m.commonOnly)
	}
	if t.Dial > 0 {
		record(ctx, m.phase, t.Dial, m.dial)
	}
	if t.Answer > 0 {
		record(ctx, m.phase, t.Answer, m.answer)
	}
}

// recordRefused records the phases of an upgrade that was refused. That it was let in is known if
// it has reached a later one, or by the reason: a hook, or a client that left, is at neither side.
func (m *metrics) recordRefused(f *wsproxy.RefusedInfo) {
	if f.Times == (wsproxy.UpgradeTimes{}) {
		return // it was no upgrade
	}
	isLetIn := f.Times.Queue > 0 || f.Times.Dial > 0
	switch f.Reason {
	case wsproxy.ReasonBackendLimit, wsproxy.ReasonQueueFull, wsproxy.ReasonQueueTimeout,
		wsproxy.ReasonNoBackend, wsproxy.ReasonUnreachable, wsproxy.ReasonAnswer:
		isLetIn = true
	}
	m.recordTimes(f.Request.Context(), f.Times, isLetIn)
}

// recordEnd records a tunnel that has ended.
func (m *metrics) recordEnd(ctx context.Context, e *wsproxy.TunnelEnd) {
	record(ctx, m.lifetime, e.Duration, m.with("side", label.Word(e.Side.String()), "cause", label.Word(e.Cause.String())))
}

// record records a duration. The context has the trace for an exemplar.
func record(ctx context.Context, h metric.Float64Histogram, d time.Duration, with metric.MeasurementOption) {
	h.Record(ctx, d.Seconds(), with)
}

// with returns attributes with these names and values, and those of each metric, for a value that a
// hook records.
func (m *metrics) with(namesAndValues ...string) metric.MeasurementOption {
	attrs := make([]attribute.KeyValue, 0, 4)
	for i := 0; i < len(namesAndValues); i += 2 {
		attrs = append(attrs, attribute.String(namesAndValues[i], namesAndValues[i+1]))
	}
	return metric.WithAttributeSet(attribute.NewSet(append(attrs, m.common...)...))
}

// attributes returns attributes with these names and values, and those of each metric, for a value
// that is read at a collection.
func (m *metrics) attributes(names, values []string) []attribute.KeyValue {
	attrs := make([]attribute.KeyValue, 0, len(names)+len(m.common)+1)
	for i, name := range names {
		attrs = append(attrs, attribute.String(name, values[i]))
	}
	return append(attrs, m.common...)
}
