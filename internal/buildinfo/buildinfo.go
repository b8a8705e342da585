// Package buildinfo finds the version of wsproxy in the program that it is part of.
package buildinfo

import (
	"cmp"
	"runtime/debug"
	"sync"
)

const modulePath = "github.com/wsproxy/wsproxy"

// Version returns the version: "(devel)" for a checkout, a workspace or a replacement by a
// directory, and "unknown" for a program that was built without modules.
var Version = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return version(info)
})

func version(info *debug.BuildInfo) string {
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path != modulePath {
			continue
		}
		if m.Replace != nil {
			m = m.Replace
		}
		return cmp.Or(m.Version, "(devel)") // a directory has none
	}
	return "unknown"
}
