package wsproxy_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestTraceAndLogUseSameID(t *testing.T) {
	opened, closed := make(chan uint64, 2), make(chan uint64, 2)
	book := new(proxytest.LogBook)
	_, s := proxytest.Start(t, wsproxy.WithBackends(wstest.StartEcho(t)), book.Option(), wsproxy.WithTrace(&wsproxy.Trace{
		Opened: func(i wsproxy.OpenedInfo) { opened <- i.Tunnel.ID() },
		Closed: func(e wsproxy.TunnelEnd) { closed <- e.ID },
	}))
	for want := range uint64(2) {
		client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
		proxytest.HangUp(t, client)
		if a, b := <-opened, <-closed; a != want+1 || b != want+1 {
			t.Errorf("Opened saw tunnel %d, Closed tunnel %d; want %d", a, b, want+1)
		}
	}
	for _, event := range []string{"tunnel opened", "tunnel closed"} {
		for id := range 2 {
			if got := book.Lines(event, fmt.Sprintf("tunnel=%d ", id+1)); len(got) != 1 {
				t.Errorf("%q of tunnel %d has %d log lines; want 1", event, id+1, len(got))
			}
		}
	}
}

func TestTraceGetsSnapshotOfRequest(t *testing.T) {
	infos := make(chan wsproxy.TunnelInfo, 2)
	ends := make(chan wsproxy.TunnelEnd, 1)
	var kept *http.Request
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithTrace(&wsproxy.Trace{
		Opened: func(i wsproxy.OpenedInfo) {
			kept.URL.Path = "/changed" // as a router that reuses what hangs on a request
			infos <- i.Tunnel.Info()
		},
		Closed: func(e wsproxy.TunnelEnd) { ends <- e },
	}))
	s := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kept = r
		p.ServeHTTP(w, r)
	}))
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/room?x=1"))
	proxytest.HangUp(t, client)
	end := <-ends
	for _, i := range []wsproxy.TunnelInfo{<-infos, end.TunnelInfo} {
		if i.Method != "GET" || i.Host != "chat.example" || i.URL.String() != "/room?x=1" {
			t.Errorf("hook saw %s %s %s; want the request as it came", i.Method, i.Host, i.URL)
		}
		if i.RemoteAddr == "" || i.LocalAddr != strings.TrimPrefix(s.URL, "http://") || i.ClientAddr.String() != "127.0.0.1" {
			t.Errorf("hook saw addresses %q, %q, %v", i.RemoteAddr, i.LocalAddr, i.ClientAddr)
		}
	}
}

func TestTraceCallsClosedOnceForEachOpened(t *testing.T) {
	var log []string
	events := make(chan string, 10)
	_, s := proxytest.Start(t, wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithTrace(&wsproxy.Trace{
		Picked:    func(i wsproxy.PickedInfo) { events <- fmt.Sprintf("picked %d of %d", i.Attempt, i.Candidates) },
		Attempted: func(i wsproxy.AttemptInfo) { events <- fmt.Sprintf("attempted %d: %v", i.Status, i.Err) },
		Opened:    func(wsproxy.OpenedInfo) { events <- "opened" },
		Closed:    func(wsproxy.TunnelEnd) { events <- "closed" },
	}))
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
	proxytest.HangUp(t, client)
	for range 4 {
		log = append(log, <-events)
	}
	if got, want := strings.Join(log, ", "), "picked 1 of 1, attempted 101: <nil>, opened, closed"; got != want {
		t.Errorf("hooks were called: %s; want %s", got, want)
	}
	s.Wait()
	select {
	case e := <-events:
		t.Errorf("one more hook was called: %s", e)
	default:
	}
}

func TestTraceAllCallsHooksInOrder(t *testing.T) {
	var calls []string
	record := func(name string) *wsproxy.Trace {
		return &wsproxy.Trace{
			Picked:    func(i wsproxy.PickedInfo) { calls = append(calls, fmt.Sprintf("%s picked %d", name, i.Attempt)) },
			Attempted: func(i wsproxy.AttemptInfo) { calls = append(calls, fmt.Sprintf("%s attempted %d", name, i.Attempt)) },
			Health:    func(i wsproxy.HealthInfo) { calls = append(calls, fmt.Sprintf("%s health %t", name, i.Raised)) },
			Refused:   func(i wsproxy.RefusedInfo) { calls = append(calls, fmt.Sprintf("%s refused %s", name, i.RequestID)) },
			Opened:    func(i wsproxy.OpenedInfo) { calls = append(calls, fmt.Sprintf("%s opened %t", name, i.Tunnel == nil)) },
			Closed:    func(e wsproxy.TunnelEnd) { calls = append(calls, fmt.Sprintf("%s closed %d", name, e.ID)) },
		}
	}
	all := wsproxy.TraceAll(record("a"), nil, &wsproxy.Trace{}, wsproxy.TraceAll(record("b"), record("c")))
	for _, tt := range []struct {
		call func()
		want string
	}{
		{func() { all.Picked(wsproxy.PickedInfo{Attempt: 1}) }, "picked 1"},
		{func() { all.Attempted(wsproxy.AttemptInfo{Attempt: 2}) }, "attempted 2"},
		{func() { all.Health(wsproxy.HealthInfo{Raised: true}) }, "health true"},
		{func() { all.Refused(wsproxy.RefusedInfo{RequestID: "x"}) }, "refused x"},
		{func() { all.Opened(wsproxy.OpenedInfo{}) }, "opened true"},
		{func() { all.Closed(wsproxy.TunnelEnd{TunnelInfo: wsproxy.TunnelInfo{ID: 3}}) }, "closed 3"},
	} {
		calls = nil
		tt.call()
		if want := []string{"a " + tt.want, "b " + tt.want, "c " + tt.want}; !slices.Equal(calls, want) {
			t.Errorf("hooks were called: %q; want %q", calls, want)
		}
	}
}

func TestTraceAllHasNoHookThatNoTraceHas(t *testing.T) {
	for _, all := range []*wsproxy.Trace{wsproxy.TraceAll(), wsproxy.TraceAll(nil, &wsproxy.Trace{})} {
		if all.Picked != nil || all.Attempted != nil || all.Health != nil || all.Refused != nil || all.Opened != nil || all.Closed != nil {
			t.Errorf("TraceAll() without a hook = %+v; want nil hooks", all)
		}
	}
}

func TestTraceAllCallsHooksBehindOneThatPanics(t *testing.T) {
	for _, tt := range []struct {
		name  string
		hooks string // each is ".", "p" which panics, or "x" which ends its goroutine
		want  any    // what the caller recovers
	}{
		{"first", "p..", 0}, {"last", "..p", 2}, {"two", ".pp.", 1}, {"all", "ppp", 0}, {"none", "...", nil},
		{"end of the goroutine", "x..", nil}, {"end and a panic", "x.p", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var called []int
			var traces []*wsproxy.Trace
			for i, kind := range tt.hooks {
				traces = append(traces, &wsproxy.Trace{Closed: func(wsproxy.TunnelEnd) {
					called = append(called, i)
					switch kind {
					case 'p':
						panic(i)
					case 'x':
						runtime.Goexit()
					}
				}})
			}
			var got any
			var ended sync.WaitGroup
			ended.Go(func() {
				defer func() { got = recover() }()
				wsproxy.TraceAll(traces...).Closed(wsproxy.TunnelEnd{})
			})
			ended.Wait()
			if got != tt.want || len(called) != len(tt.hooks) {
				t.Errorf("caller recovered %v, and hooks %v were called; want %v, and all %d", got, called, tt.want, len(tt.hooks))
			}
		})
	}
}

func TestObserveAddsHooksUntilStop(t *testing.T) {
	var first, later []string
	record := func(to *[]string) *wsproxy.Trace {
		return &wsproxy.Trace{
			Opened: func(i wsproxy.OpenedInfo) { *to = append(*to, fmt.Sprint("opened ", i.Tunnel.ID())) },
			Closed: func(e wsproxy.TunnelEnd) { *to = append(*to, fmt.Sprint("closed ", e.ID)) },
			Refused: func(i wsproxy.RefusedInfo) {
				*to = append(*to, fmt.Sprint("refused ", i.Reason, " ", wsproxy.RequestID(i.Request) == i.RequestID))
			},
		}
	}
	opened := make(chan bool, 3)
	signal := &wsproxy.Trace{Opened: func(wsproxy.OpenedInfo) { opened <- true }}
	p, s := proxytest.Start(t, wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithTrace(wsproxy.TraceAll(record(&first), signal)))
	hangUp := func(client *wstest.Peer) {
		proxytest.HangUp(t, client)
		s.Wait()
	}
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
	<-opened // after the 101
	stop := p.Observe(record(&later))
	stopSecond := p.Observe(record(&later))
	stopSecond()
	stopSecond() // does nothing, as does stop of no trace
	p.Observe(nil)()
	hangUp(client)
	client, _ = proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
	hangUp(client)
	proxytest.Exchange(t, s.URL, proxytest.Head("GET / HTTP/1.1", "Host: a"))
	s.Wait()
	stop()
	client, _ = proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
	hangUp(client)

	if want := []string{"opened 1", "closed 1", "opened 2", "closed 2", "refused check true", "opened 3", "closed 3"}; !slices.Equal(first, want) {
		t.Errorf("hooks of WithTrace saw %q; want %q", first, want)
	}
	if want := []string{"closed 1", "opened 2", "closed 2", "refused check true"}; !slices.Equal(later, want) {
		t.Errorf("hooks of Observe saw %q; want %q", later, want)
	}
}

// Without other hooks the request of an upgrade that began before has no ID; the info has it.
func TestObserverFindsTheIDOfAnUpgradeThatBeganBefore(t *testing.T) {
	network := proxytest.NewNetwork()
	network.Set("a", proxytest.FakeBackend{Answer: proxytest.Refusing(403, "")})
	dialing, goOn := make(chan bool), make(chan bool)
	p, s := proxytest.Start(t, wsproxy.WithBackends("http://a"), wsproxy.WithDialer(func(ctx context.Context, kind, addr string) (net.Conn, error) {
		dialing <- true
		<-goOn
		return network.Dial(ctx, kind, addr)
	}))
	var got []string
	for range 2 {
		client := wstest.Dial(t, s.URL)
		client.WriteRequest(proxytest.UpgradeTo("/"))
		<-dialing
		if got == nil {
			p.Observe(&wsproxy.Trace{Refused: func(i wsproxy.RefusedInfo) {
				got = append(got, fmt.Sprintf("%t %t", i.RequestID != "", wsproxy.RequestID(i.Request) == i.RequestID))
			}})
		}
		goOn <- true
		proxytest.WantStatus(t, client.ReadResponse(), http.StatusForbidden)
		s.Wait()
	}
	if want := []string{"true false", "true true"}; !slices.Equal(got, want) {
		t.Errorf("hooks had an ID, and found the same with RequestID: %q; want %q", got, want)
	}
}

func TestObserverThatPanicsKeepsNoOtherFromBeingCalled(t *testing.T) {
	for _, event := range []string{"Picked", "Attempted", "Opened", "Closed"} {
		t.Run(event, func(t *testing.T) {
			var log proxytest.LogBook
			var before, behind atomic.Int64
			count := func(n *atomic.Int64) *wsproxy.Trace { return traceOf(event, func() { n.Add(1) }) }
			p, s := proxytest.Start(t, log.Option(), wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithTrace(count(&before)))
			p.Observe(traceOf(event, func() { panic("first") }))
			p.Observe(traceOf(event, func() { panic("second") }))
			p.Observe(count(&behind))
			client := wstest.Dial(t, s.URL)
			client.WriteRequest(proxytest.UpgradeTo("/"))
			switch event {
			case "Opened":
				proxytest.WantSwitch(t, client)
				client.WantClose(1011)
				client.Close()
			case "Closed":
				proxytest.WantSwitch(t, client)
				proxytest.HangUp(t, client)
			default:
				proxytest.WantStatus(t, client.ReadResponse(), http.StatusInternalServerError)
			}
			s.Wait()
			if before.Load() != 1 || behind.Load() != 1 {
				t.Errorf("%s was called %d times before the hooks that panic, %d times behind them; want once each", event, before.Load(), behind.Load())
			}
			for _, value := range []string{"panic=first", "panic=second"} {
				if n := len(log.Lines("panic in a hook", "hook=Trace."+event, value)); n != 1 {
					t.Errorf("log has %d lines with %s; want 1", n, value)
				}
			}
			proxytest.WantNoTunnels(t, p)
		})
	}
}

// traceOf returns a Trace with one hook, which calls f.
func traceOf(event string, f func()) *wsproxy.Trace {
	switch event {
	case "Picked":
		return &wsproxy.Trace{Picked: func(wsproxy.PickedInfo) { f() }}
	case "Attempted":
		return &wsproxy.Trace{Attempted: func(wsproxy.AttemptInfo) { f() }}
	case "Opened":
		return &wsproxy.Trace{Opened: func(wsproxy.OpenedInfo) { f() }}
	case "Closed":
		return &wsproxy.Trace{Closed: func(wsproxy.TunnelEnd) { f() }}
	}
	panic("BUG: no such hook")
}

// Observers come and go, also in a hook, while tunnels open and close.
func TestObserveUnderLoad(t *testing.T) {
	const clients, visits = 4, 25
	var opened, closed, inHooks atomic.Int64
	p, s := proxytest.Start(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	stop := p.Observe(&wsproxy.Trace{
		Opened: func(wsproxy.OpenedInfo) {
			opened.Add(1)
			p.Observe(&wsproxy.Trace{Closed: func(wsproxy.TunnelEnd) { inHooks.Add(1) }})()
		},
		Closed: func(wsproxy.TunnelEnd) { closed.Add(1) },
	})
	var visiting, observing sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		observing.Go(func() { // ends with done
			for {
				select {
				case <-done:
					return
				default:
					p.Observe(&wsproxy.Trace{Opened: func(wsproxy.OpenedInfo) { inHooks.Add(1) }})()
				}
			}
		})
	}
	for range clients {
		visiting.Go(func() { // ends after all visits
			for range visits {
				client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
				proxytest.HangUp(t, client)
			}
		})
	}
	visiting.Wait()
	s.Wait()
	close(done)
	observing.Wait()
	stop()
	if n := int64(clients * visits); opened.Load() != n || closed.Load() != n {
		t.Errorf("an observer that stayed saw %d tunnels open, %d close; want %d", opened.Load(), closed.Load(), n)
	}
	if h := p.Stats(); h.Opened != clients*visits {
		t.Errorf("Stats().Opened = %d; want %d", h.Opened, clients*visits)
	}
}
