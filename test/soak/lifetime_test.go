package soak_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/netutil"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/leaktest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
	"github.com/wsproxy/wsproxy/wsproxytest/memnet"
)

func TestTunnelOutlivesTimeoutsOfServer(t *testing.T) {
	t.Parallel() // two real seconds
	base, cancelBase := context.WithCancel(context.Background())
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		p.ServeHTTP(w, r.WithContext(ctx))
	})
	s := proxytest.Serve(t, h, func(srv *http.Server) {
		srv.ReadTimeout, srv.ReadHeaderTimeout = time.Second, time.Second
		srv.WriteTimeout, srv.IdleTimeout = time.Second, time.Second
		srv.BaseContext = func(net.Listener) context.Context { return base }
	})
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantEcho(t, client)
	cancelBase()
	proxytest.WantEcho(t, client)
	<-time.After(2 * time.Second) // nothing tells that a timeout has not struck
	proxytest.WantEcho(t, client)
	proxytest.HangUp(t, client)
	s.Wait()
	proxytest.WantNoTunnels(t, p)
}

func TestTunnelEndFreesLimitListener(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	srv := httptest.NewUnstartedServer(p)
	srv.Listener = netutil.LimitListener(srv.Listener, 2)
	srv.Start()
	t.Cleanup(srv.Close)

	first, _ := proxytest.Open(t, srv.URL, proxytest.UpgradeTo("/chat"))
	second, _ := proxytest.Open(t, srv.URL, proxytest.UpgradeTo("/chat"))
	third := wstest.Dial(t, srv.URL) // waits in the kernel's queue
	third.WriteRequest(proxytest.UpgradeTo("/chat"))
	proxytest.WantEcho(t, first)
	proxytest.WantEcho(t, second)
	if n := p.Stats().Tunnels; n != 2 {
		t.Errorf("Stats() has %d tunnels; want 2", n)
	}
	first.Send(wstest.Close(1000, ""))
	first.WantClose(1000)
	first.Close()
	proxytest.WantSwitch(t, third)
	proxytest.WantEcho(t, third)
	proxytest.WantEcho(t, second)
}

func TestVanishedClientLeavesNothing(t *testing.T) {
	vanish := map[string]func(*wstest.Peer){"close": (*wstest.Peer).Close, "reset": (*wstest.Peer).Reset}
	for name, vanish := range vanish {
		t.Run("before the dial/"+name, func(t *testing.T) {
			leaktest.Check(t)
			picked, gone := make(chan context.Context), make(chan bool)
			backend := wstest.StartRaw(t, proxytest.Switching)
			p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), wsproxy.WithTrace(&wsproxy.Trace{
				Picked: func(i wsproxy.PickedInfo) { picked <- i.Request.Context(); <-gone }}))
			client := wstest.Dial(t, s.URL)
			client.WriteRequest(proxytest.UpgradeTo("/chat"))
			ctx := <-picked
			vanish(client)
			<-ctx.Done() // the server has noticed
			gone <- true
			s.Wait()
			proxytest.WantNoTunnels(t, p)
		})
		t.Run("during the dial/"+name, func(t *testing.T) {
			leaktest.Check(t)
			dialing := make(chan bool, 1)
			p, s := proxytest.Start(t, wsproxy.WithBackends("http://a", "http://b"), wsproxy.WithDialer(
				func(ctx context.Context, _, _ string) (net.Conn, error) {
					dialing <- true
					<-ctx.Done()
					return nil, ctx.Err()
				}))
			client := wstest.Dial(t, s.URL)
			client.WriteRequest(proxytest.UpgradeTo("/chat"))
			<-dialing
			vanish(client)
			s.Wait()
			proxytest.WantNoTunnels(t, p)
			for _, b := range p.Backends() {
				if b.State() != wsproxy.BackendUp {
					t.Errorf("backend %s is %v; want up: it was not its fault", b.ID(), b.State())
				}
			}
			if len(dialing) != 0 {
				t.Error("another backend was dialed for a client that has gone")
			}
		})
		t.Run("before its 101/"+name, func(t *testing.T) {
			leaktest.Check(t)
			backend := wstest.StartBackend(t)
			p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
			client := wstest.Dial(t, s.URL)
			client.WriteRequest(proxytest.UpgradeTo("/chat"))
			leg := backend.Accepted(t)
			leg.ReadRequest()
			vanish(client)
			leg.WantEOF()
			s.Wait()
			proxytest.WantNoTunnels(t, p)
		})
		t.Run("after it/"+name, func(t *testing.T) {
			leaktest.Check(t)
			backend := wstest.StartBackend(t)
			closed := make(chan wsproxy.TunnelEnd, 1)
			p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()),
				wsproxy.WithTrace(&wsproxy.Trace{Closed: func(e wsproxy.TunnelEnd) { closed <- e }}))
			client := wstest.Dial(t, s.URL)
			client.WriteRequest(proxytest.UpgradeTo("/chat"))
			leg := backend.Accepted(t)
			leg.AcceptUpgrade(nil)
			proxytest.WantSwitch(t, client)
			vanish(client)
			leg.WantEOF()
			leg.Close()
			if e := <-closed; e.Side != wsproxy.SideClient || e.Cause != wsproxy.CauseLost {
				t.Errorf("tunnel ended by %v %v; want client lost", e.Side, e.Cause)
			}
			s.Wait()
			proxytest.WantNoTunnels(t, p)
		})
		t.Run("while a refusal is passed on/"+name, func(t *testing.T) {
			leaktest.Check(t)
			backend := wstest.StartBackend(t)
			p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
			client := wstest.Dial(t, s.URL)
			client.WriteRequest(proxytest.UpgradeTo("/chat"))
			leg := backend.Accepted(t)
			leg.ReadRequest()
			leg.SendRaw([]byte(proxytest.Head("HTTP/1.1 403 Forbidden", "Content-Length: 100000000")))
			chunk := make([]byte, 64<<10)
			leg.SendRaw(chunk)
			proxytest.ReadHead(t, client)
			vanish(client)
			for { // until the proxy hangs up
				if _, err := leg.Write(chunk); err != nil {
					break
				}
			}
			s.Wait()
			proxytest.WantNoTunnels(t, p)
		})
	}
}

func TestCloseDuringUpgradeLeavesNoTunnel(t *testing.T) {
	shutDown := func(p *wsproxy.Proxy) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		p.Shutdown(ctx)
	}
	for name, end := range map[string]func(*wsproxy.Proxy){"Close": func(p *wsproxy.Proxy) { p.Close() }, "Shutdown": shutDown} {
		t.Run(name+" at the last moment", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				backend := proxytest.NewBackendInMemory(t)
				p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a"), backend.Option())
				front, back := memnet.Pipe(4096)
				var running sync.WaitGroup
				running.Go(func() {
					p.ServeHTTP(proxytest.Hijackable{ResponseRecorder: httptest.NewRecorder(), Conn: front, OnHijack: func() { end(p) }}, proxytest.NewUpgrade())
				})
				leg := backend.Accept(t)
				leg.AcceptUpgrade(nil)
				time.Sleep(time.Minute) // neither side says a word
				synctest.Wait()
				running.Wait()
				proxytest.WantNoTunnels(t, p)
				if client := wstest.NewClient(t, back); !front.IsClosed() {
					client.WantEOF()
				}
				leg.WantEOF()
			})
		})
		t.Run(name+" in the Response hook", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				backend := proxytest.NewBackendInMemory(t)
				var p *wsproxy.Proxy
				p = proxytest.NewProxy(t, wsproxy.WithBackends("http://a"), backend.Option(),
					wsproxy.WithResponse(func(*wsproxy.ProxyResponse) error { end(p); return nil }))
				client := proxytest.ServeInMemory(t, p).Dial(t)
				client.WriteRequest(proxytest.UpgradeTo("/chat"))
				leg := backend.Accept(t)
				leg.AcceptUpgrade(nil)
				time.Sleep(time.Minute)
				proxytest.WantStatus(t, client.ReadResponse(), http.StatusServiceUnavailable)
				leg.WantEOF()
			})
		})
	}
}

func TestFailedHandshakesLeaveNothing(t *testing.T) {
	for _, tt := range []struct {
		name    string
		backend proxytest.FakeBackend
		spoil   func(*http.Request)
	}{
		{name: "origin", spoil: func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }},
		{name: "dial", backend: proxytest.FakeBackend{DialErr: errors.New("refused")}},
		{name: "malformed answer", backend: proxytest.FakeBackend{Answer: "nonsense\r\n\r\n"}},
		{name: "wrong 101", backend: proxytest.FakeBackend{Answer: proxytest.Head("HTTP/1.1 101 Switching Protocols")}},
		{name: "refusal", backend: proxytest.FakeBackend{Answer: proxytest.Refusing(403, "no")}},
		{name: "client lost before its 101", backend: proxytest.FakeBackend{Answer: proxytest.Switching}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			network := proxytest.NewNetwork()
			network.Set("a", tt.backend)
			network.Set("b", tt.backend)
			p := proxytest.NewProxy(t, wsproxy.WithDialer(network.Dial), wsproxy.WithOriginPatterns(), wsproxy.WithBackendConfigs(
				wsproxy.BackendConfig{URL: "http://a", MaxTunnels: 5}, wsproxy.BackendConfig{URL: "http://b", MaxTunnels: 5}))
			var running sync.WaitGroup
			for range 20 {
				running.Go(func() {
					for range 2000 / 20 {
						front, back := memnet.Pipe(1)
						back.Close()
						r := proxytest.NewUpgrade()
						if tt.spoil != nil {
							tt.spoil(r)
						}
						p.ServeHTTP(proxytest.Hijackable{ResponseRecorder: httptest.NewRecorder(), Conn: front}, r)
					}
				})
			}
			running.Wait()
			proxytest.WantNoTunnels(t, p)
			if s := p.Stats(); s.Opened != 0 {
				t.Errorf("Stats() = %+v; want no tunnel opened", s)
			}
		})
	}
}
