package handshake

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// lines joined by newlines are several Cookie fields.
var removeCookieSeeds = []struct{ lines, want string }{
	{"", ""},
	{"b=1", "b=1"},
	{"a=1", ""},
	{"a=1; b=2", "b=2"},
	{"b=2; a=1", "b=2"},
	{"b=2; a=1; c=3", "b=2; c=3"},
	{"a=1; b=2; a=3; c=4; a=5", "b=2; c=4"},
	{"b=2;a=1;c=3", "b=2;c=3"},
	{"b=2;  a=1 ;\tc=3", "b=2;\tc=3"},
	{"b=2; a=1;", "b=2;"},
	{"a=1;", ""},
	{"a", ""},
	{"a; b", "b"},
	{" a =1; b=2", "b=2"},
	{"A=1; b=2", "A=1; b=2"},
	{"aa=1; b=a", "aa=1; b=a"},
	{"b=a=1", "b=a=1"},
	{`b="x y"; a="1"; c=\x`, `b="x y"; c=\x`},
	{"b=2; ; a=1;; c=3", "b=2; ;; c=3"},
	{"a=1\nb=2", "b=2"},
	{"b=2\na=1", "b=2"},
	{"a=1\na=2", ""},
	{"b=1; a=2\nc=3\na=4; d=5", "b=1\nc=3\nd=5"},
}

func TestRemoveCookieLeavesTheOthersAsTheyAre(t *testing.T) {
	for _, tt := range removeCookieSeeds {
		h := http.Header{"Cookie": strings.Split(tt.lines, "\n"), "X": {"a=1"}}
		if tt.lines == "" {
			delete(h, "Cookie")
		}
		RemoveCookie(h, "a")
		if got := strings.Join(h["Cookie"], "\n"); got != tt.want {
			t.Errorf("%q without a is %q; want %q", tt.lines, got, tt.want)
		}
		if lines, ok := h["Cookie"]; ok && len(lines) == 0 || h.Get("X") != "a=1" {
			t.Errorf("%q without a leaves %v", tt.lines, h)
		}
	}
}

func FuzzRemoveCookie(f *testing.F) {
	for _, s := range removeCookieSeeds {
		f.Add(s.lines, "a")
	}
	f.Fuzz(func(t *testing.T, lines, name string) {
		if (&http.Cookie{Name: name}).Valid() != nil || strings.Count(lines, ";") > 1000 {
			t.Skip("no name, or net/http has a limit")
		}
		before := &http.Request{Header: http.Header{"Cookie": strings.Split(lines, "\n")}}
		after := &http.Request{Header: before.Header.Clone()}
		RemoveCookie(after.Header, name)
		text := func(c *http.Cookie) string { return c.Name + "=" + c.Value }
		var want, got []string
		for _, c := range before.Cookies() {
			if c.Name != name {
				want = append(want, text(c))
			}
		}
		for _, c := range after.Cookies() {
			got = append(got, text(c))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q without %q has the cookies %q; want %q", lines, name, got, want)
		}
	})
}
