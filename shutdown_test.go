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
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// shutDown calls Shutdown in the background.
func shutDown(ctx context.Context, p *wsproxy.Proxy) <-chan error {
	done := make(chan error, 1)
	go func() { done <- p.Shutdown(ctx) }() // ends with ctx
	return done
}

func TestShutdownSaysGoingAwayToBothSidesAndWaitsForTheirAnswers(t *testing.T) {
	openPair(t).wantShutdownToWait(t)
}

// wantShutdownToWait shuts the proxy down, and wants both sides to be told and waited
// for.
func (p *pair) wantShutdownToWait(t *testing.T) {
	t.Helper()
	done := shutDown(t.Context(), p.proxy)
	p.client.WantClose(1001)
	p.backend.WantClose(1001)
	p.client.Send(wstest.Close(1001, ""))
	select {
	case err := <-done:
		t.Fatalf("Shutdown returned %v before the backend's answer", err)
	case <-p.ends:
		t.Fatal("the tunnel ended before the backend's answer")
	default:
	}
	p.backend.Send(wstest.Close(1001, ""))
	p.client.WantEOF() // and no second Close frame
	p.client.Close()
	p.backend.Close()
	if err := <-done; err != nil {
		t.Errorf("Shutdown() = %v; want nil: every tunnel ended by Close", err)
	}
}

func TestShutdownWaitsForTheFrameThatIsUnderWay(t *testing.T) {
	p := openPair(t)
	frame := wstest.AppendFrame(nil, wstest.Text("a long message"), nil)
	p.backend.SendRaw(frame[:5])
	p.client.WantRaw(string(frame[:5]))
	done := shutDown(t.Context(), p.proxy)
	p.backend.WantClose(1001) // that direction is at a boundary
	p.backend.SendRaw(frame[5:])
	p.client.WantRaw(string(frame[5:]))
	p.client.WantClose(1001)
	p.backend.Send(wstest.Text("too late"), wstest.Close(1001, ""))
	p.client.Send(wstest.Close(1001, ""))
	p.client.WantEOF()
	p.client.Close()
	p.backend.Close()
	if err := <-done; err != nil {
		t.Errorf("Shutdown() = %v; want nil", err)
	}
}

func TestShutdownRefusesUpgradesWithRetryAfter(t *testing.T) {
	b := wstest.StartBackend(t)
	p, s := start(t, wsproxy.WithBackends(b.URL()))
	if err := p.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown() of an idle proxy = %v; want nil", err)
	}
	resp, _ := exchange(t, s.URL, upgradeTo("/"))
	wantStatus(t, resp, http.StatusServiceUnavailable)
	wantField(t, resp.Header, "Retry-After", "1")
	wantUntouched(t, b)
}

func TestShutdownEndsUpgradesThatAreUnderWay(t *testing.T) {
	b := wstest.StartBackend(t)
	p, s := start(t, wsproxy.WithBackends(b.URL()))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(upgradeTo("/"))
	backend := b.Accepted(t)
	backend.ReadRequest() // and gives no answer
	if err := p.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown() = %v; want nil: there was no tunnel", err)
	}
	resp := client.ReadResponse()
	wantStatus(t, resp, http.StatusServiceUnavailable)
	wantField(t, resp.Header, "Retry-After", "1")
	backend.WantEOF()
	wantNoTunnels(t, p)
}

func TestShutdownCutsWhatIsLeftWhenItsContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	b := wstest.StartBackend(t)
	ends, trace := traceEnds()
	p, s := start(t, wsproxy.WithBackends(b.URL()), trace)
	var clients, backends []*wstest.Peer
	for range 3 {
		client := wstest.Dial(t, s.URL)
		client.RequestUpgrade("/", nil)
		backend := b.Accepted(t)
		backend.AcceptUpgrade(nil)
		client.WantUpgrade()
		clients, backends = append(clients, client), append(backends, backend)
	}
	done := shutDown(ctx, p)
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
	wantNoTunnels(t, p)
}

func TestShutdownHasNoPatienceOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := newBackendInMemory(t)
		p := newProxy(t, wsproxy.WithBackends("http://b"), backend.option())
		s := serveInMemory(t, p)
		client := s.dial(t)
		client.RequestUpgrade("/", nil)
		leg := backend.accept(t)
		leg.AcceptUpgrade(nil)
		client.WantUpgrade()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		err := <-shutDown(ctx, p)
		if took := time.Since(began); took != time.Hour || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown() = %v after %v; want the context's deadline after 1h", err, took)
		}
		client.WantClose(1001)
		leg.WantClose(1001)
	})
}

func TestShutdownMayBeCalledAgainAndBySeveral(t *testing.T) {
	p := openPair(t)
	first, second := shutDown(t.Context(), p.proxy), shutDown(t.Context(), p.proxy)
	p.client.WantClose(1001)
	p.backend.WantClose(1001)
	p.client.Close()
	p.backend.Close()
	for _, done := range []<-chan error{first, second, shutDown(t.Context(), p.proxy)} {
		if err := <-done; err != nil {
			t.Errorf("Shutdown() = %v; want nil", err)
		}
	}
	if err := p.proxy.Close(); err != nil {
		t.Errorf("Close() = %v; want nil", err)
	}
}

func TestShutdownReturnsAfterTheLastHook(t *testing.T) {
	var mu sync.Mutex
	finished := false
	b := wstest.StartBackend(t)
	p, s := start(t, wsproxy.WithBackends(b.URL()), wsproxy.WithTrace(&wsproxy.Trace{
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
	done := shutDown(t.Context(), p)
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
	p := openPair(t)
	p.proxy.Close()
	if e := p.end(t); !e.Cut || e.Cause != wsproxy.CauseShutdown || e.Side != wsproxy.SideProxy {
		t.Errorf("tunnel ended by %v, %v, cut %t; want proxy, shutdown, cut", e.Side, e.Cause, e.Cut)
	}
	p.client.WantEOF()
	p.backend.WantEOF()
	wantNoTunnels(t, p.proxy)
}

func TestErrShutdownIsNetErrClosed(t *testing.T) {
	if !errors.Is(wsproxy.ErrShutdown, net.ErrClosed) {
		t.Error("ErrShutdown does not unwrap to net.ErrClosed")
	}
}
