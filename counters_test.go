package wsproxy_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// wantRefusal checks that s has counted one refusal since before, for reason, and that it is that
// of the backend, or of none if b is nil.
func wantRefusal(t *testing.T, p *wsproxy.Proxy, before wsproxy.Stats, reason wsproxy.Reason, b *wsproxy.Backend) {
	t.Helper()
	s := p.Stats()
	if got := countOf(s, reason) - countOf(before, reason); got != 1 {
		t.Errorf("Stats().Refusals = %v after %v; want one more for %v", s.Refusals, before.Refusals, reason)
	}
	if got, want := total(s), s.Refused+s.Failed; got != want {
		t.Errorf("Stats().Refusals = %v, %d in all; want %d refused and %d failed", s.Refusals, got, s.Refused, s.Failed)
	}
	var refused, failed uint64
	switch reason {
	case wsproxy.ReasonNoBackend, wsproxy.ReasonUnreachable, wsproxy.ReasonQueueTimeout:
		failed = 1
	default:
		refused = 1
	}
	if b == nil {
		refused, failed = refused+before.RefusedUnpicked, failed+before.FailedUnpicked
		if s.RefusedUnpicked != refused || s.FailedUnpicked != failed {
			t.Errorf("%d refused and %d failed have no backend; want %d and %d", s.RefusedUnpicked, s.FailedUnpicked, refused, failed)
		}
		return
	}
	if st := b.Stats(); st.UpgradesRefused != refused || st.UpgradesFailed != failed {
		t.Errorf("backend %s has %d refused and %d failed; want %d and %d", b.ID(), st.UpgradesRefused, st.UpgradesFailed, refused, failed)
	}
	if s.RefusedUnpicked != before.RefusedUnpicked || s.FailedUnpicked != before.FailedUnpicked {
		t.Errorf("%d refused and %d failed have no backend; want those of before", s.RefusedUnpicked, s.FailedUnpicked)
	}
}

func countOf(s wsproxy.Stats, reason wsproxy.Reason) uint64 {
	for _, c := range s.Refusals {
		if c.Reason == reason {
			return c.Count
		}
	}
	return 0
}

func total(s wsproxy.Stats) (n uint64) {
	for _, c := range s.Refusals {
		n += c.Count
	}
	return n
}

// The other reasons are those of TestTraceRefusedIsCalledOnceForEachRefusal.
func TestStatsCountRefusalsByLimitsAndTheQueue(t *testing.T) {
	one := wsproxy.Rate{PerSecond: 0.001}
	byClient := func(r *http.Request) string { return "ann" }
	for _, tt := range []struct {
		name   string
		limits wsproxy.Limits
		a      proxytest.FakeBackend
		wait   time.Duration // then the second client leaves
		want   wsproxy.Reason
		picked string
	}{
		{name: "tunnels", limits: wsproxy.Limits{Tunnels: 1}, a: accepting, want: wsproxy.ReasonLimit},
		{name: "per client", limits: wsproxy.Limits{PerClient: 1, ClientKey: byClient}, a: accepting, want: wsproxy.ReasonClientLimit},
		{name: "rate", limits: wsproxy.Limits{Handshakes: one}, a: accepting, want: wsproxy.ReasonRate},
		{name: "rate of a client", limits: wsproxy.Limits{HandshakesPerClient: one, ClientKey: byClient}, a: accepting, want: wsproxy.ReasonRate},
		{name: "queue full", limits: wsproxy.Limits{Queue: 1}, a: unreachable, want: wsproxy.ReasonQueueFull},
		{name: "queue timeout", limits: wsproxy.Limits{Queue: 2}, a: unreachable, wait: 11 * time.Second, want: wsproxy.ReasonQueueTimeout, picked: "a"},
		{name: "client left", a: proxytest.FakeBackend{}, wait: time.Second / 2, want: wsproxy.ReasonClientLeft, picked: "a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, backendsAt("a"), wsproxy.WithLimits(tt.limits))
				s.set("a", tt.a)
				if tt.wait == 0 {
					s.send(1, "/chat")
				}
				before := s.p.Stats()
				c := s.send(2, "/chat")
				time.Sleep(tt.wait)
				c.Close()
				synctest.Wait()
				var b *wsproxy.Backend
				if tt.picked != "" {
					b = s.backend(tt.picked)
				}
				wantRefusal(t, s.p, before, tt.want, b)
			})
		})
	}
}

func TestStatsListRefusalsInTheOrderOfReasons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, backendsAt("a"), wsproxy.WithOriginPatterns())
		s.send(1, "/chat")
		s.send(2, "/chat", "Origin: https://evil.example")
		s.send(3, "/chat")
		want := []wsproxy.RefusalCount{{Reason: wsproxy.ReasonOrigin, Count: 1}, {Reason: wsproxy.ReasonUnreachable, Count: 2}}
		if got := s.p.Stats().Refusals; !slices.Equal(got, want) {
			t.Errorf("Stats().Refusals = %v; want %v", got, want)
		}
	})
}

// A request that is no upgrade is in Refused and Failed, and is no upgrade of a backend.
func TestStatsCountRefusalsOfPlainRequestsForNoBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newHTTPScene(t, backendsAt("a"))
		s.set("a", unreachable)
		s.newBrowser(1).ask("GET", "/")
		st, b := s.p.Stats(), s.backend("a").Stats()
		if st.Failed != 1 || countOf(st, wsproxy.ReasonUnreachable) != 1 || st.FailedUnpicked != 0 || b.UpgradesFailed != 0 {
			t.Errorf("%d failed, by reason %v, %d without a backend, %d upgrades of the backend; want one that failed and no upgrade",
				st.Failed, st.Refusals, st.FailedUnpicked, b.UpgradesFailed)
		}
	})
}

func TestStatsCountRetries(t *testing.T) {
	for _, tt := range []struct {
		name    string
		opts    []wsproxy.Option
		a, b, c proxytest.FakeBackend
		plain   bool
		want    uint64
	}{
		{name: "none", a: accepting, want: 0},
		{name: "one", a: unreachable, b: accepting, want: 1},
		{name: "two", a: unreachable, b: proxytest.FakeBackend{Answer: proxytest.Refusing(502, "")}, c: accepting, want: 2},
		{name: "two in vain", a: unreachable, b: unreachable, c: unreachable, want: 2},
		{name: "a hook drops a response", a: accepting, b: accepting, want: 1, opts: []wsproxy.Option{wsproxy.WithResponse(func(r *wsproxy.ProxyResponse) error {
			if r.Backend.ID() == "a" {
				return wsproxy.ErrTryNext
			}
			return nil
		})}},
		{name: "plain", plain: true, opts: []wsproxy.Option{withHTTP}, a: unreachable, b: serving("b"), want: 1},
		{name: "queue", a: unreachable, b: unreachable, c: unreachable, opts: []wsproxy.Option{wsproxy.WithLimits(wsproxy.Limits{Queue: 1})}, want: 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, append(tt.opts, proxytest.FirstCandidate)...)
				s.set("a", tt.a)
				s.set("b", tt.b)
				s.set("c", tt.c)
				if tt.plain {
					s.newBrowser(1).ask("GET", "/")
				} else {
					s.send(1, "/chat")
				}
				time.Sleep(5 * time.Second) // in the queue it is tried again and again
				if st := s.p.Stats(); st.Retries != tt.want || st.RetriesDenied != 0 {
					t.Errorf("Stats() has %d retries, %d denied; want %d, none", st.Retries, st.RetriesDenied, tt.want)
				}
			})
		})
	}
}

func TestStatsCountRetriesThatTheBudgetDenies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, budget = 200, 100 + 200/5
		s := newScene(t, wsproxy.WithEjection(wsproxy.Ejection{Off: true}), backendsAt("a", "b"), proxytest.FirstCandidate)
		s.set("a", proxytest.FakeBackend{Answer: proxytest.Refusing(503, "", "Retry-After: 0")})
		s.set("b", accepting)
		for i := range n {
			s.send(i, "/chat").Close()
		}
		a := s.backend("a").Stats()
		if st := s.p.Stats(); st.Retries != budget || st.RetriesDenied != a.Full-budget {
			t.Errorf("Stats() has %d retries, %d denied, for %d responses of 503; want %d, and all others", st.Retries, st.RetriesDenied, a.Full, budget)
		}
	})
}

func TestStatsCountPanicsByHook(t *testing.T) {
	boom := func() { panic("boom") }
	for _, tt := range []struct {
		name   string
		option wsproxy.Option
		a      string // what the backend answers; "": 101
		plain  bool
		want   string
	}{
		{name: "WithAdmit", option: wsproxy.WithAdmit(func(*http.Request) (any, error) { boom(); return nil, nil })},
		{name: "WithRewrite", option: wsproxy.WithRewrite(func(*wsproxy.ProxyRequest) error { boom(); return nil })},
		{name: "WithResponse", option: wsproxy.WithResponse(func(*wsproxy.ProxyResponse) error { boom(); return nil })},
		{name: "WithDialer", option: wsproxy.WithDialer(func(context.Context, string, string) (net.Conn, error) { boom(); return nil, nil })},
		{name: "WithDialer", plain: true, option: wsproxy.WithDialer(func(context.Context, string, string) (net.Conn, error) { boom(); return nil, nil })},
		{name: "WithLogger", option: wsproxy.WithLogger(slog.New(panickingHandler{slog.DiscardHandler})), want: "WithLogger 2"}, // at the beginning of the tunnel, and at its end
		{name: "Balancer.Pick", option: wsproxy.WithBalancer(wsproxy.BalancerFunc(func(*http.Request, []*wsproxy.Backend) (*wsproxy.Backend, error) {
			boom()
			return nil, nil
		}))},
		{name: "Affinity.Key", option: wsproxy.WithAffinity(wsproxy.Affinity{Key: func(*http.Request) string { boom(); return "" }})},
		{name: "Limits.ClientKey", option: wsproxy.WithLimits(wsproxy.Limits{PerClient: 1, ClientKey: func(*http.Request) string { boom(); return "" }})},
		{name: "Trace.Picked", option: wsproxy.WithTrace(&wsproxy.Trace{Picked: func(wsproxy.PickedInfo) { boom() }})},
		{name: "Trace.Attempted", option: wsproxy.WithTrace(&wsproxy.Trace{Attempted: func(wsproxy.AttemptInfo) { boom() }})},
		{name: "Trace.Opened", option: wsproxy.WithTrace(&wsproxy.Trace{Opened: func(wsproxy.OpenedInfo) { boom() }})},
		{name: "Trace.Closed", option: wsproxy.WithTrace(&wsproxy.Trace{Closed: func(wsproxy.TunnelEnd) { boom() }})},
		{name: "Trace.Refused", a: proxytest.Refusing(404, ""), option: wsproxy.WithTrace(&wsproxy.Trace{Refused: func(wsproxy.RefusedInfo) { boom() }})},
		{name: "Trace.Health", a: proxytest.Refusing(502, ""), option: wsproxy.WithTrace(&wsproxy.Trace{Health: func(wsproxy.HealthInfo) { boom() }})},
		{name: "two hooks", want: "Trace.Attempted 1, Trace.Refused 1", option: wsproxy.WithTrace(&wsproxy.Trace{
			Attempted: func(wsproxy.AttemptInfo) { boom() }, Refused: func(wsproxy.RefusedInfo) { boom() },
		})},
		{name: "ErrAbortHandler", want: "none", option: wsproxy.WithRewrite(func(*wsproxy.ProxyRequest) error { panic(http.ErrAbortHandler) })},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := proxytest.NewNetwork()
				if tt.a == "" {
					tt.a = proxytest.Switching
				}
				network.Set("a", proxytest.FakeBackend{Answer: tt.a})
				p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a"), withHTTP, wsproxy.WithDialer(network.Dial), tt.option)
				request := proxytest.UpgradeTo("/chat")
				if tt.plain {
					request = proxytest.Head("GET / HTTP/1.1", "Host: a")
				}
				c := proxytest.ServeInMemory(t, p).Dial(t)
				c.WriteRequest(request)
				synctest.Wait()
				c.Close()
				synctest.Wait()
				if got, want := panicsOf(p), cmp.Or(tt.want, tt.name+" 1"); got != want {
					t.Errorf("Stats().HookPanics = %q; want %q", got, want)
				}
			})
		})
	}
}

// panicsOf returns which hooks have panicked, as "Trace.Opened 1, WithAdmit 2", or "none".
func panicsOf(p *wsproxy.Proxy) string {
	var parts []string
	for _, c := range p.Stats().HookPanics {
		parts = append(parts, fmt.Sprint(c.Hook, " ", c.Count))
	}
	return cmp.Or(strings.Join(parts, ", "), "none")
}

// A panickingHandler panics at each line.
type panickingHandler struct{ slog.Handler }

func (panickingHandler) Enabled(context.Context, slog.Level) bool  { return true }
func (panickingHandler) Handle(context.Context, slog.Record) error { panic("boom") }

func TestBackendStatsCountResponsesByClass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newHTTPScene(t, backendsAt("a"))
		for _, status := range []int{200, 204, 299, 304, 404, 499, 500, 502, 599} {
			s.set("a", proxytest.FakeBackend{Answer: proxytest.Refusing(status, "", "Connection: close") + "{end}"})
			s.newBrowser(status).ask("GET", "/")
		}
		s.set("a", proxytest.FakeBackend{Answer: "nonsense\r\n\r\n"})
		s.newBrowser(1).ask("GET", "/")
		st := s.backend("a").Stats()
		if want := [5]uint64{0, 3, 1, 2, 3}; st.ResponseClasses != want || st.Responded != 9 {
			t.Errorf("ResponseClasses = %v, Responded = %d; want %v, 9", st.ResponseClasses, st.Responded, want)
		}
	})
}

func TestStatsCountCloseCodesBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, backendsAt("a"))
		s.set("a", accepting)
		for i, code := range []uint16{1000, 1000, 1001, 1014, 3000, 4000, 4999} {
			c, _ := s.open(i)
			c.Send(wstest.Close(code, ""))
			c.WantClose(code)
			c.Close()
			synctest.Wait()
		}
		c, _ := s.open(10)
		c.Send(wstest.Close(0, ""))
		synctest.Wait()
		c.Close()
		synctest.Wait()
		c, _ = s.open(11)
		c.Close() // without a Close frame, and none is sent
		synctest.Wait()
		for i, code := range []int{1008, 4001} {
			c, _ := s.open(12 + i)
			proxytest.OnlyTunnel(t, s.p).Close(code, "")
			c.WantClose(uint16(code))
			c.Close()
			synctest.Wait()
		}
		want := []wsproxy.CodeCount{
			{Side: wsproxy.SideProxy, Code: -1, Count: 1},
			{Side: wsproxy.SideProxy, Code: 1008, Count: 1},
			{Side: wsproxy.SideClient, Code: -1, Count: 3},
			{Side: wsproxy.SideClient, Code: 0, Count: 1},
			{Side: wsproxy.SideClient, Code: 1000, Count: 2},
			{Side: wsproxy.SideClient, Code: 1001, Count: 1},
			{Side: wsproxy.SideClient, Code: 1005, Count: 1},
			{Side: wsproxy.SideClient, Code: 1014, Count: 1},
		}
		if got := s.p.Stats().CloseCodes; !slices.Equal(got, want) {
			t.Errorf("Stats().CloseCodes = %+v; want %+v", got, want)
		}
	})
}

func TestStatsCountTunnelsThatWereCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, backendsAt("a"))
		s.set("a", accepting)
		s.visit(1)
		s.open(2)
		s.open(3)
		if n := s.p.Stats().Cut; n != 0 {
			t.Errorf("Stats().Cut = %d before a tunnel was cut; want 0", n)
		}
		s.p.Close()
		synctest.Wait()
		if n := s.p.Stats().Cut; n != 2 {
			t.Errorf("Stats().Cut = %d after Proxy.Close of two tunnels; want 2", n)
		}
	})
}

func TestStatsHaveLifetimesByEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, backendsAt("a"), proxytest.FirstCandidate)
		s.set("a", accepting)
		if got := s.p.Stats().LifetimesByEnd; len(got) != 0 {
			t.Errorf("Stats().LifetimesByEnd = %+v before the first end; want none", got)
		}
		closed, _ := s.open(1)
		lost, _ := s.open(2)
		time.Sleep(time.Minute)
		proxytest.HangUp(t, closed)
		synctest.Wait()
		time.Sleep(time.Hour)
		lost.Close()
		synctest.Wait()
		s.visit(3)
		got := s.p.Stats()
		if len(got.LifetimesByEnd) != len(got.Ended) {
			t.Fatalf("Stats().LifetimesByEnd = %+v; want the ends of %+v", got.LifetimesByEnd, got.Ended)
		}
		for i, want := range []struct {
			end wsproxy.EndCount
			sum time.Duration
		}{
			{wsproxy.EndCount{Side: wsproxy.SideClient, Cause: wsproxy.CauseClosed, Count: 2}, time.Minute},
			{wsproxy.EndCount{Side: wsproxy.SideClient, Cause: wsproxy.CauseLost, Count: 1}, time.Hour + time.Minute},
		} {
			l := got.LifetimesByEnd[i]
			if end := (wsproxy.EndCount{Side: l.Side, Cause: l.Cause, Count: l.Lifetimes.Count}); end != want.end || end != got.Ended[i] || l.Lifetimes.Sum != want.sum {
				t.Errorf("LifetimesByEnd[%d] = %+v, Ended[%d] = %+v; want %+v and %v in all", i, l, i, got.Ended[i], want.end, want.sum)
			}
		}
		if n := got.Lifetimes.Count; n != 3 {
			t.Errorf("Stats().Lifetimes has %d; want 3", n)
		}
	})
}

func TestStatsCountWhatAffinityDid(t *testing.T) {
	const forged = "wsproxy=forged"
	dropA := wsproxy.WithResponse(func(r *wsproxy.ProxyResponse) error {
		if r.Backend.ID() == "a" {
			return wsproxy.ErrTryNext
		}
		return nil
	})
	refusing := func(status int) proxytest.FakeBackend {
		return proxytest.FakeBackend{Answer: proxytest.Refusing(status, "")}
	}
	for _, tt := range []struct {
		name   string
		opts   []wsproxy.Option
		isNew  bool // else the client has a cookie of a
		cookie string
		before func(s *scene)
		path   string
		want   wsproxy.AffinityCounts
	}{
		{name: "the first visit", isNew: true, want: wsproxy.AffinityCounts{New: 1}},
		{name: "the next one", want: wsproxy.AffinityCounts{Bound: 1}},
		{name: "with half of its time", before: func(*scene) { time.Sleep(13 * time.Hour) }, want: wsproxy.AffinityCounts{Bound: 1}},
		{name: "an expired cookie", before: func(*scene) { time.Sleep(25 * time.Hour) }, want: wsproxy.AffinityCounts{Invalid: 1}},
		{name: "a forged cookie", cookie: forged, want: wsproxy.AffinityCounts{Invalid: 1}},
		{name: "an empty cookie", cookie: "wsproxy=", want: wsproxy.AffinityCounts{Invalid: 1}},
		{name: "another cookie", isNew: true, cookie: "session=1", want: wsproxy.AffinityCounts{New: 1}},
		{name: "the backend drains", before: func(s *scene) { s.p.Drain(s.t.Context(), "a", 0) }, want: wsproxy.AffinityCounts{Rebound: 1}},
		{name: "the backend was removed", before: func(s *scene) { s.setBackends("bc") }, want: wsproxy.AffinityCounts{Rebound: 1}},
		{name: "the backend is found to be unreachable", before: func(s *scene) { s.set("a", unreachable) }, want: wsproxy.AffinityCounts{Rebound: 1}},
		{name: "the backend is known to be unreachable", before: func(s *scene) { s.set("a", unreachable); s.send(9, "/chat") }, want: wsproxy.AffinityCounts{New: 1, Rebound: 1}},
		{name: "the backend refuses", before: func(s *scene) { s.set("a", refusing(404)) }, want: wsproxy.AffinityCounts{Bound: 1}},
		{name: "the backend fails for it", before: func(s *scene) { s.set("a", refusing(500)) }, want: wsproxy.AffinityCounts{Bound: 1}},
		{name: "a backend fails for a new client", isNew: true, before: func(s *scene) { s.set("a", refusing(500)) }},
		{name: "no backend responds", before: func(s *scene) { s.set("abc", unreachable) }},
		{name: "a hook drops the first response", isNew: true, opts: []wsproxy.Option{dropA}, want: wsproxy.AffinityCounts{New: 1}},
		{name: "a hook refuses the client", isNew: true, opts: []wsproxy.Option{wsproxy.WithResponse(func(*wsproxy.ProxyResponse) error { return http.ErrNotSupported })}},
		{name: "a key", isNew: true, opts: []wsproxy.Option{byRoom}, path: "/chat?room=1", want: wsproxy.AffinityCounts{Bound: 1}},
		{name: "no key", isNew: true, opts: []wsproxy.Option{byRoom}},
		{name: "no backend for a key", isNew: true, opts: []wsproxy.Option{byRoom}, path: "/chat?room=1",
			before: func(s *scene) { s.set("abc", unreachable) }},
		{name: "plain", opts: []wsproxy.Option{withHTTP}, path: "plain", want: wsproxy.AffinityCounts{Bound: 1}},
		{name: "a new one, plain", isNew: true, opts: []wsproxy.Option{withHTTP}, path: "plain", want: wsproxy.AffinityCounts{New: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, append([]wsproxy.Option{byCookie, proxytest.FirstCandidate}, tt.opts...)...)
				for _, id := range []string{"a", "b", "c"} {
					s.network.Set(id, serving(id))
				}
				b := s.newBrowser(1)
				var visited wsproxy.AffinityCounts
				if !tt.isNew {
					b.wantVisit("a", true)
					visited = wsproxy.AffinityCounts{New: 1}
				}
				if tt.before != nil {
					tt.before(s)
				}
				if tt.cookie != "" {
					b.cookie = tt.cookie
				}
				if tt.path == "plain" {
					b.ask("GET", "/chat")
				} else {
					c, _ := b.send(cmp.Or(tt.path, "/chat"))
					c.Close()
				}
				synctest.Wait()
				tt.want.New += visited.New
				if got := s.p.Stats().Affinity; got != tt.want {
					t.Errorf("Stats().Affinity = %+v; want %+v", got, tt.want)
				}
			})
		})
	}
}

func TestStatsCountNoAffinityWithoutTheOption(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, backendsAt("a"))
		s.set("a", accepting)
		s.visit(1)
		if got := s.p.Stats().Affinity; got != (wsproxy.AffinityCounts{}) {
			t.Errorf("Stats().Affinity = %+v; want none", got)
		}
	})
}

func TestBackendStatsCountEjectionsByWhatFailed(t *testing.T) {
	for _, tt := range []struct {
		name                  string
		a                     proxytest.FakeBackend
		byResponses, byTunnel uint64
	}{
		{name: "responses", a: proxytest.FakeBackend{Answer: proxytest.Refusing(502, "")}, byResponses: 1},
		{name: "tunnels", a: losing, byTunnel: 1},
		{name: "unreachable", a: unreachable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, backendsAt("a"), wsproxy.WithEjection(wsproxy.Ejection{Failures: 3, Backoff: time.Minute}))
				s.set("a", tt.a)
				check := func(when string, n uint64) {
					t.Helper()
					if st := s.backend("a").Stats(); st.EjectedByResponses != n*tt.byResponses || st.EjectedByTunnels != n*tt.byTunnel {
						t.Errorf("%s the backend was ejected %d times by responses and %d times by tunnels; want %d and %d",
							when, st.EjectedByResponses, st.EjectedByTunnels, n*tt.byResponses, n*tt.byTunnel)
					}
				}
				for i := range 2 {
					s.send(i, "/chat")
				}
				check("after two failures", 0)
				for i := range 5 {
					s.send(2+i, "/chat")
				}
				check("after seven", 1)
				time.Sleep(time.Minute) // more than what it is ejected for
				s.send(8, "/chat")
				check("after one more, when the time is over,", 2)
			})
		})
	}
}

func TestBackendStatsCountProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var isDown atomic.Bool
		s := newScene(t, backendsAt("a"), wsproxy.WithHealthCheck(wsproxy.HealthCheck{
			Interval: 10 * time.Second, Fall: 3,
			Probe: func(context.Context, *wsproxy.Backend) error {
				if isDown.Load() {
					return errors.New("down")
				}
				return nil
			},
		}))
		want := func(passed, failed uint64, last wsproxy.ProbeResult) {
			t.Helper()
			synctest.Wait()
			if st := s.backend("a").Stats(); st.ProbesPassed != passed || st.ProbesFailed != failed || st.LastProbe != last {
				t.Errorf("at %v %d probes have passed, %d have failed, the last one %v; want %d, %d, %v",
					time.Since(s.start), st.ProbesPassed, st.ProbesFailed, st.LastProbe, passed, failed, last)
			}
		}
		want(0, 0, wsproxy.ProbeNone)
		time.Sleep(5 * time.Second)
		want(1, 0, wsproxy.ProbePassed)
		isDown.Store(true)
		time.Sleep(12 * time.Second)
		want(1, 1, wsproxy.ProbeFailed)
		if state := s.backend("a").State(); state != wsproxy.BackendUp {
			t.Errorf("after one probe that has failed the backend is %v; want up", state)
		}
		s.p.SetBackends(wsproxy.BackendConfig{ID: "a", URL: "http://b"})
		want(1, 1, wsproxy.ProbeNone)
		isDown.Store(false)
		time.Sleep(5 * time.Second)
		want(2, 1, wsproxy.ProbePassed)
	})
}

func TestProbeResultHasAName(t *testing.T) {
	for r, want := range map[wsproxy.ProbeResult]string{
		wsproxy.ProbeNone: "none", wsproxy.ProbePassed: "passed", wsproxy.ProbeFailed: "failed", 3: "ProbeResult(3)",
	} {
		if got := r.String(); got != want {
			t.Errorf("ProbeResult %d is called %q; want %q", uint8(r), got, want)
		}
	}
}

func TestBackendStatsCountDrainsByHowTheyEnd(t *testing.T) {
	for _, tt := range []struct {
		name  string
		drain func(s *scene)
		want  wsproxy.DrainCounts
	}{
		{"emptied", func(s *scene) { s.p.Drain(s.t.Context(), "a", time.Minute) }, wsproxy.DrainCounts{Emptied: 1}},
		{"its context ends", func(s *scene) {
			ctx, cancel := context.WithTimeout(s.t.Context(), time.Second)
			defer cancel()
			s.p.Drain(ctx, "a", time.Hour)
		}, wsproxy.DrainCounts{Left: 1}},
		{"shutdown", func(s *scene) { s.startDrain(s.t.Context(), "a", time.Hour); s.p.Close() }, wsproxy.DrainCounts{Left: 1}},
		{"resumed", func(s *scene) { s.startDrain(s.t.Context(), "a", time.Hour); s.p.Resume("a") }, wsproxy.DrainCounts{Resumed: 1}},
		{"two at once", func(s *scene) {
			s.startDrain(s.t.Context(), "a", time.Hour)
			s.p.Drain(s.t.Context(), "a", time.Minute)
		}, wsproxy.DrainCounts{Emptied: 1, Superseded: 1}},
		{"two at once, resumed", func(s *scene) {
			s.startDrain(s.t.Context(), "a", time.Hour)
			s.startDrain(s.t.Context(), "a", time.Hour)
			s.p.Resume("a")
		}, wsproxy.DrainCounts{Resumed: 1, Superseded: 1}},
		{"one after the other", func(s *scene) {
			s.p.Drain(s.t.Context(), "a", time.Minute)
			s.p.Drain(s.t.Context(), "a", time.Minute)
		}, wsproxy.DrainCounts{Emptied: 2}},
		{"under way", func(s *scene) { s.startDrain(s.t.Context(), "a", time.Hour) }, wsproxy.DrainCounts{}},
		{"no such backend", func(s *scene) { s.p.Drain(s.t.Context(), "z", 0) }, wsproxy.DrainCounts{}},
		{"by its configuration", func(s *scene) { s.setBackends("Abc"); time.Sleep(time.Minute) }, wsproxy.DrainCounts{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := newCrowdedScene(t, 9)
				a := s.backend("a")
				tt.drain(s)
				synctest.Wait()
				if got := a.Stats().Drains; got != tt.want {
					t.Errorf("Stats().Drains = %+v; want %+v", got, tt.want)
				}
			})
		})
	}
}

// What is counted never goes down, whoever reads it meanwhile.
func TestCountersNeverGoDown(t *testing.T) {
	const numClients, numVisits = 4, 60
	network := proxytest.NewNetwork()
	network.Set("a", proxytest.FakeBackend{Choose: func(r *http.Request) proxytest.FakeBackend {
		status, refuses := map[string]int{"0": 502, "1": 404, "2": 200}[r.Header.Get("X-Case")]
		if !refuses {
			return serving("a").Choose(r)
		}
		return proxytest.FakeBackend{Answer: proxytest.Refusing(status, "", "Connection: close") + "{end}"}
	}})
	network.Set("b", serving("b"))
	p, site := proxytest.Start(t, backendsAt("a", "b"), wsproxy.WithDialer(network.Dial), withHTTP, byCookie,
		wsproxy.WithEjection(wsproxy.Ejection{Failures: 1, Backoff: time.Millisecond}),
		wsproxy.WithTrace(&wsproxy.Trace{Closed: func(wsproxy.TunnelEnd) { panic("boom") }}))

	var visiting, watching sync.WaitGroup
	stop := make(chan struct{})
	watching.Go(func() { // ends with stop, or with a counter that goes down
		last := make(map[string]uint64)
		for !isStopped(stop) {
			s := p.Stats()
			if total(s) != s.Refused+s.Failed || s.RefusedUnpicked > s.Refused || s.FailedUnpicked > s.Failed {
				t.Errorf("Stats() = %+v; want refusals that agree", s)
				return
			}
			now := make(map[string]uint64)
			addCounters(now, "proxy", reflect.ValueOf(s))
			for _, b := range p.Backends() {
				addCounters(now, b.ID(), reflect.ValueOf(b.Stats()))
			}
			for name, n := range last {
				if now[name] < n {
					t.Errorf("%s = %d after %d", name, now[name], n)
					return
				}
			}
			last = now
		}
	})
	for i := range numClients {
		visiting.Go(func() { // ends after all visits
			for j := range numVisits {
				c := wstest.Dial(t, site.URL)
				sort := fmt.Sprint("X-Case: ", (i+j)%5)
				if j%7 == 0 {
					c.Write([]byte(proxytest.Head("GET / HTTP/1.1", "Host: a", "Connection: close", sort)))
				} else {
					c.Write([]byte(proxytest.UpgradeTo("/chat", sort)))
				}
				c.Read(make([]byte, 1)) // its response has begun
				c.Close()
				if j%20 == 0 {
					p.Drain(t.Context(), "b", -1)
					p.Resume("b")
				}
			}
		})
	}
	visiting.Wait()
	site.Wait()
	close(stop)
	watching.Wait()
	s := p.Stats()
	if n := s.Opened + s.Refused + s.Failed + s.Responded; n != numClients*numVisits {
		t.Errorf("Stats() has %d opened, %d refused, %d failed, %d responded; want %d in all", s.Opened, s.Refused, s.Failed, s.Responded, numClients*numVisits)
	}
	var ended, codes, lived uint64
	for _, e := range s.Ended {
		ended += e.Count
	}
	for _, c := range s.CloseCodes {
		codes += c.Count
	}
	for _, l := range s.LifetimesByEnd {
		lived += l.Lifetimes.Count
	}
	if ended != s.Opened || codes != s.Opened || lived != s.Opened || panicsOf(p) != fmt.Sprint("Trace.Closed ", s.Opened) {
		t.Errorf("%d tunnels have opened, %d have ended, %d by code, %d by lifetime, and of the hook %s; want the same of each", s.Opened, ended, codes, lived, panicsOf(p))
	}
	a, b := p.Backends()[0].Stats(), p.Backends()[1].Stats()
	if a.Opened+b.Opened != s.Opened || a.UpgradesRefused+b.UpgradesRefused+s.RefusedUnpicked+a.UpgradesFailed+b.UpgradesFailed+s.FailedUnpicked != s.Refused+s.Failed {
		t.Errorf("backends have opened %d and %d, refused %d and %d, failed %d and %d; want, with %d and %d without one, %d opened, %d refused, %d failed",
			a.Opened, b.Opened, a.UpgradesRefused, b.UpgradesRefused, a.UpgradesFailed, b.UpgradesFailed, s.RefusedUnpicked, s.FailedUnpicked, s.Opened, s.Refused, s.Failed)
	}
}

func isStopped(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

// addCounters adds the counters of v, a struct, by their names. An element of a list is named by
// its other fields.
func addCounters(all map[string]uint64, name string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Uint64:
		all[name] = v.Uint()
	case reflect.Array, reflect.Slice:
		for i := range v.Len() {
			e, label := v.Index(i), fmt.Sprint(i)
			if e.Kind() == reflect.Struct {
				label = ""
				for f := range e.NumField() {
					if k := e.Field(f).Kind(); k != reflect.Uint64 && k != reflect.Struct {
						label += fmt.Sprint(" ", e.Field(f))
					}
				}
			}
			addCounters(all, name+" "+label, e)
		}
	case reflect.Struct:
		for f := range v.NumField() {
			addCounters(all, name+"."+v.Type().Field(f).Name, v.Field(f))
		}
	}
}
