//go:build linux

package epoll

import (
	"os"
	"syscall"
	"unsafe"
)

// All system calls that are made again when a signal has interrupted them. A connect
// goes on by itself: see Connect.

const (
	spliceMove     = 0x1 // SPLICE_F_MOVE
	spliceNonblock = 0x2 // SPLICE_F_NONBLOCK
)

// splice moves up to n bytes. It takes as long as copying them does, so that the
// scheduler must know of it.
func splice(from, to, n int) (int, syscall.Errno) {
	noteWrite(nil)
	for {
		m, _, errno := syscall.Syscall6(syscall.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), spliceMove|spliceNonblock)
		switch errno {
		case 0:
			noteRead(from, nil)
		case syscall.EINTR:
			continue
		}
		return int(m), errno
	}
}

// epollWait asks for events without waiting.
func epollWait(fd int, events []syscall.EpollEvent) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(fd), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
			continue
		}
		return 0, os.NewSyscallError("epoll_pwait", errno)
	}
}

// schedYield lets other threads have the processor that this one runs on, if one waits
// for it.
func schedYield() { syscall.RawSyscall(syscall.SYS_SCHED_YIELD, 0, 0, 0) }

// readSocket reads from a socket.
func readSocket(fd int, p []byte) (int, syscall.Errno) {
	for {
		n, errno := recvfrom(fd, p)
		switch errno {
		case 0:
			noteRead(fd, p[:n])
		case syscall.EINTR:
			continue
		}
		return n, errno
	}
}

// writeSocket writes to a socket.
func writeSocket(fd int, p []byte, flags int) (int, syscall.Errno) {
	noteWrite(p)
	for {
		n, errno := sendto(fd, p, flags|syscall.MSG_NOSIGNAL)
		if errno != syscall.EINTR {
			return n, errno
		}
	}
}

// read reads from a descriptor that is no socket.
func read(fd int, p []byte) (int, error) {
	for {
		n, err := syscall.Read(fd, p)
		if err != syscall.EINTR {
			return n, err
		}
	}
}

// write writes to a descriptor that is no socket.
func write(fd int, p []byte) (int, error) {
	for {
		n, err := syscall.Write(fd, p)
		if err != syscall.EINTR {
			return n, err
		}
	}
}
