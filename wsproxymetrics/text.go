package wsproxymetrics

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/label"
)

// Options are for [Handler].
type Options struct {
	// Name is the value of the label "proxy" of each metric. It tells the proxies of one program
	// apart. Default: there is no such label.
	Name string
}

// contentType names version 0.0.4 of the text format, which every version of Prometheus reads.
// https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
const contentType = "text/plain; version=0.0.4; charset=utf-8"

// Handler returns a handler that responds with the metrics of p in the text format of Prometheus.
// It accepts GET and HEAD, on any path. It authenticates no one: see the package documentation.
func Handler(p *wsproxy.Proxy, o Options) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "want GET or HEAD", http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Content-Type", contentType)
		if r.Method == http.MethodHead {
			return
		}
		w.Write(appendText(nil, Read(p), label.Text(o.Name)))
	})
}

// appendText appends samples in the text format. Name is the value of the label "proxy"; empty
// means that there is none.
func appendText(dst []byte, all []Sample, name string) []byte {
	var metric *Metric
	for _, s := range all {
		if s.Metric != metric {
			metric = s.Metric
			dst = appendHead(dst, metric)
		}
		l := labels(metric.Labels, s.Labels, name)
		if s.Histogram != nil {
			dst = appendHistogram(dst, metric.Name, l, s.Histogram)
		} else {
			dst = appendValue(dst, metric.Name, l, s.Value)
		}
	}
	return dst
}

func appendHead(dst []byte, m *Metric) []byte {
	dst = append(dst, "# HELP "+m.Name+" "+helpEscapes.Replace(m.Help)+"\n"...)
	return append(dst, "# TYPE "+m.Name+" "+m.Kind.String()+"\n"...)
}

// labels returns the labels of a sample as text, without braces.
func labels(names, values []string, name string) string {
	var all []string
	if name != "" {
		all = append(all, pair("proxy", name))
	}
	for i, n := range names {
		all = append(all, pair(n, values[i]))
	}
	return strings.Join(all, ",")
}

func pair(name, value string) string { return name + `="` + valueEscapes.Replace(value) + `"` }

// "label_value can be any sequence of UTF-8 characters, but the backslash (\), double-quote ("),
// and line feed (\n) characters have to be escaped". In a help text, double quotes are not.
var (
	valueEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
	helpEscapes  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
)

// appendHistogram appends the buckets, one more that counts everything, the sum and the count.
func appendHistogram(dst []byte, metric, l string, h *wsproxy.Histogram) []byte {
	prefix := l
	if prefix != "" {
		prefix += ","
	}
	for _, b := range h.Buckets {
		dst = appendValue(dst, metric+"_bucket", prefix+pair("le", formatFloat(b.Bound.Seconds())), float64(b.Count))
	}
	dst = appendValue(dst, metric+"_bucket", prefix+pair("le", "+Inf"), float64(h.Count))
	dst = appendValue(dst, metric+"_sum", l, h.Sum.Seconds())
	return appendValue(dst, metric+"_count", l, float64(h.Count))
}

func appendValue(dst []byte, name, l string, value float64) []byte {
	dst = append(dst, name...)
	if l != "" {
		dst = append(dst, "{"+l+"}"...)
	}
	dst = append(dst, ' ')
	dst = append(dst, formatFloat(value)...)
	return append(dst, '\n')
}

func formatFloat(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
