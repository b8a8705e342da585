package relay

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/wsproxy/wsproxy/internal/limit"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestControlBucketAllowsABurstAndThenTheRate(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name  string
		steps []struct {
			at      time.Duration
			frames  int
			allowed int
		}
	}{
		{"a burst", []struct {
			at              time.Duration
			frames, allowed int
		}{{0, 101, 100}, {9 * ms, 1, 0}, {10 * ms, 2, 1}, {509 * ms, 100, 49}, {10 * time.Second, 101, 100}}},
		{"a pong every 20 s", []struct {
			at              time.Duration
			frames, allowed int
		}{{20 * time.Second, 1, 1}, {40 * time.Second, 1, 1}, {time.Hour, 1, 1}}},
		{"years", []struct { // the time is stored modulo 2³² intervals
			at              time.Duration
			frames, allowed int
		}{{0, 50, 50}, {1 << 31 * controlInterval, 100, 100}, {(1<<32 + 50) * controlInterval, 101, 100}, {(3<<32 + 200) * controlInterval, 101, 100}}},
	} {
		var b controlBucket
		for i, step := range tt.steps {
			allowed := 0
			for range step.frames {
				if b.allow(step.at) {
					allowed++
				}
			}
			if allowed != step.allowed {
				t.Errorf("%s: step %d: at %v %d of %d frames are allowed; want %d", tt.name, i, step.at, allowed, step.frames, step.allowed)
			}
		}
	}
}

func TestControlBucketAllowsTheRateForEver(t *testing.T) {
	for _, group := range []int{1, 7, 50, maxControls} { // frames that come at once
		var b controlBucket
		for i := range 100_000 {
			at := 123456789 + time.Duration(i/group*group)*controlInterval
			if !b.allow(at) {
				t.Fatalf("frame %d is refused, though 100 a second came, %d at once", i, group)
			}
		}
	}
}

func TestRatesAllowInABurstWhatComesInATick(t *testing.T) {
	for _, tt := range []struct{ given, want limit.Rate }{
		{limit.Rate{}, limit.Rate{}},
		{limit.Rate{PerSecond: -1, Burst: 5}, limit.Rate{}},
		{limit.Rate{PerSecond: math.Inf(1), Burst: 5}, limit.Rate{}},
		{limit.Rate{PerSecond: 0.1}, limit.Rate{PerSecond: 0.1, Burst: 1}},
		{limit.Rate{PerSecond: 10, Burst: 20}, limit.Rate{PerSecond: 10, Burst: 20}},
		{limit.Rate{PerSecond: 10, Burst: 2}, limit.Rate{PerSecond: 10, Burst: 3}},
		{limit.Rate{PerSecond: 1e300}, limit.Rate{PerSecond: 1e300, Burst: math.MaxInt32}},
	} {
		for _, l := range []Limits{{ClientMessages: tt.given}, {ClientBytes: tt.given}} {
			r := newRates(l)
			if got := max(r.messages.PerSecond, r.bytes.PerSecond); got != tt.want.PerSecond || r.messages.Burst+r.bytes.Burst != tt.want.Burst {
				t.Errorf("rates of %+v are %+v; want %+v", l, r, tt.want)
			}
			if r.areBound() != (tt.want != limit.Rate{}) {
				t.Errorf("rates of %+v: areBound() = %v", l, r.areBound())
			}
		}
	}
}

func TestTunnelWithoutRatesPaysForNone(t *testing.T) {
	if f := NewEngine(Limits{}).New(Config{}).flow; f != nil {
		t.Error("a relay without rates has a flow")
	}
	if size := unsafe.Sizeof(flow{}); size > 32 {
		t.Errorf("a flow has %d bytes; want 32", size)
	}
	if size := unsafe.Sizeof(Relay{}); unsafe.Sizeof(uintptr(0)) == 8 && size > 288 {
		t.Errorf("a Relay has %d bytes; more than 288 take 320 of the heap", size)
	}
}

// wantPings wants at least n pings at the backend, and skips those that follow.
func (s *scene) wantPings(n int) {
	s.t.Helper()
	for i := 0; ; i++ {
		if b, err := s.backend.Peek(); i >= n && (err != nil || b != 0x80|wstest.OpPing) {
			return
		}
		s.backend.Want(wstest.Ping(""))
	}
}

// messagesOf returns n messages, which differ.
func messagesOf(n int) []wstest.Frame {
	var all []wstest.Frame
	for i := range n {
		all = append(all, wstest.Text(fmt.Sprintf("message %04d", i)))
	}
	return all
}

// startLimited is start, on an engine with limits.
func (e engine) startLimited(t *testing.T, n network, l Limits) *scene {
	t.Helper()
	return e.sharing(t, l).start(t, n, setup{})
}

func TestClientMessagesAreHeldToTheirRate(t *testing.T) {
	inBubble(t, func(t *testing.T, e engine) {
		const (
			messages  = 100
			slack     = 4 // messages in a read
			perSecond = 10
			burst     = 20
		)
		s := e.startLimited(t, memory(slack*len(masked(messagesOf(1)...))), Limits{ClientMessages: limit.Rate{PerSecond: perSecond, Burst: burst}})
		start := time.Now()
		go s.client.WriteFrames(messagesOf(messages)...)
		for i, want := range messagesOf(messages) {
			got, err := s.backend.ReadFrame()
			if err != nil || string(got.Payload) != string(want.Payload) {
				t.Fatalf("got %v, %v; want %v", got, err, want)
			}
			if most := burst + slack + perSecond*time.Since(start).Seconds(); float64(i+1) > most {
				t.Fatalf("%d messages have come after %v; want %v at most", i+1, time.Since(start), most)
			}
		}
		const due = (messages - burst - slack) * time.Second / perSecond
		if took := time.Since(start); took < due || took > due+4*tickInterval {
			t.Errorf("the messages took %v; want %v", took, due)
		}
	})
}

func TestFragmentsOfAMessageCountOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, e engine) {
		s := e.startLimited(t, memory(64), Limits{ClientMessages: limit.Rate{PerSecond: 1, Burst: 2}})
		start := time.Now()
		first := wstest.Fragment(wstest.OpText, false, "a")
		more := slices.Repeat([]wstest.Frame{wstest.Fragment(wstest.OpContinuation, false, "a")}, 100)
		go s.client.WriteFrames(slices.Concat([]wstest.Frame{first}, more)...)
		s.backend.Want(first)
		s.backend.Want(more...)
		if took := time.Since(start); took != 0 {
			t.Errorf("fragments of one message took %v", took)
		}
	})
}

func TestClientBytesAreHeldToTheirRate(t *testing.T) {
	const (
		perSecond = 1000
		burst     = 2000
		slack     = 100
		payload   = 10_000
	)
	sent := masked(wstest.Binary(bytes.Repeat([]byte("payload..."), payload/10)), wstest.Ping("counts too"))
	inBubble(t, func(t *testing.T, e engine) {
		s := e.startLimited(t, memory(slack), Limits{ClientBytes: limit.Rate{PerSecond: perSecond, Burst: burst}})
		wantRate(t, s, sent, perSecond, burst, slack, 10*tickInterval)
	})
}

// As above, over all networks, and so fast that an event loop moves the payload through a
// pipe.
func TestClientBytesAreHeldToTheirRateOnSockets(t *testing.T) {
	const (
		perSecond = 1 << 20
		burst     = 300 << 10
		slack     = 64 << 10 // a read, or what goes through a pipe at once
	)
	var payload []byte
	for i := range 1 << 20 {
		payload = append(payload, byte(i>>8+i))
	}
	sent := masked(wstest.Binary(payload), wstest.Text("next"), wstest.Binary(payload[:1<<19]))
	forEachNetworkAtOnce(t, func(t *testing.T, e engine, n network) {
		s := e.startLimited(t, n, Limits{ClientBytes: limit.Rate{PerSecond: perSecond, Burst: burst}})
		wantRate(t, s, sent, perSecond, burst, slack, time.Minute) // the machine may be busy
	})
}

// wantRate makes the client send bytes, and wants them to come at a rate, and at most so late.
func wantRate(t *testing.T, s *scene, sent []byte, perSecond, burst, slack int, late time.Duration) {
	t.Helper()
	start := time.Now()
	go s.client.Write(sent) // until it is read, or the end
	var got []byte
	b := make([]byte, 16<<10)
	for len(got) < len(sent) {
		n, err := s.backend.Read(b)
		got = append(got, b[:n]...)
		if most := float64(burst+slack) + float64(perSecond)*time.Since(start).Seconds(); float64(len(got)) > most {
			t.Fatalf("%d bytes have come after %v; want %.0f at most", len(got), time.Since(start), most)
		}
		if err != nil {
			t.Fatalf("after %d of %d bytes: %v", len(got), len(sent), err)
		}
	}
	if !bytes.Equal(got, sent) {
		t.Error("other bytes came than were sent")
	}
	due := time.Duration(float64(len(sent)-burst-slack) / float64(perSecond) * float64(time.Second))
	if took := time.Since(start); took < due-4*tickInterval || took > due+late {
		t.Errorf("%d bytes took %v; want %v", len(sent), took, due)
	}
}

// onceInHours is a rate that holds a client back for hours.
var onceInHours = Limits{ClientMessages: limit.Rate{PerSecond: 1. / 10_000}}

// hold makes the client send messages until it is held back, and the backend read them.
func (s *scene) hold() {
	s.t.Helper()
	s.client.Send(wstest.Text("first"))
	s.backend.Want(wstest.Text("first"))
	s.client.Send(wstest.Text("held back"))
}

// wantHeld wants that what hold has left does not come.
func (s *scene) wantHeld() {
	s.t.Helper()
	s.backend.Conn().SetReadDeadline(time.Now().Add(2 * tickInterval))
	if b, err := s.backend.Peek(); !isTimeout(err) {
		s.t.Fatalf("the backend got %x, %v; want nothing", b, err)
	}
}

func TestClientThatIsHeldBackGetsAllThatItsBackendSends(t *testing.T) {
	forEachNetworkAtOnce(t, func(t *testing.T, e engine, n network) {
		s := e.startLimited(t, n, onceInHours)
		s.hold()
		message := wstest.Binary(make([]byte, 200_000))
		for range 10 {
			go s.backend.WriteFrames(message, wstest.Ping(""))
			s.client.Want(message, wstest.Ping(""))
		}
		s.wantHeld()
		s.wantRunning()
	})
}

func TestTunnelWhoseClientIsHeldBackIsNotStalled(t *testing.T) {
	forEachNetworkAtOnce(t, func(t *testing.T, e engine, n network) {
		l := onceInHours
		l.Stalled = 1
		e = e.sharing(t, l)
		scenes := []*scene{e.start(t, n, setup{}), e.start(t, n, setup{})}
		for _, s := range scenes {
			s.hold()
		}
		time.Sleep(stallTime + 3*tickInterval)
		for _, s := range scenes {
			s.wantRunning()
			if isStalled(relayOf(s)) {
				t.Error("the tunnel counts as stalled")
			}
		}
	})
}

// What was held back comes before the end, unless nothing can be written to the backend.
func TestTunnelWhoseClientIsHeldBackEndsPromptly(t *testing.T) {
	for _, tt := range []struct {
		name         string
		act          func(*scene)
		end          End
		needsHangUps bool // the system must tell that the client is gone
		isReset      bool
	}{
		{"abort", func(s *scene) {
			s.Abort(CauseShutdown)
		}, End{Side: Proxy, Cause: CauseShutdown, Cut: true}, false, false},
		{"shutdown", func(s *scene) {
			s.Close(CauseShutdown, 0, "")
			s.backend.WantClose(1001)
			s.backend.Send(wstest.Close(1001, ""))
			s.client.WantClose(1001)
			s.client.Send(wstest.Close(1001, ""))
			s.hangUp()
		}, End{Side: Proxy, Cause: CauseShutdown, Code: 1001}, false, false},
		{"the backend closes", func(s *scene) {
			s.backend.Send(wstest.Close(1000, ""))
			s.client.WantClose(1000)
			s.client.Send(wstest.Close(1000, ""))
			s.backend.Want(wstest.Text("held back"))
			s.backend.WantClose(1000)
			s.hangUp()
		}, End{Side: Backend, Cause: CauseClosed, Code: 1000}, false, false},
		{"the backend is lost", func(s *scene) {
			s.backend.Close()
			s.client.WantClose(1012)
			s.client.Close()
		}, End{Side: Backend, Cause: CauseLost, Code: 1012}, false, false},
		{"the client is lost", func(s *scene) {
			s.client.Close()
			s.backend.Want(wstest.Text("held back"))
			s.backend.WantEOF()
			s.backend.Close()
		}, End{Side: Client, Cause: CauseLost}, true, false},
		{"the client closes, and ends its stream", func(s *scene) {
			s.client.Send(wstest.Close(1000, ""))
			if c, isTLS := s.client.Conn().(*tls.Conn); isTLS { // whose CloseWrite the system does not see
				c.NetConn().(*net.TCPConn).CloseWrite()
			} else {
				s.client.CloseWrite()
			}
			s.backend.Want(wstest.Text("held back"))
			s.backend.WantClose(1000)
			s.backend.Send(wstest.Close(1000, ""))
			s.client.WantClose(1000)
			s.backend.CloseWrite()
			s.client.WantEOF()
			s.client.Conn().Close() // over TLS this is an error
			s.backend.WantEOF()
			s.backend.Close()
		}, End{Side: Client, Cause: CauseClosed, Code: 1000}, true, false},
		{"the client is reset", func(s *scene) {
			reset(s.t, s.client)
			if _, err := io.Copy(io.Discard, s.backend); err != nil {
				s.t.Errorf("the backend got %v; want the end of the stream", err)
			}
			s.backend.Close()
		}, End{Side: Client, Cause: CauseLost}, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			forEachNetwork(t, func(t *testing.T, e engine, n network) {
				if tt.needsHangUps && (runtime.GOOS != "linux" || strings.Contains(n.name, "wrap") || n.name == "memory") {
					t.Skip("nothing tells that the client is gone")
				}
				if tt.isReset && n.cannotReset {
					t.Skip("there are no resets")
				}
				t.Parallel() // it waits for ticks
				s := e.startLimited(t, n, onceInHours)
				s.hold()
				s.client.Want() // nothing, but the message is on its way
				start := time.Now()
				tt.act(s)
				s.wantEnd(tt.end)
				if took := time.Since(start); took > 5*time.Second {
					t.Errorf("the tunnel took %v to end", took)
				}
			})
		})
	}
}

// A frame under way is finished when the tunnel ends: the backend's Close frame comes
// behind it.
func TestClosingReadsTheRestOfAFrameThatIsHeldBack(t *testing.T) {
	forEachNetworkAtOnce(t, func(t *testing.T, e engine, n network) {
		s := e.startLimited(t, n, Limits{ClientBytes: limit.Rate{PerSecond: 1, Burst: 1}})
		big := masked(wstest.Binary(make([]byte, 500_000)))
		go s.client.Write(big) // until it is read
		s.backend.WantRaw(string(big[:100]))
		s.Close(CauseShutdown, 0, "")
		s.backend.WantRaw(string(big[100:]))
		s.endShutdown()
	})
}

// A frame of ours needs the client's reader, which goes on waiting afterwards.
func TestFramesOfOursReachTheBackendWhileTheClientIsHeldBack(t *testing.T) {
	forEachNetworkAtOnce(t, func(t *testing.T, e engine, n network) {
		e = e.sharing(t, onceInHours)
		s, p := startPinging(t, e, n)
		s.hold()
		for range 3 {
			p.ping(Backend)
			s.backend.WantPing()
			s.wantHeld()
		}
	})
}

func TestClientThatIsHeldBackIsReadAgainAtATick(t *testing.T) {
	inBubble(t, func(t *testing.T, e engine) {
		s := e.startLimited(t, memory(1<<10), Limits{ClientMessages: limit.Rate{PerSecond: 1, Burst: 1}})
		s.hold()
		for range 100 {
			start := time.Now()
			s.backend.Want(wstest.Text("held back"))
			if took := time.Since(start); took < time.Second-tickInterval || took > time.Second+2*tickInterval {
				t.Fatalf("a message took %v; want a second", took)
			}
			s.client.Send(wstest.Text("held back"))
		}
		s.backend.Want(wstest.Text("held back"))
		time.Sleep(time.Minute)
		synctest.Wait()
		sw := &relayOf(s).engine.sweeper
		sw.mu.Lock()
		defer sw.mu.Unlock()
		if sw.first != nil {
			t.Error("the sweeper still looks at a tunnel whose client is not held back")
		}
	})
}

func TestClientMaySendAHundredControlFramesASecond(t *testing.T) {
	inBubble(t, func(t *testing.T, e engine) {
		s := e.start(t, memory(1<<16), setup{})
		for range 1000 {
			s.client.Send(wstest.Ping(""))
			s.backend.Want(wstest.Ping(""))
			time.Sleep(controlInterval)
		}
		for range 10 {
			time.Sleep(time.Second)
			burst := slices.Repeat([]wstest.Frame{wstest.Pong("")}, maxControls)
			s.client.Send(burst...)
			s.backend.Want(burst...)
		}
		s.client.Send(wstest.Text("last"), wstest.Close(1000, "")) // a Close frame ends a tunnel in order
		s.backend.Want(wstest.Text("last"), wstest.Close(1000, ""))
	})
}

func TestControlFloodEndsBehindTheMessagesBeforeIt(t *testing.T) {
	inBubble(t, func(t *testing.T, e engine) {
		s := e.start(t, memory(1<<16), setup{})
		first := wstest.Fragment(wstest.OpText, false, "first")
		pongs := slices.Repeat([]wstest.Frame{wstest.Pong("")}, maxControls)
		s.client.Send(slices.Concat([]wstest.Frame{wstest.Text("whole"), first}, pongs, []wstest.Frame{wstest.Pong(""), wstest.Text("after")})...)
		s.backend.Want(wstest.Text("whole"), first)
		s.backend.Want(pongs...)
		s.backend.Want(wstest.Close(1001, "client sent too many control frames"))
		s.backend.Send(wstest.Text("answer"), wstest.Close(1001, ""))
		s.client.Want(wstest.Text("answer"), wstest.Close(1008, errControlFlood.Reason))
		s.client.Close()
		s.backend.WantEOF()
		s.backend.Close()
		if err := s.wantEnd(End{Side: Client, Cause: CauseControlFlood, Code: 1008}); !errors.Is(err, errControlFlood) {
			t.Errorf("ended with error %v; want %v", err, errControlFlood)
		}
	})
}

func TestBackendMaySendAnyNumberOfControlFrames(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		s := e.start(t, n, setup{})
		pings := slices.Repeat([]wstest.Frame{wstest.Ping("")}, 20*maxControls)
		go s.backend.WriteFrames(pings...)
		s.client.Want(pings...)
		s.wantRunning()
	})
}

// The clocks of closing do not run while a client is held back.
func TestTickCountsNoSilenceOfAClientThatIsHeldBack(t *testing.T) {
	d := newFake(t, Limits{})
	d.block(Client) // so that there are clocks
	d.sample(Client).isHeldBack = true
	for range 10 {
		d.tick()
	}
	if quiet := d.r.closing.legs[0].clock.quiet; quiet >= 0 {
		t.Errorf("the client has been quiet for %v, though it was not read", quiet)
	}
	d.sample(Client).isHeldBack = false
	d.tick()
	d.tick()
	if quiet := d.r.closing.legs[0].clock.quiet; quiet != tickInterval {
		t.Errorf("the client has been quiet for %v; want a tick", quiet)
	}
}
