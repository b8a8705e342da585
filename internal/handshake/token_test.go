package handshake

import (
	"slices"
	"testing"
)

func TestTokensAreReadOverAllLines(t *testing.T) {
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
	{`a; x=""`, nil, false},
	{`a; =y`, nil, false},
	{`a b`, nil, false},
	{`a,b;`, nil, false},
	{`"a"`, nil, false},
}

func TestExtensionNamesKeepTheGrammar(t *testing.T) {
	for _, tt := range extensionTests {
		names, ok := extensionNames([]string{tt.line})
		if ok != tt.ok || !slices.Equal(names, tt.names) {
			t.Errorf("extensionNames(%q) = %q, %v; want %q, %v", tt.line, names, ok, tt.names, tt.ok)
		}
	}
}
