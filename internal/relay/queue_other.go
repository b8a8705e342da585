//go:build !linux

package relay

import "syscall"

// sendQueue reports that the send queue is unknown.
func sendQueue(syscall.Conn) (bytes int, ok bool) { return 0, false }

// peerHangUp reports that nothing is known.
func peerHangUp(syscall.Conn) hangUp { return present }
