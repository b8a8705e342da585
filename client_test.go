package wsproxy_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A panickingListener accepts connections that panic when they are to write a 101.
type panickingListener struct {
	net.Listener
	closed atomic.Int32 // connections
}

func (l *panickingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &panickingConn{Conn: c, ln: l}, nil
}

type panickingConn struct {
	net.Conn
	ln       *panickingListener
	isClosed atomic.Bool
}

func (c *panickingConn) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("HTTP/1.1 101")) {
		panic("write of a 101")
	}
	return c.Conn.Write(p)
}

func (c *panickingConn) Close() error {
	if !c.isClosed.Swap(true) {
		c.ln.closed.Add(1)
	}
	return c.Conn.Close()
}

func TestUpgradeReleasesAllAfterPanicInWriteOf101(t *testing.T) {
	for _, detached := range []bool{false, true} {
		t.Run(map[bool]string{false: "blocking", true: "detached"}[detached], func(t *testing.T) {
			t.Parallel()
			testPanicInWriteOfThe101(t, detached)
		})
	}
}

func testPanicInWriteOfThe101(t *testing.T, detached bool) {
	backend := wstest.StartEcho(t)
	backendClosed := make(chan struct{})
	p, err := wsproxy.New(wsproxy.WithBackends(backend), wsproxy.WithDetached(detached),
		wsproxy.WithLogger(slog.New(slog.DiscardHandler)),
		wsproxy.WithDialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			return &closingConn{Conn: c, closed: backendClosed}, err
		}))
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewUnstartedServer(p)
	ln := &panickingListener{Listener: front.Listener}
	front.Listener = ln
	front.Start()
	defer front.Close()

	client := dialUpgrade(t, front)
	if got, err := io.ReadAll(client); len(got) > 0 {
		t.Errorf("client read %q, %v; want nothing", got, err)
	}
	select {
	case <-backendClosed:
	case <-time.After(5 * time.Second):
		t.Error("the backend's connection is still open")
	}
	for end := time.Now().Add(5 * time.Second); p.Stats().Upgrading > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if s := p.Stats(); s.Tunnels != 0 || s.Upgrading != 0 || s.Opened != 0 {
		t.Errorf("Stats() = %+v; want no tunnel and no upgrade", s)
	}
	if n := p.Backends()[0].NumTunnels(); n != 0 {
		t.Errorf("NumTunnels() = %d; want 0", n)
	}
	if n := ln.closed.Load(); n != 1 {
		t.Errorf("%d connections of clients were closed; want 1", n)
	}
	within(t, "Shutdown", func() {
		if err := p.Shutdown(context.Background()); err != nil {
			t.Errorf("Shutdown() = %v; want nil", err)
		}
	})
}

// A closingConn closes a channel when it is closed.
type closingConn struct {
	net.Conn
	closed chan struct{}
	isDone atomic.Bool
}

func (c *closingConn) Close() error {
	if !c.isDone.Swap(true) {
		close(c.closed)
	}
	return c.Conn.Close()
}
