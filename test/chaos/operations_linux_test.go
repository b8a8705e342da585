package chaos_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
)

// operations are what the program of a proxy does meanwhile. Each says what it has done.
var operations = []struct {
	name string
	run  func(*site) string
}{
	{"SetBackends", (*site).changeBackends},
	{"Tunnel.Close", (*site).closeSome},
	{"CloseTunnels", (*site).closeTunnels},
	{"Rebalance", (*site).rebalance},
	{"Drain", (*site).drain},
	{"Resume", (*site).resume},
	{"Resume", (*site).resume}, // else most would drain
}

// background runs an operation that takes time, for a second or for some. It is canceled where the
// time ends before the operation.
func (s *site) background(run func(context.Context)) {
	ctx, cancel := context.WithTimeout(s.ctx, s.chaos.within(time.Second, 8*time.Second))
	s.running.Go(func() { // ends with ctx
		defer cancel()
		run(ctx)
	})
}

// overs are times over which tunnels may be closed: at once, the default, and slowly.
var overs = []time.Duration{-1, 0, 2 * time.Second}

// changeBackends sets backends at random, of which one at least can be used.
func (s *site) changeBackends() string {
	before := s.configs
	for s.configs = nil; !s.hasUsable(); {
		s.configs = nil
		for _, p := range s.chaos.peers {
			config := p.config()
			config.Weight = s.rng.IntN(5)
			config.MaxTunnels = s.rng.IntN(2) * 1000 // no bound that refuses clients
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
	code := oneOf(s.rng, 1001, 1008, 1012, 4100) // 1000 is that of the clients
	n := min(1+s.rng.IntN(most), len(tunnels))
	for range n {
		t := tunnels[s.rng.IntN(len(tunnels))]
		if err := t.Close(code, "chosen at random"); err != nil {
			s.report.add("Tunnel.Close() = %v", err)
		}
	}
	return fmt.Sprintf("of %d with code %d", n, code)
}

// closeTunnels closes the tunnels of a backend, or of all.
func (s *site) closeTunnels() string {
	id := oneOf(s.rng, s.chaos.peers...).id
	isAll := s.rng.IntN(10) == 0
	o := wsproxy.CloseOptions{Over: oneOf(s.rng, overs...), Code: oneOf(s.rng, 0, 1001, 4101)}
	s.background(func(ctx context.Context) {
		n, err := s.proxy.CloseTunnels(ctx, func(t *wsproxy.Tunnel) bool { return isAll || t.Info().Backend.ID() == id }, o)
		if err != nil && ctx.Err() == nil {
			s.report.add("CloseTunnels() = %d, %v", n, err)
		}
	})
	return fmt.Sprintf("of %s (all: %t), %+v", id, isAll, o)
}

// rebalance lets the proxy look for backends that have too many tunnels. It waits for the end of
// its operation, unless nothing has changed for long.
func (s *site) rebalance() string {
	if !s.isRebalancing.CompareAndSwap(false, true) {
		return "none: it is under way"
	}
	s.background(func(ctx context.Context) {
		defer s.isRebalancing.Store(false)
		n, err := s.proxy.Rebalance(ctx, wsproxy.RebalanceConfig{MinSurplus: 1, Rate: 1})
		if err != nil && ctx.Err() == nil && !errors.Is(err, wsproxy.ErrNotMoving) {
			s.report.add("Rebalance() = %d, %v", n, err)
		}
	})
	return ""
}

// drain drains a backend, if another one can be used meanwhile.
func (s *site) drain() string {
	b := oneOf(s.rng, s.proxy.Backends()...)
	id, wasDraining := b.ID(), s.draining[b.ID()]
	s.draining[id] = true
	if !s.hasUsable() {
		s.draining[id] = wasDraining
		return "none: no other backend could be used"
	}
	over := oneOf(s.rng, overs...)
	s.background(func(ctx context.Context) {
		err := s.proxy.Drain(ctx, id, over)
		if err != nil && ctx.Err() == nil && !errors.Is(err, wsproxy.ErrResumed) {
			s.report.add("Drain(%s) = %v", id, err)
		}
	})
	if !proxytest.Becomes(func() bool { return b.State() == wsproxy.BackendDraining }) {
		s.report.add("after Drain backend %s is %v", id, b.State())
	}
	return fmt.Sprintf("%s over %v", id, over)
}

// resume ends the drain of a backend. It is an error if the configuration drains the backend too,
// or if the backend is removed and has no tunnels.
func (s *site) resume() string {
	id := oneOf(s.rng, s.chaos.peers...).id
	err := s.proxy.Resume(id)
	if err == nil {
		s.draining[id] = false
	}
	return fmt.Sprintf("%s: %v", id, err)
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
