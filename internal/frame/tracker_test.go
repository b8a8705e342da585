package frame

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

var testKey = [4]byte{0x11, 0x22, 0x33, 0x44}

// fromClient returns frames as a client sends them.
func fromClient(frames ...wstest.Frame) []byte {
	var b []byte
	for _, f := range frames {
		b = wstest.AppendFrame(b, f, &testKey)
	}
	return b
}

// fromBackend returns frames as a backend sends them.
func fromBackend(frames ...wstest.Frame) []byte {
	var b []byte
	for _, f := range frames {
		b = wstest.AppendFrame(b, f, nil)
	}
	return b
}

// header returns the header alone of an unmasked frame.
func header(fin bool, op Opcode, length uint64) []byte {
	return AppendHeader(nil, Header{Fin: fin, Opcode: op, Length: length})
}

func compressed(f wstest.Frame) wstest.Frame {
	f.RSV = RSV1
	return f
}

// follow passes all of p to tr and returns its steps, one letter each: d for data,
// 8, 9 and A for control frames.
func follow(tr *Tracker, p []byte) (steps string, err error) {
	for len(p) > 0 {
		step, err := tr.Next(p)
		if err != nil {
			return steps, err
		}
		if step.Len == 0 {
			return steps + "…", nil
		}
		if step.Control == 0 {
			steps += "d"
		} else {
			steps += string("0123456789ABCDEF"[step.Control])
		}
		p = p[step.Len:]
	}
	return steps, nil
}

func TestTrackerReturnsSteps(t *testing.T) {
	text, ping := wstest.Text("hello"), wstest.Ping("x")
	more, end := wstest.Fragment(wstest.OpText, false, "he"), wstest.Fragment(wstest.OpContinuation, true, "llo")
	tests := []struct {
		name     string
		wire     []byte
		want     string
		messages uint32
	}{
		{"nothing", nil, "", 0},
		{"one message", fromBackend(text), "d", 1},
		{"messages together", fromBackend(text, text, text), "d", 3},
		{"empty message", fromBackend(wstest.Text("")), "d", 1},
		{"fragments", fromBackend(more, end), "d", 1},
		{"fragments without an end", fromBackend(more), "d", 0},
		{"control frame between messages", fromBackend(text, ping, text), "d9d", 2},
		{"control frame between fragments", fromBackend(more, ping, end), "d9d", 1},
		{"control frames only", fromBackend(ping, wstest.Pong(""), wstest.Close(1000, "")), "9A8", 0},
		{"control frame as long as can be", fromBackend(wstest.Ping(strings.Repeat("x", 125))), "9", 0},
		{"control frame in a longer form", []byte("\x89\x7e\x00\x01x"), "9", 0},
		{"control frame in the longest form", []byte("\x89\x7f\x00\x00\x00\x00\x00\x00\x00\x01x"), "9", 0},
		{"part of a header", fromBackend(text)[:1], "…", 0},
		{"part of a payload", fromBackend(text)[:4], "d", 0},
		{"part of a control frame", fromBackend(text, ping)[:9], "d…", 1},
		{"data after a close", fromBackend(wstest.Close(1000, ""), text), "8d", 1},
		{"64-bit length", fromBackend(wstest.Binary(make([]byte, 1<<16))), "d", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var tr Tracker
			got, err := follow(&tr, tt.wire)
			messages := tr.TakeMessages()
			if got != tt.want || err != nil || messages != tt.messages {
				t.Errorf("got steps %q, error %v, %d messages; want %q, nil, %d", got, err, messages, tt.want, tt.messages)
			}
		})
	}
}

func TestTrackerRefusesViolations(t *testing.T) {
	const (
		client  = "the client"
		backend = "the backend"
	)
	text := wstest.Text("hello")
	more := wstest.Fragment(wstest.OpText, false, "he")
	reserved := func(op byte) wstest.Frame { return wstest.Frame{Fin: true, Opcode: op} }
	type test struct {
		name string
		from string
		wire []byte
		rule string // "" if allowed
	}
	tests := []test{
		{"client masks", client, fromClient(text), ""},
		{"client does not mask", client, fromBackend(text), "frame from the client is not masked"},
		{"client does not mask a control frame", client, fromBackend(wstest.Ping("")), "frame from the client is not masked"},
		{"backend masks", backend, fromClient(text), "frame from the backend is masked"},
		{"backend masks a control frame", backend, fromClient(wstest.Ping("")), "frame from the backend is masked"},
		{"RSV1", backend, fromBackend(compressed(text)), "reserved bit set"},
		{"RSV2", backend, fromBackend(wstest.Frame{Fin: true, RSV: 2, Opcode: wstest.OpText}), "reserved bit set"},
		{"RSV3", backend, fromBackend(wstest.Frame{Fin: true, RSV: 1, Opcode: wstest.OpText}), "reserved bit set"},
		{"ping is fragmented", backend, header(false, Ping, 0), "control frame is fragmented"},
		{"close is fragmented", backend, header(false, Close, 0), "control frame is fragmented"},
		{"control frame of 126 bytes", backend, header(true, Pong, 126), "control frame of more than 125 bytes"},
		{"control frame of 65536 bytes", backend, header(true, Ping, 65536), "control frame of more than 125 bytes"},
		{"control frame of 2^63-1 bytes", backend, header(true, Close, math.MaxInt64), "control frame of more than 125 bytes"},
		{"continuation of nothing", backend, fromBackend(wstest.Fragment(wstest.OpContinuation, true, "")), "continuation frame without a message"},
		{"continuation after a whole message", backend, fromBackend(text, wstest.Fragment(wstest.OpContinuation, true, "")), "continuation frame without a message"},
		{"text within a message", backend, fromBackend(more, text), "new message within a fragmented message"},
		{"binary within a message", backend, fromBackend(more, wstest.Ping(""), wstest.Binary(nil)), "new message within a fragmented message"},
		{"fragment of another message", backend, fromBackend(more, more), "new message within a fragmented message"},
		{"length with its top bit set", backend, header(true, Binary, 1<<63), "frame length with its top bit set"},
		{"length of all ones", backend, header(true, Binary, math.MaxUint64), "frame length with its top bit set"},
		{"length of a control frame with its top bit set", backend, header(true, Ping, 1<<63), "frame length with its top bit set"},
		{"length of 2^63-1", backend, header(true, Binary, math.MaxInt64), ""},
		{"plain HTTP", client, []byte("GET / HTTP/1.1\r\n"), "frame from the client is not masked"},
	}
	for _, op := range []byte{3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF} {
		name := "opcode " + string("0123456789ABCDEF"[op])
		tests = append(tests,
			test{name + " from a client", client, fromClient(reserved(op)), "reserved opcode"},
			test{name + " from a backend", backend, fromBackend(reserved(op)), "reserved opcode"})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tr := Tracker{Rules: Rules{Masked: tt.from == client}}
			_, err := follow(&tr, tt.wire)
			wantViolation(t, err, StatusProtocolError, tt.rule)
		})
	}
}

// wantViolation checks that err is a violation with a code and a reason, or that
// it is nil if the reason is empty.
func wantViolation(t *testing.T, err error, code int, reason string) {
	t.Helper()
	var v *Violation
	switch {
	case reason == "" && err == nil:
	case reason == "" || !errors.As(err, &v):
		t.Errorf("got error %v; want %q", err, reason)
	case v.Code != code || v.Reason != reason:
		t.Errorf("got error %d %q; want %d %q", v.Code, v.Reason, code, reason)
	}
}

// https://www.rfc-editor.org/rfc/rfc7692#section-6.1
func TestTrackerAcceptsRSV1WithDeflate(t *testing.T) {
	more, end := wstest.Fragment(wstest.OpText, false, "he"), wstest.Fragment(wstest.OpContinuation, true, "llo")
	const refused = "reserved bit set"
	tests := []struct {
		name string
		wire []byte
		rule string
	}{
		{"text", fromBackend(compressed(wstest.Text("zip"))), ""},
		{"binary", fromBackend(compressed(wstest.Binary([]byte("zip")))), ""},
		{"first fragment", fromBackend(compressed(more), wstest.Ping(""), end), ""},
		{"message that is not compressed", fromBackend(wstest.Text("plain")), ""},
		{"second fragment", fromBackend(compressed(more), compressed(end)), refused},
		{"ping", fromBackend(compressed(wstest.Ping(""))), refused},
		{"close", fromBackend(compressed(wstest.Close(1000, ""))), refused},
		{"RSV2 beside it", fromBackend(wstest.Frame{Fin: true, RSV: 6, Opcode: wstest.OpText}), refused},
		{"RSV2 alone", fromBackend(wstest.Frame{Fin: true, RSV: 2, Opcode: wstest.OpText}), refused},
		{"reserved opcode with it", fromBackend(wstest.Frame{Fin: true, RSV: 4, Opcode: 3}), "reserved opcode"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tr := Tracker{Rules: Rules{Deflate: true}}
			_, err := follow(&tr, tt.wire)
			wantViolation(t, err, StatusProtocolError, tt.rule)
		})
	}
}

func TestTrackerUnderAnUnknownExtensionChecksMaskingAndLengthsOnly(t *testing.T) {
	frameOf := func(fin bool, rsv, op byte, payload string) wstest.Frame {
		return wstest.Frame{Fin: fin, RSV: rsv, Opcode: op, Payload: []byte(payload)}
	}
	const tooBig = "message larger than the limit"
	tests := []struct {
		name     string
		limit    uint64
		wire     []byte
		steps    string
		messages uint32
		code     int
		rule     string
	}{
		{"reserved bits", 0, fromBackend(frameOf(true, 7, wstest.OpText, "x")), "d", 1, 0, ""},
		{"reserved opcodes", 0, fromBackend(frameOf(true, 0, 3, "x"), frameOf(true, 0, 0xB, "x")), "d", 2, 0, ""},
		{"continuation of nothing", 0, fromBackend(frameOf(true, 0, 0, "x")), "d", 1, 0, ""},
		{"message within a message", 0, fromBackend(frameOf(false, 0, 1, "x"), frameOf(true, 0, 1, "x")), "d", 1, 0, ""},
		{"control frames", 0, fromBackend(wstest.Ping("x"), wstest.Close(1000, "")), "98", 0, 0, ""},
		{"close with a reserved bit", 0, fromBackend(frameOf(true, 1, wstest.OpClose, "xy")), "d", 1, 0, ""},
		{"ping that is fragmented", 0, fromBackend(frameOf(false, 0, wstest.OpPing, "x")), "d", 0, 0, ""},
		{"pong of 126 bytes", 0, fromBackend(wstest.Pong(strings.Repeat("x", 126))), "d", 1, 0, ""},
		{"masked", 0, fromClient(frameOf(true, 7, 3, "x")), "", 0, StatusProtocolError, "frame from the backend is masked"},
		{"length with its top bit set", 0, header(true, 0xB, 1<<63), "", 0, StatusProtocolError, "frame length with its top bit set"},
		{"message over the limit", 5, fromBackend(frameOf(true, 7, 3, "123456")), "", 0, StatusTooBig, tooBig},
		{"reserved control opcode over the limit", 5, fromBackend(frameOf(true, 0, 0xB, "123456")), "", 0, StatusTooBig, tooBig},
		{"pong of 126 bytes over the limit", 5, fromBackend(wstest.Pong(strings.Repeat("x", 126))), "", 0, StatusTooBig, tooBig},
		{"control frames are not counted", 5, fromBackend(wstest.Ping("123456")), "9", 0, 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tr := Tracker{Rules: Rules{Unknown: true, MaxMessage: tt.limit}}
			steps, err := follow(&tr, tt.wire)
			wantViolation(t, err, tt.code, tt.rule)
			messages := tr.TakeMessages()
			if steps != tt.steps || messages != tt.messages {
				t.Errorf("got steps %q, %d messages; want %q, %d", steps, messages, tt.steps, tt.messages)
			}
		})
	}
}

func TestTrackerBoundsMessages(t *testing.T) {
	const limit = 10
	text := func(n int) wstest.Frame { return wstest.Text(strings.Repeat("x", n)) }
	more := func(op byte, n int) wstest.Frame { return wstest.Fragment(op, false, strings.Repeat("x", n)) }
	end := func(n int) wstest.Frame { return wstest.Fragment(0, true, strings.Repeat("x", n)) }
	const tooBig = "message larger than the limit"
	tests := []struct {
		name string
		wire []byte
		rule string
	}{
		{"exactly the limit", fromBackend(text(10)), ""},
		{"one over", fromBackend(text(11)), tooBig},
		{"each message for itself", fromBackend(text(10), text(10), text(10)), ""},
		{"second message over", fromBackend(text(10), text(11)), tooBig},
		{"fragments up to the limit", fromBackend(more(1, 4), more(0, 4), end(2)), ""},
		{"fragments over the limit", fromBackend(more(1, 4), more(0, 4), end(3)), tooBig},
		{"fragments over the limit before their end", fromBackend(more(1, 4), more(0, 7)), tooBig},
		{"empty fragments at the limit", fromBackend(more(1, 10), more(0, 0), end(0)), ""},
		{"message after fragments", fromBackend(more(1, 10), end(0), text(10)), ""},
		{"control frames are not counted", fromBackend(more(1, 5), wstest.Ping("123456"), end(5)), ""},
		{"control frames may be longer", fromBackend(wstest.Ping("12345678901")), ""},
		{"length of 2^63-1", header(true, Binary, math.MaxInt64), tooBig},
		{"fragments whose sum overflows", append(fromBackend(more(1, 10)), header(true, Continuation, math.MaxInt64)...), tooBig},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tr := Tracker{Rules: Rules{MaxMessage: limit}}
			_, err := follow(&tr, tt.wire)
			wantViolation(t, err, StatusTooBig, tt.rule)
		})
	}
}

func TestTrackerRefusesBigMessageByHeader(t *testing.T) {
	tr := Tracker{Rules: Rules{MaxMessage: 10}}
	_, err := tr.Next(header(true, Text, 11))
	wantViolation(t, err, StatusTooBig, "message larger than the limit")
}

func TestTrackerSumsDoNotOverflow(t *testing.T) {
	// There are no payloads: the test sets rest to 0 after each header.
	const huge = math.MaxInt64
	t.Run("at the largest limit", func(t *testing.T) {
		tr := Tracker{Rules: Rules{MaxMessage: math.MaxUint64}}
		for i, op := range []Opcode{Text, Continuation, Continuation} {
			_, err := follow(&tr, header(false, op, huge))
			rule := ""
			if i == 2 {
				rule = "message larger than the limit" // 3 × (2^63-1) > 2^64-1
			}
			wantViolation(t, err, StatusTooBig, rule)
			tr.rest = 0
		}
	})
	t.Run("without a limit", func(t *testing.T) {
		var tr Tracker
		for _, op := range []Opcode{Text, Continuation, Continuation, Continuation} {
			if _, err := follow(&tr, header(false, op, huge)); err != nil {
				t.Fatal(err)
			}
			if tr.AtBoundary() {
				t.Fatal("AtBoundary() = true within a frame")
			}
			tr.rest = 0
		}
		if tr.size != math.MaxUint64 {
			t.Errorf("size = %d; want it to stay at the most", tr.size)
		}
	})
}

func TestTrackerIgnoreRemovesBound(t *testing.T) {
	tr := Tracker{Rules: Rules{MaxMessage: 3}}
	big := fromBackend(wstest.Text("four"), wstest.Close(1000, ""))
	if _, err := tr.Next(big); err == nil {
		t.Fatal("Next(4 bytes) = nil; want an error")
	}
	tr.Ignore()
	if steps, err := follow(&tr, big); steps != "d8" || err != nil {
		t.Errorf("after Ignore: got steps %q, error %v; want d8, nil", steps, err)
	}
}

func TestTrackerDoesNotConsumeRefusedFrame(t *testing.T) {
	var tr Tracker
	bad := fromBackend(wstest.Text("good"), wstest.Frame{Fin: true, Opcode: 3})
	step, err := tr.Next(bad)
	if step.Len != 6 || err != nil {
		t.Fatalf("Next() = %+v, %v; want the 6 bytes before the bad frame", step, err)
	}
	for range 2 {
		if step, err := tr.Next(bad[6:]); step != (Step{}) || err == nil {
			t.Errorf("Next(bad) = %+v, %v; want an error each time", step, err)
		}
	}
	if !tr.AtBoundary() || tr.messages != 1 {
		t.Errorf("AtBoundary() = %v, messages = %d; want true, 1", tr.AtBoundary(), tr.messages)
	}
}

func TestTrackerRefusesByFirstTwoBytes(t *testing.T) {
	for _, wire := range []string{"GE", "\x83\x80", "\x09\x80", "\x81\x7f"} {
		tr := Tracker{Rules: Rules{Masked: true}}
		if step, err := tr.Next([]byte(wire)); err == nil {
			t.Errorf("Next(%q) = %+v, nil; want an error", wire, step)
		}
	}
}

func TestTrackerFinishStopsAtFrameEnd(t *testing.T) {
	var tr Tracker
	wire := fromBackend(wstest.Fragment(wstest.OpText, false, "hello"), wstest.Fragment(0, true, "world"))
	if n := tr.Finish(wire); n != 0 || !tr.AtBoundary() {
		t.Errorf("at the beginning: Finish() = %d, AtBoundary() = %v; want 0, true", n, tr.AtBoundary())
	}
	if step, err := tr.Next(wire[:4]); step.Len != 4 || err != nil {
		t.Fatalf("Next() = %+v, %v; want 4 bytes", step, err)
	}
	if n := tr.Finish(wire[4:5]); n != 1 || tr.AtBoundary() {
		t.Errorf("within the frame: Finish() = %d, AtBoundary() = %v; want 1, false", n, tr.AtBoundary())
	}
	if n := tr.Finish(wire[5:]); n != 2 || !tr.AtBoundary() {
		t.Errorf("at its end: Finish() = %d, AtBoundary() = %v; want 2, true: between fragments is a boundary", n, tr.AtBoundary())
	}
	if n := tr.Finish(wire[7:]); n != 0 || tr.messages != 0 {
		t.Errorf("after it: Finish() = %d, %d messages; want 0, 0", n, tr.messages)
	}
	if _, err := tr.Next(wire[7:]); err != nil || tr.messages != 1 {
		t.Errorf("Next(): %v, %d messages; want nil, 1", err, tr.messages)
	}
}

func TestTrackerFinishCountsMessage(t *testing.T) {
	var tr Tracker
	wire := fromBackend(wstest.Text("hello"))
	tr.Next(wire[:3])
	tr.Finish(wire[3:])
	if n := tr.TakeMessages(); n != 1 {
		t.Errorf("TakeMessages() = %d; want 1", n)
	}
	if n := tr.TakeMessages(); n != 0 {
		t.Errorf("TakeMessages() = %d the second time; want 0", n)
	}
}

func TestTrackerSkipConsumesPayload(t *testing.T) {
	var tr Tracker
	tr.Next(header(true, Binary, 100_000))
	const size = 10 // of that header
	if tr.Rest() != 100_000 || tr.Begun() != size {
		t.Errorf("after the header: Rest() = %d, Begun() = %d; want 100000, %d", tr.Rest(), tr.Begun(), size)
	}
	tr.Skip(60_000)
	if tr.Rest() != 40_000 || tr.Begun() != size+60_000 || tr.AtBoundary() || tr.messages != 0 {
		t.Errorf("within it: Rest() = %d, Begun() = %d, AtBoundary() = %v, %d messages; want 40000, %d, false, 0",
			tr.Rest(), tr.Begun(), tr.AtBoundary(), tr.messages, size+60_000)
	}
	tr.Skip(40_000)
	if tr.Rest() != 0 || tr.Begun() != 0 || !tr.AtBoundary() || tr.messages != 1 {
		t.Errorf("after it: Rest() = %d, Begun() = %d, AtBoundary() = %v, %d messages; want 0, 0, true, 1",
			tr.Rest(), tr.Begun(), tr.AtBoundary(), tr.messages)
	}
}

func TestTrackerSkipPanicsBeyondFrame(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("Skip has taken what belongs to the next frame")
		}
	}()
	var tr Tracker
	tr.Next(header(true, Binary, 10))
	tr.Skip(11)
}

func TestTrackerAllocatesNothing(t *testing.T) {
	stream := fromBackend(
		wstest.Text("hello"), wstest.Ping("x"), wstest.Fragment(1, false, "he"), wstest.Pong(""),
		wstest.Fragment(0, true, "llo"), wstest.Binary(make([]byte, 70_000)), wstest.Close(1000, "bye"))
	tests := []struct {
		name string
		wire []byte
	}{
		{"all kinds of frames", stream},
		{"length of 2^62", header(true, Binary, 1<<62)},
		{"fragments of 2^62", header(false, Binary, 1<<62)},
		{"part of a control frame", fromBackend(wstest.Ping("hello"))[:3]},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			allocs := testing.AllocsPerRun(100, func() {
				var tr Tracker
				for p := tt.wire; len(p) > 0; {
					step, err := tr.Next(p)
					if err != nil {
						t.Fatal(err)
					}
					if step.Len == 0 {
						break
					}
					if step.Control == Close {
						CloseCode(p[:step.Len])
					}
					p = p[step.Len:]
				}
			})
			if allocs != 0 {
				t.Errorf("%v allocations; want 0", allocs)
			}
		})
	}
}

func TestTrackerNeedsAtMostMaxHeldAgain(t *testing.T) {
	longest := append([]byte("\x89\xff\x00\x00\x00\x00\x00\x00\x00\x7dkeyy"), make([]byte, 125)...)
	tr := Tracker{Rules: Rules{Masked: true}}
	for n := range len(longest) {
		if step, err := tr.Next(longest[:n]); step != (Step{}) || err != nil {
			t.Fatalf("Next(%d bytes) = %+v, %v; want nothing: a byte is missing", n, step, err)
		}
	}
	if held := len(longest) - 1; held != MaxHeld {
		t.Errorf("%d bytes had to be shown again; want MaxHeld, %d", held, MaxHeld)
	}
	if step, err := tr.Next(longest); step != (Step{Len: len(longest), Control: Ping}) || err != nil {
		t.Errorf("Next() = %+v, %v; want all of the ping", step, err)
	}
}
