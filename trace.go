package wsproxy

import (
	"net/http"
	"time"
)

// A Trace is a set of hooks that see what happens; any of them may be nil. Each
// is called on a goroutine of the upgrade or tunnel that it tells of: one that
// blocks delays that one only, one that panics ends that one only. They must be
// safe for concurrent use.
type Trace struct {
	// Picked is called after the balancer has chosen, before the dial.
	Picked func(PickedInfo)

	// Attempted is called when an attempt has ended, with the backend's answer or
	// without: after the backend's handshake, not after the dial alone. An attempt
	// that the Rewrite hook refused was none.
	Attempted func(AttemptInfo)

	// Opened is called when the client has been sent its 101, before the first
	// frame is relayed.
	Opened func(TunnelInfo)

	// Closed is called once for each tunnel that has opened, whether Opened is set or
	// not, when both connections are closed.
	Closed func(TunnelEnd)
}

// A PickedInfo tells of a choice.
type PickedInfo struct {
	Request    *http.Request // the client's; must not be modified or kept
	Backend    *Backend
	Attempt    int // 1 for the first
	Candidates int // how many there were to choose from
}

// An AttemptInfo tells how an attempt ended.
type AttemptInfo struct {
	Request  *http.Request // the client's; must not be modified or kept
	Backend  *Backend
	Attempt  int           // 1 for the first
	Duration time.Duration // from the dial to the answer
	Status   int           // the backend's answer; 0 if the attempt failed
	Err      error         // a [*BackendError] if it failed, by a 502, 503 or 504 too where another is tried
}
