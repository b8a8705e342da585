//go:build linux

package wsproxy_test

import (
	"testing"

	"github.com/wsproxy/wsproxy/internal/proxytest"
)

func TestChild(t *testing.T) {
	proxytest.PlayRole(t, map[string]proxytest.Role{
		"proxy": playProxy, "clients": playClients, "backends": playBackends, "bystander": playBystander,
	})
}

// A bystander does nothing; it is just there.
func playBystander(*testing.T) map[string]proxytest.Command { return nil }
