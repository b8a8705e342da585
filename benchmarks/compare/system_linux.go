//go:build linux

package main

import (
	"os/exec"
	"syscall"
)

// isolate gives cmd a group of its own, so that its children can be ended with it,
// and lets it end with this program, whatever ends that.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// killGroup ends all processes of the group that pid began.
func killGroup(pid int) { syscall.Kill(-pid, syscall.SIGKILL) }

// descriptorLimit returns how many descriptors a process may have if it asks for
// all that it may.
func descriptorLimit() (int, error) {
	var limit syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	return int(min(limit.Max, 1<<20)), err
}

func checkSystem() error { return nil }
