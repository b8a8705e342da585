//go:build unix || windows

package netconn

import (
	"net"
	"syscall"
)

// rawConn returns access to the descriptor of c if it is a plain socket, and nil
// otherwise.
func rawConn(c net.Conn) syscall.RawConn {
	s := plainSocket(c)
	if s == nil {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}
