package socketio_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/e2e/internal/e2etest"
	"github.com/wsproxy/wsproxy/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// affinityKey is that of all replicas.
var affinityKey = []byte("0123456789abcdef")

func byCookie() wsproxy.Option {
	return wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{affinityKey}})
}

// A backend is a Socket.IO server of Node.js.
type backend struct {
	name, url string
	program   *e2etest.Program
}

func startBackend(t *testing.T, name string) *backend {
	t.Helper()
	program := e2etest.StartNode(t, "backend.js", name)
	return &backend{name, program.Line(t), program}
}

// restart ends the backend's process and starts another on the same port.
func (b *backend) restart(t *testing.T) {
	t.Helper()
	b.program.Stop()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	b.program = e2etest.StartNode(t, "backend.js", b.name, port)
	b.program.Line(t)
}

func startBackends(t *testing.T) []*backend {
	t.Helper()
	return []*backend{startBackend(t, "A"), startBackend(t, "B"), startBackend(t, "C")}
}

func configs(backends []*backend) []wsproxy.BackendConfig {
	var configs []wsproxy.BackendConfig
	for _, b := range backends {
		configs = append(configs, wsproxy.BackendConfig{ID: b.name, URL: b.url})
	}
	return configs
}

func newProxy(t *testing.T, backends []*backend, options ...wsproxy.Option) *wsproxy.Proxy {
	t.Helper()
	proxy, err := wsproxy.New(append(options,
		wsproxy.WithBackendConfigs(configs(backends)...), wsproxy.WithHTTP(true))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Close() })
	return proxy
}

// newMux returns the routes of a service: a page, and Socket.IO. The page does not come from a
// backend, so that the first request of a client has no cookie.
func newMux(proxy http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/socket.io/", proxy)
	mux.HandleFunc("/page", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `<!doctype html><link rel="icon" href="data:,"><script src="/client.js"></script>`+
			`<script type="module">import { session } from "/session.js"; Object.assign(window, session(io));</script>`)
	})
	for path, file := range map[string]string{
		"/client.js":  filepath.Join(e2etest.Root(), "node_modules/socket.io-client/dist/socket.io.min.js"),
		"/session.js": "session.js",
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) })
	}
	return wsproxy.Front(mux)
}

func serve(t *testing.T, proxy http.Handler) (url string) {
	t.Helper()
	server := httptest.NewServer(newMux(proxy))
	t.Cleanup(func() { closeServer(server) })
	return server.URL
}

func serveTLS(t *testing.T, proxy http.Handler) (url string) {
	t.Helper()
	server := httptest.NewUnstartedServer(newMux(proxy))
	server.TLS = e2etest.TLSConfig(t)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // the browser does not like the certificate at first
	server.StartTLS()
	t.Cleanup(func() { closeServer(server) })
	return server.URL
}

// closeServer does not wait for polls.
func closeServer(s *httptest.Server) {
	s.CloseClientConnections()
	s.Close()
}

// A caller calls functions of session.js, in a page or in Node.js.
type caller interface {
	Call(result any, name string, args ...any) error
}

func openPage(t *testing.T, browser *e2etest.Browser, url, profile string) *e2etest.Page {
	t.Helper()
	page, err := browser.Open(url+"/page", e2etest.PageOptions{Profile: profile})
	if err == nil {
		err = page.WaitFor(`"connect" in window`)
	}
	if err != nil {
		t.Fatal(err)
	}
	return page
}

// options of io().
type options map[string]any

var polling = options{"transports": []string{"polling"}}

// A state is that of a session.
type state struct {
	IsConnected   bool
	Transport, ID string
	History       []string
}

func mustCall[T any](t *testing.T, c caller, name string, args ...any) T {
	t.Helper()
	var result T
	if err := c.Call(&result, name, args...); err != nil {
		t.Fatalf("%s%v: %v", name, args, err)
	}
	return result
}

func do(t *testing.T, c caller, name string, args ...any) {
	t.Helper()
	mustCall[any](t, c, name, args...)
}

func connect(t *testing.T, c caller, url string, o options) state {
	t.Helper()
	return mustCall[state](t, c, "connect", url, o)
}

// wantOneBackend sends messages in both namespaces, and returns the name of the backend that
// acknowledges them.
func wantOneBackend(t *testing.T, c caller) (name string) {
	t.Helper()
	type acknowledgement struct {
		Backend, Namespace string
		Message, Received  int
	}
	const messages = 10
	acks := mustCall[[]acknowledgement](t, c, "send", messages)
	if len(acks) != 2*messages {
		t.Fatalf("%d messages are acknowledged; want %d", len(acks), 2*messages)
	}
	for i, ack := range acks {
		want := acknowledgement{acks[0].Backend, []string{"/", "/second"}[i%2], i / 2, acks[i%2].Received + i/2}
		if ack != want {
			t.Fatalf("acknowledgement %d is %+v; want %+v", i, ack, want)
		}
	}
	return acks[0].Backend
}

// startNginx starts nginx as a TLS server in front of a proxy.
func startNginx(t *testing.T, proxyURL string) (url string) {
	t.Helper()
	addr, dir := e2etest.FreeAddr(t), t.TempDir()
	pemFile, _ := e2etest.WriteCertificate(t)
	config := strings.NewReplacer("$DIR", dir, "$ADDR", addr, "$PEM", pemFile, "$PROXY", proxyURL).Replace(nginxConfig)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(config), 0o666); err != nil {
		t.Fatal(err)
	}
	e2etest.Start(t, "nginx", "-p", dir, "-e", "stderr", "-c", file)
	e2etest.WaitForListener(t, "tcp", addr)
	return "https://" + addr
}

const nginxConfig = `
daemon off;
master_process off;
pid $DIR/nginx.pid;
events {}
http {
	access_log off;
	client_body_temp_path $DIR/body;
	proxy_temp_path $DIR/proxy;
	fastcgi_temp_path $DIR/fastcgi;
	uwsgi_temp_path $DIR/uwsgi;
	scgi_temp_path $DIR/scgi;
	map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
	server {
		listen $ADDR ssl;
		ssl_certificate $PEM;
		ssl_certificate_key $PEM;
		location / {
			proxy_pass $PROXY;
			proxy_http_version 1.1;
			proxy_set_header Host $http_host;
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection $connection_upgrade;
			proxy_set_header X-Forwarded-For $remote_addr;
			proxy_set_header X-Forwarded-Proto $scheme;
		}
	}
}
`

// disconnections returns the lines of a history that report that a connection has ended.
func disconnections(history []string) []string {
	return slices.DeleteFunc(slices.Clone(history), func(line string) bool { return !strings.HasPrefix(line, "close") })
}

func mustDrain(t *testing.T, proxy *wsproxy.Proxy, id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), drainTimeout)
	defer cancel()
	if err := proxy.Drain(ctx, id, 0); err != nil {
		t.Fatalf("Drain(%s) = %v", id, err)
	}
}
