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
	for f := FlagResting; f <= FlagUnreachable; f++ { // what raises a flag may clear a worse one
		for _, name := range s.Flags {
			if name == f.String() {
				b.raiseForTest(f)
			}
		}
	}
	b.updateState()
	at := time.Duration(math.MaxInt64) // so that refusals do not decay
	if s.IsLive {
		at = b.p.now()
	}
	b.updateRefusals(at, health.Refusals.Forget)
	for range s.Refusals {
		b.updateRefusals(at, func(r health.Refusals) health.Refusals { return r.Refused(at) })
	}
}

// raiseForTest raises a flag as a first failure does. A full backend has sent a Retry-After of
// 1 s.
func (b *Backend) raiseForTest(f Flag) {
	e := health.Event{At: b.p.now(), LastOpened: -1, RetryAfter: time.Second, Reason: "a test has raised it"}
	b.health.update(func(h *health.Backend) health.Change {
		switch f {
		case FlagResting:
			e.Outcome = health.Unanswered
		case FlagFull:
			e.Outcome = health.Busy
		case FlagEjected:
			return h.Eject(e, b.p.ejection)
		case FlagCheckFailed:
			return h.RecordCheck(e.At, true, e.Reason)
		case FlagUnreachable:
			e.Outcome = health.Unreached
		}
		return h.Record(e, b.p.ejection)
	})
}
