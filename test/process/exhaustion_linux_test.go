//go:build linux

package process_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// With an odd number left, the last connection is accepted and its backend cannot
// be dialed; with an even one it is not accepted.
func TestProxyRecoversWithoutDescriptors(t *testing.T) {
	const limit = 100
	for _, limit := range []int{limit, limit + 1} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			t.Parallel() // those that get no answer are waited for
			proxy := proxytest.StartChild(t, "proxy")
			var url string
			proxy.Ask(&url, "serve", wstest.StartEcho(t), wstest.StartEcho(t))
			proxy.Ask(new(bool), "limit", limit)

			tunnels, waiting := fill(t, url, limit)
			for _, c := range tunnels {
				wantBigEcho(t, c.Peer)
			}
			var blamed []string
			if proxy.Ask(&blamed, "blamed"); len(blamed) > 0 {
				t.Errorf("without descriptors the proxy blames backends: %q", blamed)
			}
			leave := len(tunnels) / 2
			for _, c := range tunnels[:leave] {
				proxytest.HangUp(t, c.Peer)
			}
			for _, c := range waiting { // is there an answer for everybody, and soon?
				if status := c.ReadResponse().StatusCode; status == http.StatusSwitchingProtocols {
					tunnels = append(tunnels, c)
				} else if status != http.StatusServiceUnavailable {
					t.Errorf("a client that had to wait got status %d", status)
				}
			}
			for _, c := range tunnels[leave:] {
				wantBigEcho(t, c.Peer)
				proxytest.HangUp(t, c.Peer)
			}
			proxy.Ask(new(bool), "ended", len(tunnels))
			last, _ := proxytest.Open(t, url, proxytest.UpgradeTo("/"))
			wantBigEcho(t, last)
			proxytest.HangUp(t, last)
		})
	}
}

// A dialer with one port is one of a host that has no other port left for its backends.
func TestProxyBlamesNoBackendWithoutPorts(t *testing.T) {
	book := new(proxytest.LogBook)
	p, s := proxytest.Start(t, wsproxy.WithBackends(wstest.StartEcho(t), wstest.StartEcho(t)), book.Option(), wsproxy.WithDialer(dialFromOnePort(t)))
	var tunnels []*wstest.Peer
	for range p.Backends() { // with each of which the port makes one connection
		client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
		tunnels = append(tunnels, client)
	}
	for range 10 {
		resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/"))
		proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
		if resp.Header.Get("Retry-After") == "" {
			t.Error("a client that is refused for want of a port gets no Retry-After")
		}
	}
	if len(book.Lines("cannot assign requested address")) == 0 {
		t.Error("no log line says that there is no port")
	}
	if lines := book.Lines("level=WARN"); len(lines) > 0 {
		t.Errorf("without ports the log has %q; want no warning", lines)
	}
	for i, b := range p.Backends() {
		if h := b.Health(); len(h.Flags) > 0 {
			t.Errorf("backend %d has the flags %v; want none", i, h.Flags)
		}
	}
	for _, client := range tunnels {
		proxytest.WantEcho(t, client)
	}
	proxytest.HangUp(t, tunnels[0]) // the backend closes first: TIME_WAIT does not take the port
	isFree := proxytest.Becomes(func() bool {
		c := wstest.Dial(t, s.URL)
		c.WriteRequest(proxytest.UpgradeTo("/"))
		return c.ReadResponse().StatusCode == http.StatusSwitchingProtocols
	})
	if !isFree {
		t.Error("no client gets the port that is free again")
	}
}

// dialFromOnePort returns a dialer whose connections all have the same local port, which
// the kernel allows as long as they have different peers.
func dialFromOnePort(t *testing.T) wsproxy.DialFunc {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.9:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	d := net.Dialer{LocalAddr: ln.Addr(), Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
		})
	}}
	return d.DialContext
}

// A caller is a client, and what it was answered.
type caller struct {
	*wstest.Peer
	status int // 0: nothing yet
}

// tryOpen asks for a tunnel, and waits a moment for an answer.
func tryOpen(t *testing.T, url string) caller {
	t.Helper()
	c := wstest.Dial(t, url)
	c.WriteRequest(proxytest.UpgradeTo("/"))
	c.Conn().SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := c.Peek(); errors.Is(err, os.ErrDeadlineExceeded) {
		return caller{c, 0}
	}
	status := c.ReadResponse().StatusCode
	if status != http.StatusSwitchingProtocols && status != http.StatusServiceUnavailable {
		t.Errorf("a client got status %d; want 101 or 503", status)
	}
	return caller{c, status}
}

// fill opens tunnels until three clients running get none: the first of them may only
// have come at a bad moment, when a descriptor was needed in passing.
func fill(t *testing.T, url string, limit int) (tunnels, waiting []caller) {
	t.Helper()
	var refused []int
	for range limit {
		c := tryOpen(t, url)
		switch c.status {
		case http.StatusSwitchingProtocols:
			tunnels, refused = append(tunnels, c), nil
			continue
		case 0:
			waiting = append(waiting, c)
		}
		if refused = append(refused, c.status); len(refused) == 3 {
			t.Logf("%d tunnels; the next clients got status %d", len(tunnels), refused)
			return tunnels, waiting
		}
	}
	t.Fatalf("%d tunnels opened with %d descriptors", len(tunnels), limit)
	return nil, nil
}

// wantBigEcho sends what is too big to pass in one piece, and wants it back.
func wantBigEcho(t *testing.T, c *wstest.Peer) {
	t.Helper()
	message := wstest.Binary(bytes.Repeat([]byte("big"), 1<<16))
	go c.WriteFrames(message) // ends with the connection
	c.Want(message)
}
