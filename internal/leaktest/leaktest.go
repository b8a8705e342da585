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

// What has been told to end needs a moment to do so.
const grace = 5 * time.Second

// Main is the body of a TestMain: it runs the tests and exits, with status 1
// where they passed but left something behind.
func Main(m *testing.M) {
	os.Exit(run(m, os.Stderr, grace))
}

// Check fails t if something that was not there at this call is still there when
// t has ended and its later cleanups have run, so call it first. It sees the
// whole process: not for parallel tests, nor inside of a synctest bubble.
func Check(t testing.TB) {
	before := takeSnapshot()
	t.Cleanup(func() { check(t, before, grace) })
}

func check(t testing.TB, before snapshot, grace time.Duration) {
	if t.Failed() {
		return // a test that gives up half-way leaves things behind
	}
	if left := before.leftAfter(grace); left != "" {
		t.Errorf("leaktest: the test left behind:\n\n%s", left)
	}
}

// run takes the place of a testing.M's Run.
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

// A snapshot is what a process has at one moment.
type snapshot struct {
	goroutines map[string]string // stack by "goroutine N"
	files      map[string]bool   // "descriptor -> what it refers to"
}

func takeSnapshot() snapshot {
	startPoller()
	return snapshot{goroutines: goroutines(), files: openFiles()}
}

// leftAfter describes what is there and was not in s; it is empty as soon as
// there is nothing, and waits up to grace for that. It has to ask again and
// again: nothing tells when a goroutine has ended.
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

// isForeign reports whether a goroutine is neither of the tests' making nor of
// the tested code's.
func isForeign(stack string) bool {
	for _, maker := range []string{"testing", "internal/fuzz", "os/signal", "runtime", "runtime/pprof", "runtime/trace"} {
		if strings.Contains(stack, "\ncreated by "+maker+".") {
			return true
		}
	}
	return false
}

// goroutines returns all but the caller's own.
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
