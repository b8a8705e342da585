package wsproxy_test

import (
	"testing"

	"github.com/wsproxy/wsproxy"
)

// forEachWay runs test blocking and detached.
func forEachWay(t *testing.T, test func(t *testing.T, way wsproxy.Option)) {
	for name, detached := range map[string]bool{"blocking": false, "detached": true} {
		t.Run(name, func(t *testing.T) { test(t, wsproxy.WithDetached(detached)) })
	}
}
