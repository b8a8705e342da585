package h2stream

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy/wsproxytest/memnet"
)

// A stream is the server's side of a stream in memory: what the client sends is the body, and
// what it gets are the writes.
type stream struct {
	client, body *memnet.Conn

	mu            sync.Mutex
	written       bytes.Buffer
	flushes       int
	blocked       chan struct{} // closed by a reset; nil if writes do not block
	isReset       bool
	resets        int // RST_STREAM frames
	writeDeadline time.Time
	hasReturned   bool
	late          int // calls after the handler has returned
}

func newStream() (*stream, *Conn) {
	s := new(stream)
	s.client, s.body = memnet.Pipe(0)
	return s, New(s.body, s, nil, nil)
}

// call records a call of a method, which the handler must not survive.
func (s *stream) call() {
	if s.hasReturned {
		s.late++
	}
}

func (s *stream) Header() http.Header { return nil }
func (s *stream) WriteHeader(int)     {}

func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.call()
	if blocked := s.blocked; blocked != nil {
		s.mu.Unlock()
		<-blocked
		s.mu.Lock()
	}
	s.call()
	if s.isReset {
		return 0, os.ErrDeadlineExceeded
	}
	return s.written.Write(p)
}

func (s *stream) FlushError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.call()
	s.flushes++
	return nil
}

func (s *stream) SetReadDeadline(time.Time) error { return nil }

func (s *stream) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.call()
	s.writeDeadline = t
	if t.IsZero() || time.Until(t) > 0 {
		return nil
	}
	s.resets++
	if !s.isReset && s.blocked != nil {
		close(s.blocked)
	}
	s.isReset = true
	return nil
}

// finish is the end of the handler.
func (s *stream) finish(c *Conn) (wasReset bool) {
	wasReset = c.Finish()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hasReturned = true
	return wasReset
}

// wantNoLateCalls checks that nothing was called after the handler had returned, whatever the
// connection's owner does.
func (s *stream) wantNoLateCalls(t *testing.T, c *Conn) {
	t.Helper()
	c.Write([]byte("late"))
	c.SetDeadline(time.Now().Add(time.Hour))
	c.SetDeadline(longAgo)
	c.SetDeadline(time.Time{})
	c.Abort()
	c.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after the end: %v; want net.ErrClosed", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.late > 0 {
		t.Errorf("%d calls after the handler had returned; want none", s.late)
	}
}

func TestReadReturnsWhatTheClientSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newStream()
		defer s.finish(c)
		sent := make([]byte, 100<<10)
		for i := range sent {
			sent[i] = byte(i * 7)
		}
		go func() {
			for i, size := 0, 0; i < len(sent); i += size {
				size = min(1+i/3, len(sent)-i) // 1 byte, then more and more
				s.client.Write(sent[i : i+size])
			}
			s.client.CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("read %d bytes, %v; want the %d that were sent", len(got), err, len(sent))
		}
	})
}

func TestReadReturnsEOFOrReset(t *testing.T) {
	for _, isReset := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s, c := newStream()
			s.client.Write([]byte("last"))
			if isReset {
				synctest.Wait()
				s.client.Reset()
			} else {
				s.client.CloseWrite()
			}
			_, err := io.Copy(io.Discard, c)
			if (err != nil) != isReset {
				t.Errorf("reset = %v: read error %v", isReset, err)
			}
			c.Close()
			if s.finish(c) {
				t.Error("Finish reports a reset of ours")
			}
			s.wantNoLateCalls(t, c)
		})
	}
}

func TestReadDeadlineWakesAndCanBeCleared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newStream()
		defer s.finish(c)
		wake := func(set func()) {
			t.Helper()
			go func() {
				time.Sleep(time.Second)
				set()
			}()
			if _, err := c.WaitRead(); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("WaitRead: %v; want a timeout", err)
			}
			c.SetReadDeadline(time.Time{})
		}
		wake(func() { c.SetReadDeadline(longAgo) })
		wake(func() { c.SetReadDeadline(time.Now().Add(time.Second)) })
		c.SetReadDeadline(time.Now().Add(time.Second))
		c.SetReadDeadline(time.Now().Add(time.Hour)) // in its place
		go func() {
			time.Sleep(time.Minute)
			s.client.Write([]byte("hello"))
		}()
		if n, err := c.WaitRead(); n != 5 || err != nil {
			t.Fatalf("WaitRead = %d, %v; want 5 bytes", n, err)
		}
		var p [10]byte
		if n, err := c.Read(p[:]); string(p[:n]) != "hello" || err != nil {
			t.Errorf("Read = %q, %v; want hello", p[:n], err)
		}
	})
}

func TestWriteFlushesEvenNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newStream()
		for i, text := range []string{"", "hello"} {
			if n, err := c.Write([]byte(text)); n != len(text) || err != nil {
				t.Errorf("Write(%q) = %d, %v", text, n, err)
			}
			if s.flushes != i+1 {
				t.Errorf("%d flushes after %d writes", s.flushes, i+1)
			}
		}
		c.Close()
		if s.finish(c) {
			t.Error("Finish reports a reset")
		}
		s.wantNoLateCalls(t, c)
	})
}

func TestNewClearsDeadlinesOfTheServer(t *testing.T) {
	s, c := newStream()
	defer s.finish(c)
	s.writeDeadline = time.Now()
	New(s.body, s, nil, nil)
	if !s.writeDeadline.IsZero() {
		t.Errorf("write deadline is %v; want none", s.writeDeadline)
	}
}

func TestWriteThatWaitsIsEndedByReset(t *testing.T) {
	for name, end := range map[string]func(*Conn){
		"Abort":    func(c *Conn) { c.Abort() },
		"Close":    func(c *Conn) { c.Close() },
		"deadline": func(c *Conn) { c.SetWriteDeadline(longAgo) },
		"Finish":   func(*Conn) {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := newStream()
				s.blocked = make(chan struct{})
				errc := make(chan error, 1)
				go func() {
					_, err := c.Write([]byte("hello"))
					errc <- err
				}()
				synctest.Wait()
				end(c)
				if !s.finish(c) {
					t.Error("Finish reports no reset")
				}
				if err := <-errc; err == nil {
					t.Error("Write has succeeded")
				}
				s.wantNoLateCalls(t, c)
			})
		})
	}
}

func TestStreamIsResetOnce(t *testing.T) {
	s, c := newStream()
	c.SetDeadline(longAgo)
	c.SetWriteDeadline(longAgo)
	c.Abort()
	if !s.finish(c) {
		t.Error("Finish reports no reset")
	}
	if s.resets != 1 {
		t.Errorf("the stream was reset %d times; want once", s.resets)
	}
}

func TestFinishWaitsForReaderAndResetsWhatIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newStream()
		readErr := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			readErr <- err
		}()
		synctest.Wait()
		if !s.finish(c) {
			t.Error("Finish reports no reset")
		}
		if err := <-readErr; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read: %v; want net.ErrClosed", err)
		}
		s.wantNoLateCalls(t, c)
	})
}

// All methods at once, for the race detector.
func TestCloseRacesWithAllElse(t *testing.T) {
	for i := range 200 {
		s, c := newStream()
		var all sync.WaitGroup
		all.Go(func() { io.Copy(io.Discard, c) })
		all.Go(func() {
			for range 10 {
				c.Write([]byte("hello"))
			}
		})
		all.Go(func() {
			for range 10 {
				s.client.Write([]byte("hello"))
			}
			s.client.Reset()
		})
		all.Go(func() {
			c.SetReadDeadline(longAgo)
			c.SetReadDeadline(time.Time{})
			if i%2 == 0 {
				c.SetWriteDeadline(longAgo)
			}
		})
		all.Go(func() {
			if i%3 == 0 {
				c.Close()
			} else {
				c.Abort()
			}
		})
		s.finish(c)
		all.Wait()
		s.wantNoLateCalls(t, c)
	}
}
