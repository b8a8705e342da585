// Package mqtt_test has mqtt.js speak to the broker mosquitto through a proxy.
package mqtt_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/e2e/internal/e2etest"
	"github.com/wsproxy/wsproxy/internal/leaktest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// startBroker starts a broker, and returns its URL.
func startBroker(t *testing.T) string {
	t.Helper()
	addr := e2etest.FreeAddr(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "mqtt") // root's broker becomes another user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	os.Chmod(dir, 0o777)
	file := filepath.Join(dir, "mosquitto.conf")
	// Version 2.0.11 ends if no listener is of another kind.
	config := fmt.Sprintf(`listener %s 127.0.0.1
protocol websockets
listener 0 %s
allow_anonymous true
persistence false
max_queued_messages 0
max_inflight_messages 0
log_dest stderr
`, port, filepath.Join(dir, "socket"))
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	e2etest.Start(t, "mosquitto", "-c", file)
	e2etest.WaitForListener(t, "tcp", addr)
	return "http://" + addr
}

// url returns the URL of a site for mqtt.js.
func url(s *proxytest.Site) string { return "ws" + strings.TrimPrefix(s.URL, "http") + "/mqtt" }

func TestMessagesOfEachQualityComeInOrder(t *testing.T) {
	e2etest.Need(t, "mosquitto", "node")
	ends, trace := proxytest.TraceEnds()
	p, s := proxytest.Start(t, wsproxy.WithBackends(startBroker(t)), trace)
	t.Log(e2etest.RunNode(t, "messages.js", url(s)))
	for range 2 * 3 * 2 { // versions, qualities, clients
		if e := <-ends; e.Subprotocol != "mqtt" || e.Cut {
			t.Errorf("tunnel with subprotocol %q ended by %v, cut: %v; want mqtt, and no cut", e.Subprotocol, e.Cause, e.Cut)
		}
	}
	proxytest.WantNoTunnels(t, p)
}

// The broker disconnects a client from which nothing has come for 1.5 s. Pings of the proxy pass
// between those of MQTT, and both peers answer them.
func TestKeepalivePassesAndProxyPings(t *testing.T) {
	e2etest.Need(t, "mosquitto", "node")
	const interval = 300 * time.Millisecond
	p, s := proxytest.Start(t, wsproxy.WithBackends(startBroker(t)),
		wsproxy.WithPing(wsproxy.Ping{Client: interval, Backend: interval}))
	e2etest.RunNode(t, "keepalive.js", url(s))
	if n := p.Stats().ClientRoundTrips.Count; n == 0 {
		t.Error("the client has answered no ping of the proxy")
	}
}

func TestDrainOfABrokerMovesItsClients(t *testing.T) {
	e2etest.Need(t, "mosquitto", "node")
	const numClients = 20
	p, s := proxytest.Start(t, wsproxy.WithBalancer(wsproxy.RoundRobin()), wsproxy.WithBackendConfigs(
		wsproxy.BackendConfig{ID: "a", URL: startBroker(t)}, wsproxy.BackendConfig{ID: "b", URL: startBroker(t)}))
	clients := e2etest.StartNode(t, "drain.js", url(s), fmt.Sprint(numClients))
	wantLine := func(want string) {
		t.Helper()
		if line := clients.Line(t); line != want {
			t.Fatalf("clients print %q; want %q", line, want)
		}
	}
	wantLine("connected")
	a, b := p.Backends()[0], p.Backends()[1]
	if a.NumTunnels() != numClients/2 || b.NumTunnels() != numClients/2 {
		t.Fatalf("brokers have %d and %d tunnels; want %d each", a.NumTunnels(), b.NumTunnels(), numClients/2)
	}
	if err := p.Drain(t.Context(), "a", 500*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	wantLine("reconnected")
	if a.NumTunnels() != 0 || b.NumTunnels() != numClients {
		t.Errorf("brokers have %d and %d tunnels; want 0 and %d", a.NumTunnels(), b.NumTunnels(), numClients)
	}
	fmt.Fprintln(clients.Stdin, "end")
	var codes [][]int
	if line := clients.Line(t); json.Unmarshal([]byte(line), &codes) != nil {
		t.Fatalf("clients print %q; want their Close codes", line)
	}
	moved := 0
	for _, c := range codes {
		if len(c) > 0 {
			moved++
			if !slices.Equal(c, []int{1012}) {
				t.Errorf("a client was closed with %v; want 1012, once", c)
			}
		}
	}
	if moved != numClients/2 {
		t.Errorf("%d clients were disconnected; want %d", moved, numClients/2)
	}
	if err := clients.Wait(); err != nil {
		t.Error(err)
	}
}
