package handshake

import (
	"errors"
	"net/url"
	"slices"
	"strings"
)

// OutboundURL returns a URL with the path and the query for the backend. It uses
// nothing else of in. prefix is an escaped path without a trailing slash, or "".
//
// The path is that of in, not of the request line, so that [http.StripPrefix] and
// similar handlers work. Its legal bytes are unchanged: see [escapedPath]. With a
// prefix, a path that could lead out of the prefix is refused.
//
// Query parameters that [url.ParseQuery] cannot parse are cut out, so that a hook and
// a balancer see the same query as the backend. The rest of the query is unchanged, but
// for bytes that a request line must not have.
func OutboundURL(in *url.URL, prefix string) (*url.URL, *Refusal) {
	if prefix != "" && hasDotSegment(in.Path) {
		return nil, badRequest("Path had a `.` or `..` segment")
	}
	query, err := cleanQuery(in.RawQuery)
	isQueryEmpty := query == "" && in.RawQuery != ""
	if err != nil {
		return nil, badRequest("Query had too many parameters")
	}
	out, err := joinPath(prefix, in)
	if err != nil {
		return nil, badRequest("Path could not be decoded")
	}
	out.RawQuery, out.ForceQuery = query, in.ForceQuery && !isQueryEmpty
	return out, nil
}

// joinPath returns a URL whose path is prefix followed by in's path.
func joinPath(prefix string, in *url.URL) (*url.URL, error) {
	escaped := escapedPath(in)
	// StripPrefix may leave a path without a leading slash: /ws stripped from
	// /wsx leaves x. Appended to /base it would become /basex, outside the prefix.
	if !strings.HasPrefix(escaped, "/") {
		escaped = "/" + escaped
	}
	escaped = prefix + escaped
	path, err := url.PathUnescape(escaped)
	if err != nil {
		return nil, err
	}
	out := &url.URL{Path: path}
	if out.EscapedPath() != escaped {
		out.RawPath = escaped // like package url, only if it is not the default encoding
	}
	return out, nil
}

// escapedPath returns u's path for a request line. It keeps the escapes of u.RawPath, if
// that decodes to u.Path: "%2F" is not a slash, and a signature may depend on the rest.
// Bytes that are not legal in a path are percent-encoded, the # above all: Node and nginx
// would take it for the end of the path.
//
// [url.URL.EscapedPath] ignores the whole RawPath as soon as it has one byte that package
// url would encode.
func escapedPath(u *url.URL) string {
	if u.RawPath != "" {
		if path, err := url.PathUnescape(u.RawPath); err == nil && path == u.Path {
			return escape(u.RawPath, isPathByte)
		}
	}
	path := url.URL{Path: u.Path}
	return path.EscapedPath()
}

// isPathByte reports whether c may be in a path as it is: pchar, the % of an escape, and
// the slash of RFC 3986, and the brackets that package url accepts too.
// https://www.rfc-editor.org/rfc/rfc3986#section-3.3
func isPathByte(c byte) bool {
	switch {
	case 'a' <= lower(c) && lower(c) <= 'z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("-._~!$&'()*+,;=:@%/[]", c) >= 0
}

// isQueryByte reports whether c may be in a query as it is. Many clients do not encode
// bytes that RFC 3986 does not allow, and servers read them.
func isQueryByte(c byte) bool { return isVisible(c) && c != '#' }

// escape percent-encodes the bytes of s that are not legal.
func escape(s string, isLegal func(byte) bool) string {
	n := 0
	for n < len(s) && isLegal(s[n]) {
		n++
	}
	if n == len(s) {
		return s
	}
	const hex = "0123456789ABCDEF"
	escaped := append(make([]byte, 0, 2*len(s)), s[:n]...)
	for _, c := range []byte(s[n:]) {
		if isLegal(c) {
			escaped = append(escaped, c)
		} else {
			escaped = append(escaped, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(escaped)
}

// hasDotSegment reports whether the decoded path has a segment that a backend may
// interpret as . or .. when it looks up a file or a route. Some backends treat a
// backslash as a slash. Some remove the parameters of a segment first, so that
// "..;x" is "..".
//
// The path has been decoded once, as a backend does. So %252e is not a dot.
func hasDotSegment(path string) bool {
	for segment := range strings.FieldsFuncSeq(path, isSlash) {
		name, _, _ := strings.Cut(segment, ";")
		if name == "." || name == ".." {
			return true
		}
	}
	return false
}

func isSlash(r rune) bool { return r == '/' || r == '\\' }

// maxQueryParams is the limit of net/url. For a query with more parameters it
// returns no values, unless GODEBUG changes the limit.
const maxQueryParams = 10000

var errTooManyParams = errors.New("too many query parameters")

// cleanQuery returns query without the parameters that cannot be parsed.
func cleanQuery(query string) (string, error) {
	if strings.Count(query, "&") >= maxQueryParams {
		if values, err := url.ParseQuery(query); err != nil && len(values) == 0 {
			// We deviate: httputil.ReverseProxy sends no query in this case. A backend
			// that misses its token would report an error that does not name the cause.
			return "", errTooManyParams
		}
	}
	if isParsable(query) {
		return escape(query, isQueryByte), nil
	}
	var kept []string
	isEmpty := true
	for param := range strings.SplitSeq(query, "&") {
		if isParsable(param) {
			kept = append(kept, param)
			isEmpty = isEmpty && param == ""
		}
	}
	if isEmpty {
		return "", nil
	}
	return escape(strings.Join(kept, "&"), isQueryByte), nil
}

// isParsable reports whether [url.ParseQuery] can parse all parameters of query.
func isParsable(query string) bool {
	if strings.Contains(query, ";") {
		return false
	}
	for {
		i := strings.IndexByte(query, '%')
		if i < 0 {
			return true
		}
		if i+2 >= len(query) || !isHex(query[i+1]) || !isHex(query[i+2]) {
			return false
		}
		query = query[i+3:]
	}
}

func isHex(c byte) bool {
	c = lower(c)
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f'
}

// indexIllegal returns the index of the first byte of a target that must not be in a
// request line, or -1.
func indexIllegal(target []byte) int {
	return slices.IndexFunc(target, func(c byte) bool { return !isQueryByte(c) })
}

// isVisible reports whether c is visible ASCII.
func isVisible(c byte) bool { return ' ' < c && c < 0x7f }
