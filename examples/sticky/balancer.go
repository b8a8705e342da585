package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"

	"github.com/wsproxy/wsproxy"
)

// cookieName is the name of the cookie that identifies a client's backend.
const cookieName = "backend"

// A sticky is a balancer that sends a client to the same backend as before, if that
// backend is a candidate. For other clients it asks another balancer.
//
// A cookie identifies the client's backend. Its value is a keyed hash of the
// backend's ID. It reveals nothing about the backend, and without the key a client
// cannot create a cookie for a backend of its choice.
type sticky struct {
	key       []byte           // the same in all replicas of the service
	newcomers wsproxy.Balancer // for clients without a cookie of a candidate
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

// setCookie is the hook for [wsproxy.WithResponse]. It sets the cookie of the
// client's backend, unless the client has that cookie already.
func (s *sticky) setCookie(r *wsproxy.ProxyResponse) error {
	if r.StatusCode != http.StatusSwitchingProtocols {
		return nil // the upgrade was refused
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
		Secure:   r.Request.TLS != nil, // use true behind a proxy that terminates TLS
	}
	r.Header.Add("Set-Cookie", cookie.String())
	return nil
}

func (s *sticky) matches(cookie *http.Cookie, b *wsproxy.Backend) bool {
	return hmac.Equal([]byte(cookie.Value), []byte(s.value(b)))
}

// value returns the cookie's value for b. It takes less than a microsecond. With
// hundreds of backends, store the values.
func (s *sticky) value(b *wsproxy.Backend) string {
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte(b.ID()))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}
