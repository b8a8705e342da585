// Package label makes what programs choose, and names of the root package, values of labels: those
// of metrics, and IDs in JSON. All that show one thing have the same value for it. The modules of
// contrib call it too.
package label

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text returns s, quoted if it is not UTF-8, which the value of a label must be, or if it could
// be taken for one that was quoted: two strings stay different.
func Text(s string) string {
	if utf8.ValidString(s) && !strings.HasPrefix(s, `"`) {
		return s
	}
	return strconv.QuoteToASCII(s)
}

// Word returns a name of the root package as one word: "queue full" is queue_full, "Balancer.Pick" is
// balancer_pick, and "WithRewrite" is rewrite.
func Word(text string) string {
	text = strings.TrimPrefix(text, "With")
	var b strings.Builder
	wasLower := false
	for _, r := range text {
		switch {
		case r == ' ' || r == '.':
			r = '_'
		case unicode.IsUpper(r) && wasLower:
			b.WriteByte('_')
		}
		wasLower = unicode.IsLower(r)
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
