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
	var h health.State
	if s.IsFailing {
		h = h.Record(b.p.now(), health.Unreached, "a test says so")
	}
	b.health.Store(&h)
	for range s.Refusals {
		b.recordUpgrade(func(r health.Refusals, _ time.Duration) health.Refusals {
			return r.Refused(math.MaxInt64) // so that they do not decay
		})
	}
}
