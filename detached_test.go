package wsproxy_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/leaktest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

var detached = wsproxy.WithDetached(true)

// openDetached opens one tunnel through a new proxy, whose handler has returned.
func openDetached(t *testing.T, opts ...wsproxy.Option) *proxytest.Pair {
	t.Helper()
	b := wstest.StartBackend(t)
	ends, trace := proxytest.TraceEnds()
	p, s := proxytest.Start(t, append([]wsproxy.Option{wsproxy.WithBackends(b.URL()), trace, detached}, opts...)...)
	client, backend := wstest.Dial(t, s.URL), (*wstest.Peer)(nil)
	client.RequestUpgrade("/room", nil)
	backend = b.Accepted(t)
	backend.AcceptUpgrade(nil)
	client.WantUpgrade()
	s.Wait()
	return &proxytest.Pair{Proxy: p, Client: client, Backend: backend, Ends: ends}
}

func TestDetachedTunnelOutlivesItsHandler(t *testing.T) {
	p := openDetached(t)
	p.WantOpen(t)
	if n := p.Proxy.Stats().Tunnels; n != 1 {
		t.Errorf("Stats() has %d tunnels; want 1", n)
	}
	p.Client.Send(wstest.Close(1000, ""))
	p.Backend.WantClose(1000)
	p.Backend.Send(wstest.Close(1000, ""))
	p.Client.WantClose(1000)
	p.Client.Close()
	p.Backend.Close()
	if e := p.End(t); e.Cause != wsproxy.CauseClosed || e.ToBackend.Messages != 1 || e.ToClient.Messages != 1 {
		t.Errorf("tunnel ended with %+v; want it closed, with a message each way", e)
	}
}

// Access logs, spans and in-flight counters end at the upgrade.
func TestMiddlewareSeesADetachedTunnelEndAtTheUpgrade(t *testing.T) {
	b := wstest.StartBackend(t)
	ends, trace := proxytest.TraceEnds()
	proxy := proxytest.NewProxy(t, wsproxy.WithBackends(b.URL()), trace, detached)
	left := make(chan context.Context, 1)
	s := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxy.ServeHTTP(w, r)
		left <- r.Context()
	}))
	client := wstest.Dial(t, s.URL)
	client.RequestUpgrade("/", nil)
	backend := b.Accepted(t)
	backend.AcceptUpgrade(nil)
	client.WantUpgrade()
	ctx := <-left
	<-ctx.Done() // the server ends it after the handler
	p := &proxytest.Pair{Proxy: proxy, Client: client, Backend: backend, Ends: ends}
	p.WantOpen(t)
}

func TestShutdownWaitsForDetachedTunnels(t *testing.T) {
	p := openDetached(t)
	p.WantShutdownToWait(t)
	if e := <-p.Ends; e.Cause != wsproxy.CauseShutdown || e.Cut {
		t.Errorf("tunnel ended by %v, cut %t; want shutdown", e.Cause, e.Cut)
	}
}

func TestShutdownCutsDetachedTunnelsWhenItsContextEnds(t *testing.T) {
	p := openDetached(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := proxytest.ShutDown(ctx, p.Proxy)
	p.Client.WantClose(1001)
	cancel()
	var drain *wsproxy.DrainError
	if err := <-done; !errors.As(err, &drain) || drain.Cut != 1 {
		t.Errorf("Shutdown() = %v; want 1 tunnel cut", err)
	}
	p.Client.WantEOF()
	proxytest.WantNoTunnels(t, p.Proxy)
}

func TestCloseCutsDetachedTunnels(t *testing.T) {
	leaktest.Check(t)
	p := openDetached(t)
	p.Proxy.Close()
	if e := <-p.Ends; e.Cause != wsproxy.CauseShutdown || !e.Cut {
		t.Errorf("tunnel ended by %v, cut %t; want shutdown, cut", e.Cause, e.Cut)
	}
	p.Client.WantEOF()
	p.Backend.WantEOF()
	proxytest.WantNoTunnels(t, p.Proxy)
}

func TestServerThatIsClosedBeforeItsDetachedTunnelsLeavesThemOpen(t *testing.T) {
	leaktest.Check(t)
	ends, trace := proxytest.TraceEnds()
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)), trace, detached)
	srv := httptest.NewServer(p)
	client, _ := proxytest.Open(t, srv.URL, proxytest.UpgradeTo("/"))
	other, _ := proxytest.Open(t, srv.URL, proxytest.UpgradeTo("/"))
	srv.Close()
	proxytest.WantEcho(t, client)
	proxytest.HangUp(t, client)
	if e := <-ends; e.Cause != wsproxy.CauseClosed {
		t.Errorf("tunnel ended by %v; want closed", e.Cause)
	}
	proxytest.WantEcho(t, other)
	p.Close()
	other.WantEOF()
}

func TestPlaceOfADetachedTunnelIsGivenBackWhenItEnds(t *testing.T) {
	ends, trace := proxytest.TraceEnds()
	_, s := proxytest.Start(t, trace, detached, wsproxy.WithBackendConfigs(
		wsproxy.BackendConfig{URL: wstest.StartEcho(t), MaxTunnels: 1}))
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/"))
	proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
	proxytest.HangUp(t, client)
	<-ends
	next, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
	proxytest.WantEcho(t, next)
}

// A timeout middleware must not end what has outlived it.
func TestTimeoutOfMiddlewareEndsNoDetachedTunnel(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)), detached)
	contexts := make(chan context.Context, 1)
	s := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), time.Hour)
		defer cancel()
		contexts <- ctx
		p.ServeHTTP(w, r.WithContext(ctx))
	}))
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/"))
	<-(<-contexts).Done()
	proxytest.WantEcho(t, client)
	proxytest.HangUp(t, client)
}
