package wsotel

import (
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestTunnelSpansHaveLinkToUpgrade(t *testing.T) {
	proxytest.ForEachWay(t, func(t *testing.T, way wsproxy.Option) {
		ends, trace := proxytest.TraceEnds()
		s := newScene(t, wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "a", URL: wstest.StartEcho(t)}), trace, way)
		client, _ := proxytest.Open(t, proxytest.Serve(t, s).URL, proxytest.UpgradeTo("/"))
		opened := s.ended(t, openedSpan)
		proxytest.WantEcho(t, client)
		if n, _ := s.tunnels.numLinks(); n != 1 {
			t.Errorf("%d links are kept; want that of the open tunnel", n)
		}
		proxytest.HangUp(t, client)
		end := wait(t, ends)
		closed, upgrade := s.ended(t, closedSpan), s.ended(t, upgradeSpan)
		wantLink(t, opened, upgrade)
		wantLink(t, closed, upgrade)
		same := map[attribute.Key]any{"wsproxy.tunnel.id": int64(1), "wsproxy.request_id": end.RequestID, "wsproxy.backend": "a"}
		wantAttributes(t, opened, same)
		same["wsproxy.side"], same["wsproxy.cause"], same["wsproxy.close_code"], same["wsproxy.cut"] = "client", "closed", int64(1000), false
		same["wsproxy.duration"] = end.Duration.Seconds()
		same["wsproxy.to_backend.bytes"], same["wsproxy.to_backend.messages"] = int64(end.ToBackend.Bytes), int64(1)
		same["wsproxy.to_client.bytes"], same["wsproxy.to_client.messages"] = int64(end.ToClient.Bytes), int64(1)
		wantAttributes(t, closed, same)
		s.wantNothingKept(t)
	})
}

func TestClosedSpanHasErrorOfLostTunnel(t *testing.T) {
	s := newScene(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	client, _ := proxytest.Open(t, proxytest.Serve(t, s).URL, proxytest.UpgradeTo("/"))
	proxytest.WantEcho(t, client)
	client.Reset()
	got := attributesOf(s.ended(t, closedSpan).Attributes())
	if got[keyCause] != "lost" || got[keySide] != "client" || got[keyError] == nil {
		t.Errorf("the span has cause %v, side %v, error %v; want that the client was lost, with an error", got[keyCause], got[keySide], got[keyError])
	}
}

// A tunnel of before has no span to link to.
func TestTunnelOfBeforeNewHasNoSpans(t *testing.T) {
	ends, trace := proxytest.TraceEnds()
	p, site := proxytest.Start(t, wsproxy.WithBackends(wstest.StartEcho(t)), trace, wsproxy.WithDetached(true))
	client, _ := proxytest.Open(t, site.URL, proxytest.UpgradeTo("/"))
	proxytest.WantEcho(t, client)
	s := instrument(t, p, Options{}, sdktrace.AlwaysSample())
	other, _ := proxytest.Open(t, site.URL, proxytest.UpgradeTo("/")) // by the proxy's own handler
	proxytest.WantEcho(t, other)
	for _, c := range []*wstest.Peer{client, other} {
		proxytest.HangUp(t, c)
		wait(t, ends)
	}
	s.wantNothingKept(t)
	if got := s.names(); len(got) > 0 {
		t.Errorf("there are spans %q; want none", got)
	}
}

// The client leaves, and the tunnel is closed, while the hook of its opening runs.
func TestTunnelThatEndsWhileItsOpenedHookRunsIsNotKept(t *testing.T) {
	proxytest.ForEachWay(t, func(t *testing.T, way wsproxy.Option) {
		ends, trace := proxytest.TraceEnds()
		isOpening, mayReturn := make(chan *wsproxy.Tunnel), make(chan struct{})
		s := newScene(t, wsproxy.WithBackends(wstest.StartEcho(t)), trace, way)
		stop := s.proxy.Observe(&wsproxy.Trace{Opened: func(o wsproxy.OpenedInfo) { // after that of the Instrumentation
			isOpening <- o.Tunnel
			<-mayReturn
		}})
		defer stop()
		client, _ := proxytest.Open(t, proxytest.Serve(t, s).URL, proxytest.UpgradeTo("/"))
		tunnel := <-isOpening
		client.Close()
		tunnel.Close(1000, "")
		if n, _ := s.tunnels.numLinks(); n != 1 {
			t.Errorf("%d links are kept while the hook runs; want one", n)
		}
		close(mayReturn)
		wait(t, ends)
		wantLink(t, s.ended(t, closedSpan), s.ended(t, upgradeSpan))
		s.wantNothingKept(t)
	})
}

// What comes and goes leaves nothing, also if many do so at once.
func TestManyTunnelsLeaveNothing(t *testing.T) {
	const clients, each = 8, 25
	s := newScene(t, wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithDetached(true))
	site := proxytest.Serve(t, s)
	done := make(chan struct{})
	for range clients {
		go func() { // ends after its tunnels
			defer func() { done <- struct{}{} }()
			for range each {
				client, _ := proxytest.Open(t, site.URL, proxytest.UpgradeTo("/"))
				proxytest.HangUp(t, client)
			}
		}()
	}
	for range clients {
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Fatal("the clients have not ended within a minute")
		}
	}
	s.wantNothingKept(t)
	for _, name := range []string{upgradeSpan, openedSpan, closedSpan} {
		if n := len(s.all(name)); n != clients*each {
			t.Errorf("there are %d spans %s; want %d", n, name, clients*each)
		}
	}
}
