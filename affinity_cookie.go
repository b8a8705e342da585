package wsproxy

import (
	"net/http"
	"strings"
)

// A cookieTemplate makes the values of Set-Cookie fields.
type cookieTemplate struct {
	name     string
	insecure string // the text behind the value
	secure   string // the same, with Secure
}

// field returns the value of a Set-Cookie field.
func (t *cookieTemplate) field(value string, isSecure bool) string {
	if isSecure {
		return t.name + "=" + value + t.secure
	}
	return t.name + "=" + value + t.insecure
}

// compile checks c, which may be nil, and fills its defaults in.
func (t *cookieTemplate) compile(c *http.Cookie, bad func(field string, value any, text string)) {
	if c == nil {
		c = new(http.Cookie)
	}
	if c.Value != "" || c.Quoted {
		bad(".Cookie.Value", c.Value, "the proxy sets it")
	}
	if !c.Expires.IsZero() || c.RawExpires != "" || c.MaxAge != 0 {
		bad(".Cookie.MaxAge", c.MaxAge, "the cookie ends with the session of the browser; set TTL for a binding that ends earlier")
	}
	if c.Raw != "" || c.Unparsed != nil {
		bad(".Cookie.Raw", c.Raw, "not for a cookie that is set")
	}
	own := &http.Cookie{
		Name: c.Name, Path: c.Path, Domain: c.Domain, HttpOnly: true, Secure: c.Secure, SameSite: c.SameSite, Partitioned: c.Partitioned,
	}
	if own.Name == "" {
		own.Name = defaultCookieName
	}
	if own.Path == "" {
		own.Path = "/"
	}
	if own.SameSite == 0 {
		own.SameSite = http.SameSiteLaxMode
	}
	isHost := hasPrefixFold(own.Name, "__Host-")
	mustBeSecure := isHost || hasPrefixFold(own.Name, "__Secure-") || own.SameSite == http.SameSiteNoneMode || own.Partitioned
	own.Secure = own.Secure || mustBeSecure
	if err := own.Valid(); err != nil {
		bad(".Cookie", own.Name, strings.TrimPrefix(err.Error(), "http: "))
		return // String would log it
	}
	if own.Path[0] != '/' {
		bad(".Cookie.Path", own.Path, "browsers want one that begins with a slash")
	}
	if isHost && (own.Path != "/" || own.Domain != "") {
		bad(".Cookie", own.Name, `browsers want the path "/" and no Domain`)
	}
	t.name = own.Name
	t.insecure = strings.TrimPrefix(own.String(), own.Name+"=")
	own.Secure = true
	t.secure = strings.TrimPrefix(own.String(), own.Name+"=")
}

// hasPrefixFold reports whether s begins with prefix, whatever the case of its letters: browsers
// look at the prefixes of names in this way.
func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}
