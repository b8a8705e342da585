// Package stacks_test opens tunnels between clients and servers of others: the npm package ws,
// Debian's Python package websockets, gorilla/websocket, gobwas/ws, lxzan/gws and
// coder/websocket, and as a client Chromium. A peer of our own, raw frames, shows what is on the
// wire: whether a message comes in fragments, and that pings between fragments are answered.
//
// Each client meets each server over plain connections on both sides of the proxy. Over each other
// route (TLS on either side, with and without a client certificate, a unix socket, both engines,
// blocking and detached), each client meets the server of ws, and each server the client of
// gorilla/websocket. A meeting has all cases that both stacks have functions for, each over a
// tunnel of its own. Only the message of 16 MiB is left out where neither of those two is there.
//
// Of each tunnel the test compares what the client, the server and the proxy have to say. It
// logs tables of the results: "–" is a case that the stack has no function for, and these are
// listed in clientCannot and serverCannot.
package stacks_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/wsproxy/wsproxy/e2e/internal/e2etest"
	"github.com/wsproxy/wsproxy/internal/leaktest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

var isDirect = flag.Bool("direct", false, "leave out the proxy, to see what the stacks do by themselves")

func TestMain(m *testing.M) { leaktest.Main(m) }

const (
	commonServer = "ws"                // which each client meets over each route
	commonClient = "gorilla/websocket" // which each server meets over each route
)

var (
	plain  = route{front: "ws", back: "ws"}
	routes = []route{
		plain,
		{front: "ws", back: "ws", isDetached: true},
		{front: "ws", back: "ws", isWrapped: true},
		{front: "ws", back: "ws", isWrapped: true, isDetached: true},
		{front: "ws", back: "wss"},
		{front: "ws", back: "wss, certificate"},
		{front: "ws", back: "unix"},
		{front: "wss", back: "ws"},
		{front: "wss", back: "wss", isDetached: true},
	}
)

func TestStacksTalkThroughProxy(t *testing.T) {
	e2etest.Need(t, "node", "python3", "chromium")
	dir := newDir(t)
	clients, servers := startClients(t, dir), startServers(t, dir)
	results := newResults(clients, servers)
	t.Run("clients", func(t *testing.T) {
		for _, c := range clients {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				for _, m := range meetingsOf(c, servers) {
					t.Run(fmt.Sprintf("%s, %s", m.server.name, m.route), func(t *testing.T) { m.run(t, results) })
				}
			})
		}
	})
	t.Log(results)
	isAll := flag.Lookup("test.run").Value.String() == ""
	if err := results.check(); err != nil && isAll && !t.Failed() {
		t.Error(err)
	}
}

// newDir returns a directory with the files for programs. A path that t.TempDir makes may be too
// long for a unix socket.
func newDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ws")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	authority.write(t, dir)
	return dir
}

// A meeting is that of a client and a server over a route.
type meeting struct {
	client *client
	server *server
	route  route
}

func meetingsOf(c *client, servers []*server) (meetings []meeting) {
	for _, s := range servers {
		for _, r := range routes {
			m := meeting{c, s, r}
			if r == plain || m.isCommon() && !*isDirect {
				meetings = append(meetings, m)
			}
		}
	}
	return meetings
}

func (m meeting) isCommon() bool {
	return m.client.name == commonClient || m.server.name == commonServer
}

// run runs the cases.
func (m meeting) run(t *testing.T, results *results) {
	p := startProxy(t, m.route, m.server)
	for _, c := range cases {
		if !m.has(c) {
			continue
		}
		err := m.runCase(t, p, c)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		results.add(m, c, err == nil)
	}
}

// has reports whether a case is run.
func (m meeting) has(c testCase) bool {
	isPossible := clientCannot[m.client.name][c.name] == "" && serverCannot[m.server.name][c.name] == ""
	return isPossible && (!c.isLarge || m.isCommon())
}

var lastID atomic.Int64 // of a tunnel

// runCase runs a case over a tunnel, and returns what was wrong.
func (m meeting) runCase(t *testing.T, p *proxy, c testCase) error {
	t.Helper()
	id := int(lastID.Add(1))
	query := url.Values{"id": {strconv.Itoa(id)}}
	maps.Copy(query, c.serves)
	base := p.url
	if *isDirect {
		base = strings.Replace(m.server.urls["ws"], "http:", "ws:", 1)
	}
	o := outcome{meeting: m, testCase: c}
	o.result = m.client.run(t, order{URL: base + "/?" + query.Encode(), Compression: c.compression, Steps: c.steps})
	if o.result.Error != "" {
		return errors.New(o.result.Error)
	}
	var err error
	if o.report, err = m.server.reports.take(id); err != nil {
		return err
	}
	if *isDirect {
		return o.checkPeers()
	}
	if o.offer, err = p.offers.take(id); err != nil {
		return err
	}
	if o.end, err = p.ends.take(id); err != nil {
		return err
	}
	return errors.Join(o.checkPeers(), o.checkTunnel())
}

// The servers that want a certificate do want one.
func TestServersRefuseProxyWithoutCertificate(t *testing.T) {
	e2etest.Need(t, "node", "python3")
	for _, s := range startServers(t, newDir(t)) {
		p := startProxy(t, route{front: "ws", back: "wss, certificate", isAnonymous: true}, s)
		client := wstest.Dial(t, strings.Replace(p.url, "ws:", "http:", 1))
		resp, _ := proxytest.Finish(t, client, proxytest.UpgradeTo("/?id=1"))
		if resp.StatusCode != http.StatusBadGateway && resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s: the client got status %d; want 502 or 503", s.name, resp.StatusCode)
		}
	}
}
