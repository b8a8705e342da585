//go:build unix || windows

package netconn

import (
	"net"
	"syscall"
)

// rawConn returns the descriptor of a connection that is certainly a plain socket,
// else nil. It does not look through wrappers: one that counts bytes, or holds a
// slot of a listener, must see its reads.
func rawConn(c net.Conn) syscall.RawConn {
	var sc syscall.Conn
	switch c := c.(type) {
	case *net.TCPConn:
		sc = c
	case *net.UnixConn:
		sc = c
	default:
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}
