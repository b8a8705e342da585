package wsproxyadmin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// user is a value of the Admit hook.
type user string

func (u user) String() string { return "user " + string(u) }

// admitUser lets in all clients, as the user in the query.
func admitUser(r *http.Request) (any, error) { return user(r.URL.Query().Get("user")), nil }

// openFrom opens a tunnel of a client at an address, with a target and a request ID.
func (s *site) openFrom(addr, target, requestID string) {
	s.t.Helper()
	r := httptest.NewRequest("GET", target, nil)
	r.RemoteAddr = "198.51.100.1:99"
	r.Header.Set("X-Forwarded-For", addr)
	r.Header.Set("X-Request-Id", requestID)
	if c := s.scene.Connect(r); c.Status != http.StatusSwitchingProtocols {
		s.t.Fatalf("client got status %d; want 101", c.Status)
	}
}

// ids returns the IDs of the tunnels that /tunnels lists for a query.
func (s *site) ids(query string) string {
	s.t.Helper()
	w := s.get("/tunnels?" + query)
	var list struct {
		Matched int
		Tunnels []struct{ ID uint64 }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || w.Code != http.StatusOK {
		s.t.Fatalf("/tunnels?%s is answered with %d, %q", query, w.Code, w.Body)
	}
	if list.Matched < len(list.Tunnels) {
		s.t.Errorf("/tunnels?%s has %d tunnels, and %d matched", query, len(list.Tunnels), list.Matched)
	}
	ids := []string{}
	for _, t := range list.Tunnels {
		ids = append(ids, fmt.Sprint(t.ID))
	}
	return strings.Join(ids, " ")
}

func TestTunnelsAreFiltered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a b", wsproxy.WithAdmit(admitUser), wsproxy.WithTrustedProxies("198.51.100.1"))
		redacted := &site{t: t, scene: s.scene, h: Handler(s.scene.Proxy, Options{Authorize: letIn, Redact: true})}
		s.openFrom("192.0.2.7", "/room?user=Ann", "req-1")
		s.openFrom("192.0.2.77", "/room?user=bob", "req-2")
		s.openFrom("2001:db8:1:2::3", "/room?user=anna", "other")
		s.openFrom("192.0.3.7", "/room?user=%3Cb%3E", "req-22")
		backendOf := make(map[string][]string)
		for tun := range s.scene.Proxy.Tunnels() {
			backendOf[tun.Backend().ID()] = append(backendOf[tun.Backend().ID()], "x")
		}
		if len(backendOf["a"]) != 2 {
			t.Fatalf("tunnels by backend: %v; want 2 on a", backendOf)
		}
		for _, tt := range []struct{ query, want, wantRedacted string }{
			{"", "1 2 3 4", "1 2 3 4"},
			{"limit=2", "1 2", "1 2"},
			{"order=oldest&limit=1", "1", "1"},
			{"backend=none", "", ""},
			{"request_id=req-2", "2 4", "2 4"},
			{"request_id=req-22", "4", "4"},
			{"request_id=eq-2", "", ""},
			{"client=192.0.2.", "1 2", "1 2"},
			{"client=192.0.2.7", "1 2", "1 2"}, // an address is also the beginning of others
			{"client=192.0.2.77", "2", "1 2"},  // no more than is shown
			{"client=192.0.2.0/24", "1 2", "1 2"},
			{"client=192.0.2.76/31", "2", "1 2"},
			{"client=2001:db8::/32", "3", "3"},
			{"client=2001:db8:1:2::3", "3", "3"},
			{"client=2001:DB8:1:2:0::3", "3", "3"},
			{"client=x", "", ""},
			{"value=ann", "1 3", "400"},
			{"value=USER+ann", "1 3", "400"},
			{"value=%3Cb", "4", "400"},
			{"value=ann&request_id=req", "1", "400"},
		} {
			if got := s.ids(tt.query); got != tt.want {
				t.Errorf("/tunnels?%s has %q; want %q", tt.query, got, tt.want)
			}
			if tt.wantRedacted == "400" {
				if w := redacted.get("/tunnels?" + tt.query); w.Code != http.StatusBadRequest {
					t.Errorf("redacted: /tunnels?%s is answered with %d; want 400", tt.query, w.Code)
				}
			} else if got := redacted.ids(tt.query); got != tt.wantRedacted {
				t.Errorf("redacted: /tunnels?%s has %q; want %q", tt.query, got, tt.wantRedacted)
			}
		}
		if a, b := s.ids("backend=a"), s.ids("backend=b"); len(a) != 3 || len(b) != 3 || a == b {
			t.Errorf("a has the tunnels %q, and b %q; want two each", a, b)
		}
		for _, query := range []string{"order=newest", "limit=0", "limit=501", "limit=x", "client=192.0.2.0/33", "client=x/24"} {
			if w := s.get("/tunnels?" + query); w.Code != http.StatusBadRequest {
				t.Errorf("/tunnels?%s is answered with %d; want 400", query, w.Code)
			}
		}
	})
}

func TestTunnelsAreDescribed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a", wsproxy.WithAdmit(admitUser), wsproxy.WithTrustedProxies("198.51.100.1"))
		s.openFrom("192.0.2.7", "/%3Cscript%3E/"+strings.Repeat("x", 500)+"?user=%22%3E%3Cb%3E", "req-1")
		w := s.get("/tunnels")
		if text := w.Body.String(); strings.ContainsAny(text, "<>") || strings.Contains(text, "?") {
			t.Errorf("/tunnels has a tag or a query in it: %s", text)
		}
		o := parseBody(t, w.Body.Bytes())
		o.want("open", 1, "matched", 1, "tunnels.0.id", 1, "tunnels.0.request_id", "req-1", "tunnels.0.backend", "a",
			"tunnels.0.client", "192.0.2.7", "tunnels.0.value", `user "><b>`, "tunnels.0.path", "/<script>/"+strings.Repeat("x", maxPath-10)+"…",
			"tunnels.0.engine", "portable", "tunnels.0.http2", false, "tunnels.0.to_backend.bytes", 0, "tunnels.0.subprotocol", "")
		opened, err := time.Parse(time.RFC3339Nano, o.at("tunnels.0.opened").(string))
		if err != nil || !opened.Equal(time.Now()) {
			t.Errorf("opened is %v, %v; want now", opened, err)
		}
	})
}

func TestTunnelsAreOrdered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a")
		var clients []*wstest.Peer
		for range 3 {
			conn, err := s.scene.DialContext(t.Context(), "tcp", "proxy.example:80")
			if err != nil {
				t.Fatal(err)
			}
			clients = append(clients, wstest.NewClient(t, conn))
			clients[len(clients)-1].Handshake("/room", nil)
		}
		// echo lets a client send n messages in a second.
		echo := func(client, n int) {
			for range n {
				clients[client].Send(wstest.Text("hello"))
				clients[client].Want(wstest.Text("hello"))
			}
			time.Sleep(time.Second)
		}
		echo(2, 5)
		echo(0, 50)
		if got := s.ids("order=quietest"); got != "2 3 1" {
			t.Errorf("the quietest are %s; want 2 3 1", got)
		}
		if got := s.ids("order=busiest"); got != "1 3 2" {
			t.Errorf("since they opened, the busiest are %s; want 1 3 2", got)
		}
		time.Sleep(2 * time.Second)
		s.ids("")
		echo(1, 20)
		echo(2, 10)
		if got := s.ids("order=busiest"); got != "2 3 1" {
			t.Errorf("in the last 2 s, the busiest are %s; want 2 3 1", got)
		}
		// Both directions: 11 bytes with a mask, and 7 without.
		parseBody(t, s.get("/tunnels?order=busiest").Body.Bytes()).want("tunnels.0.bytes_per_second", 20*18/2, "tunnels.2.bytes_per_second", 0)
		time.Sleep(time.Minute)
		if got := s.ids("order=busiest"); got != "1 2 3" {
			t.Errorf("after a minute the busiest are %s; want those since they opened, 1 2 3", got)
		}
	})
}

// A rate that is not finite would be no JSON.
func TestRateOfASlowRequestIsFinite(t *testing.T) {
	s := newSite(t, Options{}, "a")
	s.open(1)
	tunnels := slices.Collect(s.scene.Proxy.Tunnels())
	now := time.Now()
	var r tunnelRates
	r.update(tunnels, now)
	r.update(tunnels, now.Add(time.Minute))
	for _, late := range []time.Duration{0, -time.Second} {
		if got := r.update(tunnels, now.Add(late))(tunnels[0]); got != 0 {
			t.Errorf("%v after the base the rate is %v; want 0", late, got)
		}
	}
}

func FuzzParseQuery(f *testing.F) {
	for _, query := range []string{"", "order=busiest&limit=5", "client=192.0.2.0/24", "client=::/0", "client=fe80::1%25eth0", "value=x", "limit=-1"} {
		f.Add(query, true)
	}
	f.Fuzz(func(t *testing.T, query string, redact bool) {
		v, _ := url.ParseQuery(query)
		q, err := parseQuery(v, redact)
		if err == nil && (q.limit < 1 || q.limit > maxLimit || redact && (q.value != "" || q.prefix.IsValid() && q.prefix.Bits() > 48)) {
			t.Errorf("parseQuery(%q, %v) = %+v", query, redact, q)
		}
	})
}
