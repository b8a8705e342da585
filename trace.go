package wsproxy

import (
	"net/http"
	"time"
)

// A Trace is a set of hooks that observe upgrades and tunnels. Any of them may be nil. They
// must be safe for concurrent use. Each call is made on a goroutine of the upgrade or tunnel
// that it is about: a hook that blocks delays only this one, but for Health. While Picked
// blocks, no other upgrade tries a backend that is on probation (see [RaisedFlag]). A panic
// of Picked, Attempted or Opened ends only this one, and that of another hook ends nothing;
// it is logged.
//
// With [WithHTTP] they observe requests that are no upgrade too: Picked, Attempted when the
// backend's response has begun, and Refused if the client gets no backend's response. There is no
// hook for the end of a response. Requests in flight, and responses, are counted by [Stats] and
// [BackendStats].
type Trace struct {
	// Picked is called after the balancer has chosen, or a client is bound to a backend (see
	// [WithAffinity]), before the dial.
	Picked func(PickedInfo)

	// Attempted is called when an attempt has ended: after the opening handshake with
	// the backend, when the response to another request begins, or when the attempt failed. It
	// is not called if nothing was dialed: the Rewrite hook refused the request, its path cannot
	// be sent, or the deadline had passed.
	Attempted func(AttemptInfo)

	// Health is called once when a flag of a backend is raised, and once when it is
	// cleared: see [Backend.Health]. It is called on the goroutine that showed it: that of a
	// request or of a tunnel, of a health check, whose next probe it delays if it blocks, or
	// of [Proxy.SetBackends]. Two changes that follow closely may be reported in the other
	// order: Backend.Health has the last one.
	Health func(HealthInfo)

	// Refused is called once for each request that gets no tunnel, or, if it is no upgrade, no
	// response of a backend, before the client has its response. [Stats] counts it as refused or as failed. It is not called for a
	// request that [Proxy.Wrap] passes on.
	Refused func(RefusedInfo)

	// Opened is called when the client has been sent its 101, before the first
	// frame is relayed. The tunnel has been among [Proxy.Tunnels] since before the 101.
	Opened func(OpenedInfo)

	// Closed is called once for each tunnel that has opened, when both connections are
	// closed. It does not depend on Opened.
	Closed func(TunnelEnd)
}

// A PickedInfo describes the choice of a backend.
type PickedInfo struct {
	Request    *http.Request // the client's; must not be modified or retained
	RequestID  string        // see [TunnelInfo.RequestID]
	Backend    *Backend
	Attempt    int // 1 for the first
	Candidates int // the number of candidates; 1 where the client is bound to the backend
}

// An AttemptInfo describes an attempt that has ended.
type AttemptInfo struct {
	Request   *http.Request // the client's; must not be modified or retained
	RequestID string        // see [TunnelInfo.RequestID]
	Backend   *Backend
	Attempt   int           // 1 for the first
	Duration  time.Duration // from the dial to the response
	Status    int           // of the backend's response; 0 without one

	// Err is a [*BackendError] if the attempt failed. A 502, 503 or 504 is a failure if
	// another backend is tried, and so is any response for which the Response hook
	// returned [ErrTryNext].
	Err error
}

// An OpenedInfo describes a tunnel that has opened.
type OpenedInfo struct {
	Tunnel  *Tunnel
	Request *http.Request // the client's; must not be modified or retained
	Times   UpgradeTimes
}

// A HealthInfo describes a change of a backend's flags.
type HealthInfo struct {
	Backend *Backend
	Flag    Flag
	Raised  bool         // false: it is cleared
	State   BackendState // of the backend after the change
	Err     error        // why the flag is raised; nil if it is cleared
}

// TraceAll returns a Trace that calls the hooks of all traces, in their order. Nil traces are
// left out. A hook that panics does not keep those after it from being called; the first panic
// then has the effect that [Trace] describes.
func TraceAll(traces ...*Trace) *Trace { panic("not built") }

// Observe adds the hooks of t to those of [WithTrace], for what happens from now on, until stop
// is called. Hooks for an upgrade or a tunnel that began before are called too: Closed without
// an Opened before it, for instance. A hook may still be running when stop returns. Stop may be
// called more than once.
func (p *Proxy) Observe(t *Trace) (stop func()) { return func() {} }
