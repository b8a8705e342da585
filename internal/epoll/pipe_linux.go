//go:build linux

package epoll

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"syscall"
)

// A Pipe is a place in the kernel through which bytes go from one socket to
// another without being copied. It belongs to one goroutine.
type Pipe struct {
	r, w    int
	isLarge bool
}

const (
	largePipe = 1 << 20
	smallPipe = 64 << 10 // the kernel's default

	setPipeSize = 1031 // F_SETPIPE_SZ, which package syscall lacks
	getPipeSize = 1032 // F_GETPIPE_SZ
)

// largePipes is the rest of this process's budget. A pipe of 64 KiB holds
// 16 pieces of what a network card delivered, whatever their size, which costs a
// quarter more CPU per byte than one of 1 MiB. But an ordinary user may have 64
// large ones in all (/proc/sys/fs/pipe-user-pages-soft), of which others want some.
var largePipes atomic.Int32

func init() { largePipes.Store(16) }

// NewPipe returns a pipe, a large one if it can be had, and never one that is tiny.
func NewPipe() (*Pipe, error) {
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	p := &Pipe{r: fds[0], w: fds[1]}
	p.grow()
	if size := p.size(); size < smallPipe {
		p.Close()
		return nil, fmt.Errorf("epoll: the user's share of pipes is used up: one of %d bytes is no use", size)
	}
	return p, nil
}

// size returns how much the pipe holds. Where the user has had his share, that is
// two pieces of what a network card delivered, with which splicing takes more calls
// than copying.
func (p *Pipe) size() int {
	n, _, _ := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(p.r), getPipeSize, 0)
	return int(n)
}

// grow makes the pipe large, unless the budget is spent or the kernel refuses:
// EPERM where the user has had his share.
func (p *Pipe) grow() {
	if largePipes.Add(-1) >= 0 {
		_, _, errno := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(p.w), setPipeSize, largePipe)
		p.isLarge = errno == 0
	}
	if !p.isLarge {
		largePipes.Add(1)
	}
}

// Close closes the pipe and drops its bytes.
func (p *Pipe) Close() {
	syscall.Close(p.r)
	syscall.Close(p.w)
	if p.isLarge {
		largePipes.Add(1)
	}
}

// Fill moves up to n bytes from src into the pipe, which must be empty. It returns
// what Read does.
func (p *Pipe) Fill(src *Socket, n int) (int, error) {
	m, errno := splice(int(src.fd), p.w, n)
	switch {
	case errno != 0:
		return 0, src.fail("read", "splice", errno)
	case m == 0:
		return 0, io.EOF
	}
	return m, nil
}

// Drain moves the n bytes that are in the pipe to dst. It returns what Write does.
func (p *Pipe) Drain(dst *Socket, n int) (int, error) {
	moved := 0
	for moved < n {
		m, errno := splice(p.r, int(dst.fd), n-moved)
		if errno != 0 {
			return moved, dst.fail("write", "splice", errno)
		}
		moved += m
	}
	return moved, nil
}

// Read takes bytes out of the pipe.
func (p *Pipe) Read(b []byte) (int, error) {
	n, err := read(p.r, b)
	if err != nil {
		return 0, os.NewSyscallError("read", err)
	}
	return n, nil
}
