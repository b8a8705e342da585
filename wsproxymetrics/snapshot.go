package wsproxymetrics

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/wsproxy/wsproxy"
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
		id: validUTF8(b.ID()), state: b.State(), flags: make(map[wsproxy.Flag]bool),
		maxTunnels: b.MaxTunnels(), numTunnels: b.NumTunnels(), stats: b.Stats(),
	}
	for _, f := range b.Health().Flags {
		s.flags[f.Flag] = true
	}
	return s
}

// validUTF8 returns s, quoted if it is not UTF-8, which the value of a label must be, or if it could
// be taken for one that was quoted: two strings stay different.
func validUTF8(s string) string {
	if utf8.ValidString(s) && !strings.HasPrefix(s, `"`) {
		return s
	}
	return strconv.QuoteToASCII(s)
}

// inFlight returns the number of upgrades, or of other requests, that have no backend yet. The
// counters were not read at one moment, so the sum of the backends may be larger than the total.
func inFlight(total, ofBackends int) int { return max(total-ofBackends, 0) }

// word returns the text of a value of the root package as the value of a label: "queue full" is queue_full,
// "Balancer.Pick" is balancer_pick, and "WithRewrite" is rewrite.
func word(text string) string {
	text = strings.TrimPrefix(text, "With")
	var b strings.Builder
	wasLower := false
	for _, r := range text {
		switch {
		case r == ' ' || r == '.':
			r = '_'
		case unicode.IsUpper(r) && wasLower:
			b.WriteByte('_')
		}
		wasLower = unicode.IsLower(r)
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

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
