package handshake

import (
	"errors"
	"net/http"
	"slices"
	"strings"
)

// SwitchHeader returns the header of the 101 to the client: the fields that
// middleware has set on the ResponseWriter (outer), and those of the backend's
// 101. Values are added, not replaced, so that the client gets the cookies of
// both. Keys are canonical. The result shares no slices with its sources.
//
// Hop-by-hop fields, fields named by Connection, and Sec-WebSocket-* fields are
// left out. [AppendSwitch] writes the last. Of outer, Content-Encoding, Content-Length and
// Content-Type are left out too: middleware sets them for the body of another response.
func SwitchHeader(outer, backend http.Header) http.Header {
	h := make(http.Header) // without a size: most 101s have only the fields of AppendSwitch
	var arena valueArena
	addEndToEnd(h, outer, &arena, isNotForSwitch)
	addEndToEnd(h, backend, &arena, isWebSocketField)
	return h
}

// isNotForSwitch reports whether a field that middleware has set is left out of a
// 101. Keys with [http.TrailerPrefix] are trailers, not fields.
func isNotForSwitch(canonical string) bool {
	switch canonical {
	case "Content-Encoding", "Content-Type":
		return true
	}
	return isWebSocketField(canonical) || strings.HasPrefix(canonical, http.TrailerPrefix)
}

// UpdateSwitchHeader changes h, the header of a 101, as middleware has changed its own
// header from before to after: lines that were added are added to h, and lines that were
// removed are removed from h if they are there. The fields that [SwitchHeader] leaves out
// of outer are left out. It returns h, or a new map if h is nil.
func UpdateSwitchHeader(h, before, after http.Header) http.Header {
	if h == nil {
		h = make(http.Header)
	}
	before, after = SwitchHeader(before, nil), SwitchHeader(after, nil)
	for key, lines := range before {
		if left := without(h[key], without(lines, after[key])); len(left) > 0 {
			h[key] = left
		} else {
			delete(h, key)
		}
	}
	for key, lines := range after {
		if added := without(lines, before[key]); len(added) > 0 {
			h[key] = slices.Concat(h[key], added)
		}
	}
	return h
}

// without returns lines without the first occurrence of each of removed. Lines is
// unchanged, and the result may share its array.
func without(lines, removed []string) []string {
	for _, line := range removed {
		if i := slices.Index(lines, line); i >= 0 {
			lines = slices.Delete(slices.Clone(lines), i, i+1)
		}
	}
	return lines
}

// AppendSwitch appends a complete 101 to dst: the fields that every 101 has, the
// agreement a, then the fields of h sorted by key. It skips the hop-by-hop fields
// and Sec-WebSocket-* of h, so that none of them is there twice.
//
// clientKey is the Sec-WebSocket-Key of the client. The request to the backend
// had another key.
//
// An invalid name or value is an error. On an error it returns dst unchanged.
func AppendSwitch(dst []byte, h http.Header, clientKey string, a Agreement) ([]byte, error) {
	b := append(dst, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"+
		"Connection: Upgrade\r\nSec-WebSocket-Accept: "...)
	b = appendAccept(b, clientKey)
	b = append(b, "\r\n"...)
	b, err := appendAgreement(b, a)
	if err != nil {
		return dst, err
	}
	if b, err = appendFields(b, h, isWebSocketField); err != nil {
		return dst, err
	}
	return append(b, "\r\n"...), nil
}

// ConnectHeader returns the header of the 200 that opens a WebSocket over HTTP/2: the fields
// of h, without hop-by-hop fields and Sec-WebSocket-*, and those of the agreement a.
// Sec-WebSocket-Accept is not among them. The result is a new map, which shares slices with h.
//
// An invalid name or value is an error.
func ConnectHeader(h http.Header, a Agreement) (http.Header, error) {
	checked, err := appendAgreement(nil, a)
	if err != nil {
		return nil, err
	}
	if _, err = appendFields(checked, h, isWebSocketField); err != nil {
		return nil, err
	}
	out := make(http.Header, len(h)+2)
	for key, lines := range h {
		if canonical := http.CanonicalHeaderKey(key); !isHopByHop(canonical) && !isWebSocketField(canonical) {
			out[key] = lines
		}
	}
	if a.Subprotocol != "" {
		out[fieldProtocol.canonical] = []string{a.Subprotocol}
	}
	if len(a.Extensions) > 0 {
		out[fieldExtensions.canonical] = a.Extensions
	}
	return out, nil
}

// appendAgreement appends the fields for the subprotocol and the extensions of a.
func appendAgreement(b []byte, a Agreement) ([]byte, error) {
	var err error
	if a.Subprotocol != "" {
		if !isToken(a.Subprotocol) {
			return b, errors.New("invalid subprotocol")
		}
		if b, err = appendField(b, fieldProtocol.rfc, a.Subprotocol); err != nil {
			return b, err
		}
	}
	for _, value := range a.Extensions {
		if b, err = appendField(b, fieldExtensions.rfc, value); err != nil {
			return b, err
		}
	}
	return b, nil
}

// AnswerHeader returns the header for the client of a response other than 101: a
// new map without hop-by-hop fields and fields named by Connection.
// Content-Length is left out too, because the caller that copies the body knows
// its length. Keys are canonical, but those of WebSocket fields have the spelling
// of RFC 6455, which a ResponseWriter does not change.
func AnswerHeader(backend http.Header) http.Header {
	h := make(http.Header, len(backend))
	var arena valueArena
	addEndToEnd(h, backend, &arena, func(string) bool { return false })
	for key, lines := range h {
		if isWebSocketField(key) {
			delete(h, key)
			h[rfcSpelling(key)] = lines
		}
	}
	return h
}
