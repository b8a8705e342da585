package main

import (
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
)

// A peer is a proxy that is measured.
type peer struct {
	name      string
	installed string   // name of an installed program; "" if it is built
	build     build    // the build with its program
	hostFlags []string // flags of the program host for the same proxy; nil if it is not a library

	// command returns the command that starts the peer as a separate program.
	command func(s setup) (*exec.Cmd, error)
}

func (p *peer) String() string { return p.name }

// A setup contains the parameters of a peer's command.
type setup struct {
	bin      string // folder of the peer's build
	dir      string // folder for the peer's files
	listen   string
	backends []string
	tls      *certificate // nil if clients do not use TLS
}

// program returns the command of a built program.
func (s setup) program(name string, args ...string) *exec.Cmd {
	return exec.Command(filepath.Join(s.bin, name), args...)
}

var allPeers = []*peer{
	{name: "wsproxy", build: ordinary, command: gateway(), hostFlags: []string{}},
	{name: "wsproxy-detached", build: ordinary, command: gateway("-detach"), hostFlags: []string{"-detach"}},
	{name: "wsproxy-portable", build: portable, command: gateway(), hostFlags: []string{}},
	{name: "nginx", installed: "nginx", command: nginx},
	{name: "haproxy", installed: "haproxy", command: haproxy},
	{name: "httputil", build: ordinary, command: httputil, hostFlags: []string{"-httputil"}},
}

// baseline is the gateway of another checkout.
var baseline = &peer{name: "baseline", build: other, command: gateway()}

// installed returns the peers that are built or installed, and prints a line for each
// peer that is not installed.
func installed(peers []*peer, stderr io.Writer) []*peer {
	var found []*peer
	for _, p := range peers {
		if p.installed != "" {
			if _, err := lookPath(p.installed); err != nil {
				fmt.Fprintf(stderr, "%s is left out: %v\n", p, err)
				continue
			}
		}
		found = append(found, p)
	}
	return found
}

// lookPath finds a program in PATH or in the folders of servers, which are often not
// in an ordinary user's PATH.
func lookPath(name string) (string, error) {
	file, err := exec.LookPath(name)
	if err == nil {
		return file, nil
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin"} {
		if file, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return file, nil
		}
	}
	return "", err
}

// gateway returns a function for the command of examples/gateway.
func gateway(flags ...string) func(s setup) (*exec.Cmd, error) {
	return func(s setup) (*exec.Cmd, error) {
		args := append([]string{"-listen", s.listen}, flags...)
		for _, b := range s.backends {
			args = append(args, "-backend", "http://"+b)
		}
		return s.program("gateway", append(args, s.tls.flags()...)...), nil
	}
}

func httputil(s setup) (*exec.Cmd, error) {
	args := append([]string{"-listen", s.listen}, s.tls.flags()...)
	return s.program("httputil", append(args, s.backends...)...), nil
}
