// Package wsprometheus gives the metrics of a [wsproxy.Proxy] to Prometheus' client library:
//
//	prometheus.MustRegister(wsprometheus.New(proxy, wsprometheus.Options{}))
//
// The metrics are those of [wsproxymetrics], and README.md lists them. They are read when
// Prometheus scrapes, and only then: nothing is added to an upgrade, to a message or to an idle
// tunnel. A backend that was removed has no series any longer when its last tunnel has ended.
package wsprometheus

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/label"
	"github.com/wsproxy/wsproxy/wsproxymetrics"
)

// Options are for [New].
type Options struct {
	// Name is the value of the constant label "proxy" of each metric. It tells the proxies of one
	// program apart: a registry refuses the second of two with the same name, and one with a name
	// beside one without. Default: there is no such label.
	Name string
}

// A Collector is the [prometheus.Collector] of one Proxy. Its methods are safe for concurrent
// use.
type Collector struct {
	p     *wsproxy.Proxy
	descs map[*wsproxymetrics.Metric]*prometheus.Desc // immutable
}

// New returns a Collector for p. There is nothing to close: a Collector that no registry has, costs
// nothing. After the end of p it has the last values.
func New(p *wsproxy.Proxy, o Options) *Collector {
	var constant prometheus.Labels
	if o.Name != "" {
		constant = prometheus.Labels{"proxy": label.Text(o.Name)}
	}
	c := &Collector{p: p, descs: make(map[*wsproxymetrics.Metric]*prometheus.Desc)}
	for _, m := range wsproxymetrics.Metrics() {
		c.descs[m] = prometheus.NewDesc(m.Name, m.Help, m.Labels, constant)
	}
	return c
}

// Describe implements [prometheus.Collector].
func (c *Collector) Describe(descs chan<- *prometheus.Desc) {
	for _, m := range wsproxymetrics.Metrics() {
		descs <- c.descs[m]
	}
}

// Collect implements [prometheus.Collector].
func (c *Collector) Collect(metrics chan<- prometheus.Metric) {
	for _, s := range wsproxymetrics.Read(c.p) {
		desc := c.descs[s.Metric]
		m, err := newMetric(desc, &s)
		if err != nil {
			m = prometheus.NewInvalidMetric(desc, err) // the scrape fails, and says why
		}
		metrics <- m
	}
}

func newMetric(desc *prometheus.Desc, s *wsproxymetrics.Sample) (prometheus.Metric, error) {
	switch s.Metric.Kind {
	case wsproxymetrics.Histogram:
		buckets := make(map[float64]uint64, len(s.Histogram.Buckets))
		for _, b := range s.Histogram.Buckets {
			buckets[b.Bound.Seconds()] = b.Count
		}
		return prometheus.NewConstHistogram(desc, s.Histogram.Count, s.Histogram.Sum.Seconds(), buckets, s.Labels...)
	case wsproxymetrics.Counter:
		return prometheus.NewConstMetric(desc, prometheus.CounterValue, s.Value, s.Labels...)
	}
	return prometheus.NewConstMetric(desc, prometheus.GaugeValue, s.Value, s.Labels...)
}
