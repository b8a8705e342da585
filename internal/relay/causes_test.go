package relay

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy/internal/frame"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// causeTests are the rows of the table of causes: what happens, which Close frame
// each side then gets, if any, and what the End says.
var causeTests = []struct {
	name      string
	act       func(*scene)
	toClient  wstest.Frame
	toBackend wstest.Frame
	end       End
	err       error // nil, or what End.Err is
	isReset   bool  // act resets a connection
}{
	{
		name: "closed by the client",
		act: func(s *scene) {
			s.client.Send(wstest.Close(1000, "bye"))
			s.backend.Want(wstest.Close(1000, "bye"))
			s.backend.Send(wstest.Close(1000, "bye yourself"))
			s.client.Want(wstest.Close(1000, "bye yourself"))
		},
		end: End{Side: Client, Cause: CauseClosed, Code: 1000},
	},
	{
		name: "closed by the backend",
		act: func(s *scene) {
			s.backend.Send(wstest.Close(4001, "full"))
			s.client.Want(wstest.Close(4001, "full"))
			s.client.Send(wstest.Close(1000, ""))
			s.backend.Want(wstest.Close(1000, ""))
		},
		end: End{Side: Backend, Cause: CauseClosed, Code: 4001},
	},
	{
		name: "closed without a code",
		act: func(s *scene) {
			s.client.Send(wstest.Close(0, ""))
			s.backend.Want(wstest.Close(0, ""))
			s.backend.Send(wstest.Close(0, ""))
			s.client.Want(wstest.Close(0, ""))
		},
		end: End{Side: Client, Cause: CauseClosed, Code: frame.StatusNoStatus},
	},
	{
		name: "client lost",
		act:  func(s *scene) { s.client.Close() },
		end:  End{Side: Client, Cause: CauseLost},
		err:  io.EOF,
	},
	{
		name:    "client lost by a reset",
		act:     func(s *scene) { reset(s.t, s.client) },
		end:     End{Side: Client, Cause: CauseLost},
		err:     errReset,
		isReset: true,
	},
	{
		name:     "backend lost",
		act:      func(s *scene) { s.backend.Close() },
		toClient: wstest.Close(1012, "backend lost"),
		end:      End{Side: Backend, Cause: CauseLost, Code: 1012},
		err:      io.EOF,
	},
	{
		name:     "backend lost by a reset",
		act:      func(s *scene) { reset(s.t, s.backend) },
		toClient: wstest.Close(1012, "backend lost"),
		end:      End{Side: Backend, Cause: CauseLost, Code: 1012},
		err:      errReset,
		isReset:  true,
	},
	{
		name:      "client breaks the protocol",
		act:       func(s *scene) { s.client.SendRaw(unmasked(wstest.Text("not masked"))) },
		toClient:  wstest.Close(1002, "frame from the client is not masked"),
		toBackend: wstest.Close(1001, "client broke the protocol"),
		end:       End{Side: Client, Cause: CauseProtocol, Code: 1002},
		err:       &frame.Violation{Code: 1002, Reason: "frame from the client is not masked"},
	},
	{
		name:      "backend breaks the protocol",
		act:       func(s *scene) { s.backend.SendRaw(masked(wstest.Text("masked"))) },
		toClient:  wstest.Close(1012, "backend broke the protocol"),
		toBackend: wstest.Close(1002, "frame from the backend is masked"),
		end:       End{Side: Backend, Cause: CauseProtocol, Code: 1012},
		err:       &frame.Violation{Code: 1002, Reason: "frame from the backend is masked"},
	},
	{
		name:      "client's message too big",
		act:       func(s *scene) { s.client.Send(wstest.Text(strings.Repeat("x", maxMessage+1))) },
		toClient:  wstest.Close(1009, "message larger than the limit"),
		toBackend: wstest.Close(1001, "client's message too big"),
		end:       End{Side: Client, Cause: CauseTooBig, Code: 1009},
		err:       &frame.Violation{Code: 1009, Reason: "message larger than the limit"},
	},
	{
		name:      "backend's message too big",
		act:       func(s *scene) { s.backend.Send(wstest.Text(strings.Repeat("x", maxMessage+1))) },
		toClient:  wstest.Close(1011, "backend's message too big"),
		toBackend: wstest.Close(1009, "message larger than the limit"),
		end:       End{Side: Backend, Cause: CauseTooBig, Code: 1011},
		err:       &frame.Violation{Code: 1009, Reason: "message larger than the limit"},
	},
	{
		name: "client sends too many control frames",
		act: func(s *scene) {
			s.client.Send(slices.Repeat([]wstest.Frame{wstest.Ping("")}, 10*maxControls)...)
			s.wantPings(maxControls)
		},
		toClient:  wstest.Close(1008, "more than 100 control frames in a second"),
		toBackend: wstest.Close(1001, "client sent too many control frames"),
		end:       End{Side: Client, Cause: CauseControlFlood, Code: 1008},
		err:       &frame.Violation{Code: 1008, Reason: "more than 100 control frames in a second"},
	},
	{
		name:      "shutdown",
		act:       func(s *scene) { s.Close(CauseShutdown, 0, "") },
		toClient:  wstest.Close(1001, "shutting down"),
		toBackend: wstest.Close(1001, "shutting down"),
		end:       End{Side: Proxy, Cause: CauseShutdown, Code: 1001},
	},
	{
		name:      "caller",
		act:       func(s *scene) { s.Close(CauseApplication, 0, "") },
		toClient:  wstest.Close(1000, ""),
		toBackend: wstest.Close(1001, "closed by the proxy"),
		end:       End{Side: Proxy, Cause: CauseApplication, Code: 1000},
	},
	{
		name:      "caller with a code of its own",
		act:       func(s *scene) { s.Close(CauseApplication, 4321, "try again") },
		toClient:  wstest.Close(4321, "try again"),
		toBackend: wstest.Close(1001, "closed by the proxy"),
		end:       End{Side: Proxy, Cause: CauseApplication, Code: 4321},
	},
	{
		name:      "panic",
		act:       func(s *scene) { s.Close(CausePanic, 0, "") },
		toClient:  wstest.Close(1011, "internal error"),
		toBackend: wstest.Close(1001, "closed by the proxy"),
		end:       End{Side: Proxy, Cause: CausePanic, Code: 1011},
	},
	{
		name:      "idle",
		act:       func(s *scene) { s.Close(CauseIdle, 0, "") },
		toClient:  wstest.Close(1001, "idle"),
		toBackend: wstest.Close(1001, "idle"),
		end:       End{Side: Proxy, Cause: CauseIdle, Code: 1001},
	},
	{
		name:      "lifetime",
		act:       func(s *scene) { s.Close(CauseLifetime, 0, "") },
		toClient:  wstest.Close(1012, "reconnect"),
		toBackend: wstest.Close(1001, "open for long enough"),
		end:       End{Side: Proxy, Cause: CauseLifetime, Code: 1012},
	},
	{
		name:      "drain",
		act:       func(s *scene) { s.Close(CauseDrain, 0, "") },
		toClient:  wstest.Close(1012, "reconnect"),
		toBackend: wstest.Close(1001, "draining"),
		end:       End{Side: Proxy, Cause: CauseDrain, Code: 1012},
	},
	{
		name:      "rebalance",
		act:       func(s *scene) { s.Close(CauseRebalance, 0, "") },
		toClient:  wstest.Close(1012, "reconnect"),
		toBackend: wstest.Close(1001, "rebalancing"),
		end:       End{Side: Proxy, Cause: CauseRebalance, Code: 1012},
	},
	{
		name:      "backend down",
		act:       func(s *scene) { s.Close(CauseBackendDown, 0, "") },
		toClient:  wstest.Close(1012, "backend down"),
		toBackend: wstest.Close(1001, "health check failed"),
		end:       End{Side: Proxy, Cause: CauseBackendDown, Code: 1012},
	},
	{
		name:     "client does not answer a ping",
		act:      func(s *scene) { s.leaveUnanswered(Client) },
		toClient: wstest.Close(1001, "ping timeout"),
		end:      End{Side: Client, Cause: CausePingTimeout, Code: 1001},
		err:      errUnanswered(4),
	},
	{
		name:      "backend does not answer a ping",
		act:       func(s *scene) { s.leaveUnanswered(Backend) },
		toClient:  wstest.Close(1012, "backend does not answer"),
		toBackend: wstest.Close(1001, "ping timeout"),
		end:       End{Side: Backend, Cause: CausePingTimeout, Code: 1012},
		err:       errUnanswered(4),
	},
}

// leaveUnanswered is what happens when a side has left a ping unanswered for a second.
func (s *scene) leaveUnanswered(side Side) {
	r := relayOf(s)
	r.mu.Lock()
	r.leg(side).unansweredLocked(4)
	r.mu.Unlock()
	r.notify()
}

const maxMessage = 1000 // of all scenes here

// errReset stands for what a reset looks like on a system.
var errReset = errors.New("a reset")

func TestCausesCloseBothSides(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		for _, tt := range causeTests {
			if tt.isReset && n.cannotReset {
				continue
			}
			t.Run(tt.name, func(t *testing.T) {
				s := e.start(t, n, setup{Config: Config{MaxMessage: maxMessage}})
				s.client.Send(wstest.Text("to the backend"))
				s.backend.Want(wstest.Text("to the backend"))
				s.backend.Send(wstest.Text("to the client"))
				s.client.Want(wstest.Text("to the client"))

				tt.act(s)
				if isClientLost := tt.end.Side == Client && (tt.end.Cause == CauseLost || tt.end.Cause == CausePingTimeout); isClientLost {
					if tt.toClient.Opcode == wstest.OpClose {
						s.client.Want(tt.toClient)
						s.client.Close()
					}
					s.backend.WantEOF()
					s.backend.Close()
				} else {
					s.wantAndAnswer(tt.toClient, tt.toBackend)
				}

				err := s.wantEnd(tt.end)
				wantCauseError(t, err, tt.err)
			})
		}
	})
}

// wantAndAnswer wants each Close frame that is one to arrive, the backend's first. It
// answers them, and ends the connections in order.
func (s *scene) wantAndAnswer(toClient, toBackend wstest.Frame) {
	s.t.Helper()
	isSent := func(f wstest.Frame) bool { return f.Opcode == wstest.OpClose }
	if isSent(toBackend) {
		s.backend.Want(toBackend)
		s.backend.Send(wstest.Close(1000, ""))
	}
	if isSent(toClient) {
		s.client.Want(toClient)
		s.client.Send(wstest.Close(1000, ""))
	}
	if isSent(toClient) && !isSent(toBackend) { // the backend is lost
		s.client.WantEOF()
		s.client.Close()
		return
	}
	s.hangUp()
}

func wantCauseError(t *testing.T, got, want error) {
	t.Helper()
	wantV, isViolation := want.(*frame.Violation)
	switch {
	case want == errReset:
		if got == nil || errors.Is(got, io.EOF) {
			t.Errorf("ended with error %v; want a reset", got)
		}
	case isViolation:
		var v *frame.Violation
		if !errors.As(got, &v) || *v != *wantV {
			t.Errorf("ended with error %v; want %v", got, want)
		}
	case want != nil && want != io.EOF:
		if got == nil || got.Error() != want.Error() {
			t.Errorf("ended with error %v; want %v", got, want)
		}
	case want == io.EOF:
		// A TLS peer that ends without close_notify, and a socket whose other end
		// was closed with unread bytes, are no io.EOF.
		if got == nil {
			t.Error("ended without an error; want one")
		}
	case got != nil:
		t.Errorf("ended with error %v; want none", got)
	}
}

func TestCauseTestsAreWhole(t *testing.T) {
	seen := make(map[Cause]bool)
	for _, tt := range causeTests {
		seen[tt.end.Cause] = true
	}
	seen[CauseStalled] = true // see stall_test.go
	for c := range Cause(len(causeNames)) {
		if !seen[c] {
			t.Errorf("no test ends a tunnel by %v", c)
		}
	}
}

func TestCloseReasonIsForTheClient(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		s := e.start(t, n, setup{})
		s.Close(CauseApplication, 4321, "try again")
		s.wantAndAnswer(wstest.Close(4321, "try again"), wstest.Close(1001, "closed by the proxy"))
		s.wantEnd(End{Side: Proxy, Cause: CauseApplication, Code: 4321})
	})
}

func TestFramesOfOursAreMaskedWithDifferingKeys(t *testing.T) {
	const tunnels = 8
	forEachEngine(t, func(t *testing.T, e engine) {
		keys := make(map[string]bool)
		for range tunnels {
			s := e.start(t, networks[0], setup{})
			s.Close(CauseShutdown, 0, "")
			head := make([]byte, 6) // of a Close frame that is masked
			if _, err := io.ReadFull(s.backend, head); err != nil {
				t.Fatal(err)
			}
			if head[0] != 0x88 || head[1] != 0x8F {
				t.Errorf("to the backend: %x; want a masked Close frame", head[:2])
			}
			keys[string(head[2:])] = true
			s.Abort(CauseShutdown)
			s.wait()
		}
		if len(keys) != tunnels {
			t.Errorf("%d different keys in %d tunnels; want as many", len(keys), tunnels)
		}
	})
}

func TestFirstCauseCounts(t *testing.T) {
	forEachEngine(t, func(t *testing.T, e engine) {
		s := e.start(t, networks[0], setup{})
		s.Close(CauseApplication, 4000, "first")
		s.Close(CauseShutdown, 0, "")
		s.Close(CauseApplication, 4001, "third")
		s.wantAndAnswer(wstest.Close(4000, "first"), wstest.Close(1001, "closed by the proxy"))
		s.wantEnd(End{Side: Proxy, Cause: CauseApplication, Code: 4000})
	})
}

func TestSidesAndCausesHaveNames(t *testing.T) {
	for side, want := range map[Side]string{Proxy: "proxy", Client: "client", Backend: "backend", 9: "Side(9)"} {
		if got := side.String(); got != want {
			t.Errorf("Side %d = %q; want %q", uint8(side), got, want)
		}
	}
	want := []string{"closed", "lost", "protocol", "too big", "shutdown", "application", "panic", "stalled", "control flood",
		"idle", "lifetime", "drain", "rebalance", "backend down", "ping timeout", "Cause(15)"}
	for i, want := range want {
		if got := Cause(i).String(); got != want {
			t.Errorf("Cause %d = %q; want %q", i, got, want)
		}
	}
}
