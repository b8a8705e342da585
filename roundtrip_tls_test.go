package wsproxy_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
	"github.com/wsproxy/wsproxy/wsproxytest/memnet"
)

func TestRoundTripClosesConnectionOnceAfterTLSTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		front, back := memnet.Pipe(64 << 10)
		p := proxytest.NewProxy(t, wsproxy.WithBackends("https://a"), wsproxy.WithDialer(
			func(context.Context, string, string) (net.Conn, error) { return front, nil }))
		s := proxytest.ServeInMemory(t, p)
		client := s.Dial(t)
		client.WriteRequest(proxytest.UpgradeTo("/chat"))
		time.Sleep(10 * time.Second)
		proxytest.WantStatus(t, client.ReadResponse(), http.StatusServiceUnavailable)
		s.Wait()
		synctest.Wait() // for whoever might close it late
		if n := front.NumCloses(); n != 1 {
			t.Errorf("connection was closed %d times; want 1", n)
		}
		back.Close()
		proxytest.WantNoTunnels(t, p)
	})
}

// An authority signs certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	a.cert, a.key = a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "wsproxy test CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	})
	a.pool.AddCert(a.cert)
	return a
}

// issue returns a certificate for one name.
func (a *authority) issue(t *testing.T, name string) tls.Certificate {
	t.Helper()
	cert, key := a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

func (a *authority) sign(t *testing.T, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// startEchoTLS starts an echo server by another implementation, which would
// rather speak HTTP/2. It notes requests and how they came.
func startEchoTLS(t *testing.T, config *tls.Config, seen chan<- *http.Request) (addr string) {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			typ, p, err := c.Read(t.Context())
			if err != nil || c.Write(t.Context(), typ, p) != nil {
				return
			}
		}
	}))
	srv.EnableHTTP2 = true
	srv.TLS = config.Clone()
	srv.TLS.NextProtos = []string{"h2", "http/1.1"}
	srv.Config.ErrorLog = proxytest.DiscardLog
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

func TestRoundTripVerifiesTLSBackend(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	serverCert := ca.issue(t, "backend.example")
	serverConfig := &tls.Config{Certificates: []tls.Certificate{serverCert}, ClientCAs: ca.pool}
	mutual := serverConfig.Clone()
	mutual.ClientAuth = tls.RequireAndVerifyClientCert
	client := &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{ca.issue(t, "proxy.example")}}
	for _, tt := range []struct {
		name, scheme, serverName string
		server, client           *tls.Config
		status                   int
	}{
		{"https", "https", "backend.example", serverConfig, &tls.Config{RootCAs: ca.pool}, 101},
		{"wss", "wss", "backend.example", serverConfig, &tls.Config{RootCAs: ca.pool}, 101},
		{"client certificate", "wss", "backend.example", mutual, client, 101},
		{"no client certificate", "wss", "backend.example", mutual, &tls.Config{RootCAs: ca.pool}, 502},
		{"stranger's CA", "wss", "backend.example", serverConfig, &tls.Config{RootCAs: stranger.pool}, 503},
		{"other name", "wss", "other.example", serverConfig, &tls.Config{RootCAs: ca.pool}, 503},
		{"the URL's host as name", "wss", "", serverConfig, &tls.Config{RootCAs: ca.pool}, 503},
		{"name of the configuration is ignored", "wss", "", serverConfig, &tls.Config{RootCAs: ca.pool, ServerName: "backend.example"}, 503},
		{"protocols of the configuration are ignored", "wss", "backend.example", serverConfig,
			&tls.Config{RootCAs: ca.pool, NextProtos: []string{"h2"}}, 101},
		{"host's roots", "wss", "backend.example", serverConfig, nil, 503},
	} {
		t.Run(tt.name, func(t *testing.T) {
			seen := make(chan *http.Request, 1)
			addr := startEchoTLS(t, tt.server, seen)
			p, s := proxytest.Start(t, wsproxy.WithTLSConfig(tt.client), wsproxy.WithBackendConfigs(
				wsproxy.BackendConfig{URL: tt.scheme + "://" + addr, ServerName: tt.serverName}))
			c := wstest.Dial(t, s.URL)
			c.WriteRequest(proxytest.UpgradeTo("/chat"))
			resp := c.ReadResponse()
			proxytest.WantStatus(t, resp, tt.status)
			if resp.StatusCode != 101 {
				return
			}
			r := <-seen
			if got := r.TLS.NegotiatedProtocol; got != "http/1.1" {
				t.Errorf("ALPN chose %q; want http/1.1", got)
			}
			if got := r.TLS.ServerName; got != tt.serverName {
				t.Errorf("SNI asked for %q; want %q", got, tt.serverName)
			}
			if r.Host != "chat.example" {
				t.Errorf("backend got Host %q; want chat.example", r.Host)
			}
			proxytest.WantEcho(t, c)
			proxytest.HangUp(t, c)
			s.Wait()
			proxytest.WantNoTunnels(t, p)
		})
	}
}

func TestRoundTripSendsServerNameOfBackend(t *testing.T) {
	ca := newAuthority(t)
	for _, name := range []string{"one.example", "two.example"} {
		seen := make(chan *http.Request, 1)
		addr := startEchoTLS(t, &tls.Config{Certificates: []tls.Certificate{ca.issue(t, name)}}, seen)
		other := startEchoTLS(t, &tls.Config{Certificates: []tls.Certificate{ca.issue(t, "other.example")}}, seen)
		_, s := proxytest.Start(t, wsproxy.WithTLSConfig(&tls.Config{RootCAs: ca.pool}), proxytest.FirstCandidate, wsproxy.WithBackendConfigs(
			wsproxy.BackendConfig{URL: "wss://" + addr, ServerName: name},
			wsproxy.BackendConfig{URL: "wss://" + other, ServerName: "other.example"}))
		proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
		if got := (<-seen).TLS.ServerName; got != name {
			t.Errorf("SNI asked for %q; want %q", got, name)
		}
	}
}
