package wsproxy

import (
	"math"
	"slices"
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
	flags := slices.Clone(s.Flags)
	slices.Sort(flags) // what raises a flag clears a worse one at most
	for _, f := range flags {
		b.raiseForTest(Flag(f))
	}
	at := time.Duration(math.MaxInt64) // so that refusals do not decay
	if s.IsLive {
		at = b.p.now()
	}
	b.updateRefusals(at, health.Refusals.Forget)
	for range s.Refusals {
		b.updateRefusals(at, func(r health.Refusals) health.Refusals { return r.Refused(at) })
	}
}

// raiseForTest raises a flag as a first failure does.
func (b *Backend) raiseForTest(f Flag) {
	const reason = "a test has raised it"
	e := health.Event{At: b.p.now(), LastOpened: -1, Reason: reason}
	b.health.update(func(h *health.Backend) health.Change {
		switch f {
		case FlagResting:
			e.Outcome = health.Unanswered
		case FlagFull:
			e.Outcome, e.RetryAfter = health.Busy, time.Second
		case FlagEjected:
			return h.Eject(e, b.p.ejection)
		case FlagCheckFailed:
			return h.RecordCheck(e.At, true, reason)
		case FlagUnreachable:
			e.Outcome = health.Unreached
		}
		return h.Record(e, b.p.ejection)
	})
}
