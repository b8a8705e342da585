package buildinfo

import (
	"runtime/debug"
	"testing"
)

func TestVersionIsThatOfTheCodeThatRuns(t *testing.T) {
	other := debug.Module{Path: "chat.example", Version: "v9.0.0"}
	for name, tt := range map[string]struct {
		info debug.BuildInfo
		want string
	}{
		"a dependency": {debug.BuildInfo{Main: other, Deps: []*debug.Module{&other, {Path: modulePath, Version: "v1.2.3"}}}, "v1.2.3"},
		"a fork": {debug.BuildInfo{Main: other, Deps: []*debug.Module{
			{Path: modulePath, Version: "v1.2.3", Replace: &debug.Module{Path: "fork.example", Version: "v1.2.4"}}}}, "v1.2.4"},
		"a directory": {debug.BuildInfo{Main: other, Deps: []*debug.Module{
			{Path: modulePath, Version: "v1.2.3", Replace: &debug.Module{Path: "../wsproxy"}}}}, "(devel)"},
		"a program of the module itself": {debug.BuildInfo{Main: debug.Module{Path: modulePath}}, "(devel)"},
		"no modules":                     {debug.BuildInfo{}, "unknown"},
	} {
		if got := version(&tt.info); got != tt.want {
			t.Errorf("%s: version is %q; want %q", name, got, tt.want)
		}
	}
}
