package wsproxymetrics

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
)

func TestTextHasHeadLabelsAndBuckets(t *testing.T) {
	gauge := &Metric{"g", "Back\\slash, \"quotes\" and\nnew line.", Gauge, []string{"a", "b"}}
	counter := &Metric{"c_total", "No labels.", Counter, nil}
	histogram := &Metric{"h_seconds", "Durations.", Histogram, []string{"phase"}}
	all := []Sample{
		{gauge, []string{"x", ""}, 0.5, nil},
		{gauge, []string{"back\\slash \"quotes\"\nnew line", "ü"}, -1, nil},
		{counter, nil, 12345678901, nil},
		{histogram, []string{"dial"}, 0, &wsproxy.Histogram{Count: 3, Sum: 1500 * time.Millisecond,
			Buckets: []wsproxy.Bucket{{Bound: 2500 * time.Microsecond, Count: 1}, {Bound: 7 * 24 * time.Hour, Count: 2}}}},
	}
	for name, want := range map[string]string{
		"": `# HELP g Back\\slash, "quotes" and\nnew line.
# TYPE g gauge
g{a="x",b=""} 0.5
g{a="back\\slash \"quotes\"\nnew line",b="ü"} -1
# HELP c_total No labels.
# TYPE c_total counter
c_total 1.2345678901e+10
# HELP h_seconds Durations.
# TYPE h_seconds histogram
h_seconds_bucket{phase="dial",le="0.0025"} 1
h_seconds_bucket{phase="dial",le="604800"} 2
h_seconds_bucket{phase="dial",le="+Inf"} 3
h_seconds_sum{phase="dial"} 1.5
h_seconds_count{phase="dial"} 3
`,
		`o"ne`: `# HELP g Back\\slash, "quotes" and\nnew line.
# TYPE g gauge
g{proxy="o\"ne",a="x",b=""} 0.5
g{proxy="o\"ne",a="back\\slash \"quotes\"\nnew line",b="ü"} -1
# HELP c_total No labels.
# TYPE c_total counter
c_total{proxy="o\"ne"} 1.2345678901e+10
# HELP h_seconds Durations.
# TYPE h_seconds histogram
h_seconds_bucket{proxy="o\"ne",phase="dial",le="0.0025"} 1
h_seconds_bucket{proxy="o\"ne",phase="dial",le="604800"} 2
h_seconds_bucket{proxy="o\"ne",phase="dial",le="+Inf"} 3
h_seconds_sum{proxy="o\"ne",phase="dial"} 1.5
h_seconds_count{proxy="o\"ne",phase="dial"} 3
`,
	} {
		if diff := cmp.Diff(want, string(appendText(nil, all, name))); diff != "" {
			t.Errorf("text with the name %q (-want +got):\n%s", name, diff)
		}
	}
}

func TestHandlerAcceptsGETAndHEADOnly(t *testing.T) {
	h := Handler(proxytest.NewProxy(t, wsproxy.WithBackends("http://127.0.0.1:1")), Options{})
	for method, want := range map[string]int{"GET": 200, "HEAD": 200, "POST": 405, "DELETE": 405, "OPTIONS": 405} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, "/any/path", nil))
		if w.Code != want {
			t.Errorf("%s: status %d; want %d", method, w.Code, want)
		}
		if got := w.Header().Get("Content-Type"); want == 200 && got != "text/plain; version=0.0.4; charset=utf-8" {
			t.Errorf("%s: Content-Type is %q", method, got)
		}
		if got := w.Header().Get("Allow"); want == http.StatusMethodNotAllowed && got != "GET, HEAD" {
			t.Errorf("%s: Allow is %q", method, got)
		}
		if hasBody := w.Body.Len() > 1000; hasBody != (method == "GET") {
			t.Errorf("%s: body of %d bytes", method, w.Body.Len())
		}
	}
}

func TestHandlerRespondsWithTheSameOrderEachTime(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends("http://127.0.0.1:1", "http://127.0.0.1:2"))
	read := func() string {
		w := httptest.NewRecorder()
		Handler(p, Options{Name: "a"}).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		return w.Body.String()
	}
	if diff := cmp.Diff(read(), read()); diff != "" {
		t.Errorf("two responses without traffic differ:\n%s", diff)
	}
}
