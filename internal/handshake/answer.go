package handshake

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// maxInterim is how many interim answers are dropped before the one that
// counts; a backend that sends more is not going to come to the point.
const maxInterim = 5

// ReadAnswer reads the backend's answer to out, with [http.ReadResponse]. Up to
// five interim answers (100, 103) before it are dropped. br must be limited in
// size by the caller, who must also close the answer's Body.
//
// ReadResponse calls a line malformed that br ends within, whatever ended it: a
// caller that gave br a deadline or a limit must ask itself whether that was it.
//
// After a 101 the bytes behind its header are still in br, even if it has a
// Content-Length or is said to be chunked: ReadResponse gives no 1xx answer a
// body.
//
// ReadResponse removes a Connection line that says close from the answer, and
// so also what else that line names.
func ReadAnswer(br *bufio.Reader, out *http.Request) (*http.Response, error) {
	for range maxInterim + 1 {
		resp, err := http.ReadResponse(br, out)
		if err != nil {
			return nil, unquoted(err)
		}
		if err := checkAnswer(resp); err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusSwitchingProtocols || resp.StatusCode >= 200 {
			return resp, nil
		}
	}
	return nil, errors.New("too many interim answers")
}

// unquoted removes from an error of ReadResponse the field line that it quotes:
// errors are logged, and cookies must not be.
func unquoted(err error) error {
	malformed, ok := err.(textproto.ProtocolError)
	if !ok {
		return err
	}
	text, _, _ := strings.Cut(string(malformed), `"`)
	return textproto.ProtocolError(strings.TrimRight(text, ": "))
}

// checkAnswer refuses what ReadResponse lets pass.
func checkAnswer(resp *http.Response) error {
	// "+42" and "007": a ResponseWriter panics at them.
	if resp.StatusCode < 100 {
		return fmt.Errorf("answer has malformed status %q", resp.Status)
	}
	// "Content-Length : 5" gets a key with a space in it, which none of the
	// filters knows. Other parsers read it as the field that it looks like.
	for name := range resp.Header {
		if !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("answer has malformed field name %q", name)
		}
	}
	return nil
}

// An Agreement is what a handshake has negotiated.
type Agreement struct {
	Subprotocol string   // "" if none
	Extensions  []string // values of Sec-WebSocket-Extensions, as the backend sent them
	Deflate     bool     // permessage-deflate is the only extension
	Unknown     bool     // there is an extension other than permessage-deflate
}

// Verify checks that resp switches to the WebSocket protocol and answers key,
// which is what tells a WebSocket server from one that can be talked into
// echoing a 101 (RFC 6455 §4.1).
//
// A subprotocol and extensions must be in every one of offers: what the client
// has sent, and what the backend has. Without offers, nothing was offered.
// Content-Length and Transfer-Encoding are ignored: some servers send them,
// and they mean nothing on a 101.
func Verify(resp *http.Response, key string, offers ...http.Header) (Agreement, error) {
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return Agreement{}, fmt.Errorf("answer has status %d, not 101", resp.StatusCode)
	}
	if err := verifySwitch(resp.Header, key); err != nil {
		return Agreement{}, err
	}
	var a Agreement
	if err := a.setSubprotocol(resp.Header, offers); err != nil {
		return Agreement{}, err
	}
	if err := a.setExtensions(resp.Header, offers); err != nil {
		return Agreement{}, err
	}
	return a, nil
}

// verifySwitch checks the three fields that every 101 has. The quotes are from
// https://www.rfc-editor.org/rfc/rfc6455#section-4.1
func verifySwitch(h http.Header, key string) error {
	// "If the response lacks an |Upgrade| header field or the |Upgrade| header
	// field contains a value that is not an ASCII case-insensitive match for
	// the value "websocket", the client MUST _Fail the WebSocket Connection_."
	if lines := h["Upgrade"]; !isOnlyToken(lines, "websocket") {
		return fmt.Errorf("answer has Upgrade %q, not websocket", lines)
	}
	// "If the response lacks a |Connection| header field or the |Connection|
	// header field doesn't contain a token that is an ASCII case-insensitive
	// match for the value "Upgrade", the client MUST _Fail the WebSocket
	// Connection_."
	if lines := h["Connection"]; !hasToken(lines, "upgrade") {
		return fmt.Errorf("answer has Connection %q, not upgrade", lines)
	}
	// "If the response lacks a |Sec-WebSocket-Accept| header field or the
	// |Sec-WebSocket-Accept| contains a value other than the base64-encoded
	// SHA-1 of the concatenation of the |Sec-WebSocket-Key| (as a string, not
	// base64-decoded) with the string [...] but ignoring any leading and
	// trailing whitespace, the client MUST _Fail the WebSocket Connection_."
	lines := fieldAccept.in(h)
	if len(lines) != 1 || trimOWS(lines[0]) != Accept(key) {
		return fmt.Errorf("answer has Sec-WebSocket-Accept %q, which does not fit the key", lines)
	}
	return nil
}

// setSubprotocol sets a's subprotocol to the one in h.
//
// "If the response includes a |Sec-WebSocket-Protocol| header field and this
// header field indicates the use of a subprotocol that was not present in the
// client's handshake [...], the client MUST _Fail the WebSocket Connection_."
// https://www.rfc-editor.org/rfc/rfc6455#section-4.1
func (a *Agreement) setSubprotocol(h http.Header, offers []http.Header) error {
	for name := range tokens(fieldProtocol.in(h)) {
		if a.Subprotocol != "" {
			return errors.New("answer has more than one subprotocol")
		}
		if !isToken(name) || !inEvery(offers, name, subprotocolsIn) {
			// It is not quoted: tokens of users travel in this field.
			return errors.New("answer has a subprotocol that was not offered")
		}
		a.Subprotocol = name
	}
	return nil
}

// setExtensions sets what a says of extensions to what h says.
//
// "If the response includes a |Sec-WebSocket-Extensions| header field and this
// header field indicates the use of an extension that was not present in the
// client's handshake [...], the client MUST _Fail the WebSocket Connection_."
// https://www.rfc-editor.org/rfc/rfc6455#section-4.1
func (a *Agreement) setExtensions(h http.Header, offers []http.Header) error {
	lines := fieldExtensions.in(h)
	names, ok := extensionNames(lines)
	if !ok {
		return fmt.Errorf("answer has malformed Sec-WebSocket-Extensions %q", lines)
	}
	if len(names) == 0 {
		return nil
	}
	for i, name := range names {
		if !inEvery(offers, name, extensionsIn) {
			return fmt.Errorf("answer has extension %q, which was not offered", name)
		}
		// Two of a kind claim the same bit of every frame.
		if slices.Contains(names[:i], name) {
			return fmt.Errorf("answer has extension %q twice", name)
		}
		a.Unknown = a.Unknown || name != deflateName
	}
	a.Deflate = !a.Unknown
	a.Extensions = slices.Clone(lines)
	return nil
}

// deflateName is compared byte for byte, as peers do. Whoever spells it
// otherwise gets an extension that we do not know.
// https://www.rfc-editor.org/rfc/rfc7692#section-7
const deflateName = "permessage-deflate"

// inEvery reports whether name is in all of offers, which list names.
func inEvery(offers []http.Header, name string, list func(http.Header) []string) bool {
	for _, offer := range offers {
		if !slices.Contains(list(offer), name) {
			return false
		}
	}
	return len(offers) > 0
}

func subprotocolsIn(h http.Header) []string {
	return slices.Collect(tokens(fieldProtocol.in(h)))
}

// extensionsIn returns nothing for a malformed offer.
func extensionsIn(h http.Header) []string {
	names, _ := extensionNames(fieldExtensions.in(h))
	return names
}
