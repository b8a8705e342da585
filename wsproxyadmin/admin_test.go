package wsproxyadmin

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
)

// paths are those that the handler serves, with the methods that each has.
var paths = map[string]string{
	"/": "GET HEAD", "/index.html": "GET HEAD", "/overview": "GET HEAD", "/stream": "HEAD", "/tunnels": "GET HEAD",
	"/drain": "POST", "/resume": "POST", "/close": "POST",
}

var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get"}

func TestNothingIsServedWithoutAuthorization(t *testing.T) {
	refused := func(err error) func(*http.Request) (string, error) {
		return func(*http.Request) (string, error) { return "ann", err }
	}
	basic := http.Header{"Www-Authenticate": {"Basic"}}
	p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a.example"))
	for _, tt := range []struct {
		name       string
		authorize  func(*http.Request) (string, error)
		wantStatus int
		wantText   string
	}{
		{"nil", nil, 403, "set Authorize"},
		{"an error", refused(errors.New("secret reason")), 403, "Forbidden"},
		{"401", refused(&wsproxy.StatusError{Status: 401, Header: basic, Err: errors.New("log in")}), 401, "log in"},
		{"a status without an error", refused(&wsproxy.StatusError{Status: 429}), 429, "Too Many Requests"},
		{"no error status", refused(&wsproxy.StatusError{Status: 200}), 403, "Forbidden"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log proxytest.LogBook
			h := Handler(p, Options{Authorize: tt.authorize, Logger: log.Logger()})
			for path := range paths {
				for _, method := range methods {
					r := httptest.NewRequest(method, "http://admin.example"+path, strings.NewReader(`{"backend":"http://a.example"}`))
					w := httptest.NewRecorder()
					h.ServeHTTP(w, r)
					if text := w.Body.String(); w.Code != tt.wantStatus || !strings.Contains(text, tt.wantText) || strings.Contains(text, "secret") {
						t.Errorf("%s %s is answered with %d, %q; want %d, %q", method, path, w.Code, text, tt.wantStatus, tt.wantText)
					}
					if tt.wantStatus == 401 {
						proxytest.WantField(t, w.Header(), "Www-Authenticate", "Basic")
					}
				}
			}
			if n := len(log.Lines("admin action")); n != 0 {
				t.Errorf("%d actions are logged; want none", n)
			}
			if s := p.Backends()[0].State(); s != wsproxy.BackendUp {
				t.Errorf("the backend is %v; want it up", s)
			}
		})
	}
}

func TestEachPathHasItsMethods(t *testing.T) {
	s := newSite(t, Options{}, "a")
	for path, allowed := range paths {
		for _, method := range methods {
			if path == "/stream" && method == "GET" {
				continue // it does not end
			}
			w := s.do(httptest.NewRequest(method, "http://admin.example"+path, nil))
			isAllowed := strings.Contains(" "+allowed+" ", " "+method+" ")
			if (w.Code == http.StatusMethodNotAllowed) == isAllowed {
				t.Errorf("%s %s is answered with %d; allowed are %s", method, path, w.Code, allowed)
			}
			if allow := w.Header().Get("Allow"); !isAllowed && allow != "GET, HEAD" && allow != "POST" {
				t.Errorf("%s %s is answered with Allow: %q", method, path, allow)
			}
		}
	}
	for _, path := range []string{"/admin", "/nothing", "/page/index.html", "/../index.html", "/overview/", "//overview"} {
		if w := s.get("http://admin.example" + path); w.Code != http.StatusNotFound {
			t.Errorf("GET %s is answered with %d; want 404", path, w.Code)
		}
	}
}

func TestEachResponseHasSecurityHeader(t *testing.T) {
	with, without := newSite(t, Options{}, "a"), &site{t: t, h: Handler(proxytest.NewProxy(t, wsproxy.WithBackends()), Options{})}
	crossSite := httptest.NewRequest("POST", "/drain", nil)
	crossSite.Header.Set("Sec-Fetch-Site", "cross-site")
	for _, w := range []*httptest.ResponseRecorder{
		with.get("/"), with.get("/overview"), with.get("/tunnels?limit=x"), with.get("/nothing"), with.post("/drain", ""),
		with.do(crossSite), without.get("/"),
	} {
		proxytest.WantField(t, w.Header(), "Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; "+
			"img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'")
		proxytest.WantField(t, w.Header(), "X-Content-Type-Options", "nosniff")
		proxytest.WantField(t, w.Header(), "Cache-Control", "no-store")
		proxytest.WantField(t, w.Header(), "Referrer-Policy", "no-referrer")
	}
}

func TestActionsOfOtherSitesAreRefused(t *testing.T) {
	for _, tt := range []struct {
		name   string
		header http.Header
		isOK   bool
	}{
		{"a program", http.Header{}, true},
		{"the page", http.Header{"Sec-Fetch-Site": {"same-origin"}, "Origin": {"http://admin.example"}}, true},
		{"an old browser", http.Header{"Origin": {"http://admin.example"}}, true},
		{"another site", http.Header{"Sec-Fetch-Site": {"cross-site"}}, false},
		{"another port", http.Header{"Sec-Fetch-Site": {"same-site"}}, false},
		{"another site, in an old browser", http.Header{"Origin": {"http://evil.example"}}, false},
		{"a form", http.Header{"Content-Type": {"text/plain"}}, false},
		{"a form with a type", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, false},
		{"no type", http.Header{"Content-Type": nil}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, Options{}, "a")
			r := httptest.NewRequest("POST", "http://admin.example/resume", strings.NewReader(`{"backend":"a"}`))
			r.Header.Set("Content-Type", "application/json; charset=utf-8")
			for name, values := range tt.header {
				r.Header[name] = values
			}
			if w := s.do(r); (w.Code == http.StatusOK) != tt.isOK {
				t.Errorf("the action is answered with %d, %q; want it done: %v", w.Code, w.Body, tt.isOK)
			}
		})
	}
}

func TestOtherSitesCannotAskForAPassword(t *testing.T) {
	s := newSite(t, Options{Authorize: func(*http.Request) (string, error) {
		return "", &wsproxy.StatusError{Status: 401, Header: http.Header{"Www-Authenticate": {"Basic"}}}
	}}, "a")
	r := httptest.NewRequest("POST", "/drain", nil)
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	if w := s.do(r); w.Code != http.StatusForbidden || w.Header().Get("Www-Authenticate") != "" {
		t.Errorf("it is answered with %d, %v; want 403", w.Code, w.Header())
	}
}

func TestPageIsServedBelowPrefix(t *testing.T) {
	for _, tt := range []struct{ prefix, path string }{
		{"", "/overview"}, {"/", "/overview"}, {"/admin/", "/admin/overview"}, {"/admin", "/admin/overview"}, {"admin", "/admin/overview"}, {"/a/b/", "/a/b/overview"},
	} {
		s := newSite(t, Options{Prefix: tt.prefix}, "a")
		if w := s.get(tt.path); w.Code != http.StatusOK {
			t.Errorf("with Prefix %q, %s is answered with %d; want 200", tt.prefix, tt.path, w.Code)
		}
		dir := strings.TrimSuffix(tt.path, "overview")
		if w := s.get(dir); w.Code != http.StatusOK || w.Header().Get("Content-Type") != "text/html; charset=utf-8" {
			t.Errorf("with Prefix %q, %s is answered with %d, %v; want the page", tt.prefix, dir, w.Code, w.Header())
		}
		if w := s.get("/other/overview"); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), " "+dir+",") {
			t.Errorf("with Prefix %q, /other/overview is answered with %d, %q; want 404 with the prefix", tt.prefix, w.Code, w.Body)
		}
	}
}

func TestPathWithoutSlashIsRedirectedBehindOtherProxies(t *testing.T) {
	s := newSite(t, Options{Prefix: "/admin/"}, "a")
	stripped := newSite(t, Options{}, "a")
	front := http.NewServeMux() // adds /tools
	mux := http.NewServeMux()
	mux.Handle("/", s.h)
	mux.Handle("/stripped/", http.StripPrefix("/stripped", stripped.h))
	mux.Handle("/stripped", http.StripPrefix("/stripped", stripped.h))
	inner := proxytest.Serve(t, mux)
	target, _ := url.Parse(inner.URL)
	front.Handle("/tools/", http.StripPrefix("/tools", httputil.NewSingleHostReverseProxy(target)))
	outer := proxytest.Serve(t, front)
	for from, want := range map[string]string{
		inner.URL + "/admin":          inner.URL + "/admin/",
		outer.URL + "/tools/admin":    outer.URL + "/tools/admin/",
		outer.URL + "/tools/admin?x":  outer.URL + "/tools/admin/",
		inner.URL + "/stripped":       inner.URL + "/stripped/",
		outer.URL + "/tools/stripped": outer.URL + "/tools/stripped/",
	} {
		resp, err := http.Get(from)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Request.URL.String(); got != want || resp.StatusCode != http.StatusOK {
			t.Errorf("%s leads to %s, %s; want %s", from, got, resp.Status, want)
		}
	}
}

func TestFilesOfThePageHaveTypesAndRelativeLinks(t *testing.T) {
	s := newSite(t, Options{}, "a")
	for name, f := range pageFiles {
		w := s.get("/" + name)
		if w.Code != http.StatusOK || w.Header().Get("Content-Type") == "" || w.Body.String() != string(f.content) {
			t.Errorf("%s is answered with %d, type %q, %d bytes", name, w.Code, w.Header().Get("Content-Type"), w.Body.Len())
		}
		for _, absolute := range []string{`href="/`, `src="/`, `url(/`, `fetch("/`, `EventSource("/`, "http://", "https://"} {
			text := strings.ReplaceAll(string(f.content), "http://www.w3.org/", "")
			if strings.Contains(text, absolute) && !strings.HasPrefix(f.contentType, "image/") {
				t.Errorf("%s has %s: behind a proxy that adds a path it leads elsewhere", name, absolute)
			}
		}
	}
}
