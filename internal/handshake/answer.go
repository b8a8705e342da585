package handshake

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
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
// After a 101 the bytes after its header are still in br, even if it has a
// Content-Length or is said to be chunked: ReadResponse gives no 1xx answer a
// body.
//
// An error repeats nothing of the answer but its status code: errors are logged,
// and a backend that echoes what it was asked echoes cookies and the tokens in
// the URL. A net.Error of br, and its end, are returned as they are.
//
// ReadResponse removes a Connection line that says close from the answer, and
// so also what else that line names.
func ReadAnswer(br *bufio.Reader, out *http.Request) (*http.Response, error) {
	for range maxInterim + 1 {
		resp, err := http.ReadResponse(br, out)
		if err != nil {
			return nil, redactError(err)
		}
		if err := checkResponse(resp); err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusSwitchingProtocols || resp.StatusCode >= 200 {
			return resp, nil
		}
	}
	return nil, errors.New("too many interim answers")
}

// redactError removes from an error of ReadResponse what it quotes of the answer:
// the status line, or a field. Nothing is wrapped, since who unwraps it would
// find the quote.
func redactError(err error) error {
	if isIOError(err) {
		return err
	}
	text, _, _ := strings.Cut(err.Error(), `"`)
	if _, ok := err.(textproto.ProtocolError); ok {
		text, _, _ = strings.Cut(text, ": ") // older versions of Go repeat the line without quotes
	}
	if text == err.Error() {
		return err
	}
	return errors.New(strings.TrimSuffix(strings.TrimRight(text, ": ["), "; got"))
}

// isIOError reports whether err is about the connection, and not about what was
// read from it. A method Timeout is what every net.Error has, and so has
// os.ErrDeadlineExceeded; callers ask for it.
func isIOError(err error) bool {
	_, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// checkResponse refuses what ReadResponse lets pass.
func checkResponse(resp *http.Response) error {
	// "+42" and "007": a ResponseWriter panics at them.
	if resp.StatusCode < 100 {
		// The phrase after it is the backend's: see ReadAnswer.
		code, _, _ := strings.Cut(resp.Status, " ")
		return fmt.Errorf("answer has malformed status %q", code)
	}
	// "Content-Length : 5" gets a key with a space in it, which none of the
	// filters knows. Other parsers read it as the field that it looks like.
	for name := range resp.Header {
		if !httpguts.ValidHeaderFieldName(name) {
			return errors.New("answer has malformed field name")
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
//
// An offer of extensions that [Validate] would refuse offers none. As those of
// [ReadAnswer], errors repeat nothing of the answer but its status code.
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
		return fieldError("Upgrade", lines, "is not websocket")
	}
	// "If the response lacks a |Connection| header field or the |Connection|
	// header field doesn't contain a token that is an ASCII case-insensitive
	// match for the value "Upgrade", the client MUST _Fail the WebSocket
	// Connection_."
	if lines := h["Connection"]; !hasToken(lines, "upgrade") {
		return fieldError("Connection", lines, "does not name upgrade")
	}
	// "If the response lacks a |Sec-WebSocket-Accept| header field or the
	// |Sec-WebSocket-Accept| contains a value other than the base64-encoded
	// SHA-1 of the concatenation of the |Sec-WebSocket-Key| (as a string, not
	// base64-decoded) with the string [...] but ignoring any leading and
	// trailing whitespace, the client MUST _Fail the WebSocket Connection_."
	lines := fieldAccept.in(h)
	var buf [28]byte
	if len(lines) != 1 || trimOWS(lines[0]) != string(appendAccept(buf[:0], key)) {
		return fieldError(fieldAccept.rfc, lines, "does not fit the key")
	}
	return nil
}

// fieldError is the error of a field of the answer that is missing or that has
// the fault. It does not quote the lines: see ReadAnswer.
func fieldError(name string, lines []string, fault string) error {
	if len(lines) == 0 {
		return fmt.Errorf("answer has no %s", name)
	}
	return fmt.Errorf("answer's %s %s", name, fault)
}

// setSubprotocol sets a's subprotocol to the one in h.
//
// "If the response includes a |Sec-WebSocket-Protocol| header field and this
// header field indicates the use of a subprotocol that was not present in the
// client's handshake [...], the client MUST _Fail the WebSocket Connection_."
// https://www.rfc-editor.org/rfc/rfc6455#section-4.1
func (a *Agreement) setSubprotocol(h http.Header, offers []http.Header) error {
	lines := fieldProtocol.in(h)
	if len(lines) == 0 {
		return nil
	}
	offered := offeredByAll(offers, offeredSubprotocols)
	for name := range tokens(lines) {
		if a.Subprotocol != "" {
			return errors.New("answer has more than one subprotocol")
		}
		if !isToken(name) || !offered[name] {
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
	names, err := extensionNames(lines)
	if err != nil {
		return fmt.Errorf("answer's Sec-WebSocket-Extensions %w", err)
	}
	if len(names) == 0 {
		return nil
	}
	offered, seen := offeredByAll(offers, offeredExtensions), make(map[string]bool)
	for _, name := range names {
		if !offered[name] {
			return errors.New("answer has an extension that was not offered")
		}
		// Two of a kind claim the same bit of every frame.
		if seen[name] {
			return errors.New("answer has an extension twice")
		}
		seen[name] = true
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

// offeredByAll returns the names that are in all of offers, which list yields. Each
// offer is read once: who sends it chooses its length, and with a backend that
// echoes it also how many names are looked up.
func offeredByAll(offers []http.Header, list func(http.Header) iter.Seq[string]) map[string]bool {
	var common map[string]bool
	for i, offer := range offers {
		names := make(map[string]bool)
		for name := range list(offer) {
			if i == 0 || common[name] {
				names[name] = true
			}
		}
		common = names
	}
	return common
}

func offeredSubprotocols(h http.Header) iter.Seq[string] {
	return tokens(fieldProtocol.in(h))
}

// offeredExtensions yields nothing for an offer that is malformed or too long.
func offeredExtensions(h http.Header) iter.Seq[string] {
	names, _ := extensionNames(fieldExtensions.in(h))
	return slices.Values(names)
}
