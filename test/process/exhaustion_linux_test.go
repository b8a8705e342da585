//go:build linux

package process_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

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
			proxy.Ask(&url, "serve", wstest.StartEcho(t))
			proxy.Ask(new(bool), "limit", limit)

			tunnels, waiting := fill(t, url, limit)
			for _, c := range tunnels {
				wantBigEcho(t, c.Peer)
			}
			leave := len(tunnels) / 2
			for _, c := range tunnels[:leave] {
				proxytest.HangUp(t, c.Peer)
			}
			for _, c := range waiting { // is there an answer for everybody, and soon?
				if status := c.ReadResponse().StatusCode; status == http.StatusSwitchingProtocols {
					tunnels = append(tunnels, c)
				} else if !isRefusal(status) {
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
	if status != http.StatusSwitchingProtocols && !isRefusal(status) {
		t.Errorf("a client got status %d; want 101, 502 or 503", status)
	}
	return caller{c, status}
}

func isRefusal(status int) bool {
	return status == http.StatusBadGateway || status == http.StatusServiceUnavailable
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
