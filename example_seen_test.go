package wsproxy_test

import (
	"cmp"
	"fmt"
	"log"
	"net/http/httptest"
	"slices"

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
