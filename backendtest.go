package wsproxy

import (
	"math"

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
	const never = math.MaxInt64 // comes the time at which they decay
	b.updateRefusals(never, health.Refusals.Forget)
	for range s.Refusals {
		b.updateRefusals(never, func(r health.Refusals) health.Refusals { return r.Refused(never) })
	}
}
