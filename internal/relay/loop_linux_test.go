//go:build !wsproxy_portable

package relay

import (
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/netconn"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// oneLoop returns an engine whose tunnels share one loop, which ends with the test.
func oneLoop(t *testing.T) (engine, *loop) {
	t.Helper()
	l, err := newLoop()
	if err != nil {
		t.Fatal(err)
	}
	go l.run() // ends with the test
	return engineOf(t, l), l
}

// engineOf returns an engine that has the loop l, which must run at the end of the
// test.
func engineOf(t *testing.T, l *loop) engine {
	loops := &Loops{loops: []*loop{l}}
	t.Cleanup(loops.Close)
	return engine{name: "event loop", needsSockets: true, open: func(client, backend leg, c Config) tunnel {
		c.Client = netconn.New(client.conn, client.early)
		c.Backend = netconn.New(backend.conn, backend.early)
		c.Loops = loops
		return New(c)
	}}
}

func TestLoopThatHasEndedTouchesNoDescriptor(t *testing.T) {
	e, l := oneLoop(t)
	s := e.start(t, networks[0], setup{})
	s.Cut(CauseShutdown)
	<-s.done
	l.close()
	reused := socketPairs(t, 16) // among them the numbers that the loop had
	s.Cut(CauseShutdown)
	for _, fd := range reused {
		if n, _, err := syscall.Recvfrom(fd, make([]byte, 100), syscall.MSG_DONTWAIT); err != syscall.EAGAIN {
			t.Errorf("descriptor %d has been written to: read %d bytes, %v", fd, n, err)
		}
	}
}

// socketPairs returns descriptors of sockets, whose numbers are the lowest that are
// free.
func socketPairs(t *testing.T, pairs int) []int {
	t.Helper()
	var fds []int
	for range pairs {
		pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, pair[0], pair[1])
	}
	t.Cleanup(func() {
		for _, fd := range fds {
			syscall.Close(fd)
		}
	})
	return fds
}

func TestSweepThatBecomesDueWhileTheLoopIsAtWorkIsNotMissed(t *testing.T) {
	l, err := newLoop()
	if err != nil {
		t.Fatal(err)
	}
	defer l.poller.Close()
	for isQuiet := false; !isQuiet; { // the poller's own beginnings
		l.poller.Poll()
		_, ok := l.poller.Next()
		isQuiet = !ok
	}
	l.sweepSoon() // it is not waiting now
	next := make(chan struct{})
	go func() {
		l.next()
		close(next)
	}()
	select {
	case <-next:
	case <-time.After(5 * time.Second):
		t.Error("the loop waits, with a sweep that is due")
		l.poller.Wake()
		<-next
	}
}

func TestTunnelMayEndBeforeItHasEntered(t *testing.T) {
	l, err := newLoop()
	if err != nil {
		t.Fatal(err)
	}
	e := engineOf(t, l)
	first, s := e.prepare(t, networks[0], setup{}), e.prepare(t, networks[0], setup{})
	first.begin() // its token is that which a tunnel has that has none
	wantEntered(t, l, 1)
	s.client.Close()
	s.backend.Close()
	s.Cut(CauseShutdown)

	// What follows is enter, so slow that the loop has done all before its end.
	u := s.tunnel.(*Relay).driver.(*looped)
	ended := make(chan End, 1)
	u.done = func(end End) { ended <- end }
	l.mu.Lock()
	token, err := l.poller.Add(u, &u.sockets)
	if err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the test
		l.poller.Poll()
		l.handleEvents()
		l.run()
	}()
	for !isLocked(t, "relay.(*loop).leave(") {
		runtime.Gosched()
	}
	l.enteredLocked(u, token)
	l.mu.Unlock()
	<-ended
	s.nearClient.Close()
	s.nearBackend.Close()
	s.isRunning = true
	close(s.done)

	first.client.Send(wstest.Text("hello"))
	first.backend.Want(wstest.Text("hello"))
}

// wantEntered waits until l has so many tunnels.
func wantEntered(t *testing.T, l *loop, tunnels int) {
	t.Helper()
	for {
		l.mu.Lock()
		n := l.tunnels
		l.mu.Unlock()
		if n == tunnels {
			return
		}
		runtime.Gosched()
	}
}

// isLocked reports whether a goroutine waits for a lock, somewhere within a
// function.
func isLocked(t *testing.T, function string) bool {
	t.Helper()
	buf := make([]byte, 1<<20)
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(stack, function) {
			head, _, _ := strings.Cut(stack, "\n")
			return strings.Contains(head, "sync.Mutex.Lock")
		}
	}
	return false
}
