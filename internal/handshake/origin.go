package handshake

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
)

// Origins are the web origins whose pages may open a WebSocket here. The zero
// value allows only those of the host that the request itself names.
//
// Browsers let any page connect to any host, and send the user's cookies
// along; Origin is the only thing that tells the pages apart.
//
// Add must not be called once Check is in use; Check is safe for concurrent
// use.
type Origins struct {
	hosts []string // lower-case patterns for the host alone
	full  []string // lower-case patterns for scheme://host
}

// Add allows the origins that match pattern, in the syntax of [path.Match] and
// regardless of case. A pattern with :// in it is matched against
// scheme://host[:port], any other one against host[:port].
//
// A pattern that is malformed, or can match no origin, is an error.
func (o *Origins) Add(pattern string) error {
	if pattern == "" {
		return errors.New("empty origin pattern")
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return fmt.Errorf("origin pattern %q: %w", pattern, err)
	}
	_, host, isFull := strings.Cut(pattern, "://")
	if !isFull {
		host = pattern
	}
	if strings.Contains(host, "/") {
		return fmt.Errorf("origin pattern %q: an origin has no path", pattern)
	}
	if isFull {
		o.full = append(o.full, strings.ToLower(pattern))
	} else {
		o.hosts = append(o.hosts, strings.ToLower(pattern))
	}
	return nil
}

// Check returns nil if the page that r's Origin names may open a WebSocket, or
// if there is no Origin: then r is not from a page in a browser. Any other
// request is answered 403.
//
// "If the origin indicated is unacceptable to the server, then it SHOULD
// respond to the WebSocket handshake with a reply containing HTTP 403
// Forbidden status code."
// https://www.rfc-editor.org/rfc/rfc6455#section-10.2
func (o *Origins) Check(r *http.Request) *Refusal {
	lines := r.Header["Origin"]
	switch {
	case len(lines) == 0 || len(lines) == 1 && lines[0] == "":
		return nil
	case len(lines) > 1:
		// The backend might look at another one than we do.
		return forbidden("Origin was sent more than once")
	case !o.allow(lines[0], r.Host):
		return forbidden(fmt.Sprintf("Origin was %s: it is not allowed for %s", quote(lines[0]), quote(r.Host)))
	}
	return nil
}

// allow reports whether a page from origin may talk to host.
func (o *Origins) allow(origin, host string) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Scheme == "" {
		// "null" stands for whatever a browser will not name: a sandboxed frame
		// of any site, for example. No pattern allows it, not even "*".
		return false
	}
	if u.Host != "" && (equalFold(u.Host, host) || matchAny(o.hosts, u.Host)) {
		return true
	}
	return matchAny(o.full, u.Scheme+"://"+u.Host)
}

func matchAny(patterns []string, s string) bool {
	if len(patterns) == 0 {
		return false
	}
	s = strings.ToLower(s)
	for _, pattern := range patterns {
		// Add has found every malformed pattern.
		if ok, _ := path.Match(pattern, s); ok {
			return true
		}
	}
	return false
}

func forbidden(reason string) *Refusal {
	return &Refusal{Status: http.StatusForbidden, Reason: reason}
}
