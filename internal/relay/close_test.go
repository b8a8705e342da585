package relay

import (
	"fmt"
	"io"
	"testing"

	"github.com/wsproxy/wsproxy/internal/frame"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestCloseFramesHasEveryCauseAndSide(t *testing.T) {
	const none = 0
	want := map[Cause]map[Side][2]int{ // to the client, to the backend
		CauseClosed:      {Client: {none, none}, Backend: {none, none}}, // the other side's answer
		CauseLost:        {Client: {none, none}, Backend: {frame.StatusServiceRestart, none}},
		CauseProtocol:    {Client: {frame.StatusProtocolError, frame.StatusGoingAway}, Backend: {frame.StatusServiceRestart, frame.StatusProtocolError}},
		CauseTooBig:      {Client: {frame.StatusTooBig, frame.StatusGoingAway}, Backend: {frame.StatusInternalError, frame.StatusTooBig}},
		CauseShutdown:    {Proxy: {frame.StatusGoingAway, frame.StatusGoingAway}},
		CauseApplication: {Proxy: {frame.StatusNormal, frame.StatusGoingAway}},
		CausePanic:       {Proxy: {frame.StatusInternalError, frame.StatusGoingAway}},
		CauseStalled:     {Client: {none, none}, Backend: {frame.StatusServiceRestart, none}},

		CauseControlFlood: {Client: {frame.StatusPolicyViolation, frame.StatusGoingAway}},
		CauseIdle:         {Proxy: {frame.StatusGoingAway, frame.StatusGoingAway}},
		CauseLifetime:     {Proxy: {frame.StatusServiceRestart, frame.StatusGoingAway}},
		CauseDrain:        {Proxy: {frame.StatusServiceRestart, frame.StatusGoingAway}},
		CauseRebalance:    {Proxy: {frame.StatusServiceRestart, frame.StatusGoingAway}},
		CauseBackendDown:  {Proxy: {frame.StatusServiceRestart, frame.StatusGoingAway}},
		CausePingTimeout:  {Client: {frame.StatusGoingAway, none}, Backend: {frame.StatusServiceRestart, frame.StatusGoingAway}},
	}
	if len(closeFrames) != len(causeNames) || len(closeFrames) != len(want) {
		t.Fatalf("%d causes have Close frames, %d have names, the test has %d", len(closeFrames), len(causeNames), len(want))
	}
	for cause, bySide := range want {
		for _, side := range []Side{Proxy, Client, Backend} {
			frames := closeFrames[cause][side]
			if got := [2]int{frames.toClient.code, frames.toBackend.code}; got != bySide[side] {
				t.Errorf("%v, by the %v: Close frames %v; want %v", cause, side, got, bySide[side])
			}
			for _, f := range []closeFrame{frames.toClient, frames.toBackend} {
				if f.code == none && f.reason != "" {
					t.Errorf("%v, by the %v: a reason without a code", cause, side)
				}
				if f.code != none && !frame.ValidCode(f.code) {
					t.Errorf("%v, by the %v: %d may not be in a Close frame", cause, side, f.code)
				}
				if len(f.reason) > 123 {
					t.Errorf("%v, by the %v: a reason of %d bytes; want 123 at most", cause, side, len(f.reason))
				}
			}
		}
	}
}

// A violation's own reason goes to the side that broke the rule; the other one's is in the
// table.
func TestCloseFramesLeaveTheReasonToTheViolation(t *testing.T) {
	for _, cause := range []Cause{CauseProtocol, CauseTooBig} {
		if client := closeFrames[cause][Client]; client.toClient.reason != "" || client.toBackend.reason == "" {
			t.Errorf("%v, by the client: reasons %q and %q; want the backend's only", cause, client.toClient.reason, client.toBackend.reason)
		}
		if backend := closeFrames[cause][Backend]; backend.toBackend.reason != "" || backend.toClient.reason == "" {
			t.Errorf("%v, by the backend: reasons %q and %q; want the client's only", cause, backend.toClient.reason, backend.toBackend.reason)
		}
	}
}

func TestEchoOfIsAlwaysACodeThatMayBeSent(t *testing.T) {
	for code := range 5100 {
		want := frame.StatusProtocolError
		if frame.ValidCode(code) || code == frame.StatusNoStatus {
			want = code
		}
		if got := echoOf(code).code; got != want {
			t.Errorf("echoOf(%d) = %d; want %d", code, got, want)
		}
	}
}

func TestLegStatesNeverGoBack(t *testing.T) {
	for from := readOpen; from <= readEnded; from++ {
		for to := readOpen; to <= readEnded; to++ {
			d := newFake(t, Limits{})
			d.r.mu.Lock()
			l := &d.r.client
			l.setReadLocked(from)
			before := l.read
			l.setReadLocked(to)
			if l.read < before || l.read < to {
				t.Errorf("read state %d after %d and %d", l.read, from, to)
			}
			d.r.mu.Unlock()
		}
	}
	for from := writeOpen; from <= writeLost; from++ {
		for to := writeOpen; to <= writeLost; to++ {
			for _, side := range bothSides {
				d := newFake(t, Limits{})
				d.r.mu.Lock()
				l := d.r.leg(side)
				l.setWriteLocked(from)
				before := l.write
				l.setWriteLocked(to)
				if l.write < before || l.write < to && !l.mustClose {
					t.Errorf("write state %d of the %v after %d and %d", l.write, side, from, to)
				}
				d.r.mu.Unlock()
			}
		}
	}
}

// An act is something that happens to a tunnel.
type act struct {
	name string
	do   func(*fakeDriver)
}

// acts are all that can happen to a tunnel.
func acts() []act {
	all := []act{
		{"shutdown", func(d *fakeDriver) { d.close(CauseShutdown) }},
		{"panic", func(d *fakeDriver) { d.close(CausePanic) }},
		{"sign out", func(d *fakeDriver) { d.r.Close(CauseApplication, frame.StatusPolicyViolation, ""); d.settle() }},
		{"abort", func(d *fakeDriver) { d.r.Abort(CauseShutdown); d.settle() }},
	}
	for _, s := range bothSides {
		open := func(do func(*fakeDriver)) func(*fakeDriver) {
			return func(d *fakeDriver) {
				if d.r.leg(s).readState() != readEnded { // else nothing can come of it
					do(d)
				}
			}
		}
		all = append(all,
			act{fmt.Sprint(s, " closes"), open(func(d *fakeDriver) { d.receive(s, wstest.Close(1000, "")) })},
			act{fmt.Sprint(s, " closes with 4000"), open(func(d *fakeDriver) { d.receive(s, wstest.Close(4000, "")) })},
			act{fmt.Sprint(s, " sends"), open(func(d *fakeDriver) { d.receive(s, wstest.Text("hello")) })},
			act{fmt.Sprint(s, " violates"), open(func(d *fakeDriver) { d.receiveRaw(s, []byte{0xff, 0}) })},
			act{fmt.Sprint(s, " ends"), open(func(d *fakeDriver) { d.end(s, io.EOF) })},
			act{fmt.Sprint(s, " is reset"), open(func(d *fakeDriver) { d.end(s, errBroken) })},
			act{fmt.Sprint("writes to ", s, " fail"), func(d *fakeDriver) { d.fake(s).fails = true }},
			act{fmt.Sprint(s, " takes nothing"), func(d *fakeDriver) { d.fake(s).isBlocked = true }},
			act{fmt.Sprint(s, " takes all"), func(d *fakeDriver) {
				if d.fake(s).closed == 0 {
					d.unblock(s)
				}
			}},
			act{fmt.Sprint(s, " ticks"), func(d *fakeDriver) { d.tick() }},
			// The reader of a leg has read something, but has not handled it, when another
			// goroutine ends the tunnel or closes the leg.
			act{fmt.Sprint(s, " sends, after a shutdown that its reader has not seen"), open(func(d *fakeDriver) {
				d.r.Close(CauseShutdown, 0, "")
				d.receive(s, wstest.Text("hello"))
			})},
			act{fmt.Sprint(s, " sends, and is cut before that is handled"), open(func(d *fakeDriver) {
				d.close(CauseShutdown)
				d.r.mu.Lock()
				d.r.leg(s).cutLocked(abandonConn)
				d.r.mu.Unlock()
				d.receive(s, wstest.Text("hello"), wstest.Text("and more"))
			})},
		)
	}
	return all
}

// A watched is what may only move forward.
type watched struct {
	read     [2]readState
	write    [2]writeState
	isClosed [2]bool
	written  [2]int
	hasCause bool
	cause    Cause
	side     Side
	cut      bool
}

func (d *fakeDriver) watched() (w watched) {
	for i, s := range bothSides {
		l := d.r.leg(s)
		w.read[i], w.write[i], w.isClosed[i], w.written[i] = l.read, l.write, l.mustClose, len(d.fake(s).written)
	}
	if c := d.r.closing; c != nil {
		w.hasCause, w.cause, w.side, w.cut = c.hasCause, c.end.Cause, c.end.Side, c.end.Cut
	}
	return w
}

// Any three acts in a row keep the rules that the states are for.
func TestActsOnlyMoveATunnelForward(t *testing.T) {
	all := acts()
	for _, a := range all {
		for _, b := range all {
			for _, c := range all {
				d := newFake(t, Limits{})
				name := fmt.Sprintf("%s, %s, %s", a.name, b.name, c.name)
				for _, x := range []act{a, b, c} {
					before := d.watched()
					x.do(d)
					checkForward(t, name, before, d.watched())
				}
				for _, s := range bothSides {
					checkWritten(t, name, s, d)
				}
				if t.Failed() {
					return
				}
			}
		}
	}
}

func checkForward(t *testing.T, name string, before, after watched) {
	t.Helper()
	for i, s := range bothSides {
		if after.read[i] < before.read[i] || after.write[i] < before.write[i] {
			t.Errorf("%s: the %v's states went from %d and %d to %d and %d", name, s, before.read[i], before.write[i], after.read[i], after.write[i])
		}
		if before.isClosed[i] && (!after.isClosed[i] || after.written[i] != before.written[i]) {
			t.Errorf("%s: the %v is closed, and was written to or opened", name, s)
		}
	}
	if before.hasCause && (!after.hasCause || after.cause != before.cause || after.side != before.side) {
		t.Errorf("%s: the cause changed", name)
	}
	if before.cut && !after.cut {
		t.Errorf("%s: Cut is false again", name)
	}
}

// checkWritten wants whole frames of which a Close frame is the last.
func checkWritten(t *testing.T, name string, s Side, d *fakeDriver) {
	t.Helper()
	tracker := frame.Tracker{Rules: frame.Rules{Masked: s == Backend}}
	b := d.fake(s).written
	for len(b) > 0 {
		step, err := tracker.Next(b)
		if err != nil || step.Len == 0 {
			t.Errorf("%s: the %v was sent %x (%v)", name, s, d.fake(s).written, err)
			return
		}
		b = b[step.Len:]
		if step.Control == frame.Close && len(b) > 0 {
			t.Errorf("%s: the %v was sent %d bytes behind a Close frame", name, s, len(b))
			return
		}
	}
}

// A backend that ends its stream inside a frame may be followed by a reset.
func TestLegThatEndsTwiceKeepsWhatIsBuffered(t *testing.T) {
	d := newFake(t, Limits{})
	d.client.isBlocked = true
	whole, part := unmasked(wstest.Text("whole")), unmasked(wstest.Text("not whole"))[:5]
	d.r.backend.handle(append(whole[:len(whole):len(whole)], part...))
	d.r.backend.ended(io.EOF)
	want := string(whole) + "\x88\x0e\x03\xf4backend lost"
	if got := string(d.client.buffer); got != want {
		t.Fatalf("after the end of the stream %q is buffered; want %q", got, want)
	}
	d.r.backend.ended(errBroken)
	if got := string(d.client.buffer); got != want {
		t.Errorf("after a reset behind it %q is buffered; want %q", got, want)
	}
}

// What a peer sends behind a Close frame of ours to the other is dropped, so that none of
// it is in the buffer when it ends.
func TestLegThatEndsInADroppedFrameKeepsTheCloseFrame(t *testing.T) {
	d := newFake(t, Limits{})
	d.client.isBlocked = true
	d.r.Close(CausePanic, 1008, "")
	d.r.backend.attend()
	want := string(d.client.buffer)
	d.r.backend.handle(unmasked(wstest.Text("not whole"))[:5])
	d.r.backend.ended(io.EOF)
	if got := string(d.client.buffer); got != want || want == "" {
		t.Errorf("%q is buffered; want the Close frame %q", got, want)
	}
}

func TestCutDoesNotDependOnTheOrderOfEvents(t *testing.T) {
	tests := map[string]struct {
		act   func(*fakeDriver)
		isCut bool
	}{
		"a client is reset, whose Close frame waits for the end of a frame": {func(d *fakeDriver) {
			d.receiveRaw(Backend, unmasked(wstest.Text("not whole"))[:5])
			d.r.Close(CauseApplication, frame.StatusPolicyViolation, "")
			d.settle()
			d.end(Client, errBroken)
		}, false},
		"a client ends inside a frame, of which its closed backend got nothing": {func(d *fakeDriver) {
			d.receive(Backend, wstest.Close(1000, ""))
			d.end(Backend, io.EOF)
			for d.backend.closed == 0 {
				d.tick()
			}
			d.receiveRaw(Client, wire(Client, wstest.Text("not whole"))[:9])
			d.end(Client, io.EOF)
		}, false},
		"a client ends inside a frame of which its backend got a part": {func(d *fakeDriver) {
			d.receiveRaw(Client, wire(Client, wstest.Text("not whole"))[:9])
			d.end(Client, io.EOF)
		}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := newFake(t, Limits{})
			tt.act(d)
			if got := d.r.closing.end; got.Cut != tt.isCut {
				t.Errorf("ended with %+v; want Cut %t", got, tt.isCut)
			}
		})
	}
}

// With an unknown extension a Close frame may have a payload whose code is 0.
func TestCloseWithCodeZeroIsAnsweredAsAProtocolError(t *testing.T) {
	d := newFake(t, Limits{})
	d.r.client.tracker.Rules.Unknown = true
	bad := wstest.Close(1000, "")
	bad.Payload = []byte{0, 0}
	d.receive(Client, bad)
	d.end(Backend, io.EOF)
	if got, want := string(d.client.written), string(unmasked(wstest.Close(frame.StatusProtocolError, ""))); got != want {
		t.Errorf("the client was sent %q; want %q", got, want)
	}
}

func TestCloseThatMayNotBeSentBreaksTheProtocol(t *testing.T) {
	for name, tt := range map[string]struct {
		payload string
		passes  bool
	}{
		"nothing":             {"", true},
		"one byte":            {"\x03", false},
		"999":                 {"\x03\xe7", false},
		"1000":                {"\x03\xe8", true},
		"1004":                {"\x03\xec", false},
		"1005":                {"\x03\xed", false},
		"1006":                {"\x03\xee", false},
		"1014":                {"\x03\xf6", true},
		"1015":                {"\x03\xf7", false},
		"1016":                {"\x03\xf8", true},
		"2999":                {"\x0b\xb7", true},
		"4999":                {"\x13\x87bye", true},
		"5000":                {"\x13\x88", false},
		"65535":               {"\xff\xff", false},
		"a reason in UTF-8":   {"\x03\xe8\xc3\xa4", true},
		"half a rune":         {"\x03\xe8\xc3", false},
		"a reason of another": {"\x03\xe8\xe4", false},
	} {
		for _, from := range bothSides {
			d := newFake(t, Limits{})
			d.receive(from, wstest.Frame{Fin: true, Opcode: wstest.OpClose, Payload: []byte(tt.payload)})
			want := CauseProtocol
			if tt.passes {
				want = CauseClosed
			}
			if end := d.r.closing.end; end.Cause != want || end.Side != from {
				t.Errorf("%s from the %v: ends with %+v; want %v", name, from, end, want)
			}
			code := frame.CloseCode(append([]byte{}, d.fake(from).written...))
			if !tt.passes && from == Backend && code != frame.StatusProtocolError {
				t.Errorf("%s: the backend was sent Close %d; want 1002", name, code)
			}
			if tt.passes && len(d.fake(otherSide(from)).written) == 0 {
				t.Errorf("%s from the %v did not pass", name, from)
			}
		}
	}
}
