package relay

import (
	"math/rand/v2"
	"time"
)

// This file is what time does to a tunnel that has no cause to end: it may be idle, have lived
// for long enough, or have a peer that is to be pinged. It is looked at now and then, whenever
// one of that may have come: see [wheel]. What happens sooner, while bytes wait or a tunnel
// ends, is in clock.go.

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

// areOn reports whether there is a limit, and thus a wheel.
func (l *openLimits) areOn() bool {
	return l.idle > 0 || l.lifetime > 0 || l.pings[0].interval > 0 || l.pings[1].interval > 0
}

// open begins what time does to r, at tick now. It returns when r is looked at first.
func (r *Relay) open(now ticks) (first ticks) {
	r.opened, r.lifeEnd = now, never
	l := &r.engine.open
	if l.lifetime > 0 {
		r.lifeEnd = lifeEnd(now, l.lifetime, rand.Float64())
	}
	for i, leg := range [...]*leg{&r.client, &r.backend} {
		leg.pingAt = now + ticks(rand.Float64()*float64(l.pings[i].interval))
	}
	return now // the first look finds out when the next is
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

// checkOpen applies the limits that have passed at tick now, and returns when r is to be looked at
// again.
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

// stampPassed records that bytes of l's peer were passed.
func (l *leg) stampPassed() {
	if now := int32(l.r.driver.now()); l.passedAt.Load() != now {
		l.passedAt.Store(now)
	}
}
