//go:build linux && !wsproxy_portable

package relay

import (
	"io"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

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
	return engineOfLoop(t, l), l
}

// engineOfLoop returns an engine that has the loop l alone, which must run at the end
// of the test.
func engineOfLoop(t *testing.T, l *loop) engine {
	return engineOf(t, &Loops{loops: []*loop{l}})
}

func TestLoopThatHasEndedTouchesNoDescriptor(t *testing.T) {
	e, l := oneLoop(t)
	s := e.start(t, networks[0], setup{})
	s.Cut(CauseShutdown)
	<-s.done
	l.close()
	<-l.done
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
	e := engineOfLoop(t, l)
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
	token, err := l.poller.Add(u, &u.sockets[backendLink], &u.sockets[clientLink])
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
	u.token = token
	l.members++
	l.enteredLocked(u)
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
		n := l.members
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

func TestBusyLoopLetsOthersGoOn(t *testing.T) {
	loads := map[string]wstest.Frame{
		"small messages": wstest.Binary(make([]byte, 100)),
		"large messages": wstest.Binary(make([]byte, 100_000)),
	}
	for name, frame := range loads {
		t.Run(name, func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
			e, _ := oneLoop(t)
			var tunnels []tunnel
			for range 8 {
				tunnels = append(tunnels, circle(t, e, masked(frame)))
			}
			// A few at a time, so that the loop is certainly busy beside them.
			var took []time.Duration
			for rounds := uint64(1); rounds <= 5; rounds++ {
				took = append(took, echoes(t, 20)...)
				for _, tunnel := range tunnels {
					waitForMessages(tunnel, 20*rounds)
				}
			}
			if p50 := median(took); p50 > 5*time.Millisecond {
				t.Errorf("an echo beside the loop takes %v of CPU", p50)
			}
		})
	}
}

// waitForMessages waits until so many have passed to the backend.
func waitForMessages(tunnel tunnel, messages uint64) {
	for {
		if up, _ := tunnel.Counts(); up.Messages >= messages {
			return
		}
		runtime.Gosched()
	}
}

// circle lets a frame go round and round, through two tunnels, of which it returns
// one.
func circle(t *testing.T, e engine, frame []byte) tunnel {
	t.Helper()
	a, otherA := unixPair(t)
	b, otherB := unixPair(t)
	tunnels := []tunnel{
		e.open(leg{conn: a, early: frame}, leg{conn: b}, Config{}),
		e.open(leg{conn: otherB}, leg{conn: otherA}, Config{}),
	}
	for _, tunnel := range tunnels {
		done := make(chan struct{})
		go func() {
			tunnel.Run()
			close(done)
		}()
		t.Cleanup(func() {
			tunnel.Cut(CauseShutdown)
			<-done
		})
	}
	return tunnels[0]
}

// echoes returns how much CPU this process uses while each echo of an ordinary
// server in it is under way. Where one processor is all there is, that is how long
// it takes, without what other processes take.
func echoes(t *testing.T, rounds int) []time.Duration {
	t.Helper()
	near, far := tcpPair(t)
	served := make(chan struct{})
	go func() {
		defer close(served)
		defer far.Close()
		io.Copy(struct{ io.Writer }{far}, far) // up to the end of near
	}()
	defer func() { near.Close(); <-served }()
	var took []time.Duration
	for range rounds {
		start := cpuTime(t)
		if _, err := near.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := near.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		took = append(took, cpuTime(t)-start)
	}
	return took
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
