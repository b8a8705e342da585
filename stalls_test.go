package wsproxy_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// watchEnds returns the ends of tunnels.
func watchEnds() (wsproxy.Option, chan wsproxy.TunnelEnd) {
	ends := make(chan wsproxy.TunnelEnd, 100)
	return wsproxy.WithTrace(&wsproxy.Trace{Closed: func(e wsproxy.TunnelEnd) { ends <- e }}), ends
}

// wantStalled checks that a tunnel has ended because its client took nothing.
func wantStalled(t *testing.T, e wsproxy.TunnelEnd, id uint64) {
	t.Helper()
	if e.ID != id || e.Side != wsproxy.SideClient || e.Cause != wsproxy.CauseStalled || e.Code != 0 || !e.Cut || e.Err == nil {
		t.Errorf("tunnel %d ended by %v, %v, code %d, cut %t, %v; want tunnel %d by its client, stalled, code 0, cut",
			e.ID, e.Side, e.Cause, e.Code, e.Cut, e.Err, id)
	}
}

func TestStalledTunnelsEndsLongestStalledTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := proxytest.NewBackendInMemory(t)
		trace, ends := watchEnds()
		p := proxytest.NewProxy(t, wsproxy.WithBackends("http://backend"), backend.Option(), trace,
			wsproxy.WithLimits(wsproxy.Limits{StalledTunnels: 2}),
			wsproxy.WithTimeouts(wsproxy.Timeouts{WriteStall: -1}))
		s := proxytest.ServeInMemory(t, p)
		message := wstest.Binary(make([]byte, 1<<20))
		stall := func() (client, leg *wstest.Peer) {
			client = s.Dial(t)
			client.WriteRequest(proxytest.UpgradeTo("/"))
			leg = backend.Accept(t)
			leg.AcceptUpgrade(nil)
			proxytest.WantSwitch(t, client)
			go leg.WriteFrames(message) // until the client has read it, or the end
			synctest.Wait()
			time.Sleep(300 * time.Millisecond)
			return client, leg
		}
		wantNone := func() {
			t.Helper()
			time.Sleep(time.Hour)
			select {
			case e := <-ends:
				t.Errorf("tunnel %d ended by %v; want it to stay", e.ID, e.Cause)
			default:
			}
		}
		_, first := stall()
		second, _ := stall()
		wantNone()

		stall()
		start := time.Now()
		first.WantEOF()
		first.Close()
		wantStalled(t, <-ends, 1)
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("the first tunnel ended %v after the third had stalled; want it by the second look", took)
		}
		wantNone()

		second.Want(message) // and it is stalled no more
		stall()
		wantNone()
		stall()
		wantStalled(t, <-ends, 3)
		wantNone()
	})
}

func TestStalledTunnelsMayBeUnlimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := proxytest.NewBackendInMemory(t)
		trace, ends := watchEnds()
		p := proxytest.NewProxy(t, wsproxy.WithBackends("http://backend"), backend.Option(), trace,
			wsproxy.WithLimits(wsproxy.Limits{StalledTunnels: -1}),
			wsproxy.WithTimeouts(wsproxy.Timeouts{WriteStall: -1}))
		s := proxytest.ServeInMemory(t, p)
		client := s.Dial(t)
		client.WriteRequest(proxytest.UpgradeTo("/"))
		leg := backend.Accept(t)
		leg.AcceptUpgrade(nil)
		proxytest.WantSwitch(t, client)
		message := wstest.Binary(make([]byte, 1<<20))
		go leg.WriteFrames(message)
		wantStats := func(stalled int, isBuffered bool) {
			t.Helper()
			if s := p.Stats(); s.Stalled != stalled || (s.Buffered > 0) != isBuffered || s.Buffered > 64<<10 {
				t.Errorf("Stats() has %d stalled tunnels, %d bytes buffered; want %d, and bytes: %t", s.Stalled, s.Buffered, stalled, isBuffered)
			}
		}
		wantStats(0, false)
		time.Sleep(24 * time.Hour)
		wantStats(1, true)
		client.Want(message)
		time.Sleep(time.Second)
		wantStats(0, false)
		if len(ends) != 0 {
			t.Error("the tunnel has ended")
		}
	})
}

func TestWriteStallCutsTheSideThatTakesNothing(t *testing.T) {
	tests := []struct {
		name   string
		option time.Duration
		want   time.Duration
	}{
		{"default", 0, 2 * time.Minute},
		{"10 s", 10 * time.Second, 10 * time.Second},
		{"an hour", time.Hour, time.Hour},
	}
	for _, tt := range tests {
		for _, side := range []wsproxy.Side{wsproxy.SideClient, wsproxy.SideBackend} {
			t.Run(tt.name+", "+side.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					backend := proxytest.NewBackendInMemory(t)
					trace, ends := watchEnds()
					p := proxytest.NewProxy(t, wsproxy.WithBackends("http://backend"), backend.Option(), trace,
						wsproxy.WithTimeouts(wsproxy.Timeouts{WriteStall: tt.option}))
					s := proxytest.ServeInMemory(t, p)
					client := s.Dial(t)
					client.WriteRequest(proxytest.UpgradeTo("/"))
					leg := backend.Accept(t)
					leg.AcceptUpgrade(nil)
					proxytest.WantSwitch(t, client)

					src := leg
					if side == wsproxy.SideBackend {
						src = client
					}
					message := wstest.Binary(make([]byte, 1<<20))
					go src.WriteFrames(message) // until the end
					start := time.Now()
					time.Sleep(tt.want - time.Second)
					if n := p.Stats().Tunnels; n != 1 || len(ends) > 0 {
						t.Fatal("the tunnel has ended before its time")
					}
					time.Sleep(2 * time.Second)
					if side == wsproxy.SideBackend {
						client.WantClose(1012)
					}
					src.WantEOF()
					src.Close()
					e := <-ends
					if e.Side != side || e.Cause != wsproxy.CauseStalled || !e.Cut || e.Err == nil {
						t.Errorf("ended by %v, %v, cut %t, %v; want stalled by the %v, cut", e.Side, e.Cause, e.Cut, e.Err, side)
					}
					if took := time.Since(start); took > tt.want+2*time.Second {
						t.Errorf("ended after %v; want %v", took, tt.want)
					}
				})
			})
		}
	}
}

// The same over sockets, where an event loop relays if there is one.
func TestStalledTunnelsEndsTunnelOverSockets(t *testing.T) {
	for name, detached := range map[string]bool{"blocking": false, "detached": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // some real seconds
			backend := wstest.StartBackend(t)
			trace, ends := watchEnds()
			p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), trace, wsproxy.WithDetached(detached),
				wsproxy.WithLimits(wsproxy.Limits{StalledTunnels: 1, SocketBuffer: 32 << 10}))
			message := wstest.Binary(make([]byte, 4<<20))
			var clients, legs []*wstest.Peer
			var writing sync.WaitGroup
			for range 2 {
				client := wstest.Dial(t, s.URL)
				client.WriteRequest(proxytest.UpgradeTo("/"))
				leg := backend.Accepted(t)
				leg.AcceptUpgrade(nil)
				proxytest.WantSwitch(t, client)
				clients, legs = append(clients, client), append(legs, leg)
				writing.Go(func() { leg.WriteFrames(message) }) // until the client reads, or the end
			}
			e := <-ends
			if e.ID != 1 && e.ID != 2 {
				t.Fatalf("tunnel %d ended; want 1 or 2", e.ID)
			}
			wantStalled(t, e, e.ID) // they stalled at almost the same time
			legs[e.ID-1].Close()
			clients[2-e.ID].Want(message)
			writing.Wait()
			if n := p.Stats().Tunnels; n != 1 {
				t.Errorf("%d tunnels are left; want the other one", n)
			}
			p.Close()
			s.Wait()
		})
	}
}
