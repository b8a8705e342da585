package wsproxy_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"

	"github.com/coder/websocket"

	"github.com/wsproxy/wsproxy"
)

// As middleware the proxy takes the upgrades of a route. Everything else goes to
// the handler that was there before.
func ExampleProxy_Wrap() {
	backend := startBackend("the backend")
	defer backend.Close()
	proxy, err := wsproxy.New(wsproxy.WithBackends(backend.URL))
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "the page")
	})
	mux := http.NewServeMux()
	mux.Handle("/room", proxy.Wrap(page))
	service := httptest.NewServer(mux)
	defer service.Close()

	resp, err := http.Get(service.URL + "/room")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Printf("GET: %s\n", body)
	fmt.Println("WebSocket:", askAt(service.URL+"/room", "hello"))

	// Output:
	// GET: the page
	// WebSocket: the backend got hello
}

// With Front around everything, middleware sees the 101 of a tunnel.
func ExampleFront() {
	backend := startBackend("the backend")
	defer backend.Close()
	proxy, err := wsproxy.New(wsproxy.WithBackends(backend.URL))
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()
	logged := make(chan int, 1)
	logging := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		recorder := &unwrappableRecorder{statusRecorder{ResponseWriter: w}}
		proxy.ServeHTTP(recorder, r)
		logged <- recorder.status
	})
	service := httptest.NewServer(wsproxy.Front(logging))
	defer service.Close()

	fmt.Println("WebSocket:", askAt(service.URL, "hello"))
	fmt.Println("access log:", <-logged)

	// Output:
	// WebSocket: the backend got hello
	// access log: 101
}

// A statusRecorder is how much middleware observes what a handler answers. It
// hides the Hijack method of the ResponseWriter that it embeds.
type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (w *statusRecorder) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// An unwrappableRecorder does the same, and lets the proxy find what is behind it.
type unwrappableRecorder struct{ statusRecorder }

func (w *unwrappableRecorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Middleware around the proxy must not hide the connection: a ResponseWriter of
// its own needs an Unwrap method, as [http.ResponseController] describes. Without
// one every upgrade is answered with 500, and an Error in the log names the type.
func ExampleProxy_Wrap_incorrect() {
	backend := startBackend("the backend")
	defer backend.Close()
	proxy, err := wsproxy.New(
		wsproxy.WithBackends(backend.URL),
		wsproxy.WithLogger(slog.New(slog.DiscardHandler)),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()
	incorrect := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxy.ServeHTTP(&statusRecorder{ResponseWriter: w}, r)
	}))
	defer incorrect.Close()
	correct := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxy.ServeHTTP(&unwrappableRecorder{statusRecorder{ResponseWriter: w}}, r)
	}))
	defer correct.Close()

	_, resp, _ := websocket.Dial(context.Background(), incorrect.URL, nil)
	fmt.Println("without Unwrap:", resp.Status)
	fmt.Println("with Unwrap:", askAt(correct.URL, "hello"))

	// Output:
	// without Unwrap: 500 Internal Server Error
	// with Unwrap: the backend got hello
}

// A detached proxy lets ServeHTTP return at the upgrade: middleware around it sees
// the request end there, and the tunnel's end is told by Trace alone.
func ExampleWithDetached() {
	backend := startBackend("the backend")
	defer backend.Close()
	ended := make(chan wsproxy.TunnelEnd, 1)
	proxy, err := wsproxy.New(
		wsproxy.WithBackends(backend.URL),
		wsproxy.WithDetached(true),
		wsproxy.WithTrace(&wsproxy.Trace{Closed: func(e wsproxy.TunnelEnd) { ended <- e }}),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()
	logged := make(chan bool, 1)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxy.ServeHTTP(w, r)
		fmt.Println("access log: the request has ended")
		logged <- true
	}))
	defer service.Close()

	conn := connect(service.URL)
	<-logged
	fmt.Println("the tunnel has not:", ask(conn, "hello"))
	conn.Close(websocket.StatusNormalClosure, "")
	e := <-ended
	fmt.Println("trace: ended by the", e.Side, "with code", e.Code)

	// Output:
	// access log: the request has ended
	// the tunnel has not: the backend got hello
	// trace: ended by the client with code 1000
}
