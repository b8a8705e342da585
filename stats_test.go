package wsproxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A tunnel that ends while Stats adds up is counted once: a sum that had it twice would
// be larger than a later one.
func TestStatsCountsEndingTunnelsOnce(t *testing.T) {
	const clients, visits, messages = 4, 50, 20
	p, err := wsproxy.New(wsproxy.WithBackends(wstest.StartEcho(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	front := httptest.NewServer(p)
	defer front.Close()

	var visiting, watching sync.WaitGroup
	stop := make(chan struct{})
	watching.Go(func() { // ends with stop
		var last wsproxy.Stats
		for {
			s := p.Stats()
			if s.ToBackend.Bytes < last.ToBackend.Bytes || s.ToClient.Messages < last.ToClient.Messages {
				t.Errorf("Stats() = %+v after %+v: counters went down", s, last)
				return
			}
			last = s
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for range clients {
		visiting.Go(func() { // ends after all visits
			for range visits {
				visit(t, front, messages)
			}
		})
	}
	visiting.Wait()
	close(stop)
	watching.Wait()
	if err := p.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown() = %v; want nil", err)
	}
	const total = clients * visits * messages
	if s := p.Stats(); s.ToBackend.Messages != total || s.ToClient.Messages != total || s.Tunnels != 0 {
		t.Errorf("Stats() = %+v in the end; want %d messages each way and no tunnel", s, total)
	}
}

// visit sends messages through a tunnel, reads their echoes and closes the tunnel.
func visit(t *testing.T, front *httptest.Server, messages int) {
	c := dialUpgrade(t, front)
	defer c.Close()
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Errorf("client got %v, %v; want a 101", resp, err)
		return
	}
	echo := make([]byte, 4)
	for range messages {
		c.Write([]byte{0x81, 0x82, 0, 0, 0, 0, 'h', 'i'})
		if _, err := io.ReadFull(br, echo); err != nil {
			t.Errorf("client read an echo: %v", err)
			return
		}
	}
	c.Write([]byte{0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8})
	io.Copy(io.Discard, br)
}

// Bytes that a side has not taken when its tunnel is cut are not in TunnelEnd. A counter that lost
// them again would look as if the proxy had restarted.
func TestStatsTrafficNeverDecreases(t *testing.T) {
	stall := wsproxy.WithTimeouts(wsproxy.Timeouts{WriteStall: 500 * time.Millisecond, Close: 500 * time.Millisecond})
	for _, tt := range []struct {
		name string
		opts []wsproxy.Option
		end  bool // by the proxy; otherwise the client is cut because it takes nothing
	}{
		{"proxy is closed", nil, true},
		{"proxy is closed, portable engine", []wsproxy.Option{proxytest.WrappedDialer()}, true},
		{"client stalls", []wsproxy.Option{stall}, false},
		{"client stalls, portable engine", []wsproxy.Option{proxytest.WrappedDialer(), stall}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := proxytest.OpenPair(t, tt.opts...)
			go p.Backend.WriteFrames(wstest.Binary(make([]byte, 64<<20))) // ends with the tunnel
			b := p.Proxy.Backends()[0]
			var all, one wsproxy.Traffic
			check := func() {
				nowAll, nowOne := p.Proxy.Stats().ToClient, b.Stats().ToClient
				if nowAll.Bytes < all.Bytes || nowOne.Bytes < one.Bytes {
					t.Errorf("%d bytes to the client, and %d of the backend, after %d and %d; want no decrease", nowAll.Bytes, nowOne.Bytes, all.Bytes, one.Bytes)
				}
				all, one = nowAll, nowOne
			}
			hasStalled := func() bool { check(); return p.Proxy.Stats().Buffered > 0 && tt.end || len(p.Ends) > 0 }
			if !proxytest.Becomes(hasStalled) {
				t.Fatal("the client is not too slow for the backend")
			}
			p.Proxy.Close()
			if e := p.End(t); !e.Cut {
				t.Errorf("tunnel ended by %v, and was not cut", e.Cause)
			}
			if !proxytest.Becomes(func() bool { check(); return p.Proxy.Stats().Tunnels == 0 }) {
				t.Error("the tunnel is counted after its end")
			}
			if all != one {
				t.Errorf("Stats() has %+v, and that of the only backend %+v; want the same", all, one)
			}
		})
	}
}

func TestStatsCountsTrafficOfEachDirection(t *testing.T) {
	p := proxytest.OpenPair(t)
	p.Client.Send(wstest.Text("12345"), wstest.Fragment(wstest.OpText, false, "1"), wstest.Ping("x"), wstest.Fragment(wstest.OpContinuation, true, "2"))
	p.Backend.Want(wstest.Text("12345"), wstest.Fragment(wstest.OpText, false, "1"), wstest.Ping("x"), wstest.Fragment(wstest.OpContinuation, true, "2"))
	p.Backend.Send(wstest.Binary(make([]byte, 300)))
	p.Client.Want(wstest.Binary(make([]byte, 300)))
	toBackend := wsproxy.Traffic{Bytes: 4*6 + 5 + 1 + 1 + 1, Messages: 2}
	toClient := wsproxy.Traffic{Bytes: 4 + 300, Messages: 1}
	if !proxytest.Becomes(func() bool {
		s := p.Proxy.Stats()
		return s.ToBackend == toBackend && s.ToClient == toClient && s.Tunnels == 1 && s.Opened == 1
	}) {
		t.Errorf("Stats() of the open tunnel = %+v; want %+v to the backend, %+v to the client", p.Proxy.Stats(), toBackend, toClient)
	}
	tunnel := proxytest.OnlyTunnel(t, p.Proxy)
	if b, c := tunnel.Traffic(); b != toBackend || c != toClient {
		t.Errorf("Traffic() = %+v, %+v; want %+v to the backend, %+v to the client", b, c, toBackend, toClient)
	}
	if s := p.Proxy.Backends()[0].Stats(); s.ToBackend != toBackend || s.ToClient != toClient || s.Tunnels != 1 || s.Opened != 1 {
		t.Errorf("the backend's Stats() with the open tunnel = %+v; want %+v to it, %+v to the client", s, toBackend, toClient)
	}
	tunnel.Close(1000, "") // the proxy's own frames do not count
	p.Client.Close()
	p.Backend.Close()
	if e := p.End(t); e.ToBackend != toBackend || e.ToClient != toClient {
		t.Errorf("tunnel ended with %+v to the backend, %+v to the client; want %+v, %+v", e.ToBackend, e.ToClient, toBackend, toClient)
	}
	if s := p.Proxy.Stats(); s.ToBackend != toBackend || s.ToClient != toClient {
		t.Errorf("Stats() after the end = %+v; want %+v to the backend, %+v to the client", s, toBackend, toClient)
	}
	if !proxytest.Becomes(func() bool { return p.Proxy.Stats().Tunnels == 0 }) {
		t.Error("the tunnel is still counted after its end")
	}
	if s := p.Proxy.Backends()[0].Stats(); s.ToBackend != toBackend || s.ToClient != toClient || s.Tunnels != 0 {
		t.Errorf("the backend's Stats() after the end = %+v; want %+v to it, %+v to the client", s, toBackend, toClient)
	}
}

func TestBackendStatsCountAttemptsByOutcome(t *testing.T) {
	for _, tt := range []struct {
		name  string
		a     proxytest.FakeBackend
		after time.Duration // the client leaves; 0: it stays
		want  string
	}{
		{name: "101", a: accepting, want: "accepted 1"},
		{name: "404", a: proxytest.FakeBackend{Answer: proxytest.Refusing(404, "")}, want: "refused 1"},
		{name: "500", a: proxytest.FakeBackend{Answer: proxytest.Refusing(500, "")}, want: "refused 1"},
		{name: "503 with Retry-After", a: proxytest.FakeBackend{Answer: proxytest.Refusing(503, "", "Retry-After: 7")}, want: "full 1"},
		{name: "503", a: proxytest.FakeBackend{Answer: proxytest.Refusing(503, "")}, want: "failed 1"},
		{name: "malformed", a: proxytest.FakeBackend{Answer: "nonsense\r\n\r\n"}, want: "failed 1"},
		{name: "never responds", want: "failed 1"},
		{name: "never responds, client leaves at once", after: 10 * time.Millisecond, want: "abandoned 1"},
		{name: "connection refused", a: unreachable, want: "unreached 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, backendsAt("a"))
				s.set("a", tt.a)
				c := s.send(1, "/chat")
				if tt.after > 0 {
					time.Sleep(tt.after)
					c.Close()
				} else {
					time.Sleep(11 * time.Second)
				}
				synctest.Wait()
				if got := attempts(s.backend("a")); got != tt.want {
					t.Errorf("the backend has attempts %q; want %q", got, tt.want)
				}
			})
		})
	}
}

// attempts returns which attempts a backend has counted, as "accepted 2 failed 1".
func attempts(b *wsproxy.Backend) (s string) {
	st := b.Stats()
	for _, c := range []struct {
		name string
		n    uint64
	}{
		{"accepted", st.Accepted}, {"refused", st.Refused}, {"full", st.Full},
		{"failed", st.Failed}, {"unreached", st.Unreached}, {"abandoned", st.Abandoned},
	} {
		if c.n > 0 {
			s += fmt.Sprintf(" %s %d", c.name, c.n)
		}
	}
	return s[min(1, len(s)):]
}

func TestBackendStatsCountEachAttemptOfAnUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, backendsAt("a", "b"), proxytest.FirstCandidate)
		s.set("a", unreachable)
		s.set("b", accepting)
		s.visit(1)
		a, b := s.backend("a").Stats(), s.backend("b").Stats()
		if got := attempts(s.backend("a")); got != "unreached 1" || a.Opened != 0 || len(a.Ended) != 0 {
			t.Errorf("a has attempts %q, %d opened, ended %v; want one that was unreached", got, a.Opened, a.Ended)
		}
		if got := attempts(s.backend("b")); got != "accepted 1" || b.Opened != 1 || b.Lifetimes.Count != 1 {
			t.Errorf("b has attempts %q, %d opened, %d lifetimes; want one of each", got, b.Opened, b.Lifetimes.Count)
		}
	})
}

func TestStatsMeasureHandshakesApartFromLifetimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, backendsAt("a", "b"), proxytest.FirstCandidate)
		s.set("a", proxytest.FakeBackend{Answer: proxytest.Switching, Delay: 30 * time.Millisecond})
		c := s.send(1, "/chat")
		proxytest.WantSwitch(t, c)
		proxytest.WantSwitch(t, s.send(2, "/chat"))
		time.Sleep(time.Hour)
		proxytest.HangUp(t, c)
		synctest.Wait()
		const lived = time.Hour + 30*time.Millisecond // the second handshake too
		for name, h := range map[string]struct{ handshakes, lifetimes wsproxy.Histogram }{
			"the proxy's":   {s.p.Stats().Handshakes, s.p.Stats().Lifetimes},
			"the backend's": {s.backend("a").Stats().Handshakes, s.backend("a").Stats().Lifetimes},
		} {
			wantDurations(t, name+" handshakes", h.handshakes, 2, 60*time.Millisecond, 50*time.Millisecond)
			wantDurations(t, name+" lifetimes", h.lifetimes, 1, lived, 3*time.Hour)
		}
		if n := s.backend("b").Stats().Handshakes.Count; n != 0 {
			t.Errorf("the other backend has %d handshakes", n)
		}
	})
}

// wantDurations checks that h has n durations, all in the bucket up to bound.
func wantDurations(t *testing.T, name string, h wsproxy.Histogram, n uint64, sum, bound time.Duration) {
	t.Helper()
	if h.Count != n || h.Sum != sum {
		t.Errorf("%s: %d durations, %v in all; want %d, %v", name, h.Count, h.Sum, n, sum)
	}
	for _, b := range h.Buckets {
		want := n
		if b.Bound < bound {
			want = 0
		}
		if b.Count != want {
			t.Errorf("%s: %d durations up to %v; want %d", name, b.Count, b.Bound, want)
		}
	}
}

func TestStatsCountEndsBySideAndCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, backendsAt("a", "b"), proxytest.FirstCandidate)
		s.set("ab", accepting)
		for range 3 {
			s.visit(1) // ends by the client's Close frame
		}
		for i := range 2 {
			c, _ := s.open(2 + i)
			proxytest.OnlyTunnel(t, s.p).Close(4000, "")
			c.WantClose(4000)
			c.Close()
			synctest.Wait()
		}
		c, _ := s.open(4)
		c.Close() // lost
		synctest.Wait()
		want := []wsproxy.EndCount{
			{Side: wsproxy.SideProxy, Cause: wsproxy.CauseApplication, Count: 2},
			{Side: wsproxy.SideClient, Cause: wsproxy.CauseClosed, Count: 3},
			{Side: wsproxy.SideClient, Cause: wsproxy.CauseLost, Count: 1},
		}
		if got := s.p.Stats().Ended; !slices.Equal(got, want) {
			t.Errorf("Stats().Ended = %+v; want %+v", got, want)
		}
		if got := s.backend("a").Stats().Ended; !slices.Equal(got, want) {
			t.Errorf("a has Ended %+v; want %+v", got, want)
		}
		if got := s.backend("b").Stats().Ended; len(got) != 0 {
			t.Errorf("b has Ended %+v; want none", got)
		}
	})
}

func TestBackendStatsBelongToAnIDWhileItIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, backendsAt("a"))
		s.set("a", accepting)
		c, _ := s.open(1)
		before := s.backend("a")
		config := wsproxy.BackendConfig{ID: "a", URL: "http://a"}
		s.p.SetBackends()
		if n := before.Stats().Opened; n != 1 {
			t.Errorf("the removed backend has opened %d tunnels; want 1", n)
		}
		s.p.SetBackends(config)
		if n := s.backend("a").Stats().Opened; n != 1 {
			t.Errorf("the backend that is added again while it has a tunnel has opened %d; want 1", n)
		}
		s.p.SetBackends()
		proxytest.HangUp(t, c)
		synctest.Wait()
		s.p.SetBackends(config)
		if n := s.backend("a").Stats().Opened; n != 0 {
			t.Errorf("the backend that is added again after its last tunnel has opened %d; want 0", n)
		}
		if st := before.Stats(); st.Opened != 1 || st.Lifetimes.Count != 1 {
			t.Errorf("the backend that was forgotten has Stats() = %+v; want one tunnel that has ended", st)
		}
		if st := s.p.Stats(); st.Opened != 1 || st.Lifetimes.Count != 1 || len(st.Ended) != 1 {
			t.Errorf("Stats() = %+v; want one tunnel that has ended", st)
		}
	})
}

// A tunnel over plain sockets has the event loop where there is one, and its delays are counted.
func TestStatsCountsTheTunnelsOfEventLoops(t *testing.T) {
	p, s := proxytest.Start(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	if n := len(p.Stats().EventLoopLag.Buckets); n != 13 {
		t.Errorf("EventLoopLag has %d buckets; want 13", n)
	}
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
	proxytest.WantEcho(t, client)
	proxytest.WantEcho(t, client) // the turn of the first one is over
	want, lag := 0, false
	if proxytest.OnlyTunnel(t, p).Info().Engine == wsproxy.EngineEventLoop {
		want, lag = 1, true
	}
	if s := p.Stats(); s.EventLoopTunnels != want || s.EventLoopLag.Count > 0 != lag || s.EventLoopLag.Sum > 0 != lag {
		t.Errorf("Stats() has %d tunnels of event loops, and lag %+v; want %d, and lag: %t", s.EventLoopTunnels, s.EventLoopLag, want, lag)
	}
	proxytest.HangUp(t, client)
	s.Wait()
	if n := p.Stats().EventLoopTunnels; n != 0 {
		t.Errorf("Stats() has %d tunnels of event loops in the end; want 0", n)
	}
}
