package netconn

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy/internal/wstest"
	"github.com/wsproxy/wsproxy/wsproxytest/memnet"
)

func TestBufferedBytesComeFirst(t *testing.T) {
	forEachKind(t, []byte("early "), func(t *testing.T, c *Conn, far net.Conn) {
		far.Write([]byte("late"))
		for _, want := range []string{"early ", "late"} {
			if got, err := fill(c, ""); got != want || err != nil {
				t.Errorf("Fill() = %q, %v; want %q", got, err, want)
			}
		}
	})
}

func TestBufferedBytesMayNeedSeveralBuffers(t *testing.T) {
	early := bytes.Repeat([]byte("0123456789abcdef"), (2*largeSize+100)/16)
	forEachKind(t, early, func(t *testing.T, c *Conn, far net.Conn) {
		far.Write([]byte("late"))
		var got strings.Builder
		for fills := 1; !strings.HasSuffix(got.String(), "late"); fills++ {
			p, err := fill(c, "held")
			if err != nil || fills > 4 {
				t.Fatalf("Fill() number %d = %d bytes, %v; want all in 4", fills, len(p), err)
			}
			got.WriteString(strings.TrimPrefix(p, "held"))
		}
		if want := string(early) + "late"; got.String() != want {
			t.Errorf("got %d bytes that are not the %d that were buffered and sent", got.Len(), len(want))
		}
	})
}

func TestFillCopiesHeadFirst(t *testing.T) {
	heads := []string{"", "x", strings.Repeat("h", MaxHead)}
	forEachKind(t, nil, func(t *testing.T, c *Conn, far net.Conn) {
		for _, head := range heads {
			c.buffered = []byte("early")
			far.Write([]byte("sent"))
			for _, body := range []string{"early", "sent"} {
				own := []byte(head)
				b, err := c.Fill(own)
				if err != nil {
					t.Fatal(err)
				}
				clear(own) // Fill returned a copy
				if got := string(b.Bytes()); got != head+body {
					t.Errorf("Fill(%q) = %q; want %q after the head", head, got, body)
				}
				b.Free()
			}
		}
	})
}

func TestFillReturnsLargeData(t *testing.T) {
	var want bytes.Buffer
	for i := range 1000 {
		size := 1 + i%700
		if i%50 == 0 {
			size = 40 * i // more than any buffer holds
		}
		fmt.Fprintf(&want, "%0*d\n", size, i)
	}
	forEachKind(t, nil, func(t *testing.T, c *Conn, far net.Conn) {
		go func() { // ends when all is read
			for line := range bytes.Lines(want.Bytes()) {
				far.Write(line)
			}
			far.Close()
		}()
		var got bytes.Buffer
		for {
			p, err := fill(c, "")
			if err != nil {
				break
			}
			got.WriteString(p)
		}
		if !bytes.Equal(got.Bytes(), want.Bytes()) {
			t.Errorf("got %d bytes that are not the %d that were sent", got.Len(), want.Len())
		}
	})
}

func TestDeadlineWakesFill(t *testing.T) {
	forEachKind(t, nil, func(t *testing.T, c *Conn, far net.Conn) {
		go c.SetReadDeadline(longAgo) // ends at once
		for range 2 {
			if got, err := fill(c, "held"); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("Fill() = %q, %v; want os.ErrDeadlineExceeded", got, err)
			}
			far.Write([]byte("too late as long as the deadline stands"))
		}
	})
}

func TestFillContinuesAfterDeadline(t *testing.T) {
	forEachKind(t, nil, func(t *testing.T, c *Conn, far net.Conn) {
		c.SetReadDeadline(longAgo)
		if _, err := fill(c, ""); !os.IsTimeout(err) {
			t.Fatalf("Fill(): %v; want a timeout", err)
		}
		c.SetReadDeadline(time.Time{})
		far.Write([]byte("hello"))
		if got, err := fill(c, "held "); got != "held hello" || err != nil {
			t.Errorf("Fill() = %q, %v; want held hello", got, err)
		}
	})
}

func TestFillReturnsEOF(t *testing.T) {
	forEachKind(t, nil, func(t *testing.T, c *Conn, far net.Conn) {
		far.Write([]byte("last"))
		far.(interface{ CloseWrite() error }).CloseWrite()
		if got, err := fill(c, ""); got != "last" || err != nil {
			t.Errorf("Fill() = %q, %v; want last", got, err)
		}
		for range 2 {
			if got, err := fill(c, "held"); err != io.EOF {
				t.Errorf("Fill() = %q, %v; want io.EOF itself", got, err)
			}
		}
	})
}

func TestFillFailsAfterClose(t *testing.T) {
	forEachKind(t, nil, func(t *testing.T, c *Conn, _ net.Conn) {
		errc := make(chan error)
		go func() {
			_, err := fill(c, "")
			errc <- err
		}()
		c.Close()
		if err := <-errc; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Fill() during Close: %v; want net.ErrClosed", err)
		}
		if _, err := fill(c, ""); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Fill() after Close: %v; want net.ErrClosed", err)
		}
	})
}

func TestFillAdaptsBufferOfWrappers(t *testing.T) {
	near, far := memnet.Pipe(1 << 20)
	defer near.Close()
	defer far.Close()
	c := New(near, nil)
	tests := []struct {
		name                 string
		sentBytes, wantBytes int
	}{
		{"a little", 100, 100},
		{"more than a small buffer holds", 40 << 10, smallSize},
		{"the rest in a large one", 0, largeSize},
		{"less than that, but not little", 0, 40<<10 - smallSize - largeSize},
		{"still large, for much goes on coming", 10 << 10, 10 << 10},
		{"little again", 10, 10},
		{"small after a little", 10 << 10, smallSize},
	}
	for _, tt := range tests {
		far.Write(make([]byte, tt.sentBytes))
		if got, err := fill(c, ""); len(got) != tt.wantBytes || err != nil {
			t.Errorf("%s: Fill() = %d bytes, %v; want %d", tt.name, len(got), err, tt.wantBytes)
		}
	}
}

func TestFillRetriesEmptyReads(t *testing.T) {
	near, far := memnet.Pipe(10)
	defer near.Close()
	defer far.Close()
	far.Write([]byte("x"))
	if got, err := fill(New(&stutterer{near, 3}, nil), "held "); got != "held x" || err != nil {
		t.Errorf("Fill() = %q, %v; want held x", got, err)
	}
	if got, err := fill(New(&stutterer{near, 1 << 30}, nil), ""); err != io.ErrNoProgress {
		t.Errorf("Fill() = %q, %v; want io.ErrNoProgress: nothing comes, ever", got, err)
	}
}

// A stutterer returns 0, nil from its first reads. [io.Reader] discourages that,
// but allows it.
type stutterer struct {
	net.Conn
	times int
}

func (s *stutterer) Read(b []byte) (int, error) {
	if s.times--; s.times >= 0 {
		return 0, nil
	}
	return s.Conn.Read(b)
}

func TestFillReturnsBytesBeforeError(t *testing.T) {
	c := New(&lastGasp{data: "last"}, nil)
	if got, err := fill(c, ""); got != "last" || err != nil {
		t.Errorf("Fill() = %q, %v; want last", got, err)
	}
	if _, err := fill(c, ""); err != io.EOF {
		t.Errorf("Fill(): %v; want io.EOF", err)
	}
}

// A lastGasp returns its data and io.EOF in one call.
type lastGasp struct {
	net.Conn
	data string
}

func (l *lastGasp) Read(b []byte) (int, error) {
	n := copy(b, l.data)
	l.data = l.data[n:]
	return n, io.EOF
}

func TestWriteReachesPeer(t *testing.T) {
	forEachKind(t, nil, func(t *testing.T, c *Conn, far net.Conn) {
		if n, err := c.Write([]byte("hello")); n != 5 || err != nil {
			t.Errorf("Write() = %d, %v; want 5", n, err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(far, got); string(got) != "hello" || err != nil {
			t.Errorf("peer read %q, %v; want hello", got, err)
		}
	})
}

func TestDeadlineWakesWrite(t *testing.T) {
	forEachKind(t, nil, func(t *testing.T, c *Conn, _ net.Conn) {
		errc := make(chan error)
		go func() {
			for { // until the buffers are full: the peer does not read
				if _, err := c.Write(make([]byte, 1<<20)); err != nil {
					errc <- err
					return
				}
			}
		}()
		c.SetWriteDeadline(longAgo)
		if err := <-errc; !os.IsTimeout(err) {
			t.Errorf("Write(): %v; want a timeout", err)
		}
	})
}

func TestCloseWriteEndsOneDirection(t *testing.T) {
	forEachKind(t, nil, func(t *testing.T, c *Conn, far net.Conn) {
		_, isWrapped := c.conn.(*wrapper)
		if got := c.CanCloseWrite(); got == isWrapped {
			t.Errorf("CanCloseWrite() = %v; want %v", got, !isWrapped)
		}
		err := c.CloseWrite()
		if isWrapped {
			if !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("CloseWrite(): %v; want errors.ErrUnsupported", err)
			}
			return
		}
		if err != nil {
			t.Fatalf("CloseWrite(): %v", err)
		}
		if n, err := far.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("peer read %d, %v; want io.EOF", n, err)
		}
		far.Write([]byte("still here"))
		if got, err := fill(c, ""); got != "still here" || err != nil {
			t.Errorf("Fill() = %q, %v; want still here", got, err)
		}
	})
}

func TestConnClosesOnce(t *testing.T) {
	shuts := map[string]func(*Conn) error{"Close": (*Conn).Close, "Abandon": (*Conn).Abandon, "Reset": (*Conn).Reset}
	for name, shut := range shuts {
		t.Run(name, func(t *testing.T) {
			near, _ := wrappedPair(t)
			c := New(near, nil)
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() { shut(c) })
			}
			wg.Wait()
			for again, shut := range shuts {
				if err := shut(c); err != nil {
					t.Errorf("%s again: %v; want the result of the first", again, err)
				}
			}
			if n := near.(*wrapper).numCloses(); n != 1 {
				t.Errorf("closed %d times; want 1", n)
			}
		})
	}
}

func TestCloseReturnsErrorOfFirstClose(t *testing.T) {
	near, _ := tcpPair(t)
	near.Close()
	c := New(near, nil)
	for range 2 {
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Close(): %v; want net.ErrClosed", err)
		}
	}
}

func TestOnlyCloseWaitsForATLSPeerThatDoesNotRead(t *testing.T) {
	tests := []struct {
		name string
		shut func(*Conn) error
		want time.Duration
	}{
		{"Close", (*Conn).Close, 5 * time.Second}, // the timeout of crypto/tls for close_notify
		{"Abandon", (*Conn).Abandon, 0},
		{"Reset", (*Conn).Reset, 0},
	}
	wstest.Certificate() // outside the bubble, because it uses sockets
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := memnet.Pipe(4 << 10)
				defer b.Close()
				near, _ := wstest.ShakeHands(t, a, b)
				a.SetWriteDeadline(time.Now().Add(time.Millisecond))
				a.Write(make([]byte, 64<<10)) // the pipe is full now
				c := New(near, nil)
				start := time.Now()
				tt.shut(c)
				if took := time.Since(start); took != tt.want {
					t.Errorf("%s took %v; want %v", tt.name, took, tt.want)
				}
				if n := a.NumCloses(); n != 1 {
					t.Errorf("closed %d times; want 1", n)
				}
			})
		})
	}
}

func TestResetReachesPeer(t *testing.T) {
	for _, isTLS := range []bool{false, true} {
		near, far := tcpPair(t)
		if isTLS {
			near, _ = wstest.ShakeHands(t, near, far)
		}
		New(near, nil).Reset()
		if _, err := io.Copy(io.Discard, far); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("TLS %t: the peer's stream ended with %v; want a reset", isTLS, err)
		}
	}
}

// A sizer records the sizes that are set for its buffers.
type sizer struct {
	net.Conn
	sizes []int
}

func (s *sizer) SetReadBuffer(n int) error  { s.sizes = append(s.sizes, n); return nil }
func (s *sizer) SetWriteBuffer(n int) error { s.sizes = append(s.sizes, n); return nil }

func TestLimitBuffersReachesConnUnderTLS(t *testing.T) {
	near, far := memoryPair(t)
	s := &sizer{Conn: near}
	secure, _ := wstest.ShakeHands(t, s, far)
	for _, c := range []net.Conn{s, secure} {
		s.sizes = nil
		LimitBuffers(c, 0)
		LimitBuffers(c, 1234)
		if want := []int{1234, 1234}; !slices.Equal(s.sizes, want) {
			t.Errorf("%T: buffers of %v bytes; want %v", c, s.sizes, want)
		}
	}
	LimitBuffers(near, 1234) // near does not support it
}

func TestInterruptEndsAllFillsAndWrites(t *testing.T) {
	forEachKind(t, nil, func(t *testing.T, c *Conn, far net.Conn) {
		errc := make(chan error)
		go func() {
			_, err := fill(c, "held")
			errc <- err
		}()
		c.Interrupt()
		if err := <-errc; !os.IsTimeout(err) {
			t.Errorf("Fill() during Interrupt: %v; want a timeout", err)
		}
		far.Write([]byte("too late"))
		if got, err := fill(c, ""); !os.IsTimeout(err) {
			t.Errorf("Fill() after it = %q, %v; want a timeout", got, err)
		}
		if n, err := c.Write([]byte("too late")); !os.IsTimeout(err) {
			t.Errorf("Write() after it = %d, %v; want a timeout", n, err)
		}
	})
}

// A timeless connection has no deadlines.
type timeless struct{ *memnet.Conn }

func (timeless) SetReadDeadline(time.Time) error { return errors.ErrUnsupported }

func TestInterruptClosesConnWithoutDeadlines(t *testing.T) {
	near, far := memnet.Pipe(10)
	defer far.Close()
	c := New(timeless{near}, nil)
	c.Interrupt()
	if _, err := fill(c, ""); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Fill(): %v; want net.ErrClosed", err)
	}
	c.Close()
	if n := near.NumCloses(); n != 1 {
		t.Errorf("closed %d times; want 1", n)
	}
}

// A waitConn is a connection that can wait without a buffer, and that can be aborted.
type waitConn struct {
	net.Conn
	waiting []byte
	aborts  int
}

func (c *waitConn) WaitRead() (int, error) {
	if len(c.waiting) == 0 {
		return 0, io.EOF
	}
	return len(c.waiting), nil
}

func (c *waitConn) Read(p []byte) (int, error) {
	n := copy(p, c.waiting)
	c.waiting = c.waiting[n:]
	return n, nil
}

func (c *waitConn) Abort() error {
	c.aborts++
	return nil
}

func (c *waitConn) ClosesInOrder() bool { return true }

func TestFillWaitsWithoutBufferWhereConnectionCan(t *testing.T) {
	for _, size := range []int{1, 4096, 40 << 10} {
		sent := bytes.Repeat([]byte("x"), size)
		c := New(&waitConn{waiting: sent}, nil)
		var got []byte
		for {
			b, err := c.Fill([]byte("head"))
			if err == io.EOF {
				break
			}
			if err != nil || !bytes.HasPrefix(b.Bytes(), []byte("head")) {
				t.Fatalf("Fill = %q, %v; want the head first", b.Bytes(), err)
			}
			got = append(got, b.Bytes()[len("head"):]...)
			b.Free()
		}
		if !bytes.Equal(got, sent) {
			t.Errorf("got %d bytes; want %d", len(got), size)
		}
	}
}

func TestAbandonCallsAbort(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	inner := &waitConn{Conn: near}
	c := New(inner, nil)
	if !c.ClosesInOrder() || New(near, nil).ClosesInOrder() {
		t.Error("ClosesInOrder is not that of the connection")
	}
	c.Abandon()
	c.Close()
	if inner.aborts != 1 {
		t.Errorf("%d calls of Abort; want one", inner.aborts)
	}
}
