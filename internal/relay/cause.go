package relay

import (
	"fmt"

	"github.com/wsproxy/wsproxy/internal/frame"
)

// A Side is who did something.
type Side uint8

const (
	Proxy Side = iota
	Client
	Backend
)

func (s Side) String() string {
	switch s {
	case Proxy:
		return "proxy"
	case Client:
		return "client"
	case Backend:
		return "backend"
	}
	return fmt.Sprintf("Side(%d)", uint8(s))
}

// A Cause is why a tunnel ended.
type Cause uint8

const (
	CauseClosed   Cause = iota // a side sent a Close frame
	CauseLost                  // a side's stream ended, or was reset, without one
	CauseProtocol              // a side broke the protocol
	CauseTooBig                // a side sent a message over the limit
	CauseShutdown              // the proxy shuts down
	CauseCaller                // the program asked for it
	CausePanic                 // a hook of the program panicked
	CauseStalled               // a side takes nothing, and too many tunnels are like that
)

func (c Cause) String() string {
	switch c {
	case CauseClosed:
		return "closed"
	case CauseLost:
		return "lost"
	case CauseProtocol:
		return "protocol"
	case CauseTooBig:
		return "too big"
	case CauseShutdown:
		return "shutdown"
	case CauseCaller:
		return "caller"
	case CausePanic:
		return "panic"
	case CauseStalled:
		return "stalled"
	}
	return fmt.Sprintf("Cause(%d)", uint8(c))
}

// A farewell is what one side hears of a tunnel's end: the status code and reason
// of a Close frame. Code 0 is none at all.
type farewell struct {
	code   int
	reason string
}

// farewells is the table of causes: what the client and the backend hear when side
// ends a tunnel by cause. A side that is lost, or stalled, hears nothing; one that
// sent a Close frame gets the other side's answer, not one of ours. Reasons are for people who
// look at a connection from outside.
func farewells(cause Cause, side Side) (toClient, toBackend farewell) {
	none := farewell{}
	byClient := side == Client
	switch cause {
	case CauseLost:
		if byClient {
			return none, farewell{frame.StatusGoingAway, "client lost"}
		}
		return farewell{frame.StatusServiceRestart, "backend lost"}, none
	case CauseProtocol:
		if byClient {
			return farewell{frame.StatusProtocolError, ""}, farewell{frame.StatusGoingAway, "client broke the protocol"}
		}
		return farewell{frame.StatusServiceRestart, "backend broke the protocol"}, farewell{frame.StatusProtocolError, ""}
	case CauseTooBig:
		if byClient {
			return farewell{frame.StatusTooBig, ""}, farewell{frame.StatusGoingAway, "client's message too big"}
		}
		return farewell{frame.StatusInternalError, "backend's message too big"}, farewell{frame.StatusTooBig, ""}
	case CauseShutdown:
		return farewell{frame.StatusGoingAway, "shutting down"}, farewell{frame.StatusGoingAway, "shutting down"}
	case CauseCaller: // the caller chooses what the client hears
		return farewell{frame.StatusNormal, ""}, farewell{frame.StatusGoingAway, "closed by the proxy"}
	case CauseStalled:
		if byClient {
			return none, farewell{frame.StatusGoingAway, "client stalled"}
		}
		return farewell{frame.StatusServiceRestart, "backend stalled"}, none
	case CausePanic:
		return farewell{frame.StatusInternalError, "internal error"}, farewell{frame.StatusGoingAway, "closed by the proxy"}
	}
	return none, none
}

// with returns f, with what is known about a side that did wrong, or what the
// caller wants the client to hear.
func (f farewell) with(reason string) farewell {
	if f.reason == "" {
		f.reason = reason
	}
	return f
}
