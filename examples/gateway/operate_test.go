package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy/wsproxytest/memnet"
)

func TestMetricsAndProbesAreApartFromClients(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(echo))
	defer backend.Close()
	addrs, _ := startLines(t.Context(), t, 2, "-backend", backend.URL, "-metrics=127.0.0.1:0", "-name=east", "-access-log")
	public, metrics := "http://"+addrs[0], strings.TrimSuffix(addrs[1], "/metrics")
	wantEcho(t, dial(t, "ws://"+addrs[0], nil), "hello")

	status, _, body := get(t, metrics+"/metrics")
	if status != http.StatusOK || !hasLine(body, "wsproxy_tunnels{", `proxy="east"`, "} 1") {
		t.Errorf("/metrics = %d, %s; want wsproxy_tunnels 1 of the proxy east", status, body)
	}
	for path, want := range map[string]int{"/livez": 200, "/readyz": 200, "/": 404, "/overview": 404} {
		if status, _, _ := get(t, metrics+path); status != want {
			t.Errorf("%s of the listener for metrics = %d; want %d", path, status, want)
		}
	}
	for _, path := range []string{"/", "/metrics", "/livez", "/readyz", "/overview"} {
		if status, _, _ := get(t, public+path); status != http.StatusUpgradeRequired {
			t.Errorf("%s of the listener for clients = %d; want 426 of the proxy", path, status)
		}
	}
}

func TestAdminPageAsksForTheToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	setToken := func(token string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	setToken("secret\n")
	addrs, _ := startLines(t.Context(), t, 2, "-backend=http://127.0.0.1:1", "-admin=127.0.0.1:0", "-admin-token-file="+file)
	page := addrs[1]
	logIn := func(user, password string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(user, password) }
	}
	want := func(when string, want int, edits ...func(*http.Request)) {
		t.Helper()
		for _, path := range []string{"", "overview"} {
			status, header, body := get(t, page+path, edits...)
			if asks := header.Get("WWW-Authenticate") != ""; status != want || asks != (want == http.StatusUnauthorized) {
				t.Errorf("%s: /%s = %d %q, asks for a password: %t; want %d", when, path, status, body, asks, want)
			}
		}
	}
	want("nobody", 401)
	want("wrong token", 401, logIn("ann", "secre"))
	want("no token", 401, logIn("ann", ""))
	want("no name", 401, logIn("", "secret"))
	want("the end of the line", 401, logIn("ann", "secret\n"))
	want("right token", 200, logIn("ann", "secret"))
	want("another name", 200, logIn("bob", "secret"))
	if _, header, body := get(t, page, logIn("ann", "secret")); !strings.HasPrefix(header.Get("Content-Type"), "text/html") || !strings.Contains(strings.ToLower(body), "<title>") {
		t.Errorf("/ = %v %q; want the page", header, body)
	}
	for _, probe := range []string{"livez", "readyz"} {
		if status, _, _ := get(t, page+probe); status != http.StatusOK {
			t.Errorf("/%s without a token = %d; want 200", probe, status)
		}
	}

	setToken("new secret")
	want("old token", 401, logIn("ann", "secret"))
	want("new token", 200, logIn("ann", "new secret"))
	setToken("")
	want("empty file", 500, logIn("ann", ""))
	os.Remove(file)
	want("no file", 500, logIn("ann", "new secret"))
}

func TestTokenIsShortAndNotBlank(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	for content, want := range map[string]string{
		"secret": "secret", "secret\n": "secret", "secret\r\n": "secret", " a b ": " a b ", strings.Repeat("x", maxToken): strings.Repeat("x", maxToken),
		"": "", "\r\n": "", " \t\n": "", strings.Repeat("x", maxToken+1): "",
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		hash, err := readToken(file)
		if (err == nil) != (want != "") || err == nil && hash != sha256.Sum256([]byte(want)) {
			t.Errorf("readToken() of %.20q = %v; want the hash of %.20q", content, err, want)
		}
	}
	if _, err := readToken(t.TempDir()); err == nil {
		t.Error("readToken() of a directory has no error")
	}
}

func TestTokenThatCannotBeReadIsLoggedOnceAMinute(t *testing.T) {
	var log strings.Builder
	g := &gateway{
		flags:  &flags{adminTokenFile: filepath.Join(t.TempDir(), "none")},
		logger: slog.New(slog.NewTextHandler(&log, nil)),
	}
	for range 5 {
		if _, err := g.authorizeByToken(httptest.NewRequest("GET", "/", nil)); err == nil {
			t.Error("a request is let in without a token file")
		}
	}
	g.logTokenError(os.ErrNotExist, time.Now().Add(time.Minute))
	if n := strings.Count(log.String(), "lets nobody in"); n != 2 {
		t.Errorf("%d lines are logged; want one, and one a minute later", n)
	}
}

func TestAdminPageWithATokenUsesTheCertificate(t *testing.T) {
	server := httptest.NewTLSServer(nil) // for its certificate
	defer server.Close()
	cert, key := writeCertificate(t, server.TLS.Certificates[0])
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	addrs, _ := startLines(t.Context(), t, 2, "-backend=http://127.0.0.1:1", "-tls-cert", cert, "-tls-key", key,
		"-admin=127.0.0.1:0", "-admin-token-file", file)
	conn, err := tls.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(addrs[1], "https://"), "/"),
		server.Client().Transport.(*http.Transport).TLSClientConfig)
	if err != nil {
		t.Fatalf("the admin page is on %s: %v; want TLS", addrs[1], err)
	}
	conn.Close()
}

func TestAdminPageWithoutATokenIsForThisMachine(t *testing.T) {
	addrs, _ := startLines(t.Context(), t, 2, "-backend=http://127.0.0.1:1", "-admin=127.0.0.1:0")
	for host, want := range map[string]int{
		"":                       200, // the address
		"localhost:9000":         200, // through ssh -L, or kubectl port-forward
		"rebound.example":        403,
		"127.0.0.1.example:9000": 403,
	} {
		for _, path := range []string{"", "overview"} {
			if status, _, body := get(t, addrs[1]+path, func(r *http.Request) { r.Host = host }); status != want {
				t.Errorf("/%s of host %q = %d %q; want %d", path, host, status, body, want)
			}
		}
	}
	remote := &http.Request{RemoteAddr: "192.0.2.1:1234", Host: "127.0.0.1:9000"}
	if _, err := authorizeLocal(remote); err == nil {
		t.Errorf("a request from %s is let in; want an error", remote.RemoteAddr)
	}
}

func TestLoopbackIsAnAddressOrLocalhost(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1": true, "127.0.0.1:80": true, "127.1.2.3:80": true,
		"::1": true, "[::1]": true, "[::1]:80": true, "[::ffff:127.0.0.1]:80": true,
		"localhost": true, "LocalHost:80": true,
		"": false, ":80": false, "0.0.0.0:80": false, "[::]:80": false, "10.0.0.1:80": false, "@": false,
		"localhost.example": false, "127.0.0.1.example": false, "example:127.0.0.1": false,
	} {
		if got := isLoopback(addr); got != want {
			t.Errorf("isLoopback(%q) = %t; want %t", addr, got, want)
		}
	}
}

func TestOpsServerKeepsNoConnectionForEver(t *testing.T) {
	for name, sent := range map[string]string{
		"silent":      "",
		"half a body": "POST /drain HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345",
		"idle":        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, conn := memnet.Pipe(4096)
				ln := make(listener, 1)
				ln <- conn
				s := newOpsServer("", "", ln, http.NotFoundHandler())
				go s.Serve(ln)
				io.WriteString(client, sent)
				io.Copy(io.Discard, client) // until the server closes it
				client.Close()
				s.Close()
				time.Sleep(time.Second) // the server waits for 500 ms after it has sent its last byte
			})
		})
	}
}

// A listener accepts the connections in it.
type listener chan net.Conn

func (l listener) Accept() (net.Conn, error) {
	if c := <-l; c != nil {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (l listener) Close() error { close(l); return nil }

func (l listener) Addr() net.Addr { return &net.TCPAddr{} }

func TestGatewayIsNotReadyFromSIGTERMOn(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	probes := newOpsMux(ctx)
	probe := func(path string) int {
		w := httptest.NewRecorder()
		probes.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w.Code
	}
	if live, ready := probe("/livez"), probe("/readyz"); live != 200 || ready != 200 {
		t.Errorf("before: live %d, ready %d; want 200 and 200", live, ready)
	}
	stop()
	if live, ready := probe("/livez"), probe("/readyz"); live != 200 || ready != 503 {
		t.Errorf("afterwards: live %d, ready %d; want 200 and 503", live, ready)
	}
}

func TestLogHasActionsAndAccess(t *testing.T) {
	for _, tt := range []struct {
		flags flags
		want  slog.Level
	}{
		{flags{}, slog.LevelWarn},
		{flags{logsAccess: true}, slog.LevelInfo},
		{flags{admin: ":9000"}, slog.LevelInfo},
		{flags{isVerbose: true, logsAccess: true}, slog.LevelDebug},
	} {
		logger := newLogger(&tt.flags)
		if !logger.Enabled(t.Context(), tt.want) || logger.Enabled(t.Context(), tt.want-1) {
			t.Errorf("with %+v the log does not begin at %v", tt.flags, tt.want)
		}
	}
}

// get sends a request, after edits, on a connection of its own.
func get(t *testing.T, url string, edits ...func(*http.Request)) (status int, header http.Header, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true
	for _, edit := range edits {
		edit(r)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

// hasLine reports whether a line of text has all parts.
func hasLine(text string, parts ...string) bool {
	for line := range strings.Lines(text) {
		found := 0
		for _, part := range parts {
			if strings.Contains(line, part) {
				found++
			}
		}
		if found == len(parts) {
			return true
		}
	}
	return false
}
