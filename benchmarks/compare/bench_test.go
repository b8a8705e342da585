package main

import (
	"strings"
	"testing"
)

func TestEachPeerBeginsARound(t *testing.T) {
	peers := []*peer{{name: "a"}, {name: "b"}, {name: "c"}}
	for round, want := range []string{"a b c", "b c a", "c a b", "a b c"} {
		var names []string
		for _, p := range inTurn(peers, round) {
			names = append(names, p.name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("round %d: %q; want %q", round, got, want)
		}
	}
}
