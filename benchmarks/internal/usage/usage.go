// Package usage measures the CPU, memory and descriptors of a process and its
// descendants. It reads Linux's /proc.
package usage

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A Usage is the sum over a process and its descendants, so that a master process
// is measured with its workers.
type Usage struct {
	CPU         time.Duration // user and system time so far
	Bytes       int64         // memory: private pages, and the share of shared ones (Pss)
	Descriptors int
}

// Of returns the usage of the process pid and its descendants. The error concerns
// pid only, because a descendant may end at any time.
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

// pss returns the value of the line Pss in bytes.
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

// A stat contains the fields of /proc/PID/stat that are used.
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

// tick is the unit of times in /proc/PID/stat. The kernel converts its own clock to
// hundredths of a second.
// https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
const tick = 10 * time.Millisecond

// parseStat parses /proc/PID/stat. It skips the process's name, which may contain
// any bytes. The fields after the name begin with field 3 of the manual page.
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
