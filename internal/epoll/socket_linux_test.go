//go:build linux

package epoll

import (
	"errors"
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

func TestSocketReadsAndWritesWithoutWaiting(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, pair func(testing.TB) (near, far net.Conn)) {
		s, far := newSocket(t, pair)
		b := make([]byte, 100)
		if n, err := s.Read(b); n != 0 || err != ErrAgain {
			t.Errorf("Read() of nothing = %d, %v; want ErrAgain", n, err)
		}
		send(t, far, "hello")
		if n, err := readSoon(s, b); string(b[:n]) != "hello" || err != nil {
			t.Errorf("Read() = %q, %v; want hello", b[:n], err)
		}
		if n, err := s.Write([]byte("world")); n != 5 || err != nil {
			t.Errorf("Write() = %d, %v; want 5", n, err)
		}
		if _, err := io.ReadFull(far, b[:5]); string(b[:5]) != "world" || err != nil {
			t.Errorf("the peer read %q, %v; want world", b[:5], err)
		}
		fillUp(t, s)
		if n, err := s.Write(b); n != 0 || err != ErrAgain {
			t.Errorf("Write() without room = %d, %v; want ErrAgain", n, err)
		}
	})
}

// readSoon is Read as soon as there is something to tell.
func readSoon(s *Socket, b []byte) (n int, err error) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if n, err = s.Read(b); err != ErrAgain {
			break
		}
	}
	return n, err
}

// A call of Fd on a File of the connection makes all that share it wait: every tunnel
// of the loop would, and with a raw call the whole program.
func TestSocketNeverWaitsWhateverOthersMakeOfTheConnection(t *testing.T) {
	makeWait := func(file func() (*os.File, error)) {
		t.Helper()
		f, err := file()
		if err != nil {
			t.Fatal(err)
		}
		f.Fd()
		f.Close()
	}
	forEachNetwork(t, func(t *testing.T, pair func(testing.TB) (near, far net.Conn)) {
		near, far := pair(t)
		defer time.AfterFunc(patience, func() { far.Close() }).Stop() // ends what waits
		makeWait(near.(interface{ File() (*os.File, error) }).File)
		var s Socket
		takeOver(t, &s, near)
		defer s.Close()
		for _, when := range []string{"before", "after"} {
			if n, err := s.Read(make([]byte, 1)); n != 0 || err != ErrAgain {
				t.Errorf("Read() = %d, %v of a connection that was made to wait %s it was taken over; want ErrAgain", n, err, when)
			}
			fillUp(t, &s)
			makeWait(s.File)
		}
	})
}

// The race detector is the judge here.
func TestBytesCarryOrder(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, pair func(testing.TB) (near, far net.Conn)) {
		s, far := newSocket(t, pair)
		pipe, err := NewPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer pipe.Close()
		for _, tt := range []struct {
			name        string
			read, write func() (int, error)
		}{
			{"Write", func() (int, error) { return far.Read(make([]byte, 1)) }, func() (int, error) { return s.Write([]byte("x")) }},
			{"Read", func() (int, error) { return s.Read(make([]byte, 1)) }, func() (int, error) { return far.Write([]byte("x")) }},
			{"Fill", func() (int, error) { return pipe.Fill(s, 1) }, func() (int, error) { return far.Write([]byte("x")) }},
			{"Drain", func() (int, error) { return far.Read(make([]byte, 1)) }, func() (int, error) { return pipe.Drain(s, 1) }},
		} {
			var before bool
			errc := make(chan error, 1)
			go func() {
				before = true
				_, err := tt.write()
				errc <- err
			}()
			_, err := tt.read()
			for err == ErrAgain {
				runtime.Gosched()
				_, err = tt.read()
			}
			if err != nil || !before {
				t.Errorf("%s: error %v, %t before; want the byte after true", tt.name, err, before)
			}
			if err := <-errc; err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
	})
}

func TestLastWriteArrivesWithTheEnd(t *testing.T) {
	ends := map[string]func(*Socket) error{"CloseWrite": (*Socket).CloseWrite, "Close": (*Socket).Close}
	forEachNetwork(t, func(t *testing.T, pair func(testing.TB) (near, far net.Conn)) {
		for name, end := range ends {
			s, far := newSocket(t, pair)
			if n, err := s.WriteLast([]byte("goodbye")); n != 7 || err != nil {
				t.Fatalf("WriteLast() = %d, %v; want 7", n, err)
			}
			if err := end(s); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(far); string(got) != "goodbye" || err != nil {
				t.Errorf("after %s the peer read %q, %v; want goodbye", name, got, err)
			}
		}
	})
}

func TestCloseWriteEndsOneDirection(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, pair func(testing.TB) (near, far net.Conn)) {
		s, far := newSocket(t, pair)
		if err := s.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if n, err := far.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the peer read %d, %v; want io.EOF", n, err)
		}
		send(t, far, "still here")
		b := make([]byte, 100)
		if n, err := readSoon(s, b); string(b[:n]) != "still here" || err != nil {
			t.Errorf("Read() = %q, %v; want still here", b[:n], err)
		}
	})
}

// What a socket tells is what a [net.Conn] tells of a connection with which the same
// has happened, but for the addresses.
func TestErrorsAreThoseOfPackageNet(t *testing.T) {
	read := func(rw io.ReadWriter) error {
		_, err := rw.Read(make([]byte, 10))
		return err
	}
	write := func(rw io.ReadWriter) error {
		_, err := rw.Write(make([]byte, 10))
		return err
	}
	readUp := func(rw io.ReadWriter) error { read(rw); return read(rw) }
	closeUnread := func(near io.ReadWriter, far net.Conn) { // which is a reset, also of a unix socket
		near.Write([]byte("never read"))
		far.Close()
	}
	tests := []struct {
		name   string
		happen func(near io.ReadWriter, far net.Conn)
		then   func(io.ReadWriter) error
		want   error
	}{
		{"end of stream", func(_ io.ReadWriter, far net.Conn) { far.Close() }, read, io.EOF},
		{"end of stream, read twice", func(_ io.ReadWriter, far net.Conn) { far.Close() }, readUp, io.EOF},
		{"bytes, then end of stream", func(_ io.ReadWriter, far net.Conn) { far.Write([]byte("x")); far.Close() }, readUp, io.EOF},
		{"read of what is reset", closeUnread, read, syscall.ECONNRESET},
		{"write to what has ended", func(near io.ReadWriter, _ net.Conn) {
			near.(interface{ CloseWrite() error }).CloseWrite()
		}, write, syscall.EPIPE},
	}
	forEachNetwork(t, func(t *testing.T, pair func(testing.TB) (near, far net.Conn)) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				near, far := pair(t)
				tt.happen(near, far)
				want := tt.then(near)
				if !errors.Is(want, tt.want) {
					t.Fatalf("a %T: %v; want %v", near, want, tt.want)
				}
				s, far := newSocket(t, pair)
				soon := soonSocket{s}
				tt.happen(soon, far)
				wantSameError(t, tt.then(soon), want)
			})
		}
	})
}

// A soonSocket waits for what is to come.
type soonSocket struct{ *Socket }

func (s soonSocket) Read(b []byte) (int, error) { return readSoon(s.Socket, b) }

func wantSameError(t *testing.T, got, want error) {
	t.Helper()
	var gotOp, wantOp *net.OpError
	if !errors.As(want, &wantOp) {
		if got != want {
			t.Errorf("error %v; want %v itself", got, want)
		}
		return
	}
	if !errors.As(got, &gotOp) {
		t.Fatalf("error %T %v; want a *net.OpError", got, got)
	}
	if gotOp.Op != wantOp.Op || gotOp.Net != wantOp.Net || !reflect.DeepEqual(gotOp.Err, wantOp.Err) {
		t.Errorf("error %#v; want %#v but for the addresses", gotOp, wantOp)
	}
	if got, want := gotOp.Timeout(), wantOp.Timeout(); got != want {
		t.Errorf("Timeout() = %v; want %v", got, want)
	}
	// "read tcp 127.0.0.1:1->127.0.0.1:2: read: connection reset by peer"
	op, _, _ := strings.Cut(want.Error(), " ")
	if cause := wantOp.Err.Error(); got.Error() != op+" "+wantOp.Net+": "+cause {
		t.Errorf("text %q; want that of %q but for the addresses", got, want)
	}
}

func TestPeerThatIsNotThereIsATimeout(t *testing.T) {
	s := &Socket{}
	got := s.fail("read", "read", syscall.ETIMEDOUT)
	var e net.Error
	if !errors.As(got, &e) || !e.Timeout() || !errors.Is(got, syscall.ETIMEDOUT) {
		t.Errorf("error %#v; want a timeout, and ETIMEDOUT", got)
	}
}

func TestTakeOverOfAClosedConnection(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, pair func(testing.TB) (near, far net.Conn)) {
		near, _ := pair(t)
		near.Close()
		var s Socket
		if err := s.TakeOver(near.(syscall.Conn)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("TakeOver(): %v; want net.ErrClosed", err)
		}
	})
}

func TestSocketOutlivesTheConnectionThatItIsOf(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, pair func(testing.TB) (near, far net.Conn)) {
		s, far := newSocket(t, pair) // near is closed
		send(t, far, "hello")
		b := make([]byte, 10)
		if n, err := readSoon(s, b); string(b[:n]) != "hello" || err != nil {
			t.Errorf("Read() = %q, %v; want hello", b[:n], err)
		}
		s.Close()
		if n, err := far.Read(b); err != io.EOF {
			t.Errorf("the peer read %d, %v; want io.EOF", n, err)
		}
	})
}

// A close that lingers would hold up everybody whose bytes the loop moves.
func TestCloseDoesNotLingerThoughTheProgramWantsIt(t *testing.T) {
	near, _ := tcpPair(t)
	if err := near.(*net.TCPConn).SetLinger(5); err != nil {
		t.Fatal(err)
	}
	var s Socket
	takeOver(t, &s, near)
	defer s.Close()
	if on, err := syscall.GetsockoptInt(int(s.fd), syscall.SOL_SOCKET, syscall.SO_LINGER); on != 0 || err != nil {
		t.Errorf("SO_LINGER is %d, %v; want it off", on, err)
	}
}

// A descriptor that a child process has, or that is a child's by mistake, keeps a
// connection alive.
func TestDescriptorsAreClosedOnExec(t *testing.T) {
	before := openDescriptors(t)
	p := newPoller(t)
	pipe, err := NewPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	s, _ := newSocket(t, tcpPair)
	if p == nil || s == nil || len(openDescriptors(t)) < len(before)+6 {
		t.Fatal("this is about fewer descriptors than there should be")
	}
	for fd := range openDescriptors(t) {
		if before[fd] {
			continue
		}
		flags, _, errno := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFD, 0)
		if errno == 0 && flags&syscall.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d is not closed on exec", fd)
		}
	}
}

func openDescriptors(t *testing.T) map[int]bool {
	t.Helper()
	open := make(map[int]bool)
	for fd := range 1000 {
		if _, _, errno := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFD, 0); errno == 0 {
			open[fd] = true
		}
	}
	return open
}

func TestUserTimeoutIsSetInMilliseconds(t *testing.T) {
	near, _ := tcpPair(t)
	s, _ := newSocket(t, tcpPair)
	ways := map[string]struct {
		set func(time.Duration) error
		fd  func(f func(fd int))
	}{
		"Socket": {s.SetUserTimeout, func(f func(int)) { f(int(s.fd)) }},
		"a connection of package net": {
			func(d time.Duration) error { return SetUserTimeout(near.(syscall.Conn), d) },
			func(f func(int)) { control(near.(syscall.Conn), f) },
		},
	}
	for name, way := range ways {
		for d, want := range map[time.Duration]int{
			2 * time.Minute:         120_000,
			time.Nanosecond:         1, // 0 would be the default of the system
			1500 * time.Microsecond: 2,
			1 << 62:                 1<<31 - 1,
		} {
			if err := way.set(d); err != nil {
				t.Errorf("%s: %v: %v", name, d, err)
			}
			way.fd(func(fd int) {
				if got, err := syscall.GetsockoptInt(fd, syscall.IPPROTO_TCP, tcpUserTimeout); got != want || err != nil {
					t.Errorf("%s: %v is %d ms, %v; want %d", name, d, got, err, want)
				}
			})
		}
	}
	u, _ := newSocket(t, unixPair)
	if err := u.SetUserTimeout(time.Second); err != nil {
		t.Errorf("unix socket: %v; want none: nothing is set", err)
	}
	near.Close()
	if err := SetUserTimeout(near.(syscall.Conn), time.Second); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a connection that is closed: %v; want net.ErrClosed", err)
	}
}
