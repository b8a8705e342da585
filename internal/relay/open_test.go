package relay

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestLifetimeEndsInItsLastFifth(t *testing.T) {
	for _, lifetime := range []ticks{1, 2, 4, 5, 10, 11, 12, 40, 999, 4 * 3600} {
		opened := ticks(7)
		seen := make(map[ticks]bool)
		for i := range 100_000 {
			random := float64(i) / 100_000
			end := lifeEnd(opened, lifetime, random)
			seen[end] = true
			// What was opened within tick 7 ends within tick end: so at most lifetime later.
			if end > opened+lifetime-1 {
				t.Fatalf("lifetime of %d ticks: opened in %d and ended in %d; want %d at most", lifetime, opened, end, opened+lifetime-1)
			}
			if first := float64(opened) + 1 + 0.8*float64(lifetime); float64(end) < first && lifetime >= 11 {
				t.Fatalf("lifetime of %d ticks: opened in %d and ended in %d; want %v at least", lifetime, opened, end, first)
			}
		}
		if want := max(int(lifetime)/5-2, 1); len(seen) < want {
			t.Errorf("lifetime of %d ticks: %d different ends; want %d", lifetime, len(seen), want)
		}
	}
}

// quietEnd waits until the tunnel ends of itself, answers both Close frames, and returns how
// long it took.
func (s *scene) quietEnd(toClient, toBackend wstest.Frame) time.Duration {
	s.t.Helper()
	start := time.Now()
	s.backend.Conn().SetReadDeadline(time.Time{})
	f, err := s.backend.ReadFrame()
	took := time.Since(start)
	if err != nil || f.String() != toBackend.String() {
		s.t.Fatalf("the backend got %v, %v; want %v", f, err, toBackend)
	}
	s.backend.Send(wstest.Close(1000, ""))
	s.client.Want(toClient)
	s.client.Send(wstest.Close(1000, ""))
	s.hangUp()
	return took
}

func TestTunnelEndsAtTheEndOfItsLifetime(t *testing.T) {
	inBubble(t, func(t *testing.T, e engine) {
		const lifetime = time.Hour
		first, last := time.Duration(math.MaxInt64), time.Duration(0)
		for range 50 {
			s := e.startLimited(t, memory(1<<10), Limits{Lifetime: lifetime})
			took := s.quietEnd(wstest.Close(1012, "reconnect"), wstest.Close(1001, "open for long enough"))
			s.wantEnd(End{Side: Proxy, Cause: CauseLifetime, Code: 1012})
			if took < lifetime*4/5 || took > lifetime {
				t.Fatalf("ended after %v; want the last fifth of %v", took, lifetime)
			}
			first, last = min(first, took), max(last, took)
		}
		if last-first < lifetime/10 {
			t.Errorf("50 tunnels ended from %v to %v; want them apart", first, last)
		}
	})
}

func TestTunnelThatIsBusyEndsAtTheEndOfItsLifetimeToo(t *testing.T) {
	inBubble(t, func(t *testing.T, e engine) {
		s := e.startLimited(t, memory(1<<10), Limits{Lifetime: time.Minute, Idle: time.Minute})
		start := time.Now()
		for {
			if s.client.WriteFrames(wstest.Text("x")) != nil {
				break
			}
			f, err := s.backend.ReadFrame()
			if err != nil || f.Opcode == wstest.OpClose {
				break
			}
			time.Sleep(time.Second)
		}
		if took := time.Since(start); took < 48*time.Second || took > time.Minute+time.Second {
			t.Errorf("ended after %v; want the last fifth of a minute", took)
		}
	})
}

func TestIdleTunnelEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, e engine) {
		const idle = 10 * time.Minute
		for _, from := range []Side{Proxy, Client, Backend} {
			s := e.startLimited(t, memory(1<<10), Limits{Idle: idle})
			if from != Proxy { // a frame moves the end
				time.Sleep(idle - time.Second)
				src, dst := s.peers(from)
				src.Send(wstest.Ping("of a peer"))
				dst.Want(wstest.Ping("of a peer"))
			}
			took := s.quietEnd(wstest.Close(1001, "idle"), wstest.Close(1001, "idle"))
			s.wantEnd(End{Side: Proxy, Cause: CauseIdle, Code: 1001})
			wantWithin(t, took, idle, 2*tickInterval)
		}
	})
}

// wantWithin wants a time to be d, or more by up to the slack.
func wantWithin(t *testing.T, got, d, slack time.Duration) {
	t.Helper()
	if got < d || got > d+slack {
		t.Errorf("it took %v; want %v to %v", got, d, d+slack)
	}
}

func TestPingsOfTheRelayAreNoActivity(t *testing.T) {
	inBubble(t, func(t *testing.T, e engine) {
		const idle = 10 * time.Minute
		s := e.startLimited(t, memory(1<<10), Limits{Idle: idle, PingClient: 20 * time.Second, PingBackend: 30 * time.Second})
		start := time.Now()
		answered := make(chan int, 1)
		go func() { // ends with the Close frame
			n := 0
			for {
				f, err := s.client.ReadFrame()
				if err != nil || f.Opcode != wstest.OpPing {
					answered <- n
					return
				}
				n++
				s.client.WriteFrames(wstest.Pong(string(f.Payload)))
			}
		}()
		n := 0
		for {
			f, err := s.backend.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if f.Opcode == wstest.OpClose {
				break
			}
			n++
			s.backend.Send(wstest.Pong(string(f.Payload)))
		}
		wantWithin(t, time.Since(start), idle, 2*tickInterval)
		s.backend.Send(wstest.Close(1000, ""))
		if c := <-answered; c < 28 || n < 18 {
			t.Errorf("%d pings to the client and %d to the backend; want one in 20 and in 30 s", c, n)
		}
	})
}

func TestLastPassedIsWhenAPeersFrameWasPassed(t *testing.T) {
	inBubble(t, func(t *testing.T, e engine) {
		s := e.startLimited(t, memory(1<<10), Limits{PingClient: time.Minute})
		opened := time.Now()
		s.client.Send(receivePing(t, s.client))
		synctest.Wait()
		if got := relayOf(s).LastPassed(); got.After(opened) {
			t.Errorf("passed something at %v; want nothing", got)
		}
		for _, from := range []Side{Client, Backend} {
			time.Sleep(10 * time.Second)
			src, dst := s.peers(from)
			src.Send(wstest.Text("x"))
			dst.Want(wstest.Text("x"))
			got, want := relayOf(s).LastPassed(), time.Now()
			if got.After(want) || want.Sub(got) >= tickInterval {
				t.Errorf("a frame was passed at %v; want %v", got, want)
			}
		}
		want := relayOf(s).LastPassed()
		s.client.Send(receivePing(t, s.client))
		time.Sleep(time.Second)
		if got := relayOf(s).LastPassed(); got != want {
			t.Errorf("a ping of the relay's own was passed at %v", got)
		}
	})
}

// On the event loop time is real.
func TestOpenTunnelsHaveLimitsOnEachEngine(t *testing.T) {
	forEachEngineAtOnce(t, func(t *testing.T, e engine) {
		for _, tt := range []struct {
			limits Limits
			cause  Cause
			code   int
		}{
			{Limits{Idle: time.Second}, CauseIdle, 1001},
			{Limits{Lifetime: time.Second}, CauseLifetime, 1012},
			{Limits{Idle: time.Hour, Lifetime: time.Second, PingClient: time.Hour}, CauseLifetime, 1012},
		} {
			t.Run(tt.cause.String(), func(t *testing.T) {
				t.Parallel()
				s := e.sharing(t, tt.limits).start(t, networks[0], setup{})
				s.backend.WantClose(1001)
				s.backend.WriteFrames(wstest.Close(1001, ""))
				s.client.WantClose(uint16(tt.code))
				s.client.WriteFrames(wstest.Close(1001, ""))
				s.hangUp()
				s.wantEnd(End{Side: Proxy, Cause: tt.cause, Code: tt.code})
			})
		}
	})
}

// A tunnel that has ended is in no wheel, whatever its limits are.
func TestWheelsForgetTunnelsThatHaveEnded(t *testing.T) {
	forEachEngine(t, func(t *testing.T, e engine) {
		e = e.sharing(t, Limits{Idle: time.Hour, Lifetime: 24 * time.Hour, PingClient: time.Hour})
		for range 20 {
			s := e.start(t, networks[0], setup{})
			s.Close(CauseShutdown, 0, "")
			s.endShutdown()
			r := relayOf(s)
			r.engine.sweeper.mu.Lock()
			place := r.place
			r.engine.sweeper.mu.Unlock()
			if place.at != never || place.index != 0 {
				t.Errorf("a tunnel that has ended is at %+v", place)
			}
		}
	})
}
