//go:build linux

package main

import (
	"os/exec"
	"syscall"
)

// isolate gives cmd its own process group, so that it can be killed with its children,
// and makes the kernel kill cmd when this program exits.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// killGroup kills all processes in the group of pid.
func killGroup(pid int) { syscall.Kill(-pid, syscall.SIGKILL) }

// descriptorLimit returns the hard limit of descriptors for a process, at most 1<<20.
func descriptorLimit() (int, error) {
	var limit syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	return int(min(limit.Max, 1<<20)), err
}

func checkSystem() error { return nil }
