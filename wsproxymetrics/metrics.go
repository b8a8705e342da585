// Package wsproxymetrics gives the counters of a [wsproxy.Proxy] as metrics: with names, help texts,
// types, labels and current values.
//
// A program without a metrics library serves them in the text format of Prometheus, which
// Prometheus itself, VictoriaMetrics, the OpenTelemetry Collector and the agents of most vendors
// read:
//
//	proxy, err := wsproxy.New(wsproxy.WithBackends("http://127.0.0.1:9001"))
//	if err != nil {
//		log.Fatal(err)
//	}
//	go http.ListenAndServe("127.0.0.1:9090", wsproxymetrics.Handler(proxy, wsproxymetrics.Options{}))
//	log.Fatal(http.ListenAndServe(":8000", proxy))
//
// The metrics show which backends a proxy has, and why requests are refused. So serve them on an
// address that clients cannot reach, as here, or behind the authentication of the program.
//
// A program that has a registry of Prometheus' client library or a MeterProvider of OpenTelemetry
// registers the proxy there, by the modules contrib/prometheus and contrib/otel. They give the
// same metrics, because they read the same table: [Metrics]. A program with another library writes
// its own exporter in a few lines, with [Read].
//
// # What it costs
//
// The proxy counts anyway: nothing is added to an upgrade, to a message or to an idle tunnel. A
// Read is as expensive as [wsproxy.Proxy.Stats] and [wsproxy.Backend.Stats] for each backend: it
// adds up the traffic of all open tunnels.
//
// # How many series there are
//
// No label has a value that a client chooses: not its address, its path, its origin or its ID.
// The label backend has the IDs of the backends that are in the set, and of removed ones that still
// have tunnels; it is empty for requests for which no backend was picked. All others have a fixed
// list of values. So a proxy has about 90 series, and 55 for each backend; each pair of a side and a
// cause by which tunnels have ended adds 15, and one for each backend. A backend that is removed has
// no series any longer when its last tunnel has ended.
package wsproxymetrics

import (
	"slices"
	"strings"

	"github.com/wsproxy/wsproxy"
)

// A Metric describes a metric. It must not be modified.
type Metric struct {
	Name   string // with the prefix wsproxy_
	Help   string // one line: the meaning, and how to read it
	Kind   Kind
	Labels []string // the names of its labels
}

// A Kind is the type of a metric.
type Kind uint8

const (
	Counter   Kind = iota + 1 // it increases, from zero when the proxy begins, or the backend comes into the set
	Gauge                     // it goes up and down
	Histogram                 // it counts durations in buckets, in seconds
)

// String returns "counter", "gauge" or "histogram", as Prometheus calls them.
func (k Kind) String() string {
	switch k {
	case Counter:
		return "counter"
	case Gauge:
		return "gauge"
	case Histogram:
		return "histogram"
	}
	return "untyped"
}

// A Sample is one value of a metric.
type Sample struct {
	Metric    *Metric
	Labels    []string           // the values of Metric.Labels, in their order; all of them are UTF-8
	Value     float64            // of a Counter or Gauge
	Histogram *wsproxy.Histogram // of a Histogram; nil for others
}

// Metrics returns all metrics, by name.
func Metrics() []*Metric {
	all := make([]*Metric, len(families))
	for i := range families {
		all[i] = &families[i].Metric
	}
	return all
}

// Read returns the current values of p, those of one metric one after the other, by name. The
// samples of a metric have the same order each time: backends are in the order of their
// configuration, removed ones last. A metric that has no value is left out.
//
// The values of one call belong together as far as those of [wsproxy.Proxy.Stats] do: a tunnel that
// opens meanwhile may be in one of them and not yet in another.
func Read(p *wsproxy.Proxy) []Sample { return newSnapshot(p).samples() }

// A family is a metric, and the function that finds its samples in a snapshot.
type family struct {
	Metric
	read func(s *snapshot, out *samples)
}

// families has all metrics, by name.
var families = slices.SortedFunc(slices.Values(table), func(a, b family) int {
	return strings.Compare(a.Name, b.Name)
})

// samples returns the samples of all metrics.
func (s *snapshot) samples() []Sample {
	var out samples
	for i := range families {
		out.metric = &families[i].Metric
		families[i].read(s, &out)
	}
	return out.all
}

// samples collects the samples of one metric after the other.
type samples struct {
	metric *Metric
	all    []Sample
}

// add adds a value of the metric with these labels.
func add[N int | int64 | uint64 | float64](out *samples, value N, labels ...string) {
	out.all = append(out.all, Sample{Metric: out.metric, Labels: labels, Value: float64(value)})
}

// addBool adds 1 if is is true, and 0 otherwise.
func addBool(out *samples, is bool, labels ...string) {
	if is {
		add(out, 1, labels...)
	} else {
		add(out, 0, labels...)
	}
}

func addHistogram(out *samples, h wsproxy.Histogram, labels ...string) {
	out.all = append(out.all, Sample{Metric: out.metric, Labels: labels, Histogram: &h})
}
