package wsproxyadmin_test

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/wsproxyadmin"
)

// The page at /admin/, for those who know a password. Their names are in the log of actions.
func ExampleHandler() {
	proxy, err := wsproxy.New(wsproxy.WithBackends("http://127.0.0.1:8080", "http://127.0.0.1:8081"))
	if err != nil {
		log.Fatal(err)
	}
	defer proxy.Close()

	// Hashes have the same length: the time of the comparison tells nothing of the password.
	hash := sha256.Sum256([]byte("correct horse battery staple")) // from a file, in a program
	authorize := func(r *http.Request) (actor string, err error) {
		user, password, _ := r.BasicAuth()
		got := sha256.Sum256([]byte(password))
		if user == "" || subtle.ConstantTimeCompare(got[:], hash[:]) == 0 {
			return "", &wsproxy.StatusError{
				Status: http.StatusUnauthorized,
				Header: http.Header{"Www-Authenticate": {`Basic realm="admin", charset="UTF-8"`}},
				Err:    errors.New("log in with your name and the password"),
			}
		}
		return user, nil
	}
	mux := http.NewServeMux()
	mux.Handle("/ws", proxy)
	mux.Handle("/admin/", wsproxyadmin.Handler(proxy, wsproxyadmin.Options{Prefix: "/admin/", Authorize: authorize}))
	server := httptest.NewServer(wsproxy.Front(mux)) // in a program http.Server, with TLS
	defer server.Close()

	for _, password := range []string{"guessed", "correct horse battery staple"} {
		r, err := http.NewRequest("GET", server.URL+"/admin/", nil)
		if err != nil {
			log.Fatal(err)
		}
		r.SetBasicAuth("ann", password)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
		fmt.Println(resp.Status, resp.Header.Get("Content-Type"))
	}

	// Output:
	// 401 Unauthorized text/plain; charset=utf-8
	// 200 OK text/html; charset=utf-8
}
