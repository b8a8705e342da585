package chaos_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/leaktest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// Half of the tunnels are portable ones. Each message has a number and a checksum on both sides.
func TestSetBackendsLeavesTunnelsThatTalkAlone(t *testing.T) {
	leaktest.Check(t)
	var urls []string
	var backends []*backend
	for range 6 {
		b := newBackend(t, "127.0.0.1:0", 1)
		backends, urls = append(backends, b), append(urls, "http://"+b.addr)
	}
	r := newReport()
	p, s := proxytest.Start(t, wsproxy.WithBackends(urls[:3]...), wsproxy.WithTrace(r.trace()), dialBoth())
	tunnels := openLive(t, strings.TrimPrefix(s.URL, "http://"), affordable(t, 2000, 4))
	before := placesOf(t, p, tunnels)

	talking := talkAll(tunnels, 10)
	changes := newChanges(t, p, urls)
	for isDone := false; !isDone; {
		select {
		case err := <-talking:
			if err != nil {
				t.Error(err)
			}
			isDone = true
		case <-changes.tick.C:
			changes.next()
		}
	}
	if err := p.SetBackends(); err != nil { // all are removed
		t.Fatal(err)
	}
	if err := <-talkAll(tunnels, 1); err != nil {
		t.Error(err)
	}
	after := placesOf(t, p, tunnels)
	for i := range before {
		if before[i] != after[i] {
			t.Errorf("tunnel %d was %+v before the changes; now it is %+v", i, before[i], after[i])
		}
	}
	numConns := 0
	for _, b := range backends {
		numConns += b.numConns()
	}
	if numConns != len(tunnels) {
		t.Errorf("the backends have %d connections; want %d", numConns, len(tunnels))
	}
	if err := forAll(tunnels, func(_ int, l **live) error { return (*l).close() }); err != nil {
		t.Error(err)
	}
	s.Wait()
	proxytest.WantNoTunnels(t, p)
	for number, e := range r.ends {
		l := tunnels[number]
		if e.Cause != wsproxy.CauseClosed || e.Side != wsproxy.SideClient || e.Cut ||
			e.ToBackend.Messages != l.talk.sent+l.numTexts || e.ToClient.Messages != l.talk.sent+l.numTexts {
			t.Errorf("%d messages were sent, and %s", l.talk.sent+l.numTexts, describe(e))
		}
	}
	r.fail(t, "hooks")
	t.Logf("%d tunnels, %d changes", len(tunnels), changes.num)
}

// affordable returns most, or fewer if the process cannot have so many descriptors for each.
func affordable(t *testing.T, most, perOne int) int {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	const others = 200
	n := min(most, (int(min(limit.Cur, 1<<20))-others)/perOne)
	if n < most {
		t.Logf("with a limit of %d descriptors there are %d clients in place of %d", limit.Cur, n, most)
	}
	return n
}

// dialBoth makes every other tunnel a portable one.
func dialBoth() wsproxy.Option {
	var n atomic.Uint64
	return wsproxy.WithDialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil && n.Add(1)%2 == 0 {
			return struct{ *net.TCPConn }{c.(*net.TCPConn)}, nil
		}
		return c, err
	})
}

// changes are changes of the set of backends.
type changes struct {
	t    *testing.T
	p    *wsproxy.Proxy
	urls []string
	rng  *rand.Rand
	tick *time.Ticker
	num  int
}

func newChanges(t *testing.T, p *wsproxy.Proxy, urls []string) *changes {
	seed := rand.Uint64()
	t.Logf("the seed is %d", seed)
	c := &changes{t: t, p: p, urls: urls, rng: rand.New(rand.NewPCG(seed, 0)), tick: time.NewTicker(2 * time.Millisecond)}
	t.Cleanup(c.tick.Stop)
	return c
}

// next removes some backends, adds some, and changes the others, but for BackendConfig.Drain, which
// closes tunnels.
func (c *changes) next() {
	c.num++
	var configs []wsproxy.BackendConfig
	for _, i := range c.rng.Perm(len(c.urls))[:c.rng.IntN(len(c.urls)+1)] {
		configs = append(configs, wsproxy.BackendConfig{
			URL:        c.urls[i],
			Weight:     c.rng.IntN(10),
			MaxTunnels: c.rng.IntN(20),
			Priority:   c.rng.IntN(3) - 1,
		})
	}
	if err := c.p.SetBackends(configs...); err != nil {
		c.t.Fatalf("SetBackends(%+v) = %v", configs, err)
	}
}

// A live is a client whose tunnel stays open.
type live struct {
	conn     net.Conn
	r        *bufio.Reader
	rng      *rand.Rand
	talk     talk
	numTexts uint64
}

// openLive opens tunnels, whose numbers are their indexes.
func openLive(t *testing.T, addr string, n int) []*live {
	t.Helper()
	tunnels := make([]*live, n)
	if err := forAll(tunnels, func(i int, l **live) (err error) {
		*l, err = dialLive(addr, i)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, l := range tunnels {
			l.conn.Close()
		}
	})
	return tunnels
}

func dialLive(addr string, i int) (*live, error) {
	c := &client{crowd: &crowd{addr: addr}}
	conn, r, status, err := c.ask(uint64(i), time.Now().Add(20*time.Second))
	if err == nil && status != http.StatusSwitchingProtocols {
		err = fmt.Errorf("tunnel %d: status %d", i, status)
	}
	return &live{conn: conn, r: r, rng: rand.New(rand.NewPCG(uint64(i), 0)), talk: talk{tunnel: uint64(i)}}, err
}

// forAll calls f for each of all, at most 100 at a time. It returns one of the errors.
func forAll[T any](all []T, f func(i int, e *T) error) error {
	var calling sync.WaitGroup
	places, errs := make(chan struct{}, 100), make(chan error, len(all))
	for i := range all {
		places <- struct{}{}
		calling.Go(func() {
			errs <- f(i, &all[i])
			<-places
		})
	}
	calling.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// talkAll lets all clients send n messages, all at the same time. It sends one of the errors.
func talkAll(tunnels []*live, n int) <-chan error {
	done := make(chan error, 1)
	errs := make(chan error, len(tunnels))
	for _, l := range tunnels {
		go func() { errs <- l.say(n) }() // ends with the deadline of a message
	}
	go func() { // ends with these
		var first error
		for range tunnels {
			if err := <-errs; err != nil {
				first = err
			}
		}
		done <- first
	}()
	return done
}

// say sends n messages, and waits for the answer to each.
func (l *live) say(n int) error {
	for range n {
		<-time.After(time.Duration(l.rng.Int64N(int64(100 * time.Millisecond))))
		answer, err := l.exchange(wstest.Binary(l.talk.next(l.rng)))
		if err == nil {
			err = l.talk.receive(answer)
		}
		if err != nil {
			return fmt.Errorf("tunnel %d: %w", l.talk.tunnel, err)
		}
	}
	return nil
}

// exchange sends a message, and returns the one that comes.
func (l *live) exchange(f wstest.Frame) ([]byte, error) {
	l.conn.SetDeadline(time.Now().Add(20 * time.Second))
	written := make(chan error, 1)
	go func() { // ends with the deadline
		_, err := l.conn.Write(wstest.AppendFrame(nil, f, &[4]byte{1, 2, 3, 4}))
		written <- err
	}()
	got, err := wstest.ReadFrame(l.r)
	if err == nil && (got.Opcode != f.Opcode || !got.Fin) {
		err = fmt.Errorf("got %v", got)
	}
	if err != nil {
		l.conn.Close()
	}
	if errWrite := <-written; err == nil {
		err = errWrite
	}
	return got.Payload, err
}

// close closes the tunnel in order.
func (l *live) close() error {
	defer l.conn.Close()
	if _, err := l.exchange(wstest.Close(1000, "")); err != nil {
		return fmt.Errorf("tunnel %d: %w", l.talk.tunnel, err)
	}
	return nil
}

// A place is where a tunnel is: the addresses of its connections, as each end sees them, and its
// number, backend and engine.
type place struct {
	client, proxyToClient, backend string // each has both addresses
	id                             uint64
	to                             *wsproxy.Backend
	engine                         wsproxy.Engine
}

// placesOf returns the place of each tunnel.
func placesOf(t *testing.T, p *wsproxy.Proxy, tunnels []*live) []place {
	t.Helper()
	places := make([]place, len(tunnels))
	// A tunnel has its engine once it is open, which may be after its client has the 101, but is
	// before the answer to a message.
	err := forAll(tunnels, func(i int, l **live) error {
		(*l).numTexts++
		answer, err := (*l).exchange(wstest.Text("where?"))
		places[i].backend = string(answer)
		places[i].client = fmt.Sprint((*l).conn.LocalAddr(), (*l).conn.RemoteAddr())
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for tunnel := range p.Tunnels() {
		i := tunnel.Info()
		var number int
		fmt.Sscan(i.URL.Query().Get("tunnel"), &number)
		places[number].id, places[number].to, places[number].engine = i.ID, i.Backend, i.Engine
		places[number].proxyToClient = i.LocalAddr + " " + i.RemoteAddr
	}
	for i := range places {
		if places[i].id == 0 {
			t.Errorf("tunnel %d is not among the proxy's", i)
		}
	}
	return places
}
