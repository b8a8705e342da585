//go:build linux

package process_test

import (
	"crypto/tls"
	"net"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// timeouts are the socket options by which the kernel finds that a peer has vanished.
type timeouts struct {
	KeepAlive, Idle, Interval, Count int // of TCP keepalive; seconds
	UserTimeout                      int // milliseconds; 0 is the kernel's default
}

func TestBothSocketsOfATunnelFindAPeerThatHasVanished(t *testing.T) {
	const own = 7777 // milliseconds, of a dialer's own
	setOwn := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, own) })
		return err
	}}
	dialer := wsproxy.WithDialer(setOwn.DialContext)
	stall := func(d time.Duration) wsproxy.Option {
		return wsproxy.WithTimeouts(wsproxy.Timeouts{WriteStall: d})
	}
	want := func(client, backend int) [2]timeouts {
		return [...]timeouts{{1, 15, 15, 9, client}, {1, 15, 15, 9, backend}}
	}
	tests := []struct {
		name    string
		host    string // of the backend
		options []wsproxy.Option
		want    [2]timeouts // of the client's connection and the backend's
	}{
		{"default", "127.0.0.1", nil, want(120_000, 120_000)},
		{"a backend by name", "localhost", nil, want(120_000, 120_000)},
		{"a dialer", "127.0.0.1", []wsproxy.Option{dialer}, want(120_000, 120_000)},
		{"10 s", "127.0.0.1", []wsproxy.Option{stall(10 * time.Second)}, want(10_000, 10_000)},
		{"off", "127.0.0.1", []wsproxy.Option{stall(-1)}, want(0, 0)},
		{"off, and a dialer that has an own", "127.0.0.1", []wsproxy.Option{stall(-1), dialer}, want(0, own)},
	}
	for _, tt := range tests {
		for name, isTLS := range map[string]bool{"TCP": false, "TLS": true} {
			t.Run(tt.name+", "+name, func(t *testing.T) {
				ln, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { ln.Close() })
				_, port, _ := net.SplitHostPort(ln.Addr().String())
				scheme, options := "http", append([]wsproxy.Option{}, tt.options...)
				if isTLS {
					scheme = "https"
					options = append(options, wsproxy.WithTLSConfig(&tls.Config{InsecureSkipVerify: true}))
				}
				options = append(options, wsproxy.WithBackends(scheme+"://"+net.JoinHostPort(tt.host, port)))
				p := proxytest.NewProxy(t, options...)
				addr := serveAt(t, p, "127.0.0.1", isTLS, net.KeepAliveConfig{}) // that of net/http

				client, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				near := client // of the proxy's socket, beneath TLS
				if isTLS {
					client = tls.Client(client, &tls.Config{InsecureSkipVerify: true})
				}
				c := wstest.NewClient(t, client)
				c.WriteRequest(proxytest.UpgradeTo("/"))
				leg, err := ln.Accept()
				if err != nil {
					t.Fatal(err)
				}
				behind := leg
				if isTLS {
					leg = tls.Server(leg, &tls.Config{Certificates: []tls.Certificate{wstest.Certificate()}})
				}
				b := wstest.NewBackend(t, leg)
				b.AcceptUpgrade(nil)
				proxytest.WantSwitch(t, c)
				b.Send(wstest.Text("hello")) // it arrives when the tunnel is open
				c.Want(wstest.Text("hello"))

				got := [...]timeouts{timeoutsTowards(t, near), timeoutsTowards(t, behind)}
				if got != tt.want {
					t.Errorf("the sockets have %+v; want %+v", got, tt.want)
				}
			})
		}
	}
}

const tcpUserTimeout = 18

// timeoutsTowards returns the options of the socket of this process that is connected to c.
func timeoutsTowards(t *testing.T, c net.Conn) (all timeouts) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	port := func(s syscall.Sockaddr, err error) int {
		switch s := s.(type) {
		case *syscall.SockaddrInet4:
			return s.Port
		case *syscall.SockaddrInet6:
			return s.Port
		}
		return 0
	}
	local, remote := c.RemoteAddr().(*net.TCPAddr).Port, c.LocalAddr().(*net.TCPAddr).Port
	for _, e := range entries {
		fd, _ := strconv.Atoi(e.Name())
		if port(syscall.Getsockname(fd)) != local || port(syscall.Getpeername(fd)) != remote {
			continue
		}
		for _, o := range []struct {
			level, name int
			value       *int
		}{
			{syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, &all.KeepAlive},
			{syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, &all.Idle},
			{syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, &all.Interval},
			{syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT, &all.Count},
			{syscall.IPPROTO_TCP, tcpUserTimeout, &all.UserTimeout},
		} {
			if *o.value, err = syscall.GetsockoptInt(fd, o.level, o.name); err != nil {
				t.Fatal(err)
			}
		}
		return all
	}
	t.Fatalf("no socket from port %d to port %d", local, remote)
	return all
}
