// Quickstart is a chat with rooms behind wsproxy: two backends that share no
// memory, the proxy that keeps everybody who is in one room on one backend, and a
// page on which to watch it.
//
//	go run ./examples/quickstart          # open what it prints in two tabs
//	go run ./examples/quickstart -check   # the same without a browser
//
// Where to look: demo.go has the proxy and how a backend comes and goes, chat.go
// is an ordinary WebSocket server that knows nothing of a proxy, and page/app.js
// shows what a good client does when its connection ends.
//
// With -check two clients meet in a room, rooms reach both backends, a backend
// stops, starts again and crashes, and everything is shut down. What was seen is
// printed, and the exit status is 0 only if all of it was right.
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

const shutdownTimeout = 10 * time.Second // for everybody to say goodbye

func main() {
	listen := flag.String("listen", "127.0.0.1:8000", "address of the page and the proxy")
	check := flag.Bool("check", false, "run without a browser; exit with 0 if everything held")
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
	d, err := newDemo(log.New(out, "", log.Ltime).Printf, listen, "127.0.0.1:8080", "127.0.0.1:8081")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, welcomeText, d.url(), d.url())
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

Open it in two tabs: in one room they share a backend, and see each other.
The page can stop and start the backends, and so can you:

    curl -X POST %s/backends/B/stop     (or crash, or start)

Ctrl-C ends everything.

`
