package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

func TestGatewayEchoesAndClosesWithCode(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(echo))
	defer backend.Close()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	addr, errc := start(ctx, t, "-backend", backend.URL, "-balancer", "round-robin", "-max-message", "1000", "-socket-buffer", "65536", "-stalled", "10")

	conn := dial(t, "ws://"+addr, nil)
	wantEcho(t, conn, "hello")
	stop()
	_, _, err := conn.Read(t.Context())
	if got := websocket.CloseStatus(err); got != websocket.StatusGoingAway {
		t.Errorf("at shutdown the client's connection ended with %v; want code 1001", err)
	}
	if err := <-errc; err != nil {
		t.Errorf("run() = %v; want nil after a shutdown", err)
	}
}

func TestGatewayEndsOldTunnels(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(echo))
	defer backend.Close()
	addr, _ := start(t.Context(), t, "-backend", backend.URL, "-ping", "10s", "-idle", "1h", "-write-stall", "1m", "-lifetime", "1s")
	conn := dial(t, "ws://"+addr, nil)
	wantEcho(t, conn, "hello")
	_, _, err := conn.Read(t.Context())
	if got := websocket.CloseStatus(err); got != websocket.StatusServiceRestart {
		t.Errorf("at the end of its lifetime the client's connection ended with %v; want code 1012", err)
	}
}

func TestGatewayForwardsRawPaths(t *testing.T) {
	const path = "/a//b/%2Fc;d?x=1&y=%20"
	got := make(chan string, 1)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.RequestURI
		echo(w, r)
	}))
	defer backend.Close()
	addr, _ := start(t.Context(), t, "-backend", backend.URL)

	wantEcho(t, dial(t, "ws://"+addr+path, nil), "hello")
	if got := <-got; got != path {
		t.Errorf("the backend got %q; want %q", got, path)
	}
}

func TestGatewayProxiesPlainHTTPIfTold(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RequestURI) }))
	defer backend.Close()
	defer http.DefaultClient.CloseIdleConnections()
	for flag, want := range map[string]int{"-http=true": 200, "-http=false": 426} {
		addr, _ := start(t.Context(), t, "-backend", backend.URL, flag)
		resp, err := http.Get("http://" + addr + "/echo/info?t=1")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != want || want == 200 && string(body) != "/echo/info?t=1" {
			t.Errorf("%s: client got %d %q; want %d", flag, resp.StatusCode, body, want)
		}
	}
}

func TestGatewaySpeaksTLSOnBothSides(t *testing.T) {
	backend := httptest.NewTLSServer(http.HandlerFunc(echo))
	defer backend.Close()
	cert, key := writeCertificate(t, backend.TLS.Certificates[0])
	addr, _ := start(t.Context(), t, "-backend", strings.Replace(backend.URL, "https", "wss", 1),
		"-ca", cert, "-tls-cert", cert, "-tls-key", key)

	client := backend.Client() // trusts the same certificate
	wantEcho(t, dial(t, "wss://"+addr, client), "hello")

	conn, err := tls.Dial("tcp", addr, &tls.Config{
		RootCAs:    client.Transport.(*http.Transport).TLSClientConfig.RootCAs,
		NextProtos: []string{"h2", "http/1.1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.ConnectionState().NegotiatedProtocol; got != "http/1.1" {
		t.Errorf("offered h2 and http/1.1, the gateway chose %q; want http/1.1", got)
	}
}

func TestGatewayExplainsBadFlags(t *testing.T) {
	const backend = "-backend=http://127.0.0.1:1"
	tests := []struct {
		args string
		want string
	}{
		{"", "no -backend"},
		{backend + " stray", `"stray"`},
		{"-backend=127.0.0.1:1", "WithBackends"},
		{backend + " -balancer=fastest", `"fastest"`},
		{backend + " -balancer=hash-query", ":NAME"},
		{backend + " -balancer=random:x", ":NAME"},
		{backend + " -trusted=everybody", `"everybody"`},
		{backend + " -tls-cert=x", "-tls-key"},
		{backend + " -ca=/does/not/exist", "/does/not/exist"},
		{backend + " -fast", "-fast"},
		{backend + " -admin-token-file=x", "-admin-token-file needs -admin"},
		{backend + " -listen=127.0.0.1:0 -admin=:0", "-admin-token-file"},
		{backend + " -listen=127.0.0.1:0 -admin=:0 -admin-token-file=/does/not/exist", "/does/not/exist"},
		{backend + " -listen=127.0.0.1:0 -admin=:0 -admin-token-file=" + os.DevNull, "not a regular file"},
		{backend + " -listen=127.0.0.1:0 -admin=127.0.0.1:0 -admin-token-file=", "-admin-token-file is empty"},
		{backend + " -listen=127.0.0.1:0 -drain-delay=-1s", "-drain-delay"},
		{backend + " -listen=127.0.0.1:0 -grace=-1s", "-grace"},
		{backend + " -listen=127.0.0.1:0 -admin=nowhere", "-admin nowhere"},
		{backend + " -listen=127.0.0.1:0 -admin=127.0.0.1:0 -metrics=nowhere", "-metrics nowhere"},
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // so that run returns even if it finds no error
	for _, tt := range tests {
		err := run(ctx, strings.Fields(tt.args), io.Discard)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("run(%s) = %v; want an error that names %s", tt.args, err, tt.want)
		}
	}
}

func TestEveryBalancerHasAName(t *testing.T) {
	for _, policy := range []string{"least-tunnels", "round-robin", "random",
		"hash-ip", "hash-query:room", "hash-cookie:id", "hash-header:X-Tenant"} {
		if b, err := newBalancer(policy); err != nil || b == nil {
			t.Errorf("newBalancer(%q) = %v, %v; want a balancer", policy, b, err)
		}
	}
}

// start runs a gateway until ctx ends, and returns the address of its listener.
func start(ctx context.Context, t *testing.T, args ...string) (addr string, errc chan error) {
	t.Helper()
	addrs, errc := startLines(ctx, t, 1, args...)
	return addrs[0], errc
}

// startLines is start for a gateway that prints n lines. It returns what is behind "on" in
// each of them.
func startLines(ctx context.Context, t *testing.T, n int, args ...string) (addrs []string, errc chan error) {
	t.Helper()
	r, w := io.Pipe()
	errc = make(chan error, 1)
	go func() { // ends with ctx
		err := run(ctx, append(args, "-listen=127.0.0.1:0"), w)
		w.CloseWithError(io.ErrUnexpectedEOF)
		errc <- err
	}()
	lines := bufio.NewReader(r)
	for range n {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("run(%q) = %v; want it to listen", args, <-errc)
		}
		_, addr, _ := strings.Cut(strings.TrimSpace(line), " on ")
		addrs = append(addrs, addr)
	}
	return addrs, errc
}

func dial(t *testing.T, url string, client *http.Client) *websocket.Conn {
	t.Helper()
	conn, _, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	return conn
}

func wantEcho(t *testing.T, conn *websocket.Conn, text string) {
	t.Helper()
	if err := conn.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
		t.Fatal(err)
	}
	_, got, err := conn.Read(t.Context())
	if err != nil || string(got) != text {
		t.Fatalf("sent %q, Read() = %q, %v; want the same back", text, got, err)
	}
}

// echo is a backend that echoes every message.
func echo(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	for {
		kind, message, err := conn.Read(context.Background())
		if err != nil || conn.Write(context.Background(), kind, message) != nil {
			return
		}
	}
}

func writeCertificate(t *testing.T, c tls.Certificate) (certFile, keyFile string) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, block *pem.Block) string {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	return write("cert.pem", &pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		write("key.pem", &pem.Block{Type: "PRIVATE KEY", Bytes: key})
}
