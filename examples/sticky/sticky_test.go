package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/wsproxytest"
)

func TestClientsStayOnTheirBackend(t *testing.T) {
	out := new(strings.Builder)
	err := run(t.Context(), out)
	t.Logf("it printed:\n%s", out)
	if err != nil {
		t.Errorf("run() = %v; want nil", err)
	}
}

func TestStickyPassesBalancerTest(t *testing.T) {
	newBalancer := func() wsproxy.Balancer { return newSticky([]byte("key")) }
	if err := wsproxytest.TestBalancer(newBalancer); err != nil {
		t.Error(err)
	}
}

func TestCookieIsOpaqueAndProtected(t *testing.T) {
	backend := newBackend(t, "http://10.0.0.7:8080")
	cookie := remembered(t, newSticky([]byte("key")), httptest.NewRequest("GET", "/", nil), backend)
	if cookie == nil || !cookie.HttpOnly || cookie.SameSite != http.SameSiteLaxMode {
		t.Fatalf("the cookie is %v; want one that is HttpOnly and SameSite=Lax", cookie)
	}
	if strings.Contains(cookie.Value, "10.0.0.7") {
		t.Errorf("the cookie's value %q names the backend", cookie.Value)
	}
	if other := remembered(t, newSticky([]byte("another key")), httptest.NewRequest("GET", "/", nil), backend); other.Value == cookie.Value {
		t.Errorf("the cookie's value %q does not depend on the key", cookie.Value)
	}
}

func TestCookieIsSetOnce(t *testing.T) {
	s, backend := newSticky([]byte("key")), newBackend(t, "http://10.0.0.7:8080")
	r := httptest.NewRequest("GET", "/", nil)
	r.AddCookie(remembered(t, s, r, backend))
	if again := remembered(t, s, r, backend); again != nil {
		t.Errorf("a client that has its cookie gets %v again; want none", again)
	}
}

func TestForgedCookieIsIgnored(t *testing.T) {
	s, backend := newSticky([]byte("key")), newBackend(t, "http://10.0.0.7:8080")
	r := httptest.NewRequest("GET", "/", nil)
	r.AddCookie(&http.Cookie{Name: cookieName, Value: backend.ID()})
	for _, cookie := range r.CookiesNamed(cookieName) {
		if s.matches(cookie, backend) {
			t.Errorf("the cookie %q chooses its backend; want only one made with the key to", cookie.Value)
		}
	}
}

// remembered returns the cookie that the hook sets for a client of b, or nil.
func remembered(t *testing.T, s *sticky, r *http.Request, b *wsproxy.Backend) *http.Cookie {
	t.Helper()
	response := &wsproxy.ProxyResponse{
		Request: r, Backend: b, StatusCode: http.StatusSwitchingProtocols, Header: make(http.Header),
	}
	if err := s.setCookie(response); err != nil {
		t.Fatal(err)
	}
	line := response.Header.Get("Set-Cookie")
	if line == "" {
		return nil
	}
	cookie, err := http.ParseSetCookie(line)
	if err != nil {
		t.Fatal(err)
	}
	return cookie
}

func newBackend(t *testing.T, url string) *wsproxy.Backend {
	t.Helper()
	proxy, err := wsproxy.New(wsproxy.WithBackends(url))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Close() })
	return proxy.Backends()[0]
}
