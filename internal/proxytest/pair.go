package proxytest

import (
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A Pair is an open tunnel between two scripted peers.
type Pair struct {
	Proxy           *wsproxy.Proxy
	Client, Backend *wstest.Peer
	Ends            chan wsproxy.TunnelEnd
}

// OpenPair opens one tunnel through a new proxy.
func OpenPair(t *testing.T, opts ...wsproxy.Option) *Pair {
	t.Helper()
	b := wstest.StartBackend(t)
	ends, trace := TraceEnds()
	p, s := Start(t, append([]wsproxy.Option{wsproxy.WithBackends(b.URL()), trace}, opts...)...)
	client := wstest.Dial(t, s.URL)
	client.RequestUpgrade("/room", nil)
	backend := b.Accepted(t)
	backend.AcceptUpgrade(nil)
	client.WantUpgrade()
	return &Pair{p, client, backend, ends}
}

// End waits for the end of the tunnel.
func (p *Pair) End(t *testing.T) wsproxy.TunnelEnd {
	t.Helper()
	select {
	case e := <-p.Ends:
		return e
	case <-time.After(10 * time.Second):
		t.Fatal("the tunnel did not end within 10 s")
		panic("unreachable")
	}
}

// WantBothWays checks that a message passes in each direction.
func (p *Pair) WantBothWays() {
	p.Client.Send(wstest.Text("up"))
	p.Backend.Want(wstest.Text("up"))
	p.Backend.Send(wstest.Text("down"))
	p.Client.Want(wstest.Text("down"))
}

// WantOpen checks that the tunnel works and that its end was not reported.
func (p *Pair) WantOpen(t *testing.T) {
	t.Helper()
	p.WantBothWays()
	select {
	case e := <-p.Ends:
		t.Fatalf("Trace.Closed was called with %+v; want the tunnel open", e)
	default:
	}
}

// WantShutdownToWait shuts the proxy down, and checks that both sides get a Close
// frame and that Shutdown waits for their answers.
func (p *Pair) WantShutdownToWait(t *testing.T) {
	t.Helper()
	done := ShutDown(t.Context(), p.Proxy)
	p.Client.WantClose(1001)
	p.Backend.WantClose(1001)
	p.Client.Send(wstest.Close(1001, ""))
	select {
	case err := <-done:
		t.Fatalf("Shutdown returned %v before the backend's answer", err)
	case <-p.Ends:
		t.Fatal("the tunnel ended before the backend's answer")
	default:
	}
	p.Backend.Send(wstest.Close(1001, ""))
	p.Client.WantEOF() // and no second Close frame
	p.Client.Close()
	p.Backend.Close()
	if err := <-done; err != nil {
		t.Errorf("Shutdown() = %v; want nil: every tunnel ended by Close", err)
	}
}
