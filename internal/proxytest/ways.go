package proxytest

import (
	"testing"

	"github.com/wsproxy/wsproxy"
)

// ForEachWay runs test blocking and detached.
func ForEachWay(t *testing.T, test func(t *testing.T, way wsproxy.Option)) {
	for name, detached := range map[string]bool{"blocking": false, "detached": true} {
		t.Run(name, func(t *testing.T) { test(t, wsproxy.WithDetached(detached)) })
	}
}
