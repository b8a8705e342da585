package wsproxy_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/coder/websocket"

	"github.com/wsproxy/wsproxy"
)

// The Rewrite hook decides what a backend gets, and whether it gets anything. What
// it sets no client can forge or remove.
func ExampleWithRewrite() {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Printf("backend: %s for %s\n", r.URL, r.Header.Get("X-User"))
		if conn, err := websocket.Accept(w, r, nil); err == nil {
			conn.CloseNow()
		}
	}))
	defer backend.Close()

	users := map[string]string{"s3cret": "alice"}
	identify := func(r *wsproxy.ProxyRequest) error {
		user, ok := users[r.In.URL.Query().Get("token")]
		if !ok {
			return &wsproxy.StatusError{Status: http.StatusUnauthorized, Err: errors.New("unknown token")}
		}
		query := r.Out.URL.Query()
		query.Del("token") // for this program only
		r.Out.URL.RawQuery = query.Encode()
		r.Out.Header.Set("X-User", user)
		return nil
	}
	proxy, err := wsproxy.New(wsproxy.WithBackends(backend.URL), wsproxy.WithRewrite(identify))
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()
	service := httptest.NewServer(proxy)
	defer service.Close()

	connect(service.URL + "/chat?room=1&token=s3cret").CloseNow()
	_, resp, _ := websocket.Dial(context.Background(), service.URL+"/chat?room=1&token=guessed", nil)
	fmt.Println("client:", resp.Status)

	// Output:
	// backend: /chat?room=1 for alice
	// client: 401 Unauthorized
}

// The Response hook adds to what the client gets: here a cookie that names the
// backend, by which a balancer can send the client there again.
func ExampleWithResponse() {
	backend := startBackend("the backend")
	defer backend.Close()
	proxy, err := wsproxy.New(
		wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "chat-1", URL: backend.URL}),
		wsproxy.WithResponse(func(r *wsproxy.ProxyResponse) error {
			if r.StatusCode == http.StatusSwitchingProtocols {
				cookie := &http.Cookie{Name: "backend", Value: r.Backend.ID(), HttpOnly: true}
				r.Header.Add("Set-Cookie", cookie.String())
			}
			return nil
		}),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()
	service := httptest.NewServer(proxy)
	defer service.Close()

	client, resp, err := websocket.Dial(context.Background(), service.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer client.CloseNow()
	fmt.Println(resp.Header.Get("Set-Cookie"))

	// Output:
	// backend=chat-1; HttpOnly
}

// A Trace sees every step. Metrics are made here.
func ExampleTrace() {
	backend := startBackend("the backend")
	defer backend.Close()
	trace := &wsproxy.Trace{
		Picked: func(i wsproxy.PickedInfo) {
			fmt.Printf("picked %s of %d\n", i.Backend.ID(), i.Candidates)
		},
		Attempted: func(i wsproxy.AttemptInfo) {
			fmt.Printf("attempt %d: %s answered %d\n", i.Attempt, i.Backend.ID(), i.Status)
		},
		Opened: func(i wsproxy.OpenedInfo) {
			fmt.Printf("tunnel %d opened: %s\n", i.Tunnel.ID(), i.Request.URL.Path)
		},
		Closed: func(e wsproxy.TunnelEnd) {
			fmt.Printf("tunnel %d closed: %s by the %s with %d, %d message there and %d back\n",
				e.ID, e.Cause, e.Side, e.Code, e.ToBackend.Messages, e.ToClient.Messages)
		},
	}
	proxy, err := wsproxy.New(
		wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "chat-1", URL: backend.URL}),
		wsproxy.WithTrace(trace),
	)
	if err != nil {
		log.Fatal(err)
	}
	service := httptest.NewServer(proxy)
	defer service.Close()

	client := connect(service.URL + "/chat")
	ask(client, "hello")
	client.Close(websocket.StatusNormalClosure, "")
	proxy.Shutdown(context.Background()) // returns after the last hook

	// Output:
	// picked chat-1 of 1
	// attempt 1: chat-1 answered 101
	// tunnel 1 opened: /chat
	// tunnel 1 closed: closed by the client with 1000, 1 message there and 1 back
}

// Why a client got no tunnel, for the log or a counter.
func ExampleRefusedInfo() {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "banned", http.StatusForbidden)
	}))
	defer backend.Close()
	proxy, err := wsproxy.New(
		wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "chat-1", URL: backend.URL}),
		wsproxy.WithAdmit(func(r *http.Request) (any, error) {
			if r.Header.Get("Authorization") == "" {
				return nil, &wsproxy.StatusError{Status: http.StatusUnauthorized, Err: errors.New("no token")}
			}
			return nil, nil
		}),
		wsproxy.WithTrace(&wsproxy.Trace{Refused: func(i wsproxy.RefusedInfo) {
			fmt.Printf("%d, reason %q", i.Status, i.Reason) // and i.RequestID, which the client has too
			var status *wsproxy.StatusError
			switch {
			case errors.As(i.Err, &status):
				fmt.Print(": ", status.Err) // without the status
			case i.Err != nil:
				fmt.Print(": ", i.Err)
			case i.Backend != nil: // the client got the answer of the backend
				fmt.Print(" of ", i.Backend)
			}
			fmt.Println()
		}}),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()
	service := httptest.NewServer(proxy)
	defer service.Close()

	websocket.Dial(context.Background(), service.URL, nil)
	token := http.Header{"Authorization": {"Bearer 4711"}}
	websocket.Dial(context.Background(), service.URL, &websocket.DialOptions{HTTPHeader: token})
	if resp, err := http.Get(service.URL); err == nil {
		resp.Body.Close()
	}

	// Output:
	// 401, reason "admit": no token
	// 403, reason "answer" of chat-1
	// 426, reason "check": Upgrade was missing: only `websocket` is served here
}

// Behind another proxy, what it says of the client is believed and passed on.
func ExampleWithTrustedProxies() {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("X-Forwarded-For:", r.Header.Get("X-Forwarded-For"))
		if conn, err := websocket.Accept(w, r, nil); err == nil {
			conn.CloseNow()
		}
	}))
	defer backend.Close()
	proxy, err := wsproxy.New(
		wsproxy.WithBackends(backend.URL),
		wsproxy.WithTrustedProxies("127.0.0.1", "10.0.0.0/8"),
		wsproxy.WithTrace(&wsproxy.Trace{Opened: func(i wsproxy.OpenedInfo) {
			fmt.Println("client:", i.Tunnel.Info().ClientAddr)
		}}),
	)
	if err != nil {
		log.Fatal(err)
	}
	service := httptest.NewServer(proxy)
	defer service.Close()

	// What a client on 203.0.113.7 claims ("1.2.3.4") is left of what the proxies
	// in front have added, and is not believed.
	header := http.Header{"X-Forwarded-For": {"1.2.3.4, 203.0.113.7, 10.0.0.9"}}
	client, _, err := websocket.Dial(context.Background(), service.URL, &websocket.DialOptions{HTTPHeader: header})
	if err != nil {
		log.Fatal(err)
	}
	client.CloseNow()
	proxy.Shutdown(context.Background())

	// Output:
	// X-Forwarded-For: 1.2.3.4, 203.0.113.7, 10.0.0.9, 127.0.0.1
	// client: 203.0.113.7
}
