package wsproxy_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/coder/websocket"

	"github.com/wsproxy/wsproxy"
)

// [http.Server.Shutdown] neither closes nor waits for connections that have been
// upgraded, and the proxy knows no others. So both are shut down side by side,
// under one deadline, and main waits for both.
func ExampleProxy_Shutdown() {
	backend := startBackend("the backend")
	defer backend.Close()
	proxy, err := wsproxy.New(wsproxy.WithBackends(backend.URL))
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: wsproxy.Front(proxy)} // or Front around a router
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go server.Serve(ln) // ends with server.Shutdown

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)

	client := connect("ws://" + ln.Addr().String())
	defer client.CloseNow()
	signals <- syscall.SIGTERM // in this example nobody else sends it
	goodbye := make(chan error, 1)
	go func() {
		_, _, err := client.Read(context.Background())
		goodbye <- err
	}()

	<-signals
	// Shorter than what the orchestrator allows before it kills the process.
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	var serverErr, proxyErr error
	wg.Go(func() { serverErr = server.Shutdown(ctx) })
	wg.Go(func() { proxyErr = proxy.Shutdown(ctx) })
	wg.Wait()

	var drained *wsproxy.DrainError
	if errors.As(proxyErr, &drained) {
		log.Printf("%d tunnels had to be cut", drained.Cut)
	}
	fmt.Println("server:", serverErr)
	fmt.Println("proxy:", proxyErr)
	fmt.Println("client:", websocket.CloseStatus(<-goodbye))

	// Output:
	// server: <nil>
	// proxy: <nil>
	// client: StatusGoingAway
}

// A page for operators empties a backend before it is restarted. The drain takes minutes, and
// must not end with the request of an operator who closes the page: so it has the values of the
// request's context, but not its end.
func ExampleProxy_Drain() {
	backend := startBackend("the backend")
	defer backend.Close()
	proxy, err := wsproxy.New(wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "chat-1", URL: backend.URL}))
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close() // ends drains under way

	drain := func(w http.ResponseWriter, r *http.Request) { // behind your authentication
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 5*time.Minute)
		defer cancel()
		err := proxy.Drain(ctx, r.FormValue("backend"), 50*time.Millisecond) // minutes, in production
		var drained *wsproxy.DrainError
		switch {
		case errors.As(err, &drained):
			fmt.Fprintf(w, "%d tunnels are left, and the backend gets no new ones", drained.Left)
		case err != nil:
			http.Error(w, err.Error(), http.StatusConflict)
		default:
			fmt.Fprint(w, "the backend can be stopped")
		}
	}
	service := httptest.NewServer(proxy)
	defer service.Close()
	client := connect(service.URL)
	defer client.CloseNow()
	goodbye := make(chan error, 1)
	go func() {
		_, _, err := client.Read(context.Background())
		goodbye <- err
	}()

	response := httptest.NewRecorder()
	drain(response, httptest.NewRequest("POST", "/drain?backend=chat-1", nil))
	fmt.Println("client:", websocket.CloseStatus(<-goodbye))
	fmt.Println("operator:", response.Body)
	fmt.Println("backend:", proxy.Backends()[0].State())

	fmt.Println("resumed:", proxy.Resume("chat-1"))
	fmt.Println("backend:", proxy.Backends()[0].State())

	// Output:
	// client: StatusServiceRestart
	// operator: the backend can be stopped
	// backend: draining
	// resumed: <nil>
	// backend: up
}

// A Probe is a function, so that the ones that are built in can be combined: here with a
// metric.
func ExampleWithHealthCheck() {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("asked for", r.URL.Path)
	}))
	defer backend.Close()

	isHealthy := wsproxy.HTTPProbe(wsproxy.HTTPProbeConfig{Path: "/healthz"})
	results := make(chan error, 1)
	proxy, err := wsproxy.New(
		wsproxy.WithBackends(backend.URL),
		wsproxy.WithHealthCheck(wsproxy.HealthCheck{
			Interval: 5 * time.Second,
			Timeout:  time.Second,
			Probe: func(ctx context.Context, b *wsproxy.Backend) error {
				err := isHealthy(ctx, b)
				select {
				case results <- err: // or a counter for b.ID()
				default: // a Probe must not block
				}
				return err
			},
		}))
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close() // ends the probes

	fmt.Println("result:", <-results) // within a second

	// Output:
	// asked for /healthz
	// result: <nil>
}

// The set of backends can change at any time, for instance when service discovery
// tells of a new one. Open tunnels stay where they are.
func ExampleProxy_SetBackends() {
	a, b := startBackend("a"), startBackend("b")
	defer a.Close()
	defer b.Close()
	proxy, err := wsproxy.New(wsproxy.WithBackends(a.URL))
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()
	service := httptest.NewServer(proxy)
	defer service.Close()

	before := connect(service.URL)
	defer before.CloseNow()
	err = proxy.SetBackends(
		wsproxy.BackendConfig{ID: "b", URL: b.URL, MaxTunnels: 1000},
	)
	if err != nil {
		log.Fatal(err) // nothing has changed
	}
	after := connect(service.URL)
	defer after.CloseNow()

	fmt.Println("before:", ask(before, "hello"))
	fmt.Println("after:", ask(after, "hello"))

	// Output:
	// before: a got hello
	// after: b got hello
}

// A user who signs out loses all tunnels. The users are those whom WithAdmit has
// authenticated: what a client says of itself in a query ends nobody's tunnel.
//
// The session ends first, so that the user's clients cannot come back. An upgrade that was
// admitted before, and is still under way, is found by Trace.Opened: a tunnel is among
// Proxy.Tunnels before that hook is called.
func ExampleTunnel_Close() {
	backend := startBackend("the backend")
	defer backend.Close()
	var sessions sync.Map // from the cookie's value to the user
	sessions.Store("s3cret", "alice")
	sessions.Store("hidden", "bob")
	sessionOf := func(r *http.Request) string {
		if cookie, err := r.Cookie("session"); err == nil {
			return cookie.Value
		}
		return ""
	}
	authenticate := func(r *http.Request) (any, error) {
		user, ok := sessions.Load(sessionOf(r))
		if !ok {
			return nil, &wsproxy.StatusError{Status: http.StatusUnauthorized, Err: errors.New("sign in first")}
		}
		return user, nil
	}
	closeSignedOut := func(t *wsproxy.Tunnel) {
		// The code and the reason may be sent, so that there is no error.
		t.Close(int(websocket.StatusPolicyViolation), "signed out")
	}
	proxy, err := wsproxy.New(
		wsproxy.WithBackends(backend.URL),
		wsproxy.WithAdmit(authenticate),
		wsproxy.WithTrace(&wsproxy.Trace{Opened: func(i wsproxy.OpenedInfo) {
			if _, ok := sessions.Load(sessionOf(i.Request)); !ok {
				closeSignedOut(i.Tunnel)
			}
		}}),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()
	signOut := func(session, user string) {
		sessions.Delete(session)
		for t := range proxy.Tunnels() {
			if t.Info().Value == user {
				closeSignedOut(t)
			}
		}
	}

	service := httptest.NewServer(proxy)
	defer service.Close()
	connectAs := func(session string) (*websocket.Conn, *http.Response) {
		header := http.Header{"Cookie": {"session=" + session}}
		conn, resp, _ := websocket.Dial(context.Background(), service.URL, &websocket.DialOptions{HTTPHeader: header})
		return conn, resp
	}
	_, resp := connectAs("guessed")
	fmt.Println("a stranger:", resp.Status)
	alice, _ := connectAs("s3cret")
	defer alice.CloseNow()
	bob, _ := connectAs("hidden")
	defer bob.CloseNow()

	signOut("s3cret", "alice")
	_, _, err = alice.Read(context.Background())
	var closed websocket.CloseError
	if errors.As(err, &closed) {
		fmt.Printf("alice: code %d, %s\n", closed.Code, closed.Reason)
	}
	_, resp = connectAs("s3cret")
	fmt.Println("alice, who comes back:", resp.Status)
	fmt.Println("bob:", ask(bob, "hello"))

	// Output:
	// a stranger: 401 Unauthorized
	// alice: code 1008, signed out
	// alice, who comes back: 401 Unauthorized
	// bob: the backend got hello
}
