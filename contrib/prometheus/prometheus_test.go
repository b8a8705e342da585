package wsprometheus_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A prometheusServer is a Prometheus that scrapes one target each second, until the test ends.
type prometheusServer struct {
	url     string
	targets string // the file that names the target
}

// lookPath finds a program of Debian's package of Prometheus. Without it the test is skipped, or
// fails if WSPROXY_REQUIRE_PROMETHEUS is set.
func lookPath(t *testing.T, name string) string {
	t.Helper()
	program, err := exec.LookPath(name)
	if err != nil {
		text := "no " + name + "; on Debian: apt-get install prometheus"
		if os.Getenv("WSPROXY_REQUIRE_PROMETHEUS") != "" {
			t.Fatal(text)
		}
		t.Skip(text)
	}
	return program
}

// startPrometheus starts a Prometheus, if there is one: see lookPath.
func startPrometheus(t *testing.T) *prometheusServer {
	t.Helper()
	program := lookPath(t, "prometheus")
	dir := t.TempDir()
	p := &prometheusServer{targets: filepath.Join(dir, "targets.json")}
	config := filepath.Join(dir, "prometheus.yml")
	writeFile(t, p.targets, "[]")
	writeFile(t, config, `global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
- job_name: wsproxy
  file_sd_configs: [{files: [`+p.targets+`], refresh_interval: 1s}]
`)
	addr := freeAddr(t)
	p.url = "http://" + addr
	var output bytes.Buffer
	cmd := exec.Command(program, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr)
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
		defer kill.Stop()
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Logf("prometheus: %v\n%s", err, output.Bytes())
		}
	})
	if !proxytest.Becomes(func() bool { return p.isReady(t) }) {
		t.Fatal("prometheus is not ready after 10 s")
	}
	return p
}

func writeFile(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

// freeAddr returns an address on which nothing listens. Another process may take it.
func freeAddr(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func (p *prometheusServer) isReady(t *testing.T) bool {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", p.url+"/-/ready", nil)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// scrape makes p scrape a server.
func (p *prometheusServer) scrape(t *testing.T, serverURL string) {
	t.Helper()
	writeFile(t, p.targets, fmt.Sprintf(`[{"targets":[%q]}]`, strings.TrimPrefix(serverURL, "http://")))
}

// A queryResult is the answer of Prometheus to a query whose result is a vector.
type queryResult struct {
	Status, Error string
	Data          struct{ Result []struct{ Value [2]any } }
}

func (p *prometheusServer) query(t *testing.T, expr string) queryResult {
	t.Helper()
	resp, err := http.Get(p.url + "/api/v1/query?query=" + url.QueryEscape(expr))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var r queryResult
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
		t.Fatal(err)
	}
	return r
}

// hasData reports whether a query has a result that is a number.
func (p *prometheusServer) hasData(t *testing.T, expr string) bool {
	t.Helper()
	r := p.query(t, expr)
	if r.Status != "success" {
		t.Fatalf("prometheus: %s\n%s", r.Error, expr)
	}
	for _, s := range r.Data.Result {
		if s.Value[1] != "NaN" {
			return true
		}
	}
	return false
}

// A traffic is a proxy with two backends to which everything happens that the dashboard shows.
type traffic struct {
	p    *wsproxy.Proxy
	site *proxytest.Site
}

// startTraffic starts a proxy with sockets, which prom scrapes.
func startTraffic(t *testing.T, prom *prometheusServer) *traffic {
	t.Helper()
	drained := wsproxy.BackendConfig{ID: "drained", URL: wstest.StartEcho(t)}
	chat := wsproxy.BackendConfig{ID: "chat", URL: wstest.StartEcho(t), MaxTunnels: 3}
	gone := wsproxy.BackendConfig{ID: "gone", URL: "http://127.0.0.1:1"}
	p, site := proxytest.Start(t, wsproxy.WithBackendConfigs(drained), proxytest.FirstCandidate, wsproxy.WithHTTP(true),
		wsproxy.WithLimits(wsproxy.Limits{Tunnels: 1000, Queue: 10}), wsproxy.WithPing(wsproxy.Ping{Client: time.Second}),
		wsproxy.WithHealthCheck(wsproxy.HealthCheck{Interval: time.Second, Fall: 1}),
		wsproxy.WithOriginPatterns("https://site.example"),
		wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{make([]byte, 16)}}),
		wsproxy.WithAdmit(func(r *http.Request) (any, error) {
			if r.Header.Get("X-Panic") != "" {
				panic("of a test")
			}
			return nil, nil
		}))
	stay, _ := proxytest.Open(t, site.URL, proxytest.UpgradeTo("/"))
	go stay.ReadFrame() // until the test ends; it does not answer, so the ping ends it
	if err := p.SetBackends(drained, gone, chat); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	drain := make(chan error, 1)
	go func() { drain <- p.Drain(ctx, "drained", time.Hour) }() // ends with ctx
	t.Cleanup(func() {
		if err := <-drain; err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, wsproxy.ErrShutdown) {
			t.Errorf("Drain() = %v", err)
		}
	})
	registry := newRegistry(t, p, "one")
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	server := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	t.Cleanup(server.Close)
	prom.scrape(t, server.URL)
	return &traffic{p, site}
}

// round makes each thing happen once. It takes more than a second: an upgrade waits, and a client
// is pinged.
func (tr *traffic) round(t *testing.T) {
	t.Helper()
	open := func() *wstest.Peer {
		client, _ := proxytest.Open(t, tr.site.URL, proxytest.UpgradeTo("/"))
		proxytest.WantEcho(t, client)
		return client
	}
	proxytest.Exchange(t, tr.site.URL, proxytest.UpgradeTo("/", "Origin: https://evil.example"))
	proxytest.Exchange(t, tr.site.URL, proxytest.UpgradeTo("/", "X-Panic: yes"))
	proxytest.Exchange(t, tr.site.URL, proxytest.Head("GET /page HTTP/1.1", "Host: x", "Connection: close"))
	lost := open()
	lost.Close()
	first, second, third := open(), open(), open()
	waiting := wstest.Dial(t, tr.site.URL)
	waiting.WriteRequest(proxytest.UpgradeTo("/"))
	first.Send(first.WantPing()) // after a second
	for _, c := range []*wstest.Peer{first, second, third, waiting} {
		if c == waiting {
			proxytest.WantSwitch(t, c)
		}
		leave(t, c)
	}
}

// leave ends a tunnel by the closing handshake. Pings may come before the answer.
func leave(t *testing.T, c *wstest.Peer) {
	t.Helper()
	c.Send(wstest.Close(1000, ""))
	for {
		f, err := c.ReadFrame()
		if err != nil {
			t.Fatalf("client reads the answer to its Close frame: %v", err)
		}
		if f.Opcode == wstest.OpClose {
			c.Close()
			return
		}
	}
}
