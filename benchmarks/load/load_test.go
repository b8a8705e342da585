package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/benchmarks/internal/wire"
	"github.com/wsproxy/wsproxy/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func TestEveryModeMeasures(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is no /proc")
	}
	url := "ws://" + listen(t, func(ln net.Listener) { wire.Serve(ln) }) + "/"
	pid := fmt.Sprint(os.Getpid())
	common := []string{"-url", url, "-conns", "4", "-warm-up", "10ms", "-length", "200ms"}
	for _, tt := range []struct {
		args string
		want []string // figures that are above 0
	}{
		{"-pid " + pid + " echo", []string{"cpu_us_per_msg", "msgs_per_s", "p50_us", "p99_us", "p999_us"}},
		{"-rate 1000 echo", []string{"msgs_per_s", "p50_us", "p99_us", "p999_us"}},
		{"-pid " + pid + " -size 100000 -window 2 bulk", []string{"cpu_s_per_gb", "gb_per_s"}},
		{"-pid " + pid + " -rate 1000 fanout", []string{"msgs_per_s"}},
		{"-pid " + pid + " -conns 40 idle", []string{"fds_per_tunnel"}}, // of both ends; memory may fall
		{"-pid " + pid + " churn", []string{"cpu_us_per_tunnel", "tunnels_per_s"}},
	} {
		t.Run(tt.args, func(t *testing.T) {
			f := runLoad(t, append(common, strings.Fields(tt.args)...))
			for _, name := range tt.want {
				if !(f[name] > 0) {
					t.Errorf("%s is %v among %v; want more than 0", name, f[name], f)
				}
			}
		})
	}
}

func TestEchoMeasuresPlainConnections(t *testing.T) {
	addr := listen(t, func(ln net.Listener) {
		for c, err := ln.Accept(); err == nil; c, err = ln.Accept() {
			go func() { // until the client closes c
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	})
	f := runLoad(t, []string{"-url", "tcp://" + addr, "-conns", "2", "-warm-up", "10ms", "-length", "50ms", "echo"})
	if !(f["p50_us"] > 0) {
		t.Errorf("p50_us is %v; want more than 0", f["p50_us"])
	}
}

func TestBadFlagsAreExplained(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"", "one mode"},
		{"dance", "bulk, churn, echo"},
		{"-conns 0 echo", "above 0"},
		{"-url http://127.0.0.1:1 echo", "ws, wss or tcp"},
		{"-url ws://127.0.0.1:1 idle", "-pid"},
		{"-url ws://127.0.0.1:1 echo", "refused"},
	} {
		err := run(strings.Fields(tt.args), io.Discard)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("run(%s) = %v; want an error that says %q", tt.args, err, tt.want)
		}
	}
}

func TestQuantilesAreMeasuredValues(t *testing.T) {
	all := make([]time.Duration, 101)
	for i := range all {
		all[i] = time.Duration(i)
	}
	for q, want := range map[float64]time.Duration{0: 0, 0.5: 50, 0.99: 99, 0.999: 99, 1: 100} {
		if got := quantile(all, q); got != want {
			t.Errorf("quantile(0…100, %v) = %d; want %d", q, got, want)
		}
	}
	if got := quantile(all[:1], 0.999); got != 0 {
		t.Errorf("quantile of one value = %d; want that value", got)
	}
}

func TestConnectionsTakeTurnsAtARate(t *testing.T) {
	task := &task{conns: 4, rate: 8}
	var firsts []time.Time
	for i := range task.conns {
		p := task.pace(i)
		if p.gap != 500*time.Millisecond {
			t.Errorf("gap is %v; want 500ms, for 8 a second of 4 connections", p.gap)
		}
		firsts = append(firsts, p.next)
	}
	if !slices.IsSortedFunc(firsts, time.Time.Compare) || firsts[3].Sub(firsts[0]) < 370*time.Millisecond {
		t.Errorf("the first messages are due at %v; want them spread", firsts)
	}
}

// runLoad returns the figures that a load prints.
func runLoad(t *testing.T, args []string) figures {
	t.Helper()
	var out strings.Builder
	if err := run(args, &out); err != nil {
		t.Fatalf("run(%q) = %v", args, err)
	}
	first, rest, _ := strings.Cut(out.String(), "\n")
	var f figures
	if err := json.Unmarshal([]byte(rest), &f); err != nil || first != "running" {
		t.Fatalf("run(%q) printed %q; want running, and an object: %v", args, out.String(), err)
	}
	return f
}

// listen serves until the test ends.
func listen(t *testing.T, serve func(net.Listener)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go serve(ln) // until Close
	return ln.Addr().String()
}
