//go:build linux

package epoll

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// ErrAgain is the error of a call that would have to wait.
var ErrAgain = errors.New("epoll: nothing can be moved now")

// A Socket is a connected stream socket of its own: TCP or unix. It belongs to the
// goroutine that uses it. No method waits.
type Socket struct {
	fd            int32
	isUnix        bool
	watchesWrites bool // see Poller.WatchWrites

	slot, generation uint32 // of its poller, while it is watched
}

// TakeOver makes s the same connection as c, under a descriptor of its own. C is to
// be closed: it stays the owner of its descriptor, and what it holds besides is most
// of the memory of an idle tunnel. Using its descriptor instead would be unsafe:
// whoever has c, or its finalizer, can close it.
func (s *Socket) TakeOver(c syscall.Conn) error {
	_, s.isUnix = c.(*net.UnixConn)
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if err := raw.Control(s.duplicate); err != nil {
		return err
	}
	if s.fd < 0 {
		return os.NewSyscallError("fcntl", syscall.Errno(-s.fd))
	}
	// Both belong to the connection and not to the descriptor: whoever calls Fd of a
	// File of it has made it one that waits, and to close it must not wait either,
	// whatever the program wants of its connections.
	if err := syscall.SetNonblock(int(s.fd), true); err != nil {
		s.Close()
		return os.NewSyscallError("fcntl", err)
	}
	if err := syscall.SetsockoptLinger(int(s.fd), syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{}); err != nil {
		s.Close()
		return os.NewSyscallError("setsockopt", err)
	}
	return nil
}

// duplicate leaves the negative errno in s.fd where it fails.
func (s *Socket) duplicate(fd uintptr) {
	dup, _, errno := syscall.RawSyscall(syscall.SYS_FCNTL, fd, syscall.F_DUPFD_CLOEXEC, 0)
	s.fd = int32(dup)
	if errno != 0 {
		s.fd = -int32(errno)
	}
}

// Read reads the bytes that have come. It returns a byte at least, or ErrAgain, io.EOF or an
// error as that of a [net.Conn].
func (s *Socket) Read(p []byte) (int, error) {
	n, errno := readSocket(int(s.fd), p)
	switch {
	case n > 0:
		return n, nil
	case errno == 0:
		return 0, io.EOF
	}
	return 0, s.fail("read", "read", errno)
}

// Write writes as much as the system takes. It returns ErrAgain, with what was taken before,
// or an error as that of a [net.Conn].
func (s *Socket) Write(p []byte) (int, error) { return s.write(p, 0) }

// WriteLast is Write before a CloseWrite or Close that comes at once. The system holds
// the bytes back up to that, for 200 ms at most, so that the peer is sent one segment
// and not two.
func (s *Socket) WriteLast(p []byte) (int, error) { return s.write(p, syscall.MSG_MORE) }

func (s *Socket) write(p []byte, flags int) (int, error) {
	n, errno := writeSocket(int(s.fd), p, flags)
	if errno != 0 {
		return 0, s.fail("write", "write", errno)
	}
	if n < len(p) {
		return n, ErrAgain
	}
	return n, nil
}

// CloseWrite ends the stream towards the peer.
func (s *Socket) CloseWrite() error {
	return asError("shutdown", shutdown(int(s.fd), syscall.SHUT_WR))
}

// SetReadBuffer is that of a [net.TCPConn].
func (s *Socket) SetReadBuffer(bytes int) error { return s.setSize(syscall.SO_RCVBUF, bytes) }

// SetWriteBuffer is that of a [net.TCPConn].
func (s *Socket) SetWriteBuffer(bytes int) error { return s.setSize(syscall.SO_SNDBUF, bytes) }

func (s *Socket) setSize(option, bytes int) error {
	return os.NewSyscallError("setsockopt", syscall.SetsockoptInt(int(s.fd), syscall.SOL_SOCKET, option, bytes))
}

// File returns a duplicate, which is the caller's.
func (s *Socket) File() (*os.File, error) {
	dup := Socket{}
	if dup.duplicate(uintptr(s.fd)); dup.fd < 0 {
		return nil, os.NewSyscallError("fcntl", syscall.Errno(-dup.fd))
	}
	return os.NewFile(uintptr(dup.fd), "socket"), nil
}

// SendQueue returns how many bytes the peer's kernel has not acknowledged, those that
// were not sent yet and the end of the stream included. On a unix socket it is the memory
// that the peer has not read, in bytes that are more than those of the stream. 0 means
// that the peer's kernel has all.
func (s *Socket) SendQueue() int { return sendQueue(int(s.fd)) }

// IsUnix reports whether it is a unix socket.
func (s *Socket) IsUnix() bool { return s.isUnix }

// Close closes the socket, once.
func (s *Socket) Close() error {
	if s.fd < 0 {
		return nil
	}
	fd := int(s.fd)
	s.fd = -1
	return asError("close", closeSocket(fd))
}

// Reset is Close that resets the connection and drops the bytes that are still to be sent:
// else the system keeps it, for minutes if the peer does not read.
func (s *Socket) Reset() error {
	if s.fd >= 0 {
		syscall.SetsockoptLinger(int(s.fd), syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	}
	return s.Close()
}

// asError makes an error of errno, which may be 0.
func asError(call string, errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return os.NewSyscallError(call, errno)
}

// fail makes of errno the error that a [net.Conn] returns.
func (s *Socket) fail(op, call string, errno syscall.Errno) error {
	if errno == syscall.EAGAIN {
		return ErrAgain
	}
	network := "tcp"
	if s.isUnix {
		network = "unix"
	}
	return &net.OpError{Op: op, Net: network, Err: os.NewSyscallError(call, errno)}
}
