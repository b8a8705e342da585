package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"

	"github.com/wsproxy/wsproxy"
)

// cookieName is the cookie that says where a client belongs.
const cookieName = "backend"

// A sticky is a balancer that sends a client to the backend that it had before,
// as long as that one may be chosen. Who comes for the first time goes where
// another balancer says.
//
// A client remembers its backend by a cookie. The value is a keyed hash of the
// backend's ID: it tells nothing about the backend, and without the key nobody can
// make one for a backend of his choice.
type sticky struct {
	key       []byte // the same in all replicas of the service
	newcomers wsproxy.Balancer
}

func newSticky(key []byte) *sticky {
	return &sticky{key: key, newcomers: wsproxy.LeastTunnels()}
}

// Pick implements [wsproxy.Balancer].
func (s *sticky) Pick(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
	for _, cookie := range r.CookiesNamed(cookieName) {
		for _, b := range candidates {
			if s.matches(cookie, b) {
				return b, nil
			}
		}
	}
	return s.newcomers.Pick(r, candidates)
}

// setCookie is the hook for [wsproxy.WithResponse]: it gives the client the cookie
// of the backend that it got, unless it has that already.
func (s *sticky) setCookie(r *wsproxy.ProxyResponse) error {
	if r.StatusCode != http.StatusSwitchingProtocols {
		return nil // it got nothing
	}
	if cookie, err := r.Request.Cookie(cookieName); err == nil && s.matches(cookie, r.Backend) {
		return nil
	}
	cookie := &http.Cookie{
		Name:     cookieName,
		Value:    s.value(r.Backend),
		Path:     "/",
		HttpOnly: true,
		SameSite: http.SameSiteLaxMode,
		Secure:   r.Request.TLS != nil, // behind a proxy that ends TLS: true
	}
	r.Header.Add("Set-Cookie", cookie.String())
	return nil
}

func (s *sticky) matches(cookie *http.Cookie, b *wsproxy.Backend) bool {
	return hmac.Equal([]byte(cookie.Value), []byte(s.value(b)))
}

// value takes less than a microsecond. With hundreds of backends it would be kept.
func (s *sticky) value(b *wsproxy.Backend) string {
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte(b.ID()))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}
