package handshake

import (
	"slices"
	"strings"
	"testing"
)

func TestTokensReadsAllLines(t *testing.T) {
	lines := []string{"", " a ,b", ",,\tc\t", "d,"}
	want := []string{"a", "b", "c", "d"}
	if got := slices.Collect(tokens(lines)); !slices.Equal(got, want) {
		t.Errorf("tokens(%q) = %q; want %q", lines, got, want)
	}
}

var extensionTests = []struct {
	line  string
	names []string
	ok    bool
}{
	{"", nil, true},
	{" , ,", nil, true},
	{"a", []string{"a"}, true},
	{"a,b", []string{"a", "b"}, true},
	{" a ; x ; y = z , , b ", []string{"a", "b"}, true},
	{`a; x="y", b; z="1"; w`, []string{"a", "b"}, true},
	{`a; x="y, c", b`, nil, false},
	{`a; x="y" z`, nil, false},
	{`a; x=""`, []string{"a"}, true},
	{`a; x="self::a", b`, []string{"a", "b"}, true}, // as devices of TR-369 do
	{"a; x=\"y z é\x80\"", []string{"a"}, true},
	{`a; x="y;z"`, nil, false},
	{`a; x="y\z"`, nil, false},
	{"a; x=\"y\tz\"", nil, false},
	{"a; x=\"y\x7f\"", nil, false},
	{`a; x="y`, nil, false},
	{`a; =y`, nil, false},
	{`a b`, nil, false},
	{`a,b;`, nil, false},
	{`"a"`, nil, false},
}

// Later comparisons are between 16 names and 16 names at most.
func TestExtensionNamesAreAtMostSixteen(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lines []string
		want  error
	}{
		{"16", []string{listExtensions(16)}, nil},
		{"16 and empty elements", []string{listExtensions(16) + ", ,", ""}, nil},
		{"16 on two lines", []string{listExtensions(15), "y"}, nil},
		{"17", []string{listExtensions(17)}, errTooManyExtensions},
		{"17 on two lines", []string{listExtensions(16), "y"}, errTooManyExtensions},
		{"17 of a kind", []string{strings.Repeat("x,", 17)}, errTooManyExtensions},
		{"17 lines", slices.Repeat([]string{"x"}, 17), errTooManyExtensions},
	} {
		if names, err := extensionNames(tt.lines); err != tt.want || err != nil && names != nil {
			t.Errorf("%s: extensionNames = %q, %v; want the error %v", tt.name, names, err, tt.want)
		}
	}
}

func TestExtensionNamesMatchGrammar(t *testing.T) {
	for _, tt := range extensionTests {
		names, err := extensionNames([]string{tt.line})
		if (err == nil) != tt.ok || !slices.Equal(names, tt.names) {
			t.Errorf("extensionNames(%q) = %q, %v; want %q, ok = %v", tt.line, names, err, tt.names, tt.ok)
		}
	}
}
