package relay

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/wsproxy/wsproxy/internal/frame"
)

// This file has the pings of the relay's own: when they are sent, what answers them, and the
// pongs that the two peers owe each other. checkOpen calls checkPing at the ticks that it asks for.
//
// A ping goes to a peer that has been quiet for the interval of its side. Any byte from it is
// an answer; its pong is not passed on. A peer that still owes the other one a pong is not
// pinged, because it may answer only the latest ping:
// https://www.rfc-editor.org/rfc/rfc6455#section-5.5.3

// pingTimes are the times for the pings to one side.
type pingTimes struct {
	interval ticks // 0 means no pings
	timeout  ticks // 0 means that no answer is wanted
}

// newPingTimes returns the times for an interval and a timeout. A timeout of 0 means the interval,
// a negative one none.
func newPingTimes(interval, timeout time.Duration) pingTimes {
	if interval <= 0 {
		return pingTimes{}
	}
	return pingTimes{interval: roundUp(interval), timeout: roundUp(cmp.Or(timeout, interval))}
}

// unansweredTime is how long a peer that did not answer a ping may take to answer a Close frame.
const unansweredTime = time.Second

// maxSent bounds the pings without a pong for a peer that sends other bytes. The oldest one gives
// way to a new one: most likely its pong never comes.
const maxSent = 16

// pings has the pings under way in a relay, ours and those of the peers. An idle relay has none.
type pings struct{ legs [2]legPings }

// legPings has the pings under way to the peer of one leg.
type legPings struct {
	sent  []sentPing // without a pong yet, the oldest first
	isDue bool       // one is enqueued, and is not being written yet

	// No byte has come from the peer since the last ping was written. Since is when, or when
	// the peer last took some of what waits for it: the ping may be behind that. InFront is
	// how many bytes were passed before the ping.
	isAwaited      bool
	since          ticks
	taken, inFront int64

	owed owedPong
}

// A sentPing is a ping of ours.
type sentPing struct {
	payload []byte
	at      time.Duration // since the engine began
}

// An owedPong is the pong that a peer owes for the latest ping of the other peer.
type owedPong struct {
	payload []byte
	count   int   // of pings with that payload in a row; 0 if nothing is owed
	since   ticks // when the first ping came since nothing was owed
}

// checkPing sends l's peer a ping if it is time, and ends the tunnel if the last one was not
// answered. It returns when the next check is due.
func (l *leg) checkPing(now ticks) (next ticks) {
	times := l.pingTimes()
	if times.interval == 0 {
		return never
	}
	if l.r.pings.Load() != nil {
		if wait := l.await(now, times); wait > 0 {
			return now + wait
		}
	}
	due := l.pingAt
	if at := ticks(l.passedAt.Load()); at > l.r.opened {
		due = max(due, at+1+times.interval)
	}
	if now < due {
		return due
	}
	l.sendPing()
	l.pingAt = now + 1 + times.interval
	return now + 1 + cmp.Or(min(times.timeout, times.interval), times.interval)
}

// await ends the tunnel if the last ping was not answered in time. That time does not run while l
// is not read, and begins anew while its peer takes what waits for it. It returns for how many
// ticks l's peer is not pinged because of pings under way: 0 if nothing prevents it.
func (l *leg) await(now ticks, times pingTimes) (wait ticks) {
	isRead, isFull, taken := l.r.driver.isRead(l.side), l.conn().isFull(), l.taken()
	l.r.mu.Lock()
	if p := l.pingsLocked(); !isFull {
		// The system of a frozen peer takes bytes behind the ping too, until its buffer is full.
		// From then on it takes others only as the peer reads.
		taken = min(taken, p.inFront)
	}
	wait, isUnanswered := l.awaitLocked(now, times, isRead, taken)
	if isUnanswered {
		l.unansweredLocked(times.timeout)
	}
	l.r.mu.Unlock()
	if isUnanswered {
		l.r.notify()
	}
	return wait
}

func (l *leg) awaitLocked(now ticks, times pingTimes, isRead bool, taken int64) (wait ticks, isUnanswered bool) {
	p := l.pingsLocked()
	owedFor := 1 + cmp.Or(times.timeout, times.interval)
	if o := &p.owed; o.count > 0 && now >= o.since+owedFor {
		*o = owedPong{}
	}
	switch {
	case l.r.isEndingLocked(): // since checkOpen has looked
		return never - now, false
	case p.isDue:
		return 1 + times.interval, false
	case p.isAwaited && times.timeout > 0:
		if !isRead || taken > p.taken {
			p.since, p.taken = now, taken
		}
		if wait = p.since + 1 + times.timeout - now; wait > 0 {
			if taken < p.inFront {
				return 1, false // to see when the last of it is taken
			}
			return min(wait, 1+times.interval), false // it may be answered, and quiet again, long before
		}
		return never - now, true
	case p.owed.count > 0:
		return p.owed.since + owedFor - now, false
	}
	l.r.freePingsLocked()
	return 0, false
}

// unansweredLocked ends the tunnel, because l's peer has not answered. What it still sends is
// dropped.
func (l *leg) unansweredLocked(timeout ticks) {
	l.r.engine.unanswered[l.side-Client].Add(1)
	l.r.startClosingLocked(End{Side: l.side, Cause: CausePingTimeout, Err: errUnanswered(timeout)}, "")
	l.setReadLocked(readViolated)
}

func errUnanswered(timeout ticks) error {
	return fmt.Errorf("did not answer a ping within %v", time.Duration(timeout)*tickInterval)
}

// taken returns how many bytes of the other peer were taken by l's peer, or by its system.
func (l *leg) taken() int64 {
	c := l.conn()
	return int64(l.kept().Bytes) - int64(c.buffered()+c.unsent())
}

// sendPing sends l's peer a ping at the next frame boundary, unless the tunnel ends.
func (l *leg) sendPing() {
	payload := make([]byte, 8)
	rand.Read(payload) // never fails
	l.r.mu.Lock()
	if !l.r.isEndingLocked() {
		l.pingsLocked().isDue = true
		l.enqueueLocked(controlFrame{frame.Ping, payload})
	}
	l.r.mu.Unlock()
	l.r.notify()
}

// awaitPong records that a ping of ours is written to l now.
func (l *leg) awaitPong(payload []byte) {
	taken := l.taken()
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	p := l.pingsLocked()
	if len(p.sent) == maxSent {
		p.sent = p.sent[1:]
	}
	p.sent = append(p.sent, sentPing{payload, l.r.engine.now()})
	p.isDue, p.isAwaited = false, true
	p.since, p.taken, p.inFront = l.r.driver.now(), taken, int64(l.kept().Bytes)
}

// recordAnswer records that bytes have come from l's peer, which answer a ping.
func (l *leg) recordAnswer() {
	if l.r.pings.Load() == nil {
		return // the usual case, without the lock
	}
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	if l.r.pings.Load() != nil {
		l.pingsLocked().isAwaited = false
		l.r.freePingsLocked()
	}
}

// filterPing is filter for pings and pongs: a pong that answers a ping of ours is swallowed.
func (l *leg) filterPing(op frame.Opcode, whole []byte) verdict {
	if l.r.pings.Load() == nil && (op != frame.Ping || l.other().pingTimes().interval == 0) {
		return pass
	}
	payload := payloadOf(whole)
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	if op == frame.Ping {
		l.other().owePongLocked(payload)
		return pass
	}
	if l.r.pings.Load() == nil {
		return pass
	}
	defer l.r.freePingsLocked()
	p := l.pingsLocked()
	for i, ping := range p.sent {
		if bytes.Equal(payload, ping.payload) {
			l.r.engine.roundTrips[l.side-Client].Observe(l.r.engine.now() - ping.at)
			p.sent = p.sent[i+1:] // a pong for a later ping stands for those before it
			return swallow
		}
	}
	if o := &p.owed; o.count > 0 && bytes.Equal(payload, o.payload) {
		o.count--
	}
	return pass
}

// owePongLocked records that l's peer owes a pong, because it gets a ping of the other peer.
func (l *leg) owePongLocked(payload []byte) {
	if l.pingTimes().interval == 0 {
		return
	}
	o := &l.pingsLocked().owed
	if o.count == 0 {
		o.since = l.r.driver.now() // not that of the latest: there may always be another
	}
	if !bytes.Equal(payload, o.payload) {
		o.payload, o.count = payload, 0
	}
	o.count++
}

// pingsLocked returns l's part of r.pings, which it allocates if it is nil.
func (l *leg) pingsLocked() *legPings {
	p := l.r.pings.Load()
	if p == nil {
		p = new(pings)
		l.r.pings.Store(p)
	}
	return &p.legs[l.side-Client]
}

// freePingsLocked frees r.pings if nothing is under way.
func (r *Relay) freePingsLocked() {
	p := r.pings.Load()
	for i := range p.legs {
		if l := &p.legs[i]; l.isDue || l.isAwaited || len(l.sent) > 0 || l.owed.count > 0 {
			return
		}
	}
	r.pings.Store(nil)
}

// pingTimes returns the times for the pings to l's peer.
func (l *leg) pingTimes() pingTimes { return l.r.engine.open.pings[l.side-Client] }

// payloadOf returns the payload of a whole frame.
func payloadOf(whole []byte) []byte {
	h, n, _ := frame.ParseHeader(whole)
	b := bytes.Clone(whole[n:])
	if h.Masked {
		frame.Mask(b, h.Key)
	}
	return b
}
