package frame

import (
	"encoding/binary"
	"unicode/utf8"
)

// Status codes of Close frames that the relay sends or reports.
// https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1 and, for 1012 and up,
// https://www.iana.org/assignments/websocket/websocket.xhtml#close-code-number
const (
	StatusNormal          = 1000
	StatusGoingAway       = 1001
	StatusProtocolError   = 1002
	StatusNoStatus        = 1005 // not sent; stands for a Close frame without a code
	StatusAbnormal        = 1006 // not sent
	StatusPolicyViolation = 1008
	StatusTooBig          = 1009
	StatusInternalError   = 1011
	StatusServiceRestart  = 1012
	StatusTryAgainLater   = 1013
	StatusTLSHandshake    = 1015 // not sent
)

// MaxReason is the length in bytes of the longest reason that fits into a Close
// frame after its code.
const MaxReason = MaxControlPayload - 2

// ValidCode reports whether an endpoint may send a Close frame with code.
// https://www.rfc-editor.org/rfc/rfc6455#section-7.4.2
func ValidCode(code int) bool {
	switch {
	case code == 1004, code == StatusNoStatus, code == StatusAbnormal, code == StatusTLSHandshake:
		return false
	}
	return code >= 1000 && code <= 1014 || code >= 3000 && code <= 4999
}

// checkClose checks the payload of a Close frame: nothing, or a code that may be sent, and
// a reason in UTF-8. Codes from 1016 to 2999 pass: they are reserved for later RFCs.
// https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
func checkClose(h Header, payload []byte) *Violation {
	switch len(payload) {
	case 0:
		return nil
	case 1:
		return violation("close frame with half a status code")
	}
	var buf [MaxControlPayload]byte
	plain := append(buf[:0], payload...)
	if h.Masked {
		Mask(plain, h.Key)
	}
	code := int(binary.BigEndian.Uint16(plain))
	switch {
	case !ValidCode(code) && (code < 1016 || code > 2999):
		return violation("close frame with an invalid status code")
	case !utf8.Valid(plain[2:]):
		return violation("close frame with a reason that is not UTF-8")
	}
	return nil
}

// ClosePayload returns the payload of a Close frame. With the code [StatusNoStatus] it
// is empty. A reason that is too long is truncated at the start of a rune.
func ClosePayload(code int, reason string) []byte {
	if code == StatusNoStatus {
		return nil
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(code)), truncateReason(reason)...)
}

// AppendControl appends a control frame. It panics if payload is longer than
// [MaxControlPayload].
//
// With a nil key the frame is not masked: "A server MUST NOT mask any frames that
// it sends to the client." A client must mask all frames.
// https://www.rfc-editor.org/rfc/rfc6455#section-5.1
func AppendControl(dst []byte, op Opcode, payload []byte, key *[4]byte) []byte {
	if len(payload) > MaxControlPayload {
		panic("BUG: control frame with a payload of more than 125 bytes")
	}
	h := Header{Fin: true, Opcode: op, Length: uint64(len(payload))}
	if key != nil {
		h.Masked, h.Key = true, *key
	}
	dst = AppendHeader(dst, h)
	dst = append(dst, payload...)
	if key != nil {
		Mask(dst[len(dst)-len(payload):], *key)
	}
	return dst
}

// CloseCode returns the status code in a whole Close frame, which begins with its
// header. It returns [StatusNoStatus] if the frame has no code.
func CloseCode(whole []byte) int {
	h, size, err := ParseHeader(whole)
	if err != nil || size == 0 || len(whole) < size+2 || h.Length < 2 {
		return StatusNoStatus
	}
	code := [2]byte{whole[size], whole[size+1]}
	if h.Masked {
		Mask(code[:], h.Key)
	}
	return int(binary.BigEndian.Uint16(code[:]))
}

// truncateReason returns s, shortened to MaxReason without splitting a rune.
func truncateReason(s string) string {
	if len(s) <= MaxReason {
		return s
	}
	n := MaxReason
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
