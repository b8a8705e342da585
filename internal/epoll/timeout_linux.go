//go:build linux

package epoll

import (
	"math"
	"net"
	"os"
	"syscall"
	"time"
)

// tcpUserTimeout is TCP_USER_TIMEOUT, which package syscall lacks.
const tcpUserTimeout = 18

// SetUserTimeout makes the system end the connection with ETIMEDOUT when its peer has
// acknowledged nothing of what was sent for d, or has had no room for what is to be sent.
// See tcp(7), TCP_USER_TIMEOUT. It does nothing to a unix socket.
//
// While nothing was sent, keepalive ends a connection whose peer does not answer when d has
// passed, instead of after its own number of probes.
func (s *Socket) SetUserTimeout(d time.Duration) error {
	if s.isUnix {
		return nil
	}
	return setUserTimeout(int(s.fd), d)
}

// SetUserTimeout is [Socket.SetUserTimeout] of a connection of package net.
func SetUserTimeout(c syscall.Conn, d time.Duration) (err error) {
	if _, isUnix := c.(*net.UnixConn); isUnix {
		return nil
	}
	if errControl := control(c, func(fd int) { err = setUserTimeout(fd, d) }); errControl != nil {
		return errControl
	}
	return err
}

// setUserTimeout rounds d up to milliseconds: 0 of them would mean the system's default.
func setUserTimeout(fd int, d time.Duration) error {
	ms := min(d.Milliseconds(), math.MaxInt32-1)
	if time.Duration(ms)*time.Millisecond < d {
		ms++
	}
	return os.NewSyscallError("setsockopt", syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, tcpUserTimeout, int(ms)))
}
