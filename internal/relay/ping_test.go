package relay

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

const pingInterval = 20 * time.Second // of most scenes here

// pinging returns limits by which a side is pinged.
func pinging(side Side) Limits {
	if side == Client {
		return Limits{PingClient: pingInterval}
	}
	return Limits{PingBackend: pingInterval}
}

// inBubbleForEachSide runs a test in memory for each side that can be pinged.
func inBubbleForEachSide(t *testing.T, test func(t *testing.T, e engine, pinged Side)) {
	inBubble(t, func(t *testing.T, e engine) {
		for _, side := range bothSides {
			test(t, e, side)
		}
	})
}

// waitForPing waits for a ping, answers it, and returns how long it took.
func waitForPing(t *testing.T, p *wstest.Peer) time.Duration {
	t.Helper()
	start := time.Now()
	pong := receivePing(t, p)
	p.Send(pong)
	return time.Since(start)
}

// receivePing waits for a ping without a limit of time.
func receivePing(t *testing.T, p *wstest.Peer) (pong wstest.Frame) {
	t.Helper()
	p.Conn().SetReadDeadline(time.Time{})
	f, err := p.ReadFrame()
	if err != nil || f.Opcode != wstest.OpPing {
		t.Fatalf("got %v, %v; want a ping", f, err)
	}
	return wstest.Pong(string(f.Payload))
}

// wantQuiet wants nothing to come for d.
func wantQuiet(t *testing.T, p *wstest.Peer, d time.Duration) {
	t.Helper()
	p.Conn().SetReadDeadline(time.Now().Add(d))
	defer p.Conn().SetReadDeadline(time.Time{})
	if b, err := p.Peek(); !isTimeout(err) {
		t.Fatalf("got %x, %v; want nothing for %v", b, err, d)
	}
}

// sendLast makes a peer send something, from when its interval counts. Before that there may have
// been a ping already, at a random point of the first interval.
func sendLast(t *testing.T, peer, other *wstest.Peer) {
	t.Helper()
	time.Sleep(tickInterval) // else it is as if nothing had come since the tunnel was open
	peer.Conn().SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, err := peer.Peek(); !isTimeout(err) {
		peer.Send(peer.WantPing())
	}
	peer.Send(wstest.Text("x"))
	other.Want(wstest.Text("x"))
}

func TestQuietPeerIsPingedAtItsInterval(t *testing.T) {
	inBubbleForEachSide(t, func(t *testing.T, e engine, pinged Side) {
		var firsts []time.Duration
		for range 40 {
			s := e.startLimited(t, memory(1<<10), pinging(pinged))
			peer, other := s.peers(pinged)
			firsts = append(firsts, waitForPing(t, peer))
			for range 5 {
				wantWithin(t, waitForPing(t, peer), pingInterval, 2*tickInterval)
			}
			s.Abort(CauseShutdown)
			other.WantEOF() // and no pong
		}
		slices.Sort(firsts)
		if last := firsts[len(firsts)-1]; last > pingInterval+tickInterval {
			t.Errorf("a first ping came after %v; want %v at most", last, pingInterval)
		}
		if a, b := firsts[10], firsts[30]; a > pingInterval/2 || b < pingInterval/2 {
			t.Errorf("of 40 first pings 10 came after %v and 30 after %v; want them anywhere in %v", a, b, pingInterval)
		}
	})
}

func TestPeerThatSendsIsNotPinged(t *testing.T) {
	inBubbleForEachSide(t, func(t *testing.T, e engine, pinged Side) {
		s := e.startLimited(t, memory(1<<10), pinging(pinged))
		peer, other := s.peers(pinged)
		for range 20 {
			sendLast(t, peer, other)
			wantQuiet(t, peer, pingInterval-time.Second)
		}
		start := time.Now()
		receivePing(t, peer)
		wantWithin(t, time.Since(start), time.Second, 2*tickInterval)
	})
}

// What the other side sends says nothing about a peer.
func TestPeerThatOnlyReceivesIsPinged(t *testing.T) {
	inBubbleForEachSide(t, func(t *testing.T, e engine, pinged Side) {
		s := e.startLimited(t, memory(1<<10), pinging(pinged))
		peer, other := s.peers(pinged)
		pings := 0
		for start := time.Now(); time.Since(start) < 10*pingInterval; {
			other.Send(wstest.Text("x"))
			f, err := peer.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if f.Opcode == wstest.OpPing {
				pings++
				peer.Send(wstest.Pong(string(f.Payload)))
				peer.Want(wstest.Text("x"))
			}
			time.Sleep(time.Second)
		}
		if pings < 9 || pings > 11 {
			t.Errorf("%d pings in 10 intervals", pings)
		}
	})
}

func TestPingThatIsNotAnsweredEndsTheTunnel(t *testing.T) {
	inBubbleForEachSide(t, func(t *testing.T, e engine, pinged Side) {
		for _, timeout := range []time.Duration{0, 5 * time.Second, time.Minute} {
			l := pinging(pinged)
			l.PingTimeout = timeout
			s := e.startLimited(t, memory(1<<10), l)
			peer, other := s.peers(pinged)
			receivePing(t, peer)
			start := time.Now()
			peer.Conn().SetReadDeadline(time.Time{})
			f, err := peer.ReadFrame()
			if err != nil || f.String() != wstest.Close(1001, "ping timeout").String() {
				t.Fatalf("%v: after its ping the %v got %v, %v; want Close 1001", timeout, pinged, f, err)
			}
			if timeout == 0 {
				timeout = pingInterval
			}
			wantWithin(t, time.Since(start), timeout, 2*tickInterval)
			code := 1001
			if pinged == Backend {
				code = 1012
				s.client.Want(wstest.Close(1012, "backend does not answer"))
				s.client.Send(wstest.Close(1012, ""))
				s.client.WantEOF()
				s.client.Close()
			}
			start = time.Now()
			peer.WantEOF()
			if pinged == Client {
				other.WantEOF() // without a Close frame
				other.Close()
			}
			s.wantEnd(End{Side: pinged, Cause: CausePingTimeout, Code: code, Cut: true})
			wantWithin(t, time.Since(start), unansweredTime, 2*tickInterval)
		}
	})
}

func TestPingThatNeedsNoAnswerEndsNothing(t *testing.T) {
	inBubbleForEachSide(t, func(t *testing.T, e engine, pinged Side) {
		l := pinging(pinged)
		l.PingTimeout = -1
		s := e.startLimited(t, memory(1<<10), l)
		peer, other := s.peers(pinged)
		var pongs []wstest.Frame
		for range 20 {
			pongs = append(pongs, receivePing(t, peer))
		}
		peer.Send(pongs[18:]...)
		peer.Send(wstest.Text("x"))
		other.Want(wstest.Text("x"))
	})
}

// An answer may take longer than the interval. That is no reason to ping later from then on.
func TestPeerIsPingedAtItsIntervalAfterALateAnswer(t *testing.T) {
	inBubbleForEachSide(t, func(t *testing.T, e engine, pinged Side) {
		l := pinging(pinged)
		l.PingTimeout = 20 * pingInterval
		s := e.startLimited(t, memory(1<<10), l)
		peer, _ := s.peers(pinged)
		for range 3 {
			pong := receivePing(t, peer)
			time.Sleep(3*pingInterval/2 + time.Second)
			peer.Send(pong)
			start := time.Now()
			pong = receivePing(t, peer)
			if took := time.Since(start); took > pingInterval {
				t.Errorf("pinged %v after a late answer; want %v at most", took, pingInterval)
			}
			peer.Send(pong)
		}
	})
}

// A byte of a header is not passed on, and answers nevertheless.
func TestAnyByteAnswersAPing(t *testing.T) {
	inBubbleForEachSide(t, func(t *testing.T, e engine, pinged Side) {
		s := e.startLimited(t, memory(1<<10), pinging(pinged))
		peer, other := s.peers(pinged)
		for _, b := range wire(pinged, wstest.Text("xyz")) {
			receivePing(t, peer)
			peer.SendRaw([]byte{b})
		}
		other.Want(wstest.Text("xyz"))
		pong := receivePing(t, peer)
		time.Sleep(pingInterval - time.Second)
		peer.Send(pong, wstest.Text("x"))
		other.Want(wstest.Text("x"))
		s.wantRunning()
	})
}

// "If an endpoint receives a Ping frame and has not yet sent Pong frame(s) in response to
// previous Ping frame(s), the endpoint MAY elect to send a Pong frame for only the most
// recently processed Ping frame."
func TestPeerThatOwesAPongIsNotPinged(t *testing.T) {
	inBubbleForEachSide(t, func(t *testing.T, e engine, pinged Side) {
		l := pinging(pinged)
		l.PingTimeout = 3 * pingInterval
		s := e.startLimited(t, memory(1<<10), l)
		peer, other := s.peers(pinged)
		sendLast(t, peer, other)
		other.Send(wstest.Ping("one"), wstest.Ping("two"))
		peer.Want(wstest.Ping("one"), wstest.Ping("two"))
		wantQuiet(t, peer, 2*pingInterval)
		peer.Send(wstest.Pong("one"))
		other.Want(wstest.Pong("one"))
		wantQuiet(t, peer, pingInterval-time.Second)
		peer.Send(wstest.Pong("two"))
		other.Want(wstest.Pong("two"))
		wantWithin(t, waitForPing(t, peer), pingInterval, 2*tickInterval)
	})
}

func TestPeerMayAnswerOnlyTheLastOfTwoPings(t *testing.T) {
	inBubbleForEachSide(t, func(t *testing.T, e engine, pinged Side) {
		s := e.startLimited(t, memory(1<<10), pinging(pinged))
		peer, other := s.peers(pinged)

		// Both are the other peer's.
		sendLast(t, peer, other)
		other.Send(wstest.Ping("one"), wstest.Ping("two"))
		peer.Want(wstest.Ping("one"), wstest.Ping("two"))
		peer.Send(wstest.Pong("two"))
		other.Want(wstest.Pong("two"))
		receivePing(t, peer)

		// The first is ours, and the second the other peer's, which gets its pong. No ping of
		// ours needs one then.
		other.Send(wstest.Ping("three"))
		peer.Want(wstest.Ping("three"))
		peer.Send(wstest.Pong("three"))
		other.Want(wstest.Pong("three"))
		for range 5 {
			pong := receivePing(t, peer)
			peer.Send(pong)
		}
		peer.Send(wstest.Text("x"))
		other.Want(wstest.Text("x"))
	})
}

// Many peers answer no ping but with their next message.
func TestPongThatIsOwedIsForgotten(t *testing.T) {
	inBubbleForEachSide(t, func(t *testing.T, e engine, pinged Side) {
		l := pinging(pinged)
		l.PingTimeout = 3 * pingInterval
		s := e.startLimited(t, memory(1<<10), l)
		peer, other := s.peers(pinged)
		sendLast(t, peer, other)
		other.Send(wstest.Ping("never answered"))
		peer.Want(wstest.Ping("never answered"))
		start := time.Now()
		pong := receivePing(t, peer)
		wantWithin(t, time.Since(start), l.PingTimeout, 3*tickInterval)
		peer.Send(pong, wstest.Pong("never answered"))
		other.Want(wstest.Pong("never answered")) // late, and passed
	})
}

// A peer that is dead owes the other one a pong at any time, if that pings often enough.
func TestDeadPeerIsFoundThoughTheOtherPingsIt(t *testing.T) {
	inBubbleForEachSide(t, func(t *testing.T, e engine, pinged Side) {
		for _, payloads := range [][]string{{"same"}, {"one", "another"}} {
			s := e.startLimited(t, memory(64<<10), pinging(pinged))
			_, other := s.peers(pinged)
			start := time.Now()
			for i := 0; time.Since(start) < 10*pingInterval && !relayOf(s).IsEnding(); i++ {
				other.Send(wstest.Ping(payloads[i%len(payloads)]))
				time.Sleep(pingInterval / 4)
			}
			s.client.Close()
			s.backend.Close()
			if end := s.wait(); end.Side != pinged || end.Cause != CausePingTimeout {
				t.Errorf("pinged with %v it ended with %+v; want a ping timeout of the %v", payloads, end, pinged)
			}
			if took := time.Since(start); took > 3*pingInterval+time.Second {
				t.Errorf("found after %v; want 3 intervals at most", took)
			}
		}
	})
}

func TestPingsWithTheSamePayloadAreOwedOneByOne(t *testing.T) {
	inBubbleForEachSide(t, func(t *testing.T, e engine, pinged Side) {
		l := pinging(pinged)
		l.PingTimeout = 3 * pingInterval
		s := e.startLimited(t, memory(1<<10), l)
		peer, other := s.peers(pinged)
		sendLast(t, peer, other)
		other.Send(wstest.Ping(""), wstest.Ping(""))
		peer.Want(wstest.Ping(""), wstest.Ping(""))
		peer.Send(wstest.Pong(""))
		other.Want(wstest.Pong(""))
		wantQuiet(t, peer, 2*pingInterval)
		peer.Send(wstest.Pong(""))
		other.Want(wstest.Pong(""))
		wantWithin(t, waitForPing(t, peer), pingInterval, 2*tickInterval)
	})
}

// With permessage-deflate the first frame of a message says that it is compressed, and
// control frames never are.
func TestPingsGoBetweenTheFragmentsOfACompressedMessage(t *testing.T) {
	inBubbleForEachSide(t, func(t *testing.T, e engine, pinged Side) {
		s := e.sharing(t, pinging(pinged)).start(t, memory(1<<10), setup{Config: Config{Deflate: true}})
		peer, other := s.peers(pinged)
		first := wstest.Fragment(wstest.OpText, false, "first")
		first.RSV = 4
		next, last := wstest.Fragment(wstest.OpContinuation, false, "next"), wstest.Fragment(wstest.OpContinuation, true, "last")
		other.Send(first)
		peer.Want(first)
		for range 3 {
			waitForPing(t, peer)
			other.Send(next)
			peer.Want(next)
		}
		other.Send(last)
		peer.Want(last)

		peer.Send(first)
		other.Want(first)
		for range 3 {
			waitForPing(t, peer) // its pong is between the fragments of its own message
		}
		peer.Send(last)
		other.Want(last)
	})
}

func TestPongForAPingOfTheRelayIsNotOneOfTheClientsControlFrames(t *testing.T) {
	inBubble(t, func(t *testing.T, e engine) {
		s := e.startLimited(t, memory(1<<10), pinging(Client))
		pings := slices.Repeat([]wstest.Frame{wstest.Ping("x")}, maxControls)
		s.client.Send(append(pings, receivePing(t, s.client))...)
		s.backend.Want(pings...)
		synctest.Wait()
		s.wantRunning()
		s.client.Send(wstest.Ping("x"))
		s.client.WantClose(1008)
	})
}

func TestRoundTripsAreRecorded(t *testing.T) {
	inBubbleForEachSide(t, func(t *testing.T, e engine, pinged Side) {
		s := e.startLimited(t, memory(1<<10), pinging(pinged))
		peer, other := s.peers(pinged)
		for range 3 {
			pong := receivePing(t, peer)
			time.Sleep(20 * time.Millisecond)
			peer.Send(pong)
		}
		receivePing(t, peer)
		peer.Send(wstest.Text("answers it too"))
		other.Want(wstest.Text("answers it too"))
		engine := relayOf(s).engine
		if got := engine.RoundTrips(pinged).Snapshot(); got.Count != 3 || got.Sum != 60*time.Millisecond {
			t.Errorf("%d round trips of the %v take %v; want 3 of 60 ms", got.Count, pinged, got.Sum)
		}
		if got := engine.RoundTrips(otherSide(pinged)).Snapshot(); got.Count != 0 {
			t.Errorf("%d round trips of the other side", got.Count)
		}
	})
}

func TestTunnelThatIsIdleBetweenPingsKeepsNothingOfThem(t *testing.T) {
	inBubbleForEachSide(t, func(t *testing.T, e engine, pinged Side) {
		s := e.startLimited(t, memory(1<<10), pinging(pinged))
		peer, other := s.peers(pinged)
		r := relayOf(s)
		waitForPing(t, peer)
		other.Send(wstest.Ping("theirs"))
		peer.Want(wstest.Ping("theirs"))
		peer.Send(wstest.Pong("theirs"))
		other.Want(wstest.Pong("theirs"))
		time.Sleep(2 * tickInterval)
		synctest.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.pings.Load() != nil || r.closing != nil {
			t.Errorf("an idle tunnel keeps %+v, %+v", r.pings.Load(), r.closing)
		}
	})
}

func TestNoPingIsSentOrAwaitedWhileATunnelEnds(t *testing.T) {
	inBubbleForEachSide(t, func(t *testing.T, e engine, pinged Side) {
		l := pinging(pinged)
		l.PingTimeout = 2 * time.Second
		s := e.startLimited(t, memory(1<<10), l)
		peer, _ := s.peers(pinged)
		pong := receivePing(t, peer)
		s.Close(CauseShutdown, 0, "")
		s.backend.WantClose(1001)
		for range 4 { // the backend goes on, and the ping has no answer
			time.Sleep(900 * time.Millisecond)
			s.backend.Send(wstest.Text("x"))
			s.client.Want(wstest.Text("x"))
		}
		if pinged == Backend {
			s.backend.Send(pong) // late, and not passed
		}
		s.backend.Send(wstest.Close(1001, ""))
		s.client.WantClose(1001)
		s.client.Send(wstest.Close(1001, ""))
		s.hangUp()
		s.wantEnd(End{Side: Proxy, Cause: CauseShutdown, Code: 1001})
	})
}

// A pingDriver is a fake driver whose relay is looked at at each tick.
func newPingDriver(t *testing.T, l Limits) *fakeDriver {
	d := newFake(t, l)
	d.r.startOpenLimits(0)
	return d
}

// pass lets n ticks pass.
func (d *fakeDriver) pass(n ticks) {
	for range n {
		d.time++
		d.r.checkOpen(d.time)
		d.settle()
		d.tick()
	}
}

func TestPeerIsNotPingedAtTheTickInWhichTheOtherEndsTheTunnel(t *testing.T) {
	d := newPingDriver(t, Limits{PingClient: pingInterval, PingBackend: pingInterval})
	d.r.client.pingAt = 1
	d.r.backend.pingAt = 1 + 1 + roundUp(pingInterval)
	for !d.r.IsEnding() {
		d.pass(1)
	}
	if d.time != d.r.backend.pingAt || len(d.backend.written) > 0 {
		t.Errorf("at tick %d the client has not answered, and the backend got %x", d.time, d.backend.written)
	}
}

func TestPingThatIsNotAnsweredChangesNothingAtTheEnd(t *testing.T) {
	for _, side := range bothSides {
		d := newPingDriver(t, pinging(side))
		d.pass(roundUp(pingInterval) + 1)
		d.close(CauseShutdown)
		d.time += 2 * roundUp(pingInterval)
		d.r.leg(side).checkPing(d.time) // has begun before the end
		if d.r.leg(side).readState() == readViolated {
			t.Errorf("nothing more of the %v is read", side)
		}
	}
}

// A peer that reads a large message slowly gets the ping behind it.
func TestPeerThatTakesWhatWaitsForItHasTimeToAnswer(t *testing.T) {
	for _, side := range bothSides {
		l := pinging(side)
		d := newPingDriver(t, l)
		c := d.fake(side)
		c.inSystem = 1 << 20
		d.receive(otherSide(side), wstest.Binary(make([]byte, 1<<20)))
		for range 20 {
			d.pass(roundUp(pingInterval) - 1)
			c.inSystem -= 10_000
		}
		if d.r.IsEnding() {
			t.Errorf("the %v takes bytes, and was ended: %v", side, d.r.closing.end)
		}
		d.pass(2*roundUp(pingInterval) + 4)
		if !d.r.IsEnding() || d.r.closing.end.Cause != CausePingTimeout {
			t.Errorf("the %v has taken nothing for two intervals, and was not ended", side)
		}
	}
}

// What comes behind the ping says nothing about the peer: its system takes that.
func TestFrozenPeerIsFoundThoughItsSystemTakesBytes(t *testing.T) {
	for _, side := range bothSides {
		d := newPingDriver(t, pinging(side))
		for !d.r.IsEnding() && d.time < 10*roundUp(pingInterval) {
			d.receive(otherSide(side), wstest.Text("x"))
			d.pass(1)
		}
		if took := d.time - 2*roundUp(pingInterval); took > 4 {
			t.Errorf("the %v was found %d ticks after two intervals", side, took)
		}
	}
}

// A system that has no room for more takes only what its program has made room for.
func TestPeerThatReadsBehindAFullBufferHasTimeToAnswer(t *testing.T) {
	for _, side := range bothSides {
		d := newPingDriver(t, pinging(side))
		d.pass(roundUp(pingInterval) + 1)
		c := d.fake(side)
		c.inSystem = 1 << 20
		d.receive(otherSide(side), wstest.Binary(make([]byte, 1<<20)))
		d.block(side)
		d.receive(otherSide(side), wstest.Binary(make([]byte, 2<<20)))
		for range 20 {
			d.pass(roundUp(pingInterval) - 1)
			c.inSystem -= 10_000
		}
		if d.r.IsEnding() {
			t.Errorf("the %v takes bytes, and was ended: %v", side, d.r.closing.end)
		}
	}
}

func TestPingsDoNotHideThatAPeerTakesNothing(t *testing.T) {
	for _, side := range bothSides {
		l := pinging(side)
		l.PingTimeout, l.WriteStall = -1, 6*pingInterval
		d := newPingDriver(t, l)
		d.block(side)
		d.receive(otherSide(side), wstest.Text("waits"))
		d.pass(roundUp(l.WriteStall) + 2)
		if !d.r.IsEnding() || d.r.closing.end.Cause != CauseStalled {
			t.Errorf("the %v has taken nothing for %v, and was not ended", side, l.WriteStall)
		}
	}
}

// While something waits for one side, the other is not read, and its pong may wait too.
func TestTimeForAnAnswerDoesNotRunWhileAPeerIsNotRead(t *testing.T) {
	for _, side := range bothSides {
		d := newPingDriver(t, pinging(side))
		d.pass(roundUp(pingInterval) + 1)
		d.sample(otherSide(side)).isBlocked = true
		d.pass(10 * roundUp(pingInterval))
		if d.r.IsEnding() {
			t.Fatalf("the %v was not read, and was ended: %v", side, d.r.closing.end)
		}
		d.sample(otherSide(side)).isBlocked = false
		d.pass(roundUp(pingInterval) - 1)
		if d.r.IsEnding() {
			t.Errorf("the %v was read again, and had no time to answer: %v", side, d.r.closing.end)
		}
		d.pass(3)
		if !d.r.IsEnding() {
			t.Errorf("the %v has not answered, and was not ended", side)
		}
	}
}

// A ping that waits for the end of a frame is not sent again, nor does it wait for its pong.
func TestPingBehindALongFrameIsNotAwaited(t *testing.T) {
	for _, side := range bothSides {
		d := newPingDriver(t, pinging(side))
		message := wire(otherSide(side), wstest.Binary(make([]byte, 10_000)))
		d.receiveRaw(otherSide(side), message[:5000])
		written := len(d.fake(side).written)
		d.pass(10 * roundUp(pingInterval))
		if d.r.IsEnding() || len(d.fake(side).written) != written {
			t.Fatalf("the %v got %d bytes within a frame", side, len(d.fake(side).written)-written)
		}
		d.receiveRaw(otherSide(side), message[5000:])
		d.pass(1)
		pings := len(d.fake(side).written) - len(message)
		if want := len(wire(otherSide(side), wstest.Ping("12345678"))); pings != want {
			t.Errorf("the %v got %d bytes of pings behind the frame; want %d", side, pings, want)
		}
	}
}

// On the event loop time is real.
func TestPingsGoToBothSidesOnEachEngine(t *testing.T) {
	forEachNetworkAtOnce(t, func(t *testing.T, e engine, n network) {
		e = e.sharing(t, Limits{PingClient: 2 * tickInterval, PingBackend: 3 * tickInterval, PingTimeout: 10 * time.Second})
		s := e.start(t, n, setup{})
		for range 3 {
			s.client.Send(s.client.WantPing())
			s.backend.Send(s.backend.WantPing())
		}
		if n := relayOf(s).engine.RoundTrips(Client).Snapshot().Count; n < 2 {
			t.Errorf("%d round trips of the client; want 2 or 3", n)
		}
	})
}

func TestUnansweredPingEndsTheTunnelOnEachEngine(t *testing.T) {
	forEachNetworkAtOnce(t, func(t *testing.T, e engine, n network) {
		for _, side := range bothSides {
			l := Limits{PingClient: tickInterval}
			if side == Backend {
				l = Limits{PingBackend: tickInterval}
			}
			s := e.sharing(t, l).start(t, n, setup{})
			peer, other := s.peers(side)
			peer.WantPing()
			peer.WantClose(1001)
			if side == Backend {
				other.WantClose(1012)
			}
			peer.Close()
			other.WantEOF()
			other.Close()
			if end := s.wait(); end.Side != side || end.Cause != CausePingTimeout {
				t.Errorf("ended with %+v; want a ping timeout of the %v", end, side)
			}
			want := [2]uint64{1, 0}
			if side == Backend {
				want = [2]uint64{0, 1}
			}
			x := relayOf(s).engine.Stats()
			if got := [2]uint64{x.ClientPingsUnanswered, x.BackendPingsUnanswered}; got != want {
				t.Errorf("%v pings to client and backend were not answered; want %v", got, want)
			}
		}
	})
}
