package main

import (
	"net"
	"strings"
	"testing"
)

func TestCheckPasses(t *testing.T) {
	out := new(strings.Builder)
	err := check(t.Context(), out)
	t.Logf("it saw:\n%s", out)
	if err != nil {
		t.Fatalf("check() = %v; want nil", err)
	}
}

func TestListenUsesAnotherPortWhenTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	said := new(strings.Builder)
	logf := func(format string, args ...any) { said.WriteString(format) }
	ln, err := listen(taken.Addr().String(), logf)
	if err != nil {
		t.Fatalf("listen(a taken port) = %v; want another port", err)
	}
	defer ln.Close()
	if said.Len() == 0 {
		t.Error("listen(a taken port) said nothing; want it to tell which port it uses")
	}
}

func TestRoomNamesAreChecked(t *testing.T) {
	tests := []struct {
		name string
		want bool
	}{
		{"design", true},
		{"Büro-2", true},
		{strings.Repeat("ü", maxRoomName), true},
		{strings.Repeat("ü", maxRoomName+1), false},
		{"", false},
		{"two words", false},
		{"../etc", false},
		{"a\nb", false},
		{"\xff", false},
	}
	for _, tt := range tests {
		if got := isRoomName(tt.name); got != tt.want {
			t.Errorf("isRoomName(%q) = %t; want %t", tt.name, got, tt.want)
		}
	}
}

func TestHistoryIsBounded(t *testing.T) {
	c := newChat("A")
	m := &member{out: make(chan []byte, 10*maxHistory)}
	if !c.join(m, "design") {
		t.Fatal("join() = false; want true")
	}
	for range 2 * maxHistory {
		c.receive(m, "Ann", "again")
	}
	if got := len(m.room.history); got != maxHistory {
		t.Errorf("after %d messages the history has %d; want %d", 2*maxHistory, got, maxHistory)
	}
}
