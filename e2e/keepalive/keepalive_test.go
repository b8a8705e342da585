// Package keepalive_test proxies plain HTTP to a server of Node.js, which closes connections that
// have been idle for some seconds, while clients send requests at just that moment.
package keepalive_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/e2e/internal/e2etest"
	"github.com/wsproxy/wsproxy/internal/leaktest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
)

// TestMain lets all tests run at once: they mostly wait.
func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "3")
	leaktest.Main(m)
}

// In a round, each client sends a request after a pause, and all are in flight at once: so each
// takes a connection of its own. The connections have paused as the clients have: the first
// request of a round gets the one whose last response came last.
const (
	numClients = 250
	numRounds  = 4                      // with a pause, so 1,000 requests; one round comes before
	delay      = 400 * time.Millisecond // of a response: all are in flight for longer than pauses differ
)

// Half of the requests are POSTs, which no transport sends again.
func TestHTTPToNodeHasNoSporadic502(t *testing.T) {
	e2etest.Need(t, "node")
	t.Parallel()
	for name, pauseOf := range map[string]func(*backend) time.Duration{
		"around its limit":      func(b *backend) time.Duration { return b.limit },
		"around when it closes": func(b *backend) time.Duration { return b.closesAfter },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t)
			p := proxytest.NewProxy(t, wsproxy.WithBackends(b.url), wsproxy.WithHTTP(true))
			c := newClients(t, p, pauseOf(b), 100*time.Millisecond)
			c.run(numRounds, func() bool { return false })
			t.Log(c)
			if failed := c.failed(); len(failed) > 0 {
				t.Errorf("failed: %v; want none", failed)
			}
		})
	}
}

// It shows that the test above can fail: so does a proxy that keeps connections for 90 s. Its
// clients need not know when exactly their requests come at the wrong moment: they find it.
func TestReverseProxyToNodeHasSporadic502(t *testing.T) {
	e2etest.Need(t, "node")
	t.Parallel()
	b := startBackend(t)
	u, err := url.Parse(b.url)
	if err != nil {
		t.Fatal(err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = numClients, numClients
	defer transport.CloseIdleConnections()
	reverse := httputil.NewSingleHostReverseProxy(u)
	reverse.Transport, reverse.ErrorLog = transport, proxytest.DiscardLog
	const post502 = "POST, status 502"
	c := newClients(t, reverse, b.closesAfter, 20*time.Millisecond)
	c.adapts = true
	c.run(10*numRounds, func() bool { return c.failed()[post502] > 0 }) // one or two rounds are usual
	t.Log(c)
	if c.failed()[post502] == 0 {
		t.Errorf("failed: %v; want some %q, or the test of WithHTTP shows nothing", c.failed(), post502)
	}
}

// A backend is a server of Node.js.
type backend struct {
	url                string
	limit, closesAfter time.Duration // for idle connections: what it says, and when it does close them
}

func startBackend(t *testing.T) *backend {
	t.Helper()
	p := e2etest.StartNode(t, "server.js", strconv.FormatInt(delay.Milliseconds(), 10))
	var said struct {
		URL                string
		Limit, ClosesAfter time.Duration // ms
	}
	line := p.Line(t)
	if err := json.Unmarshal([]byte(line), &said); err != nil {
		t.Fatalf("%v in %q", err, line)
	}
	return &backend{said.URL, said.Limit * time.Millisecond, said.ClosesAfter * time.Millisecond}
}

// clients are those of a proxy.
type clients struct {
	url       string
	transport *http.Transport
	spread    time.Duration // by which a pause may be shorter or longer
	adapts    bool          // pauses become longer if connections are used again, and shorter if not

	mu       sync.Mutex
	pause    time.Duration  // guarded by mu: in the middle of all
	numOK    int            // guarded by mu
	numIdle  int            // guarded by mu: over a connection that had paused too
	failures map[string]int // guarded by mu, by what happened
}

func newClients(t *testing.T, proxy http.Handler, pause, spread time.Duration) *clients {
	t.Helper()
	// Neither side closes the connections between the clients and the proxy.
	transport := &http.Transport{MaxIdleConnsPerHost: numClients}
	t.Cleanup(transport.CloseIdleConnections)
	return &clients{
		url: proxytest.Serve(t, proxy).URL, transport: transport,
		pause: pause, spread: spread, failures: make(map[string]int),
	}
}

// run returns when all clients have done so many rounds, or the one in which isDone became true.
func (c *clients) run(rounds int, isDone func() bool) {
	var wg sync.WaitGroup
	for client := range numClients {
		wg.Go(func() { // until its last round
			for round := 0; round <= rounds && !isDone(); round++ {
				if round > 0 {
					time.Sleep(c.pauseOf(client, round))
				}
				idle, failure := c.request((client+round)%2 == 0)
				c.record(idle, failure, round > 0)
			}
		})
	}
	wg.Wait()
}

// pauseOf returns the pause of a client before a round. They are spread evenly. In the first
// round they grow with the number of the client, in the second they shrink, so that all its
// requests come at once, and so on.
func (c *clients) pauseOf(client, round int) time.Duration {
	offset := 2 * c.spread * time.Duration(client) / (numClients - 1)
	if round%2 == 0 {
		offset = 2*c.spread - offset
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pause - c.spread + offset
}

// request sends a request, and returns for how long the connection with the server had been idle,
// 0 if it is a new one. The failure is "" if the response is the server's.
func (c *clients) request(isPost bool) (idle time.Duration, failure string) {
	method, body := http.MethodGet, io.Reader(nil)
	if isPost {
		method, body = http.MethodPost, strings.NewReader("message=1")
	}
	r, err := http.NewRequest(method, c.url, body)
	if err != nil {
		return 0, err.Error()
	}
	resp, err := c.transport.RoundTrip(r)
	if err != nil {
		return 0, fmt.Sprintf("%s, %v", method, err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return 0, fmt.Sprintf("%s, body: %v", method, err)
	case resp.StatusCode != http.StatusOK:
		return 0, fmt.Sprintf("%s, status %d", method, resp.StatusCode)
	case string(got) != "hello":
		return 0, fmt.Sprintf("%s, body %q", method, got)
	}
	ms, _ := strconv.ParseFloat(resp.Header.Get("Idle"), 64)
	return time.Duration(ms * float64(time.Millisecond)), ""
}

func (c *clients) record(idle time.Duration, failure string, isLater bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if failure != "" {
		c.failures[failure]++
		return
	}
	c.numOK++
	const step = time.Millisecond / 5
	switch {
	case idle > c.pause-2*c.spread:
		c.numIdle++
		if c.adapts {
			c.pause += step
		}
	case c.adapts && isLater:
		c.pause -= step
	}
}

func (c *clients) failed() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.failures)
}

func (c *clients) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Sprintf("pauses of %v, %v more or less: %d requests were answered, %d of them over connections that had "+
		"been idle for as long; failed: %v", c.pause, c.spread, c.numOK, c.numIdle, c.failures)
}
