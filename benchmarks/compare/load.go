package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// figures are measured values by name.
type figures map[string]float64

// A load is a process of the program load.
type load struct {
	cmd           *exec.Cmd
	out           *bufio.Reader
	stderr        bytes.Buffer
	stopInterrupt func() bool // the interrupt that would end it
}

// A traffic is the traffic of a load: the flags of the program load, before counts
// and times are scaled.
type traffic struct {
	mode   string
	conns  int
	size   int
	rate   float64 // of all connections; of each for fanout
	window int
	warmUp time.Duration
	length time.Duration
}

// scaled returns tr with the number of connections and the times multiplied by f. A
// rate of all connections is scaled with their number.
func (tr traffic) scaled(f float64) traffic {
	conns := max(int(float64(tr.conns)*f), 1)
	if tr.mode != "fanout" {
		tr.rate *= float64(conns) / float64(tr.conns)
	}
	tr.conns = conns
	tr.warmUp = time.Duration(float64(tr.warmUp) * f)
	tr.length = max(time.Duration(float64(tr.length)*f), shortest)
	return tr
}

const shortest = 200 * time.Millisecond // CPU times have a resolution of 10 ms

func (tr traffic) flags(url string, pid int) []string {
	return []string{"-url", url, "-pid", fmt.Sprint(pid),
		"-conns", fmt.Sprint(tr.conns), "-size", fmt.Sprint(max(tr.size, 1)), "-rate", fmt.Sprint(tr.rate),
		"-window", fmt.Sprint(max(tr.window, 1)),
		"-warm-up", tr.warmUp.String(), "-length", tr.length.String(), tr.mode}
}

// startLoad starts a load and waits for the end of its warm-up.
func (b *bench) startLoad(ctx context.Context, tr traffic, url string, pid int) (*load, error) {
	l := new(load)
	l.cmd = setup{bin: b.binOf(ordinary)}.program("load", tr.scaled(b.scale).flags(url, pid)...)
	l.cmd.Stderr = &l.stderr
	isolate(l.cmd)
	stdout, err := l.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	l.out = bufio.NewReader(stdout)
	if err := l.cmd.Start(); err != nil {
		return nil, err
	}
	l.stopInterrupt = context.AfterFunc(ctx, l.kill)
	if line, err := l.out.ReadString('\n'); line != "running\n" {
		return nil, l.explain(errors.Join(err, l.stop()))
	}
	return l, nil
}

// wait waits until the load has ended, and returns its figures.
func (l *load) wait() (figures, error) {
	var f figures
	defer l.stopInterrupt()
	text, readErr := io.ReadAll(l.out)
	if err := errors.Join(readErr, l.cmd.Wait()); err != nil {
		return nil, l.explain(err)
	}
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, fmt.Errorf("load wrote %q: %w", text, err)
	}
	return f, nil
}

func (l *load) kill() { killGroup(l.cmd.Process.Pid) }

// stop kills a load. Its figures are lost.
func (l *load) stop() error {
	l.stopInterrupt()
	l.kill()
	return l.cmd.Wait()
}

// explain returns the load's output to stderr as an error, or err if there is none.
func (l *load) explain(err error) error {
	if said := strings.TrimSpace(l.stderr.String()); said != "" {
		return errors.New(said)
	}
	return err
}

// run runs a load and returns its figures.
func (b *bench) run(ctx context.Context, tr traffic, url string, pid int) (figures, error) {
	l, err := b.startLoad(ctx, tr, url, pid)
	if err != nil {
		return nil, err
	}
	return l.wait()
}
