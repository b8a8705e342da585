package leaktest

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

// A fakeTests replaces the testing.M of run.
type fakeTests func() int

func (f fakeTests) Run() int { return f() }

// leaveBehind starts a goroutine that the tests find by its name. It returns when the
// goroutine runs: before that, its stack may not contain the name.
func leaveBehind(donec <-chan struct{}) {
	runs := make(chan struct{})
	go blockUntil(runs, donec)
	<-runs
}

func blockUntil(runs chan<- struct{}, donec <-chan struct{}) {
	close(runs)
	<-donec
}

func TestRunReportsLeftGoroutineWithItsStack(t *testing.T) {
	donec := make(chan struct{})
	defer close(donec)
	var out strings.Builder
	code := run(fakeTests(func() int {
		leaveBehind(donec)
		return 0
	}), &out, time.Millisecond)
	if code != 1 {
		t.Errorf("run() = %d; want 1", code)
	}
	if !strings.Contains(out.String(), "leaktest.blockUntil(") {
		t.Errorf("output does not name the goroutine:\n%s", out.String())
	}
}

func TestRunReportsLeftFileWithItsTarget(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("descriptors are listed on Linux only")
	}
	name := t.TempDir() + "/left"
	var file *os.File
	var out strings.Builder
	code := run(fakeTests(func() (code int) {
		var err error
		if file, err = os.Create(name); err != nil {
			t.Error(err)
		}
		return 0
	}), &out, time.Millisecond)
	defer file.Close()
	if code != 1 {
		t.Errorf("run() = %d; want 1", code)
	}
	if !strings.Contains(out.String(), "-> "+name) {
		t.Errorf("output does not name %s:\n%s", name, out.String())
	}
}

func TestRunReportsDescriptorWhoseNumberWasReused(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("descriptors are listed on Linux only")
	}
	first, err := os.Create(t.TempDir() + "/first")
	if err != nil {
		t.Fatal(err)
	}
	var second *os.File
	code := run(fakeTests(func() (code int) {
		first.Close()
		if second, err = os.Create(t.TempDir() + "/second"); err != nil {
			t.Error(err)
		}
		return 0
	}), new(strings.Builder), time.Millisecond)
	defer second.Close()
	if code != 1 {
		t.Errorf("run() = %d; want 1", code)
	}
}

func TestRunWaitsForEndingGoroutines(t *testing.T) {
	donec := make(chan struct{})
	var out strings.Builder
	code := run(fakeTests(func() int {
		leaveBehind(donec)
		time.AfterFunc(20*time.Millisecond, func() { close(donec) })
		return 0
	}), &out, grace)
	if code != 0 {
		t.Errorf("run() = %d; want 0; output:\n%s", code, out.String())
	}
}

func TestRunIsSilentAfterFailedTests(t *testing.T) {
	donec := make(chan struct{})
	defer close(donec)
	var out strings.Builder
	code := run(fakeTests(func() int {
		leaveBehind(donec)
		return 2
	}), &out, time.Millisecond)
	if code != 2 || out.Len() != 0 {
		t.Errorf("run() = %d, output %q; want the tests' own 2 and no output", code, out.String())
	}
}

func TestRunIgnoresGoroutinesOfRuntime(t *testing.T) {
	before := takeSnapshot()
	signalc := make(chan os.Signal, 1)
	signal.Notify(signalc, os.Interrupt)
	defer signal.Stop(signalc)
	ln, err := net.Listen("tcp", "127.0.0.1:0") // registers with the poller
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if left := before.leftAfter(time.Second); left != "" {
		t.Errorf("leftAfter() reports:\n%s", left)
	}
}

// An errorTB records the errors of Check.
type errorTB struct {
	testing.TB
	isFailed bool
	errors   []string
}

func (t *errorTB) Failed() bool { return t.isFailed }

func (t *errorTB) Errorf(format string, args ...any) {
	t.errors = append(t.errors, fmt.Sprintf(format, args...))
}

func TestCheckFailsLeakingTest(t *testing.T) {
	for _, tt := range []struct {
		name       string
		isFailed   bool
		wantErrors int
	}{
		{"passed", false, 1},
		{"failed already", true, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := takeSnapshot()
			donec := make(chan struct{})
			defer close(donec)
			leaveBehind(donec)
			tb := &errorTB{TB: t, isFailed: tt.isFailed}
			check(tb, before, time.Millisecond)
			if len(tb.errors) != tt.wantErrors {
				t.Errorf("errors = %q; want %d", tb.errors, tt.wantErrors)
			}
		})
	}
}

func TestCheckRunsAfterLaterCleanups(t *testing.T) {
	Check(t)
	donec := make(chan struct{})
	leaveBehind(donec)
	t.Cleanup(func() { close(donec) })
}
