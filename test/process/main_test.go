// Package process_test tests what tunnels cost a process: memory, descriptors, CPU time
// and allocations, that a proxy survives where they are short, and how a gateway ends.
// Most of its tests start processes.
package process_test

import (
	"testing"

	"github.com/wsproxy/wsproxy/internal/leaktest"
)

// TestMain runs the tests, or the process that TestIdleTunnelUsesStoredMemory starts.
func TestMain(m *testing.M) {
	beMemoryProcess()
	leaktest.Main(m)
}
