package wsproxyadmin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/wsproxytest"
)

// letIn authorizes each request.
func letIn(*http.Request) (string, error) { return "ann", nil }

// letInAs authorizes each request as that of one actor.
func letInAs(actor string) func(*http.Request) (string, error) {
	return func(*http.Request) (string, error) { return actor, nil }
}

// A site is the admin page of a scene.
type site struct {
	t     *testing.T
	scene *wsproxytest.Scene
	h     http.Handler
	log   proxytest.LogBook
}

// newSite returns the page of a proxy with these backends. Without Authorize it lets all in.
func newSite(t *testing.T, o Options, backends string, opts ...wsproxy.Option) *site {
	t.Helper()
	s := &site{t: t}
	var all []wsproxytest.Backend
	for id := range strings.FieldsSeq(backends) {
		all = append(all, wsproxytest.Backend{ID: id})
	}
	s.scene = wsproxytest.NewScene(t, all, opts...)
	if o.Authorize == nil {
		o.Authorize = letIn
	}
	o.Logger = s.log.Logger()
	s.h = Handler(s.scene.Proxy, o)
	return s
}

// connect opens a tunnel, or tries to.
func (s *site) connect(target string) *wsproxytest.Client {
	return s.scene.Connect(httptest.NewRequest("GET", target, nil))
}

// open opens n tunnels.
func (s *site) open(n int) (clients []*wsproxytest.Client) {
	s.t.Helper()
	for range n {
		c := s.connect("/room")
		if c.Status != http.StatusSwitchingProtocols {
			s.t.Fatalf("client got status %d; want 101", c.Status)
		}
		clients = append(clients, c)
	}
	return clients
}

// get returns the response to a GET.
func (s *site) get(path string) *httptest.ResponseRecorder {
	return s.do(httptest.NewRequest("GET", path, nil))
}

// post returns the response to an action.
func (s *site) post(path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return s.do(r)
}

func (s *site) do(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.h.ServeHTTP(w, r)
	return w
}

// overview returns the body of /overview.
func (s *site) overview() body {
	s.t.Helper()
	return parseBody(s.t, s.get("/overview").Body.Bytes())
}

// events returns those of /overview.
func (s *site) events() events {
	s.t.Helper()
	var o struct {
		Events events `json:"events"`
	}
	if err := json.Unmarshal(s.get("/overview").Body.Bytes(), &o); err != nil {
		s.t.Fatal(err)
	}
	return o.Events
}

// wantAction posts, and checks the status and the body of the response.
func (s *site) wantAction(path, post string, wantStatus int, want string) {
	s.t.Helper()
	w := s.post(path, post)
	var r actionResult
	if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil {
		s.t.Fatalf("%s %s: %v in %q", path, post, err, w.Body)
	}
	if w.Code != wantStatus || !strings.Contains(r.Result+r.Error, want) || (r.Error != "") != (w.Code >= 400) {
		s.t.Errorf("%s %s is answered with %d, %+v; want %d, %q", path, post, w.Code, r, wantStatus, want)
	}
}

// A body is a JSON value.
type body struct {
	t testing.TB
	v any
}

func parseBody(t testing.TB, b []byte) body {
	t.Helper()
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%v in %q", err, b)
	}
	return body{t, v}
}

// at returns the value at a path such as "backends.0.state".
func (b body) at(path string) any {
	b.t.Helper()
	v := b.v
	for name := range strings.SplitSeq(path, ".") {
		switch of := v.(type) {
		case map[string]any:
			inner, ok := of[name]
			if !ok {
				b.t.Fatalf("%s: there is no %s in %v", path, name, of)
			}
			v = inner
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i >= len(of) {
				b.t.Fatalf("%s: there is no %s in %v", path, name, of)
			}
			v = of[i]
		default:
			b.t.Fatalf("%s: there is no %s in %v", path, name, of)
		}
	}
	return v
}

// want checks the values at paths: want("totals.tunnels", 2, "backends.0.state", "up").
func (b body) want(pairs ...any) {
	b.t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		want := pairs[i+1]
		if n, ok := want.(int); ok {
			want = float64(n)
		}
		if got := b.at(pairs[i].(string)); !reflect.DeepEqual(got, want) {
			b.t.Errorf("%s is %v; want %v", pairs[i], got, want)
		}
	}
}

// summary returns the kind and some fields of each event, in their order.
func summary(all []event) string {
	var b strings.Builder
	for _, e := range all {
		fmt.Fprintf(&b, "%s", e.Kind)
		for _, s := range []string{e.Backend, e.Flag, e.State, e.Reason, e.Cause, e.Action, e.Target, e.Actor, e.Result} {
			if s != "" {
				fmt.Fprintf(&b, " %s", s)
			}
		}
		if e.Count > 1 {
			fmt.Fprintf(&b, " ×%d", e.Count)
		}
		b.WriteString("; ")
	}
	return strings.TrimSuffix(b.String(), "; ")
}

// countOf returns how many events all stand for.
func countOf(all []event) (n int) {
	for _, e := range all {
		n += e.Count
	}
	return n
}
