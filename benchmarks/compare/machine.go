package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// describeMachine returns a line with the machine, the versions of the measured
// programs, and the load average.
func describeMachine(ctx context.Context, peers []*peer) string {
	parts := []string{
		plural(runtime.NumCPU(), "core"),
		processor(),
		"Linux " + strings.TrimSpace(readFile("/proc/sys/kernel/osrelease")),
		runtime.Version(),
	}
	for _, p := range peers {
		if p.installed != "" {
			parts = append(parts, version(ctx, p.installed))
		}
	}
	load, _, _ := strings.Cut(readFile("/proc/loadavg"), " ")
	return fmt.Sprintf("%s. The load average was %s before.", strings.Join(parts, ", "), load)
}

func processor() string {
	for line := range strings.Lines(readFile("/proc/cpuinfo")) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// version returns the first line that a program prints with -v, without the URL of
// its home page.
func version(ctx context.Context, program string) string {
	file, err := lookPath(program)
	if err != nil {
		return program
	}
	out, _ := exec.CommandContext(ctx, file, "-v").CombinedOutput()
	line, _, _ := strings.Cut(string(out), "\n")
	line, _, _ = strings.Cut(line, " - ")
	line = strings.TrimPrefix(line, "nginx version: ")
	words := strings.Fields(line)
	return strings.Join(words[:min(len(words), 3)], " ")
}

// readFile returns the text of a file, or "" if it cannot be read.
func readFile(name string) string {
	text, _ := os.ReadFile(name)
	return string(text)
}
