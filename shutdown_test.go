package wsproxy_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestShutdownSaysGoingAwayToBothSidesAndWaitsForTheirAnswers(t *testing.T) {
	proxytest.OpenPair(t).WantShutdownToWait(t)
}

func TestShutdownWaitsForTheFrameThatIsUnderWay(t *testing.T) {
	p := proxytest.OpenPair(t)
	frame := wstest.AppendFrame(nil, wstest.Text("a long message"), nil)
	p.Backend.SendRaw(frame[:5])
	p.Client.WantRaw(string(frame[:5]))
	done := proxytest.ShutDown(t.Context(), p.Proxy)
	p.Backend.WantClose(1001) // that direction is at a boundary
	p.Backend.SendRaw(frame[5:])
	p.Client.WantRaw(string(frame[5:]))
	p.Client.WantClose(1001)
	p.Backend.Send(wstest.Text("too late"), wstest.Close(1001, ""))
	p.Client.Send(wstest.Close(1001, ""))
	p.Client.WantEOF()
	p.Client.Close()
	p.Backend.Close()
	if err := <-done; err != nil {
		t.Errorf("Shutdown() = %v; want nil", err)
	}
}

func TestShutdownRefusesUpgradesWithRetryAfter(t *testing.T) {
	b := wstest.StartBackend(t)
	p, s := proxytest.Start(t, wsproxy.WithBackends(b.URL()))
	if err := p.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown() of an idle proxy = %v; want nil", err)
	}
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/"))
	proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
	proxytest.WantField(t, resp.Header, "Retry-After", "1")
	proxytest.WantUntouched(t, b)
}

func TestShutdownEndsUpgradesThatAreUnderWay(t *testing.T) {
	b := wstest.StartBackend(t)
	p, s := proxytest.Start(t, wsproxy.WithBackends(b.URL()))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.UpgradeTo("/"))
	backend := b.Accepted(t)
	backend.ReadRequest() // and gives no answer
	if err := p.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown() = %v; want nil: there was no tunnel", err)
	}
	resp := client.ReadResponse()
	proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
	proxytest.WantField(t, resp.Header, "Retry-After", "1")
	backend.WantEOF()
	proxytest.WantNoTunnels(t, p)
}

func TestShutdownCutsWhatIsLeftWhenItsContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	b := wstest.StartBackend(t)
	ends, trace := proxytest.TraceEnds()
	p, s := proxytest.Start(t, wsproxy.WithBackends(b.URL()), trace)
	var clients, backends []*wstest.Peer
	for range 3 {
		client := wstest.Dial(t, s.URL)
		client.RequestUpgrade("/", nil)
		backend := b.Accepted(t)
		backend.AcceptUpgrade(nil)
		client.WantUpgrade()
		clients, backends = append(clients, client), append(backends, backend)
	}
	done := proxytest.ShutDown(ctx, p)
	for i := range clients {
		clients[i].WantClose(1001)
		backends[i].WantClose(1001)
	}
	// One pair answers, the other two do not.
	clients[0].Send(wstest.Close(1001, ""))
	backends[0].Send(wstest.Close(1001, ""))
	clients[0].Close()
	backends[0].Close()
	if e := <-ends; e.Cut {
		t.Error("the tunnel whose peers answered was cut")
	}
	cancel(nil)
	err := <-done
	var drain *wsproxy.DrainError
	if !errors.As(err, &drain) || drain.Closed != 1 || drain.Cut != 2 {
		t.Errorf("Shutdown() = %v; want 1 closed, 2 cut", err)
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown() = %v; want it to unwrap to the context's error", err)
	}
	for i := range 2 {
		if e := <-ends; !e.Cut {
			t.Errorf("tunnel %d, whose peers did not answer, was not cut", i)
		}
	}
	proxytest.WantNoTunnels(t, p)
}

func TestShutdownHasNoPatienceOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := proxytest.NewBackendInMemory(t)
		p := proxytest.NewProxy(t, wsproxy.WithBackends("http://b"), backend.Option())
		s := proxytest.ServeInMemory(t, p)
		client := s.Dial(t)
		client.RequestUpgrade("/", nil)
		leg := backend.Accept(t)
		leg.AcceptUpgrade(nil)
		client.WantUpgrade()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		err := <-proxytest.ShutDown(ctx, p)
		if took := time.Since(began); took != time.Hour || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown() = %v after %v; want the context's deadline after 1h", err, took)
		}
		client.WantClose(1001)
		leg.WantClose(1001)
	})
}

func TestShutdownMayBeCalledAgainAndBySeveral(t *testing.T) {
	p := proxytest.OpenPair(t)
	first, second := proxytest.ShutDown(t.Context(), p.Proxy), proxytest.ShutDown(t.Context(), p.Proxy)
	p.Client.WantClose(1001)
	p.Backend.WantClose(1001)
	p.Client.Close()
	p.Backend.Close()
	for _, done := range []<-chan error{first, second, proxytest.ShutDown(t.Context(), p.Proxy)} {
		if err := <-done; err != nil {
			t.Errorf("Shutdown() = %v; want nil", err)
		}
	}
	if err := p.Proxy.Close(); err != nil {
		t.Errorf("Close() = %v; want nil", err)
	}
}

func TestShutdownReturnsAfterTheLastHook(t *testing.T) {
	var mu sync.Mutex
	finished := false
	b := wstest.StartBackend(t)
	p, s := proxytest.Start(t, wsproxy.WithBackends(b.URL()), wsproxy.WithTrace(&wsproxy.Trace{
		Closed: func(wsproxy.TunnelEnd) {
			mu.Lock()
			defer mu.Unlock()
			finished = true
		},
	}))
	client := wstest.Dial(t, s.URL)
	client.RequestUpgrade("/", nil)
	backend := b.Accepted(t)
	backend.AcceptUpgrade(nil)
	client.WantUpgrade()
	mu.Lock() // the hook blocks
	done := proxytest.ShutDown(t.Context(), p)
	client.WantClose(1001)
	backend.WantClose(1001)
	client.Close()
	backend.Close()
	select {
	case <-done:
		t.Error("Shutdown returned before the Closed hook")
	default:
	}
	mu.Unlock()
	<-done
	mu.Lock()
	defer mu.Unlock()
	if !finished {
		t.Error("Shutdown returned before the Closed hook")
	}
}

func TestCloseCutsTunnelsAtOnce(t *testing.T) {
	p := proxytest.OpenPair(t)
	p.Proxy.Close()
	if e := p.End(t); !e.Cut || e.Cause != wsproxy.CauseShutdown || e.Side != wsproxy.SideProxy {
		t.Errorf("tunnel ended by %v, %v, cut %t; want proxy, shutdown, cut", e.Side, e.Cause, e.Cut)
	}
	p.Client.WantEOF()
	p.Backend.WantEOF()
	proxytest.WantNoTunnels(t, p.Proxy)
}

func TestErrShutdownIsNetErrClosed(t *testing.T) {
	if !errors.Is(wsproxy.ErrShutdown, net.ErrClosed) {
		t.Error("ErrShutdown does not unwrap to net.ErrClosed")
	}
}
