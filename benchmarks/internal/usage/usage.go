// Package usage tells what a process and its descendants use, from Linux's /proc.
package usage

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A Usage is that of all processes of a tree together: a master with workers is
// measured whole.
type Usage struct {
	CPU         time.Duration // user and system time so far
	Bytes       int64         // memory: private pages, and the share of shared ones (Pss)
	Descriptors int
}

// Of returns the usage of the process pid and its descendants. The error is about
// pid itself; a descendant may end at any time.
func Of(pid int) (Usage, error) {
	u, err := ofProcess(pid)
	if err != nil {
		return Usage{}, err
	}
	for _, p := range descendants(pid) {
		if child, err := ofProcess(p); err == nil {
			u.CPU += child.CPU
			u.Bytes += child.Bytes
			u.Descriptors += child.Descriptors
		}
	}
	return u, nil
}

func ofProcess(pid int) (u Usage, err error) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	stat, err := readStat(dir + "stat")
	if err != nil {
		return u, err
	}
	rollup, err := os.ReadFile(dir + "smaps_rollup")
	if err != nil {
		return u, err
	}
	descriptors, err := os.ReadDir(dir + "fd")
	if err != nil {
		return u, err
	}
	return Usage{CPU: stat.cpu, Bytes: pss(string(rollup)), Descriptors: len(descriptors)}, nil
}

// pss returns the line of that name in bytes.
func pss(rollup string) int64 {
	for line := range strings.Lines(rollup) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kb, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
			n, _ := strconv.ParseInt(kb, 10, 64)
			return n << 10
		}
	}
	return 0
}

// descendants returns the children of pid, their children, and so on.
func descendants(pid int) []int {
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	children := make(map[int][]int)
	for _, file := range files {
		if s, err := readStat(file); err == nil {
			p, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			children[s.parent] = append(children[s.parent], p)
		}
	}
	found := children[pid]
	for i := 0; i < len(found); i++ {
		found = append(found, children[found[i]]...)
	}
	return found
}

// A stat is what is of interest in /proc/PID/stat.
type stat struct {
	parent int
	cpu    time.Duration
}

func readStat(file string) (stat, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return stat{}, err
	}
	return parseStat(string(text))
}

// The kernel tells times to user space in hundredths of a second, whatever its
// own clock is. https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
const tick = 10 * time.Millisecond

// parseStat skips the name, which may contain anything: the fields after it begin
// with the third of the manual page.
func parseStat(text string) (s stat, err error) {
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return s, fmt.Errorf("/proc/PID/stat is %q; want more fields", text)
	}
	var user, system int64
	for _, f := range []struct {
		at   int
		into *int64
	}{{11, &user}, {12, &system}} {
		if *f.into, err = strconv.ParseInt(fields[f.at], 10, 64); err != nil {
			return s, err
		}
	}
	s.parent, err = strconv.Atoi(fields[1])
	s.cpu = time.Duration(user+system) * tick
	return s, err
}
