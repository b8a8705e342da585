package wsproxymetrics

import (
	"strconv"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/label"
)

// A snapshot has the counters of a proxy and of its backends, from which Read makes samples.
type snapshot struct {
	stats    wsproxy.Stats
	limits   wsproxy.Limits
	backends []backend
}

// A backend is one backend of a snapshot.
type backend struct {
	id         string // UTF-8
	state      wsproxy.BackendState
	flags      map[wsproxy.Flag]bool // the raised ones
	maxTunnels int                   // 0: none
	numTunnels int                   // upgrades under way included
	stats      wsproxy.BackendStats
}

// newSnapshot reads the counters of p. It reads the backends first: their upgrades are then among
// those of the proxy, unless they have ended.
func newSnapshot(p *wsproxy.Proxy) *snapshot {
	s := &snapshot{limits: p.Limits()}
	seen := make(map[string]bool) // a backend may be removed between the two calls
	for _, b := range append(p.Backends(), p.RemovedBackends()...) {
		if !seen[b.ID()] {
			seen[b.ID()] = true
			s.backends = append(s.backends, newBackend(b))
		}
	}
	s.stats = p.Stats()
	return s
}

func newBackend(b *wsproxy.Backend) backend {
	s := backend{
		id: label.Text(b.ID()), state: b.State(), flags: make(map[wsproxy.Flag]bool),
		maxTunnels: b.MaxTunnels(), numTunnels: b.NumTunnels(), stats: b.Stats(),
	}
	for _, f := range b.Health().Flags {
		s.flags[f.Flag] = true
	}
	return s
}

// inFlight returns the number of upgrades, or of other requests, that have no backend yet. The
// counters were not read at one moment, so the sum of the backends may be larger than the total.
func inFlight(total, ofBackends int) int { return max(total-ofBackends, 0) }

// codeWord returns a Close code as the value of a label.
func codeWord(code int) string {
	switch code {
	case 0:
		return "none"
	case -1:
		return "other"
	}
	return strconv.Itoa(code)
}
