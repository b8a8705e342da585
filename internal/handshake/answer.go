package handshake

import (
	"bufio"
	"bytes"
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

// maxInterim is how many interim responses are skipped before the final one.
// It stops a backend that sends interim responses without end.
const maxInterim = 5

// ReadAnswer reads the backend's response to out, as [http.ReadResponse] does. It
// skips up to five interim responses (100, 103). The caller must limit how much
// can be read from br, and must close the response's Body.
//
// If br ends within a line, ReadResponse reports a malformed line, even if a
// deadline or a limit of br was the cause. A caller that has set one must check
// for it.
//
// The bytes after a 101 stay in br, even if it has a Content-Length or a
// Transfer-Encoding: for ReadResponse a 1xx response has no body.
//
// An error quotes nothing of the response but its status code. Errors are logged,
// and a backend may echo cookies and the tokens in the URL. An error of the
// connection below br is returned unchanged.
func ReadAnswer(br *bufio.Reader, out *http.Request) (*http.Response, error) {
	for range maxInterim + 1 {
		resp, err := readResponse(br, out)
		if err != nil {
			return nil, RedactError(err)
		}
		if err := checkResponse(resp); err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusSwitchingProtocols || resp.StatusCode >= 200 {
			return resp, nil
		}
	}
	return nil, errors.New("too many interim responses")
}

// readResponse is [http.ReadResponse], but keeps the Connection of a 1xx that says close
// beside other options: "Connection: Upgrade, close" of a 101 is an upgrade.
func readResponse(br *bufio.Reader, out *http.Request) (*http.Response, error) {
	const start = "HTTP/1.1 1"
	for n := range len(start) {
		// A line may end earlier, and nothing follow it.
		if b, err := br.Peek(n + 1); err != nil || b[n] == '\n' {
			return http.ReadResponse(br, out)
		}
	}
	if b, _ := br.Peek(len(start)); b[len(b)-2] != ' ' || b[len(b)-1] != '1' {
		return http.ReadResponse(br, out)
	}
	if b, _ := br.Peek(br.Buffered()); hasHeadWithoutClose(b) {
		return http.ReadResponse(br, out) // without a copy
	}
	head, err := readHead(br)
	if err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(newHeadReader(head), out)
	if err == nil && resp.Close {
		resp.Header["Connection"] = connectionLines(head)
	}
	return resp, err
}

// hasHeadWithoutClose reports whether b begins with a whole head in which "close" does not
// occur. That is what most backends send.
func hasHeadWithoutClose(b []byte) bool {
	head, _, isWhole := bytes.Cut(b, []byte("\r\n\r\n"))
	for isWhole && len(head) >= len("close") {
		if equalFold(string(head[:len("close")]), "close") {
			return false
		}
		head = head[1:]
	}
	return isWhole
}

// readHead reads up to an empty line, which ends a head.
func readHead(br *bufio.Reader) (head []byte, err error) {
	for lineLen := 0; ; {
		part, err := br.ReadSlice('\n')
		head, lineLen = append(head, part...), lineLen+len(part)
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case err == io.EOF:
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		case lineLen <= len("\r\n") && len(bytes.TrimSpace(head[len(head)-lineLen:])) == 0:
			return head, nil
		}
		lineLen = 0
	}
}

func newHeadReader(head []byte) *bufio.Reader {
	return bufio.NewReaderSize(bytes.NewReader(head), len(head))
}

// connectionLines returns the lines of Connection in a head that [http.ReadResponse] has
// read without an error.
func connectionLines(head []byte) []string {
	tp := textproto.NewReader(newHeadReader(head))
	tp.ReadLine()
	h, _ := tp.ReadMIMEHeader()
	return h["Connection"]
}

// RedactError returns an error of [http.ReadResponse], of the body of a response or of
// [http.Transport] without its quote from the response, which is the status line or a
// field. The result does not wrap err: unwrapping it would reveal the quote. An error of
// the connection is returned unchanged.
func RedactError(err error) error {
	if isIOError(err) {
		return err
	}
	if malformed, ok := errors.AsType[textproto.ProtocolError](err); ok {
		err = malformed // the transport wraps it
	}
	text, _, _ := strings.Cut(err.Error(), `"`)
	if _, ok := err.(textproto.ProtocolError); ok {
		text, _, _ = strings.Cut(text, ": ") // older versions of Go add the line without quotes
	}
	if text == err.Error() {
		return err
	}
	return errors.New(strings.TrimSuffix(strings.TrimRight(text, ": ["), "; got"))
}

// isIOError reports whether err is an error of the connection, as opposed to one
// of the bytes read from it. Every net.Error has a Timeout method, and so has
// os.ErrDeadlineExceeded. Callers use it.
func isIOError(err error) bool {
	_, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// checkResponse checks what ReadResponse does not.
func checkResponse(resp *http.Response) error {
	// ReadResponse accepts "+42" and "007". A ResponseWriter panics at them.
	if resp.StatusCode < 100 {
		// The reason phrase is not quoted: see ReadAnswer.
		code, _, _ := strings.Cut(resp.Status, " ")
		return fmt.Errorf("response has malformed status %q", code)
	}
	// "Content-Length : 5" has a key that ends in a space, so no filter
	// matches it. Other parsers read it as Content-Length.
	for name := range resp.Header {
		if !httpguts.ValidHeaderFieldName(name) {
			return errors.New("response has malformed field name")
		}
	}
	return nil
}

// An Agreement holds what a handshake has negotiated.
type Agreement struct {
	Subprotocol string   // "" if none
	Extensions  []string // values of Sec-WebSocket-Extensions, as the backend sent them
	Deflate     bool     // the only extension is permessage-deflate
	Unknown     bool     // an extension other than permessage-deflate was negotiated
}

// Verify checks that resp switches to the WebSocket protocol and that its
// Sec-WebSocket-Accept matches key. A server that only echoes a 101 cannot
// compute it (RFC 6455 §4.1).
//
// offers are the headers of the client's request and of the request to the
// backend. The subprotocol and each extension of resp must be in all of them.
// Without offers, any subprotocol or extension is an error. An offer of
// extensions that [Validate] would refuse counts as empty.
//
// Content-Length and Transfer-Encoding are ignored: some servers send them, and
// they have no meaning on a 101. An error quotes nothing of the response but its
// status code, as for [ReadAnswer].
func Verify(resp *http.Response, key string, offers ...http.Header) (Agreement, error) {
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return Agreement{}, fmt.Errorf("response has status %d, not 101", resp.StatusCode)
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

// fieldError returns the error for a field of the response that is missing or has
// the fault. It does not quote the lines: see ReadAnswer.
func fieldError(name string, lines []string, fault string) error {
	if len(lines) == 0 {
		return fmt.Errorf("response has no %s", name)
	}
	return fmt.Errorf("response's %s %s", name, fault)
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
			return errors.New("response has more than one subprotocol")
		}
		if !isToken(name) || !offered[name] {
			// The name is not quoted: some applications send tokens of users
			// in this field.
			return errors.New("response has a subprotocol that was not offered")
		}
		a.Subprotocol = name
	}
	return nil
}

// setExtensions sets a's fields about extensions from those in h.
//
// "If the response includes a |Sec-WebSocket-Extensions| header field and this
// header field indicates the use of an extension that was not present in the
// client's handshake [...], the client MUST _Fail the WebSocket Connection_."
// https://www.rfc-editor.org/rfc/rfc6455#section-4.1
func (a *Agreement) setExtensions(h http.Header, offers []http.Header) error {
	lines := fieldExtensions.in(h)
	names, err := extensionNames(lines)
	if err != nil {
		return fmt.Errorf("response's Sec-WebSocket-Extensions %w", err)
	}
	if len(names) == 0 {
		return nil
	}
	offered, seen := offeredByAll(offers, offeredExtensions), make(map[string]bool)
	for _, name := range names {
		if !offered[name] {
			return errors.New("response has an extension that was not offered")
		}
		// Two instances of an extension would use the same reserved bit.
		if seen[name] {
			return errors.New("response has an extension twice")
		}
		seen[name] = true
		a.Unknown = a.Unknown || name != deflateName
	}
	a.Deflate = !a.Unknown
	a.Extensions = slices.Clone(lines)
	return nil
}

// deflateName is compared byte for byte, as peers do. In another case it is an
// unknown extension.
// https://www.rfc-editor.org/rfc/rfc7692#section-7
const deflateName = "permessage-deflate"

// offeredByAll returns the names that list yields for each of offers. It reads
// each offer once: a client chooses the length of its offer, and a backend that
// echoes the offer makes the number of lookups grow with it.
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

// FirstSubprotocol returns the first subprotocol that h offers, or "" if it offers none.
func FirstSubprotocol(h http.Header) string {
	for p := range offeredSubprotocols(h) {
		return p
	}
	return ""
}

func offeredSubprotocols(h http.Header) iter.Seq[string] {
	return tokens(fieldProtocol.in(h))
}

// offeredExtensions yields the extensions in h, or none if the list is malformed
// or too long.
func offeredExtensions(h http.Header) iter.Seq[string] {
	names, _ := extensionNames(fieldExtensions.in(h))
	return slices.Values(names)
}
