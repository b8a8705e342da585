package handshake

import (
	"errors"
	"net/http"
	"strings"
)

// SwitchHeader returns the header of the 101 to the client: the fields that
// middleware has set on the ResponseWriter (outer), and those of the backend's
// 101. Values are added, not replaced, so that the client gets the cookies of
// both. Keys are canonical. The result shares no slices with its sources.
//
// Hop-by-hop fields, fields named by Connection, and Sec-WebSocket-* fields are
// left out. [AppendSwitch] writes the last.
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
	return isWebSocketField(canonical) || strings.HasPrefix(canonical, http.TrailerPrefix)
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
