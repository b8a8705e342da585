package wsproxy_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// exchangePlain sends a request, answers it at the backend, and returns both ends.
func exchangePlain(t *testing.T, s *proxytest.Site, b *proxytest.BackendInMemory) (client, leg *wstest.Peer) {
	t.Helper()
	client = s.Dial(t)
	client.WriteRequest(plainKind.request)
	leg = b.Accept(t)
	leg.ReadRequest()
	leg.Write([]byte(plainKind.answer))
	io.Copy(io.Discard, client.ReadResponse().Body)
	synctest.Wait()
	return client, leg
}

// Node closes a connection that has been idle for 5 s.
func TestHTTPConnectionIsIdleForFourSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := proxytest.NewBackendInMemory(t)
		p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a"), backend.Option(), withHTTP)
		client, leg := exchangePlain(t, proxytest.ServeInMemory(t, p), backend)
		time.Sleep(3999 * time.Millisecond)
		client.WriteRequest(plainKind.request)
		leg.ReadRequest() // over the same connection
		leg.Write([]byte(plainKind.answer))
		io.Copy(io.Discard, client.ReadResponse().Body)
		start := time.Now()
		leg.WantEOF()
		if took := time.Since(start); took != 4*time.Second {
			t.Errorf("an idle connection was closed after %v; want 4 s", took)
		}
		client.Close()
	})
}

func TestHTTPLeavesNoIdleConnectionOfABackendThatIsGone(t *testing.T) {
	for name, end := range map[string]func(*wsproxy.Proxy){
		"removed":   func(p *wsproxy.Proxy) { p.SetBackends() },
		"moved":     func(p *wsproxy.Proxy) { p.SetBackends(wsproxy.BackendConfig{ID: "a", URL: "http://b"}) },
		"shut down": func(p *wsproxy.Proxy) { p.Shutdown(context.Background()) },
		"closed":    func(p *wsproxy.Proxy) { p.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				backend := proxytest.NewBackendInMemory(t)
				p := proxytest.NewProxy(t, wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "a", URL: "http://a"}), backend.Option(), withHTTP)
				s := proxytest.ServeInMemory(t, p)
				idleClient, idle := exchangePlain(t, s, backend)
				busyClient := s.Dial(t)
				busyClient.WriteRequest(plainKind.request)
				idle.ReadRequest() // the connection is used again
				client, second := exchangePlain(t, s, backend)
				start := time.Now()
				end(p)
				second.WantEOF()
				// The request in flight goes on, and its connection is closed when it has ended.
				idle.Write([]byte(plainKind.answer))
				proxytest.WantStatus(t, busyClient.ReadResponse(), 200)
				idle.WantEOF()
				if took := time.Since(start); took > 0 {
					t.Errorf("idle connections were closed after %v; want at once", took)
				}
				for _, c := range []*wstest.Peer{idleClient, busyClient, client} {
					c.Close()
				}
			})
		})
	}
}

// A backend may close an idle connection in the moment in which it is used again.
func TestHTTPIdleConnectionThatIsClosedIsNoFault(t *testing.T) {
	for _, tt := range []struct {
		method, line string
		want         int
	}{{"GET", "Accept: */*", 200}, {"POST", "Accept: */*", 502}, {"POST", "Idempotency-Key: 1", 200}} {
		synctest.Test(t, func(t *testing.T) {
			backend := proxytest.NewBackendInMemory(t)
			p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a"), backend.Option(), withHTTP)
			client, leg := exchangePlain(t, proxytest.ServeInMemory(t, p), backend)
			client.WriteRequest(proxytest.Head(tt.method+" / HTTP/1.1", "Host: a", "Content-Length: 0", tt.line))
			leg.ReadRequest()
			leg.Close()
			synctest.Wait()
			if tt.want == 200 {
				leg = backend.Accept(t) // it is sent again
				leg.ReadRequest()
				leg.Write([]byte(plainKind.answer))
			}
			proxytest.WantStatus(t, client.ReadResponse(), tt.want)
			if f := p.Backends()[0].Health().Flags; len(f) > 0 {
				t.Errorf("%s: the backend has %v; want no flag", tt.method, f)
			}
		})
	}
}

// The backend ends a long poll by closing the connection, at a time at which a connect that began
// with the request would have no time left.
func TestHTTPLongPollThatIsSentAgainHasTimeToConnect(t *testing.T) {
	for name, isDown := range map[string]bool{"to the same backend": false, "to another backend": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				backend := proxytest.NewBackendInMemory(t)
				var numDials int
				p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a", "http://b"), withHTTP, proxytest.FirstCandidate,
					wsproxy.WithDialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
						if numDials++; isDown && numDials == 2 {
							return nil, errors.New("refused")
						}
						return backend.Dial(ctx, network, addr)
					}))
				client, leg := exchangePlain(t, proxytest.ServeInMemory(t, p), backend)
				client.WriteRequest(plainKind.request)
				leg.ReadRequest()
				time.Sleep(25 * time.Second)
				leg.Close()
				leg = backend.Accept(t)
				leg.ReadRequest()
				leg.Write([]byte(plainKind.answer))
				proxytest.WantStatus(t, client.ReadResponse(), 200)
				if f := p.Backends()[0].Health().Flags; len(f) > 0 != isDown {
					t.Errorf("the backend has %v; want a flag only if it is down", f)
				}
				client.Close()
			})
		})
	}
}

func TestHTTPKeepsConnectionsOfABackendThatStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := proxytest.NewBackendInMemory(t)
		p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a"), backend.Option(), withHTTP)
		client, leg := exchangePlain(t, proxytest.ServeInMemory(t, p), backend)
		if err := p.SetBackends(wsproxy.BackendConfig{URL: "http://a", Weight: 2}); err != nil {
			t.Fatal(err)
		}
		client.WriteRequest(plainKind.request)
		leg.ReadRequest()
	})
}

func TestHTTPReachesBackendsOverTLSAndUnixSockets(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Proto)
		if r.TLS != nil {
			io.WriteString(w, " over TLS for "+r.TLS.ServerName)
		}
	})
	over := httptest.NewUnstartedServer(h)
	over.EnableHTTP2 = true // which is not offered
	over.Config.ErrorLog = proxytest.DiscardLog
	over.StartTLS()
	t.Cleanup(over.Close)
	roots := x509.NewCertPool()
	roots.AddCert(over.Certificate())
	socket := proxytest.SocketPath(t)
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	go srv.Serve(ln) // until Close
	t.Cleanup(func() { srv.Close() })
	for _, tt := range []struct {
		config wsproxy.BackendConfig
		roots  *x509.CertPool
		status int
		body   string
	}{
		{wsproxy.BackendConfig{URL: over.URL, ServerName: "example.com"}, roots, 200, "HTTP/1.1 over TLS for example.com"},
		{wsproxy.BackendConfig{URL: over.URL, ServerName: "other.example"}, roots, 503, "Service Unavailable\n"},
		{wsproxy.BackendConfig{URL: over.URL}, nil, 503, "Service Unavailable\n"},
		{wsproxy.BackendConfig{URL: "unix://" + socket}, nil, 200, "HTTP/1.1"},
	} {
		p, s := proxytest.Start(t, wsproxy.WithBackendConfigs(tt.config), wsproxy.WithTLSConfig(&tls.Config{RootCAs: tt.roots}), withHTTP)
		resp, body := do(t, http.DefaultClient, "GET", s.URL, nil)
		http.DefaultClient.CloseIdleConnections()
		proxytest.WantStatus(t, resp, tt.status)
		if body != tt.body {
			t.Errorf("%v: client got %q; want %q", tt.config, body, tt.body)
		}
		if f := p.Backends()[0].Health().Flags; (len(f) == 1 && f[0].Flag == wsproxy.FlagUnreachable) != (tt.status == 503) {
			t.Errorf("%v: the backend has %v", tt.config, f)
		}
	}
}
