package wsproxy

import (
	"errors"
	"fmt"
	"math"
	"net/http"
)

// Hash returns a [Balancer] that sends requests with the same key to the same
// backend, as long as it is a candidate. The choice depends only on the key and on the
// candidates' IDs and weights (rendezvous hashing): all replicas of the program choose
// the same backend, without communication and across restarts. Keys are spread in
// proportion to weights. When a backend is added, only the keys of its fair share move,
// to this backend; when a backend is removed, only its own keys move. Open tunnels stay where
// they are, so that clients with a key that has moved are on two backends, until those that
// came first reconnect: docs/production.md ("Deploys") says how to have them follow.
//
// For a request with an empty key it chooses as [LeastTunnels] does.
//
// Choose it if a backend has state by key: rooms, caches, sessions. A client that can
// choose its key can choose its backend, and all requests with one popular key go to one
// backend: [BoundedHash] limits both. [Affinity.Key] chooses in the same way, and also stays with
// a backend that is resting, full or ejected. It takes no lock.
func Hash(key KeyFunc) Balancer { return &rendezvous{key: key} }

type rendezvous struct {
	key     KeyFunc
	keyless leastTunnels
}

func (*rendezvous) String() string { return "Hash" }

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
	if b := highestScored(candidates, hashString(key)); b != nil {
		return b, nil
	}
	return nil, ErrNoBackend
}

// BoundedHash returns a [Balancer] that chooses as [Hash] does, but skips backends with
// too many tunnels: the new tunnel must not bring a backend above factor times its fair
// share of the candidates' tunnels, rounded up. The fair share is by weight. If the
// backend of a key is skipped, the next one for this key is chosen.
//
// factor must be above 1. With 1.25 no backend has more than 25 % above its share, and
// some keys move to other backends if the load of the keys is uneven; with 2 few keys
// move; near 1 it is little more than an even spread.
//
// The counts are the proxy's own, so that the choices may differ between replicas and
// over time. Choose it if a key's own backend is better (a warm cache) but any other
// works too; if only one backend works, choose Hash. For a request with an empty key it
// chooses as [LeastTunnels] does. It takes no lock.
func BoundedHash(key KeyFunc, factor float64) Balancer {
	return &boundedRendezvous{rendezvous: rendezvous{key: key}, factor: factor}
}

type boundedRendezvous struct {
	rendezvous
	factor float64
}

func (*boundedRendezvous) String() string { return "BoundedHash" }

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
		// The shares add up to more than all tunnels with the new one, so that some
		// backend is below its share, unless counts rose since they were added up.
		return h.rendezvous.Pick(r, candidates)
	}
	return best, nil
}

// share returns the number of tunnels that a backend may have per unit of its weight.
func (h *boundedRendezvous) share(candidates []*Backend) float64 {
	tunnels, weights := 1.0, 0.0
	for _, b := range candidates {
		tunnels += float64(b.NumTunnels())
		weights += float64(b.Weight())
	}
	return h.factor * tunnels / weights
}

// A score is the value of one backend for one key. The highest one wins, as in "A
// Name-Based Mapping Scheme for Rendezvous" (Thaler and Ravishankar); weights
// enter as in "Weighted Distributed Hash Tables" (Schindelhauer and Schomaker).
type score struct {
	hash   uint64 // 53 bits, evenly spread, of the key and the ID alone
	weight float64
}

// score returns the score of b for the key with hash k. If its formula changed, all keys
// would move, and replicas with two versions of this package would disagree.
func (b *Backend) score(k uint64) score {
	return score{hash: mix(k^b.idHash) >> 11, weight: float64(b.Weight())}
}

// highestScored returns the backend with the highest score for the key with hash k, or nil if
// there is none.
func highestScored(backends []*Backend, k uint64) *Backend {
	var best *Backend
	var highest score
	for _, b := range backends {
		if s := b.score(k); s.better(highest) {
			best, highest = b, s
		}
	}
	return best
}

// better reports whether s is higher than t. The zero score is below all others.
func (s score) better(t score) bool {
	if s.hash <= t.hash && s.weight <= t.weight {
		return false
	}
	return s.betterByWeight(t)
}

// betterByWeight computes a logarithm only if one score has the higher hash and the
// other one the higher weight, so never if the weights are equal: a logarithm is slow,
// and platforms round it differently.
func (s score) betterByWeight(t score) bool {
	return s.hash >= t.hash && s.weight >= t.weight || s.interval() < t.interval()
}

// interval returns the reciprocal of the score, which is always finite. It has the
// exponential distribution with rate weight: of several intervals, the probability of
// each one to be the shortest is in proportion to its rate.
func (s score) interval() float64 {
	u := float64(s.hash+1) * 0x1p-53 // above 0, at most 1
	return -math.Log(u) / s.weight
}

// hashString returns the FNV-1a hash of s, mixed: without mixing, strings that differ
// only at their end have hashes close to each other.
func hashString(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return mix(h)
}

// mix is the finaliser of SplitMix64: each bit of x changes half of the bits of the
// result.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
