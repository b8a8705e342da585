package stacks_test

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
)

// A route is how a client reaches a server.
type route struct {
	front      string // the transport between the client and the proxy: "ws" or "wss"
	back       string // that between the proxy and the server: see transports
	isDetached bool
	isWrapped  bool // the proxy's connection with the server is, so that the engine is portable

	isAnonymous bool // the proxy shows no certificate
}

func (r route) String() string {
	s := r.front + " → " + r.back
	if r.isDetached {
		s += ", detached"
	}
	if r.isWrapped {
		s += ", wrapped"
	}
	return s
}

// engine returns what must relay the bytes.
func (r route) engine() wsproxy.Engine {
	isPlain := r.front == "ws" && (r.back == "ws" || r.back == "unix") && !r.isWrapped
	if isPlain && runtime.GOOS == "linux" && !isPortable {
		return wsproxy.EngineEventLoop
	}
	return wsproxy.EnginePortable
}

// A proxy is one with one server as its backend.
type proxy struct {
	url    string // begins with ws or wss
	offers *mailbox[string]
	ends   *mailbox[wsproxy.TunnelEnd]
}

// startProxy starts a proxy that runs until the test ends.
func startProxy(t *testing.T, r route, s *server) *proxy {
	t.Helper()
	p := &proxy{offers: newMailbox[string](), ends: newMailbox[wsproxy.TunnelEnd]()}
	config := &tls.Config{RootCAs: authority.pool}
	if !r.isAnonymous {
		config.Certificates = []tls.Certificate{authority.client}
	}
	opts := []wsproxy.Option{
		wsproxy.WithBackends(s.urls[r.back]),
		wsproxy.WithDetached(r.isDetached),
		wsproxy.WithTLSConfig(config),
		wsproxy.WithTrace(&wsproxy.Trace{
			Closed: func(e wsproxy.TunnelEnd) { p.ends.put(newScript(e.URL).id, e) },
		}),
	}
	if r.isWrapped {
		opts = append(opts, proxytest.WrappedDialer())
	}
	h := p.recordOffers(proxytest.NewProxy(t, opts...))
	srv := httptest.NewUnstartedServer(wsproxy.Front(h))
	srv.Config.ErrorLog = proxytest.DiscardLog
	if r.front == "wss" {
		srv.TLS = &tls.Config{Certificates: []tls.Certificate{authority.server}}
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	p.url = r.front + srv.URL[strings.Index(srv.URL, ":"):]
	return p
}

// recordOffers records the extensions that clients offer.
func (p *proxy) recordOffers(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.offers.put(newScript(r.URL).id, extensionsOf(r.Header))
		h.ServeHTTP(w, r)
	})
}
