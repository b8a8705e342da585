package handshake

import (
	"net/http"
	"testing"
)

func TestSwitchHeaderHasFieldsOfBothSides(t *testing.T) {
	outer := header("Set-Cookie: a", "X-Frame-Options: deny", "Connection: close, X-Outer", "X-Outer: 1", "X-Inner: 1",
		"Content-Length: 5", "content-type: text/html", "Content-Encoding: gzip", "Sec-WebSocket-Protocol: a", "x-odd: 1")
	outer[http.TrailerPrefix+"X-Sum"] = []string{"1"}
	outer["Date"] = nil // keeps a ResponseWriter from adding one
	backend := header("Set-Cookie: b", "Set-Cookie: c", "Date: today", "Connection: Upgrade, X-Inner", "X-Inner: 2", "X-Outer: 2",
		"Upgrade: websocket", "Content-Length: 0", "Transfer-Encoding: chunked", "Keep-Alive: 1", "Proxy-Authenticate: x",
		"Sec-Websocket-Accept: x", "Sec-Websocket-Extensions: y", "X-Odd: 2")
	// A Connection names fields of its own message only.
	want := header("Set-Cookie: a", "Set-Cookie: b", "Set-Cookie: c", "X-Frame-Options: deny", "Date: today",
		"X-Inner: 1", "X-Outer: 2", "X-Odd: 1", "X-Odd: 2")
	wantHeader(t, SwitchHeader(outer, backend), want)
}

func TestSwitchHeaderSharesNothingWithBothSides(t *testing.T) {
	outer, backend := header("A: 1", "B: 1"), header("B: 2", "C: 1")
	h := SwitchHeader(outer, backend)
	for name := range h {
		h[name][0] = "changed"
		h[name] = append(h[name], "added")
	}
	wantHeader(t, outer, header("A: 1", "B: 1"))
	wantHeader(t, backend, header("B: 2", "C: 1"))
}

var updateSwitchHeaderTests = []struct {
	name             string
	h, before, after http.Header
	want             http.Header
}{
	{"no map", nil, nil, header("A: 1"), header("A: 1")},
	{"nothing changed", header("A: 1"), header("A: 1", "B: 1"), header("A: 1", "B: 1"), header("A: 1")},
	{"line added", header("A: 1", "A: backend"), header("A: 1"), header("A: 1", "A: 2"), header("A: 1", "A: backend", "A: 2")},
	{"line added twice", header("A: 1"), header("A: 1"), header("A: 1", "A: 1"), header("A: 1", "A: 1")},
	{"line added in another spelling", nil, nil, header("set-cookie: a"), header("Set-Cookie: a")},
	{"line replaced", header("A: backend", "A: 1"), header("A: 1"), header("A: 2"), header("A: backend", "A: 2")},
	{"line removed", header("A: 1", "B: 1", "B: backend"), header("A: 1", "B: 1"), header(), header("B: backend")},
	{"removed line that is not there", header("A: 2"), header("A: 1"), header(), header("A: 2")},
	{
		"fields that are not for a 101", nil, nil,
		header("Content-Type: text/html", "Content-Encoding: gzip", "Content-Length: 5", "Connection: X-Outer", "X-Outer: 1",
			"Sec-WebSocket-Accept: x", "Vary: Accept-Encoding"),
		header("Vary: Accept-Encoding"),
	},
}

func TestUpdateSwitchHeaderAppliesChangesOfMiddleware(t *testing.T) {
	for _, tt := range updateSwitchHeaderTests {
		t.Run(tt.name, func(t *testing.T) {
			before, after := tt.before.Clone(), tt.after.Clone()
			wantHeader(t, UpdateSwitchHeader(tt.h, tt.before, tt.after), tt.want)
			wantHeader(t, tt.before, before)
			wantHeader(t, tt.after, after)
		})
	}
}

const switchLines = "HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: Upgrade\n" +
	"Sec-WebSocket-Accept: " + sampleAccept + "\n"

var appendSwitchTests = []struct {
	name string
	h    http.Header
	a    Agreement
	want string
}{
	{"bare", nil, Agreement{}, switchLines},
	{
		"agreement", nil,
		Agreement{Subprotocol: "chat", Extensions: []string{"permessage-deflate", "x-a; b"}},
		switchLines + "Sec-WebSocket-Protocol: chat\nSec-WebSocket-Extensions: permessage-deflate\nSec-WebSocket-Extensions: x-a; b\n",
	},
	{
		"header", header("Set-Cookie: b", "Set-Cookie: a", "Date: today", "x-odd: 1"), Agreement{},
		switchLines + "Date: today\nSet-Cookie: b\nSet-Cookie: a\nx-odd: 1\n",
	},
	{
		"what-is-not-the-hooks",
		header("Upgrade: h2c", "upgrade: h2c", "Connection: close", "Content-Length: 5", "Transfer-Encoding: chunked",
			"Sec-WebSocket-Accept: a", "sec-websocket-accept: b", "Sec-Websocket-Protocol: c", "Sec-WebSocket-Extensions: d", "A: kept"),
		Agreement{},
		switchLines + "A: kept\n",
	},
}

func TestAppendSwitchWritesEachFieldOnce(t *testing.T) {
	for _, tt := range appendSwitchTests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := AppendSwitch([]byte("before"), tt.h, sampleKey, tt.a)
			if err != nil {
				t.Fatal(err)
			}
			if want := "before" + wire(tt.want); string(got) != want {
				t.Errorf("answer:\n got %q\nwant %q", got, want)
			}
		})
	}
}

func TestAppendSwitchRefusesInvalidFields(t *testing.T) {
	for _, tt := range []struct {
		name string
		h    http.Header
		a    Agreement
	}{
		{"name-with-line-end", header("A\r\nB: 1"), Agreement{}},
		{"value-with-line-end", header("A: 1\r\nB: 2"), Agreement{}},
		{"subprotocol-no-token", nil, Agreement{Subprotocol: "a b"}},
		{"subprotocol-with-line-end", nil, Agreement{Subprotocol: "a\r\nb: c"}},
		{"extension-with-line-end", nil, Agreement{Extensions: []string{"a\r\nb: c"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := AppendSwitch([]byte("before"), tt.h, sampleKey, tt.a)
			if err == nil || string(got) != "before" {
				t.Errorf("AppendSwitch = %q, %v; want nothing appended and an error", got, err)
			}
		})
	}
}

func TestConnectHeaderHasAgreementAndFieldsOfHook(t *testing.T) {
	h := header("Upgrade: h2c", "upgrade: h2c", "Connection: close", "Content-Length: 5", "Transfer-Encoding: chunked",
		"Sec-WebSocket-Accept: a", "sec-websocket-accept: b", "Sec-Websocket-Protocol: c", "Set-Cookie: a", "Set-Cookie: b")
	got, err := ConnectHeader(h, Agreement{Subprotocol: "chat", Extensions: []string{"permessage-deflate", "x-a; b"}})
	if err != nil {
		t.Fatal(err)
	}
	wantHeader(t, got, http.Header{"Set-Cookie": {"a", "b"}, "Sec-Websocket-Protocol": {"chat"},
		"Sec-Websocket-Extensions": {"permessage-deflate", "x-a; b"}})
	for _, bad := range []struct {
		h http.Header
		a Agreement
	}{
		{header("A\r\nB: 1"), Agreement{}},
		{header("A: 1\r\nB: 2"), Agreement{}},
		{http.Header{":status": {"204"}}, Agreement{}},
		{nil, Agreement{Subprotocol: "a b"}},
		{nil, Agreement{Extensions: []string{"a\r\nb: c"}}},
	} {
		if got, err := ConnectHeader(bad.h, bad.a); err == nil {
			t.Errorf("ConnectHeader(%q, %+v) = %q; want an error", bad.h, bad.a, got)
		}
	}
}

func TestAnswerHeaderOmitsHopByHopFields(t *testing.T) {
	resp, _ := parseAnswer(t, "HTTP/1.1 426 Upgrade Required\nUpgrade: websocket\nConnection: Upgrade, X-Internal\nX-Internal: 1\n"+
		"Content-Length: 6\nKeep-Alive: 1\nProxy-Authenticate: x\nTrailer: X\nSec-WebSocket-Version: 13\nSet-Cookie: a\nSet-Cookie: b\nDate: today\n")
	got := AnswerHeader(resp.Header)
	wantHeader(t, got, header("Sec-WebSocket-Version: 13", "Set-Cookie: a", "Set-Cookie: b", "Date: today"))
	got["Date"][0] = "changed"
	if resp.Header.Get("Date") != "today" {
		t.Error("AnswerHeader shares slices with the backend's header")
	}
}
