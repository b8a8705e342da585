package dialer

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

const (
	// failureTime is how long an address that failed is dialed after the others.
	failureTime = 30 * time.Second

	// maxFailures bounds the memory of one proxy: 1,024 failures are about 100 KB. Above
	// it the oldest one is forgotten.
	maxFailures = 1024
)

// A memory remembers which addresses have failed, and puts the addresses of a name in the
// order in which they are dialed. It is pure: it has no clock and no lock, and its random
// numbers follow from its seed.
type memory struct {
	seed   uint64
	turn   uint64 // of the next order
	failed map[netip.AddrPort]time.Time
}

// newMemory returns a memory without failures. Proxies with different seeds dial in
// different orders.
func newMemory(seed uint64) memory {
	return memory{seed: seed, failed: make(map[netip.AddrPort]time.Time)}
}

// order returns addrs in the order in which they are dialed at now: first the ones without
// a failure in the last 30 s, in random order, then the others, the oldest failure first.
//
// With n addresses that have not failed, n calls form a round. A round has one random order,
// and each of its calls begins at the next address. So each order is a random one, and the
// addresses share the dials more evenly than with a new order each time.
func (m *memory) order(addrs []netip.AddrPort, now time.Time) []netip.AddrPort {
	var good, failed []netip.AddrPort
	for _, a := range addrs {
		if m.hasFailed(a, now) {
			failed = append(failed, a)
		} else {
			good = append(good, a)
		}
	}
	slices.SortFunc(failed, func(a, b netip.AddrPort) int { return m.failed[a].Compare(m.failed[b]) })
	return append(m.nextTurn(good), failed...)
}

// nextTurn returns addrs in the random order of the next turn. It may change addrs.
func (m *memory) nextTurn(addrs []netip.AddrPort) []netip.AddrPort {
	if len(addrs) < 2 {
		return addrs
	}
	n := uint64(len(addrs))
	round, first := m.turn/n, m.turn%n
	m.turn++
	slices.SortFunc(addrs, netip.AddrPort.Compare) // a name server may give another order each time
	rand.New(rand.NewPCG(m.seed, round)).Shuffle(len(addrs), func(i, j int) {
		addrs[i], addrs[j] = addrs[j], addrs[i]
	})
	return slices.Concat(addrs[first:], addrs[:first])
}

// hasFailed reports whether a has failed in the 30 s before now.
func (m *memory) hasFailed(a netip.AddrPort, now time.Time) bool {
	at, ok := m.failed[a]
	return ok && now.Sub(at) < failureTime
}

// recordFailure records that a failed at now.
func (m *memory) recordFailure(a netip.AddrPort, now time.Time) {
	if _, ok := m.failed[a]; !ok && len(m.failed) >= maxFailures {
		m.forgetSome(now)
	}
	m.failed[a] = now
}

// forgetSome forgets the failures that are over at now; if there are none, the oldest one.
func (m *memory) forgetSome(now time.Time) {
	var oldest netip.AddrPort
	for a, at := range m.failed {
		if !m.hasFailed(a, now) {
			delete(m.failed, a)
		} else if !oldest.IsValid() || at.Before(m.failed[oldest]) {
			oldest = a
		}
	}
	if len(m.failed) >= maxFailures {
		delete(m.failed, oldest)
	}
}

// recordSuccess forgets the failure of a.
func (m *memory) recordSuccess(a netip.AddrPort) { delete(m.failed, a) }
