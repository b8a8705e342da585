package wsproxy

import (
	"fmt"
	"testing"
)

// BenchmarkTunnelByID looks for the tunnel with the highest ID among 100,000, and for one that
// has ended, which is the worst case: all backends are looked at.
func BenchmarkTunnelByID(b *testing.B) {
	for _, n := range []int{3, 100, 10_000} {
		r := newFullRegistry(n, 100_000)
		for _, id := range []uint64{100_000, 100_001} {
			b.Run(fmt.Sprintf("%d backends, ID %d", n, id), func(b *testing.B) {
				for b.Loop() {
					if t := r.tunnel(id); (t != nil) != (id <= 100_000) {
						b.Fatalf("tunnel(%d) = %v", id, t)
					}
				}
			})
		}
	}
}

// newFullRegistry returns a registry with tunnels that are spread over n backends.
func newFullRegistry(n, tunnels int) *registry {
	r := new(registry)
	r.init()
	backends := make([]*Backend, n)
	for i := range backends {
		backends[i] = new(Backend)
	}
	for i := range tunnels {
		r.addTunnel(&Tunnel{backend: backends[i%n]})
	}
	return r
}

func TestRegistryFindsTunnelsByID(t *testing.T) {
	r := newFullRegistry(7, 100)
	for id := range uint64(102) {
		found := r.tunnel(id)
		if isOpen := id >= 1 && id <= 100; (found != nil) != isOpen || isOpen && found.id != id {
			t.Errorf("tunnel(%d) = %v; is it open: %t", id, found, isOpen)
		}
	}
}
