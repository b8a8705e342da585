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
	var h health.State
	if s.IsFailing {
		h = h.Record(b.p.now(), health.Unreached, "a test says so")
	}
	b.health.Store(&h)
	const never = math.MaxInt64 // comes the time at which they decay
	b.updateRefusals(never, health.Refusals.Forget)
	for range s.Refusals {
		b.updateRefusals(never, func(r health.Refusals) health.Refusals { return r.Refused(never) })
	}
}
