package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// Every workload runs on the two peers that need no installation. The figures mean
// nothing at this scale, but they must be there.
func TestComparisonMeasuresEveryFigure(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is no /proc")
	}
	file := filepath.Join(t.TempDir(), "results.json")
	var stdout, stderr bytes.Buffer
	err := run(t.Context(), []string{"-peers", "wsproxy,httputil", "-rounds", "1", "-scale", "0.03", "-json", file,
		"-require", "wsproxy:idle.fds_per_tunnel<=100", "-require", "wsproxy/httputil:echo.msgs_per_s<=1e9"}, &stdout, &stderr)
	if err != nil {
		t.Fatalf("run() = %v\n%s", err, stderr.String())
	}
	for _, w := range allWorkloads {
		for _, figure := range w.figures {
			// The second peer has a ratio, unless the figure is 0.
			row := regexp.MustCompile(`(?m)^\| ` + w.name + ` \| ` + figure + ` \| [-\d.,]+ \| [-\d.,]+( \([-\d.]+\))? \|$`)
			if !row.MatchString(stdout.String()) {
				t.Errorf("there is no row for %s of %s", figure, w)
			}
		}
	}
	if got := strings.Count(stdout.String(), "holds\n"); got != 2 {
		t.Errorf("%d bounds hold; want 2", got)
	}
	var saved struct{ Results results }
	text, err := os.ReadFile(file)
	if err := errors.Join(err, json.Unmarshal(text, &saved)); err != nil || len(saved.Results) != 2*len(allWorkloads) {
		t.Errorf("-json has %d results, error %v; want %d", len(saved.Results), err, 2*len(allWorkloads))
	}
	if t.Failed() {
		t.Logf("stdout:\n%s\nstderr:\n%s", stdout.String(), stderr.String())
	}
}

func TestInterruptedComparisonStopsPrograms(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is no /proc")
	}
	t.Setenv("TMPDIR", t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	stderr := writerFunc(func(p []byte) (int, error) {
		if bytes.Contains(p, []byte("echo, round 1")) {
			cancel() // when the first measurement begins
		}
		return len(p), nil
	})
	err := run(ctx, []string{"-peers", "wsproxy", "-workloads", "echo"}, io.Discard, stderr)
	if err == nil || err.Error() != "interrupted" {
		t.Errorf("run() = %v; want that it was interrupted", err)
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "wsproxy-compare-*")); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestPeersThatAreNotInstalledAreSkipped(t *testing.T) {
	var stderr strings.Builder
	built, missing := &peer{name: "built"}, &peer{name: "missing", installed: "no-such-proxy"}
	got := installed([]*peer{missing, built}, &stderr)
	if names(got) != "built" {
		t.Errorf("installed() = %v; want built only", names(got))
	}
	if !strings.HasPrefix(stderr.String(), "missing is left out: ") {
		t.Errorf("installed() said %q; want that missing is left out", stderr.String())
	}
}

func TestBadFlagsAreExplained(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"stray"}, `"stray"`},
		{[]string{"-rounds", "0"}, "at least 1"},
		{[]string{"-scale", "0"}, "more than 0"},
		{[]string{"-scale", "NaN"}, "more than 0"},
		{[]string{"-peers", "wsproxy,apache"}, `"apache" is not one of wsproxy,`},
		{[]string{"-workloads", "sleep"}, `"sleep" is not one of idle,`},
		{[]string{"-require", "idle<=1"}, "PEER/OTHER:WORKLOAD.FIGURE<=MAX"},
		{[]string{"-require", "wsproxy:idle.bytes_per_tunnel<=few"}, `"few" is not a number`},
		{[]string{"-require", "apache:idle.bytes_per_tunnel<=1"}, `"apache"`},
		{[]string{"-require", "wsproxy/apache:idle.bytes_per_tunnel<=1"}, `"apache"`},
		{[]string{"-require", "wsproxy:sleep.bytes_per_tunnel<=1"}, `"sleep"`},
		{[]string{"-require", "wsproxy:idle.colour<=1"}, `"colour"`},
		{[]string{"-peers", "wsproxy", "-require", "nginx:idle.bytes_per_tunnel<=1"}, `"nginx"`},
	} {
		_, err := parseFlags(tt.args, io.Discard)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("parseFlags(%q) = %v; want an error that says %s", tt.args, err, tt.want)
		}
	}
}

func TestHelpNamesEveryWorkload(t *testing.T) {
	var out strings.Builder
	if _, err := parseFlags([]string{"-h"}, &out); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("parseFlags(-h) = %v; want ErrHelp", err)
	}
	for _, w := range allWorkloads {
		if !strings.Contains(out.String(), w.about) {
			t.Errorf("-h says nothing of %s", w)
		}
	}
}

func TestTrafficScalesRateWithConnections(t *testing.T) {
	tr := traffic{mode: "echo", conns: 200, rate: 1000}
	if got := tr.scaled(0.1); got.conns != 20 || got.rate != 100 || got.length != shortest {
		t.Errorf("scaled(0.1) = %+v; want 20 connections, 100 a second, %v", got, shortest)
	}
	tr = traffic{mode: "echo", conns: 2, rate: 200}
	if got := tr.scaled(0.1); got.conns != 1 || got.rate != 100 {
		t.Errorf("scaled(0.1) = %+v; want 1 connection, 100 a second", got)
	}
	tr = traffic{mode: "fanout", conns: 2, rate: 20}
	if got := tr.scaled(0.1); got.conns != 1 || got.rate != 20 {
		t.Errorf("scaled(0.1) = %+v; want 1 connection, 20 a second", got)
	}
}
