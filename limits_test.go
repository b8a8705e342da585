package wsproxy_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// startLimited serves, in memory, a proxy with those limits and one backend, and returns
// where refusals are reported.
func startLimited(t *testing.T, l wsproxy.Limits, opts ...wsproxy.Option) (*wsproxy.Proxy, *proxytest.Site, chan wsproxy.RefusedInfo) {
	t.Helper()
	told := make(chan wsproxy.RefusedInfo, 1000)
	network := proxytest.NewNetwork()
	network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
	opts = append([]wsproxy.Option{
		wsproxy.WithBackends("http://a"), wsproxy.WithDialer(network.Dial), wsproxy.WithLimits(l),
		wsproxy.WithTrace(&wsproxy.Trace{Refused: func(i wsproxy.RefusedInfo) { told <- i }}),
	}, opts...)
	p := proxytest.NewProxy(t, opts...)
	return p, proxytest.ServeInMemory(t, p), told
}

// upgrade opens a tunnel for a user, or returns nil and the status of the refusal.
func upgrade(t *testing.T, s *proxytest.Site, user string) (*wstest.Peer, *http.Response) {
	t.Helper()
	client := s.Dial(t)
	client.WriteRequest(proxytest.UpgradeTo("/chat", "X-User: "+user))
	resp := client.ReadResponse()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		client.Close()
		return nil, resp
	}
	return client, resp
}

func wantLimited(t *testing.T, resp *http.Response, status int, told <-chan wsproxy.RefusedInfo, reason wsproxy.Reason, field string) {
	t.Helper()
	proxytest.WantStatus(t, resp, status)
	if resp.Header.Get("Retry-After") == "" {
		t.Error("response has no Retry-After")
	}
	i := <-told
	if i.Reason != reason || !errors.Is(i.Err, wsproxy.ErrLimit) || !strings.Contains(i.Err.Error(), "Limits."+field) || i.Status != status {
		t.Errorf("Trace.Refused saw %v, status %d, %v; want %v, %d, and Limits.%s named", i.Reason, i.Status, i.Err, reason, status, field)
	}
}

func TestTunnelsAreBoundedInAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s, told := startLimited(t, wsproxy.Limits{Tunnels: 3})
		var clients []*wstest.Peer
		for i := range 3 {
			c, _ := upgrade(t, s, fmt.Sprint(i))
			clients = append(clients, c)
		}
		_, resp := upgrade(t, s, "late")
		wantLimited(t, resp, http.StatusServiceUnavailable, told, wsproxy.ReasonLimit, "Tunnels")
		proxytest.HangUp(t, clients[0])
		synctest.Wait()
		c, _ := upgrade(t, s, "late")
		if c == nil {
			t.Fatal("a place that is free again is not given to the next client")
		}
		for _, c := range append(clients[1:], c) {
			proxytest.HangUp(t, c)
		}
		synctest.Wait()
		proxytest.WantNoTunnels(t, p)
	})
}

func TestTunnelsOfOneClientAreBounded(t *testing.T) {
	for name, l := range map[string]wsproxy.Limits{
		"by a key":         {PerClient: 2, ClientKey: wsproxy.ByHeader("X-User")},
		"beside the total": {PerClient: 2, Tunnels: 100, ClientKey: wsproxy.ByHeader("X-User")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, s, told := startLimited(t, l)
				first, _ := upgrade(t, s, "ann")
				second, _ := upgrade(t, s, "ann")
				_, resp := upgrade(t, s, "ann")
				wantLimited(t, resp, http.StatusTooManyRequests, told, wsproxy.ReasonClientLimit, "PerClient")
				other, _ := upgrade(t, s, "bob")
				if other == nil {
					t.Fatal("one client's limit bounds another one")
				}
				proxytest.HangUp(t, first)
				synctest.Wait()
				third, _ := upgrade(t, s, "ann")
				if third == nil {
					t.Fatal("a client whose tunnel has ended gets no other one")
				}
				for _, c := range []*wstest.Peer{second, other, third} {
					proxytest.HangUp(t, c)
				}
			})
		})
	}
}

func TestClientWithoutKeyIsNotBoundedAsAClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := wsproxy.Limits{PerClient: 1, HandshakesPerClient: wsproxy.Rate{PerSecond: 0.001}, ClientKey: wsproxy.ByHeader("X-Nothing")}
		_, s, _ := startLimited(t, l)
		for range 5 {
			c, resp := upgrade(t, s, "")
			if c == nil {
				t.Fatalf("client without a key got %d", resp.StatusCode)
			}
			defer proxytest.HangUp(t, c)
		}
	})
}

func TestClientsAreToldApartByAddress(t *testing.T) {
	_, s := proxytest.Start(t, wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithTrustedProxies("127.0.0.1"),
		wsproxy.WithLimits(wsproxy.Limits{PerClient: 1}))
	from := func(addr string) string { return proxytest.UpgradeTo("/chat", "X-Forwarded-For: "+addr) }
	proxytest.Open(t, s.URL, from("192.0.2.1"))
	resp, _ := proxytest.Exchange(t, s.URL, from("192.0.2.1"))
	proxytest.WantStatus(t, resp, http.StatusTooManyRequests)
	proxytest.Open(t, s.URL, from("192.0.2.2"))
}

func TestHandshakesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, told := startLimited(t, wsproxy.Limits{Handshakes: wsproxy.Rate{PerSecond: 2, Burst: 3}})
		wave := func(want int) {
			t.Helper()
			got := 0
			for range want + 5 {
				if c, _ := upgrade(t, s, "x"); c != nil {
					got++
					proxytest.HangUp(t, c)
				} else if i := <-told; i.Reason != wsproxy.ReasonRate || i.Status != http.StatusServiceUnavailable {
					t.Errorf("Trace.Refused saw %v, %d", i.Reason, i.Status)
				}
			}
			if got != want {
				t.Errorf("%d upgrades were let in; want %d", got, want)
			}
		}
		wave(3)
		time.Sleep(time.Second)
		wave(2)
		time.Sleep(time.Minute)
		wave(3)
	})
}

// A client that is over its own rate leaves the others theirs, and asks nothing of Admit.
func TestHandshakesOfOneClientTakeNothingFromOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		admitted := 0
		l := wsproxy.Limits{
			HandshakesPerClient: wsproxy.Rate{PerSecond: 1, Burst: 2}, Handshakes: wsproxy.Rate{PerSecond: 0.001, Burst: 4},
			ClientKey: wsproxy.ByHeader("X-User"),
		}
		_, s, told := startLimited(t, l, wsproxy.WithAdmit(func(*http.Request) (any, error) { admitted++; return nil, nil }))
		for range 100 {
			if c, resp := upgrade(t, s, "loop"); c != nil {
				defer proxytest.HangUp(t, c)
			} else {
				wantLimited(t, resp, http.StatusTooManyRequests, told, wsproxy.ReasonRate, "HandshakesPerClient")
			}
		}
		for range 2 {
			c, resp := upgrade(t, s, "patient")
			if c == nil {
				t.Fatalf("the other client got %d", resp.StatusCode)
			}
			defer proxytest.HangUp(t, c)
		}
		if admitted != 4 {
			t.Errorf("the Admit hook was called %d times; want 4", admitted)
		}
	})
}

func TestCallsOfAdmitAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		_, s, told := startLimited(t, wsproxy.Limits{Admitting: 2}, wsproxy.WithAdmit(func(*http.Request) (any, error) { <-release; return nil, nil }))
		var waiting []*wstest.Peer
		for range 2 {
			c := s.Dial(t)
			c.WriteRequest(proxytest.UpgradeTo("/chat"))
			waiting = append(waiting, c)
		}
		synctest.Wait()
		_, resp := upgrade(t, s, "third")
		wantLimited(t, resp, http.StatusServiceUnavailable, told, wsproxy.ReasonLimit, "Admitting")
		close(release)
		for _, c := range waiting {
			proxytest.WantSwitch(t, c)
			proxytest.HangUp(t, c)
		}
		c, _ := upgrade(t, s, "fourth")
		if c == nil {
			t.Fatal("nobody is admitted after the hook has returned")
		}
		proxytest.HangUp(t, c)
	})
}

// An upgrade that fails after it was let in gives its place back, however it fails.
func TestPlaceOfAnUpgradeThatFailsIsFreeAgain(t *testing.T) {
	var fail func(r *http.Request) error
	hook := func(r *wsproxy.ProxyRequest) error { return fail(r.In) }
	for name, f := range map[string]func(*http.Request) error{
		"error":   func(*http.Request) error { return errors.New("no") },
		"panic":   func(*http.Request) error { panic("no") },
		"aborted": func(*http.Request) error { panic(http.ErrAbortHandler) },
		"left":    func(*http.Request) error { return context.Canceled },
	} {
		t.Run(name, func(t *testing.T) {
			fail = f
			_, s := proxytest.Start(t, wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithRewrite(hook),
				wsproxy.WithLimits(wsproxy.Limits{Tunnels: 1, PerClient: 1}))
			for range 3 {
				client := wstest.Dial(t, s.URL)
				client.WriteRequest(proxytest.UpgradeTo("/chat"))
				client.Peek()
				client.Close()
				s.Wait()
			}
			fail = func(*http.Request) error { return nil }
			client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
			proxytest.HangUp(t, client)
			s.Wait()
			client, _ = proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
			proxytest.HangUp(t, client)
		})
	}
}

func TestPanicInClientKeyEndsOneUpgrade(t *testing.T) {
	told := make(chan wsproxy.RefusedInfo, 1)
	_, s := proxytest.Start(t, wsproxy.WithBackends(wstest.StartEcho(t)),
		wsproxy.WithLimits(wsproxy.Limits{PerClient: 1, ClientKey: func(*http.Request) string { panic("x") }}),
		wsproxy.WithTrace(&wsproxy.Trace{Refused: func(i wsproxy.RefusedInfo) { told <- i }}))
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantStatus(t, resp, http.StatusInternalServerError)
	if i := <-told; i.Reason != wsproxy.ReasonHook {
		t.Errorf("Trace.Refused saw %v; want hook", i.Reason)
	}
}

func TestLimitsThatAreNotPositiveBoundNothing(t *testing.T) {
	for _, l := range []wsproxy.Limits{
		{},
		{Tunnels: -1, PerClient: -1, Admitting: -1, Handshakes: wsproxy.Rate{PerSecond: -1, Burst: 1}, HandshakesPerClient: wsproxy.Rate{Burst: 1}},
	} {
		synctest.Test(t, func(t *testing.T) {
			_, s, _ := startLimited(t, l, wsproxy.WithAdmit(func(*http.Request) (any, error) { return nil, nil }))
			for range 20 {
				c, resp := upgrade(t, s, "x")
				if c == nil {
					t.Fatalf("limits %+v: client got %d", l, resp.StatusCode)
				}
				defer proxytest.HangUp(t, c)
			}
		})
	}
}

func TestTunnelHoldsItsPlaceUntilItsEnd(t *testing.T) {
	proxytest.ForEachWay(t, func(t *testing.T, way wsproxy.Option) {
		p, s := proxytest.Start(t, way, wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithLimits(wsproxy.Limits{Tunnels: 1, PerClient: 1}))
		for range 3 {
			client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
			resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
			proxytest.WantStatus(t, resp, http.StatusTooManyRequests)
			proxytest.HangUp(t, client)
			if !proxytest.Becomes(func() bool { return p.Stats().Tunnels == 0 }) {
				t.Fatal("the tunnel does not end")
			}
		}
	})
}
