package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// haproxyConfig is the configuration of HAProxy. maxconn is half the limit of
// descriptors, because a tunnel uses two, minus some for other uses.
const haproxyConfig = `
global
	maxconn %[1]d
	nbthread %[2]d
defaults
	mode http
	timeout connect 5s
	timeout client 1h
	timeout server 1h
	timeout tunnel 1h
frontend clients
	bind %[3]s
	default_backend backends
backend backends
	balance roundrobin
%[4]s`

func haproxy(s setup) (*exec.Cmd, error) {
	bind := s.listen
	if s.tls != nil {
		bind += " ssl crt " + s.tls.both
	}
	limit, err := descriptorLimit()
	if err != nil {
		return nil, err
	}
	var servers strings.Builder
	for i, b := range s.backends {
		fmt.Fprintf(&servers, "\tserver s%d %s\n", i, b)
	}
	file := filepath.Join(s.dir, "haproxy.cfg")
	config := fmt.Sprintf(haproxyConfig, min(limit/2-200, 7_000), runtime.NumCPU(), bind, servers.String())
	if err := os.WriteFile(file, []byte(config), 0o666); err != nil {
		return nil, err
	}
	program, err := lookPath("haproxy")
	if err != nil {
		return nil, err
	}
	return exec.Command(program, "-db", "-f", file), nil
}
