package process_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A process whose tunnels all rest has no timer and no goroutine that wakes for them.
func TestRestingProcessUsesNoCPUTime(t *testing.T) {
	const (
		rest = 3 * time.Second
		most = rest / 1000 // what the runtime does now and then
	)
	tunnels := 300
	if os.Getenv("WSPROXY_SOAK") != "" {
		tunnels = 3000
	}
	for _, mode := range []string{memoryBlocking, memoryDetached} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			p := startMemoryProcess(t, mode, wstest.StartEcho(t))
			p.openTunnels(t, tunnels)
			p.measure(t) // collects garbage, so that nothing is left to do
			time.Sleep(time.Second)
			before := processCPUTime(t, p.pid)
			time.Sleep(rest)
			after := processCPUTime(t, p.pid)
			used := after - before
			t.Logf("%d idle tunnels, %s: %v of CPU time in %v", tunnels, mode, used, rest)
			if used > most {
				t.Errorf("%d idle tunnels, %s, take %v of CPU time in %v; want at most %v", tunnels, mode, used, rest, most)
			}
			if p.measure(t); processCPUTime(t, p.pid) == after {
				t.Error("collecting garbage took no CPU time: this system does not tell it")
			}
		})
	}
}

// processCPUTime returns the CPU time of a process, exactly: the first field of its
// threads' schedstat, https://docs.kernel.org/scheduler/sched-stats.html.
func processCPUTime(t testing.TB, pid int) (used time.Duration) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("no threads of process %d: %v", pid, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var ns time.Duration
		if _, err := fmt.Sscan(string(b), &ns); err != nil {
			t.Fatalf("%s is %q: %v", f, b, err)
		}
		used += ns
	}
	return used
}
