package wsproxy_test

import (
	"testing"

	"github.com/wsproxy/wsproxy/internal/leaktest"
)

// TestMain fails the binary if its tests leave a goroutine or a descriptor. The
// binary is also what TestIdleTunnelCostsNoMoreThanItDid starts.
func TestMain(m *testing.M) {
	beMemoryProcess()
	leaktest.Main(m)
}
