//go:build linux && race

package epoll

import (
	"runtime"
	"syscall"
	"unsafe"
)

// Bytes carry order: what somebody has done before he writes comes before what the
// reader does afterwards. Package syscall tells the race detector so of Read and Write
// alone. Without these two, a test that notes something in a hook, and looks at it when
// the client has its answer, would be told of a race that it has with no other server.

// noteRead is called when p has been read from descriptor fd, without an error.
func noteRead(fd int, p []byte) {
	if len(p) > 0 {
		runtime.RaceWriteRange(unsafe.Pointer(&p[0]), len(p))
	}
	syscall.Read(fd, nil) // reads nothing, and cannot fail
}

// noteWrite is called before a write of p.
func noteWrite(p []byte) {
	if len(p) > 0 {
		runtime.RaceReadRange(unsafe.Pointer(&p[0]), len(p))
	}
	syscall.Write(-1, nil) // writes nothing, and always fails
}
