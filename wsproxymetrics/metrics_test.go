package wsproxymetrics

import (
	"fmt"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestMetricsAreSortedAndDescribed(t *testing.T) {
	name := regexp.MustCompile(`^wsproxy_[a-z]+(_[a-z]+)*$`)
	labelName := regexp.MustCompile(`^[a-z]+$`)
	all := Metrics()
	if !slices.IsSortedFunc(all, func(a, b *Metric) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("Metrics() is not sorted by name")
	}
	seen := make(map[string]bool)
	for _, m := range all {
		if !name.MatchString(m.Name) || seen[m.Name] {
			t.Errorf("%s: the name is not valid, or there twice", m.Name)
		}
		seen[m.Name] = true
		if isCounter := strings.HasSuffix(m.Name, "_total"); isCounter != (m.Kind == Counter) {
			t.Errorf("%s is a %v: counters, and no others, end in _total", m.Name, m.Kind)
		}
		if isSeconds := strings.HasSuffix(m.Name, "_seconds"); isSeconds != (m.Kind == Histogram) {
			t.Errorf("%s is a %v: histograms, and no others, end in _seconds", m.Name, m.Kind)
		}
		if !strings.HasSuffix(m.Help, ".") || strings.Contains(m.Help, "\n") || len(m.Help) < 10 {
			t.Errorf("%s: the help text %q is no sentence in one line", m.Name, m.Help)
		}
		for _, l := range m.Labels {
			if !labelName.MatchString(l) || l == "proxy" || l == "le" || l == "job" || l == "instance" {
				t.Errorf("%s: a label has the name %q", m.Name, l)
			}
		}
	}
}

// Each counter of a Proxy is in exactly one series: one that is forgotten cannot be seen, and
// one that is there twice is counted twice. Those that are listed are sums of others.
func TestEachCounterIsOneSample(t *testing.T) {
	sums := []string{
		"Stats.Tunnels", "Stats.Opened", "Stats.Refused", "Stats.Failed", "Stats.Responded", "Stats.ToBackend", "Stats.ToClient",
		"Stats.Ended", "Stats.Handshakes", "Stats.Lifetimes", "Stats.Upgrading", "Stats.Requests",
		"BackendStats.Responded", "BackendStats.Lifetimes", // http_requests_total and tunnel_duration_seconds have them by class and by end
		"BackendStats.LastProbe",
	}
	var f filler
	s := &snapshot{backends: []backend{{id: "a"}}}
	f.fill(reflect.ValueOf(&s.stats).Elem(), "Stats", sums)
	f.fill(reflect.ValueOf(&s.backends[0].stats).Elem(), "BackendStats", sums)
	got := make(map[float64][]string)
	for _, sample := range s.samples() {
		v := sample.Value
		if sample.Histogram != nil {
			v = float64(sample.Histogram.Count)
		}
		got[v] = append(got[v], describe(sample))
	}
	for v, field := range f.fields {
		if len(got[v]) != 1 {
			t.Errorf("%s is in the samples %q; want one", field, got[v])
		}
	}
}

// A filler sets each number of a struct to another one.
type filler struct {
	fields map[float64]string // by value
	last   int64
}

func (f *filler) fill(v reflect.Value, path string, except []string) {
	if slices.Contains(except, path) {
		return
	}
	switch v.Kind() {
	case reflect.Int, reflect.Int64:
		v.SetInt(f.next(path))
	case reflect.Uint64:
		v.SetUint(uint64(f.next(path)))
	case reflect.Array:
		for i := range v.Len() {
			f.fill(v.Index(i), fmt.Sprintf("%s[%d]", path, i), except)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		f.fillElement(v.Index(0), path)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[wsproxy.Histogram]() {
			v.FieldByName("Count").SetUint(uint64(f.next(path)))
			return
		}
		for i := range v.NumField() {
			f.fill(v.Field(i), path+"."+v.Type().Field(i).Name, except)
		}
	}
}

// fillElement sets the number of an element of a list.
func (f *filler) fillElement(v reflect.Value, path string) {
	if h := v.FieldByName("Lifetimes"); h.IsValid() {
		f.fill(h, path, nil)
		return
	}
	if reason := v.FieldByName("Reason"); reason.IsValid() {
		reason.SetUint(uint64(wsproxy.ReasonCheck))
	}
	v.FieldByName("Count").SetUint(uint64(f.next(path)))
}

func (f *filler) next(path string) int64 {
	if f.fields == nil {
		f.fields, f.last = make(map[float64]string), 1<<32 // other numbers are small
	}
	f.last += f.last / 8 // so that the difference of two is none of them
	f.fields[float64(f.last)] = path
	return f.last
}

func describe(s Sample) string { return s.Metric.Name + fmt.Sprint(s.Labels) }

// What a library does with two samples of the same labels is to refuse all of them.
func TestReadHasEachSeriesOnceWithAllItsLabels(t *testing.T) {
	p, s := proxytest.Start(t, wsproxy.WithBackendConfigs(
		wsproxy.BackendConfig{ID: "a\xff", URL: wstest.StartEcho(t)},
		wsproxy.BackendConfig{ID: `"a\xff"`, URL: "http://127.0.0.1:1"}, wsproxy.BackendConfig{ID: `"\"a\\xff\""`, URL: "http://127.0.0.1:1"}),
		proxytest.FirstCandidate)
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
	proxytest.HangUp(t, client)
	seen := make(map[string]bool)
	last := ""
	for _, sample := range Read(p) {
		series := describe(sample)
		if seen[series] {
			t.Errorf("Read() has %s twice", series)
		}
		seen[series] = true
		if sample.Metric.Name < last {
			t.Errorf("Read() has %s after %s", sample.Metric.Name, last)
		}
		last = sample.Metric.Name
		if len(sample.Labels) != len(sample.Metric.Labels) {
			t.Errorf("%s has %d labels; want values of %q", series, len(sample.Labels), sample.Metric.Labels)
		}
		for _, v := range sample.Labels {
			if !utf8.ValidString(v) {
				t.Errorf("%s has the label %q, which is not UTF-8", series, v)
			}
		}
		if (sample.Histogram != nil) != (sample.Metric.Kind == Histogram) {
			t.Errorf("%s is a %v and has the histogram %v", series, sample.Metric.Kind, sample.Histogram)
		}
	}
	if !seen[`wsproxy_tunnels["a\xff"]`] {
		t.Errorf("there is no wsproxy_tunnels for the backend whose ID is not UTF-8")
	}
}

func TestReadHasNoSeriesTwiceWhileTheSetChanges(t *testing.T) {
	both := []wsproxy.BackendConfig{{ID: "a", URL: wstest.StartEcho(t)}, {ID: "b", URL: "http://127.0.0.1:1"}}
	p, s := proxytest.Start(t, wsproxy.WithBackendConfigs(both...), proxytest.FirstCandidate)
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/")) // so that a is known after its removal
	var changing sync.WaitGroup
	changing.Go(func() { // ends after its changes
		for i := range 1000 {
			if err := p.SetBackends(both[1-i%2:]...); err != nil {
				t.Error(err)
			}
		}
	})
	for range 200 {
		seen := make(map[string]bool)
		for _, sample := range Read(p) {
			if series := describe(sample); seen[series] {
				t.Fatalf("Read() has %s twice", series)
			} else {
				seen[series] = true
			}
		}
	}
	changing.Wait()
	proxytest.HangUp(t, client)
}

func TestRemovedBackendIsReadUntilItsLastTunnelHasEnded(t *testing.T) {
	p, s := proxytest.Start(t, wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "a", URL: wstest.StartEcho(t)}))
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
	p.SetBackends()
	if got := seriesOf(p, "a"); !slices.Contains(got, "wsproxy_tunnels[a] 1") || !slices.Contains(got, "wsproxy_backend_state[a removed] 1") {
		t.Errorf("after the removal of a backend with a tunnel there are %q", got)
	}
	proxytest.HangUp(t, client)
	if !proxytest.Becomes(func() bool { return len(seriesOf(p, "a")) == 0 }) {
		t.Errorf("after the end of the last tunnel of a removed backend there are %q; want none", seriesOf(p, "a"))
	}
}

// seriesOf returns the samples of a backend, but for histograms.
func seriesOf(p *wsproxy.Proxy, id string) []string {
	var all []string
	for _, s := range Read(p) {
		if i := slices.Index(s.Metric.Labels, "backend"); i >= 0 && s.Labels[i] == id {
			all = append(all, fmt.Sprint(describe(s), " ", s.Value))
		}
	}
	return all
}

func TestGaugesOfWhatIsNotSetHaveNoValue(t *testing.T) {
	s := &snapshot{backends: []backend{{id: "a"}, {id: "b", maxTunnels: 7, state: wsproxy.BackendDraining, numTunnels: 3,
		stats: wsproxy.BackendStats{LastProbe: wsproxy.ProbeFailed}}}}
	s.limits.Queue, s.limits.Handshakes.PerSecond = 5, 0.5
	s.limits.Tunnels, s.limits.HandshakesPerClient.PerSecond = -1, -1
	var got []string
	for _, sample := range s.samples() {
		switch strings.TrimPrefix(sample.Metric.Name, "wsproxy_") {
		case "limit", "backend_tunnels_limit", "backend_check_up", "drain_remaining":
			got = append(got, fmt.Sprint(describe(sample), " ", sample.Value))
		}
	}
	want := []string{"wsproxy_backend_check_up[b] 0", "wsproxy_backend_tunnels_limit[b] 7", "wsproxy_drain_remaining[b] 3",
		"wsproxy_limit[queue] 5", "wsproxy_limit[handshakes_per_second] 0.5"}
	if !slices.Equal(got, want) {
		t.Errorf("samples are %q; want %q", got, want)
	}
}

// The counters are not read at one moment: a backend may have an upgrade that had not begun
// when those of the proxy were read.
func TestUpgradesWithoutBackendAreNeverNegative(t *testing.T) {
	for _, tt := range []struct{ total, ofBackend, want int }{{3, 1, 2}, {1, 1, 0}, {0, 1, 0}} {
		s := &snapshot{backends: []backend{{id: "a", stats: wsproxy.BackendStats{Upgrading: tt.ofBackend, Requests: tt.ofBackend}}}}
		s.stats.Upgrading, s.stats.Requests = tt.total, tt.total
		for _, sample := range s.samples() {
			switch sample.Metric.Name {
			case "wsproxy_upgrades_in_flight", "wsproxy_http_in_flight":
				if sample.Labels[0] == "" && sample.Value != float64(tt.want) {
					t.Errorf("%d in all, %d of a backend: %s is %v; want %d", tt.total, tt.ofBackend, describe(sample), sample.Value, tt.want)
				}
			}
		}
	}
}

func TestCodeIsOneWord(t *testing.T) {
	for code, want := range map[int]string{0: "none", -1: "other", 1000: "1000", 1005: "1005"} {
		if got := codeWord(code); got != want {
			t.Errorf("codeWord(%d) = %q; want %q", code, got, want)
		}
	}
}

// The loops over reasons, states and flags end at the last one.
func TestEachReasonStateAndFlagHasASeries(t *testing.T) {
	next := []fmt.Stringer{wsproxy.ReasonFault + 1, wsproxy.BackendRemoved + 1, wsproxy.FlagUnreachable + 1}
	for _, v := range next {
		if !strings.HasSuffix(v.String(), ")") {
			t.Errorf("%v has no series: the loop in table.go ends before it", v)
		}
	}
}

func TestBuildInfoHasBothVersions(t *testing.T) {
	for _, s := range Read(proxytest.NewProxy(t, wsproxy.WithBackends())) {
		if s.Metric.Name != "wsproxy_build_info" {
			continue
		}
		if s.Labels[0] == "" || s.Labels[0] == "unknown" || s.Labels[1] != runtime.Version() {
			t.Errorf("wsproxy_build_info has the labels %q", s.Labels)
		}
		return
	}
	t.Error("there is no wsproxy_build_info")
}

// What an upgrade takes is counted anyway; a Read must not take long either.
func BenchmarkRead(b *testing.B) {
	configs := make([]wsproxy.BackendConfig, 100)
	for i := range configs {
		configs[i].URL = fmt.Sprintf("http://127.0.0.1:%d", 1+i)
	}
	p := proxytest.NewProxy(b, wsproxy.WithBackendConfigs(configs...))
	b.ReportAllocs()
	for b.Loop() {
		if len(Read(p)) == 0 {
			b.Fatal("no samples")
		}
	}
}
