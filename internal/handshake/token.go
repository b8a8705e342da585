package handshake

import (
	"errors"
	"fmt"
	"iter"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// tokens yields the elements of a comma-separated list in one or more field
// lines. It skips empty elements:
//
// "A recipient MUST parse and ignore a reasonable number of empty list elements"
// https://www.rfc-editor.org/rfc/rfc9110#section-5.6.1.2
func tokens(lines []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, line := range lines {
			for element := range strings.SplitSeq(line, ",") {
				element = trimOWS(element)
				if element != "" && !yield(element) {
					return
				}
			}
		}
	}
}

// hasToken reports whether token is one of the elements of lines.
func hasToken(lines []string, token string) bool {
	for t := range tokens(lines) {
		if equalFold(t, token) {
			return true
		}
	}
	return false
}

// hasElement reports whether lines have an element.
func hasElement(lines []string) bool {
	for range tokens(lines) {
		return true
	}
	return false
}

// areAllTokens reports whether each element of lines is token, and there is one.
func areAllTokens(lines []string, token string) bool {
	n := 0
	for t := range tokens(lines) {
		if n++; !equalFold(t, token) {
			return false
		}
	}
	return n > 0
}

// isOnlyToken reports whether token is the only element of lines.
func isOnlyToken(lines []string, token string) bool {
	n := 0
	for t := range tokens(lines) {
		if n++; n > 1 || !equalFold(t, token) {
			return false
		}
	}
	return n == 1
}

// trimOWS removes leading and trailing optional whitespace, as RFC 9110 defines
// it. [strings.TrimSpace] would also remove bytes that make a value invalid.
func trimOWS(s string) string { return strings.Trim(s, " \t") }

// equalFold is [strings.EqualFold] for ASCII only. With Unicode folding the Kelvin
// sign equals a k, and an upgrade to another protocol could pass as websocket.
func equalFold(s, t string) bool {
	if len(s) != len(t) {
		return false
	}
	for i := range len(s) {
		if lower(s[i]) != lower(t[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// maxExtensions bounds how many extensions an offer or a response lists in all
// its lines. Browsers offer one, and a frame has three bits for extensions.
// Without the bound a client could send thousands of names and have a backend
// echo them. Comparing each with each has cost 35 s of CPU for 49 KB.
const maxExtensions = 16

// The texts of these errors follow the name of the field.
var (
	errMalformed         = errors.New("was malformed")
	errTooManyExtensions = fmt.Errorf("listed more than %d extensions", maxExtensions)
)

// appendExtensions appends the names in one line of Sec-WebSocket-Extensions. It
// returns an error if the line does not match the grammar:
//
//	extension-list  = 1#extension
//	extension       = extension-token *( ";" extension-param )
//	extension-param = token [ "=" (token | quoted-string) ]
//
// "When using the quoted-string syntax variant, the value after quoted-string
// unescaping MUST conform to the 'token' ABNF."
// https://www.rfc-editor.org/rfc/rfc6455#section-9.1
//
// Quoted values are read in another way: see skipQuoted.
func appendExtensions(names []string, line string) ([]string, error) {
	s := scanner{line}
	for {
		for s.skip(',') { // an empty element: see tokens
		}
		if s.rest == "" {
			return names, nil
		}
		if len(names) == maxExtensions {
			return nil, errTooManyExtensions // without parsing the rest
		}
		name := s.token()
		if name == "" || !s.skipParams() {
			return nil, errMalformed
		}
		names = append(names, name)
		if s.rest != "" && !s.skip(',') {
			return nil, errMalformed
		}
	}
}

// extensionNames returns the names in all lines of Sec-WebSocket-Extensions.
func extensionNames(lines []string) (names []string, err error) {
	for _, line := range lines {
		if names, err = appendExtensions(names, line); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// A scanner reads a field value from its front. Its methods skip whitespace
// before and after each element.
type scanner struct{ rest string }

// skip skips c, and reports whether c was the next byte.
func (s *scanner) skip(c byte) bool {
	s.rest = strings.TrimLeft(s.rest, " \t")
	if s.rest == "" || s.rest[0] != c {
		return false
	}
	s.rest = strings.TrimLeft(s.rest[1:], " \t")
	return true
}

// token skips and returns the token at the front, or "" if there is none.
func (s *scanner) token() string {
	s.rest = strings.TrimLeft(s.rest, " \t")
	n := 0
	for n < len(s.rest) && httpguts.IsTokenRune(rune(s.rest[n])) {
		n++
	}
	token := s.rest[:n]
	s.rest = strings.TrimLeft(s.rest[n:], " \t")
	return token
}

// skipParams skips the parameters of one extension, and reports whether they are
// well-formed.
func (s *scanner) skipParams() bool {
	for s.skip(';') {
		if s.token() == "" {
			return false
		}
		if s.skip('=') && s.token() == "" && !s.skipQuoted() {
			return false
		}
	}
	return true
}

// skipQuoted skips a quoted-string, and reports whether there was one.
//
// We deviate in both directions. The value need not be a token: devices of TR-369 send
// eid="self::a". But an escape, a comma and a semicolon are malformed: a peer that does not
// parse quotes would see another value, or two extensions where we see one.
func (s *scanner) skipQuoted() bool {
	value, rest, ok := strings.Cut(strings.TrimPrefix(s.rest, `"`), `"`)
	if !ok || !strings.HasPrefix(s.rest, `"`) || !isPlainValue(value) {
		return false
	}
	s.rest = strings.TrimLeft(rest, " \t")
	return true
}

// isPlainValue reports whether a quoted value has none of the bytes that skipQuoted
// refuses.
func isPlainValue(value string) bool {
	for _, c := range []byte(value) {
		if c < ' ' || c == 0x7f || c == '\\' || c == ',' || c == ';' {
			return false
		}
	}
	return true
}

// isToken reports whether s is an RFC 9110 token. A field name is a token too, so
// the check for field names does it.
func isToken(s string) bool { return httpguts.ValidHeaderFieldName(s) }
