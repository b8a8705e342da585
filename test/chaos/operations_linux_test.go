package chaos_test

import (
	"fmt"
	"slices"
	"strings"
)

// operations are what the program of a proxy does meanwhile. Each says what it has done.
var operations = []struct {
	name string
	run  func(*site) string
}{
	{"SetBackends", (*site).changeBackends},
	{"Tunnel.Close", (*site).closeSome},
}

// changeBackends sets backends at random, of which one at least can be used.
func (s *site) changeBackends() string {
	before := s.configs
	for s.configs = nil; !s.hasUsable(); {
		s.configs = nil
		for _, p := range s.chaos.peers {
			config := p.config()
			config.Weight = s.rng.IntN(5)
			config.MaxTunnels = s.rng.IntN(2) * 2 * numClients // no bound that refuses clients
			config.Priority = s.rng.IntN(6) / 5
			config.Drain = s.rng.IntN(6) == 0
			if s.rng.IntN(5) > 0 {
				s.configs = append(s.configs, config)
			}
		}
	}
	s.rng.Shuffle(len(s.configs), func(i, j int) { s.configs[i], s.configs[j] = s.configs[j], s.configs[i] })
	if err := s.proxy.SetBackends(s.configs...); err != nil {
		s.report.add("SetBackends() = %v", err)
		s.configs = before
	}
	var set []string
	for _, config := range s.configs {
		set = append(set, fmt.Sprintf("%s weight %d priority %d drain %t", config.ID, config.Weight, config.Priority, config.Drain))
	}
	return strings.Join(set, ", ")
}

// closeSome closes a few tunnels.
func (s *site) closeSome() string {
	const most = 5
	tunnels := slices.Collect(s.proxy.Tunnels())
	code := []int{1001, 1008, 1012, 4100}[s.rng.IntN(4)] // 1000 is that of the clients
	n := min(1+s.rng.IntN(most), len(tunnels))
	for range n {
		t := tunnels[s.rng.IntN(len(tunnels))]
		if err := t.Close(code, "chosen at random"); err != nil {
			s.report.add("Tunnel.Close() = %v", err)
		}
	}
	return fmt.Sprintf("of %d with code %d", n, code)
}

// causes counts the ends by their side and cause.
func (r *report) causes() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := make(map[string]int)
	for _, e := range r.ends {
		n[fmt.Sprintf("%v %v", e.Side, e.Cause)]++
	}
	return n
}
