package handshake

import (
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"golang.org/x/net/http/httpguts"
)

// nonceBytes is the length of the nonce in a Sec-WebSocket-Key.
const nonceBytes = 16

// Key returns the Sec-WebSocket-Key for a nonce.
//
// "The nonce MUST be selected randomly for each connection."
// https://www.rfc-editor.org/rfc/rfc6455#section-4.1
func Key(nonce [16]byte) string {
	return base64.StdEncoding.EncodeToString(nonce[:])
}

// keyGUID is appended to the key before it is hashed.
// https://www.rfc-editor.org/rfc/rfc6455#section-1.3
const keyGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// appendAccept appends the Sec-WebSocket-Accept that answers key.
//
// "concatenating /key/ [...] with the string [...], taking the SHA-1 hash of
// this concatenated value to obtain a 20-byte value and base64-encoding [...]
// this 20-byte hash"
// https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
func appendAccept(dst []byte, key string) []byte {
	var text [24 + len(keyGUID)]byte // a valid key has 24 bytes; append allocates for a longer one
	sum := sha1.Sum(append(append(text[:0], key...), keyGUID...))
	return base64.StdEncoding.AppendEncode(dst, sum[:])
}

// AppendRequest appends an upgrade request to dst: path and query of out.URL,
// out.Host, the handshake fields with key, then the fields of out.Header sorted
// by key. It skips hop-by-hop fields, Host, and Sec-WebSocket-Key, -Version and
// -Accept, which must not be there twice.
//
// A field that would break its line is an error, as are a method other than GET,
// an invalid Host or key, and a target with a # or bytes that are not visible ASCII. On
// an error it returns dst unchanged.
func AppendRequest(dst []byte, out *http.Request, key string) ([]byte, error) {
	if out.Method != "" && out.Method != http.MethodGet {
		return dst, fmt.Errorf("invalid method %q", out.Method)
	}
	if out.Host == "" || !httpguts.ValidHostHeader(out.Host) {
		return dst, fmt.Errorf("invalid Host %q", out.Host)
	}
	if !isKey(key) {
		return dst, errors.New("invalid Sec-WebSocket-Key")
	}
	b, err := appendTarget(append(dst, "GET "...), out.URL)
	if err != nil {
		return dst, err
	}
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, out.Host...)
	b = append(b, "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "...)
	b = append(b, key...)
	b = append(b, "\r\n"...)
	if b, err = appendFields(b, out.Header, isRequestField); err != nil {
		return dst, err
	}
	return append(b, "\r\n"...), nil
}

// isRequestField reports whether AppendRequest writes the field itself.
func isRequestField(canonical string) bool {
	return canonical == "Host" || isOwnField(canonical)
}

// appendTarget appends u in origin-form.
// https://www.rfc-editor.org/rfc/rfc9112#section-3.2.1
func appendTarget(dst []byte, u *url.URL) ([]byte, error) {
	if u == nil || u.Opaque != "" {
		return dst, errors.New("request has no path")
	}
	b, path := dst, escapedPath(u)
	if path == "" || path[0] != '/' {
		b = append(b, '/')
	}
	b = append(b, path...)
	if u.RawQuery != "" || u.ForceQuery {
		b = append(b, '?')
		b = append(b, u.RawQuery...)
	}
	if i := indexIllegal(b[len(dst):]); i >= 0 {
		return dst, fmt.Errorf("request target has the byte %#02x", b[len(dst)+i])
	}
	return b, nil
}
