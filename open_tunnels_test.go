package wsproxy_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// These tests are about what time does to open tunnels: pings, Timeouts.Idle and Lifetime.

// A memoryPair is a tunnel in memory, and how it ended.
type memoryPair struct {
	p               *wsproxy.Proxy
	client, backend *wstest.Peer
	ends            chan wsproxy.TunnelEnd
}

func openInMemory(t *testing.T, opts ...wsproxy.Option) *memoryPair {
	t.Helper()
	b := proxytest.NewBackendInMemory(t)
	ends, trace := proxytest.TraceEnds()
	p := proxytest.NewProxy(t, append([]wsproxy.Option{wsproxy.WithBackends("http://a"), b.Option(), trace}, opts...)...)
	client := proxytest.ServeInMemory(t, p).Dial(t)
	client.WriteRequest(proxytest.UpgradeTo("/chat"))
	backend := b.Accept(t)
	backend.AcceptUpgrade(nil)
	proxytest.WantSwitch(t, client)
	return &memoryPair{p, client, backend, ends}
}

// awaitFrame waits for the next frame without a limit of time, and returns how long it took.
func awaitFrame(t *testing.T, p *wstest.Peer) (wstest.Frame, time.Duration) {
	t.Helper()
	start := time.Now()
	p.Conn().SetReadDeadline(time.Time{})
	f, err := p.ReadFrame()
	if err != nil {
		t.Fatal(err)
	}
	return f, time.Since(start)
}

func (p *memoryPair) wantEnd(t *testing.T, side wsproxy.Side, cause wsproxy.Cause, code int) {
	t.Helper()
	if e := <-p.ends; e.Side != side || e.Cause != cause || e.Code != code {
		t.Errorf("the tunnel was ended by the %v: %v, with code %d; want the %v: %v, %d", e.Side, e.Cause, e.Code, side, cause, code)
	}
}

func TestTunnelStaysOpenThoughItIsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := openInMemory(t)
		time.Sleep(1000 * time.Hour)
		p.client.Send(wstest.Text("still here"))
		p.backend.Want(wstest.Text("still here"))
	})
}

func TestPingsGoToQuietPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The client is pinged again, and does not answer, before the backend is.
		p := openInMemory(t, wsproxy.WithPing(wsproxy.Ping{Client: 25 * time.Second, Backend: time.Minute, Timeout: time.Hour}))
		for _, side := range []struct {
			peer     *wstest.Peer
			interval time.Duration
		}{{p.client, 25 * time.Second}, {p.backend, time.Minute}} {
			ping, took := awaitFrame(t, side.peer)
			if ping.Opcode != wstest.OpPing || took > side.interval+time.Second {
				t.Errorf("got %v after %v; want a ping within %v", ping, took, side.interval)
			}
			time.Sleep(30 * time.Millisecond)
			side.peer.Send(wstest.Pong(string(ping.Payload)))
		}
		synctest.Wait()
		s := p.p.Stats()
		for _, h := range []wsproxy.Histogram{s.ClientRoundTrips, s.BackendRoundTrips} {
			if h.Count != 1 || h.Sum < 30*time.Millisecond {
				t.Errorf("%d round trips of %v in all; want 1 of 30 ms", h.Count, h.Sum)
			}
		}
		if s.ToClient != (wsproxy.Traffic{}) || s.ToBackend != (wsproxy.Traffic{}) {
			t.Errorf("traffic is %v and %v; want none, since all pings were the proxy's", s.ToBackend, s.ToClient)
		}
	})
}

func TestClientThatAnswersNoPingIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := openInMemory(t, wsproxy.WithPing(wsproxy.Ping{Client: 25 * time.Second, Timeout: 10 * time.Second}))
		awaitFrame(t, p.client)
		f, took := awaitFrame(t, p.client)
		if took < 10*time.Second || took > 11*time.Second {
			t.Errorf("got %v %v after the ping; want 10 s", f, took)
		}
		p.backend.WantEOF()
		p.backend.Close()
		p.wantEnd(t, wsproxy.SideClient, wsproxy.CausePingTimeout, 1001)
		if s := p.p.Stats(); s.ClientPingsUnanswered != 1 || s.BackendPingsUnanswered != 0 {
			t.Errorf("Stats() has %d pings that clients, and %d that backends did not answer; want 1 and 0", s.ClientPingsUnanswered, s.BackendPingsUnanswered)
		}
	})
}

func TestBackendThatAnswersNoPingIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := openInMemory(t, wsproxy.WithPing(wsproxy.Ping{Backend: 25 * time.Second}))
		awaitFrame(t, p.backend)
		_, took := awaitFrame(t, p.backend)
		if took < 25*time.Second || took > 26*time.Second {
			t.Errorf("closed %v after the ping; want 25 s", took)
		}
		p.client.WantClose(1012)
		p.client.Send(wstest.Close(1012, ""))
		p.client.WantEOF()
		p.client.Close()
		p.wantEnd(t, wsproxy.SideBackend, wsproxy.CausePingTimeout, 1012)
		if s := p.p.Stats(); s.ClientPingsUnanswered != 0 || s.BackendPingsUnanswered != 1 {
			t.Errorf("Stats() has %d pings that clients, and %d that backends did not answer; want 0 and 1", s.ClientPingsUnanswered, s.BackendPingsUnanswered)
		}
	})
}

func TestIdleAndLifetimeEndTunnels(t *testing.T) {
	for _, tt := range []struct {
		timeouts      wsproxy.Timeouts
		cause         wsproxy.Cause
		code          int
		least, atMost time.Duration
	}{
		{wsproxy.Timeouts{Idle: time.Hour}, wsproxy.CauseIdle, 1001, time.Hour, time.Hour + time.Second},
		{wsproxy.Timeouts{Lifetime: time.Hour}, wsproxy.CauseLifetime, 1012, 48 * time.Minute, time.Hour},
		{wsproxy.Timeouts{Idle: time.Hour, Lifetime: time.Minute}, wsproxy.CauseLifetime, 1012, 48 * time.Second, time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := openInMemory(t, wsproxy.WithTimeouts(tt.timeouts), wsproxy.WithPing(wsproxy.Ping{Client: -1}))
			f, took := awaitFrame(t, p.backend)
			if took < tt.least || took > tt.atMost {
				t.Errorf("%v: the backend got %v after %v; want %v to %v", tt.cause, f, took, tt.least, tt.atMost)
			}
			p.backend.Send(wstest.Close(1001, ""))
			p.client.WantClose(uint16(tt.code))
			p.client.Send(wstest.Close(uint16(tt.code), ""))
			p.client.WantEOF()
			p.client.Close()
			p.backend.Close()
			p.wantEnd(t, wsproxy.SideProxy, tt.cause, tt.code)
		})
	}
}

func TestTunnelTellsWhenItWasLastActive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := openInMemory(t)
		tunnel := proxytest.OnlyTunnel(t, p.p)
		if got, want := tunnel.LastActive(), tunnel.Info().Opened; !got.Equal(want) {
			t.Errorf("LastActive() = %v; want %v, when it was opened", got, want)
		}
		for _, pair := range [][2]*wstest.Peer{{p.client, p.backend}, {p.backend, p.client}} {
			time.Sleep(time.Hour)
			pair[0].Send(wstest.Text("x"))
			pair[1].Want(wstest.Text("x"))
			time.Sleep(10 * time.Second)
			if ago := time.Since(tunnel.LastActive()); ago < 10*time.Second || ago >= 10*time.Second+250*time.Millisecond {
				t.Errorf("last active %v ago; want 10 s", ago)
			}
		}
	})
}
