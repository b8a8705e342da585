package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"sync"
	"time"
)

const (
	startTimeout = 15 * time.Second
	startPause   = 10 * time.Millisecond // between two attempts
	dialTimeout  = time.Second
	stopTimeout  = 5 * time.Second // for children that have its output open after its end
)

// A process is a started program with its children.
type process struct {
	cmd   *exec.Cmd
	endc  chan struct{} // closed when the process has ended
	log   lockedBuffer  // its output
	ended error         // valid once endc is closed
}

// start starts cmd and waits until it listens on addr.
func start(ctx context.Context, cmd *exec.Cmd, addr string) (*process, error) {
	p := &process{cmd: cmd, endc: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	cmd.WaitDelay = stopTimeout
	isolate(cmd)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go p.wait() // until the process ends
	if err := p.waitListening(ctx, addr); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

func (p *process) wait() {
	p.ended = p.cmd.Wait()
	close(p.endc)
}

func (p *process) waitListening(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	dialer := net.Dialer{Timeout: dialTimeout}
	for {
		c, err := dialer.DialContext(ctx, "tcp", addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-p.endc:
			return fmt.Errorf("%s: %v: %s", p.cmd.Path, p.ended, p.log.String())
		case <-ctx.Done():
			return fmt.Errorf("%s: nothing listens on %s: %v: %s", p.cmd.Path, addr, err, p.log.String())
		case <-time.After(startPause):
		}
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop kills the process and its children. They need no orderly shutdown.
func (p *process) stop() {
	killGroup(p.cmd.Process.Pid)
	<-p.endc
}

// A lockedBuffer is a buffer for concurrent use.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements [io.Writer].
func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// freeAddr returns a loopback address that was free when it checked. Its port is
// below the range that the kernel uses for clients.
func freeAddr() (string, error) {
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(10_000))
		ln, err := net.Listen("tcp", addr)
		if err == nil {
			return addr, ln.Close()
		}
	}
	return "", errors.New("no free port between 20000 and 30000")
}
