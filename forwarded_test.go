package wsproxy

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
)

func TestForwardedCountReportsTheHundredthInARow(t *testing.T) {
	type run struct {
		n           int
		peer        string // "": a unix socket
		isForwarded bool
	}
	for _, tt := range []struct {
		name string
		runs []run
		want int // the upgrade that is reported, from 1; 0: none
	}{
		{"99", []run{{99, "10.0.0.1", true}}, 0},
		{"100", []run{{100, "10.0.0.1", true}}, 100},
		{"once", []run{{1000, "10.0.0.1", true}, {1, "10.0.0.1", false}, {1000, "10.0.0.2", true}}, 100},
		{"unix socket", []run{{100, "", true}}, 100},
		{"none has the fields", []run{{1000, "10.0.0.1", false}}, 0},
		{"one without the fields", []run{{99, "10.0.0.1", true}, {1, "10.0.0.1", false}, {99, "10.0.0.1", true}}, 0},
		{"one without the fields from another peer", []run{{99, "10.0.0.1", true}, {1, "10.0.0.2", false}, {99, "10.0.0.1", true}}, 0},
		{"another peer", []run{{99, "10.0.0.1", true}, {1, "10.0.0.2", true}, {99, "10.0.0.1", true}}, 0},
		{"another peer, and then 100", []run{{99, "10.0.0.1", true}, {1, "10.0.0.2", true}, {100, "10.0.0.1", true}}, 200},
		{"unix socket and another peer", []run{{99, "", true}, {1, "10.0.0.2", true}, {99, "", true}}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var c forwardedCount
			got, i := 0, 0
			for _, r := range tt.runs {
				peer, _ := netip.ParseAddr(r.peer)
				for range r.n {
					if i++; c.add(peer, r.isForwarded) {
						if got > 0 {
							t.Errorf("upgrade %d is reported, and so was %d", i, got)
						}
						got = i
					}
				}
			}
			if got != tt.want {
				t.Errorf("upgrade %d is reported; want %d", got, tt.want)
			}
		})
	}
}

func TestForwardedCountReportsOneOfConcurrentUpgrades(t *testing.T) {
	var c forwardedCount
	var numReported atomic.Int32
	var adding sync.WaitGroup
	for range 8 {
		adding.Go(func() {
			for range 1000 {
				if c.add(netip.Addr{}, true) {
					numReported.Add(1)
				}
			}
		})
	}
	adding.Wait()
	if n := numReported.Load(); n != 1 {
		t.Errorf("%d upgrades are reported; want one", n)
	}
}
