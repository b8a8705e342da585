package handshake

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
)

// Origins are the web origins whose pages may open a WebSocket. The zero value
// allows only origins with the host in the request's Host.
//
// Browsers let any page connect to any host, and send the user's cookies with
// the request. Only the Origin field says which page it is.
//
// Check is safe for concurrent use. Add must not be called at the same time, or
// after it.
type Origins struct {
	hosts []string // lower-case patterns for the host alone
	full  []string // lower-case patterns for scheme://host
}

// Add allows the origins that match pattern, in the syntax of [path.Match],
// ignoring case. A pattern that contains :// is matched against
// scheme://host[:port], any other pattern against host[:port].
//
// A pattern that is malformed, or can match no origin, is an error.
func (o *Origins) Add(pattern string) error {
	if pattern == "" {
		return errors.New("empty")
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return err
	}
	_, host, isFull := strings.Cut(pattern, "://")
	if !isFull {
		host = pattern
	}
	if strings.Contains(host, "/") {
		return errors.New("an origin has no path")
	}
	if isFull {
		o.full = append(o.full, strings.ToLower(pattern))
	} else {
		o.hosts = append(o.hosts, strings.ToLower(pattern))
	}
	return nil
}

// Check returns nil if r's Origin is allowed, or if r has none and is therefore
// not from a page in a browser. Otherwise it returns a refusal with status 403.
//
// "If the origin indicated is unacceptable to the server, then it SHOULD
// respond to the WebSocket handshake with a reply containing HTTP 403
// Forbidden status code."
// https://www.rfc-editor.org/rfc/rfc6455#section-10.2
//
// The host is r's Host or, if the peer is a trusted proxy, its X-Forwarded-Host if that
// has exactly one value. The default port of a scheme makes no difference.
func (o *Origins) Check(r *http.Request, isPeerTrusted bool) *Refusal {
	lines := r.Header["Origin"]
	switch {
	case len(lines) == 0 || len(lines) == 1 && lines[0] == "":
		return nil
	case len(lines) > 1:
		// The backend could check another line than this function.
		return forbidden("Origin was sent more than once")
	}
	host := r.Host
	if forwarded := r.Header["X-Forwarded-Host"]; isPeerTrusted && len(forwarded) == 1 && isSingleHost(forwarded[0]) {
		host = trimOWS(forwarded[0])
	}
	if !o.allow(lines[0], host) {
		return forbidden(fmt.Sprintf("Origin was %s: it is not allowed for %s", quote(lines[0]), quote(host)))
	}
	return nil
}

// isSingleHost reports whether a value of X-Forwarded-Host is that of one proxy.
func isSingleHost(value string) bool {
	return trimOWS(value) != "" && !strings.Contains(value, ",")
}

// allow reports whether a page from origin may connect to host.
func (o *Origins) allow(origin, host string) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Scheme == "" {
		// Browsers send "null" for origins that they do not reveal, such as a
		// sandboxed frame of any site. No pattern allows it, not even "*".
		return false
	}
	from, to := withoutDefaultPort(u.Host, u.Scheme), withoutDefaultPort(host, u.Scheme)
	if from != "" && (equalFold(from, to) || matchAny(o.hosts, from) || matchAny(o.hosts, u.Host)) {
		return true
	}
	return matchAny(o.full, u.Scheme+"://"+from) || matchAny(o.full, u.Scheme+"://"+u.Host)
}

// withoutDefaultPort returns host without the port that its scheme has anyway.
// https://www.rfc-editor.org/rfc/rfc6454#section-4
func withoutDefaultPort(host, scheme string) string {
	switch strings.ToLower(scheme) {
	case "https", "wss":
		return strings.TrimSuffix(host, ":443")
	case "http", "ws":
		return strings.TrimSuffix(host, ":80")
	}
	return host
}

func matchAny(patterns []string, s string) bool {
	if len(patterns) == 0 {
		return false
	}
	s = strings.ToLower(s)
	for _, pattern := range patterns {
		// Add has refused malformed patterns.
		if ok, _ := path.Match(pattern, s); ok {
			return true
		}
	}
	return false
}

func forbidden(reason string) *Refusal {
	return &Refusal{Status: http.StatusForbidden, Reason: reason}
}
