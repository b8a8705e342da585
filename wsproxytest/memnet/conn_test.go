package memnet

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"

	"github.com/wsproxy/wsproxy/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func TestConnBehavesLikeNetConn(t *testing.T) {
	for _, tt := range []struct {
		name        string
		bufferBytes int
	}{
		{"buffer of 16 bytes", 16}, // the suite sends up to 13 bytes there and back
		{"buffer of 64 KiB", 64 << 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
				a, b := Pipe(tt.bufferBytes)
				return a, b, func() { a.Close(); b.Close() }, nil
			})
		})
	}
}

func TestWriteBlocksWhilePeerBufferIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe(4)
		wrote := 0
		go func() { wrote, _ = a.Write([]byte("123456")) }()
		synctest.Wait()
		if wrote != 0 {
			t.Fatalf("Write of 6 bytes into a buffer of 4 returned %d", wrote)
		}
		wantRead(t, b, "1234")
		synctest.Wait()
		if wrote != 6 {
			t.Errorf("Write = %d once there is room; want 6", wrote)
		}
		wantRead(t, b, "56")
	})
}

func TestConcurrentWritesDoNotMix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe(2)
		for _, s := range []string{"aaaaa", "bbbbb"} {
			go io.WriteString(a, s)
		}
		got := make([]byte, 10)
		if _, err := io.ReadFull(b, got); err != nil {
			t.Fatal(err)
		}
		if s := string(got); s != "aaaaabbbbb" && s != "bbbbbaaaaa" {
			t.Errorf("read %q; want one write after the other", s)
		}
	})
}

func TestDeadlinePassesInBubbleTime(t *testing.T) {
	for _, tt := range []struct {
		name string
		call func(c *Conn) error
	}{
		{"read", func(c *Conn) error { return second(c.Read(make([]byte, 1))) }},
		{"write", func(c *Conn) error { return second(c.Write(make([]byte, 100))) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, _ := Pipe(10)
				start := time.Now()
				a.SetDeadline(start.Add(time.Hour))
				wantTimeout(t, tt.call(a))
				if d := time.Since(start); d != time.Hour {
					t.Errorf("deadline passed after %v; want 1h", d)
				}
			})
		})
	}
}

func TestPastDeadlineWakesBlockedCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := Pipe(10)
		errc := make(chan error, 3)
		go func() { errc <- second(a.Read(make([]byte, 1))) }()
		for range 2 { // the second write waits for the first
			go func() { errc <- second(a.Write(make([]byte, 100))) }()
		}
		synctest.Wait()
		a.SetDeadline(time.Unix(1, 0))
		for range cap(errc) {
			wantTimeout(t, <-errc)
		}
	})
}

func TestReplacedDeadlineHasNoEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe(10)
		a.SetReadDeadline(time.Now().Add(time.Second))
		a.SetReadDeadline(time.Time{})
		time.AfterFunc(time.Minute, func() { b.Write([]byte("late")) })
		wantRead(t, a, "late")
	})
}

func TestCloseWriteLeavesTheOtherDirection(t *testing.T) {
	a, b := Pipe(10)
	a.Write([]byte("last"))
	if err := a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	wantRead(t, b, "last")
	wantErr(t, "Read", second(b.Read(make([]byte, 1))), io.EOF)
	wantErr(t, "Write after CloseWrite", second(a.Write([]byte("x"))), syscall.EPIPE)
	if err := a.CloseWrite(); err != nil {
		t.Errorf("second CloseWrite = %v; want nil", err)
	}
	if _, err := b.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	wantRead(t, a, "answer")
}

func TestClosePassesBufferedBytesThenEOF(t *testing.T) {
	a, b := Pipe(10)
	a.Write([]byte("last"))
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	wantRead(t, b, "last")
	wantErr(t, "Read", second(b.Read(make([]byte, 1))), io.EOF)
	wantErr(t, "Write to a closed peer", second(b.Write([]byte("x"))), syscall.EPIPE)
	if err := b.CloseWrite(); err != nil {
		t.Errorf("CloseWrite towards a closed peer = %v; want nil", err)
	}
}

func TestCloseWakesBothEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe(1)
		closerErrc, peerErrc := make(chan error, 2), make(chan error, 1)
		go func() { closerErrc <- second(a.Read(make([]byte, 1))) }()
		go func() { closerErrc <- second(a.Write(make([]byte, 9))) }()
		go func() { peerErrc <- second(b.Write(make([]byte, 9))) }()
		synctest.Wait()
		// The read of the closing end has returned one byte.
		wantErr(t, "Read", <-closerErrc, nil)
		a.Close()
		wantErr(t, "closer's Write", <-closerErrc, net.ErrClosed)
		wantErr(t, "peer's Write", <-peerErrc, syscall.EPIPE)
	})
}

func TestCallsAfterCloseFail(t *testing.T) {
	a, _ := Pipe(1)
	a.Close()
	for name, err := range map[string]error{
		"Read":        second(a.Read(make([]byte, 1))),
		"Write":       second(a.Write(make([]byte, 1))),
		"CloseWrite":  a.CloseWrite(),
		"SetDeadline": a.SetDeadline(time.Now()),
		"Close":       a.Close(),
	} {
		wantErr(t, name, err, net.ErrClosed)
	}
}

func TestResetLosesBufferedBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe(10)
		a.Write([]byte("lost"))
		errc := make(chan error, 1)
		go func() { errc <- second(b.Write(make([]byte, 100))) }()
		synctest.Wait()
		a.Reset()
		wantErr(t, "blocked Write", <-errc, syscall.ECONNRESET)
		wantErr(t, "Read", second(b.Read(make([]byte, 10))), syscall.ECONNRESET)
		wantErr(t, "Write", second(b.Write([]byte("x"))), syscall.ECONNRESET)
		wantErr(t, "CloseWrite", b.CloseWrite(), syscall.ECONNRESET)
		wantErr(t, "resetter's Read", second(a.Read(make([]byte, 10))), net.ErrClosed)
		if err := b.Close(); err != nil {
			t.Errorf("Close after the peer's reset = %v; want nil", err)
		}
	})
}

func TestConnCountsItsCloses(t *testing.T) {
	a, b := Pipe(1)
	a.Close()
	a.Close()
	b.Reset()
	b.Reset()
	if n := a.NumCloses(); n != 2 || !a.IsClosed() {
		t.Errorf("NumCloses, IsClosed = %d, %v after two closes; want 2, true", n, a.IsClosed())
	}
	if n := b.NumCloses(); n != 0 || !b.IsClosed() {
		t.Errorf("NumCloses, IsClosed = %d, %v after a reset; want 0, true", n, b.IsClosed())
	}
}

// second returns the error of a call that returns a count with it.
func second(_ int, err error) error { return err }

func wantRead(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, []byte(want)) {
		t.Fatalf("read %q, %v; want %q", got[:n], err, want)
	}
}

func wantErr(t *testing.T, call string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v; want %v", call, err, want)
	}
	if opErr := new(net.OpError); err != nil && err != io.EOF && !errors.As(err, &opErr) {
		t.Errorf("%s: error is a %T; want a *net.OpError", call, err)
	}
}

func wantTimeout(t *testing.T, err error) {
	t.Helper()
	var netErr net.Error
	if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &netErr) || !netErr.Timeout() {
		t.Errorf("error %v; want a timeout that is os.ErrDeadlineExceeded", err)
	}
}
