package process_test

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	_ "github.com/wsproxy/wsproxy/http2ws"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

var update = flag.Bool("update", false, "write "+memoryFile)

const (
	memoryFile = "testdata/memory.json"

	// maxGrowth is by how much a tunnel may outgrow the stored number. This is
	// memory, not time, so that it is steady: see measureIdleTunnels.
	maxGrowth = 1.15

	memoryTunnels = 1000
	memoryWarmUp  = 50 // tunnels that pay for what a process needs once
)

// A tunnelCost is what one more idle tunnel adds to a process that does nothing
// but proxy.
type tunnelCost struct {
	Bytes      float64 `json:"bytes"` // live heap, and stacks
	Goroutines float64 `json:"goroutines"`
}

// A processUse is what such a process uses in all.
type processUse struct {
	tunnelCost
	Engine string // of its tunnels
}

func TestIdleTunnelUsesStoredMemory(t *testing.T) {
	switch {
	case runtime.GOOS != "linux":
		t.Skip("the numbers are those of Linux")
	case proxytest.IsRace:
		t.Skip("the race detector takes memory too")
	}
	for _, mode := range []string{memoryBlocking, memoryDetached, memoryHTTP2Shared, memoryHTTP2Alone} {
		t.Run(mode, func(t *testing.T) {
			stored := readTunnelCosts(t)
			got, engine := measureIdleTunnels(t, mode, stored)
			name := engine + ", " + mode
			t.Logf("%s: an idle tunnel costs %.0f bytes, %.2f goroutines", name, got.Bytes, got.Goroutines)
			if *update {
				stored[name] = tunnelCost{math.Round(got.Bytes), math.Round(got.Goroutines)}
				writeTunnelCosts(t, stored)
				return
			}
			was, ok := stored[name]
			if !ok {
				t.Fatalf("%s has no number for %s; run: go test ./test/process -run TestIdleTunnel -update", memoryFile, name)
			}
			if got.Bytes > was.Bytes*maxGrowth {
				t.Errorf("an idle tunnel costs %.0f bytes; want at most %.0f, which is 15 %% over the number in %s\n"+
					"If this is meant, run: go test ./test/process -run TestIdleTunnel -update", got.Bytes, was.Bytes*maxGrowth, memoryFile)
			}
			if got.Goroutines > was.Goroutines+0.5 {
				t.Errorf("an idle tunnel has %.2f goroutines; want %.0f", got.Goroutines, was.Goroutines)
			}
		})
	}
}

func readTunnelCosts(t *testing.T) map[string]tunnelCost {
	t.Helper()
	text, err := os.ReadFile(memoryFile)
	if err != nil {
		t.Fatal(err)
	}
	costs := make(map[string]tunnelCost)
	if err := json.Unmarshal(text, &costs); err != nil {
		t.Fatalf("%s: %v", memoryFile, err)
	}
	return costs
}

func writeTunnelCosts(t *testing.T, costs map[string]tunnelCost) {
	t.Helper()
	text, err := json.MarshalIndent(costs, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(memoryFile, append(text, '\n'), 0o666); err != nil {
		t.Fatal(err)
	}
}

// measureIdleTunnels returns the least of three measurements. Some include the memory
// that a pool holds, or that a map has grown for later tunnels. It stops at the first
// that is within the stored bound, unless the test updates the file.
func measureIdleTunnels(t *testing.T, mode string, stored map[string]tunnelCost) (least tunnelCost, engine string) {
	t.Helper()
	for i := range 3 {
		cost, e := measureIdleTunnelsOnce(t, mode)
		if i == 0 || cost.Bytes < least.Bytes {
			least, engine = cost, e
		}
		if !*update && least.Bytes <= stored[engine+", "+mode].Bytes*maxGrowth {
			break
		}
	}
	return least, engine
}

// measureIdleTunnelsOnce opens tunnels through a proxy in a process of its own, so
// that the clients and the backend are not measured with it.
func measureIdleTunnelsOnce(t *testing.T, mode string) (cost tunnelCost, engine string) {
	t.Helper()
	p := startMemoryProcess(t, mode, wstest.StartEcho(t))
	p.openTunnels(t, memoryWarmUp)
	before := p.measure(t)
	p.openTunnels(t, memoryTunnels)
	after := p.measure(t)
	return tunnelCost{
		Bytes:      (after.Bytes - before.Bytes) / memoryTunnels,
		Goroutines: (after.Goroutines - before.Goroutines) / memoryTunnels,
	}, after.Engine
}

// A memoryProcess is this binary again, as a program with a proxy.
type memoryProcess struct {
	ask    io.Writer
	answer *bufio.Scanner
	url    string
	pid    int
	mode   string
}

const (
	memoryModeEnv    = "WSPROXY_TEST_MEMORY"
	memoryBackendEnv = "WSPROXY_TEST_BACKEND"
	memoryPingEnv    = "WSPROXY_TEST_PING" // Ping.Client

	memoryBlocking = "blocking"
	memoryDetached = "detached"

	// Over HTTP/2 and TLS. The connection is part of a tunnel's cost.
	memoryHTTP2Shared = "HTTP/2, 50 on a connection"
	memoryHTTP2Alone  = "HTTP/2, one on a connection"
)

// tunnelsOnConnection is how many tunnels of a mode share a connection over HTTP/2.
var tunnelsOnConnection = map[string]int{memoryHTTP2Shared: 50, memoryHTTP2Alone: 1}

// startMemoryProcess starts a process whose proxy has one backend. The environment of the
// process has env too.
func startMemoryProcess(t testing.TB, mode, backend string, env ...string) *memoryProcess {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), memoryModeEnv+"="+mode, memoryBackendEnv+"="+backend), env...)
	cmd.Stderr = os.Stderr
	ask, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	answer, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ask.Close() // which ends it
		if err := cmd.Wait(); err != nil {
			t.Errorf("the process with the proxy: %v", err)
		}
	})
	p := &memoryProcess{ask: ask, answer: bufio.NewScanner(answer), pid: cmd.Process.Pid, mode: mode}
	p.url = p.line(t)
	return p
}

func (p *memoryProcess) line(t testing.TB) string {
	t.Helper()
	if !p.answer.Scan() {
		t.Fatalf("the process with the proxy has ended: %v", p.answer.Err())
	}
	return p.answer.Text()
}

// openTunnels opens n tunnels, each of which carries a message and rests until the
// test ends.
func (p *memoryProcess) openTunnels(t testing.TB, n int) {
	t.Helper()
	if share := tunnelsOnConnection[p.mode]; share > 0 {
		for range n / share {
			browser := proxytest.NewHTTP2Client(t, p.url)
			for range share {
				client, _ := browser.Open(t, "/")
				proxytest.WantEcho(t, client)
			}
		}
		return
	}
	for range n {
		client, _ := proxytest.Open(t, p.url, proxytest.UpgradeTo("/"))
		proxytest.WantEcho(t, client)
	}
}

// measure returns what the process has of everything.
func (p *memoryProcess) measure(t testing.TB) processUse {
	t.Helper()
	if _, err := io.WriteString(p.ask, "\n"); err != nil {
		t.Fatal(err)
	}
	var use processUse
	if text := p.line(t); json.Unmarshal([]byte(text), &use) != nil {
		t.Fatalf("the process with the proxy said %q", text)
	}
	return use
}

// beMemoryProcess is what the process does instead of tests, if it is one: it
// writes where it listens, and then, for each line that it reads, what it uses.
func beMemoryProcess() {
	mode := os.Getenv(memoryModeEnv)
	if mode == "" {
		return
	}
	interval, _ := time.ParseDuration(os.Getenv(memoryPingEnv)) // 0 without it
	proxy, err := wsproxy.New(
		wsproxy.WithBackends(os.Getenv(memoryBackendEnv)),
		wsproxy.WithPing(wsproxy.Ping{Client: interval}),
		wsproxy.WithDetached(mode == memoryDetached),
		wsproxy.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	scheme := "http"
	if tunnelsOnConnection[mode] > 0 {
		scheme = "https"
		srv := &http.Server{Handler: proxy, TLSConfig: &tls.Config{Certificates: []tls.Certificate{wstest.Certificate()}}}
		go srv.ServeTLS(ln, "", "") // as long as the process
	} else {
		go http.Serve(ln, proxy) // as long as the process
	}
	fmt.Printf("%s://%s\n", scheme, ln.Addr())
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		use := processUse{tunnelCost: usedNow()}
		for tunnel := range proxy.Tunnels() {
			use.Engine = tunnel.Info().Engine.String()
			break
		}
		json.NewEncoder(os.Stdout).Encode(use)
	}
	os.Exit(0)
}

// usedNow returns what this process uses when it has collected what is garbage. A
// stack that was needed once is halved with each collection, down to what is in
// use, and a pool is empty after the second.
func usedNow() tunnelCost {
	for range 8 {
		runtime.GC()
	}
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return tunnelCost{
		Bytes:      float64(m.HeapAlloc + m.StackInuse),
		Goroutines: float64(runtime.NumGoroutine()),
	}
}
