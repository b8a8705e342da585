package wsproxy_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"strings"

	"github.com/coder/websocket"

	"github.com/wsproxy/wsproxy"
)

// Each client comes back to its backend, by a signed cookie. The key is a secret that all replicas
// of the program share.
func ExampleWithAffinity() {
	a, b := startBackend("a"), startBackend("b")
	defer a.Close()
	defer b.Close()
	proxy, err := wsproxy.New(
		wsproxy.WithBackends(a.URL, b.URL),
		wsproxy.WithAffinity(wsproxy.Affinity{
			Keys: [][]byte{[]byte("32 random bytes, kept as a secret")},
		}),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()
	service := httptest.NewServer(proxy)
	defer service.Close()

	for _, name := range []string{"alice", "bob"} {
		jar, _ := cookiejar.New(nil) // as a browser has
		for range 3 {
			conn, _, err := websocket.Dial(context.Background(), service.URL, &websocket.DialOptions{HTTPClient: &http.Client{Jar: jar}})
			if err != nil {
				log.Fatal(err)
			}
			fmt.Println(ask(conn, name))
			conn.CloseNow()
		}
	}

	// Output:
	// a got alice
	// a got alice
	// a got alice
	// b got bob
	// b got bob
	// b got bob
}

// Clients that begin with HTTP requests, such as those of Socket.IO, reach one backend with all of
// them. The first response sets a cookie.
func ExampleWithAffinity_polling() {
	key := []byte(rand.Text())
	proxy, err := wsproxy.New(
		wsproxy.WithBackends("http://127.0.0.1:8080", "http://127.0.0.1:8081"),
		wsproxy.WithHTTP(true), // long polls too, and not only upgrades
		wsproxy.WithAffinity(wsproxy.Affinity{
			Keys: [][]byte{key}, // 16 random bytes or more, the same in all replicas
		}),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()

	var backends []wsproxy.BackendConfig
	for _, name := range []string{"A", "B", "C"} {
		b := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, name)
		}))
		defer b.Close()
		backends = append(backends, wsproxy.BackendConfig{ID: name, URL: b.URL})
	}
	if err := proxy.SetBackends(backends...); err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/socket.io/", proxy)
	service := httptest.NewServer(wsproxy.Front(mux))
	defer service.Close()

	jar, err := cookiejar.New(nil)
	if err != nil {
		log.Fatal(err)
	}
	browser := http.Client{Jar: jar}
	answers := make(map[string]int)
	for range 10 {
		resp, err := browser.Get(service.URL + "/socket.io/?EIO=4&transport=polling")
		if err != nil {
			log.Fatal(err)
		}
		name, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			log.Fatal(err)
		}
		answers[string(name)]++
	}
	fmt.Println("backends:", len(answers))
	// Output:
	// backends: 1
}

// In a frame on the page of another site, browsers send only cookies with these attributes, and
// only over TLS.
func ExampleAffinity_crossSite() {
	backend := startBackend("a")
	defer backend.Close()
	proxy, err := wsproxy.New(
		wsproxy.WithBackends(backend.URL),
		wsproxy.WithAffinity(wsproxy.Affinity{
			Keys:   [][]byte{[]byte("32 random bytes, kept as a secret")},
			Cookie: &http.Cookie{Name: "__Host-chat", SameSite: http.SameSiteNoneMode, Secure: true, Partitioned: true},
		}),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()
	service := httptest.NewServer(proxy)
	defer service.Close()

	conn, resp, err := websocket.Dial(context.Background(), service.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	conn.CloseNow()
	cookie := resp.Cookies()[0]
	fmt.Println(strings.Replace(cookie.Raw, cookie.Value, "...", 1))

	// Output:
	// __Host-chat=...; Path=/; HttpOnly; Secure; SameSite=None; Partitioned
}

// A SockJS client has its session in the path of each request, so that it needs no cookie.
func ExampleBySockJSSession() {
	a, b := startBackend("a"), startBackend("b")
	defer a.Close()
	defer b.Close()
	proxy, err := wsproxy.New(
		wsproxy.WithBackendConfigs(
			wsproxy.BackendConfig{ID: "a", URL: a.URL},
			wsproxy.BackendConfig{ID: "b", URL: b.URL},
		),
		wsproxy.WithAffinity(wsproxy.Affinity{Key: wsproxy.BySockJSSession("/chat")}),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()
	service := httptest.NewServer(proxy)
	defer service.Close()

	for _, session := range []string{"000/6lmrx4oq", "001/zz91ab0q"} {
		fmt.Printf("%s: %s, %s\n", session,
			askAt(service.URL+"/chat/"+session+"/websocket", "hello"),
			askAt(service.URL+"/chat/"+session+"/websocket", "hello again"))
	}

	// Output:
	// 000/6lmrx4oq: a got hello, a got hello again
	// 001/zz91ab0q: b got hello, b got hello again
}
