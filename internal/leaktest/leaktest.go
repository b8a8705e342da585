// Package leaktest fails tests that leave goroutines or, on Linux, file
// descriptors behind.
package leaktest

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// grace is how long goroutines may take to end.
const grace = 5 * time.Second

// Main is the body of a TestMain. It runs the tests and exits, with status 1 if
// they passed but have leaked goroutines or descriptors.
func Main(m *testing.M) {
	os.Exit(run(m, os.Stderr, grace))
}

// Check fails t if, after t and its cleanups, the process has goroutines or
// descriptors that it did not have before the call. Call it first, so that the
// cleanups registered later run before its check. It examines the whole process, so
// it must not be used in parallel tests or in a synctest bubble.
func Check(t testing.TB) {
	before := takeSnapshot()
	t.Cleanup(func() { check(t, before, grace) })
}

func check(t testing.TB, before snapshot, grace time.Duration) {
	if t.Failed() {
		return // a test that has failed may not have cleaned up
	}
	if left := before.leftAfter(grace); left != "" {
		t.Errorf("leaktest: the test left behind:\n\n%s", left)
	}
}

// run runs the tests and checks for leaks. It returns the exit status.
func run(m interface{ Run() int }, out io.Writer, grace time.Duration) int {
	before := takeSnapshot()
	code := m.Run()
	if code != 0 {
		return code
	}
	if left := before.leftAfter(grace); left != "" {
		fmt.Fprintf(out, "leaktest: the tests left behind:\n\n%s", left)
		return 1
	}
	return 0
}

// A snapshot lists the goroutines and open files of the process.
type snapshot struct {
	goroutines map[string]string // stack by "goroutine N"
	files      map[string]bool   // "descriptor -> what it refers to"
}

func takeSnapshot() snapshot {
	startPoller()
	return snapshot{goroutines: goroutines(), files: openFiles()}
}

// leftAfter describes the goroutines and files that are not in s. It waits up to
// grace until there are none. It polls, because there is no event for the end of a
// goroutine.
func (s snapshot) leftAfter(grace time.Duration) string {
	const pause = 5 * time.Millisecond
	for deadline := time.Now().Add(grace); ; time.Sleep(pause) {
		http.DefaultClient.CloseIdleConnections()
		left := s.left()
		if left == "" || time.Now().After(deadline) {
			return left
		}
	}
}

func (s snapshot) left() string {
	var left strings.Builder
	for id, stack := range goroutines() {
		if _, ok := s.goroutines[id]; !ok && !isForeign(stack) {
			fmt.Fprintf(&left, "%s\n\n", stack)
		}
	}
	for file := range openFiles() {
		if !s.files[file] {
			fmt.Fprintf(&left, "open file %s\n\n", file)
		}
	}
	return left.String()
}

// isForeign reports whether a goroutine was started by the testing package or the
// runtime, not by a test or the tested code.
func isForeign(stack string) bool {
	for _, maker := range []string{"testing", "internal/fuzz", "os/signal", "runtime", "runtime/pprof", "runtime/trace"} {
		if strings.Contains(stack, "\ncreated by "+maker+".") {
			return true
		}
	}
	return false
}

// goroutines returns the stacks of all goroutines but the caller's.
func goroutines() map[string]string {
	stacks := strings.Split(strings.TrimSpace(allStacks()), "\n\n")
	byID := make(map[string]string, len(stacks))
	for _, stack := range stacks[1:] { // the caller's is the first
		id, _, _ := strings.Cut(stack, " [")
		byID[id] = stack
	}
	return byID
}

func allStacks() string {
	for size := 64 << 10; ; size *= 2 {
		buf := make([]byte, size)
		if n := runtime.Stack(buf, true); n < size {
			return string(buf[:n])
		}
	}
}
