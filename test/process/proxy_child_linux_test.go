//go:build linux

package process_test

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
)

// playProxy is the role of a program that has a proxy.
func playProxy(t *testing.T) map[string]proxytest.Command {
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	ends, trace := make(chan struct{}, 10_000), &wsproxy.Trace{}
	trace.Closed = func(wsproxy.TunnelEnd) { ends <- struct{}{} }
	var p *wsproxy.Proxy
	book := new(proxytest.LogBook)
	var passed uint64
	return map[string]proxytest.Command{
		// limit N bounds the descriptors that it may have.
		"limit": func(args ...string) any {
			limit := syscall.Rlimit{Cur: uint64(number(args[0])), Max: uint64(number(args[0]))}
			return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) == nil
		},
		// serve BACKEND... answers with the URL of a proxy.
		"serve": func(args ...string) any {
			var s *proxytest.Site
			p, s = proxytest.Start(t, wsproxy.WithBackends(args...), wsproxy.WithTrace(trace), book.Option())
			return s.URL
		},
		// blamed answers with what was logged of backends that fail.
		"blamed": func(...string) any { return book.Lines("backend flag raised") },
		// ended N waits until so many more tunnels have ended.
		"ended": func(args ...string) any {
			for range number(args[0]) {
				<-ends
			}
			return true
		},
		// moved answers whether anything has passed since it was asked before.
		"moved": func(...string) any {
			before, stats := passed, p.Stats()
			passed = stats.ToBackend.Bytes + stats.ToClient.Bytes
			return passed != before
		},
		// memory answers with the bytes that the process holds, and those in its
		// pipes, of which the process shows nothing.
		"memory": func(...string) any { return usedBytes(t) + bytesInPipes(t) },
		// cpu N MS answers with the microseconds of CPU time that it takes in each of
		// so many periods of so many milliseconds.
		"cpu": func(args ...string) any {
			debug.FreeOSMemory() // else the runtime does so meanwhile
			took := make([]int64, number(args[0]))
			for i := range took {
				before := cpuTime(t)
				<-time.After(time.Duration(number(args[1])) * time.Millisecond)
				took[i] = (cpuTime(t) - before).Microseconds()
			}
			return took
		},
	}
}

// usedBytes returns what the heap and stacks take.
func usedBytes(t testing.TB) int {
	for range 3 { // the pools are empty after two
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}

// bytesInPipes returns how much is in the pipes of this process.
func bytesInPipes(t testing.TB) (total int) {
	const dir = "/proc/self/fd/"
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool) // a pipe has two descriptors
	for _, e := range entries {
		target, _ := os.Readlink(dir + e.Name())
		if seen[target] || !strings.HasPrefix(target, "pipe:") {
			continue
		}
		seen[target] = true
		fd, _ := strconv.Atoi(e.Name())
		const fionread = 0x541B
		var n int32
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), fionread, uintptr(unsafe.Pointer(&n))); errno == 0 {
			total += int(n)
		}
	}
	return total
}

func cpuTime(t testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
