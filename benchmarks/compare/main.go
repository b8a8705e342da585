// Compare measures wsproxy beside nginx, HAProxy and [net/http/httputil] on one
// machine, which must run Linux. From the folder of the module benchmarks:
//
//	go run ./compare
//	go run ./compare -workloads echo,churn -peers wsproxy,nginx -rounds 5
//	go run ./compare -scale 0.1 -rounds 1     # a quick look
//	go run ./compare -require 'wsproxy/nginx:idle.bytes_per_tunnel<=0.8'
//
// It builds and starts all programs, on loopback addresses, and stops them at the
// end. Each workload runs on all peers in turn, round by round, each time with a new
// process. Each round begins with another peer. The table shows the median of the
// rounds and, in brackets, the first peer's figure divided by this peer's. The
// quotient is calculated within each round, because the speed of a machine drifts,
// and the table shows the median of the quotients.
//
// CPU is user and system time of the proxy's processes, memory their private pages
// and their share of shared ones (Pss).
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

var errBroken = errors.New("a bound does not hold")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

// run writes the table to stdout, and its progress to stderr.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	f, err := parseFlags(args, stderr)
	if err != nil {
		return err
	}
	peers := installed(f.peers, stderr)
	if len(peers) == 0 {
		return errors.New("none of the peers is installed")
	}
	b, err := newBench(ctx, f, stderr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	machine := describeMachine(ctx, peers)
	if f.scale != 1 {
		machine += fmt.Sprintf(" Connections and times were multiplied by %g.", f.scale)
	}
	results := b.runAll(ctx, f.workloads, peers, f.rounds)
	if err := ctx.Err(); err != nil {
		return errors.New("interrupted")
	}
	if f.json != "" {
		if err := writeJSON(f.json, machine, results); err != nil {
			return err
		}
	}
	fmt.Fprintf(stdout, "%s\n\n", machine)
	writeTable(stdout, results, f.workloads, peers, f.rounds)
	return checkBounds(stdout, f.bounds, results)
}

func writeJSON(name, machine string, r results) error {
	text, err := json.MarshalIndent(struct {
		Machine string  `json:"machine"`
		Results results `json:"results"`
	}{machine, r}, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(text, '\n'), 0o666)
}

func checkBounds(w io.Writer, bounds []bound, r results) error {
	isBroken := false
	for i, b := range bounds {
		if i == 0 {
			fmt.Fprintln(w)
		}
		verdict, holds := b.check(r)
		fmt.Fprintf(w, "- `%s`: %s\n", b.text, verdict)
		isBroken = isBroken || !holds
	}
	if isBroken {
		return errBroken
	}
	return nil
}
