//go:build linux

package epoll

import (
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestPollerReportsEachEdgeOnce(t *testing.T) {
	p := newPoller(t)
	o := newOwner(t)
	send(t, o.far, "early")
	if err := p.Add(&o.socket, o); err != nil {
		t.Fatal(err)
	}
	steps := []struct {
		name string
		act  func()
		want []event
	}{
		{"it is watched", func() {}, []event{{o, Readable}}},
		{"nothing happens", func() {}, nil},
		{"bytes arrive", func() { send(t, o.far, "x") }, []event{{o, Readable}}},
		{"they are not read", func() {}, nil},
		{"more arrive", func() { send(t, o.far, "x") }, []event{{o, Readable}}},
		{"the stream ends", func() { o.far.(*net.UnixConn).CloseWrite() }, []event{{o, Readable | PeerClosed}}},
		{"it stays ended", func() {}, nil},
		{"the peer closes", func() { o.far.Close() }, []event{{o, Readable | PeerClosed | HungUp}}},
		{"it stays closed", func() {}, nil},
	}
	for _, step := range steps {
		step.act()
		wantEvents(t, step.name, events(t, p), step.want)
	}
}

func TestPollerReportsWritableAfterWatchWrites(t *testing.T) {
	p := newPoller(t)
	o := add(t, p)
	for call, want := range [][]event{{{o, Writable}}, nil} {
		if err := p.WatchWrites(&o.socket); err != nil {
			t.Fatal(err)
		}
		wantEvents(t, fmt.Sprint("call ", call), events(t, p), want)
	}
	send(t, o.far, "x")
	wantEvents(t, "bytes arrive", events(t, p), []event{{o, Readable | Writable}})
}

func TestPollerReportsWritableAgainAfterAShortWrite(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, pair func(testing.TB) (near, far net.Conn)) {
		p := newPoller(t)
		o := new(owner)
		var near net.Conn
		near, o.far = pair(t)
		takeOver(t, &o.socket, near)
		defer o.socket.Close()
		if err := p.Add(&o.socket, o); err != nil {
			t.Fatal(err)
		}
		defer p.Remove(&o.socket)
		events(t, p)
		for range 3 {
			sent := fillUp(t, &o.socket)
			if err := p.WatchWrites(&o.socket); err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, o.far, int64(sent)); err != nil {
				t.Fatal(err)
			}
			wantWritable(t, p, o)
		}
	})
}

// wantWritable waits until o's socket is writable.
func wantWritable(t *testing.T, p *Poller[owner], o *owner) {
	t.Helper()
	errc := make(chan error, 1)
	go func() { // ends with the event, or with the test's patience
		for {
			if _, err := p.Wait(); err != nil {
				errc <- err
				return
			}
			for _, e := range rest(p) {
				if e.owner == o && e.edges&Writable != 0 {
					errc <- nil
					return
				}
			}
		}
	}()
	select {
	case err := <-errc:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("no event says that the socket is writable again")
	}
}

// fillUp writes until no more is taken, the last time a part at most.
func fillUp(t *testing.T, s *Socket) (sent int) {
	t.Helper()
	for {
		n, err := s.Write(make([]byte, 64<<10))
		sent += n
		if err == ErrAgain {
			return sent
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestPollerAddThatFailsKeepsNoSlot(t *testing.T) {
	p := newPoller(t)
	broken := Socket{fd: 1 << 20} // is not open
	if err := p.Add(&broken, new(owner)); err == nil {
		t.Fatal("Add() of a socket that is not open succeeds")
	}
	o := add(t, p)
	if o.socket.slot != 0 || len(p.slots) != 1 {
		t.Errorf("slot %d of %d; want the slot of the socket that was not added", o.socket.slot, len(p.slots))
	}
	send(t, o.far, "x")
	wantEvents(t, "bytes arrive", events(t, p), []event{{o, Readable}})
}

func TestPollerUsesSlotsAgain(t *testing.T) {
	p := newPoller(t)
	for range 3 {
		a, b := add(t, p), add(t, p)
		p.Remove(&a.socket)
		p.Remove(&b.socket)
	}
	if len(p.slots) != 2 {
		t.Errorf("%d slots for two sockets at once; want 2", len(p.slots))
	}
}

// numEvents asks the kernel and returns how many events it has, those of removed sockets
// included.
func numEvents(t *testing.T, p *Poller[owner]) int {
	t.Helper()
	if err := p.Poll(); err != nil {
		t.Fatal(err)
	}
	return p.have
}

func TestWakeEndsWait(t *testing.T) {
	p := newPoller(t)
	wait := func() chan error {
		errc := make(chan error, 1)
		go func() { // ends with a Wake
			_, err := p.Wait()
			errc <- err
		}()
		return errc
	}
	for range 100 {
		p.Wake()
		wantWoken(t, wait(), "before Wait")
		if n := numEvents(t, p); n != 0 {
			t.Fatalf("%d events after the one of Wake", n)
		}
		errc := wait()
		p.Wake()
		wantWoken(t, errc, "at the same time as Wait")
		numEvents(t, p)
	}
	errc := wait()
	for !isWaiting("epoll.(*Poller[...]).Wait(") {
		runtime.Gosched()
	}
	p.Wake()
	wantWoken(t, errc, "during Wait")
}

func wantWoken(t *testing.T, errc chan error, when string) {
	t.Helper()
	select {
	case err := <-errc:
		if err != nil {
			t.Fatalf("woken %s: %v", when, err)
		}
	case <-time.After(patience):
		t.Fatalf("a Wake %s was lost", when)
	}
}

// isWaiting reports whether a goroutine waits for the network, somewhere within a
// function.
func isWaiting(function string) bool {
	buf := make([]byte, 1<<20)
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		head, _, _ := strings.Cut(stack, "\n")
		if strings.Contains(stack, function) && strings.Contains(head, "IO wait") {
			return true
		}
	}
	return false
}

func TestWaitReportsWhetherItWasParked(t *testing.T) {
	p := newPoller(t)
	p.Wake()
	if hasParked, err := p.Wait(); hasParked || err != nil {
		t.Errorf("Wait() = %v, %v; want it not to be parked", hasParked, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !isWaiting("epoll.(*Poller[...]).Wait(") {
			runtime.Gosched()
		}
		p.Wake()
	}()
	if hasParked, err := p.Wait(); !hasParked || err != nil {
		t.Errorf("Wait() = %v, %v; want it to be parked", hasParked, err)
	}
	<-done
}

func TestYieldRunsOtherGoroutines(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	p := newPoller(t)
	near, far := tcpPair(t)
	served := make(chan struct{})
	go func() { // ends with near
		defer close(served)
		io.Copy(struct{ io.Writer }{far}, far)
	}()
	const echoes = 50
	done := make(chan error, 1)
	go func() { // ends at once, or with near
		b := make([]byte, 1)
		for range echoes {
			near.Write(b)
			if _, err := near.Read(b); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	yields := 0
	for isDone := false; !isDone && yields < 10*echoes; yields++ {
		for start := time.Now(); time.Since(start) < time.Millisecond; {
		} // and never a function that lets others go on
		if err := p.Yield(); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			isDone = true
		default:
		}
	}
	if yields == 10*echoes {
		t.Errorf("%d yields were not enough for %d echoes", yields, echoes)
	}
	near.Close()
	<-served
}

func TestPollerDropsStaleEventsOfAReusedDescriptor(t *testing.T) {
	p := newPoller(t)
	old := add(t, p)
	send(t, old.far, "x")
	if n := numEvents(t, p); n != 1 {
		t.Fatalf("%d events; want one", n)
	}
	stale := p.events[0]
	oldFD, oldSlot := old.socket.fd, old.socket.slot
	p.Remove(&old.socket)
	old.socket.Close()

	fresh := newOwner(t)
	if fresh.socket.fd != oldFD { // the number is used again by force
		if err := syscall.Dup3(int(fresh.socket.fd), int(oldFD), syscall.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		fresh.socket.Close()
		fresh.socket.fd = oldFD
	}
	if err := p.Add(&fresh.socket, fresh); err != nil {
		t.Fatal(err)
	}
	if fresh.socket.slot != oldSlot {
		t.Fatalf("slot %d; want that of the old socket, %d, too", fresh.socket.slot, oldSlot)
	}
	events(t, p)

	p.events[0], p.have, p.next = stale, 1, 0
	if o, e := p.Next(); o != nil {
		t.Errorf("Next() = %p, %v of the old connection", o, e)
	}
	send(t, fresh.far, "x")
	wantEvents(t, "bytes arrive", events(t, p), []event{{fresh, Readable}})
}

func TestPollerDropsTheRestOfABatchAfterRemove(t *testing.T) {
	p := newPoller(t)
	other := map[*owner]*owner{}
	a, b := add(t, p), add(t, p)
	other[a], other[b] = b, a
	send(t, a.far, "x")
	send(t, b.far, "x")
	if n := numEvents(t, p); n != 2 {
		t.Fatalf("%d events; want 2", n)
	}
	first, _ := p.Next()
	p.Remove(&other[first].socket)
	third := newOwner(t) // gets the same slot
	send(t, third.far, "x")
	if err := p.Add(&third.socket, third); err != nil {
		t.Fatal(err)
	}
	wantEvents(t, "the rest of the batch", rest(p), nil)
	wantEvents(t, "the new socket", events(t, p), []event{{third, Readable}})
}

func TestPollerPanicsOnASecondRemove(t *testing.T) {
	p := newPoller(t)
	o := add(t, p)
	p.Remove(&o.socket)
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	p.Remove(&o.socket)
}

func TestPollerForgetsRemovedSocketsWithDuplicates(t *testing.T) {
	p := newPoller(t)
	o := new(owner)
	var near net.Conn
	near, o.far = tcpPair(t)
	duplicate, err := near.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer duplicate.Close()
	takeOver(t, &o.socket, near)
	if err := p.Add(&o.socket, o); err != nil {
		t.Fatal(err)
	}
	numEvents(t, p)
	p.Remove(&o.socket)
	o.socket.Close()
	send(t, o.far, "x")
	if _, err := duplicate.Read(make([]byte, 1)); err != nil { // so that it has arrived
		t.Fatal(err)
	}
	if n := numEvents(t, p); n != 0 {
		t.Errorf("%d events of a socket that was removed", n)
	}
}

func init() {
	children["idle"] = func() {
		fmt.Print("ready")
		io.Copy(io.Discard, os.Stdin)
	}
}

func TestChildProcessKeepsNoSocketAlive(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, pair func(testing.TB) (near, far net.Conn)) {
		near, far := pair(t)
		var s Socket
		takeOver(t, &s, near)
		startChild(t, "idle")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		far.SetReadDeadline(time.Now().Add(patience))
		if n, err := far.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("Read() = %d, %v; want io.EOF while the child runs", n, err)
		}
	})
}

func TestYieldKeepsTheRestOfABatch(t *testing.T) {
	p := newPoller(t)
	a, b := add(t, p), add(t, p)
	send(t, a.far, "x")
	send(t, b.far, "x")
	if n := numEvents(t, p); n != 2 {
		t.Fatalf("%d events; want 2", n)
	}
	first, _ := p.Next()
	for range 2 { // at the second call the event of the first one's Wake is pending
		if err := p.Yield(); err != nil {
			t.Fatal(err)
		}
	}
	second, _ := p.Next()
	if second == nil || first == second {
		t.Errorf("events of %p, then of %p; want one of each owner", first, second)
	}
	send(t, a.far, "x")
	wantEvents(t, "the next call of Poll", events(t, p), []event{{a, Readable}})
}
