package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/wsproxy/wsproxy"
)

// A demo is everything that runs: two backends, the proxy, and the server that
// has the proxy, the page and the switches for the backends.
type demo struct {
	// Immutable.
	logf     logFunc
	backends []*backend
	balancer wsproxy.Balancer
	proxy    *wsproxy.Proxy
	server   *http.Server
	addr     string     // where server listens
	servec   chan error // why server ended

	mu      sync.Mutex // held while a backend is being stopped or started
	removed []string   // IDs of the backends that the proxy does not know now
}

//go:embed page
var pageFiles embed.FS

// rooms are the ones that the page has links to.
var rooms = []string{"design", "support", "release", "research", "kitchen", "music"}

// newDemo starts a demo whose page is at front and whose backends listen on
// backA and backB, or on other ports if those are taken.
func newDemo(logf logFunc, front, backA, backB string) (*demo, error) {
	d := &demo{
		logf:     logf,
		backends: []*backend{{id: "A", addr: backA}, {id: "B", addr: backB}},
		servec:   make(chan error, 1),
	}
	for _, b := range d.backends {
		if err := b.start(logf); err != nil {
			return nil, err
		}
	}
	ln, err := listen(front, logf)
	if err != nil {
		return nil, err
	}
	d.addr = ln.Addr().String()
	if err := d.newProxy(); err != nil {
		return nil, err
	}
	d.server = &http.Server{Handler: d.newHandler(), ReadHeaderTimeout: headerTimeout}
	go d.serve(ln) // ends with shutdown
	return d, nil
}

// newProxy makes the proxy. Everybody who asks for the same room is sent to the
// same backend: that is what lets them meet, since backends share no memory.
func (d *demo) newProxy() (err error) {
	d.balancer = wsproxy.Hash(wsproxy.ByQuery("room"))
	d.proxy, err = wsproxy.New(
		wsproxy.WithBackendConfigs(d.configs()...),
		wsproxy.WithBalancer(d.balancer),
		wsproxy.WithTrace(&wsproxy.Trace{Opened: d.opened, Closed: d.closed}),
	)
	return err
}

// configs describes the backends that the proxy shall know. The IDs are what is
// hashed: a room stays where it is when its backend changes its port.
func (d *demo) configs() []wsproxy.BackendConfig {
	var configs []wsproxy.BackendConfig
	for _, b := range d.backends {
		if !slices.Contains(d.removed, b.id) {
			addr, _ := b.address()
			configs = append(configs, wsproxy.BackendConfig{ID: b.id, URL: "http://" + addr})
		}
	}
	return configs
}

func (d *demo) newHandler() http.Handler {
	page, err := fs.Sub(pageFiles, "page")
	if err != nil {
		panic(err) // the program is built wrong
	}
	mux := http.NewServeMux()
	mux.Handle("/chat", d.proxy)
	mux.Handle("/", withPolicy(http.FileServerFS(page)))
	mux.HandleFunc("GET /status", d.serveStatus)
	mux.HandleFunc("POST /backends/{id}/{action}", d.serveSwitch)
	// No other site that is open in the same browser may stop a backend.
	return http.NewCrossOriginProtection().Handler(mux)
}

// withPolicy lets the page load nothing that is not its own.
func withPolicy(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'self'; base-uri 'none'; frame-ancestors 'none'")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}

func (d *demo) serve(ln net.Listener) { d.servec <- d.server.Serve(ln) }

// wait waits until ctx ends or the server fails.
func (d *demo) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-d.servec:
		return err
	}
}

// shutdown ends everything in the order that loses nothing. The server and the
// proxy go side by side, because neither knows of the other's connections: an
// [http.Server] forgets those that were upgraded. The backends come last.
func (d *demo) shutdown(ctx context.Context) error {
	var wg sync.WaitGroup
	var serverErr, proxyErr error
	wg.Go(func() { serverErr = d.server.Shutdown(ctx) })
	wg.Go(func() { proxyErr = d.proxy.Shutdown(ctx) })
	wg.Wait()
	errs := []error{serverErr, proxyErr}
	for _, b := range d.backends {
		errs = append(errs, b.stop(ctx))
	}
	return errors.Join(errs...)
}

// opened keeps each room together. When a backend is started again, a newcomer
// lands there, while those who came before are still where they were: they are
// asked to come too. It looks at all tunnels each time; a service with many would
// keep them by room.
func (d *demo) opened(info wsproxy.TunnelInfo) {
	room := roomOf(info)
	d.logf("room %q: somebody came to backend %s", room, info.Backend.ID())
	for t := range d.proxy.Tunnels() {
		if other := t.Info(); roomOf(other) != room || other.Backend == info.Backend {
			continue
		}
		if err := t.Close(closeServiceRestart, "the room has moved to backend "+info.Backend.ID()); err != nil {
			d.logf("%v", err) // the code or the reason is wrong
		}
	}
}

// closeServiceRestart asks the client to connect again:
// https://www.iana.org/assignments/websocket/websocket.xhtml#close-code-number
const closeServiceRestart = 1012

func (d *demo) closed(end wsproxy.TunnelEnd) {
	d.logf("room %q: somebody left backend %s after %s: %s, %s, code %d", roomOf(end.TunnelInfo),
		end.Backend.ID(), end.Duration.Round(time.Millisecond), end.Side, end.Cause, end.Code)
}

func roomOf(info wsproxy.TunnelInfo) string { return info.URL.Query().Get("room") }

// url is where the page is, as seen from this machine.
func (d *demo) url() string {
	host, port, err := net.SplitHostPort(d.addr)
	if err != nil {
		return d.addr
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return fmt.Sprintf("http://%s", net.JoinHostPort(host, port))
}
