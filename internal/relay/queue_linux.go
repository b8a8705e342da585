//go:build linux

package relay

import (
	"syscall"
	"time"

	"github.com/wsproxy/wsproxy/internal/epoll"
)

// sendQueue returns how many bytes of c the peer's kernel does not have, if the system
// tells.
func sendQueue(c syscall.Conn) (bytes int, ok bool) {
	if c == nil {
		return 0, false
	}
	return epoll.SendQueue(c)
}

// setUserTimeout makes the system end c, if it is a TCP socket, when its peer has taken
// nothing of what waits for it for d.
func setUserTimeout(c syscall.Conn, d time.Duration) {
	if c != nil {
		epoll.SetUserTimeout(c, d)
	}
}

// peerHangUp reports whether c's peer is gone, though not all of its bytes were read.
func peerHangUp(c syscall.Conn) hangUp {
	if c == nil {
		return present
	}
	return hangUpOf(epoll.PeerEdges(c))
}

func hangUpOf(e epoll.Edges) hangUp {
	switch {
	case e&(epoll.Failed|epoll.HungUp) != 0:
		return hungUp
	case e&epoll.PeerClosed != 0:
		return halfClosed
	}
	return present
}
