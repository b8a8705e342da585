//go:build linux

package epoll

import (
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// eventually calls is until it reports true.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// sendQueueOf returns SendQueue of c, which is open.
func sendQueueOf(t *testing.T, c net.Conn) int {
	t.Helper()
	n, ok := SendQueue(c.(syscall.Conn))
	if !ok {
		t.Fatal("the send queue of an open connection is unknown")
	}
	return n
}

// fillUpConn writes to c until it takes no more.
func fillUpConn(t *testing.T, c net.Conn) (sent int) {
	t.Helper()
	defer c.SetWriteDeadline(time.Time{})
	for {
		c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		n, err := c.Write(make([]byte, 64<<10))
		sent += n
		if err != nil {
			return sent
		}
	}
}

func TestSendQueueIsEmptyWhenThePeersKernelHasAll(t *testing.T) {
	near, far := tcpPair(t)
	if n := sendQueueOf(t, near); n != 0 {
		t.Errorf("%d bytes before the first write; want 0", n)
	}
	send(t, near, "acknowledged, though nothing is read")
	eventually(t, "the send queue is empty", func() bool { return sendQueueOf(t, near) == 0 })

	sent := fillUpConn(t, near)
	if n := sendQueueOf(t, near); n == 0 || n > sent {
		t.Errorf("%d bytes of %d, of which the peer reads nothing; want a part", n, sent)
	}
	go io.Copy(io.Discard, far) // ends with near
	eventually(t, "the send queue is empty again", func() bool { return sendQueueOf(t, near) == 0 })
	near.Close()
}

func TestSendQueueOfAUnixSocketIsEmptyWhenThePeerHasReadAll(t *testing.T) {
	near, far := unixPair(t)
	send(t, near, "0123456789")
	if n := sendQueueOf(t, near); n < 10 {
		t.Errorf("%d bytes that the peer has not read; want 10 at least", n)
	}
	if _, err := io.ReadFull(far, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if n := sendQueueOf(t, near); n != 0 {
		t.Errorf("%d bytes after the peer has read all; want 0", n)
	}
}

func TestSocketSendQueueIsThatOfTheConnection(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, pair func(testing.TB) (near, far net.Conn)) {
		s, far := newSocket(t, pair)
		if n := s.SendQueue(); n != 0 {
			t.Errorf("%d bytes before the first write; want 0", n)
		}
		sent := fillUp(t, s)
		if n := s.SendQueue(); n == 0 {
			t.Errorf("0 bytes of %d, of which the peer reads nothing", sent)
		}
		if _, err := io.CopyN(io.Discard, far, int64(sent)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the send queue is empty again", func() bool { return s.SendQueue() == 0 })
	})
}

// The end of the stream counts as a byte of TCP's queue until it is acknowledged.
func TestSendQueueEmptiesAfterTheEndOfTheStream(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, pair func(testing.TB) (near, far net.Conn)) {
		s, _ := newSocket(t, pair)
		if err := s.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the send queue is empty", func() bool { return s.SendQueue() == 0 })
	})
}

func TestSendQueueOfAClosedConnectionIsUnknown(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, pair func(testing.TB) (near, far net.Conn)) {
		near, _ := pair(t)
		near.Close()
		if n, ok := SendQueue(near.(syscall.Conn)); ok {
			t.Errorf("SendQueue() = %d, true; want it to be unknown", n)
		}
	})
}

func TestPeerEdgesSeesBehindUnreadBytes(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, pair func(testing.TB) (near, far net.Conn)) {
		ends := []struct {
			name string
			end  func(far net.Conn)
			want Edges
		}{
			{"nothing", func(net.Conn) {}, 0},
			{"end of stream", func(far net.Conn) { far.(interface{ CloseWrite() error }).CloseWrite() }, PeerClosed},
		}
		for _, tt := range ends {
			near, far := pair(t)
			send(t, far, "unread")
			tt.end(far)
			var got Edges
			eventually(t, tt.name, func() bool {
				got = PeerEdges(near.(syscall.Conn))
				return got == tt.want
			})
			b := make([]byte, 10)
			if n, err := near.Read(b); string(b[:n]) != "unread" || err != nil {
				t.Errorf("%s: Read() after it = %q, %v; want all that was sent", tt.name, b[:n], err)
			}
		}
	})
}

func TestPeerEdgesSeesAResetBehindUnreadBytes(t *testing.T) {
	near, far := tcpPair(t)
	send(t, far, "unread")
	far.(*net.TCPConn).SetLinger(0)
	far.Close()
	const want = PeerClosed | HungUp | Failed
	eventually(t, "all edges of a reset", func() bool { return PeerEdges(near.(syscall.Conn)) == want })
	b := make([]byte, 10)
	if n, err := near.Read(b); n == 0 && err == nil {
		t.Errorf("Read() after it = %d, %v; want bytes or the reset", n, err)
	}
}

func TestPeerEdgesOfAClosedConnectionAreNone(t *testing.T) {
	near, _ := tcpPair(t)
	near.Close()
	if e := PeerEdges(near.(syscall.Conn)); e != 0 {
		t.Errorf("PeerEdges() = %b; want none", e)
	}
}
