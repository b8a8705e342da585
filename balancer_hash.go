package wsproxy

import (
	"errors"
	"fmt"
	"math"
	"net/http"
)

// Hash returns a [Balancer] that sends requests with the same key to the same
// backend, as long as it is a candidate. The choice is a pure function of the key
// and of the candidates' IDs and weights (rendezvous hashing): all replicas of
// the program decide alike, without talking to each other, and across restarts.
// Keys spread in proportion to weights. When a backend is added, only those keys
// move that it takes over, its fair share; when one is lost, only its own.
//
// A request whose key is empty goes where [LeastTunnels] would send it.
//
// Choose it where a backend keeps state by key: rooms, caches, sessions. Clients
// that choose their key choose their backend, and one popular key is one
// backend's load: [BoundedHash] bounds both. It takes no lock.
func Hash(key KeyFunc) Balancer { return &rendezvous{key: key} }

type rendezvous struct {
	key     KeyFunc
	keyless leastTunnels
}

func (h *rendezvous) validate() error {
	if h.key == nil {
		return errNoKeyFunc
	}
	return nil
}

var errNoKeyFunc = errors.New("the key function is nil")

func (h *rendezvous) Pick(r *http.Request, candidates []*Backend) (*Backend, error) {
	key := h.key(r)
	if key == "" {
		return h.keyless.Pick(r, candidates)
	}
	k := hashString(key)
	var best *Backend
	var highest score
	for _, b := range candidates {
		if s := b.score(k); s.better(highest) {
			best, highest = b, s
		}
	}
	if best == nil {
		return nil, ErrNoBackend
	}
	return best, nil
}

// BoundedHash returns a [Balancer] that chooses as [Hash] does, but passes over
// backends that carry too much: the next tunnel must not bring one above factor
// times its fair share of the candidates' tunnels, rounded up. The fair share is
// by weight. A key whose backend is passed over goes to the one that comes next
// for this key.
//
// factor must be above 1. 1.25 lets no backend carry more than 25 % above its
// share and moves some keys away from theirs when they come unevenly; at 2 few
// ever move; near 1 it is little more than an even spread.
//
// Counts are the proxy's own, and differ between replicas: so may their choices,
// and one replica's from one moment to the next. Choose it where a key's own
// backend is better (a warm cache) but any other is right too; where only one
// is right, choose Hash. A request whose key is empty goes where [LeastTunnels]
// would send it. It takes no lock.
func BoundedHash(key KeyFunc, factor float64) Balancer {
	return &boundedRendezvous{rendezvous: rendezvous{key: key}, factor: factor}
}

type boundedRendezvous struct {
	rendezvous
	factor float64
}

func (h *boundedRendezvous) validate() error {
	if err := h.rendezvous.validate(); err != nil {
		return err
	}
	if !(h.factor > 1) || math.IsInf(h.factor, 1) {
		return fmt.Errorf("factor is %v; want a number above 1", h.factor)
	}
	return nil
}

func (h *boundedRendezvous) Pick(r *http.Request, candidates []*Backend) (*Backend, error) {
	key := h.key(r)
	if key == "" {
		return h.keyless.Pick(r, candidates)
	}
	share := h.share(candidates)
	k := hashString(key)
	var best *Backend
	var highest score
	for _, b := range candidates {
		s := b.score(k)
		if !s.better(highest) {
			continue
		}
		// n+1 <= ceil(x) is n < x.
		if n := float64(b.NumTunnels()); n < share*s.weight {
			best, highest = b, s
		}
	}
	if best == nil {
		// The shares add up to more than all tunnels and one more, so that some
		// backend is below its own, unless counts rose since they were added up.
		return h.rendezvous.Pick(r, candidates)
	}
	return best, nil
}

// share returns how many tunnels a backend may have for each unit of its weight.
func (h *boundedRendezvous) share(candidates []*Backend) float64 {
	tunnels, weights := 1.0, 0.0
	for _, b := range candidates {
		tunnels += float64(b.NumTunnels())
		weights += float64(b.Weight())
	}
	return h.factor * tunnels / weights
}

// A score is what one key gives one backend. The highest one wins, as in "A
// Name-Based Mapping Scheme for Rendezvous" (Thaler and Ravishankar); weights
// enter as in "Weighted Distributed Hash Tables" (Schindelhauer and Schomaker).
type score struct {
	hash   uint64 // 53 bits that key and ID alone decide, evenly spread
	weight float64
}

// score returns what b gets for the key with hash k. What it computes decides
// where keys live: a change moves them all, and replicas of two versions of this
// package would disagree.
func (b *Backend) score(k uint64) score {
	return score{hash: mix(k^b.idHash) >> 11, weight: float64(b.Weight())}
}

// better reports whether s is higher than t. The zero score is below all others.
func (s score) better(t score) bool {
	if s.hash <= t.hash && s.weight <= t.weight {
		return false
	}
	return s.betterByWeight(t)
}

// betterByWeight computes a logarithm only for what is luckier and lighter, or
// the reverse: never where weights are equal. It is slow, and platforms round it
// differently.
func (s score) betterByWeight(t score) bool {
	return s.hash >= t.hash && s.weight >= t.weight || s.interval() < t.interval()
}

// interval is the reciprocal of the score, which unlike it is always finite. It has
// the exponential distribution of rate weight: of several such waits each is the
// shortest in proportion to its rate.
func (s score) interval() float64 {
	u := float64(s.hash+1) * 0x1p-53 // above 0, at most 1
	return -math.Log(u) / s.weight
}

// hashString returns the FNV-1a hash of s, mixed: FNV alone leaves strings that
// differ at their end close to each other.
func hashString(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return mix(h)
}

// mix is the finaliser of SplitMix64: each bit of x changes half of the result's.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
