// Package proxyprotocol_test has nginx and HAProxy read the PROXY headers of a proxy.
package proxyprotocol_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/e2e/internal/e2etest"
	"github.com/wsproxy/wsproxy/internal/leaktest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// A parser is a program that reads the PROXY header of each connection, and passes the request
// on to another server with what it has read in X-Seen.
type parser struct {
	name   string
	config string // BIND stands for where it listens, PEM for a file with a certificate and its key, DIR, and NEXT for the other server
	bind   map[string]string
	args   []string
	local  map[string]string // by scheme: how X-Seen begins after LOCAL
	quit   syscall.Signal    // ends it in order
}

// The configuration of nginx is that of docs/production.md, so that $remote_addr is checked too.
var parsers = []parser{{
	name: "nginx",
	quit: syscall.SIGQUIT,
	args: []string{"-e", "stderr", "-c"},
	config: `daemon off;
master_process off;
pid DIR/nginx.pid;
error_log DIR/log info;
events {}
http {
	access_log off;
	client_body_temp_path DIR/body;
	proxy_temp_path DIR/proxy;
	fastcgi_temp_path DIR/fastcgi;
	uwsgi_temp_path DIR/uwsgi;
	scgi_temp_path DIR/scgi;
	server {
		BIND
		ssl_certificate PEM;
		ssl_certificate_key PEM;
		set_real_ip_from 127.0.0.0/8;
		set_real_ip_from ::1;
		set_real_ip_from unix:;
		real_ip_header proxy_protocol;
		location = /healthz { return 200 "fine"; }
		location / {
			proxy_pass http://NEXT;
			proxy_http_version 1.1;
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection "upgrade";
			proxy_set_header X-Seen "$proxy_protocol_addr|$proxy_protocol_port|$proxy_protocol_server_addr|$proxy_protocol_server_port";
			proxy_set_header X-Remote $remote_addr;
		}
	}
}
`,
	bind: map[string]string{
		"http": "listen ADDR proxy_protocol;", "https": "listen ADDR ssl proxy_protocol;", "unix": "listen unix:ADDR proxy_protocol;",
	},
	local: map[string]string{"http": "|||", "https": "|||", "unix": "|||"},
}, {
	name: "haproxy",
	quit: syscall.SIGUSR1,
	args: []string{"-db", "-f"},
	config: `global
	log stdout format raw daemon
defaults
	mode http
	log global
	option httplog
	timeout connect 5s
	timeout client 30s
	timeout server 30s
	timeout tunnel 1m
frontend site
	BIND
	http-request return status 200 content-type text/plain string fine if { path /healthz }
	http-request set-header X-Seen "%[src]|%[src_port]|%[dst]|%[dst_port]"
	http-request set-header X-Remote %[src]
	default_backend next
backend next
	server next NEXT
`,
	bind: map[string]string{
		"http": "bind ADDR accept-proxy", "https": "bind ADDR accept-proxy ssl crt PEM", "unix": "bind unix@ADDR accept-proxy",
	},
	// "The receiver must [...] use the real connection endpoints"
	local: map[string]string{"http": "127.0.0.1|", "https": "127.0.0.1|", "unix": "|||"},
}}

// start starts the parser in front of the server at the URL next, and returns how it is reached
// by that scheme. The function ends it and returns its log.
func (p parser) start(t *testing.T, scheme, next string) (config wsproxy.BackendConfig, opt wsproxy.Option, logged func() string) {
	t.Helper()
	e2etest.Need(t, p.name)
	dir := t.TempDir()
	network, addr := "unix", proxytest.SocketPath(t)
	if scheme != "unix" {
		network, addr = "tcp", e2etest.FreeAddr(t)
	}
	pemFile, roots := e2etest.WriteCertificate(t)
	text := strings.NewReplacer("BIND", strings.NewReplacer("ADDR", addr, "PEM", pemFile).Replace(p.bind[scheme]),
		"PEM", pemFile, "DIR", dir, "NEXT", strings.TrimPrefix(next, "http://")).Replace(p.config)
	file := filepath.Join(dir, p.name+".conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	program := e2etest.Start(t, p.name, append(slices.Clone(p.args), file)...)
	e2etest.WaitForListener(t, network, addr)
	config = wsproxy.BackendConfig{ID: p.name, URL: scheme + "://" + addr, ProxyProtocol: true}
	return config, wsproxy.WithTLSConfig(&tls.Config{RootCAs: roots}), func() string {
		program.Signal(p.quit) // it ends when it has logged all connections
		late := time.AfterFunc(10*time.Second, program.Stop)
		defer late.Stop()
		program.Wait()
		text, _ := os.ReadFile(filepath.Join(dir, "log")) // nginx's
		for line := range program.Lines {
			text = append(text, line+"\n"...)
		}
		return string(text)
	}
}

func TestNginxAndHAProxyReadClientAndServer(t *testing.T) {
	for _, p := range parsers {
		for _, scheme := range []string{"http", "https", "unix"} {
			t.Run(p.name+"/"+scheme, func(t *testing.T) {
				next := wstest.StartBackend(t)
				config, opt, _ := p.start(t, scheme, next.URL())
				for _, tt := range []struct {
					name      string
					listen    string // "unix" stands for a unix socket
					forwarded string // empty: the peer is not trusted
					want      string // CPORT and SPORT are the ports of the client's connection; both parsers write no 0
					remote    string // X-Remote
				}{
					{"IPv4 at IPv4", "127.0.0.1:0", "", "127.0.0.1|CPORT|127.0.0.1|SPORT", "127.0.0.1"},
					{"IPv6 at IPv6", "[::1]:0", "", "::1|CPORT|::1|SPORT", "::1"},
					{"IPv4 at IPv4, forwarded", "127.0.0.1:0", "192.0.2.7", "192.0.2.7||127.0.0.1|SPORT", "192.0.2.7"},
					{"IPv6 at IPv6, forwarded", "[::1]:0", "2001:db8::7", "2001:db8::7||::1|SPORT", "2001:db8::7"},
					{"IPv6 at IPv4", "127.0.0.1:0", "2001:db8::7", "2001:db8::7||::ffff:127.0.0.1|SPORT", "2001:db8::7"},
					{"IPv4 at IPv6", "[::1]:0", "192.0.2.7", "::ffff:192.0.2.7||::1|SPORT", "192.0.2.7"},
					{"unix", "unix", "", p.local[scheme], ""},
				} {
					t.Run(tt.name, func(t *testing.T) {
						opts := []wsproxy.Option{wsproxy.WithBackendConfigs(config), opt}
						var lines []string
						if tt.forwarded != "" {
							opts = append(opts, wsproxy.WithTrustedProxies("127.0.0.1", "::1"))
							lines = []string{"X-Forwarded-For: " + tt.forwarded}
						}
						client := dialSite(t, tt.listen, proxytest.NewProxy(t, opts...))
						client.WriteRequest(proxytest.UpgradeTo("/ws", lines...))
						leg := next.Accepted(t)
						req := leg.AcceptUpgrade(nil)
						proxytest.WantSwitch(t, client)

						want := strings.NewReplacer("CPORT", port(client.Conn().LocalAddr()), "SPORT", port(client.Conn().RemoteAddr())).Replace(tt.want)
						if got := req.Header.Get("X-Seen"); !strings.HasPrefix(got, want) {
							t.Errorf("%s has read %s; want %s", p.name, got, want)
						}
						if got := strings.TrimPrefix(req.Header.Get("X-Remote"), "::ffff:"); tt.remote != "" && got != tt.remote {
							t.Errorf("%s takes %s for the client; want %s", p.name, got, tt.remote)
						}

						client.Send(wstest.Text("up"))
						leg.Want(wstest.Text("up"))
						leg.Send(wstest.Binary(make([]byte, 100_000)))
						client.Want(wstest.Binary(make([]byte, 100_000)))
						leg.Send(wstest.Close(1000, "bye"))
						client.WantClose(1000)
						client.Send(wstest.Close(1000, "bye"))
						leg.WantClose(1000)
						leg.Close()
						client.WantEOF()
						client.Close()
					})
				}
			})
		}
	}
}

func port(a net.Addr) string {
	if a, ok := a.(*net.TCPAddr); ok {
		return fmt.Sprint(a.Port)
	}
	return ""
}

// dialSite serves h at an address until the test ends, and returns a client there.
func dialSite(t *testing.T, addr string, h http.Handler) *wstest.Peer {
	t.Helper()
	network := "tcp"
	if addr == "unix" {
		network, addr = "unix", proxytest.SocketPath(t)
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(h)
	srv.Listener.Close()
	srv.Listener = ln
	srv.Start()
	t.Cleanup(srv.Close)
	c, err := net.Dial(network, ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return wstest.NewClient(t, c)
}

func TestNginxAndHAProxyReadClientOfEachHTTPRequest(t *testing.T) {
	next := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Header.Get("X-Seen"))
	}))
	for _, p := range parsers {
		for _, scheme := range []string{"http", "https", "unix"} {
			t.Run(p.name+"/"+scheme, func(t *testing.T) {
				config, opt, _ := p.start(t, scheme, next.URL)
				_, s := proxytest.Start(t, wsproxy.WithBackendConfigs(config), opt, wsproxy.WithHTTP(true))
				clients := []*wstest.Peer{wstest.Dial(t, s.URL), wstest.Dial(t, s.URL)}
				for range 3 {
					for _, c := range clients {
						c.WriteRequest(proxytest.Head("GET /page HTTP/1.1", "Host: chat.example"))
						body, err := io.ReadAll(c.ReadResponse().Body)
						want := fmt.Sprintf("127.0.0.1|%s|127.0.0.1|%s", port(c.Conn().LocalAddr()), port(c.Conn().RemoteAddr()))
						if err != nil || string(body) != want {
							t.Errorf("%s has read %q, %v; want %s", p.name, body, err, want)
						}
					}
				}
			})
		}
	}
}

func TestNginxAndHAProxyTakeProbesForLocal(t *testing.T) {
	for _, p := range parsers {
		for _, scheme := range []string{"http", "https", "unix"} {
			t.Run(p.name+"/"+scheme, func(t *testing.T) {
				next := wstest.StartBackend(t)
				config, opt, logged := p.start(t, scheme, next.URL())
				backend := proxytest.NewProxy(t, wsproxy.WithBackendConfigs(config), opt).Backends()[0]
				for name, probe := range map[string]func(context.Context, *wsproxy.Backend) error{
					"TCP": wsproxy.TCPProbe(), "HTTP": wsproxy.HTTPProbe(wsproxy.HTTPProbeConfig{Path: "/healthz"}),
				} {
					if err := probe(t.Context(), backend); err != nil {
						t.Errorf("%s probe returned %v; want nil", name, err)
					}
				}
				result := make(chan error, 1)
				go func() { // ends with the script
					result <- wsproxy.WebSocketProbe(wsproxy.WebSocketProbeConfig{Path: "/ws"})(t.Context(), backend)
				}()
				leg := next.Accepted(t)
				if got := leg.AcceptUpgrade(nil).Header.Get("X-Seen"); !strings.HasPrefix(got, p.local[scheme]) {
					t.Errorf("%s has read %s; want %s, as of LOCAL", p.name, got, p.local[scheme])
				}
				leg.Send(leg.WantPing())
				leg.WantClose(1000)
				leg.Send(wstest.Close(1000, ""))
				leg.Close()
				if err := <-result; err != nil {
					t.Errorf("WebSocket probe returned %v; want nil", err)
				}
				// That of start, which has sent no header.
				if text := logged(); strings.Count(text, "PROXY protocol") != 1 {
					t.Errorf("%s has logged\n%s; want one connection without a header", p.name, text)
				}
			})
		}
	}
}

func TestNginxAndHAProxyRefuseWhereOnlyOneSideExpectsHeader(t *testing.T) {
	for _, p := range parsers {
		for _, tt := range []struct {
			name, scheme string
			writes       bool // the proxy; the other one expects the opposite
			status       int
			logged       string
		}{
			{"header", "http", true, http.StatusBadRequest, "does the backend expect the PROXY header?"},
			{"header over TLS", "https", true, http.StatusServiceUnavailable, "does the backend expect the PROXY header?"},
			{"no header", "http", false, http.StatusBadGateway, "EOF"},
			{"no header over TLS", "https", false, http.StatusServiceUnavailable, "TLS: "},
		} {
			t.Run(p.name+"/"+tt.name, func(t *testing.T) {
				p := p
				if tt.writes {
					p.bind = map[string]string{tt.scheme: strings.NewReplacer(" proxy_protocol", "", " accept-proxy", "").Replace(p.bind[tt.scheme])}
				}
				config, opt, _ := p.start(t, tt.scheme, wstest.StartBackend(t).URL())
				config.ProxyProtocol = tt.writes
				var book proxytest.LogBook
				_, s := proxytest.Start(t, book.Option(), wsproxy.WithBackendConfigs(config), opt)
				resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/ws"))
				proxytest.WantStatus(t, resp, tt.status)
				s.Wait()
				if len(book.Lines(tt.logged)) == 0 {
					t.Errorf("log has %q; want a line with %q", book.Lines(), tt.logged)
				}
			})
		}
	}
}
