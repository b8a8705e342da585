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
	"github.com/wsproxy/wsproxy/internal/wstest"
)

var detached = wsproxy.WithDetached(true)

// openDetached opens one tunnel through a new proxy, whose handler has returned.
func openDetached(t *testing.T, opts ...wsproxy.Option) *pair {
	t.Helper()
	b := wstest.StartBackend(t)
	ends, trace := traceEnds()
	p, s := start(t, append([]wsproxy.Option{wsproxy.WithBackends(b.URL()), trace, detached}, opts...)...)
	client, backend := wstest.Dial(t, s.URL), (*wstest.Peer)(nil)
	client.RequestUpgrade("/room", nil)
	backend = b.Accepted(t)
	backend.AcceptUpgrade(nil)
	client.WantUpgrade()
	s.wait()
	return &pair{p, client, backend, ends}
}

func (p *pair) wantBothWays() {
	p.client.Send(wstest.Text("up"))
	p.backend.Want(wstest.Text("up"))
	p.backend.Send(wstest.Text("down"))
	p.client.Want(wstest.Text("down"))
}

func (p *pair) wantOpen(t *testing.T) {
	t.Helper()
	p.wantBothWays()
	select {
	case e := <-p.ends:
		t.Fatalf("Trace.Closed was called with %+v; want the tunnel open", e)
	default:
	}
}

func TestDetachedTunnelOutlivesItsHandler(t *testing.T) {
	p := openDetached(t)
	p.wantOpen(t)
	if n := p.proxy.Stats().Tunnels; n != 1 {
		t.Errorf("Stats() has %d tunnels; want 1", n)
	}
	p.client.Send(wstest.Close(1000, ""))
	p.backend.WantClose(1000)
	p.backend.Send(wstest.Close(1000, ""))
	p.client.WantClose(1000)
	p.client.Close()
	p.backend.Close()
	if e := p.end(t); e.Cause != wsproxy.CauseClosed || e.ToBackend.Messages != 1 || e.ToClient.Messages != 1 {
		t.Errorf("tunnel ended with %+v; want it closed, with a message each way", e)
	}
}

// Access logs, spans and in-flight counters end at the upgrade.
func TestMiddlewareSeesADetachedTunnelEndAtTheUpgrade(t *testing.T) {
	b := wstest.StartBackend(t)
	ends, trace := traceEnds()
	proxy := newProxy(t, wsproxy.WithBackends(b.URL()), trace, detached)
	left := make(chan context.Context, 1)
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
	p := &pair{proxy, client, backend, ends}
	p.wantOpen(t)
}

func TestShutdownWaitsForDetachedTunnels(t *testing.T) {
	p := openDetached(t)
	p.wantShutdownToWait(t)
	if e := <-p.ends; e.Cause != wsproxy.CauseShutdown || e.Cut {
		t.Errorf("tunnel ended by %v, cut %t; want shutdown", e.Cause, e.Cut)
	}
}

func TestShutdownCutsDetachedTunnelsWhenItsContextEnds(t *testing.T) {
	p := openDetached(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := shutDown(ctx, p.proxy)
	p.client.WantClose(1001)
	cancel()
	var drain *wsproxy.DrainError
	if err := <-done; !errors.As(err, &drain) || drain.Cut != 1 {
		t.Errorf("Shutdown() = %v; want 1 tunnel cut", err)
	}
	p.client.WantEOF()
	wantNoTunnels(t, p.proxy)
}

func TestCloseCutsDetachedTunnels(t *testing.T) {
	leaktest.Check(t)
	p := openDetached(t)
	p.proxy.Close()
	if e := <-p.ends; e.Cause != wsproxy.CauseShutdown || !e.Cut {
		t.Errorf("tunnel ended by %v, cut %t; want shutdown, cut", e.Cause, e.Cut)
	}
	p.client.WantEOF()
	p.backend.WantEOF()
	wantNoTunnels(t, p.proxy)
}

func TestServerThatIsClosedBeforeItsDetachedTunnelsLeavesThemOpen(t *testing.T) {
	leaktest.Check(t)
	ends, trace := traceEnds()
	p := newProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)), trace, detached)
	srv := httptest.NewServer(p)
	client, _ := open(t, srv.URL, upgradeTo("/"))
	other, _ := open(t, srv.URL, upgradeTo("/"))
	srv.Close()
	wantEcho(t, client)
	hangUp(t, client)
	if e := <-ends; e.Cause != wsproxy.CauseClosed {
		t.Errorf("tunnel ended by %v; want closed", e.Cause)
	}
	wantEcho(t, other)
	p.Close()
	other.WantEOF()
}

func TestPlaceOfADetachedTunnelIsGivenBackWhenItEnds(t *testing.T) {
	ends, trace := traceEnds()
	_, s := start(t, trace, detached, wsproxy.WithBackendConfigs(
		wsproxy.BackendConfig{URL: wstest.StartEcho(t), MaxTunnels: 1}))
	client, _ := open(t, s.URL, upgradeTo("/"))
	resp, _ := exchange(t, s.URL, upgradeTo("/"))
	wantStatus(t, resp, http.StatusServiceUnavailable)
	hangUp(t, client)
	<-ends
	next, _ := open(t, s.URL, upgradeTo("/"))
	wantEcho(t, next)
}

// A timeout middleware must not end what has outlived it.
func TestTimeoutOfMiddlewareEndsNoDetachedTunnel(t *testing.T) {
	p := newProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)), detached)
	contexts := make(chan context.Context, 1)
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), time.Hour)
		defer cancel()
		contexts <- ctx
		p.ServeHTTP(w, r.WithContext(ctx))
	}))
	client, _ := open(t, s.URL, upgradeTo("/"))
	<-(<-contexts).Done()
	wantEcho(t, client)
	hangUp(t, client)
}
