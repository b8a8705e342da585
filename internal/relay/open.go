package relay

import (
	"math/rand/v2"
	"time"
)

// This file has the limits of time of a tunnel that has no cause to end: how long it may be idle,
// how long it lives, and when a peer is pinged. It is checked at the tick at which the next of
// them may have passed: see [wheel]. What needs each tick, while bytes wait or a tunnel ends, is
// in clock.go.

// openLimits are the limits of open tunnels. 0 means that there is none.
type openLimits struct {
	idle, lifetime ticks
	pings          [2]pingTimes // of the client and of the backend
}

func newOpenLimits(l Limits) openLimits {
	o := openLimits{idle: roundUp(l.Idle), pings: [2]pingTimes{
		newPingTimes(l.PingClient, l.PingTimeout), newPingTimes(l.PingBackend, l.PingTimeout),
	}}
	if l.Lifetime > 0 {
		o.lifetime = min(max(tickOf(l.Lifetime), 1), never/4) // not rounded up: it is a maximum
	}
	return o
}

// areOn reports whether there is a limit: else no tunnel is in a wheel.
func (l *openLimits) areOn() bool {
	return l.idle > 0 || l.lifetime > 0 || l.pings[0].interval > 0 || l.pings[1].interval > 0
}

// startOpenLimits starts the limits of r at tick now, at which the first check is due.
func (r *Relay) startOpenLimits(now ticks) {
	r.opened, r.lifeEnd = now, never
	l := &r.engine.open
	if l.lifetime > 0 {
		r.lifeEnd = lifeEnd(now, l.lifetime, rand.Float64())
	}
	for i, leg := range [...]*leg{&r.client, &r.backend} {
		leg.pingAt = now + ticks(rand.Float64()*float64(l.pings[i].interval))
	}
}

// lifeEnd returns the tick in which a tunnel of that lifetime ends: a random one of its last
// fifth, so that tunnels that were opened at once do not end at once.
func lifeEnd(opened, lifetime ticks, random float64) ticks {
	first, last := opened+1+(lifetime*4+4)/5, opened+lifetime-1
	if first >= last {
		return last
	}
	return first + ticks(random*float64(last-first+1))
}

// checkOpen ends r if a limit has passed at tick now, and pings its peers. It returns when the next
// check is due.
func (r *Relay) checkOpen(now ticks) (next ticks) {
	if r.IsEnding() {
		return never
	}
	idleEnd := never
	if idle := r.engine.open.idle; idle > 0 {
		idleEnd = max(r.opened, r.lastPassed()) + 1 + idle
	}
	switch {
	case now >= r.lifeEnd:
		r.Close(CauseLifetime, 0, "")
		return never
	case now >= idleEnd:
		r.Close(CauseIdle, 0, "")
		return never
	}
	return min(r.lifeEnd, idleEnd, r.client.checkPing(now), r.backend.checkPing(now))
}

// lastPassed returns the tick in which bytes of a peer were last passed to the other: 0 if none
// were.
func (r *Relay) lastPassed() ticks {
	return ticks(max(r.client.passedAt.Load(), r.backend.passedAt.Load()))
}

// LastPassed returns when bytes of a peer were last passed to the other, to within tickInterval.
// It is a time before the relay began if none were.
func (r *Relay) LastPassed() time.Time {
	return r.engine.start.Add(time.Duration(r.lastPassed()) * tickInterval)
}

// recordPassed records that bytes of l's peer were passed now.
func (l *leg) recordPassed() {
	if now := int32(l.r.driver.now()); l.passedAt.Load() != now {
		l.passedAt.Store(now)
	}
}
