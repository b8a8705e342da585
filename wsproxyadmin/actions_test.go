package wsproxyadmin

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
)

func TestDrainGoesOnWithoutItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a b")
		clients := s.open(4)
		s.overview().want("backends.0.tunnels", 2, "backends.0.drain", nil, "backends.0.share", 0.5)
		s.wantAction("/drain", `{"backend": "a", "over_seconds": 60}`, 202, "draining, 2 tunnels")
		synctest.Wait()
		o := s.overview()
		o.want("backends.0.state", "draining", "backends.0.drain.remaining", 2, "backends.0.drain.from", 2, "backends.1.state", "up")
		time.Sleep(70 * time.Second)
		s.overview().want("backends.0.tunnels", 0, "backends.0.drain.remaining", 0, "backends.0.drain.from", 2, "backends.1.tunnels", 2)
		for _, c := range clients {
			if c.Backend.ID() == "a" {
				if code := c.Wait(); code != 1012 {
					t.Errorf("a client of a got %d; want 1012", code)
				}
			}
		}
		const want = "action drain a ann draining, 2 tunnels; state a draining; drain ended a drained: no tunnel is left"
		if got := summary(s.events().Changes); got != want {
			t.Errorf("changes: %s; want %s", got, want)
		}
		s.wantAction("/resume", `{"backend": "a"}`, 200, "resumed")
		s.overview().want("backends.0.state", "up", "backends.0.drain", nil)
		s.wantAction("/resume", `{"backend": "a"}`, 200, "was not draining")
	})
}

func TestDrainHasOneEndHoweverOftenItsPaceChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a")
		for range 2 { // also a second time
			s.open(2)
			for range 50 {
				s.wantAction("/drain", `{"backend": "a", "over_seconds": 3600}`, 202, "draining, 2 tunnels")
				synctest.Wait()
			}
			s.post("/drain", `{"backend": "a", "over_seconds": -1}`)
			time.Sleep(10 * time.Second)
			s.post("/resume", `{"backend": "a"}`)
		}
		if n := strings.Count(summary(s.events().Changes), "drain ended a drained: no tunnel is left"); n != 2 {
			t.Errorf("there are %d events of an end; want 2", n)
		}
	})
}

func TestOverTimeIsZeroForZeroAlone(t *testing.T) {
	for seconds, want := range map[float64]time.Duration{
		0: 0, 1.5: 1500 * time.Millisecond, 1e-12: 1, -1e-12: -1, -0.5: -500 * time.Millisecond, -1e300: -time.Second,
		maxOver.Seconds(): maxOver,
	} {
		if got := overTime(seconds); got != want {
			t.Errorf("overTime(%v) = %v; want %v", seconds, got, want)
		}
	}
}

func TestResumeEndsADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a")
		s.open(3)
		s.wantAction("/drain", `{"backend": "a", "over_seconds": 3600}`, 202, "draining, 3 tunnels")
		synctest.Wait()
		s.wantAction("/resume", `{"backend": "a"}`, 200, "resumed")
		synctest.Wait()
		if got := summary(s.events().Changes); !strings.Contains(got, "drain ended a wsproxy: drain ended: the backend was resumed") {
			t.Errorf("changes: %s; want the end of the drain", got)
		}
		s.overview().want("totals.tunnels", 3)
	})
}

func TestDrainEndsWithTheProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a")
		s.open(1)
		s.wantAction("/drain", `{"backend": "a", "over_seconds": 3600}`, 202, "draining")
		synctest.Wait()
		s.scene.Proxy.Close()
		synctest.Wait()
		if got := summary(s.events().Changes); !strings.Contains(got, "drain ended a") {
			t.Errorf("changes: %s; want the end of the drain", got)
		}
	})
}

func TestDrainAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a")
		clients := s.open(3)
		began := time.Now()
		s.wantAction("/drain", `{"backend": "a", "over_seconds": -1}`, 202, "draining, 3 tunnels")
		for _, c := range clients {
			c.Wait()
		}
		if took := time.Since(began); took > 10*time.Millisecond {
			t.Errorf("it took %v; want no time", took)
		}
	})
}

func TestRemovedBackendIsShownWhileItHasTunnels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a b")
		clients := s.open(2)
		a := s.scene.Backend("a")
		if err := s.scene.Proxy.SetBackends(wsproxy.BackendConfig{ID: "b", URL: s.scene.Backend("b").URL()}); err != nil {
			t.Fatal(err)
		}
		s.overview().want("backends.0.id", "b", "backends.1.id", "a", "backends.1.state", "removed", "backends.1.tunnels", 1)
		s.wantAction("/drain", `{"backend": "a", "over_seconds": -1}`, 202, "draining, 1 tunnels")
		for _, c := range clients {
			if c.Backend == a {
				c.Wait()
			}
		}
		time.Sleep(2 * time.Second)
		if n := len(s.overview().at("backends").([]any)); n != 1 {
			t.Errorf("there are %d backends; want b alone", n)
		}
		const want = "state a removed; action drain a ann draining, 1 tunnels; drain ended a drained: no tunnel is left"
		if got := summary(s.events().Changes); got != want {
			t.Errorf("changes: %s; want %s", got, want)
		}
	})
}

func TestBackendsWhoseIDsAreNoTextAreToldApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a")
		url := s.scene.Backend("a").URL()
		if err := s.scene.Proxy.SetBackends(wsproxy.BackendConfig{ID: "\xff", URL: url}, wsproxy.BackendConfig{ID: "\xfe", URL: url}); err != nil {
			t.Fatal(err)
		}
		s.open(2)
		s.overview().want("backends.0.id", `"\xff"`, "backends.1.id", `"\xfe"`)
		if n := len(strings.Fields(s.ids(`backend=%22%5Cxfe%22`))); n != 1 {
			t.Errorf("the second backend has %d tunnels; want 1", n)
		}
		s.wantAction("/drain", `{"backend": "\"\\xfe\"", "over_seconds": -1}`, 202, "draining, 1 tunnels")
		time.Sleep(2 * time.Second)
		s.overview().want("backends.0.state", "up", "backends.1.state", "draining", "backends.1.tunnels", 0)
		s.wantAction("/resume", `{"backend": "\"\\xfe\""}`, 200, "resumed")
	})
}

func TestCloseEndsOneTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a")
		clients := s.open(3)
		s.wantAction("/close", `{"tunnel": 2, "code": 4001, "reason": "<b>out"}`, 200, "closing with 4001")
		if code := clients[1].Wait(); code != 4001 {
			t.Errorf("the client got %d; want 4001", code)
		}
		s.wantAction("/close", `{"tunnel": 1}`, 200, "closing with 1001")
		if code := clients[0].Wait(); code != 1001 {
			t.Errorf("the client got %d; want 1001", code)
		}
		synctest.Wait()
		s.wantAction("/close", `{"tunnel": 2}`, 410, "tunnel 2 is not open")
		s.overview().want("totals.tunnels", 1)
	})
}

func TestActionsAreAnsweredWithWhatIsWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a")
		s.open(1)
		s.scene.Proxy.SetBackends(
			wsproxy.BackendConfig{ID: "a", URL: s.scene.Backend("a").URL()},
			wsproxy.BackendConfig{ID: "down", URL: "http://down.example", Drain: true},
		)
		for _, tt := range []struct {
			path, body string
			status     int
			want       string
		}{
			{"/drain", `{"backend": "x"}`, 404, `no backend "x"`},
			{"/drain", `{}`, 404, `no backend ""`},
			{"/drain", `{"backend": "a", "over_seconds": 1e9}`, 400, "over_seconds"},
			{"/drain", `{"backend": "a", "over": 3}`, 400, "unknown field"},
			{"/drain", `{"backend": "a"} {}`, 400, "more than one value"},
			{"/drain", ``, 400, "EOF"},
			{"/drain", `[]`, 400, "cannot unmarshal"},
			{"/drain", `{"backend": "` + strings.Repeat("x", 5000) + `"}`, 400, "too large"},
			{"/resume", `{"backend": "x"}`, 404, `no backend "x"`},
			{"/resume", `{"backend": "down"}`, 409, "BackendConfig.Drain"},
			{"/close", `{"tunnel": 99}`, 410, "tunnel 99 is not open"},
			{"/close", `{}`, 410, "tunnel 0 is not open"},
			{"/close", `{"tunnel": -1}`, 400, "cannot unmarshal"},
			{"/close", `{"tunnel": 1, "code": 1006}`, 400, "code 1006 may not be sent"},
			{"/close", `{"tunnel": 1, "reason": "` + strings.Repeat("x", 124) + `"}`, 400, "at most 123 fit"},
		} {
			s.wantAction(tt.path, tt.body, tt.status, tt.want)
		}
		s.overview().want("totals.tunnels", 1, "backends.0.state", "up")
		if got, want := len(s.log.Lines("admin action", "level=INFO")), 15; got != want {
			t.Errorf("%d lines are logged; want %d, one for each action", got, want)
		}
	})
}

func TestReadOnlyRefusesActions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{ReadOnly: true}, "a")
		s.open(1)
		for path, body := range map[string]string{"/drain": `{"backend": "a"}`, "/resume": `{"backend": "a"}`, "/close": `{"tunnel": 1}`} {
			s.wantAction(path, body, 403, "ReadOnly")
		}
		s.overview().want("read_only", true, "totals.tunnels", 1, "backends.0.state", "up")
		if got := len(s.log.Lines("admin action", "ReadOnly")); got != 3 {
			t.Errorf("%d lines are logged; want 3", got)
		}
	})
}

func TestEachActionIsOneLineAndOneEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a", wsproxy.WithTrustedProxies("198.51.100.1"))
		s.open(1)
		s.post("/close", `{"tunnel": 1}`)
		r := httptest.NewRequest("POST", "/drain", strings.NewReader(`{"backend": "x\n<script>"}`))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-Forwarded-For", "203.0.113.9")
		r.RemoteAddr = "198.51.100.1:99"
		s.do(r)
		for _, words := range [][]string{
			{"level=INFO", "admin action", "action=close", "actor=ann", "client=192.0.2.1:1234", "target=1", `result="closing with 1001"`},
			{"level=INFO", "admin action", "action=drain", "actor=ann", "client=203.0.113.9", `target="x\n<script>"`, "result="},
		} {
			if n := len(s.log.Lines(words...)); n != 1 {
				t.Errorf("%d lines have %q; want 1 of\n%s", n, words, s.log.Lines())
			}
		}
		if n := len(s.log.Lines()); n != 2 {
			t.Errorf("%d lines are logged; want 2", n)
		}
		events := s.events().Changes
		if len(events) != 2 || events[0].Client != "192.0.2.1" || events[1].Client != "203.0.113.9" || events[0].Number >= events[1].Number {
			t.Errorf("events: %+v; want both actions, with the addresses", events)
		}
		if got, want := summary(events), "action close 1 ann closing with 1001; action drain x\n<script> ann there is no backend \"x\\n<script>\""; got != want {
			t.Errorf("events: %s; want %s", got, want)
		}
		if b := s.get("/overview").Body.String(); strings.Contains(b, "<script>") || !json.Valid([]byte(b)) {
			t.Errorf("/overview has a tag in it: %s", b)
		}
	})
}

// A panickingHandler is that of a Logger with a fault.
type panickingHandler struct{ slog.Handler }

func (panickingHandler) Enabled(context.Context, slog.Level) bool { return true }

func (panickingHandler) Handle(context.Context, slog.Record) error { panic("fault") }

func TestActionsAreDoneAndShownIfTheLoggerPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a")
		s.open(1)
		s.h.(*handler).o.Logger = slog.New(panickingHandler{})
		func() {
			defer func() { recover() }()
			s.post("/drain", `{"backend": "a", "over_seconds": -1}`)
		}()
		time.Sleep(2 * time.Second)
		got := summary(s.events().Changes)
		for _, want := range []string{"action drain a ann draining, 1 tunnels", "drain ended a drained: no tunnel is left"} {
			if !strings.Contains(got, want) {
				t.Errorf("changes: %s; want %s", got, want)
			}
		}
	})
}

func TestActorsAreNamedByAuthorize(t *testing.T) {
	s := newSite(t, Options{}, "a")
	for i := range 3 {
		s.h.(*handler).o.Authorize = letInAs(fmt.Sprint("user-", i))
		s.post("/resume", `{"backend": "a"}`)
		s.overview().want("actor", fmt.Sprint("user-", i))
	}
	for i, e := range s.events().Changes {
		if want := fmt.Sprint("user-", i); e.Actor != want {
			t.Errorf("event %d has the actor %q; want %q", i, e.Actor, want)
		}
	}
}
