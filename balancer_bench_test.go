package wsproxy

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// BenchmarkPick measures what an upgrade spends on its choice: to collect the
// candidates, and to pick.
func BenchmarkPick(b *testing.B) {
	for _, bb := range []struct {
		name string
		new  func() Balancer
	}{
		{"LeastTunnels", LeastTunnels},
		{"RoundRobin", RoundRobin},
		{"Random", Random},
		{"Hash", func() Balancer { return Hash(ByClientIP()) }},
		{"BoundedHash", func() Balancer { return BoundedHash(ByClientIP(), 1.25) }},
	} {
		for _, n := range []int{2, 10, 100, 1000} {
			b.Run(fmt.Sprintf("%s/%d", bb.name, n), func(b *testing.B) {
				benchmarkPick(b, bb.new(), n)
			})
		}
	}
}

func benchmarkPick(b *testing.B, balancer Balancer, n int) {
	set := backendSet{all: newTestBackends(b, equalWeights(n)...)}
	for i, backend := range set.all {
		backend.tunnels.Store(int64(1000 + i*7%13))
	}
	r := withClient(newTestRequest(), netip.MustParseAddr("192.0.2.1"))
	b.ReportAllocs()
	for b.Loop() {
		candidates, err := set.candidates(make([]*Backend, 0, len(set.all)), nil, time.Hour)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := balancer.Pick(r, candidates); err != nil {
			b.Fatal(err)
		}
	}
}
