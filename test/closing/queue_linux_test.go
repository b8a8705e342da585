package closing_test

import (
	"syscall"
	"unsafe"
)

// numQueued returns how many bytes the other side's system has not acknowledged.
func (e *end) numQueued() int {
	e.t.Helper()
	raw, err := e.socket.(syscall.Conn).SyscallConn()
	if err != nil {
		e.t.Fatal(err)
	}
	var n int32
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	})
	if err != nil || errno != 0 {
		e.t.Fatalf("%s: TIOCOUTQ: %v, %v", e.name, err, errno)
	}
	return int(n)
}
