package wsproxy_test

import (
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"

	"github.com/wsproxy/wsproxy"
)

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
