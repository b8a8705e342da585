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
	for range s.Refusals {
		h.Refusals = h.Refusals.Refused(math.MaxInt64)
	}
	b.health.Store(&h)
}
