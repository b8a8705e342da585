package wsproxy_test

import (
	"fmt"
	"net/http"
	"strings"
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
