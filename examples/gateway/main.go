// Gateway is a WebSocket load balancer as a program: wsproxy in front of the
// backends that the command line names.
//
//	go run ./examples/gateway -listen :8000 -backend http://10.0.0.1:8080 -backend http://10.0.0.2:8080
//	go run ./examples/gateway -h
//
// All tunnels end when their program exits. If a service is deployed often, put its
// tunnels into a small program like this one, which is deployed rarely.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/wsproxy/wsproxy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	err := run(ctx, os.Args[1:], os.Stdout)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gateway:", err)
		os.Exit(1)
	}
}

// run runs a gateway until ctx ends, and then shuts it down. It prints the address
// of the listener to stdout.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	f, err := parseFlags(args, stdout)
	if err != nil {
		return err
	}
	opts, err := f.options()
	if err != nil {
		return err
	}
	logger := newLogger(f.isVerbose)
	proxy, err := wsproxy.New(append(opts, wsproxy.WithLogger(logger))...)
	if err != nil {
		return err
	}
	defer proxy.Close()
	ln, err := listen(f.listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "listening on %s\n", ln.Addr())
	g := &gateway{f, logger, proxy, newServer(proxy), make(chan error, 1)}
	go g.serve(ln) // ends with shutdown
	select {
	case err := <-g.servec:
		return err
	case <-ctx.Done():
		return g.shutdown()
	}
}

// A gateway is the server and its proxy.
type gateway struct {
	flags  *flags
	logger *slog.Logger
	proxy  *wsproxy.Proxy
	server *http.Server
	servec chan error // receives the result of server.Serve
}

// newServer returns the server for clients. The proxy is its handler, without an
// [http.ServeMux]: that responds to a path such as /a//b or /a/../b with a redirect,
// which WebSocket clients do not follow.
func newServer(proxy *wsproxy.Proxy) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true) // with HTTP/2 too, browsers would use it for all other requests
	return &http.Server{
		Handler:           proxy,
		Protocols:         protocols,
		ReadHeaderTimeout: 10 * time.Second, // ends with the header, so it does not limit tunnels
	}
}

func (g *gateway) serve(ln net.Listener) {
	if g.flags.tlsCert != "" {
		g.servec <- g.server.ServeTLS(ln, g.flags.tlsCert, g.flags.tlsKey)
		return
	}
	g.servec <- g.server.Serve(ln)
}

// shutdown shuts the server and the proxy down at the same time, with one deadline.
// The server does not know connections that were upgraded, and the proxy knows only
// those.
func (g *gateway) shutdown() error {
	ctx, cancel := context.WithTimeout(context.Background(), g.flags.grace)
	defer cancel()
	var wg sync.WaitGroup
	var serverErr, proxyErr error
	wg.Go(func() { serverErr = g.server.Shutdown(ctx) })
	wg.Go(func() { proxyErr = g.proxy.Shutdown(ctx) })
	wg.Wait()
	// A tunnel that had to be cut is logged, but is not an error of the program.
	var drain *wsproxy.DrainError
	if errors.As(proxyErr, &drain) {
		g.logger.Warn("some tunnels were cut", "closed", drain.Closed, "cut", drain.Cut)
		proxyErr = drain.Err
	}
	return errors.Join(serverErr, proxyErr)
}

// newLogger returns a logger to stderr for warnings and errors or, with -v, for
// everything.
func newLogger(isVerbose bool) *slog.Logger {
	level := slog.LevelWarn
	if isVerbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}
