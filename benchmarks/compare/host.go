package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"
)

// hostWorkload measures proxies in a program that does other work. For a proxy that
// is not a library, a separate process does the same work.
var hostWorkload = &workload{
	name: "host",
	about: "50 tunnels, 1,000 round trips a second in all, while the host program rests, and while it computes on all cores;\n" +
		"            a plain TCP echo in a host program of 1 and 2 procs while its tunnels carry as much as they can;\n" +
		"            and what bulk does, in one of 1 proc that computes",
	figures: []string{"resting_p50_us", "resting_p99_us", "computing_p50_us", "computing_p99_us",
		"plain_1proc_p50_us", "plain_2procs_p50_us", "computing_1proc_gb_per_s"},
	measure: measureHost,
}

var hostTraffic = traffic{mode: "echo", conns: 50, size: 128, rate: 1000, warmUp: time.Second, length: 3 * time.Second}

func measureHost(ctx context.Context, b *bench, p *peer) (figures, error) {
	all := make(figures)
	for name, goroutines := range map[string]int{"resting": 0, "computing": runtime.NumCPU()} {
		f, err := b.latencyBeside(ctx, p, goroutines)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all[name+"_p50_us"], all[name+"_p99_us"] = f["p50_us"], f["p99_us"]
	}
	if p.hostFlags == nil {
		return all, nil
	}
	for name, procs := range map[string]int{"plain_1proc_p50_us": 1, "plain_2procs_p50_us": 2} {
		p50, err := b.plainEcho(ctx, p, procs)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all[name] = p50
	}
	gbs, err := b.bulkBeside(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("computing, bulk: %w", err)
	}
	all["computing_1proc_gb_per_s"] = gbs
	return all, nil
}

// latencyBeside measures the latency of p while goroutines compute. They are in the
// same process if p is a library, and in another process otherwise.
func (b *bench) latencyBeside(ctx context.Context, p *peer, goroutines int) (figures, error) {
	h, err := b.startHost(ctx, p, goroutines, 0)
	if err != nil {
		return nil, err
	}
	defer h.stop()
	addr := h.addr
	if p.hostFlags == nil {
		t, err := b.startPeer(ctx, p, nil)
		if err != nil {
			return nil, err
		}
		defer t.stop()
		addr = t.addr
	}
	return b.run(ctx, hostTraffic, "ws://"+addr+"/", 0)
}

// plainEcho returns the p50 latency of a plain TCP connection to the process of the
// proxy, while its tunnels carry small and large messages.
func (b *bench) plainEcho(ctx context.Context, p *peer, procs int) (float64, error) {
	h, err := b.startHost(ctx, p, 0, procs)
	if err != nil {
		return 0, err
	}
	defer h.stop()
	for _, tr := range []traffic{echoTraffic, bulkTraffic} {
		tr.length = time.Hour
		l, err := b.startLoad(ctx, tr, "ws://"+h.addr+"/", 0)
		if err != nil {
			return 0, err
		}
		defer l.stop()
	}
	probe := traffic{mode: "echo", conns: 2, size: 128, rate: 200, warmUp: 500 * time.Millisecond, length: 3 * time.Second}
	f, err := b.run(ctx, probe, "tcp://"+h.echo, 0)
	return f["p50_us"], err
}

// bulkBeside returns the throughput in GB/s of large messages through a program with
// GOMAXPROCS 1, while one goroutine computes.
func (b *bench) bulkBeside(ctx context.Context, p *peer) (float64, error) {
	h, err := b.startHost(ctx, p, 1, 1)
	if err != nil {
		return 0, err
	}
	defer h.stop()
	f, err := b.run(ctx, bulkTraffic, "ws://"+h.addr+"/", 0)
	return f["gb_per_s"], err
}

// A host is a process of the program host.
type host struct {
	*target
	echo string // address of its plain TCP server
}

// startHost starts the program host with the proxy of p in it. If p is not a
// library, the proxy in the program is not used. procs is the program's GOMAXPROCS,
// unless it is 0.
func (b *bench) startHost(ctx context.Context, p *peer, compute, procs int) (*host, error) {
	listen, err := freeAddr()
	if err != nil {
		return nil, err
	}
	echo, err := freeAddr()
	if err != nil {
		return nil, err
	}
	programs := p.build
	if p.hostFlags == nil {
		programs = ordinary
	}
	args := append([]string{"-listen", listen, "-echo", echo, "-compute", fmt.Sprint(compute)}, p.hostFlags...)
	cmd := setup{bin: b.binOf(programs)}.program("host", append(args, b.backends...)...)
	if procs > 0 {
		cmd.Env = append(os.Environ(), fmt.Sprintf("GOMAXPROCS=%d", procs))
	}
	process, err := start(ctx, cmd, listen)
	if err != nil {
		return nil, err
	}
	return &host{&target{process, listen}, echo}, nil
}
