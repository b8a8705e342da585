package wsproxy_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
)

func TestValuesHaveTextsInJSON(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "a", URL: "http://a"}))
	got, err := json.Marshal(map[string]any{
		"backend": p.Backends()[0], "probe": wsproxy.ProbePassed, "cause": wsproxy.CauseLost, "engine": wsproxy.EnginePortable, "flag": wsproxy.FlagEjected,
		"reason": wsproxy.ReasonQueueFull, "side": wsproxy.SideClient, "state": wsproxy.BackendUp,
		"health": p.Backends()[0].Health(),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"backend":"a","cause":"lost","engine":"portable","flag":"ejected",
		"health":{"Flags":null,"Refusing":false},"probe":"passed","reason":"queue full","side":"client","state":"up"}`
	if want = strings.ReplaceAll(want, "\n\t\t", ""); string(got) != want {
		t.Errorf("JSON is %s; want %s", got, want)
	}
}
