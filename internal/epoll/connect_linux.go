//go:build linux

package epoll

import (
	"net/netip"
	"os"
	"syscall"
)

// Keepalive of a connection that is dialed: as package net's default is.
const (
	keepIdle     = 15 // seconds
	keepInterval = 15 // seconds
	keepCount    = 9
)

// Dial makes s a new TCP socket and begins to connect it to addr, with the options
// of a [net.Dialer]. It reports whether that is under way: see Connect.
func (s *Socket) Dial(addr netip.AddrPort) (isPending bool, err error) {
	family := syscall.AF_INET6
	if addr.Addr().Is4() {
		family = syscall.AF_INET
	}
	fd, errno := socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK)
	if errno != 0 {
		return false, os.NewSyscallError("socket", errno)
	}
	*s = Socket{fd: int32(fd)}
	for _, o := range [...]struct{ level, name, value int }{
		{syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1},
		{syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1},
		{syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, keepIdle},
		{syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, keepInterval},
		{syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT, keepCount},
	} {
		if err := syscall.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			s.Close()
			return false, os.NewSyscallError("setsockopt", err)
		}
	}
	isPending, err = s.Connect(addr)
	s.watchesWrites = isPending // Writable is how the end of it is reported
	if err != nil {
		s.Close()
	}
	return isPending, err
}

// Connect goes on connecting to addr. It reports whether that is still under way, and why
// it has failed. To a process of the same machine a first call takes as long as that
// needs, and connects; the second one, in Dial, finds that out.
func (s *Socket) Connect(addr netip.AddrPort) (isPending bool, err error) {
	for range 2 {
		switch errno := connect(int(s.fd), addr); errno {
		case 0, syscall.EISCONN:
			return false, s.checkPeer(addr)
		case syscall.EINPROGRESS, syscall.EALREADY, syscall.EINTR:
		default:
			return false, os.NewSyscallError("connect", errno)
		}
	}
	return true, nil
}

// checkPeer returns an error if s, which is connected to addr, has become its own
// peer. Where nobody listens on a port that the system gives to those who connect, it
// may give it to him who connects to it.
func (s *Socket) checkPeer(addr netip.AddrPort) error {
	local, errno := localAddr(int(s.fd))
	switch {
	case errno != 0:
		return os.NewSyscallError("getsockname", errno)
	case local == addr:
		return os.NewSyscallError("connect", syscall.ECONNREFUSED)
	}
	return nil
}
