//go:build !linux

package relay

import (
	"syscall"
	"time"
)

// sendQueue reports that the send queue is unknown.
func sendQueue(syscall.Conn) (bytes int, ok bool) { return 0, false }

// setUserTimeout does nothing: only what the engine holds shows that a peer takes nothing.
func setUserTimeout(syscall.Conn, time.Duration) {}

// peerHangUp reports that nothing is known.
func peerHangUp(syscall.Conn) hangUp { return present }
