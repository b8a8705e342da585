package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// A bench contains the programs and files for measuring peers.
type bench struct {
	dir      string // folder of all files
	scale    float64
	tls      *certificate
	backend  *process
	backends []string // addresses of the backend
	stderr   io.Writer
}

// newBench builds the programs and starts the backend.
func newBench(ctx context.Context, f *flags, stderr io.Writer) (*bench, error) {
	if err := checkDescriptors(f); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "wsproxy-compare-")
	if err != nil {
		return nil, err
	}
	b := &bench{dir: dir, scale: f.scale, stderr: stderr}
	if err := b.prepare(ctx, f); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

// checkDescriptors returns an error if the limit of descriptors is too low for the
// idle tunnels, so that the program fails at its start.
func checkDescriptors(f *flags) error {
	if err := checkSystem(); err != nil {
		return err
	}
	limit, err := descriptorLimit()
	if err != nil {
		return err
	}
	needed := int(2.1*idleConns*f.scale) + 200 // two for each tunnel, 5 % for the warm-up, some for the rest
	if slices.Contains(f.workloads, idle) && limit < needed {
		return fmt.Errorf("%d descriptors are allowed (ulimit -Hn) and idle needs %d: allow more, or choose a smaller -scale", limit, needed)
	}
	return nil
}

func (b *bench) prepare(ctx context.Context, f *flags) error {
	builds := map[build]bool{ordinary: true} // contains the load and the backend
	for _, p := range f.peers {
		if p.build != "" {
			builds[p.build] = true
		}
	}
	for name := range builds {
		fmt.Fprintf(b.stderr, "building the programs (%s)\n", name)
		if err := name.compile(ctx, b.binOf(name), f.baseline); err != nil {
			return err
		}
	}
	var err error
	if b.tls, err = newCertificate(b.dir); err != nil {
		return err
	}
	for range 2 {
		addr, err := freeAddr()
		if err != nil {
			return err
		}
		b.backends = append(b.backends, addr)
	}
	program := setup{bin: b.binOf(ordinary)}.program("backend", b.backends...)
	b.backend, err = start(ctx, program, b.backends[1])
	return err
}

func (b *bench) close() error {
	if b.backend != nil {
		b.backend.stop()
	}
	return os.RemoveAll(b.dir)
}

func (b *bench) binOf(name build) string { return filepath.Join(b.dir, "bin-"+string(name)) }

// runAll measures all workloads on all peers. It prints an error of a measurement
// and continues.
func (b *bench) runAll(ctx context.Context, workloads []*workload, peers []*peer, rounds int) results {
	var all results
	done, total := 0, len(workloads)*len(peers)*rounds
	for _, w := range workloads {
		for round := range rounds {
			for _, p := range inTurn(peers, round) {
				done++
				fmt.Fprintf(b.stderr, "%d/%d %s, round %d, %s: ", done, total, w, round+1, p)
				begin := time.Now()
				figures, err := w.measure(ctx, b, p)
				if ctx.Err() != nil {
					fmt.Fprintln(b.stderr)
					return all
				}
				if err != nil {
					fmt.Fprintf(b.stderr, "FAILED: %v\n", err)
					continue
				}
				fmt.Fprintf(b.stderr, "%s (%.0f s)\n", w.summary(figures), time.Since(begin).Seconds())
				all = append(all, record{w.name, p.name, round + 1, figures})
			}
		}
	}
	return all
}

// inTurn returns peers in the order of a round. Each round begins with another peer,
// so that no peer has the same position in all rounds.
func inTurn(peers []*peer, round int) []*peer {
	first := round % len(peers)
	return append(slices.Clone(peers[first:]), peers[:first]...)
}

// A target is a running peer.
type target struct {
	*process
	addr string
}

// startPeer starts p as a separate program.
func (b *bench) startPeer(ctx context.Context, p *peer, cert *certificate) (*target, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.dir, p.name+"-")
	if err != nil {
		return nil, err
	}
	cmd, err := p.command(setup{bin: b.binOf(p.build), dir: dir, listen: addr, backends: b.backends, tls: cert})
	if err != nil {
		return nil, err
	}
	process, err := start(ctx, cmd, addr)
	return &target{process, addr}, err
}
