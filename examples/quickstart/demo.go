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

// A demo is the backends, the proxy, and the server for the proxy, the page and the
// control of the backends.
type demo struct {
	// Immutable.
	logf     logFunc
	events   *eventLog
	backends []*backend
	balancer wsproxy.Balancer
	proxy    *wsproxy.Proxy
	server   *http.Server
	addr     string     // of the server's listener
	servec   chan error // receives the result of server.Serve

	mu      sync.Mutex // held while a backend is being stopped or started
	removed []string   // IDs of the backends that are removed from the proxy
}

//go:embed page
var pageFiles embed.FS

// rooms are the rooms that the page offers.
var rooms = []string{"design", "support", "release", "research", "kitchen", "music"}

// newDemo starts a demo whose page is at front. Its backends are A, B and C, and listen
// on the addresses of backs, or on other ports if those are taken. Backend C is added
// later, on the page.
func newDemo(logf logFunc, front string, backs [3]string) (*demo, error) {
	d := &demo{
		logf:     logf,
		events:   newEventLog(),
		backends: []*backend{{id: "A", addr: backs[0]}, {id: "B", addr: backs[1]}, {id: "C", addr: backs[2]}},
		removed:  []string{"C"},
		servec:   make(chan error, 1),
	}
	for _, b := range d.backends[:2] {
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

// newProxy creates the proxy. It sends all clients of a room to the same backend, so
// that they meet: backends share no memory.
func (d *demo) newProxy() (err error) {
	d.balancer = wsproxy.Hash(wsproxy.ByQuery("room"))
	d.proxy, err = wsproxy.New(
		wsproxy.WithBackendConfigs(d.configs()...),
		wsproxy.WithBalancer(d.balancer),
		wsproxy.WithHealthCheck(healthCheck),
		wsproxy.WithTrace(d.newTrace()),
	)
	return err
}

// healthCheck detects a frozen backend, which looks alive to its clients, after 2.5 s at
// most. A second later it closes the tunnels of that backend. A service in production uses
// longer times: the defaults, for instance.
var healthCheck = wsproxy.HealthCheck{
	Probe:      wsproxy.HTTPProbe(wsproxy.HTTPProbeConfig{Path: healthPath}),
	Interval:   500 * time.Millisecond,
	Timeout:    time.Second,
	Fall:       2,
	Rise:       1,
	DrainAfter: time.Second,
}

// configs returns the configuration of the backends that are not removed. The
// balancer hashes their IDs, so a room does not move when its backend changes its
// port.
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
		panic("BUG: " + err.Error())
	}
	mux := http.NewServeMux()
	mux.Handle("/chat", d.proxy)
	mux.Handle("/", withPolicy(http.FileServerFS(page)))
	mux.Handle(adminPath, d.newAdmin())
	mux.HandleFunc("GET /status", d.serveStatus)
	mux.HandleFunc("GET /events", d.serveEvents)
	mux.HandleFunc("POST /backends/{id}/{action}", d.serveSwitch)
	// Another site that is open in the same browser must not stop a backend.
	handler := http.NewCrossOriginProtection().Handler(mux)
	return wsproxy.Front(handler) // outermost, so that middleware sees the status of a tunnel: 101
}

// withPolicy sets a policy that allows the page to load its own files only.
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

// shutdown ends everything in an order that loses nothing. It shuts the server and
// the proxy down at the same time, because neither knows the other's connections: an
// [http.Server] does not know those that were upgraded. The backends are last.
func (d *demo) shutdown(ctx context.Context) error {
	var wg sync.WaitGroup
	var serverErr, proxyErr error
	wg.Go(func() { serverErr = d.server.Shutdown(ctx) })
	wg.Go(func() { proxyErr = d.proxy.Shutdown(ctx) })
	wg.Wait()
	d.events.close() // after the last tunnel, so that pages get its event
	errs := []error{serverErr, proxyErr}
	for _, b := range d.backends {
		errs = append(errs, b.stop(ctx))
	}
	return errors.Join(errs...)
}

// moveRoom moves a room to the backend of its newest member. When a backend is started
// again or added, new members of a room are sent there, while the others are still on
// another backend. moveRoom closes the tunnels of those, and they reconnect. It iterates
// over all tunnels. A service with many tunnels would index them by room.
func (d *demo) moveRoom(newest wsproxy.TunnelInfo) {
	room := roomOf(newest)
	for t := range d.proxy.Tunnels() {
		if other := t.Info(); roomOf(other) != room || other.Backend == newest.Backend {
			continue
		}
		if err := t.Close(closeServiceRestart, "the room has moved to backend "+newest.Backend.ID()); err != nil {
			d.logf("%v", err) // an invalid code or reason
		}
	}
}

// closeServiceRestart is the close code that asks the client to connect again.
// https://www.iana.org/assignments/websocket/websocket.xhtml#close-code-number
const closeServiceRestart = 1012

func roomOf(info wsproxy.TunnelInfo) string { return info.URL.Query().Get("room") }

// url returns the URL of the page on this machine.
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
