//go:build unix || windows

package netconn

import (
	"net"
	"syscall"
)

// rawConn returns the descriptor of a plain socket, else nil.
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
