//go:build race || 386 || s390x

package epoll

import (
	"net/netip"
	"syscall"
)

// The race detector finds more where calls are not raw, and some processors have one
// call for all that concerns sockets.

func socket(family, kind int) (int, syscall.Errno) {
	fd, err := syscall.Socket(family, kind, 0)
	return fd, errnoOf(err)
}

func connect(fd int, addr netip.AddrPort) syscall.Errno {
	if a := addr.Addr(); a.Is4() {
		return errnoOf(syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(addr.Port()), Addr: a.As4()}))
	}
	return errnoOf(syscall.Connect(fd, &syscall.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}))
}

func localAddr(fd int) (netip.AddrPort, syscall.Errno) {
	sa, err := syscall.Getsockname(fd)
	switch sa := sa.(type) {
	case *syscall.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), 0
	case *syscall.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), 0
	}
	return netip.AddrPort{}, errnoOf(err)
}

func recvfrom(fd int, p []byte) (int, syscall.Errno) {
	n, _, err := syscall.Recvfrom(fd, p, syscall.MSG_DONTWAIT)
	return max(n, 0), errnoOf(err)
}

func sendto(fd int, p []byte, flags int) (int, syscall.Errno) {
	n, err := syscall.SendmsgN(fd, p, nil, nil, flags|syscall.MSG_DONTWAIT)
	return max(n, 0), errnoOf(err)
}

func shutdown(fd, how int) syscall.Errno { return errnoOf(syscall.Shutdown(fd, how)) }

func closeSocket(fd int) syscall.Errno { return errnoOf(syscall.Close(fd)) }

func errnoOf(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	return err.(syscall.Errno)
}
