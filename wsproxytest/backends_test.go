package wsproxytest_test

import (
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/wsproxytest"
)

func TestNewBackendsHaveWhatTheTestChose(t *testing.T) {
	all := wsproxytest.NewBackends(
		wsproxytest.Backend{ID: "a", NumTunnels: 10},
		wsproxytest.Backend{ID: "b", NumTunnels: 3, Weight: 2, Flags: []wsproxy.Flag{wsproxy.FlagUnreachable}},
		wsproxytest.Backend{URL: "https://c.example/chat", NumTunnels: 1, Refusals: 4},
		wsproxytest.Backend{ID: "d", NumTunnels: 7, State: wsproxy.BackendRemoved},
		wsproxytest.Backend{ID: "e", State: wsproxy.BackendDraining, MaxTunnels: 1, Priority: 1},
	)
	type shown struct {
		id, url                  string
		weight, numTunnels, load int
		state                    wsproxy.BackendState
	}
	want := []shown{
		{"a", "http://a", 1, 10, 10, wsproxy.BackendUp},
		{"b", "http://b", 2, 3, 3, wsproxy.BackendFailing},
		{"https://c.example/chat", "https://c.example/chat", 1, 1, 14, wsproxy.BackendUp}, // as a, and four
		{"d", "http://d", 1, 7, 7, wsproxy.BackendRemoved},
		{"e", "http://e", 1, 0, 0, wsproxy.BackendDraining},
	}
	for i, b := range all {
		if got := (shown{b.ID(), b.URL(), b.Weight(), b.NumTunnels(), b.Load(), b.State()}); got != want[i] {
			t.Errorf("backend %d is %+v; want %+v", i, got, want[i])
		}
	}
	failing := wsproxytest.NewBackends(
		wsproxytest.Backend{ID: "a", NumTunnels: 1000, Refusals: 1, Flags: []wsproxy.Flag{wsproxy.FlagUnreachable}},
		wsproxytest.Backend{ID: "b", NumTunnels: 10, Flags: []wsproxy.Flag{wsproxy.FlagUnreachable}},
	)
	if got := failing[0].Load(); got != 1001 {
		t.Errorf("Load() = %d of a refusing backend with 1000 tunnels; want 1001", got)
	}
	b, err := wsproxy.LeastTunnels().Pick(httptest.NewRequest("GET", "/", nil), []*wsproxy.Backend{all[0], all[2]})
	if err != nil || b != all[0] {
		t.Errorf("LeastTunnels picked %v, %v; want a, because the other one refuses", b, err)
	}
}

func TestBackendsHaveTheirFlags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the clock stands still
		var everything []wsproxy.Flag
		for f := wsproxy.FlagResting; f <= wsproxy.FlagUnreachable; f++ {
			everything = append([]wsproxy.Flag{f}, everything...)
			b := wsproxytest.NewBackends(wsproxytest.Backend{ID: "a", Flags: []wsproxy.Flag{f}})[0]
			up := b.Health().Flags
			if len(up) != 1 || up[0].Flag != f || up[0].Reason == "" || !up[0].Since.Equal(time.Now()) {
				t.Errorf("flags %v; want %v, with a reason and since now", up, f)
				continue
			}
			until := time.Now().Add(time.Second)
			if f == wsproxy.FlagCheckFailed {
				until = time.Time{}
			}
			if !up[0].Until.Equal(until) {
				t.Errorf("%v is up until %v; want %v", f, up[0].Until, until)
			}
			want := wsproxy.BackendFailing
			if f == wsproxy.FlagFull {
				want = wsproxy.BackendUp
			}
			if b.State() != want {
				t.Errorf("State() = %v of a backend that is %v; want %v", b.State(), f, want)
			}
		}
		for _, order := range []func([]wsproxy.Flag){func([]wsproxy.Flag) {}, slices.Reverse[[]wsproxy.Flag]} {
			given := slices.Clone(everything)
			order(given)
			b := wsproxytest.NewBackends(wsproxytest.Backend{ID: "a", Flags: given})[0]
			var got []wsproxy.Flag
			for _, f := range b.Health().Flags {
				got = append(got, f.Flag)
			}
			if !slices.Equal(got, everything) {
				t.Errorf("given %v, the flags are %v; want %v", given, got, everything)
			}
		}
	})
}

func TestNewBackendsPanicsOnBadConfiguration(t *testing.T) {
	for name, backends := range map[string][]wsproxytest.Backend{
		"the same ID":     {{ID: "a"}, {ID: "a"}},
		"negative weight": {{ID: "a", Weight: -1}},
		"no host":         {{}},
		"failing":         {{ID: "a", State: wsproxy.BackendFailing}},
		"no such flag":    {{ID: "a", Flags: []wsproxy.Flag{0}}},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if err, ok := recover().(error); !ok || !strings.HasPrefix(err.Error(), "wsproxytest: ") {
					t.Errorf("NewBackends panicked with %v; want an error", err)
				}
			}()
			wsproxytest.NewBackends(backends...)
		})
	}
}
