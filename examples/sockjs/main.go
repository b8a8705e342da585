// Sockjs shows clients without WebSocket behind a proxy. Its page uses sockjs-client, which
// connects with a WebSocket or, without one, by HTTP requests that must all reach the same
// backend.
//
//	go run ./examples/sockjs
//
// In the page you can disable WebSocket, and choose how the requests of a session are bound to
// one of three backends: by a cookie, by the session's ID in the path, or not at all, which
// fails. See newProxies for the options of the proxy. The backends are in sockjs.go.
package main

import (
	"context"
	"crypto/rand"
	"embed"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/wsproxy/wsproxy"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8000", "address to listen on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *listen, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sockjs:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends, and then ends all connections.
func run(ctx context.Context, listen string, out io.Writer) error {
	var backends []string
	for _, name := range []string{"A", "B", "C"} {
		server, err := serve("127.0.0.1:0", newBackend(name))
		if err != nil {
			return err
		}
		defer server.Close()
		backends = append(backends, "http://"+server.Addr)
	}
	proxies, err := newProxies(backends)
	if err != nil {
		return err
	}
	for _, p := range proxies {
		defer p.Close()
	}
	server, err := serve(listen, newMux(proxies))
	if err != nil {
		return err
	}
	defer server.Close()
	fmt.Fprintf(out, "open http://%s/ (Ctrl-C ends)\n", server.Addr)
	<-ctx.Done()
	return nil
}

// newProxies returns three proxies for the same backends, by the prefixes of their paths.
func newProxies(backends []string) (map[string]*wsproxy.Proxy, error) {
	// All replicas of a service must have the same key.
	key := []byte(rand.Text())
	options := map[string][]wsproxy.Option{
		// The first response sets a cookie, with which the next requests reach the same backend.
		"/cookie/": {wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{key}})},
		// The ID of the session is in the path, and no cookie is needed.
		"/session/": {wsproxy.WithAffinity(wsproxy.Affinity{Key: wsproxy.BySockJSSession("/session")})},
		// Each request reaches the next backend. Only a WebSocket works, which is one request.
		"/none/": {wsproxy.WithBalancer(wsproxy.RoundRobin())},
	}
	proxies := make(map[string]*wsproxy.Proxy)
	for prefix, opts := range options {
		proxy, err := wsproxy.New(append(opts,
			wsproxy.WithBackends(backends...),
			wsproxy.WithHTTP(true),
		)...)
		if err != nil {
			return nil, err
		}
		proxies[prefix] = proxy
	}
	return proxies, nil
}

//go:embed page
var files embed.FS

func newMux(proxies map[string]*wsproxy.Proxy) http.Handler {
	mux := http.NewServeMux()
	for prefix, proxy := range proxies {
		mux.Handle(prefix, proxy)
	}
	page, err := fs.Sub(files, "page")
	if err != nil {
		panic(err) // only with a wrong path
	}
	mux.Handle("/", http.FileServerFS(page))
	return wsproxy.Front(mux)
}

// serve serves h until the server is closed. The server's Addr is the address of its listener.
func serve(addr string, h http.Handler) (*http.Server, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Addr: ln.Addr().String(), Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go server.Serve(ln) // ends with Close
	return server, nil
}
