package handshake

import (
	"net/http"
	"net/textproto"
	"slices"
	"strings"
)

// RemoveCookie removes the cookies of that name from h. The other ones stay as they are, byte
// for byte. It may change the lines of Cookie in place.
func RemoveCookie(h http.Header, name string) {
	lines := h["Cookie"]
	kept := lines[:0]
	for _, line := range lines {
		if strings.Contains(line, name) {
			if line = withoutCookie(line, name); line == "" {
				continue
			}
		}
		kept = append(kept, line)
	}
	if len(kept) == len(lines) {
		return
	}
	if len(kept) == 0 {
		delete(h, "Cookie")
		return
	}
	h["Cookie"] = kept
}

// withoutCookie returns a line of a Cookie field without the cookies of that name.
func withoutCookie(line, name string) string {
	pairs := strings.Split(line, ";")
	kept := slices.DeleteFunc(pairs, func(pair string) bool {
		key, _, _ := strings.Cut(pair, "=")
		return textproto.TrimString(key) == name // as net/http finds it
	})
	if len(kept) == strings.Count(line, ";")+1 {
		return line
	}
	return trimOWS(strings.Join(kept, ";"))
}
