package wsproxyadmin

import (
	"time"

	"github.com/wsproxy/wsproxy"
)

// An eventLog keeps the last events, in three lists of bounded sizes. It takes times as
// parameters, and no lock.
//
// Refusals and tunnels may come at any rate, so they are sampled: for each [sampleKey] at most
// one event a second is kept. The first one is kept at once. Those within a second after an
// event was kept are one event, which is kept when that second is over.
type eventLog struct {
	last uint64 // the number of the last event

	changes, refusals, tunnels ring

	samples map[sampleKey]*sample
}

const (
	maxChanges  = 200
	maxRefusals = 200
	maxTunnels  = 50

	sampleInterval = time.Second
)

func newEventLog() *eventLog {
	return &eventLog{
		changes: ring{size: maxChanges}, refusals: ring{size: maxRefusals}, tunnels: ring{size: maxTunnels},
		samples: make(map[sampleKey]*sample),
	}
}

// A sampleKey says which events are sampled together. There are few: reasons, sides and causes.
type sampleKey struct {
	kind   string
	side   wsproxy.Side   // of kindClosed
	cause  wsproxy.Cause  // of kindClosed
	reason wsproxy.Reason // of kindRefused
}

// A sample is the state of one key.
type sample struct {
	ring     *ring
	kept     time.Time // when an event was kept last
	count    int       // of the events that wait for the end of the second
	waiting  event     // the first of these
	hasEvent bool      // waiting is set: the caller of begin has made it
}

// add keeps an event.
func (l *eventLog) add(r *ring, e event) {
	l.last++
	e.Number = l.last
	e.Count = max(e.Count, 1)
	r.add(e)
}

// begin counts an event of that key, which belongs into r. If it returns true, the event is
// needed, and one finish with it follows. So that of most events nothing but the count is made.
func (l *eventLog) begin(r *ring, key sampleKey, now time.Time) (isNeeded bool) {
	s := l.samples[key]
	if s == nil {
		s = &sample{ring: r}
		l.samples[key] = s
	}
	l.flushSample(s, now)
	s.count++
	return s.count == 1
}

// finish takes the event after begin has returned true.
func (l *eventLog) finish(key sampleKey, e event, now time.Time) {
	s := l.samples[key]
	s.waiting, s.hasEvent = e, true
	l.flushSample(s, now)
}

// flush keeps the events whose second is over.
func (l *eventLog) flush(now time.Time) {
	for _, s := range l.samples {
		l.flushSample(s, now)
	}
}

func (l *eventLog) flushSample(s *sample, now time.Time) {
	if !s.hasEvent || now.Sub(s.kept) < sampleInterval {
		return
	}
	s.waiting.Count = s.count
	l.add(s.ring, s.waiting)
	*s = sample{ring: s.ring, kept: now}
}

// between returns the events with numbers above after and up to last.
func (l *eventLog) between(after, last uint64) events {
	return events{
		Changes:  l.changes.between(after, last),
		Refusals: l.refusals.between(after, last),
		Tunnels:  l.tunnels.between(after, last),
	}
}

// A ring is a circular buffer.
type ring struct {
	size   int
	events []event // of size in the end; the oldest one is at next
	next   int
}

func (r *ring) add(e event) {
	if len(r.events) < r.size {
		r.events = append(r.events, e)
		return
	}
	r.events[r.next] = e
	r.next = (r.next + 1) % r.size
}

// between returns the events with numbers above after and up to last, the oldest first. It is
// never nil.
func (r *ring) between(after, last uint64) []event {
	found := []event{}
	for i := range r.events {
		e := &r.events[(r.next+i)%len(r.events)]
		if e.Number > after && e.Number <= last {
			found = append(found, *e)
		}
	}
	return found
}
