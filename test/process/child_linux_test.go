//go:build linux

package process_test

import (
	"testing"

	"github.com/wsproxy/wsproxy/internal/proxytest"
)

func TestChild(t *testing.T) {
	proxytest.PlayRole(t, map[string]proxytest.Role{"proxy": playProxy, "bystander": playBystander})
}

// playBystander is the role of a process that does nothing.
func playBystander(*testing.T) map[string]proxytest.Command { return nil }
