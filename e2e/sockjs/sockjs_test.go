// Package sockjs_test runs sockjs-client in Chromium, with a proxy and sockjs servers of Node.js.
package sockjs_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/e2e/internal/e2etest"
	"github.com/wsproxy/wsproxy/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

const (
	hosts           = 25 // each has cookies of its own
	sessionsPerHost = 2  // at once: a browser opens at most six connections to a host
	messages        = 20 // of a session
)

// The transports of sockjs-client that Chromium can use.
var transports = []string{"websocket", "xhr-streaming", "xhr-polling", "eventsource"}

// With a cookie, all sessions of a host name are on one backend. With a key, each session has its
// own. With neither, only sessions work that are one connection.
func TestSessionsStayOnOneBackendIfTheyAreBound(t *testing.T) {
	e2etest.Need(t, "node", "chromium")
	s := startService(t, map[string][]wsproxy.Option{
		"/cookie": {wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{[]byte("0123456789abcdef")}})},
		"/key":    {wsproxy.WithAffinity(wsproxy.Affinity{Key: wsproxy.BySockJSSession("/key/chat")})},
		"/none":   nil,
	})
	browser := e2etest.StartBrowser(t)
	pages := make([]*e2etest.Page, hosts)
	forEach(t, pages, func(i int) (err error) {
		// The page comes through the proxy too. Otherwise two sessions of a host that begin
		// at once get different cookies, of which the browser stores the second.
		url := fmt.Sprintf("http://s%d.localhost:%s/cookie/page", i, s.port)
		pages[i], err = browser.Open(url, e2etest.PageOptions{})
		return err
	})
	for _, affinity := range []string{"cookie", "key", "none"} {
		for _, transport := range transports {
			t.Run(affinity+"/"+transport, func(t *testing.T) {
				results := make([][]result, hosts)
				forEach(t, pages, func(i int) error {
					return pages[i].Call(&results[i], "runSessions", "/"+affinity+"/chat", []string{transport}, sessionsPerHost, messages)
				})
				if affinity == "none" && transport != "websocket" {
					if !slices.ContainsFunc(slices.Concat(results...), func(r result) bool { return r.Error != "" }) {
						t.Error("without affinity no session has failed: the test proves nothing")
					}
					return
				}
				wantWholeSessions(t, transport, slices.Concat(results...))
				for i, r := range results {
					if affinity == "cookie" && !slices.Equal(r[0].Backends, r[1].Backends) {
						t.Errorf("the sessions of host %d are on the backends %v and %v; want one", i, r[0].Backends, r[1].Backends)
					}
				}
			})
		}
	}
}

func wantWholeSessions(t *testing.T, transport string, results []result) {
	t.Helper()
	used := make(map[string]int)
	for _, r := range results {
		if r.Error != "" || r.Transport != transport || r.Answers != messages || len(r.Backends) != 1 {
			t.Errorf("got %+v; want %d answers of one backend, by %s", r, messages, transport)
			continue
		}
		used[r.Backends[0]]++
	}
	if len(used) < 2 {
		t.Errorf("all sessions are on %v: the test proves nothing", used)
	}
	t.Logf("sessions by backend: %v", used)
}

// The front end of a chat that was written when some browsers had no WebSocket, or had it by
// another name. It builds its URL from a host with a slash and a path with another.
func TestFrontEndWithTwoSlashesWorksByKey(t *testing.T) {
	e2etest.Need(t, "node", "chromium")
	s := startService(t, map[string][]wsproxy.Option{
		"//old": {wsproxy.WithAffinity(wsproxy.Affinity{Key: wsproxy.BySockJSSession("//old/chat")})},
	})
	browser := e2etest.StartBrowser(t)
	tests := []struct{ init, transport string }{
		{"", "raw WebSocket"},
		{"window.MozWebSocket = class MozWebSocket extends WebSocket {}; delete window.WebSocket", "raw MozWebSocket"},
		{"delete window.WebSocket", "xhr-streaming"},
	}
	for _, tt := range tests {
		page, err := browser.Open("http://127.0.0.1:"+s.port+"//old/page", e2etest.PageOptions{Init: tt.init})
		if err != nil {
			t.Fatal(err)
		}
		var r result
		if err := page.Call(&r, "runChat", "//old/chat", messages); err != nil {
			t.Error(err)
		}
		if r.Error != "" || r.Transport != tt.transport || r.Answers != messages || len(r.Backends) != 1 {
			t.Errorf("%s: got %+v; want %d answers by %s", tt.init, r, messages, tt.transport)
		}
	}
}

// A result is what came of a session: see runSession in page.js.
type result struct {
	Transport string
	Backends  []string // that have answered
	Answers   int      // in order
	Error     string
}

// A service has three backends, and proxies by the prefixes of their paths.
type service struct{ port string }

func startService(t *testing.T, prefixes map[string][]wsproxy.Option) *service {
	t.Helper()
	args := make([]string, 0, len(prefixes))
	for prefix := range prefixes {
		args = append(args, prefix)
	}
	var backends []string
	for _, name := range []string{"A", "B", "C"} {
		backends = append(backends, e2etest.StartNode(t, "backend.js", append([]string{name}, args...)...).Line(t))
	}
	proxies := make(map[string]*wsproxy.Proxy)
	for prefix, options := range prefixes {
		proxy, err := wsproxy.New(append(options, wsproxy.WithBackends(backends...), wsproxy.WithHTTP(true))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { proxy.Close() })
		proxies[prefix] = proxy
	}
	// Not http.ServeMux, which redirects a path with two slashes.
	server := httptest.NewServer(wsproxy.Front(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for prefix, proxy := range proxies {
			if strings.HasPrefix(r.URL.Path, prefix+"/") {
				proxy.ServeHTTP(w, r)
				return
			}
		}
		http.NotFound(w, r)
	})))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	_, port, _ := strings.Cut(server.URL, "//127.0.0.1:")
	return &service{port: port}
}

// forEach calls f for each page at once.
func forEach(t *testing.T, pages []*e2etest.Page, f func(i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range pages {
		wg.Go(func() {
			if err := f(i); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}
