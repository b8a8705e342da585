package main

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"
)

// A workload is a kind of work for a proxy.
type workload struct {
	name    string
	about   string
	figures []string // figures of the table
	measure func(ctx context.Context, b *bench, p *peer) (figures, error)
}

func (w *workload) String() string { return w.name }

// summary returns the figures on one line.
func (w *workload) summary(f figures) string {
	var parts []string
	for _, name := range w.figures {
		if v, ok := f[name]; ok {
			parts = append(parts, name+" "+number(v))
		}
	}
	return strings.Join(parts, ", ")
}

const idleConns = 3000

var (
	idleTraffic = traffic{mode: "idle", conns: idleConns, warmUp: 2 * time.Second, length: 8 * time.Second}
	echoTraffic = traffic{mode: "echo", conns: 100, size: 128, warmUp: time.Second, length: 3 * time.Second}
	bulkTraffic = traffic{mode: "bulk", conns: 4, size: 1 << 20, window: 4, warmUp: time.Second, length: 3 * time.Second}
)

// idle has a variable of its own for checkDescriptors.
var idle = &workload{
	name:    "idle",
	about:   "3,000 tunnels carry one message each, then rest: memory and descriptors of a tunnel",
	figures: []string{"bytes_per_tunnel", "fds_per_tunnel"},
	measure: alone(idleTraffic),
}

var allWorkloads = []*workload{
	idle,
	{
		name:    "echo",
		about:   "100 tunnels send 128 bytes there and back as fast as they can: CPU of a round trip",
		figures: []string{"cpu_us_per_msg", "msgs_per_s", "p99_us"},
		measure: alone(echoTraffic),
	},
	{
		name:    "paced",
		about:   "200 tunnels, 5,000 round trips a second of 128 bytes in all: latency",
		figures: []string{"p50_us", "p99_us", "p999_us"},
		measure: alone(traffic{mode: "echo", conns: 200, size: 128, rate: 5000, warmUp: time.Second, length: 3 * time.Second}),
	},
	{
		name:    "fanout",
		about:   "backends send 20 messages of 128 bytes a second to each of 1,000 tunnels: CPU of a message",
		figures: []string{"cpu_us_per_msg"},
		measure: alone(traffic{mode: "fanout", conns: 1000, size: 128, rate: 20, warmUp: time.Second, length: 3 * time.Second}),
	},
	{
		name:    "bulk",
		about:   "4 tunnels echo messages of 1 MiB, 4 in flight each: CPU of a GB",
		figures: []string{"cpu_s_per_gb", "gb_per_s"},
		measure: alone(bulkTraffic),
	},
	{
		name:    "churn",
		about:   "32 clients open a tunnel, echo a message and close, again and again: CPU of a tunnel",
		figures: []string{"cpu_us_per_tunnel", "tunnels_per_s", "failures"},
		measure: alone(traffic{mode: "churn", conns: 32, size: 64, warmUp: time.Second, length: 3 * time.Second}),
	},
	{
		name:    "fairness",
		about:   "200 tunnels with 5 round trips a second each, beside 2 that carry as much as they can: their latency",
		figures: []string{"p50_us", "p99_us", "p999_us", "bulk_gb_per_s"},
		measure: measureFairness,
	},
	{
		name:    "tls",
		about:   "idle with 1,000 tunnels, and echo, with TLS between client and proxy",
		figures: []string{"bytes_per_tunnel", "cpu_us_per_msg"},
		measure: measureTLS,
	},
	hostWorkload,
}

// alone returns a measure function for a workload with one kind of traffic.
func alone(tr traffic) func(ctx context.Context, b *bench, p *peer) (figures, error) {
	return func(ctx context.Context, b *bench, p *peer) (figures, error) {
		t, err := b.startPeer(ctx, p, nil)
		if err != nil {
			return nil, err
		}
		defer t.stop()
		return b.run(ctx, tr, "ws://"+t.addr+"/", t.pid())
	}
}

// measureTLS measures both parts with the same process.
func measureTLS(ctx context.Context, b *bench, p *peer) (figures, error) {
	t, err := b.startPeer(ctx, p, b.tls)
	if err != nil {
		return nil, err
	}
	defer t.stop()
	resting := idleTraffic
	resting.conns = 1000
	all, err := b.run(ctx, resting, "wss://"+t.addr+"/", t.pid())
	if err != nil {
		return nil, err
	}
	echoes, err := b.run(ctx, echoTraffic, "wss://"+t.addr+"/", t.pid())
	maps.Copy(all, echoes)
	return all, err
}

func measureFairness(ctx context.Context, b *bench, p *peer) (figures, error) {
	t, err := b.startPeer(ctx, p, nil)
	if err != nil {
		return nil, err
	}
	defer t.stop()
	url := "ws://" + t.addr + "/"
	quiet := traffic{mode: "echo", conns: 200, size: 128, rate: 1000, warmUp: time.Second, length: 5 * time.Second}
	loud := bulkTraffic
	loud.conns = 2
	loud.length = quiet.warmUp + quiet.length + 3*time.Second // it begins first, and ends last
	// The loads are separate processes. In one process, the large messages would
	// delay the small ones.
	l, err := b.startLoad(ctx, loud, url, t.pid())
	if err != nil {
		return nil, err
	}
	all, err := b.run(ctx, quiet, url, t.pid())
	if err != nil {
		l.stop()
		return nil, err
	}
	bulk, err := l.wait()
	if err != nil {
		return nil, fmt.Errorf("bulk: %w", err)
	}
	all["bulk_gb_per_s"] = bulk["gb_per_s"]
	return all, nil
}
