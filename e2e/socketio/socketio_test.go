// Package socketio_test runs socket.io-client in Chromium and Node.js, with a proxy and Socket.IO
// servers of Node.js.
package socketio_test

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/e2e/internal/e2etest"
)

const drainTimeout = 20 * time.Second

// reliable are options with which messages that are not acknowledged are sent again.
var reliable = options{"retries": 30, "ackTimeout": 1000, "reconnectionDelay": 100, "reconnectionDelayMax": 300}

func (o options) with(key string, value any) options {
	all := options{key: value}
	for k, v := range o {
		if k != key {
			all[k] = v
		}
	}
	return all
}

// Polling first, then the upgrade of the same session.
func TestBrowserStaysOnItsBackend(t *testing.T) {
	e2etest.Need(t, "node", "chromium")
	url := serve(t, newProxy(t, startBackends(t), byCookie()))
	browser := e2etest.StartBrowser(t)
	used := make(map[string]int)
	for _, profile := range []string{"a", "b", "c", "d", "e", "f"} {
		page := openPage(t, browser, url, profile)
		first := connect(t, page, url, nil)
		last := mustCall[state](t, page, "upgraded")
		if want := []string{"upgrade: websocket"}; last.ID != first.ID || !slices.Equal(last.History, want) {
			t.Errorf("session %s has become %+v; want the same one, and the history %q", first.ID, last, want)
		}
		name := wantOneBackend(t, page)
		used[name]++

		page = openPage(t, browser, url, profile) // another session, with the same cookie
		connect(t, page, url, polling)
		if got := wantOneBackend(t, page); got != name {
			t.Errorf("a second session of the profile is on backend %s; want %s", got, name)
		}
	}
	if len(used) < 2 {
		t.Errorf("all sessions are on %v: the test proves nothing", used)
	}
}

// A client without cookies, and what helps it.
func TestClientWithoutCookiesNeedsKeyOrWebSocketOnly(t *testing.T) {
	e2etest.Need(t, "node")
	backends := startBackends(t)
	none := serve(t, newProxy(t, backends, wsproxy.WithBalancer(wsproxy.RoundRobin())))
	cookie := serve(t, newProxy(t, backends, wsproxy.WithBalancer(wsproxy.RoundRobin()), byCookie()))
	key := serve(t, newProxy(t, backends, wsproxy.WithAffinity(wsproxy.Affinity{Key: wsproxy.ByQuery("k")})))

	const unknown = `400: {"code":1,"message":"Session ID unknown"}`
	websocket := options{"transports": []string{"websocket"}}
	tests := []struct {
		name    string
		url     string
		options options
		err     string // none if it works
	}{
		{"no affinity", none, nil, unknown},
		{"no affinity, polling only", none, polling, unknown},
		{"no affinity, cookies stored", none, options{"withCredentials": true}, unknown},
		{"no affinity, WebSocket only", none, websocket, ""},
		{"by cookie", cookie, nil, unknown},
		{"by cookie, WebSocket only", cookie, websocket, ""},
		{"by cookie, cookies stored", cookie, options{"withCredentials": true}, ""},
		{"by key", key, options{"query": options{"k": "5f0c2b1e"}}, ""},
		{"by key, polling only", key, polling.with("query", options{"k": "c7d1a9f3"}), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			client := e2etest.StartRemote(t, "client.js")
			err := client.Call(nil, "connect", tt.url, tt.options.with("reconnection", false))
			switch {
			case tt.err == "" && err == nil:
				wantOneBackend(t, client)
			case tt.err == "":
				t.Errorf("it fails with %v", err)
			case err == nil || !strings.Contains(err.Error(), tt.err):
				t.Errorf("it fails with %v; want %s", err, tt.err)
			}
		})
	}
}

// Each request of a session reaches another replica of the proxy than the one before.
func TestReplicasAgree(t *testing.T) {
	e2etest.Need(t, "node", "chromium")
	backends := startBackends(t)
	reversed := slices.Clone(backends)
	slices.Reverse(reversed)
	var requests [2]atomic.Int64
	replicas := []*wsproxy.Proxy{newProxy(t, backends, byCookie()), newProxy(t, reversed, byCookie())}
	var n atomic.Int64
	url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i := n.Add(1) % 2
		requests[i].Add(1)
		replicas[i].ServeHTTP(w, r)
	}))
	browser := e2etest.StartBrowser(t)
	for _, o := range []options{nil, polling} {
		page := openPage(t, browser, url, "")
		first := connect(t, page, url, o)
		if o == nil {
			do(t, page, "upgraded")
		}
		wantOneBackend(t, page)
		if last := mustCall[state](t, page, "state"); last.ID != first.ID || len(disconnections(last.History)) > 0 {
			t.Errorf("session %s has become %+v; want the same one", first.ID, last)
		}
	}
	for i := range requests {
		if got := requests[i].Load(); got < 10 {
			t.Errorf("replica %d has had %d requests: the test proves nothing", i, got)
		}
	}
}

func TestClientReconnectsAfterDrain(t *testing.T) {
	e2etest.Need(t, "node", "chromium")
	proxy := newProxy(t, startBackends(t), byCookie())
	url := serve(t, proxy)
	page := openPage(t, e2etest.StartBrowser(t), url, "")
	connect(t, page, url, reliable)
	do(t, page, "upgraded")
	first := wantOneBackend(t, page)
	do(t, page, "converse")
	mustDrain(t, proxy, first)
	do(t, page, "endConversation")
	last := mustCall[state](t, page, "upgraded")
	if n := len(disconnections(last.History)); n != 1 {
		t.Errorf("the session has the history %q; want one disconnection", last.History)
	}
	if got := wantOneBackend(t, page); got == first {
		t.Errorf("after Drain the session is on backend %s again", got)
	}
}

// startConversations starts sessions in pages of different profiles, by polling and by WebSocket.
func startConversations(t *testing.T, url string) []*e2etest.Page {
	t.Helper()
	browser := e2etest.StartBrowser(t)
	pages := make([]*e2etest.Page, 6)
	for i := range pages {
		page := openPage(t, browser, url, strconv.Itoa(i))
		if i%2 == 0 {
			connect(t, page, url, reliable.with("transports", []string{"polling"}))
		} else {
			connect(t, page, url, reliable)
			do(t, page, "upgraded")
		}
		do(t, page, "converse")
		pages[i] = page
	}
	return pages
}

// A conversation is one that went on in the meantime.
type conversation struct {
	state
	Acknowledged int
	Backends     []string // one after the other
}

// Sessions stay where they are when a backend is added, and new ones reach it.
func TestScaleOutMovesNoSession(t *testing.T) {
	e2etest.Need(t, "node", "chromium")
	backends := startBackends(t)
	proxy := newProxy(t, backends, byCookie())
	url := serve(t, proxy)
	pages := startConversations(t, url)
	if err := proxy.SetBackends(configs(append(backends, startBackend(t, "D")))...); err != nil {
		t.Fatal(err)
	}
	// Sessions by polling have no tunnel, so that another backend may have as few as D.
	var used []string
	for len(used) < 8 && !slices.Contains(used, "D") {
		client := e2etest.StartRemote(t, "client.js")
		connect(t, client, url, options{"withCredentials": true})
		do(t, client, "upgraded")
		used = append(used, wantOneBackend(t, client))
	}
	if !slices.Contains(used, "D") {
		t.Errorf("new sessions are on the backends %q; want one on D", used)
	}
	for _, page := range pages {
		c := mustCall[conversation](t, page, "endConversation")
		if len(c.Backends) != 1 || len(disconnections(c.History)) > 0 || c.Acknowledged < 4 {
			t.Errorf("a session has become %+v; want one backend and no disconnection", c)
		}
	}
}

// Each backend is drained, ends, and comes back with no sessions.
func TestRollingRestartMovesSessions(t *testing.T) {
	e2etest.Need(t, "node", "chromium")
	backends := startBackends(t)
	proxy := newProxy(t, backends, byCookie())
	url := serve(t, proxy)
	pages := startConversations(t, url)
	for _, b := range backends {
		mustDrain(t, proxy, b.name)
		b.restart(t)
		if err := proxy.Resume(b.name); err != nil {
			t.Fatal(err)
		}
	}
	for i, page := range pages {
		c := mustCall[conversation](t, page, "endConversation")
		t.Logf("session %d: messages acknowledged by %v, %d disconnections", i, c.Backends, len(disconnections(c.History)))
		if len(c.Backends) < 2 {
			t.Errorf("session %d has become %+v; want it to have moved", i, c)
		}
		wantOneBackend(t, page)
	}
}

func TestCookieIsSecureBehindNginxWithTLS(t *testing.T) {
	e2etest.Need(t, "node", "chromium", "nginx")
	proxy := newProxy(t, startBackends(t), byCookie(), wsproxy.WithTrustedProxies("127.0.0.1"))
	url := startNginx(t, serve(t, proxy))
	browser := e2etest.StartBrowser(t)
	page := openPage(t, browser, url, "")
	connect(t, page, url, nil)
	do(t, page, "upgraded")
	wantOneBackend(t, page)
	cookies, err := browser.Cookies("")
	if err != nil || len(cookies) != 1 || !cookies[0].Secure || !cookies[0].HTTPOnly || cookies[0].SameSite != "Lax" {
		t.Errorf("the browser has the cookies %+v, %v; want one that is Secure, HttpOnly and SameSite=Lax", cookies, err)
	}
}

// The page is of another site than the sockets.
func TestCrossOriginPageNeedsCookieWithSameSiteNone(t *testing.T) {
	e2etest.Need(t, "node", "chromium")
	backends := startBackends(t)
	template := &http.Cookie{SameSite: http.SameSiteNoneMode, Secure: true, Partitioned: true}
	none := serveTLS(t, newProxy(t, backends, wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{affinityKey}, Cookie: template})))
	lax := serveTLS(t, newProxy(t, backends, byCookie(), wsproxy.WithBalancer(wsproxy.RoundRobin())))
	site := strings.Replace(serveTLS(t, http.NotFoundHandler()), "127.0.0.1", "app.localhost", 1)
	browser := e2etest.StartBrowser(t)
	credentials := options{"withCredentials": true, "reconnection": false}

	page := openPage(t, browser, site, "none")
	connect(t, page, none, credentials)
	do(t, page, "upgraded")
	wantOneBackend(t, page)
	cookies, err := browser.Cookies("none")
	if err != nil || len(cookies) != 1 || !cookies[0].Secure || cookies[0].SameSite != "None" {
		t.Errorf("the browser has the cookies %+v, %v; want one that is Secure and SameSite=None", cookies, err)
	}

	// The browser does not send a cookie with SameSite=Lax.
	page = openPage(t, browser, site, "lax")
	const want = `{"code":1,"message":"Session ID unknown"}`
	if err := page.Call(nil, "connect", lax, credentials); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("with the default cookie it fails with %v; want %s", err, want)
	}
}
