// Load generates WebSocket traffic, and measures what it costs a proxy:
//
//	go run ./load -url ws://127.0.0.1:8000/ -pid PID echo
//
// The modes are
//
//	echo     messages are echoed, as fast as possible or at a rate
//	bulk     large messages, several in flight on each connection
//	fanout   the backend sends messages at a rate
//	idle     connections carry one message each and then rest
//	churn    connections are opened, carry a message, and are closed
//
// It prints "running" after its warm-up, and at the end its figures as a JSON object
// on one line. CPU and memory are those of the process pid and its descendants.
// Without a pid these figures are left out.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/wsproxy/wsproxy/benchmarks/internal/wire"
)

// A task is what the command line says.
type task struct {
	url     string
	pid     int
	conns   int
	size    int
	rate    float64
	window  int
	sources int
	warmUp  time.Duration
	length  time.Duration
	out     io.Writer
}

// figures are measured values by name.
type figures map[string]float64

var modes = map[string]func(*task) (figures, error){
	"echo":   (*task).echo,
	"bulk":   (*task).bulk,
	"fanout": (*task).fanout,
	"idle":   (*task).idle,
	"churn":  (*task).churn,
}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	t := &task{out: out}
	fs := flag.NewFlagSet("load", flag.ContinueOnError)
	fs.StringVar(&t.url, "url", "", "ws, wss, or tcp `URL` to connect with; tcp is a plain connection for echo")
	fs.IntVar(&t.pid, "pid", 0, "`process` whose CPU and memory are measured")
	fs.IntVar(&t.conns, "conns", 100, "connections that are open at once")
	fs.IntVar(&t.size, "size", 128, "payload `bytes` of a message")
	fs.Float64Var(&t.rate, "rate", 0, "messages a second: echo: of all connections, 0 means as fast as answers come; fanout: of each")
	fs.IntVar(&t.window, "window", 4, "bulk: messages in flight on each connection")
	fs.IntVar(&t.sources, "sources", 64, "loopback addresses to come from")
	fs.DurationVar(&t.warmUp, "warm-up", time.Second, "`time` that is not measured")
	fs.DurationVar(&t.length, "length", 3*time.Second, "`time` that is measured; idle: how long connections rest")
	if err := fs.Parse(args); err != nil {
		return err
	}
	mode := modes[fs.Arg(0)]
	if mode == nil || fs.NArg() != 1 {
		return fmt.Errorf("want one mode, of %s; see -h", strings.Join(slices.Sorted(maps.Keys(modes)), ", "))
	}
	if t.conns <= 0 || t.size <= 0 || t.window <= 0 || t.length <= 0 {
		return errors.New("-conns, -size, -window and -length must be above 0")
	}
	f, err := mode(t)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(f)
}

// printRunning prints that the measurement begins, for the parent process.
func (t *task) printRunning() { fmt.Fprintln(t.out, "running") }

// dialer returns a dialer for connections with read buffers of bufferBytes.
func (t *task) dialer(bufferBytes int) (*wire.Dialer, error) {
	return wire.NewDialer(t.url, bufferBytes, t.sources)
}
