package stacks_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
)

// An outcome has what all three have to say of a tunnel.
type outcome struct {
	meeting
	testCase
	result result
	report report
	offer  string // Sec-WebSocket-Extensions of the client's request
	end    wsproxy.TunnelEnd
}

// checkPeers checks what the client and the server have to say.
func (o *outcome) checkPeers() error {
	r, rep := o.result, o.report
	if o.isClosedBy == "client" && (rep.Code != o.code || rep.Reason != o.reason) {
		return fmt.Errorf("the server got Close %d, %q; want %d, %q", rep.Code, rep.Reason, o.code, o.reason)
	}
	if o.isClosedBy == "server" && (r.Code != o.code || r.Reason != o.reason) {
		return fmt.Errorf("the client got Close %d, %q; want %d, %q", r.Code, r.Reason, o.code, o.reason)
	}
	return errors.Join(o.checkAnswer(), o.checkTime(), o.checkPings(), o.checkFrames())
}

// keepsAnswer are stacks that do not always tell the answer to their Close frame: that of gws
// closes the connection at once, and that of coder/websocket may read it itself.
var keepsAnswer = []string{"lxzan/gws", "coder/websocket"}

// checkAnswer checks the Close frame of the side that has got one first.
func (o *outcome) checkAnswer() error {
	closer, answerer, got := o.client.name, o.server.name, o.result.Code
	if o.isClosedBy == "server" {
		closer, answerer, got = answerer, closer, o.report.Code
	}
	want := o.code
	if answerer == "lxzan/gws" && want < 1016 && want != noCode {
		want = 1000
	}
	if got == 0 && slices.Contains(keepsAnswer, closer) {
		return nil
	}
	if got != want {
		return fmt.Errorf("%s got the answer %d to its Close frame; want %d", closer, got, want)
	}
	return nil
}

// maxClosing is less than each stack waits for the end of a connection: Chromium 2 s, the others
// 5 s and more.
const maxClosing = 1.9 // seconds

// checkTime checks that the proxy ends the client's connection, which is the server's part.
func (o *outcome) checkTime() error {
	if o.result.Seconds > maxClosing && !proxytest.IsRace {
		return fmt.Errorf("closing took %.2f s; want at most %.1f s", o.result.Seconds, maxClosing)
	}
	return nil
}

// numbersPings are stacks whose pings have the payloads 1, 2, 3.
var numbersPings = []string{"coder/websocket"}

func (o *outcome) checkPings() error {
	payloads := func(stack, prefix string) (want []string) {
		for i, payload := range pings {
			if slices.Contains(numbersPings, stack) {
				payload = fmt.Sprint(i + 1)
			}
			want = append(want, prefix+payload)
		}
		return want
	}
	switch o.testCase.name {
	case "pings of the client":
		if want := payloads(o.client.name, ""); !slices.Equal(o.result.Pongs, want) {
			return fmt.Errorf("the client got the pongs %q; want %q", o.result.Pongs, want)
		}
	case "pings of the server":
		if want := payloads(o.server.name, "pong "); !slices.Equal(o.result.Texts, want) {
			return fmt.Errorf("the client got the texts %q; want %q", o.result.Texts, want)
		}
	}
	return nil
}

// checkFrames checks that the stacks have fragments indeed, where one side shows it.
func (o *outcome) checkFrames() error {
	if o.server.name == rawStack.name && o.testCase.name == "fragments of the client" && o.report.Frames < 2 {
		return fmt.Errorf("the client sent the message in %d frames; want some", o.report.Frames)
	}
	if o.client.name == rawStack.name && o.testCase.name == "fragments of the server" && o.result.Frames < 2 {
		return fmt.Errorf("the server sent the message in %d frames; want some", o.result.Frames)
	}
	return nil
}

// checkTunnel checks what the proxy has to say.
func (o *outcome) checkTunnel() error {
	side := map[string]wsproxy.Side{"client": wsproxy.SideClient, "server": wsproxy.SideBackend}[o.isClosedBy]
	e := o.end
	if e.Cause != wsproxy.CauseClosed || e.Side != side || e.Code != o.code || e.Cut || e.Err != nil {
		return fmt.Errorf("the tunnel ended by %v of %v with code %d, cut %t, error %v; want %v of %v with %d",
			e.Cause, e.Side, e.Code, e.Cut, e.Err, wsproxy.CauseClosed, side, o.code)
	}
	if want := o.route.engine(); e.Engine != want {
		return fmt.Errorf("the engine is %v; want %v", e.Engine, want)
	}
	return errors.Join(o.checkExtensions(), o.checkBytes())
}

// checkExtensions checks that the offer and the answer pass as they are, and that they say what
// the case is about.
func (o *outcome) checkExtensions() error {
	if o.report.Offer != o.offer {
		return fmt.Errorf("the client offered %q, the server got %q", o.offer, o.report.Offer)
	}
	answer := strings.Join(o.end.Extensions, ", ")
	if withoutSpaces(o.result.Extensions) != withoutSpaces(answer) {
		return fmt.Errorf("the server answered %q, the client got %q", answer, o.result.Extensions)
	}
	if o.compression != "" && o.offer == "" {
		return errors.New("the client offered no compression")
	}
	counts := func(word string) int { return strings.Count(answer, word) }
	var want int
	if o.compression != "" && !o.isDeclined {
		want = 1
	}
	wantNoTakeover := map[bool]int{true: 2}[o.compression == "no takeover"]
	if counts("permessage-deflate") != want || counts("no_context_takeover") != wantNoTakeover {
		return fmt.Errorf("the client offered %q, the server answered %q; want compression %q", o.offer, answer, o.compression)
	}
	return nil
}

// checkBytes checks that both sides have compressed, and with or without the context of earlier
// messages.
func (o *outcome) checkBytes() error {
	if o.compression == "" || o.isDeclined {
		return nil
	}
	const raw = squeezedMessages * squeezedWords * wordLen
	lowest, highest := uint64(raw/5), uint64(raw/2)
	if o.compression == "takeover" {
		lowest, highest = raw/5/squeezedMessages, raw/5
	}
	for direction, n := range map[string]uint64{
		"to the server": o.end.ToBackend.Bytes, "to the client": o.end.ToClient.Bytes,
	} {
		if n < lowest || n > highest {
			return fmt.Errorf("%d bytes have gone %s; want %d to %d", n, direction, lowest, highest)
		}
	}
	return nil
}

// withoutSpaces makes what gobwas/ws has parsed and written again the same as what has come.
func withoutSpaces(extensions string) string { return strings.ReplaceAll(extensions, " ", "") }
