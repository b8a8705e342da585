package handshake

import (
	"errors"
	"fmt"
	"iter"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// tokens yields the elements of a comma-separated list that may be spread over
// several field lines. Empty elements are skipped:
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

// isOnlyToken reports whether token is the one and only element of lines.
func isOnlyToken(lines []string, token string) bool {
	n := 0
	for t := range tokens(lines) {
		if n++; n > 1 || !equalFold(t, token) {
			return false
		}
	}
	return n == 1
}

// trimOWS removes what RFC 9110 calls optional whitespace. It is narrower than
// [strings.TrimSpace], which would also remove bytes that make a value invalid.
func trimOWS(s string) string { return strings.Trim(s, " \t") }

// equalFold is [strings.EqualFold] for ASCII only. Unicode folding takes the
// Kelvin sign for a k, and would let an upgrade pass as websocket here that
// the next hop sees as something else.
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

// maxExtensions bounds how many extensions an offer or an answer lists, over all
// lines. Browsers offer one, and a frame has three bits for them. Without it a
// client could pack thousands of names into a header, have a backend echo them,
// and make us, or whoever is behind us, compare each with each: 49 KB have cost
// 35 s of CPU.
const maxExtensions = 16

// The errors of extensionNames go on from the name of the field.
var (
	errMalformed         = errors.New("was malformed")
	errTooManyExtensions = fmt.Errorf("listed more than %d extensions", maxExtensions)
)

// appendExtensions appends the names in one line of Sec-WebSocket-Extensions.
// It checks whether the line keeps the grammar:
//
//	extension-list  = 1#extension
//	extension       = extension-token *( ";" extension-param )
//	extension-param = token [ "=" (token | quoted-string) ]
//
// "When using the quoted-string syntax variant, the value after quoted-string
// unescaping MUST conform to the 'token' ABNF."
// https://www.rfc-editor.org/rfc/rfc6455#section-9.1
func appendExtensions(names []string, line string) ([]string, error) {
	s := scanner{line}
	for {
		for s.skip(',') { // an empty element: see tokens
		}
		if s.rest == "" {
			return names, nil
		}
		if len(names) == maxExtensions {
			return nil, errTooManyExtensions // at once: the rest is not even looked at
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

// extensionNames is appendExtensions over all lines.
func extensionNames(lines []string) (names []string, err error) {
	for _, line := range lines {
		if names, err = appendExtensions(names, line); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// A scanner reads a field value from its front. Its methods skip whitespace
// before what they look for and after what they find.
type scanner struct{ rest string }

// skip skips c, and reports whether it was there.
func (s *scanner) skip(c byte) bool {
	s.rest = strings.TrimLeft(s.rest, " \t")
	if s.rest == "" || s.rest[0] != c {
		return false
	}
	s.rest = strings.TrimLeft(s.rest[1:], " \t")
	return true
}

// token returns the token at the front, or "" if there is none.
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
		if s.skip('=') && s.token() == "" && !s.skipQuotedToken() {
			return false
		}
	}
	return true
}

// skipQuotedToken skips a quoted-string whose value is a token. We deviate: an
// escape in it is malformed. It could only stand for a character that needs
// none, and peers that do not unescape would see another value than we do.
func (s *scanner) skipQuotedToken() bool {
	value, rest, ok := strings.Cut(strings.TrimPrefix(s.rest, `"`), `"`)
	if !ok || !strings.HasPrefix(s.rest, `"`) || !isToken(value) {
		return false
	}
	s.rest = strings.TrimLeft(rest, " \t")
	return true
}

// isToken reports whether s is an RFC 9110 token. Field names are tokens too,
// which is why the check of those serves here.
func isToken(s string) bool { return httpguts.ValidHeaderFieldName(s) }
