package sockjs_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/e2e/internal/e2etest"
)

const greetPage = `<!doctype html><link rel="icon" href="data:,"><script>
	function greet() {
		return new Promise((done, failed) => {
			const socket = new WebSocket("ws://" + location.host + "/chat/websocket");
			socket.onopen = () => { socket.send("hello"); };
			socket.onmessage = (e) => { done(JSON.parse(e.data).backend); socket.close(); };
			socket.onclose = (e) => { failed("closed: " + e.code); };
		});
	}
	async function sentCookies() { return (await fetch("/cookies")).text(); }
</script>`

// The first response that the browser gets of the proxy is a 101.
func TestCookieOf101IsSentWithTheNextRequest(t *testing.T) {
	e2etest.Need(t, "node", "chromium")
	var backends []string
	for _, name := range []string{"A", "B", "C"} {
		backends = append(backends, e2etest.StartNode(t, "backend.js", name, "").Line(t))
	}
	proxy, err := wsproxy.New(
		wsproxy.WithBackends(backends...),
		wsproxy.WithBalancer(wsproxy.RoundRobin()),
		wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{[]byte("0123456789abcdef")}}),
	)
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	mux := http.NewServeMux()
	mux.Handle("/chat/websocket", proxy)
	mux.HandleFunc("/page", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, greetPage) })
	mux.HandleFunc("/cookies", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("Cookie")) })
	server := httptest.NewServer(wsproxy.Front(mux))
	defer server.Close()

	browser := e2etest.StartBrowser(t)
	page, err := browser.Open(server.URL+"/page", e2etest.PageOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cookies := func() (cookies string) {
		t.Helper()
		if err := page.Call(&cookies, "sentCookies"); err != nil {
			t.Error(err)
		}
		return cookies
	}
	greet := func() (backend string) {
		t.Helper()
		if err := page.Call(&backend, "greet"); err != nil {
			t.Error(err)
		}
		return backend
	}

	if got := cookies(); got != "" {
		t.Errorf("before the upgrade the browser sends the cookies %q; want none", got)
	}
	first := greet()
	if got := cookies(); !strings.HasPrefix(got, "wsproxy=") {
		t.Errorf("after the upgrade the browser sends the cookies %q; want wsproxy", got)
	}
	for range 5 {
		if got := greet(); got != first {
			t.Errorf("a tunnel is on backend %s; want %s, as the first one", got, first)
		}
	}
	stored, err := browser.Cookies("")
	if err != nil || len(stored) != 1 || !stored[0].HTTPOnly || stored[0].Secure || stored[0].SameSite != "Lax" || stored[0].Path != "/" {
		t.Errorf("the browser has the cookies %+v, %v; want one that is HttpOnly, SameSite=Lax, for / and not Secure", stored, err)
	}
}
