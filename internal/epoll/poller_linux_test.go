//go:build linux

package epoll

import (
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestEdgesAreToldOnce(t *testing.T) {
	p := newPoller(t)
	o := newOwner(t)
	send(t, o.far[1], "early")
	o.token, _ = p.Add(o, &o.sockets[0], &o.sockets[1])
	steps := []struct {
		name string
		act  func()
		want []Event
	}{
		{"it is watched", func() {}, []Event{{o, 1, Readable}}},
		{"nothing happens", func() {}, nil},
		{"bytes come", func() { send(t, o.far[0], "x") }, []Event{{o, 0, Readable}}},
		{"they wait", func() {}, nil},
		{"more come", func() { send(t, o.far[0], "x") }, []Event{{o, 0, Readable}}},
		{"the stream ends", func() { o.far[0].(*net.UnixConn).CloseWrite() }, []Event{{o, 0, Readable | PeerDone}}},
		{"that lasts", func() {}, nil},
		{"the peer is gone", func() { o.far[0].Close() }, []Event{{o, 0, Readable | PeerDone | HungUp}}},
		{"that lasts, too", func() {}, nil},
	}
	for _, step := range steps {
		step.act()
		if got := events(t, p); !reflect.DeepEqual(got, step.want) {
			t.Errorf("%s: told %v; want %v", step.name, got, step.want)
		}
	}
}

func TestWritableIsToldFromTheDemandOn(t *testing.T) {
	p := newPoller(t)
	o := add(t, p)
	for call, want := range [][]Event{{{o, 1, Writable}}, nil} {
		if err := p.TellWritable(o.token, &o.sockets[1], 1); err != nil {
			t.Fatal(err)
		}
		if got := events(t, p); !reflect.DeepEqual(got, want) {
			t.Errorf("told %v after call %d; want %v", got, call, want)
		}
	}
	send(t, o.far[1], "x")
	if got, want := events(t, p), []Event{{o, 1, Readable | Writable}}; !reflect.DeepEqual(got, want) {
		t.Errorf("told %v with bytes that come; want %v", got, want)
	}
}

func TestWritableIsToldAfterAWriteThatFoundNoRoom(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, pair func(testing.TB) (near, far net.Conn)) {
		p := newPoller(t)
		var sockets [2]Socket
		near, far := pair(t)
		other, _ := pair(t)
		takeOver(t, &sockets[0], near)
		takeOver(t, &sockets[1], other)
		defer sockets[0].Close()
		defer sockets[1].Close()
		token, err := p.Add(far, &sockets[0], &sockets[1])
		if err != nil {
			t.Fatal(err)
		}
		defer p.Remove(token, &sockets[0], &sockets[1])
		events(t, p)
		for range 3 {
			sent := fillUp(t, &sockets[0])
			if err := p.TellWritable(token, &sockets[0], 0); err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, far, int64(sent)); err != nil {
				t.Fatal(err)
			}
			wantWritable(t, p)
		}
	})
}

// wantWritable waits until an owner's first socket is writable.
func wantWritable(t *testing.T, p *Poller) {
	t.Helper()
	errc := make(chan error, 1)
	go func() { // ends with the event, or with the test's patience
		for {
			if _, err := p.Wait(); err != nil {
				errc <- err
				return
			}
			for e, ok := p.Next(); ok; e, ok = p.Next() {
				if e.Index == 0 && e.Edges&Writable != 0 {
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
		t.Fatal("not told that there is room again")
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

func TestBothSocketsAreWatchedBeforeEithersEvent(t *testing.T) {
	p := newPoller(t)
	o := newOwner(t)
	send(t, o.far[0], "x")
	send(t, o.far[1], "x")

	// What follows is Add, with all the time in the world.
	p.mu.Lock()
	token := p.takeLocked(o)
	p.watch(&o.sockets[0], token, 0)
	told := make(chan Event)
	go func() { // ends with the second event
		for range 2 {
			for {
				if e, ok := p.Next(); ok {
					told <- e
					break
				}
				p.Wait()
			}
		}
	}()
	for !isLocked("epoll.(*Poller).owner(") {
		runtime.Gosched()
	}
	select {
	case e := <-told:
		t.Errorf("told %v before the other socket is watched", e)
	default:
	}
	p.watch(&o.sockets[1], token, 1)
	p.mu.Unlock()
	for want := range 2 {
		if e := <-told; e.Owner != o || e.Index != want {
			t.Errorf("told %v; want index %d of its owner", e, want)
		}
	}
}

// isLocked reports whether a goroutine waits for a lock, somewhere within a
// function.
func isLocked(function string) bool {
	buf := make([]byte, 1<<20)
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		head, _, _ := strings.Cut(stack, "\n")
		if strings.Contains(stack, function) && strings.Contains(head, "sync.Mutex.Lock") {
			return true
		}
	}
	return false
}

func TestAddThatFailsWatchesNothing(t *testing.T) {
	p := newPoller(t)
	o := newOwner(t)
	broken := o.sockets
	broken[1].fd = 1 << 20 // nobody's
	if token, err := p.Add(o, &broken[0], &broken[1]); err == nil {
		t.Fatalf("Add() = %v; want an error", token)
	}
	send(t, o.far[0], "x")
	if got := harvest(t, p); got != 0 {
		t.Errorf("the kernel tells %d events of what is not watched", got)
	}
	if token, err := p.Add(o, &o.sockets[0], &o.sockets[1]); err != nil || token.slot != 0 {
		t.Errorf("Add() = %v, %v; want the slot that was given back", token, err)
	}
}

// harvest returns how many events the kernel tells, stale ones included.
func harvest(t *testing.T, p *Poller) int {
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
		if n := harvest(t, p); n != 0 {
			t.Fatalf("%d events after the one of Wake", n)
		}
		errc := wait()
		p.Wake()
		wantWoken(t, errc, "at the same time as Wait")
		harvest(t, p)
	}
	errc := wait()
	for !isWaiting("epoll.(*Poller).Wait(") {
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

func TestWaitTellsWhetherItWasParked(t *testing.T) {
	p := newPoller(t)
	p.Wake()
	if hasParked, err := p.Wait(); hasParked || err != nil {
		t.Errorf("Wait() = %v, %v; want it not to be parked", hasParked, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !isWaiting("epoll.(*Poller).Wait(") {
			runtime.Gosched()
		}
		p.Wake()
	}()
	if hasParked, err := p.Wait(); !hasParked || err != nil {
		t.Errorf("Wait() = %v, %v; want it to be parked", hasParked, err)
	}
	<-done
}

func TestYieldLetsOthersGoOn(t *testing.T) {
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

func TestStaleEventNeverReachesWhoHasTheSameNumber(t *testing.T) {
	p := newPoller(t)
	old := add(t, p)
	send(t, old.far[0], "x")
	if n := harvest(t, p); n != 1 {
		t.Fatalf("%d events; want one", n)
	}
	stale := p.events[0]
	oldFD := old.sockets[0].fd
	p.Remove(old.token, &old.sockets[0], &old.sockets[1])
	old.close()

	fresh := newOwner(t)
	if fresh.sockets[0].fd != oldFD { // the number is used again by force
		if err := syscall.Dup3(int(fresh.sockets[0].fd), int(oldFD), syscall.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		fresh.sockets[0].Close()
		fresh.sockets[0].fd = oldFD
	}
	var err error
	if fresh.token, err = p.Add(fresh, &fresh.sockets[0], &fresh.sockets[1]); err != nil {
		t.Fatal(err)
	}
	if fresh.token.slot != old.token.slot {
		t.Fatalf("slot %d; want that of the old one, %d, too", fresh.token.slot, old.token.slot)
	}
	events(t, p)

	p.events[0], p.have, p.next = stale, 1, 0
	if e, ok := p.Next(); ok {
		t.Errorf("told %v of the old connection", e)
	}
	send(t, fresh.far[0], "x")
	want := []Event{{fresh, 0, Readable}}
	if got := events(t, p); !reflect.DeepEqual(got, want) {
		t.Errorf("told %v; want %v", got, want)
	}
}

func TestRestOfABatchIsDroppedForWhoIsRemoved(t *testing.T) {
	p := newPoller(t)
	owners := map[*owner]*owner{}
	a, b := add(t, p), add(t, p)
	owners[a], owners[b] = b, a
	for o := range owners {
		send(t, o.far[0], "x")
		send(t, o.far[1], "x")
	}
	if n := harvest(t, p); n != 4 {
		t.Fatalf("%d events; want 4", n)
	}
	first, _ := p.Next()
	removed := owners[first.Owner.(*owner)]
	p.Remove(removed.token, &removed.sockets[0], &removed.sockets[1])
	third := addUnheard(t, p) // in the same slot
	var rest []Event
	for e, ok := p.Next(); ok; e, ok = p.Next() {
		rest = append(rest, e)
	}
	want := []Event{{first.Owner, 1 - first.Index, Readable}}
	if !reflect.DeepEqual(rest, want) {
		t.Errorf("told %v; want %v", rest, want)
	}
	if got := events(t, p); len(got) != 2 || got[0].Owner != third {
		t.Errorf("told %v; want two events of the new one", got)
	}
}

// addUnheard is add, but what has come for both sockets is still to be told.
func addUnheard(t *testing.T, p *Poller) *owner {
	t.Helper()
	o := newOwner(t)
	send(t, o.far[0], "x")
	send(t, o.far[1], "x")
	var err error
	if o.token, err = p.Add(o, &o.sockets[0], &o.sockets[1]); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestOwnerThatJoinsGetsWhatComesFromThenOn(t *testing.T) {
	p := newPoller(t)
	before, after := newOwner(t), newOwner(t)
	token, err := p.Add(before, &after.sockets[0])
	if err != nil {
		t.Fatal(err)
	}
	events(t, p)
	send(t, after.far[0], "x")
	if n := harvest(t, p); n != 1 {
		t.Fatalf("%d events; want one", n)
	}
	send(t, after.far[1], "x")
	if err := p.Join(token, after, &after.sockets[1], 1); err != nil {
		t.Fatal(err)
	}
	if e, ok := p.Next(); !ok || e.Owner != after || e.Index != 0 {
		t.Errorf("told %v; want what the kernel has told before, of the new owner", e)
	}
	want := []Event{{after, 1, Readable}}
	if got := events(t, p); !reflect.DeepEqual(got, want) {
		t.Errorf("told %v; want %v", got, want)
	}
	p.Remove(token, &after.sockets[0], &after.sockets[1])
	send(t, after.far[0], "x")
	send(t, after.far[1], "x")
	if n := harvest(t, p); n != 0 {
		t.Errorf("%d events of what was removed", n)
	}
}

func TestJoinThatFailsChangesNothing(t *testing.T) {
	p := newPoller(t)
	o := add(t, p)
	broken := Socket{fd: 1 << 20} // nobody's
	if err := p.Join(o.token, newOwner(t), &broken, 1); err == nil {
		t.Fatal("Join() succeeds with a socket that there is not")
	}
	send(t, o.far[0], "x")
	want := []Event{{o, 0, Readable}}
	if got := events(t, p); !reflect.DeepEqual(got, want) {
		t.Errorf("told %v; want %v", got, want)
	}
}

func TestForgottenSocketBringsNoEvents(t *testing.T) {
	p := newPoller(t)
	o := add(t, p)
	p.Forget(&o.sockets[0])
	send(t, o.far[0], "x")
	send(t, o.far[1], "x")
	want := []Event{{o, 1, Readable}}
	if got := events(t, p); !reflect.DeepEqual(got, want) {
		t.Errorf("told %v; want %v", got, want)
	}
}

func TestSecondRemoveIsABug(t *testing.T) {
	p := newPoller(t)
	o := add(t, p)
	p.Remove(o.token, &o.sockets[0], &o.sockets[1])
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	p.Remove(o.token, &o.sockets[0], &o.sockets[1])
}

func TestDuplicateThatSomebodyHoldsBringsNoEvents(t *testing.T) {
	p := newPoller(t)
	var o owner
	var held [2]*os.File
	for i := range o.sockets {
		var near net.Conn
		near, o.far[i] = tcpPair(t)
		var err error
		if held[i], err = near.(*net.TCPConn).File(); err != nil {
			t.Fatal(err)
		}
		defer held[i].Close()
		takeOver(t, &o.sockets[i], near)
	}
	var err error
	if o.token, err = p.Add(&o, &o.sockets[0], &o.sockets[1]); err != nil {
		t.Fatal(err)
	}
	harvest(t, p)
	p.Remove(o.token, &o.sockets[0], &o.sockets[1])
	o.close()
	send(t, o.far[0], "x")
	if _, err := held[0].Read(make([]byte, 1)); err != nil { // so that it has come
		t.Fatal(err)
	}
	if n := harvest(t, p); n != 0 {
		t.Errorf("%d events of what was removed", n)
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
	send(t, a.far[0], "x")
	send(t, b.far[0], "x")
	if n := harvest(t, p); n != 2 {
		t.Fatalf("%d events; want 2", n)
	}
	first, _ := p.Next()
	for range 2 { // the second has a bell that nobody has looked at
		if err := p.Yield(); err != nil {
			t.Fatal(err)
		}
	}
	second, ok := p.Next()
	if !ok || first.Owner == second.Owner {
		t.Errorf("told %v, then %v; want one event of each owner", first, second)
	}
	send(t, a.far[1], "x") // and what comes is told by the next call of Poll
	if got, want := events(t, p), []Event{{a, 1, Readable}}; !reflect.DeepEqual(got, want) {
		t.Errorf("told %v; want %v", got, want)
	}
}
