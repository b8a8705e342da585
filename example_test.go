package wsproxy_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/coder/websocket"

	"github.com/wsproxy/wsproxy"
)

// The smallest program: one handler, two backends.
func Example() {
	a, b := startBackend("a"), startBackend("b")
	defer a.Close()
	defer b.Close()

	proxy, err := wsproxy.New(wsproxy.WithBackends(a.URL, b.URL))
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()
	mux := http.NewServeMux()
	mux.Handle("/ws", proxy)
	service := httptest.NewServer(mux) // http.ListenAndServe(":8000", mux)
	defer service.Close()

	first, second := connect(service.URL+"/ws"), connect(service.URL+"/ws")
	defer first.CloseNow()
	defer second.CloseNow()
	fmt.Println(ask(first, "hello"))
	fmt.Println(ask(second, "hello"))
	fmt.Println(ask(first, "hello again"))

	// Output:
	// a got hello
	// b got hello
	// a got hello again
}

// New reports all mistakes at once.
func ExampleNew() {
	_, err := wsproxy.New(
		wsproxy.WithBackends("http://10.0.0.1:8080", "10.0.0.2:8080"),
		wsproxy.WithTrustedProxies("10.0.0.0/8", "load-balancer"),
		wsproxy.WithBalancer(wsproxy.BoundedHash(wsproxy.ByClientIP(), 0.5)),
	)
	fmt.Println(err)

	// Output:
	// wsproxy: WithBalancer: BoundedHash: factor is 0.5; want a number above 1
	// wsproxy: WithTrustedProxies[1]: "load-balancer": not an IP address, range of addresses, or unix
	// wsproxy: WithBackends[1].URL: "10.0.0.2:8080": no scheme; want http://localhost:8080, for example
}

// startBackend starts a WebSocket server that answers every message and says who
// it is.
func startBackend(name string) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		for {
			typ, message, err := conn.Read(r.Context())
			if err != nil {
				return
			}
			if err := conn.Write(r.Context(), typ, fmt.Appendf(nil, "%s got %s", name, message)); err != nil {
				return
			}
		}
	}))
}

// connect opens a WebSocket.
func connect(url string) *websocket.Conn {
	conn, _, err := websocket.Dial(context.Background(), url, nil)
	if err != nil {
		log.Fatal(err)
	}
	return conn
}

// ask sends a message and returns the answer.
func ask(conn *websocket.Conn, message string) string {
	ctx := context.Background()
	if err := conn.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
		log.Fatal(err)
	}
	_, answer, err := conn.Read(ctx)
	if err != nil {
		log.Fatal(err)
	}
	return string(answer)
}

// askAt opens a WebSocket for one message and returns the answer.
func askAt(url, message string) string {
	conn := connect(url)
	defer conn.CloseNow()
	return ask(conn, message)
}
