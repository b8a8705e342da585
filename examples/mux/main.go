// Mux adds WebSockets to an existing web service. It has pages, an API, a logging
// middleware, and two routes whose upgrades are relayed to a backend.
//
//	go run ./examples/mux
//
// See newMux for the routes, logged for the methods that a middleware needs so that
// upgrades work behind it, and run for the shutdown. The backend, in echo.go, echoes
// messages. The same command starts it.
package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/wsproxy/wsproxy"
)

const shutdownTimeout = 10 * time.Second

func main() {
	listen := flag.String("listen", "127.0.0.1:8000", "address to listen on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	if err := run(ctx, *listen, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "mux:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends, and then shuts everything down: the server and the
// proxy at the same time, because the server does not know upgraded connections.
func run(ctx context.Context, listen string, out io.Writer) error {
	backend, err := startEcho()
	if err != nil {
		return err
	}
	defer backend.Close()

	proxy, err := wsproxy.New(wsproxy.WithBackends("http://" + backend.Addr))
	if err != nil {
		return err
	}
	defer proxy.Close()

	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	logger := log.New(out, "", log.Ltime)
	server := &http.Server{Handler: logged(logger, newMux(proxy)), ReadHeaderTimeout: 10 * time.Second}
	fmt.Fprintf(out, "open http://%s/ (Ctrl-C ends)\n", ln.Addr())
	errc := make(chan error, 1)
	go func() { errc <- server.Serve(ln) }() // ends with Shutdown

	select {
	case err := <-errc:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	var wg sync.WaitGroup
	var serverErr, proxyErr error
	wg.Go(func() { serverErr = server.Shutdown(ctx) })
	wg.Go(func() { proxyErr = proxy.Shutdown(ctx) })
	wg.Wait()
	return errors.Join(serverErr, proxyErr)
}

// newMux returns the routes. Those of the proxy have no method, because a WebSocket
// over HTTP/2 arrives as a CONNECT.
func newMux(proxy *wsproxy.Proxy) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", serveHome)
	mux.HandleFunc("GET /api/time", serveTime)

	// Upgrades are relayed. Any other request gets 426 Upgrade Required.
	mux.Handle("/ws", proxy)

	// Upgrades are relayed. Any other request gets the page, as before.
	mux.Handle("/room", proxy.Wrap(http.HandlerFunc(serveRoom)))
	return mux
}

//go:embed home.html
var homePage []byte

//go:embed room.html
var roomPage []byte

func serveHome(w http.ResponseWriter, _ *http.Request) { servePage(w, homePage) }
func serveRoom(w http.ResponseWriter, _ *http.Request) { servePage(w, roomPage) }

func servePage(w http.ResponseWriter, page []byte) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Write(page) // fails only when the browser has gone
}

func serveTime(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]time.Time{"now": time.Now()}) // fails only when the client has gone
}

// logged logs every request after it has ended. An upgrade ends with its tunnel,
// because the proxy's ServeHTTP returns then.
func logged(logger *log.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		s := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(s, r)
		logger.Printf("%s %q: %d after %s", r.Method, r.URL.Path, s.status, time.Since(began).Round(time.Millisecond))
	})
}

// A statusWriter records the status of a response.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap gives [http.ResponseController] access to the methods of the server's
// ResponseWriter. Without it every upgrade fails with 500.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Hijack records the status 101 for the log. The proxy writes the 101 to the
// hijacked connection, without a call of WriteHeader.
func (w *statusWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.status = http.StatusSwitchingProtocols
	}
	return conn, buffered, err
}
