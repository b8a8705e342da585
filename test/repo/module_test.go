package repo_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"testing"
)

// The flood was possible up to Go 1.22.1.
func TestGoVersionExcludesCONTINUATIONFlood(t *testing.T) {
	atRoot(t)
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^go 1\.(2[3-9]|[3-9]\d)\b`).Match(mod) {
		t.Errorf("go.mod is %q; want a go directive of 1.23 or newer", mod)
	}
}

// requirements are the modules that go.mod may require.
var requirements = map[string]string{
	"github.com/coder/websocket": "a WebSocket of somebody else's, for tests and examples",
	"github.com/google/go-cmp":   "differences, in tests",
	"golang.org/x/net":           "httpguts; nettest, in tests",
	"golang.org/x/text":          "golang.org/x/net requires it",
}

func TestCoreRequiresNoOtherModules(t *testing.T) {
	atRoot(t)
	out, err := exec.Command("go", "mod", "edit", "-json").Output()
	if err != nil {
		t.Fatalf("go mod edit -json: %v", err)
	}
	var mod struct {
		Require []struct{ Path string }
		Replace []any
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	for _, m := range mod.Require {
		if requirements[m.Path] == "" {
			t.Errorf("go.mod requires %s: what needs another module is a nested module", m.Path)
		}
	}
	if len(mod.Replace) > 0 {
		t.Error("go.mod has a replace directive: it is ignored in a dependency, so users would get something else than what was tested")
	}
}
