package main

import (
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
)

// flags are the settings of the command line.
type flags struct {
	peers     []*peer
	workloads []*workload
	rounds    int
	scale     float64
	json      string
	baseline  string
	bounds    []bound
}

// parseFlags parses args and checks them. With -h it prints the usage to out.
func parseFlags(args []string, out io.Writer) (*flags, error) {
	f := new(flags)
	var peers, works string
	fs := flag.NewFlagSet("compare", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&peers, "peers", names(allPeers), "`names` of the peers, comma separated; the others are compared with the first")
	fs.StringVar(&works, "workloads", names(allWorkloads), "`names` of workloads, comma separated")
	fs.IntVar(&f.rounds, "rounds", 3, "`number` of rounds; the result is their median")
	fs.Float64Var(&f.scale, "scale", 1, "`factor` for the connections and the time of each workload")
	fs.StringVar(&f.json, "json", "", "`file` for all figures of all rounds")
	fs.StringVar(&f.baseline, "baseline", "", "`folder` with another checkout of wsproxy, which is measured as the peer baseline")
	fs.Func("require", "`bound` such as 'wsproxy/nginx:echo.cpu_us_per_msg<=1.0' for a ratio, or 'wsproxy:idle.fds_per_tunnel<=2'; repeatable; the exit status is 1 if one does not hold or is unknown", func(s string) error {
		b, err := parseBound(s)
		f.bounds = append(f.bounds, b)
		return err
	})
	err := fs.Parse(args)
	switch {
	case err == flag.ErrHelp:
		fs.SetOutput(out)
		fs.Usage()
		fmt.Fprintf(out, "\nWorkloads:\n")
		for _, w := range allWorkloads {
			fmt.Fprintf(out, "  %-9s %s\n", w.name, w.about)
		}
		return nil, err
	case err != nil:
		return nil, err
	case fs.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case f.rounds < 1:
		return nil, fmt.Errorf("-rounds %d: want at least 1", f.rounds)
	case !(f.scale > 0):
		return nil, fmt.Errorf("-scale %g: want more than 0", f.scale)
	}
	if f.peers, err = choose(allPeers, peers); err != nil {
		return nil, fmt.Errorf("-peers: %w", err)
	}
	if f.workloads, err = choose(allWorkloads, works); err != nil {
		return nil, fmt.Errorf("-workloads: %w", err)
	}
	if f.baseline != "" {
		f.peers = append(f.peers, baseline)
	}
	for _, b := range f.bounds {
		if err := b.checkNames(f.peers, f.workloads); err != nil {
			return nil, fmt.Errorf("-require %q: %w", b.text, err)
		}
	}
	return f, nil
}

type named interface{ String() string }

// names returns the names of all, comma separated.
func names[T named](all []T) string {
	var s []string
	for _, x := range all {
		s = append(s, x.String())
	}
	return strings.Join(s, ",")
}

// choose returns the elements of all that list names, in the order of list.
func choose[T named](all []T, list string) ([]T, error) {
	var chosen []T
	for name := range strings.SplitSeq(list, ",") {
		x, err := find(all, name)
		if err != nil {
			return nil, err
		}
		chosen = append(chosen, x)
	}
	return chosen, nil
}

func find[T named](all []T, name string) (T, error) {
	i := slices.IndexFunc(all, func(x T) bool { return x.String() == name })
	if i < 0 {
		var none T
		return none, fmt.Errorf("%q is not one of %s", name, names(all))
	}
	return all[i], nil
}
