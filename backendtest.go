package wsproxy

import (
	"math"
	"time"

	"github.com/wsproxy/wsproxy/internal/backendtest"
	"github.com/wsproxy/wsproxy/internal/health"
)

func init() { backendtest.Set = setBackend }

// setBackend is [backendtest.Set].
func setBackend(backend any, s backendtest.State) {
	b := backend.(*Backend)
	b.tunnels.Store(int64(s.NumTunnels))
	b.health.update((*health.Backend).Forget)
	if s.IsFailing {
		b.health.update(func(h *health.Backend) health.Change {
			e := health.Event{Outcome: health.Unreached, At: b.p.now(), Reason: "a test says so"}
			return h.Record(e, b.p.ejection)
		})
	}
	for _, name := range s.Flags {
		b.health.update(func(h *health.Backend) health.Change { return raise(h, name, b.p.now(), b.p.ejection) })
	}
	const never = math.MaxInt64 // comes the time at which they decay
	b.updateRefusals(never, health.Refusals.Forget)
	for range s.Refusals {
		b.updateRefusals(never, func(r health.Refusals) health.Refusals { return r.Refused(never) })
	}
}

// raise raises the flag with that name. A full backend has sent a Retry-After of 10 s.
func raise(h *health.Backend, name string, now time.Duration, rules health.Ejection) health.Change {
	e := health.Event{At: now, Reason: "a test says so", RetryAfter: 10 * time.Second}
	switch name {
	case FlagResting.String():
		e.Outcome = health.Unanswered
	case FlagFull.String():
		e.Outcome = health.Busy
	case FlagEjected.String():
		return h.Eject(e, rules)
	case FlagCheckFailed.String():
		return h.RecordCheck(now, true, e.Reason)
	case FlagUnreachable.String():
		e.Outcome = health.Unreached
	default:
		panic("no flag has the name " + name)
	}
	return h.Record(e, rules)
}
