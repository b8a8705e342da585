package handshake

import (
	"errors"
	"net/url"
	"strings"
)

// OutboundURL returns a URL with the path and the query for the backend. It uses
// nothing else of in. prefix is an escaped path without a trailing slash, or "".
//
// The path is in.EscapedPath, not the path of the request line, so that
// [http.StripPrefix] and similar handlers work. Without a prefix it is unchanged.
// With a prefix, a path that could lead out of the prefix is refused.
//
// Query parameters that [url.ParseQuery] cannot parse are removed, as in
// httputil.ReverseProxy, so that a hook sees the same query as the backend. A
// query without such parameters is unchanged.
func OutboundURL(in *url.URL, prefix string) (*url.URL, *Refusal) {
	if prefix != "" && hasDotSegment(in.Path) {
		return nil, badRequest("Path had a `.` or `..` segment")
	}
	query, err := cleanQuery(in.RawQuery)
	if err != nil {
		return nil, badRequest("Query had too many parameters")
	}
	out, err := joinPath(prefix, in)
	if err != nil {
		return nil, badRequest("Path could not be decoded")
	}
	out.RawQuery, out.ForceQuery = query, in.ForceQuery
	return out, nil
}

// joinPath returns a URL whose path is prefix followed by in's path.
func joinPath(prefix string, in *url.URL) (*url.URL, error) {
	escaped := in.EscapedPath()
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
	if isParsable(query) {
		return escapeQuery(query), nil
	}
	values, err := url.ParseQuery(query)
	if err != nil && len(values) == 0 && strings.Count(query, "&") >= maxQueryParams {
		// We deviate: httputil.ReverseProxy sends no query in this case. A backend
		// that misses its token would report an error that does not name the cause.
		return "", errTooManyParams
	}
	return values.Encode(), nil
}

// isParsable reports whether [url.ParseQuery] can parse all parameters of query.
func isParsable(query string) bool {
	if strings.Contains(query, ";") || strings.Count(query, "&") >= maxQueryParams {
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

// escapeQuery percent-encodes the bytes of a query that are not allowed in a
// request line. Package url accepts them, and treats both forms as equal.
func escapeQuery(query string) string {
	const hex = "0123456789ABCDEF"
	if indexInvisible(query) < 0 {
		return query
	}
	escaped := make([]byte, 0, 2*len(query))
	for i := range len(query) {
		if c := query[i]; isVisible(c) {
			escaped = append(escaped, c)
		} else {
			escaped = append(escaped, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(escaped)
}

// indexInvisible returns the index of the first byte in s that is not visible
// ASCII, or -1.
func indexInvisible[T string | []byte](s T) int {
	for i := range len(s) {
		if !isVisible(s[i]) {
			return i
		}
	}
	return -1
}

// isVisible reports whether c is visible ASCII.
func isVisible(c byte) bool { return ' ' < c && c < 0x7f }
