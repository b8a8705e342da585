package wsproxy

import (
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
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
	// response of a backend, before the client has its response. [Stats] counts it as refused or
	// as failed. It is not called for a request that [Proxy.Wrap] passes on.
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
	Times   UpgradeTimes  // how long its upgrade has taken
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
func TraceAll(traces ...*Trace) *Trace {
	h := new(hooks)
	for _, t := range traces {
		h.add(t)
	}
	return &Trace{
		Picked: joinHooks(h.picked), Attempted: joinHooks(h.attempted), Health: joinHooks(h.health),
		Refused: joinHooks(h.refused), Opened: joinHooks(h.opened), Closed: joinHooks(h.closed),
	}
}

// joinHooks returns a function that calls all hooks; nil if there is none.
func joinHooks[T any](hooks []func(T)) func(T) {
	switch len(hooks) {
	case 0:
		return nil
	case 1:
		return hooks[0]
	}
	return func(info T) { callJoined(hooks, info) }
}

// callJoined calls all hooks. If some panic, it panics as the first of them, with its stack.
func callJoined[T any](hooks []func(T), info T) {
	if len(hooks) == 0 {
		return
	}
	hasReturned := false
	defer func() {
		if hasReturned {
			return
		}
		isDone := false
		defer func() {
			if !isDone {
				recover() // a later panic would replace the first
			}
		}()
		callJoined(hooks[1:], info)
		isDone = true
	}()
	hooks[0](info)
	hasReturned = true
	callJoined(hooks[1:], info)
}

// Observe adds the hooks of t to those of [WithTrace], for all events from now on, until stop is
// called. They are called last, in the order of the calls of Observe. A hook that panics does not
// keep the others from being called; the first panic then has the effect that [Trace] describes.
//
// Hooks for an upgrade or a tunnel that began before are called too: Closed without an Opened
// before it, for instance. [RequestID] and [Admitted] may find nothing in the request of such an
// upgrade: the ID is in the info as well, or in [Tunnel.Info].
//
// A hook may still be running when stop returns, and may be called for an event that is being
// reported. Stop may be called more than once. Hooks may call Observe and stop. If t is nil,
// Observe does nothing.
func (p *Proxy) Observe(t *Trace) (stop func()) {
	if t == nil {
		return func() {}
	}
	t = new(*t) // its own pointer, also if t is given twice
	p.observers.change(func(traces []*Trace) []*Trace { return append(traces, t) })
	return func() {
		p.observers.change(func(traces []*Trace) []*Trace {
			return slices.DeleteFunc(traces, func(x *Trace) bool { return x == t })
		})
	}
}

// observers are the traces of a Proxy: that of WithTrace, then those of Observe.
type observers struct {
	hooks atomic.Pointer[hooks] // of all traces; a value is never changed

	mu     sync.Mutex // held to change hooks
	traces []*Trace
}

// change replaces the traces by those that f makes of them.
func (o *observers) change(f func([]*Trace) []*Trace) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.traces = f(o.traces)
	h := new(hooks)
	for _, t := range o.traces {
		h.add(t)
	}
	o.hooks.Store(h)
}

// hooks are those of several traces, each list in their order.
type hooks struct {
	picked    []func(PickedInfo)
	attempted []func(AttemptInfo)
	health    []func(HealthInfo)
	refused   []func(RefusedInfo)
	opened    []func(OpenedInfo)
	closed    []func(TunnelEnd)
}

// add adds the hooks of t, which may be nil.
func (h *hooks) add(t *Trace) {
	if t == nil {
		return
	}
	h.picked = appendHook(h.picked, t.Picked)
	h.attempted = appendHook(h.attempted, t.Attempted)
	h.health = appendHook(h.health, t.Health)
	h.refused = appendHook(h.refused, t.Refused)
	h.opened = appendHook(h.opened, t.Opened)
	h.closed = appendHook(h.closed, t.Closed)
}

func appendHook[T any](hooks []func(T), hook func(T)) []func(T) {
	if hook == nil {
		return hooks
	}
	return append(hooks, hook)
}

// needRequests reports whether one of the hooks gets a request.
func (h *hooks) needRequests() bool {
	return len(h.picked)+len(h.attempted)+len(h.refused)+len(h.opened) > 0
}

// traceHooks returns the hooks of all traces at this moment.
func (p *Proxy) traceHooks() *hooks { return p.observers.hooks.Load() }
