// Gateway is a WebSocket load balancer as a program: wsproxy in front of the
// backends that the command line names.
//
//	go run ./examples/gateway -listen :8000 -backend http://10.0.0.1:8080 -backend http://10.0.0.2:8080
//	go run ./examples/gateway -h
//
// flags.go has its settings. operate.go serves metrics and the probes of an orchestrator,
// admin.go the admin page: both on listeners that clients do not reach.
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
	"sync/atomic"
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

// run runs a gateway until ctx ends, and then shuts it down. It prints the addresses
// of the listeners to stdout.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	f, err := parseFlags(args, stdout)
	if err != nil {
		return err
	}
	opts, err := f.options()
	if err != nil {
		return err
	}
	logger := newLogger(f)
	proxy, err := wsproxy.New(append(opts, wsproxy.WithLogger(logger))...)
	if err != nil {
		return err
	}
	defer proxy.Close()
	ln, err := listen(f.listen)
	if err != nil {
		return err
	}
	defer ln.Close()
	g := &gateway{flags: f, logger: logger, proxy: proxy, server: newServer(proxy), servec: make(chan error, 3)}
	ops, err := g.newOpsServers(ctx)
	if err != nil {
		return err
	}
	defer closeServers(ops)
	fmt.Fprintf(stdout, "listening on %s\n", ln.Addr())
	go g.serve(g.server, ln, f.tlsCert != "") // ends with shutdown
	for _, s := range ops {
		fmt.Fprintf(stdout, "%s on %s\n", s.name, s.url)
		go g.serve(s.Server, s.ln, s.hasTLS) // ends with closeServers
	}
	if err := g.wait(ctx); err != nil {
		return err
	}
	return g.shutdown()
}

// A gateway is the server and its proxy.
type gateway struct {
	flags  *flags
	logger *slog.Logger
	proxy  *wsproxy.Proxy
	server *http.Server
	servec chan error // receives the result of Serve of each server

	tokenErrorAt atomic.Int64 // Unix time of the last line of logTokenError
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
		ReadHeaderTimeout: headerTimeout,
	}
}

const headerTimeout = 10 * time.Second // ends with the header, so it does not limit tunnels

func (g *gateway) serve(server *http.Server, ln net.Listener, hasTLS bool) {
	if hasTLS {
		g.servec <- server.ServeTLS(ln, g.flags.tlsCert, g.flags.tlsKey)
		return
	}
	g.servec <- server.Serve(ln)
}

// wait waits until ctx ends, and for -drain-delay after it: what sends clients here takes
// some seconds to notice that /readyz fails. It returns early if a server fails.
func (g *gateway) wait(ctx context.Context) error {
	select {
	case err := <-g.servec:
		return err
	case <-ctx.Done():
	}
	g.logger.Info("signal: not ready any more", "drain_delay", g.flags.drainDelay, "grace", g.flags.grace)
	select {
	case err := <-g.servec:
		return err
	case <-time.After(g.flags.drainDelay):
		return nil
	}
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

// newLogger returns a logger to stderr: for warnings and errors; with -access-log, and
// with -admin, whose actions are logged, also for information; with -v for everything.
func newLogger(f *flags) *slog.Logger {
	level := slog.LevelWarn
	switch {
	case f.isVerbose:
		level = slog.LevelDebug
	case f.logsAccess || f.admin != "":
		level = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}
