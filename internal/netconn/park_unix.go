//go:build unix

package netconn

import (
	"os"
	"runtime"
	"sync"
	"syscall"
)

// A Parker lets other goroutines run, those included that only the runtime's poller
// knows to be ready. [runtime.Gosched] is less than that: the runtime does not poll as
// long as any goroutine can run. The zero value is ready.
type Parker struct {
	mu       sync.Mutex // held while a goroutine is parked, so that the others wait for it
	r, w     *os.File   // a pipe; nil before the first call
	raw      syscall.RawConn
	isClosed bool
}

// Park parks the calling goroutine in a read of a byte that it has written to a pipe.
func (p *Parker) Park() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.open() {
		runtime.Gosched()
		return
	}
	hasParked := false
	p.raw.Read(func(fd uintptr) bool {
		var b [1]byte
		if hasParked {
			syscall.Read(int(fd), b[:])
			return true
		}
		hasParked = true
		p.w.Write(b[:])
		return false
	})
}

// open opens the pipe, if it is not open yet. It reports false if there can be none.
func (p *Parker) open() bool {
	if p.raw != nil || p.isClosed {
		return !p.isClosed
	}
	r, w, err := os.Pipe()
	if err != nil {
		return false // out of descriptors
	}
	raw, err := r.SyscallConn()
	if err != nil {
		r.Close()
		w.Close()
		return false
	}
	p.r, p.w, p.raw = r, w, raw
	return true
}

// Close closes the pipe. Later calls of Park do less.
func (p *Parker) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.isClosed = true
	if p.raw != nil {
		p.r.Close()
		p.w.Close()
		p.raw = nil
	}
}
