package handshake

import (
	"errors"
	"net/http"
	"strings"
)

// SwitchHeader returns what goes with the 101 to the client: outer, which is
// what middleware has set on the ResponseWriter, and backend, the header of the
// backend's 101. Values are added, not replaced, so that cookies of both
// arrive. Keys are canonical; no slices are shared.
//
// Of both, what is hop-by-hop, or named by their Connection, is left out, and
// all of Sec-WebSocket-*, which [AppendSwitch] writes.
func SwitchHeader(outer, backend http.Header) http.Header {
	h := make(http.Header) // most have no fields but those of AppendSwitch: no room before there is one
	var arena valueArena
	addEndToEnd(h, outer, &arena, isNotForSwitch)
	addEndToEnd(h, backend, &arena, isWebSocketField)
	return h
}

// isNotForSwitch reports whether middleware's field stays away from a 101. Keys
// with [http.TrailerPrefix] announce trailers: they are no fields at all.
func isNotForSwitch(canonical string) bool {
	return isWebSocketField(canonical) || strings.HasPrefix(canonical, http.TrailerPrefix)
}

// AppendSwitch appends a whole 101 to dst: the fields that make it one, with
// the answer to clientKey, which is another than the backend was asked with;
// what a says was negotiated; then h sorted by key, without what is hop-by-hop
// and Sec-WebSocket-*, so that each of them is there once.
//
// An invalid name or value is an error. On an error dst is returned as it was.
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

// appendAgreement appends the fields that tell the client what was agreed.
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

// AnswerHeader returns the header of an answer that is no 101, as the client
// may see it: a new map without what is hop-by-hop or named by Connection.
// Content-Length is left out too, since whoever copies the body knows better.
// Keys are canonical, but those of WebSocket fields have the spelling of RFC
// 6455, which a ResponseWriter keeps.
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
