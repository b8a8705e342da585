// Quickstart is a chat with rooms behind wsproxy. It has two backends that share no
// memory (the page can add a third), a proxy that sends all clients of a room to the
// same backend, and a page that shows what happens.
//
//	go run ./examples/quickstart          # open the printed URL
//	go run ./examples/quickstart -check   # the same without a browser
//
// demo.go contains the proxy. control.go adds, removes and drains backends. events.go observes
// the proxy with a Trace. admin.go mounts the admin page of wsproxy. freeze.go makes a backend hang. chat.go is an
// ordinary WebSocket server, which does not know the proxy. page/person.js shows how a client should reconnect when its connection
// ends.
//
// With -check two clients meet in a room, rooms reach both backends, a backend
// stops, starts again, is drained and frozen, and crashes, and everything is shut down.
// The program prints the results, and its exit status is 0 only if all of them were right.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// backendAddrs are the addresses of the backends A, B and C.
var backendAddrs = [3]string{"127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:8082"}

const shutdownTimeout = 10 * time.Second // for all closing handshakes

func main() {
	listen := flag.String("listen", "127.0.0.1:8000", "address of the page and the proxy")
	check := flag.Bool("check", false, "check the demo without a browser; the exit status is 0 if all checks pass")
	flag.Parse()
	if err := run(*listen, *check); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(listen string, isCheck bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	if isCheck {
		return check(ctx, os.Stdout)
	}
	return serve(ctx, os.Stdout, listen)
}

// serve runs a demo until ctx ends.
func serve(ctx context.Context, out io.Writer, listen string) error {
	d, err := newDemo(log.New(out, "", log.Ltime).Printf, listen, backendAddrs)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, welcomeText, d.url(), d.url(), d.url()+adminPath)
	if err := d.wait(ctx); err != nil {
		return err
	}
	d.logf("shutting down")
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	return d.shutdown(ctx)
}

const welcomeText = `
    %s/?room=design

Open it. Ann and Bob are in the same room, so they are on the same backend and see
each other. You can stop and start the backends on the page, or with curl:

    curl -X POST %s/backends/B/stop     (or crash, start, drain, resume, freeze, continue)

The admin page, as a service would have it, is %s

Ctrl-C ends everything.

`
