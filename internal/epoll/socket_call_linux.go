//go:build race || 386 || s390x

package epoll

import (
	"net/netip"
	"syscall"
)

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

func errnoOf(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	return err.(syscall.Errno)
}
