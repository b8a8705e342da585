package handshake

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// A field is the name of a WebSocket field, in both spellings that a map may
// have as its key.
type field struct {
	rfc       string // the spelling of RFC 6455, written on the wire
	canonical string // the key that net/http uses
}

var (
	fieldAccept     = field{"Sec-WebSocket-Accept", "Sec-Websocket-Accept"}
	fieldExtensions = field{"Sec-WebSocket-Extensions", "Sec-Websocket-Extensions"}
	fieldKey        = field{"Sec-WebSocket-Key", "Sec-Websocket-Key"}
	fieldProtocol   = field{"Sec-WebSocket-Protocol", "Sec-Websocket-Protocol"}
	fieldVersion    = field{"Sec-WebSocket-Version", "Sec-Websocket-Version"}
)

const (
	rfcPrefix       = "Sec-WebSocket-"
	canonicalPrefix = "Sec-Websocket-"
)

// in returns the lines of f in h. The result must not be modified.
func (f field) in(h http.Header) []string {
	canonical, rfc := h[f.canonical], h[f.rfc]
	switch {
	case len(rfc) == 0:
		return canonical
	case len(canonical) == 0:
		return rfc
	}
	return slices.Concat(canonical, rfc)
}

// isWebSocketField reports whether the canonical key names a field of the opening
// handshake.
func isWebSocketField(canonical string) bool {
	return strings.HasPrefix(canonical, canonicalPrefix)
}

// isOwnField reports whether the canonical key names a field whose value the
// client's connection and the backend's do not share.
func isOwnField(canonical string) bool {
	switch canonical {
	case fieldKey.canonical, fieldVersion.canonical, fieldAccept.canonical:
		return true
	}
	return false
}

// rfcSpelling returns the spelling of RFC 6455 for a canonical WebSocket key, and
// any other key unchanged.
func rfcSpelling(canonical string) string {
	switch canonical {
	case fieldProtocol.canonical: // no allocation for the two fields of most handshakes
		return fieldProtocol.rfc
	case fieldExtensions.canonical:
		return fieldExtensions.rfc
	}
	if rest, ok := strings.CutPrefix(canonical, canonicalPrefix); ok {
		return rfcPrefix + rest
	}
	return canonical
}

// isHopByHop reports whether the canonical key names a field that concerns one
// connection only, and is not forwarded.
//
// "intermediaries SHOULD remove or replace fields that are known to require
// removal before forwarding, whether or not they appear as a
// connection-option"
// https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1
func isHopByHop(canonical string) bool {
	switch canonical {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade",
		"Proxy-Authenticate", "Proxy-Authorization":
		return true
	case "Http2-Settings": // belongs to Upgrade: h2c, which is never forwarded
		return true
	case "Content-Length", "Expect": // a handshake has no body
		return true
	}
	return false
}

// connectionOptions returns the canonical keys of the fields that h's Connection
// names in any of its lines.
//
// "Intermediaries MUST parse a received Connection header field before a
// message is forwarded and, for each connection-option in this field, remove
// any header or trailer field(s) from the message with the same name"
// https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1
//
// Forwarding fields cannot be named: "A sender MUST NOT send a connection option
// corresponding to a field that is intended for all recipients of the content."
// If a trusted proxy forwards the Connection of a client, that client could remove
// the proxy's X-Forwarded-For, and the proxy's address would be taken for the
// client's.
//
// The result is a map because a hostile client may name as many fields as fit
// into its header.
func connectionOptions(h http.Header) map[string]bool {
	var nominated map[string]bool
	for key, lines := range h {
		if !equalFold(key, "Connection") {
			continue
		}
		for option := range tokens(lines) {
			if isUsualOption(option) || isForwarding(option) {
				continue
			}
			if nominated == nil {
				nominated = make(map[string]bool)
			}
			nominated[http.CanonicalHeaderKey(option)] = true
		}
	}
	return nominated
}

// isUsualOption reports whether the connection option is a common one that
// isHopByHop covers. Every upgrade has one, and needs no map for it.
func isUsualOption(option string) bool {
	return equalFold(option, "upgrade") || equalFold(option, "keep-alive") || equalFold(option, "close")
}

// A valueArena holds the lines of a header in one array, as http.Header.Clone
// does. The first call of add allocates the array.
type valueArena struct {
	expected int // number of lines to allocate
	lines    []string
}

// add returns a copy of lines in the array.
func (a *valueArena) add(lines ...string) []string {
	if a.lines == nil {
		a.lines = make([]string, 0, max(a.expected, len(lines)))
	}
	from := len(a.lines)
	a.lines = append(a.lines, lines...)
	return a.lines[from:len(a.lines):len(a.lines)]
}

// addEndToEnd adds the fields of src to dst, without those that are hop-by-hop,
// named by Connection, or skipped. The keys in dst are canonical. dst and src
// share no slices afterwards.
func addEndToEnd(dst, src http.Header, arena *valueArena, skip func(canonical string) bool) {
	nominated := connectionOptions(src)
	for _, lines := range src {
		arena.expected += len(lines)
	}
	for key, lines := range src {
		canonical := http.CanonicalHeaderKey(key)
		if len(lines) == 0 || isHopByHop(canonical) || nominated[canonical] || skip(canonical) {
			continue
		}
		if old := dst[canonical]; len(old) > 0 {
			dst[canonical] = append(old, lines...)
			continue
		}
		dst[canonical] = arena.add(lines...)
	}
}

// appendFields appends the fields of h sorted by key, without those that are
// hop-by-hop or skipped. An invalid name or value is an error.
func appendFields(dst []byte, h http.Header, skip func(canonical string) bool) ([]byte, error) {
	var buf [16]string // most headers have no more fields, and need no allocation
	keys := slices.AppendSeq(buf[:0], maps.Keys(h))
	slices.Sort(keys)
	for _, key := range keys {
		if !httpguts.ValidHeaderFieldName(key) {
			return dst, fmt.Errorf("invalid field name %q", key)
		}
		canonical := http.CanonicalHeaderKey(key)
		if isHopByHop(canonical) || skip(canonical) {
			continue
		}
		name := key
		if isWebSocketField(canonical) {
			name = rfcSpelling(canonical)
		}
		for _, value := range h[key] {
			var err error
			if dst, err = appendField(dst, name, value); err != nil {
				return dst, err
			}
		}
	}
	return dst, nil
}

// appendField appends one field line. The name must be valid. The error does
// not quote the value: values may be secrets, and errors are logged.
func appendField(dst []byte, name, value string) ([]byte, error) {
	if !httpguts.ValidHeaderFieldValue(value) {
		return dst, fmt.Errorf("invalid value of field %q", name)
	}
	dst = append(dst, name...)
	dst = append(dst, ": "...)
	dst = append(dst, trimOWS(value)...)
	return append(dst, "\r\n"...), nil
}
