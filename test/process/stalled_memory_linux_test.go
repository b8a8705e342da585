//go:build linux

package process_test

import (
	"bytes"
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// floods are what senders send over and over whose readers never read.
func floods(key *[4]byte) map[string][]byte {
	repeat := func(frames ...wstest.Frame) []byte {
		var b []byte
		for _, f := range frames {
			b = wstest.AppendFrame(b, f, key)
		}
		return bytes.Repeat(b, 1+(64<<10)/len(b))
	}
	endless := []byte("\x82\x7f\x40\x00\x00\x00\x00\x00\x00\x00")
	if key != nil {
		endless[1] |= 0x80
	}
	pings := repeat(wstest.Ping("are you there?"))
	if key != nil {
		pings = repeat(wstest.Text("")) // a client may not flood
	}
	return map[string][]byte{
		"big messages":     repeat(wstest.Binary(make([]byte, 1<<20))),
		"small messages":   repeat(wstest.Text("small")),
		"pings":            pings,
		"an endless frame": append(endless, make([]byte, 64<<10)...),
	}
}

func TestTunnelBoundsMemoryOfUnreadBytes(t *testing.T) {
	const most = 128 << 10
	tunnels := 20
	if proxytest.SoakTime(t) > 0 {
		tunnels = 100
	}
	fromClient, fromBackend := floods(&[4]byte{}), floods(nil)
	for name := range fromClient {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // stalling takes time
			// A process of its own: stacks of goroutines that have ended are kept.
			proxy, backend := proxytest.StartChild(t, "proxy"), wstest.StartBackend(t)
			var url string
			proxy.Ask(&url, "serve", backend.URL())
			client, leg := proxytest.OpenThrough(t, url, backend) // what is made once, is made now
			client.Reset()
			leg.Reset()
			proxy.Ask(new(bool), "ended", 1)

			var before, after int
			proxy.Ask(&before, "memory")
			peers := make([]*wstest.Peer, 0, 2*tunnels)
			for range tunnels {
				client, leg := proxytest.OpenThrough(t, url, backend)
				peers = append(peers, client, leg)
			}
			var flooders []*flooder
			for i, p := range peers {
				flooders = append(flooders, &flooder{conn: p.Conn(), flood: [][]byte{fromClient[name], fromBackend[name]}[i%2]})
			}
			for hasMoved := true; hasMoved; proxy.Ask(&hasMoved, "moved") {
				var flooding sync.WaitGroup
				for _, f := range flooders {
					flooding.Go(func() { f.untilStalled(t) })
				}
				flooding.Wait()
			}
			proxy.Ask(&after, "memory")
			perTunnel := (after - before) / tunnels
			t.Logf("%d bytes a tunnel", perTunnel)
			if perTunnel > most {
				t.Errorf("a tunnel that is stalled both ways takes %d bytes; want at most %d", perTunnel, most)
			}
			for _, p := range peers {
				p.Reset()
			}
		})
	}
}

// A flooder sends a flood over and over.
type flooder struct {
	conn  net.Conn
	flood []byte
	rest  []byte // of the flood that it is at
}

// untilStalled sends until nothing has been taken for a while.
func (f *flooder) untilStalled(t testing.TB) {
	for {
		if len(f.rest) == 0 {
			f.rest = f.flood
		}
		f.conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		n, err := f.conn.Write(f.rest)
		f.rest = f.rest[n:]
		switch {
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			t.Error(err)
			return
		case n == 0:
			return
		}
	}
}
