package wsproxyadmin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
	"github.com/wsproxy/wsproxy/wsproxytest"
)

func TestOverviewHasWhatHappened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{Instance: "edge-1"}, "a b", wsproxy.WithLimits(wsproxy.Limits{Tunnels: 100, Queue: 10}))
		s.overview().want("instance", "edge-1", "totals.tunnels", 0, "totals.tunnels_limit", 100, "totals.waiting_limit", 10,
			"opens.total", 0, "upgrade.p99_ms", nil, "complete", true, "read_only", false, "redacted", false,
			"totals.to_client.bytes_per_second", nil)
		clients := s.open(6)
		clients[0].Close()
		clients[1].Close()
		s.scene.SetBehavior("b", wsproxytest.Down())
		synctest.Wait()
		time.Sleep(time.Second)
		o := s.overview()
		o.want("totals.tunnels", 2, "opens.total", 6, "opens.per_second", 6, "opens.last_minute", 6,
			"ends.total", 4, "ends.per_second", 4, "upgrade.count", 6,
			"backends.0.id", "a", "backends.0.tunnels", 2, "backends.0.share", 1, "backends.0.load", 2, "backends.0.opened", 3,
			"backends.0.ended", 1, "backends.0.accepted", 3, "backends.1.tunnels", 0, "backends.1.ended", 3)
		byCause := map[string]any{}
		for i := range o.at("ends.by_cause").([]any) {
			e := body{t, o.at("ends.by_cause").([]any)[i]}
			byCause[e.at("side").(string)+" "+e.at("cause").(string)] = e.at("total")
		}
		if len(byCause) != 2 || byCause["client closed"] != 2.0 || byCause["backend lost"] != 2.0 {
			t.Errorf("ends by cause: %v; want 2 that clients closed, and 2 that the backend lost", byCause)
		}
		time.Sleep(70 * time.Second)
		s.overview().want("opens.total", 6, "opens.per_second", 0, "opens.last_minute", 0, "ends.last_minute", 0, "upgrade.count", 0)
	})
}

func TestOverviewHasHistoryOfBeforeTheFirstViewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a")
		clients := s.open(2)
		time.Sleep(time.Second)
		clients[0].Close()
		synctest.Wait()
		time.Sleep(time.Second)
		s.connect("/room")
		time.Sleep(time.Second)
		o := s.overview()
		for name, want := range map[string][]any{
			"history.tunnels": {2.0, 1.0, 2.0}, "history.opened": {2.0, 0.0, 1.0}, "history.ended": {0.0, 1.0, 0.0}, "history.refused": {0.0, 0.0, 0.0},
		} {
			got := o.at(name).([]any)
			if len(got) != 3 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
				t.Errorf("%s is %v; want %v", name, got, want)
			}
		}
		o.want("history.to", int(time.Now().Unix()-1))
	})
}

func TestOverviewHasTheTimesOfUpgrades(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a", wsproxy.WithAdmit(func(r *http.Request) (any, error) {
			if r.URL.Path == "/slow" {
				time.Sleep(2 * time.Second)
			}
			time.Sleep(40 * time.Millisecond)
			return nil, nil
		}))
		s.open(90)
		for range 10 {
			s.connect("/slow")
		}
		time.Sleep(time.Second)
		o := s.overview()
		o.want("upgrade.count", 100, "upgrade.phases.0.phase", "admit", "upgrade.phases.0.count", 100, "upgrade.phases.1.phase", "queue", "upgrade.phases.1.count", 0,
			"upgrade.phases.2.phase", "dial", "upgrade.phases.3.phase", "answer")
		for path, want := range map[string][2]float64{
			"upgrade.p50_ms": {30, 50}, "upgrade.p99_ms": {2000, 3000}, "upgrade.phases.0.p50_ms": {30, 50}, "upgrade.phases.3.p99_ms": {0, 1},
		} {
			if got := o.at(path).(float64); got < want[0] || got > want[1] {
				t.Errorf("%s is %v; want %v to %v, the bounds of its bucket", path, got, want[0], want[1])
			}
		}
	})
}

func TestOverviewHasTrafficASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a")
		conn, err := s.scene.DialContext(t.Context(), "tcp", "proxy.example:80")
		if err != nil {
			t.Fatal(err)
		}
		client := wstest.NewClient(t, conn)
		client.Handshake("/room", nil)
		synctest.Wait() // until the tunnel counts
		s.overview()
		for range 10 {
			client.Send(wstest.Text("hello"))
			client.Want(wstest.Text("hello"))
		}
		time.Sleep(2 * time.Second)
		// A frame of the client has a mask: 2 + 4 + 5 bytes.
		s.overview().want("totals.to_backend.bytes", 110, "totals.to_backend.bytes_per_second", 55, "totals.to_backend.messages_per_second", 5,
			"totals.to_client.bytes", 70, "totals.to_client.messages", 10, "backends.0.opened_per_second", 0)
	})
}

func TestOverviewHasFlagsWithTheirReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a b")
		s.scene.SetBehavior("a", wsproxytest.Down())
		s.open(3)
		o := s.overview()
		o.want("backends.0.state", "failing", "backends.0.flags.0.flag", "unreachable", "backends.1.flags", []any{}, "backends.1.reason", "")
		reason := o.at("backends.0.reason").(string)
		if !strings.Contains(reason, "connection refused") || reason != o.at("backends.0.flags.0.reason") {
			t.Errorf("the reason is %q; want that of the dial", reason)
		}
		since, err := time.Parse(time.RFC3339Nano, o.at("backends.0.flags.0.since").(string))
		if err != nil || !since.Equal(time.Now()) {
			t.Errorf("since is %v, %v; want now", since, err)
		}
		until, err := time.Parse(time.RFC3339Nano, o.at("backends.0.flags.0.until").(string))
		if err != nil || !until.After(time.Now()) {
			t.Errorf("until is %v, %v; want later than now", until, err)
		}
		s.scene.SetBehavior("a", wsproxytest.Echo())
		time.Sleep(2 * time.Second)
		s.open(3)
		s.scene.Proxy.Stats()
		if got, want := summary(s.events().Changes), "flag raised a unreachable failing; flag cleared a unreachable up"; got != want {
			t.Errorf("changes: %s; want %s", got, want)
		}
	})
}

func TestOverviewHasRefusalsByReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a", wsproxy.WithAdmit(func(r *http.Request) (any, error) {
			if r.URL.Query().Get("token") == "" {
				return nil, &wsproxy.StatusError{Status: 401, Err: errors.New("no token of bob")}
			}
			return "ann", nil
		}), wsproxy.WithOriginPatterns("https://chat.example"))
		for range 5 {
			s.connect("/room?secret=1")
		}
		r := httptest.NewRequest("GET", "/chat?token=x", nil)
		r.Header.Set("Origin", "https://evil.example")
		s.scene.Connect(r)
		s.scene.SetBehavior("a", wsproxytest.Refuse(404, nil))
		s.connect("/room?token=x")
		time.Sleep(time.Second)
		o := s.overview()
		o.want("refusals.total", 7, "refusals.per_second", 7, "refusals.last_minute", 7)
		events := s.events().Refusals
		if got, want := summary(events), "refused admit; refused origin; refused a answer; refused admit ×4"; got != want {
			t.Errorf("refusals: %s; want %s", got, want)
		}
		e := events[0]
		if e.Status != 401 || e.Path != "/room" || e.RequestID == "" || e.Client == "" || !strings.Contains(e.Error, "no token of bob") {
			t.Errorf("the first refusal is %+v; want its status, path, request ID, client and error", e)
		}
		if text := s.get("/overview").Body.String(); strings.Contains(text, "secret") {
			t.Errorf("/overview has a query in it: %s", text)
		}
	})
}

func TestOverviewHasWhatTheProxyCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a b",
			proxytest.FirstCandidate, wsproxy.WithEjection(wsproxy.Ejection{Failures: 1}),
			wsproxy.WithOriginPatterns("https://chat.example"),
			wsproxy.WithHealthCheck(wsproxy.HealthCheck{Interval: time.Hour, Probe: func(_ context.Context, b *wsproxy.Backend) error {
				if b.ID() == "b" {
					return errors.New("not ready")
				}
				return nil
			}}),
			wsproxy.WithTrace(&wsproxy.Trace{Closed: func(wsproxy.TunnelEnd) { panic("broken") }}))
		began := time.Now()
		time.Sleep(2 * time.Hour) // until all are probed
		s.scene.SetBehavior("a", wsproxytest.Refuse(502, nil))
		s.open(1) // on b, though its check has failed
		s.scene.SetBehavior("b", wsproxytest.Down())
		r := httptest.NewRequest("GET", "/room", nil)
		r.Header.Set("Origin", "https://evil.example")
		s.scene.Connect(r)
		w := httptest.NewRecorder()
		s.scene.Proxy.ServeHTTP(w, httptest.NewRequest("GET", "/", nil)) // no upgrade
		synctest.Wait()
		time.Sleep(time.Second)
		o := s.overview()
		o.want("refusals.total", 2, "refusals.by_reason.0.reason", "check", "refusals.by_reason.0.total", 1, "refusals.by_reason.0.last_minute", 1,
			"refusals.by_reason.1.reason", "origin", "refusals.by_reason.1.per_second", 1,
			"totals.retries", 1, "totals.hook_panics.0.hook", "Trace.Closed", "totals.hook_panics.0.count", 1,
			"backends.0.last_probe", "passed", "backends.0.failed", 1, "backends.0.ejections", 1, "backends.0.state", "failing", "backends.0.flags.0.flag", "ejected",
			"backends.1.last_probe", "failed", "backends.1.state", "failing", "backends.1.flags.0.flag", "check failed", "backends.1.flags.0.until", nil,
			"ends.by_cause.0.side", "backend", "ends.by_cause.0.cause", "lost", "ends.by_cause.0.per_second", 1)
		for i, want := range []time.Duration{2 * time.Hour, time.Hour} { // b has failed at the first probe
			since, err := time.Parse(time.RFC3339Nano, o.at(fmt.Sprintf("backends.%d.since", i)).(string))
			if after := since.Sub(began); err != nil || after > want || after < want-time.Hour {
				t.Errorf("backend %d has its state since %v after the start, %v; want %v", i, after, err, want)
			}
		}
	})
}

func TestEventsHaveTunnelsThatOpenedAndClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a")
		c := s.connect("/room?secret=1")
		time.Sleep(90 * time.Second)
		c.Close()
		synctest.Wait()
		events := s.events().Tunnels
		if got, want := summary(events), "opened a; closed a closed"; got != want {
			t.Fatalf("tunnels: %s; want %s", got, want)
		}
		opened, closed := events[0], events[1]
		if opened.Tunnel != 1 || opened.Path != "/room" || opened.RequestID == "" || opened.RequestID != closed.RequestID || opened.Client != closed.Client {
			t.Errorf("events: %+v; want both to describe tunnel 1", events)
		}
		if closed.Side != "client" || closed.Code != 1000 || closed.Cut || closed.DurationSeconds == nil || *closed.DurationSeconds != 90 {
			t.Errorf("event: %+v; want the end by the client with 1000 after 90 s", closed)
		}
	})
}

func TestFloodOfRefusalsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const perSecond, seconds = 1000, 10 // and events_test.go has ten times as many
		s := newSite(t, Options{}, "a")
		for range seconds {
			for range perSecond {
				w := httptest.NewRecorder()
				s.scene.Proxy.ServeHTTP(w, httptest.NewRequest("GET", "/"+strings.Repeat("x", 1000), nil))
			}
			time.Sleep(time.Second)
		}
		s.overview().want("refusals.total", perSecond*seconds, "refusals.per_second", perSecond)
		events := s.events().Refusals
		for _, e := range events {
			if len(e.Path) > maxPath+len("…") {
				t.Errorf("an event has a path of %d bytes; want %d at most", len(e.Path), maxPath)
			}
		}
		if count := countOf(events); len(events) > seconds+1 || count != perSecond*seconds {
			t.Errorf("%d events stand for %d refusals; want about one a second for %d", len(events), count, perSecond*seconds)
		}
	})
}

func TestRedactHidesClientsAndValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := wsproxy.WithAdmit(func(r *http.Request) (any, error) {
			if strings.HasPrefix(r.URL.Path, "/no") {
				return nil, errors.New("ann is not allowed")
			}
			return "ann", nil
		})
		for _, redact := range []bool{false, true} {
			s := newSite(t, Options{Redact: redact}, "a", opts)
			r := httptest.NewRequest("GET", "/room", nil)
			r.RemoteAddr = "203.0.113.77:1234"
			c := s.scene.Connect(r)
			r = httptest.NewRequest("GET", "/no", nil)
			r.RemoteAddr = "[2001:db8:1:2::3]:1234"
			s.scene.Connect(r)
			tunnels := s.get("/tunnels").Body.String()
			c.Close()
			synctest.Wait()
			s.overview().want("redacted", redact)
			r = httptest.NewRequest("POST", "/resume", nil)
			r.RemoteAddr = "198.51.100.7:99"
			s.do(r)
			all := tunnels + s.get("/overview").Body.String()
			for _, text := range []string{"203.0.113.77", "2001:db8:1:2", "198.51.100.7", `"value":"ann"`, "ann is not"} {
				if isShown := strings.Contains(all, text); isShown == redact {
					t.Errorf("with Redact %v, %q is shown: %v", redact, text, isShown)
				}
			}
			if redact && (!strings.Contains(all, "203.0.113.0/24") || !strings.Contains(all, "2001:db8:1::/48")) {
				t.Errorf("with Redact the networks are not shown: %s", all)
			}
		}
	})
}

func TestRedactHidesErrorsOfHooks(t *testing.T) {
	balancer := func(err error) wsproxy.Option {
		return wsproxy.WithBalancer(wsproxy.BalancerFunc(func(*http.Request, []*wsproxy.Backend) (*wsproxy.Backend, error) {
			return nil, fmt.Errorf("for ann: %w", err)
		}))
	}
	for name, opt := range map[string]wsproxy.Option{
		"balancer, no backend": balancer(wsproxy.ErrNoBackend),
		"balancer, limit":      balancer(wsproxy.ErrLimit),
		"balancer, other":      balancer(errors.New("fault")),
		"admit, limit":         wsproxy.WithAdmit(func(*http.Request) (any, error) { return nil, fmt.Errorf("for ann: %w", wsproxy.ErrLimit) }),
		"response, next": wsproxy.WithResponse(func(*wsproxy.ProxyResponse) error {
			return fmt.Errorf("for ann: %w", wsproxy.ErrTryNext)
		}),
		"response, other": wsproxy.WithResponse(func(*wsproxy.ProxyResponse) error { return errors.New("for ann: fault") }),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for _, redact := range []bool{false, true} {
					s := newSite(t, Options{Redact: redact}, "a", opt)
					for range 10 { // flags are raised too
						s.connect("/room")
					}
					time.Sleep(2 * time.Second)
					text := s.get("/overview").Body.String()
					if isShown := strings.Contains(text, "for ann"); isShown == redact {
						t.Errorf("with Redact %v, the error is shown: %v in %s", redact, isShown, text)
					}
				}
			})
		})
	}
}

func TestRedactHidesClientsInErrors(t *testing.T) {
	s := newSite(t, Options{Redact: true}, "a")
	s.open(1)
	client := netip.MustParseAddr("203.0.113.77")
	reset := &net.OpError{Op: "read", Net: "tcp", Addr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(client, 51234)), Err: errors.New("connection reset by peer")}
	end := wsproxy.TunnelEnd{TunnelInfo: proxytest.OnlyTunnel(t, s.scene.Proxy).Info(), Side: wsproxy.SideClient, Cause: wsproxy.CauseLost, Err: reset}
	end.ClientAddr = client
	s.h.(*handler).recorder.recordClosed(end)
	var texts []string
	for _, e := range s.events().Tunnels {
		texts = append(texts, e.Error)
	}
	if want := "read tcp 203.0.113.0/24:51234: connection reset by peer"; !slices.Contains(texts, want) {
		t.Errorf("errors are %q; want %q", texts, want)
	}
}

// A message is made of parts, and not of the type.
func TestOverviewHasTheFieldsOfItsType(t *testing.T) {
	s := newSite(t, Options{}, "a")
	var got map[string]any
	if err := json.Unmarshal(s.get("/overview").Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := parseBody(t, encode(&overview{})).v.(map[string]any)
	if g, w := slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)); !slices.Equal(g, w) {
		t.Errorf("/overview has %q; want the fields of overview, %q", g, w)
	}
}
