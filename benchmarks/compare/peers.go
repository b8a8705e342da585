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
	installed string   // the program that it is; "" for those that are built
	build     build    // where its programs are, of those that are built
	hostFlags []string // what makes the program host the same proxy; nil for one that is no library

	// command returns how to start it as a program of its own.
	command func(s setup) (*exec.Cmd, error)
}

func (p *peer) String() string { return p.name }

// A setup is what a peer is started with.
type setup struct {
	bin      string // folder of the programs that were built for it
	dir      string // folder for its files
	listen   string
	backends []string
	tls      *certificate // nil if clients speak no TLS
}

// program returns a command of a program that was built.
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

// baseline is another checkout.
var baseline = &peer{name: "baseline", build: other, command: gateway()}

// installed returns the peers that this machine has, and says which it does not.
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

// lookPath looks beside PATH, where ordinary users often do not have servers.
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

// gateway is examples/gateway of the core module.
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
