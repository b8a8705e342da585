//go:build linux

package epoll

import (
	"syscall"
	"unsafe"
)

// SendQueue is [Socket.SendQueue] of a connection of package net. It reports false if
// the connection is closed.
func SendQueue(c syscall.Conn) (bytes int, ok bool) {
	err := control(c, func(fd int) { bytes = sendQueue(fd) })
	return bytes, err == nil
}

// PeerEdges returns which of PeerClosed, HungUp and Failed hold for a connection of
// package net now. It reads nothing.
func PeerEdges(c syscall.Conn) (e Edges) {
	control(c, func(fd int) { e = poll(fd, PeerClosed) })
	return e & (PeerClosed | HungUp | Failed)
}

func control(c syscall.Conn, f func(fd int)) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { f(int(fd)) })
}

// sendQueue is the ioctl SIOCOUTQ, which has the number of TIOCOUTQ.
func sendQueue(fd int) int {
	var n int32
	_, _, errno := syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	if errno != 0 {
		return 0 // the connection is gone
	}
	return int(n)
}

// pollFD is struct pollfd, which package syscall lacks. Its bits are those of epoll.
type pollFD struct {
	fd             int32
	events, result int16
}

// poll returns which edges hold now.
func poll(fd int, edges Edges) Edges {
	p := pollFD{fd: int32(fd), events: int16(edges)}
	var now syscall.Timespec
	n, _, errno := syscall.RawSyscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	if errno != 0 || n != 1 {
		return 0
	}
	return Edges(uint16(p.result))
}
