package wsproxy_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"net/http/httptest"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/wsproxy/wsproxy"
)

// A status page lists the oldest tunnels, and those with the fewest messages. Each row is
// read once, before the rows are sorted: the counters go on meanwhile.
func ExampleProxy_Tunnels() {
	backend := startBackend("the backend")
	defer backend.Close()
	proxy, err := wsproxy.New(wsproxy.WithBackends(backend.URL))
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()
	service := httptest.NewServer(proxy)
	defer service.Close()

	for i, path := range []string{"/ann", "/bob", "/cleo"} {
		conn := connect(service.URL + path)
		defer conn.CloseNow()
		for range 30 - 10*i {
			ask(conn, "hello")
		}
	}

	type row struct {
		wsproxy.TunnelInfo
		messages uint64
	}
	var rows []row
	for t := range proxy.Tunnels() {
		toBackend, toClient := t.Traffic()
		rows = append(rows, row{t.Info(), toBackend.Messages + toClient.Messages})
	}
	slices.SortFunc(rows, func(a, b row) int { return a.Opened.Compare(b.Opened) })
	fmt.Println("oldest:", rows[0].URL.Path)
	slices.SortFunc(rows, func(a, b row) int { return cmp.Compare(a.messages, b.messages) })
	fmt.Println("fewest messages:", rows[0].URL.Path)

	// Output:
	// oldest: /ann
	// fewest messages: /cleo
}

// The counters of a backend are those that its own operators ask for: what its attempts came
// to, how long its handshakes took, and how its tunnels ended.
func ExampleBackend_Stats() {
	backend := startBackend("the backend")
	defer backend.Close()
	closed := make(chan struct{})
	proxy, err := wsproxy.New(
		wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "chat-1", URL: backend.URL}),
		wsproxy.WithTrace(&wsproxy.Trace{Closed: func(wsproxy.TunnelEnd) { close(closed) }}),
	)
	if err != nil {
		log.Fatal(err)
	}
	service := httptest.NewServer(proxy)
	defer service.Close()

	conn := connect(service.URL)
	ask(conn, "hello")
	conn.CloseNow()
	<-closed
	proxy.Close() // so that the end is counted

	for _, b := range proxy.Backends() {
		s := b.Stats()
		fmt.Println(b.ID(), "accepted", s.Accepted, "and failed", s.Failed)
		fmt.Println("handshakes:", s.Handshakes.Count)
		fmt.Println("messages:", s.ToBackend.Messages, "and", s.ToClient.Messages)
		for _, e := range s.Ended {
			fmt.Println("ended by the", e.Side, "because", e.Cause, e.Count)
		}
	}

	// Output:
	// chat-1 accepted 1 and failed 0
	// handshakes: 1
	// messages: 1 and 1
	// ended by the client because lost 1
}

// More room on a backend brings it new clients only. Rebalance moves some of those that are
// connected: they get a Close frame with 1012, come back, and the balancer sends them there.
func ExampleProxy_Rebalance() {
	a, b := startBackend("a"), startBackend("b")
	defer a.Close()
	defer b.Close()
	configs := []wsproxy.BackendConfig{{ID: "a", URL: a.URL}, {ID: "b", URL: b.URL, MaxTunnels: 1}}
	proxy, err := wsproxy.New(wsproxy.WithBackendConfigs(configs...))
	if err != nil {
		log.Fatal(err)
	}
	service := httptest.NewServer(proxy)
	defer service.Close()
	var clients sync.WaitGroup
	defer clients.Wait()
	defer proxy.Close()

	for range 24 { // clients that come back
		conn := connect(service.URL)
		clients.Go(func() { // ends with the proxy
			for {
				_, _, err := conn.Read(context.Background())
				conn.CloseNow()
				if websocket.CloseStatus(err) != websocket.StatusServiceRestart {
					return
				}
				conn = connect(service.URL)
			}
		})
	}
	fmt.Println("a has 23 tunnels:", proxy.Backends()[0].NumTunnels() == 23)

	configs[1].MaxTunnels = 1000
	if err := proxy.SetBackends(configs...); err != nil {
		log.Fatal(err)
	}
	// Rebalance may take minutes. So its context is not that of an HTTP request.
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	n, err := proxy.Rebalance(ctx, wsproxy.RebalanceConfig{Rate: 0.5}) // much more than the default
	if errors.Is(err, wsproxy.ErrNotMoving) {
		log.Fatal("the balancer sends clients back to where they were: ", err)
	}
	fmt.Println("moved", n, "clients:", err)

	// Output:
	// a has 23 tunnels: true
	// moved 10 clients: <nil>
}
