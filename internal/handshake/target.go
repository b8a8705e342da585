package handshake

import (
	"errors"
	"net/url"
	"strings"
)

// OutboundURL returns path and query for the backend, and nothing else of in.
// prefix is an escaped path without a trailing slash, or "".
//
// It takes in's EscapedPath, not what stood in the request line, so that
// [http.StripPrefix] and the like work. Without a prefix that path goes
// through as it is. With one, a path that could climb out of the prefix is
// refused.
//
// Parameters of the query that [url.ParseQuery] cannot parse are removed, as
// httputil.ReverseProxy does: a hook must not see another query than the
// backend. A query with none such goes through as it is.
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

// joinPath returns a URL that has prefix and in's path as its path.
func joinPath(prefix string, in *url.URL) (*url.URL, error) {
	escaped := in.EscapedPath()
	// StripPrefix may leave no slash at the front: /ws stripped from /wsx. Then
	// the prefix would run into the path, and escape: /base into /basex.
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
		out.RawPath = escaped // as package url has it: only where it is needed
	}
	return out, nil
}

// hasDotSegment reports whether the decoded path has a segment that a backend
// may take for . or .. on its way to a file or a route. Some take a backslash
// for a slash, and some cut parameters off a segment before they look at it:
// "..;x" is "..".
//
// The path has been decoded once, as a backend does; %252e is left alone.
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

// maxQueryParams is net/url's limit: it parses a longer query to nothing,
// unless GODEBUG says otherwise.
const maxQueryParams = 10000

var errTooManyParams = errors.New("too many query parameters")

// cleanQuery removes what cannot be parsed from a query.
func cleanQuery(query string) (string, error) {
	if isParsable(query) {
		return escapeQuery(query), nil
	}
	values, err := url.ParseQuery(query)
	if err != nil && len(values) == 0 && strings.Count(query, "&") >= maxQueryParams {
		// We deviate from httputil.ReverseProxy, which sends no query then: a
		// backend that finds its token gone gives no hint of what has happened.
		return "", errTooManyParams
	}
	return values.Encode(), nil
}

// isParsable reports whether [url.ParseQuery] takes all of query.
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

// escapeQuery percent-encodes the bytes of a query that may not stand in a
// request line. Package url lets them in, and means the same by both forms.
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

// indexInvisible returns the index of the first byte in s that may not stand in
// a request line, or -1.
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
