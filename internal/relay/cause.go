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
	}
	return fmt.Sprintf("Cause(%d)", uint8(c))
}

// codes says what both sides hear when side ends a tunnel by cause: the status
// codes of the Close frames to the client and to the backend, 0 for none. A side
// that is lost hears nothing; one that sent a Close frame gets the other side's
// answer, not one of ours.
func codes(cause Cause, side Side) (toClient, toBackend int) {
	switch cause {
	case CauseLost:
		if side == Client {
			return 0, frame.StatusGoingAway
		}
		return frame.StatusServiceRestart, 0
	case CauseProtocol:
		if side == Client {
			return frame.StatusProtocolError, frame.StatusGoingAway
		}
		return frame.StatusServiceRestart, frame.StatusProtocolError
	case CauseTooBig:
		if side == Client {
			return frame.StatusTooBig, frame.StatusGoingAway
		}
		return frame.StatusInternalError, frame.StatusTooBig
	case CauseShutdown:
		return frame.StatusGoingAway, frame.StatusGoingAway
	case CauseCaller:
		return frame.StatusNormal, frame.StatusGoingAway // the caller chooses the client's
	case CausePanic:
		return frame.StatusInternalError, frame.StatusGoingAway
	}
	return 0, 0
}
