package relay

import (
	"math"
	"time"

	"github.com/wsproxy/wsproxy/internal/frame"
	"github.com/wsproxy/wsproxy/internal/limit"
)

// This file bounds the rates of a client. Over a rate of messages or bytes the client is
// not read, so that TCP makes it wait. Too many control frames are a violation.

// rates are the rates of each client of an engine. Zero rates bound nothing.
type rates struct{ messages, bytes limit.Rate }

// newRates returns the rates of l. A client that is held back gets its tokens at a tick, so
// a burst holds at least those of the time between two ticks: otherwise some would be lost.
func newRates(l Limits) rates {
	forTicks := func(r limit.Rate) limit.Rate {
		if !r.IsBound() {
			return limit.Rate{}
		}
		r.Burst = max(r.Burst, int(min(math.Ceil(r.PerSecond*tickInterval.Seconds()), math.MaxInt32)))
		return r
	}
	return rates{forTicks(l.ClientMessages), forTicks(l.ClientBytes)}
}

func (r rates) areBound() bool { return r.messages.IsBound() || r.bytes.IsBound() }

// A flow counts the messages and bytes of a client, for its rates.
type flow struct{ messages, bytes limit.Bucket }

// use counts messages and bytes that were read at now.
func (f *flow) use(now time.Duration, r rates, messages, bytes uint64) {
	if r.messages.IsBound() {
		f.messages.Use(now, r.messages, messages)
	}
	if r.bytes.IsBound() {
		f.bytes.Use(now, r.bytes, bytes)
	}
}

// isOver reports whether the client is to be held back at now.
func (f *flow) isOver(now time.Duration, r rates) bool {
	return r.messages.IsBound() && f.messages.Wait(now, r.messages) > 0 ||
		r.bytes.IsBound() && f.bytes.Wait(now, r.bytes) > 0
}

// countRead counts bytes that were read from l, and the messages that ended in them.
func (l *leg) countRead(bytes int, messages uint64) {
	f := l.r.flow
	if f == nil || l.side != Client {
		return
	}
	now := l.r.engine.now()
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	f.use(now, l.r.engine.rates, messages, uint64(bytes))
}

// isOverRate reports whether l is a client's leg that is not to be read now because of a
// rate. While the tunnel ends no rate applies, because other limits bound the end, nor
// after a write has failed, because then l is read only to find its end.
func (l *leg) isOverRate() bool {
	f := l.r.flow
	if f == nil || l.side != Client {
		return false
	}
	now := l.r.engine.now()
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	c := l.r.closing
	isEnding := c != nil && c.hasCause || l.mustClose || l.read != readOpen || l.write == writeLost
	return !isEnding && f.isOver(now, l.r.engine.rates)
}

const (
	// maxControls is how many control frames a client may send at once, and in each second.
	// Clients send a few a minute. Each costs the backend as much as a message, and most
	// backends answer a ping, so that a flood of them makes work on both ways that no limit
	// of messages counts.
	maxControls = 100

	controlInterval = time.Second / maxControls
)

// A controlBucket is a token bucket of maxControls for the control frames of a client. It
// has 4 bytes, because every tunnel has one: the time at which it is full, in units of
// controlInterval since the engine began, modulo 2³² units or 497 days. The zero value is
// full.
type controlBucket uint32

// allow uses a token at now. It reports false if there is none.
func (b *controlBucket) allow(now time.Duration) bool {
	at := uint32(now / controlInterval)
	missing := uint32(*b) - at
	if missing > maxControls {
		missing = 0 // it has been full for some time
	}
	if missing == maxControls {
		return false
	}
	*b = controlBucket(at + missing + 1)
	return true
}

var errControlFlood = &frame.Violation{Code: frame.StatusPolicyViolation, Reason: "more than 100 control frames in a second"}
