package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/wsproxy/wsproxy/wsproxymetrics"
)

// An opsServer is a server for operators and orchestrators. It has a listener of its
// own, so that clients cannot reach it by any path.
type opsServer struct {
	*http.Server
	name   string // "admin page" or "metrics"
	url    string
	ln     net.Listener
	hasTLS bool
}

// newOpsServers returns the servers of -admin and -metrics, whose listeners are open.
// They are ready until ctx ends.
func (g *gateway) newOpsServers(ctx context.Context) (servers []*opsServer, err error) {
	if g.flags.admin != "" {
		s, err := g.newAdminServer(ctx)
		if err != nil {
			return nil, fmt.Errorf("-admin %s: %w", g.flags.admin, err)
		}
		servers = append(servers, s)
	}
	if g.flags.metrics != "" {
		s, err := g.newMetricsServer(ctx)
		if err != nil {
			closeServers(servers)
			return nil, fmt.Errorf("-metrics %s: %w", g.flags.metrics, err)
		}
		servers = append(servers, s)
	}
	return servers, nil
}

// newMetricsServer returns the server of -metrics. It asks for no password: the metrics
// have no addresses and no names of clients.
func (g *gateway) newMetricsServer(ctx context.Context) (*opsServer, error) {
	ln, err := net.Listen("tcp", g.flags.metrics)
	if err != nil {
		return nil, err
	}
	mux := newOpsMux(ctx)
	mux.Handle("GET /metrics", wsproxymetrics.Handler(g.proxy, wsproxymetrics.Options{Name: g.flags.name}))
	return newOpsServer("metrics", "http://"+ln.Addr().String()+"/metrics", ln, mux), nil
}

func newOpsServer(name, url string, ln net.Listener, handler http.Handler) *opsServer {
	server := &http.Server{
		Handler:     handler,
		ReadTimeout: headerTimeout, // also of the rest of a body, before anybody is authorized; a stream goes on
		IdleTimeout: idleTimeout,
	}
	return &opsServer{Server: server, name: name, url: url, ln: ln}
}

const idleTimeout = 2 * time.Minute // more than the interval of scrapes

// newOpsMux returns a mux with the probes of an orchestrator, which need no password.
// The gateway is live while it responds, and ready until ctx ends. Neither depends on
// backends: if those fail, another gateway would not help, and a new one would have lost
// all tunnels.
func newOpsMux(ctx context.Context) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if ctx.Err() != nil {
			http.Error(w, "shutting down", http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ok\n")
	})
	return mux
}

// closeServers closes the servers with all their connections. A stream of the admin page
// does not end by itself.
func closeServers(servers []*opsServer) {
	for _, s := range servers {
		s.Close()
		s.ln.Close() // a server that does not serve yet does not know its listener
	}
}
