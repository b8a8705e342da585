// Package wsproxymetrics gives what a [wsproxy.Proxy] counts as metrics with names, types and
// labels.
//
// [Handler] serves them in the text format of Prometheus, without any dependency. The modules
// contrib/prometheus and contrib/otel are for programs that have a registry of their own.
package wsproxymetrics

import (
	"net/http"

	"github.com/wsproxy/wsproxy"
)

// A Kind is the type of a metric.
type Kind uint8

const (
	Counter Kind = iota + 1
	Gauge
	Histogram
)

// A Metric describes a metric. It must not be modified.
type Metric struct {
	Name   string // with the prefix wsproxy_
	Help   string
	Kind   Kind
	Labels []string // the names of its labels
}

// A Sample is one value of a metric.
type Sample struct {
	Metric    *Metric
	Labels    []string           // the values of Metric.Labels, in their order
	Value     float64            // of a Counter or Gauge
	Histogram *wsproxy.Histogram // of a Histogram
}

// Metrics returns all metrics, by name.
func Metrics() []*Metric { return nil }

// Read returns the current values of p, those of one metric one after the other.
func Read(p *wsproxy.Proxy) []Sample { return nil }

// Options are for [Handler].
type Options struct {
	// Name is the value of the label "proxy" of each metric. It tells the proxies of one program apart. Default: there is no such label.
	Name string
}

// Handler returns a handler that responds with the metrics of p in the text format of Prometheus.
func Handler(p *wsproxy.Proxy, o Options) http.Handler { return http.NotFoundHandler() }
