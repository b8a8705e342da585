// Package security_test tests what attackers have done to other proxies and WebSocket
// servers: testdata/advisories.txt lists the advisories and the tests.
package security_test

import (
	"testing"

	"github.com/wsproxy/wsproxy/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
