package wsproxy_test

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A blockingConn is a connection whose SetDeadline blocks until it is released.
type blockingConn struct {
	net.Conn
	called  chan struct{} // receives at each call
	release chan struct{} // closed: calls return
}

func (c *blockingConn) SetDeadline(time.Time) error {
	select {
	case c.called <- struct{}{}:
	default:
	}
	<-c.release
	return nil
}

// The methods of a dialer's connection are the program's, and may block. Only the
// upgrade whose connection it is may wait for that.
func TestCancelerLeavesBlockedSetDeadlineToItsUpgrade(t *testing.T) {
	for _, detached := range []bool{false, true} {
		t.Run(map[bool]string{false: "blocking", true: "detached"}[detached], func(t *testing.T) {
			t.Parallel()
			testBlockedSetDeadline(t, detached)
		})
	}
}

func testBlockedSetDeadline(t *testing.T, detached bool) {
	backend := wstest.StartEcho(t)
	blocked := &blockingConn{called: make(chan struct{}, 1), release: make(chan struct{})}
	var dials atomic.Int32
	p, err := wsproxy.New(wsproxy.WithBackends(backend), wsproxy.WithDetached(detached),
		wsproxy.WithDialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err == nil && dials.Add(1) == 1 {
				blocked.Conn = c
				return blocked, nil
			}
			return c, err
		}))
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(p)
	defer front.Close()
	var released sync.Once
	release := func() { released.Do(func() { close(blocked.release) }) }
	defer release()

	first := dialUpgrade(t, front)
	defer first.Close()
	<-blocked.called
	second := dialUpgrade(t, front)
	defer second.Close()
	if got := readStatusLine(t, second); !strings.Contains(got, " 101 ") {
		t.Fatalf("while SetDeadline of another upgrade's connection blocks, an upgrade got %q; want a 101", got)
	}
	within(t, "Stats", func() {
		for s := p.Stats(); s.Upgrading != 1 || s.Tunnels != 1; s = p.Stats() {
			runtime.Gosched() // the second upgrade ends after its 101 is written
		}
	})
	first.Close() // cancels the upgrade
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	within(t, "Shutdown", func() {
		var drain *wsproxy.DrainError
		if err := p.Shutdown(ctx); !errors.As(err, &drain) {
			t.Errorf("Shutdown() = %v; want a *DrainError", err)
		}
	})
	within(t, "Stats", func() { p.Stats() })
	release()
	within(t, "Close", func() { p.Close() })
}

// The same connection blocks where the upgrade is canceled while it waits for the
// backend's response.
func TestCancelerDoesNotWaitForSetDeadline(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	accepted := make(chan struct{})
	go func() { // ends with ln
		c, err := ln.Accept()
		if err != nil {
			return
		}
		close(accepted)
		c.Read(make([]byte, 4<<10))
		c.Read(make([]byte, 1)) // the end of the stream
		c.Close()
	}()
	conn := &lateBlocker{release: make(chan struct{})}
	p, err := wsproxy.New(wsproxy.WithBackends("http://"+ln.Addr().String()),
		wsproxy.WithDialer(func(ctx context.Context, network, addr string) (c net.Conn, err error) {
			conn.Conn, err = new(net.Dialer).DialContext(ctx, network, addr)
			return conn, err
		}))
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(p)
	defer front.Close()
	client := dialUpgrade(t, front)
	defer client.Close()
	<-accepted
	for !conn.isRead.Load() {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	within(t, "Shutdown", func() { p.Shutdown(ctx) })
	within(t, "Stats", func() { p.Stats() })
	close(conn.release)
	if got := readStatusLine(t, client); !strings.Contains(got, " 503 ") {
		t.Errorf("client got %q; want a 503", got)
	}
}

// A lateBlocker is a connection whose SetDeadline blocks from its second call on.
type lateBlocker struct {
	net.Conn
	calls   atomic.Int32
	isRead  atomic.Bool
	release chan struct{}
}

func (c *lateBlocker) Read(p []byte) (int, error) {
	c.isRead.Store(true)
	return c.Conn.Read(p)
}

func (c *lateBlocker) SetDeadline(d time.Time) error {
	if c.calls.Add(1) > 1 {
		<-c.release
	}
	return c.Conn.SetDeadline(d)
}

// within fails the test unless f returns soon.
func within(t *testing.T, name string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { // ends with f
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatalf("%s does not return", name)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// dialUpgrade sends an upgrade to the server.
func dialUpgrade(t *testing.T, front *httptest.Server) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write([]byte(proxytest.UpgradeTo("/"))); err != nil {
		t.Fatal(err)
	}
	return c
}

// readStatusLine returns the first line that c receives.
func readStatusLine(t *testing.T, c net.Conn) string {
	t.Helper()
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Errorf("client read %q: %v", line, err)
	}
	return line
}
