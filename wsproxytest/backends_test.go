package wsproxytest_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/wsproxytest"
)

func TestNewBackendsHaveWhatTheTestChose(t *testing.T) {
	all := wsproxytest.NewBackends(
		wsproxytest.Backend{ID: "a", NumTunnels: 10},
		wsproxytest.Backend{ID: "b", NumTunnels: 3, Weight: 2, State: wsproxy.BackendFailing},
		wsproxytest.Backend{URL: "https://c.example/chat", NumTunnels: 1, Refusals: 4},
		wsproxytest.Backend{ID: "d", NumTunnels: 7, State: wsproxy.BackendRemoved},
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
	}
	for i, b := range all {
		if got := (shown{b.ID(), b.URL(), b.Weight(), b.NumTunnels(), b.Load(), b.State()}); got != want[i] {
			t.Errorf("backend %d is %+v; want %+v", i, got, want[i])
		}
	}
	failing := wsproxytest.NewBackends(
		wsproxytest.Backend{ID: "a", NumTunnels: 1000, Refusals: 1, State: wsproxy.BackendFailing},
		wsproxytest.Backend{ID: "b", NumTunnels: 10, State: wsproxy.BackendFailing},
	)
	if got := failing[0].Load(); got != 1001 {
		t.Errorf("Load() = %d of a refusing backend with 1000 tunnels; want 1001", got)
	}
	b, err := wsproxy.LeastTunnels().Pick(httptest.NewRequest("GET", "/", nil), []*wsproxy.Backend{all[0], all[2]})
	if err != nil || b != all[0] {
		t.Errorf("LeastTunnels picked %v, %v; want a, because the other one refuses", b, err)
	}
}

func TestNewBackendsPanicsOnBadConfiguration(t *testing.T) {
	for name, backends := range map[string][]wsproxytest.Backend{
		"the same ID":     {{ID: "a"}, {ID: "a"}},
		"negative weight": {{ID: "a", Weight: -1}},
		"no host":         {{}},
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
