package wsproxy_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// Reconnectors are clients of a scene that come back whenever they are closed, after a random time.
type reconnectors struct {
	s        *scene
	backoff  time.Duration         // the most that a client waits
	isStray  func(client int) bool // it does not come back
	messages int                   // that each client sends on its first tunnel
	ctx      context.Context
	leave    context.CancelFunc
	running  sync.WaitGroup
	mu       sync.Mutex
	closed   map[int][]int  // the codes that each client got
	cookies  map[int]string // the Cookie field that each client sends, if it has got a cookie
	isOpen   map[int]bool
	failures []string
}

func newReconnectors(s *scene, backoff time.Duration) *reconnectors {
	c := &reconnectors{s: s, backoff: backoff, closed: make(map[int][]int), cookies: make(map[int]string), isOpen: make(map[int]bool)}
	c.ctx, c.leave = context.WithCancel(context.Background())
	s.t.Cleanup(func() {
		c.leave()
		c.running.Wait()
	})
	return c
}

// join adds clients, whose tunnels are open when it returns.
func (c *reconnectors) join(clients ...int) {
	c.s.t.Helper()
	for _, client := range clients {
		c.running.Go(func() { c.visit(client) }) // ends when the test ends
	}
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, client := range clients {
		if !c.isOpen[client] {
			c.s.t.Fatalf("client %d has no tunnel: %q", client, c.failures)
		}
	}
}

// visit keeps a client connected until the test ends.
func (c *reconnectors) visit(client int) {
	messages := c.messages
	for c.ctx.Err() == nil {
		code, err := c.connect(client, messages)
		messages = 0
		if c.ctx.Err() != nil || code == leaveCode {
			return
		}
		c.mu.Lock()
		if err != nil {
			c.failures = append(c.failures, fmt.Sprintf("client %d: %v", client, err))
		}
		c.closed[client] = append(c.closed[client], code)
		c.isOpen[client] = false
		c.mu.Unlock()
		if c.isStray != nil && c.isStray(client) {
			return
		}
		select {
		case <-time.After(rand.N(c.backoff + 1)):
		case <-c.ctx.Done():
		}
	}
}

// connect opens a tunnel, sends messages, and returns the code of the Close frame that ends it.
func (c *reconnectors) connect(client, messages int) (code int, err error) {
	conn, err := c.s.site.DialContext(c.ctx, "", "")
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(c.ctx, func() { conn.Close() })
	defer stop()
	lines := []string{fmt.Sprintf("X-Forwarded-For: 198.51.%d.%d", client/256, client%256), fmt.Sprintf("X-Client: %d", client)}
	c.mu.Lock()
	if cookie := c.cookies[client]; cookie != "" {
		lines = append(lines, cookie)
	}
	c.mu.Unlock()
	io.WriteString(conn, proxytest.UpgradeTo(fmt.Sprintf("/chat?room=%d", client%97), lines...))
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return 0, errors.New(resp.Status)
	}
	c.mu.Lock()
	for _, cookie := range resp.Cookies() {
		c.cookies[client] = "Cookie: " + cookie.Name + "=" + cookie.Value
	}
	c.isOpen[client] = true
	c.mu.Unlock()
	for range messages {
		conn.Write(wstest.AppendFrame(nil, wstest.Text("hello"), &[4]byte{1, 2, 3, 4}))
	}
	for {
		f, err := wstest.ReadFrame(br)
		if err != nil {
			return 0, err
		}
		if f.Opcode == wstest.OpClose {
			conn.Write(wstest.AppendFrame(nil, f, &[4]byte{1, 2, 3, 4}))
			return int(binary.BigEndian.Uint16(f.Payload)), nil
		}
	}
}

// thin makes clients of a backend leave for good, until it has n tunnels.
func (c *reconnectors) thin(backend string, n int) {
	c.s.t.Helper()
	b := c.s.backend(backend)
	left := b.NumTunnels()
	for t := range c.s.p.Tunnels() {
		if t.Info().Backend == b && left > n {
			t.Close(leaveCode, "")
			left--
		}
	}
	time.Sleep(5 * time.Second)
	synctest.Wait()
	if got := b.NumTunnels(); got != n {
		c.s.t.Fatalf("backend %s has %d tunnels; want %d", backend, got, n)
	}
}

// leaveCode is that of a Close frame after which a client does not come back.
const leaveCode = 4001

// wantClosedOnce checks that each client was closed at most once, with 1012. It returns how many
// were.
func (c *reconnectors) wantClosedOnce() int {
	c.s.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for client, codes := range c.closed {
		if !slices.Equal(codes, []int{1012}) {
			c.s.t.Errorf("client %d was closed with %v; want 1012, once at most", client, codes)
		}
	}
	if len(c.failures) > 0 {
		c.s.t.Errorf("clients failed: %q", c.failures)
	}
	return len(c.closed)
}

// tunnelsOfEach returns how many tunnels each backend has.
func (s *scene) tunnelsOfEach() map[string]int {
	n := make(map[string]int)
	for _, b := range s.p.Backends() {
		n[b.ID()] = b.NumTunnels()
	}
	return n
}

func upTo(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}

// startRebalance calls Rebalance with its defaults, and returns what will receive its error.
func startRebalance(t *testing.T, s *scene) <-chan error {
	done := make(chan error, 1)
	go func() { // ends when Rebalance returns
		_, err := s.p.Rebalance(t.Context(), wsproxy.RebalanceConfig{})
		done <- err
	}()
	return done
}

// scaleOut adds a backend to a scene, and waits until Rebalance does not wait for it.
func scaleOut(s *scene, hosts ...string) {
	s.t.Helper()
	configs := make([]wsproxy.BackendConfig, len(hosts))
	for i, host := range hosts {
		configs[i] = wsproxy.BackendConfig{ID: host, URL: "http://" + host}
	}
	if err := s.p.SetBackends(configs...); err != nil {
		s.t.Fatal(err)
	}
}

func TestRebalanceMovesEachClientOnceAfterScaleOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, backendsAt("a", "b"))
		s.set("abc", accepting)
		c := newReconnectors(s, time.Second)
		c.join(upTo(300)...)
		scaleOut(s, "a", "b", "c")
		began := time.Now()
		n, err := s.p.Rebalance(t.Context(), wsproxy.RebalanceConfig{})
		if err != nil {
			t.Fatalf("Rebalance() = %d, %v; want no error", n, err)
		}
		time.Sleep(5 * time.Second) // the last ones come back
		if moved := c.wantClosedOnce(); moved != n || n < 90 || n > 110 {
			t.Errorf("Rebalance() = %d, and %d clients were closed; want about 100 both times", n, moved)
		}
		for id, tunnels := range s.tunnelsOfEach() {
			if tunnels < 80 || tunnels > 120 {
				t.Errorf("backend %s has %d tunnels; want 100, within 20 %%", id, tunnels)
			}
		}
		// It waits for 2 minutes after the change of the set, and closes 1 % of each a second.
		if took := time.Since(began); took < 2*time.Minute+30*time.Second || took > 4*time.Minute {
			t.Errorf("Rebalance took %v", took)
		}
		if n, err := s.p.Rebalance(t.Context(), wsproxy.RebalanceConfig{}); n != 0 || err != nil {
			t.Errorf("Rebalance() = %d, %v the second time; want nothing to do", n, err)
		}
		for _, e := range s.p.Stats().Ended {
			if e.Cause != wsproxy.CauseRebalance || e.Side != wsproxy.SideProxy {
				t.Errorf("%d tunnels ended because of %v by the %v; want %v only", e.Count, e.Cause, e.Side, wsproxy.CauseRebalance)
			}
		}
	})
}

func TestRebalanceStopsIfClientsComeBackToTheirBackend(t *testing.T) {
	for name, balancer := range map[string]wsproxy.Balancer{
		"by client":  wsproxy.Hash(wsproxy.ByHeader("X-Client")),
		"by address": wsproxy.Hash(wsproxy.ByClientIP()),
		"by room":    wsproxy.Hash(wsproxy.ByQuery("room")),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, wsproxy.WithBalancer(balancer))
				wantNotMoving(t, s)
			})
		})
	}
}

// wantNotMoving wants Rebalance to find out, soon, that the clients of s come back to the backend
// that closes them.
func wantNotMoving(t *testing.T, s *scene) {
	t.Helper()
	s.set("abc", accepting)
	c := newReconnectors(s, time.Second)
	c.join(upTo(300)...)
	c.thin("b", 30)
	c.thin("c", 30)
	n, err := s.p.Rebalance(t.Context(), wsproxy.RebalanceConfig{})
	if !errors.Is(err, wsproxy.ErrNotMoving) {
		t.Errorf("Rebalance() = %d, %v; want %v; tunnels %v", n, err, wsproxy.ErrNotMoving, s.tunnelsOfEach())
	}
	time.Sleep(5 * time.Second)
	if moved := c.wantClosedOnce(); moved != n || n < 10 || n > 12 {
		t.Errorf("Rebalance() = %d, and %d clients were closed; want 10 both times, or few more", n, moved)
	}
}

func TestRebalanceWaitsForBackendsToSettle(t *testing.T) {
	config := func(drain bool) []wsproxy.BackendConfig {
		return []wsproxy.BackendConfig{{ID: "a", URL: "http://a"}, {ID: "b", URL: "http://b"}, {ID: "c", URL: "http://c", Drain: drain}}
	}
	for _, tt := range []struct {
		name string
		opts []wsproxy.Option
		want time.Duration // until the first tunnel is closed, at least
		do   func(s *scene)
	}{
		{"nothing has changed", nil, 0, func(s *scene) {}},
		{"another weight", nil, 0, func(s *scene) {
			c := config(false)
			c[1].Weight = 2
			s.p.SetBackends(c...)
		}},
		{"a new backend", nil, 2 * time.Minute, func(s *scene) { scaleOut(s, "a", "b", "c", "d") }},
		{"a backend that was removed", nil, 2 * time.Minute, func(s *scene) { scaleOut(s, "a", "b") }},
		{"a backend that drains", nil, 2 * time.Minute, func(s *scene) { s.p.SetBackends(config(true)...) }},
		{"slow start", []wsproxy.Option{wsproxy.WithSlowStart(5 * time.Minute)}, 5 * time.Minute, func(s *scene) { scaleOut(s, "a", "b", "c", "d") }},
		{"a backend that has failed", nil, 2 * time.Minute, func(s *scene) {
			s.set("b", unreachable)
			s.visit(400) // c gets it
			s.set("b", accepting)
			time.Sleep(2 * time.Second)
			s.visit(401)
			s.wantFlags("")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// All tunnels are a's, and then the others get new ones.
				opts := append([]wsproxy.Option{wsproxy.WithBackendConfigs(config(false)[:1]...)}, tt.opts...)
				s := newScene(t, opts...)
				s.set("abcd", accepting)
				c := newReconnectors(s, time.Second)
				c.join(upTo(100)...)
				s.p.SetBackends(config(false)...)
				time.Sleep(time.Hour)
				tt.do(s)
				began := time.Now()
				done := startRebalance(t, s)
				if tt.want > 0 {
					time.Sleep(tt.want - 10*time.Second)
					if n := c.wantClosedOnce(); n > 0 {
						t.Errorf("%d tunnels were closed after %v; want none before %v", n, time.Since(began), tt.want)
					}
				}
				time.Sleep(30 * time.Second)
				if n := c.wantClosedOnce(); n == 0 {
					t.Errorf("no tunnel was closed after %v; want the first one after %v", time.Since(began), tt.want)
				}
				if err := <-done; err != nil {
					t.Errorf("Rebalance() = %v; want nil", err)
				}
			})
		})
	}
}

// Of three clients one comes back to the backend that it was moved from. Then it has the
// quietest tunnel there.
func TestRebalanceNeverMovesAClientTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var picks atomic.Int64
		s := newScene(t, backendsAt("a"), wsproxy.WithBalancer(wsproxy.BalancerFunc(
			func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
				return candidates[min(int(picks.Add(1)%3), len(candidates)-1)], nil // a, b, b
			})))
		s.set("ab", accepting)
		c := newReconnectors(s, time.Second)
		c.messages = 20
		c.join(upTo(200)...)
		scaleOut(s, "a", "b")
		n, err := s.p.Rebalance(t.Context(), wsproxy.RebalanceConfig{})
		time.Sleep(5 * time.Second)
		if closed := c.wantClosedOnce(); err != nil || closed != n || n < 140 || n > 160 {
			t.Errorf("Rebalance() = %d, %v, and %d clients were closed; want about 150, and no error", n, err, closed)
		}
	})
}

// While a backend is full or has failed, the others have no more than their shares.
func TestRebalanceGoesOnAfterABackendHasFailed(t *testing.T) {
	for name, failing := range map[string]proxytest.FakeBackend{
		"unreachable": unreachable,
		"full":        {Answer: proxytest.Refusing(503, "", "Retry-After: 3")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, backendsAt("a"))
				s.set("ab", accepting)
				c := newReconnectors(s, time.Second)
				c.join(upTo(200)...)
				scaleOut(s, "a", "b")
				done := startRebalance(t, s)
				time.Sleep(2*time.Minute + 20*time.Second)
				s.set("b", failing)
				time.Sleep(10 * time.Second)
				s.wantFlags("b: " + name)
				s.set("b", accepting)
				time.Sleep(40 * time.Second)
				s.visit(500)
				s.wantFlags("")
				before := c.wantClosedOnce()
				time.Sleep(time.Minute)
				if n := c.wantClosedOnce(); n != before || n == 0 || n > 40 {
					t.Errorf("%d tunnels were closed while b had failed, %d after that; want some, and no more", before, n-before)
				}
				if err := <-done; err != nil {
					t.Errorf("Rebalance() = %v; want nil", err)
				}
				if n := c.wantClosedOnce(); n < 90 || n > 110 {
					t.Errorf("%d tunnels were closed in the end; want about 100", n)
				}
			})
		})
	}
}

// The clients of a batch find that the other backend has failed, and come back to the same one.
func TestRebalanceDoesNotJudgeClientsThatComeBackWhileABackendFails(t *testing.T) {
	for _, rate := range []float64{0.02, 0.5} { // a batch that is judged with the next ones, and one that is judged at once
		synctest.Test(t, func(t *testing.T) {
			s := newScene(t, backendsAt("a"))
			s.set("ab", accepting)
			c := newReconnectors(s, time.Second)
			c.join(upTo(200)...)
			scaleOut(s, "a", "b")
			done := make(chan error, 1)
			go func() { // ends when Rebalance returns
				_, err := s.p.Rebalance(t.Context(), wsproxy.RebalanceConfig{Rate: rate})
				done <- err
			}()
			time.Sleep(2 * time.Minute)
			s.set("b", unreachable)
			time.Sleep(20 * time.Second)
			if n := s.tunnelsOfEach(); n["a"] != 200 {
				t.Errorf("tunnels: %v; want all at a", n)
			}
			s.set("b", accepting)
			time.Sleep(40 * time.Second)
			s.visit(500)
			s.wantFlags("")
			if err := <-done; err != nil {
				t.Errorf("rate %v: Rebalance() = %v; want nil", rate, err)
			}
			time.Sleep(5 * time.Second)
			if n := s.tunnelsOfEach()["b"]; n < 80 {
				t.Errorf("rate %v: b has %d tunnels in the end; want about 100", rate, n)
			}
		})
	}
}

// Backends that get no new tunnels keep those that they have, and the others share the rest.
func TestRebalanceLeavesBackendsAloneThatGetNoNewTunnels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := wsproxy.BackendConfig{ID: "a", URL: "http://a"}, wsproxy.BackendConfig{ID: "b", URL: "http://b"}, wsproxy.BackendConfig{ID: "c", URL: "http://c"}
		spare := wsproxy.BackendConfig{ID: "d", URL: "http://d", Priority: 1}
		s := newScene(t, wsproxy.WithBackendConfigs(a))
		s.set("abcd", accepting)
		clients := newReconnectors(s, time.Second)
		clients.join(upTo(100)...)
		clients.join() // all are a's
		s.p.SetBackends(b, c, spare)
		time.Sleep(time.Hour)
		if n, err := s.p.Rebalance(t.Context(), wsproxy.RebalanceConfig{}); n != 0 || err != nil {
			t.Errorf("Rebalance() = %d, %v while a is removed; want nothing", n, err)
		}
		s.p.SetBackends(a, b, spare)
		if n, err := s.p.Rebalance(t.Context(), wsproxy.RebalanceConfig{}); n < 45 || n > 55 || err != nil {
			t.Errorf("Rebalance() = %d, %v; want about 50: half of a's", n, err)
		}
		if n := s.tunnelsOfEach(); n["d"] != 0 {
			t.Errorf("tunnels: %v; want none of the spare backend", n)
		}
	})
}

// Its flag is up until an upgrade has tried it, and in a service with long tunnels none comes.
func TestRebalanceFillsABackendThatHasRecoveredUnseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, backendsAt("a", "b"))
		s.set("a", accepting)
		s.set("b", unreachable)
		c := newReconnectors(s, time.Second)
		c.join(upTo(200)...)
		s.set("b", accepting)
		time.Sleep(time.Hour)
		s.wantFlags("b: unreachable")
		n, err := s.p.Rebalance(t.Context(), wsproxy.RebalanceConfig{})
		if err != nil || n < 90 || n > 110 {
			t.Errorf("Rebalance() = %d, %v; want about 100 clients on the backend that works again", n, err)
		}
		if closed := c.wantClosedOnce(); closed != n {
			t.Errorf("%d clients were closed; want %d", closed, n)
		}
	})
}

// The quietest tunnels are closed first.
func TestRebalanceClosesTheQuietestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, backendsAt("a"))
		s.set("ab", accepting)
		talkers := make([]*wstest.Peer, 40)
		for i := range talkers {
			talkers[i], _ = s.open(i)
		}
		clients := newReconnectors(s, time.Second)
		quiet := upTo(80)[40:]
		clients.join(quiet...)
		time.Sleep(time.Second)
		for _, c := range talkers {
			proxytest.WantEcho(t, c)
		}
		scaleOut(s, "a", "b")
		if n, err := s.p.Rebalance(t.Context(), wsproxy.RebalanceConfig{Rate: 0.1}); n != 39 || err != nil {
			t.Errorf("Rebalance() = %d, %v; want 39", n, err)
		}
		if n := clients.wantClosedOnce(); n != 39 {
			t.Errorf("%d of the quiet clients were closed; want 39", n)
		}
		for _, c := range talkers {
			proxytest.WantEcho(t, c)
		}
	})
}

func TestRebalanceEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, backendsAt("a"))
		s.set("ab", accepting)
		clients := newReconnectors(s, time.Second)
		clients.join(upTo(200)...)
		scaleOut(s, "a", "b")
		for _, limit := range []time.Duration{time.Minute, time.Minute + 10*time.Second} { // while it waits, while it closes
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			began := time.Now()
			n, err := s.p.Rebalance(ctx, wsproxy.RebalanceConfig{})
			cancel()
			if took := time.Since(began); err != context.DeadlineExceeded || took != limit {
				t.Errorf("Rebalance() = %d, %v after %v; want %v after %v", n, err, took, context.DeadlineExceeded, limit)
			}
			time.Sleep(5 * time.Second)
			if closed := clients.wantClosedOnce(); closed != n || n > 100 {
				t.Errorf("Rebalance() = %d, and %d clients were closed; want the same, and not all", n, closed)
			}
		}
	})
}

func TestRebalanceEndsWithShutdown(t *testing.T) {
	for _, isClosing := range []bool{false, true} { // while it waits, while it closes
		synctest.Test(t, func(t *testing.T) {
			s := newScene(t, backendsAt("a"))
			s.set("ab", accepting)
			clients := newReconnectors(s, time.Second)
			clients.join(upTo(200)...)
			scaleOut(s, "a", "b")
			done := startRebalance(t, s)
			time.Sleep(time.Minute)
			if isClosing {
				time.Sleep(time.Minute + 10*time.Second)
			}
			if err := s.p.Shutdown(t.Context()); err != nil {
				t.Errorf("Shutdown() = %v; want nil", err)
			}
			if err := <-done; err != wsproxy.ErrShutdown {
				t.Errorf("Rebalance() = %v; want %v", err, wsproxy.ErrShutdown)
			}
			clients.leave()
			if n, err := s.p.Rebalance(t.Context(), wsproxy.RebalanceConfig{}); n != 0 || err != wsproxy.ErrShutdown {
				t.Errorf("Rebalance() = %d, %v after the shutdown; want %v", n, err, wsproxy.ErrShutdown)
			}
		})
	}
}

func TestRebalanceRefusesASecondCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, backendsAt("a"))
		s.set("ab", accepting)
		clients := newReconnectors(s, time.Second)
		clients.join(upTo(200)...)
		scaleOut(s, "a", "b")
		done := startRebalance(t, s)
		synctest.Wait()
		if n, err := s.p.Rebalance(t.Context(), wsproxy.RebalanceConfig{}); n != 0 || err == nil {
			t.Errorf("Rebalance() = %d, %v while another one is under way; want an error", n, err)
		}
		if err := <-done; err != nil {
			t.Errorf("the first Rebalance() = %v; want nil", err)
		}
		if n, err := s.p.Rebalance(t.Context(), wsproxy.RebalanceConfig{}); n != 0 || err != nil {
			t.Errorf("Rebalance() = %d, %v afterwards; want nothing to do", n, err)
		}
	})
}

// Clients that never come back do not end it: nothing shows that they would come back to the
// same backend. It only takes longer.
func TestRebalanceGoesOnWithoutClientsThatStayAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, backendsAt("a"))
		s.set("ab", accepting)
		clients := newReconnectors(s, time.Second)
		clients.isStray = func(int) bool { return true }
		clients.join(upTo(100)...)
		scaleOut(s, "a", "b")
		n, err := s.p.Rebalance(t.Context(), wsproxy.RebalanceConfig{Rate: 0.2})
		if closed := clients.wantClosedOnce(); err != nil || closed != n || n < 45 || n > 55 {
			t.Errorf("Rebalance() = %d, %v, and %d clients were closed; want about 50, and no error", n, err, closed)
		}
	})
}

// The clients of one address are known again by their requests. New ones come in between.
func TestRebalanceKnowsClientsBehindOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, wsproxy.WithBalancer(wsproxy.LeastTunnels()), wsproxy.WithTrustedProxies("203.0.113.1"), // so X-Forwarded-For counts for nothing
			wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "a", URL: "http://a"}))
		s.set("ab", accepting)
		clients := newReconnectors(s, time.Second)
		clients.join(upTo(100)...)
		scaleOut(s, "a", "b")
		n, err := s.p.Rebalance(t.Context(), wsproxy.RebalanceConfig{})
		if closed := clients.wantClosedOnce(); err != nil || closed != n || n < 45 || n > 55 {
			t.Errorf("Rebalance() = %d, %v, and %d clients were closed; want about 50, and no error", n, err, closed)
		}
	})
}

func TestRebalanceChecksItsConfig(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends("http://127.0.0.1:1"))
	nan := 0.0
	nan /= nan
	for _, tt := range []struct {
		config wsproxy.RebalanceConfig
		want   []string // the options of the errors
	}{
		{wsproxy.RebalanceConfig{}, nil},
		{wsproxy.RebalanceConfig{Tolerance: 3, MinSurplus: 1, Rate: 1}, nil},
		{wsproxy.RebalanceConfig{Tolerance: -0.1}, []string{"Rebalance.Tolerance"}},
		{wsproxy.RebalanceConfig{Tolerance: nan}, []string{"Rebalance.Tolerance"}},
		{wsproxy.RebalanceConfig{Rate: nan}, []string{"Rebalance.Rate"}},
		{wsproxy.RebalanceConfig{MinSurplus: -1, Rate: 1.1}, []string{"Rebalance.MinSurplus", "Rebalance.Rate"}},
		{wsproxy.RebalanceConfig{Rate: -1}, []string{"Rebalance.Rate"}},
	} {
		n, err := p.Rebalance(t.Context(), tt.config)
		var got []string
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range joined.Unwrap() {
				bad, _ := errors.AsType[*wsproxy.ConfigError](e)
				got = append(got, bad.Option)
			}
		}
		if n != 0 || !slices.Equal(got, tt.want) || (err == nil) != (tt.want == nil) {
			t.Errorf("Rebalance(%+v) = %d, %v; want errors of %q", tt.config, n, err, tt.want)
		}
	}
}
