package wsproxyadmin

import (
	"net/netip"
	"sync"
	"time"

	"github.com/wsproxy/wsproxy"
)

// A recorder counts the events of a proxy, also without viewers, and keeps the last ones. Both have
// bounds: see window and eventLog. It keeps no request.
type recorder struct {
	p      *wsproxy.Proxy
	redact bool

	mu     sync.Mutex // nothing of the program's is called under it
	window window
	log    *eventLog

	states map[*wsproxy.Backend]*backendState // those of the last call of recordStates; guarded by reader.mu
}

// A backendState is the last known state of a backend.
type backendState struct {
	state wsproxy.BackendState // up in place of failing: flags have events of their own
	from  int                  // the most tunnels that it was seen with in this state
}

func newRecorder(p *wsproxy.Proxy, redact bool) *recorder {
	r := &recorder{p: p, redact: redact, log: newEventLog(), states: make(map[*wsproxy.Backend]*backendState)}
	r.window.began = time.Now().Unix()
	r.window.newest = r.window.began
	for _, b := range p.Backends() {
		r.states[b] = newBackendState(b)
	}
	return r
}

// trace returns the hooks of r. Each takes the lock for less than a microsecond.
func (r *recorder) trace() *wsproxy.Trace {
	return &wsproxy.Trace{Health: r.recordHealth, Refused: r.recordRefused, Opened: r.recordOpened, Closed: r.recordClosed}
}

func (r *recorder) recordHealth(i wsproxy.HealthInfo) {
	e := event{At: time.Now(), Kind: kindFlagCleared, Backend: backendID(i.Backend), Flag: i.Flag.String(), State: i.State.String()}
	if i.Raised {
		e.Kind, e.Error = kindFlagRaised, r.errorText(i.Err, netip.Addr{})
	}
	r.addChange(e)
}

// addChange keeps an event about a backend, or an action.
func (r *recorder) addChange(e event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log.add(&r.log.changes, e)
}

func (r *recorder) recordRefused(i wsproxy.RefusedInfo) {
	now, key := time.Now(), sampleKey{kind: kindRefused, reason: i.Reason}
	r.mu.Lock()
	r.window.recordRefused(now, i.Reason)
	isNeeded := r.log.begin(&r.log.refusals, key, now)
	r.mu.Unlock()
	if !isNeeded {
		return
	}
	client := r.p.ClientIP(i.Request)
	e := event{
		At: now, Kind: kindRefused, Reason: i.Reason.String(), RequestID: clip(i.RequestID, maxPath), Status: i.Status,
		Client: clientText(client, r.redact), Path: clip(i.Request.URL.Path, maxPath),
	}
	if i.Backend != nil {
		e.Backend = backendID(i.Backend)
	}
	if !r.isHidden(i.Reason) {
		e.Error = r.errorText(i.Err, client)
	}
	r.finish(key, e, now)
}

func (r *recorder) recordOpened(i wsproxy.OpenedInfo) {
	now, key := time.Now(), sampleKey{kind: kindOpened}
	r.mu.Lock()
	r.window.recordOpened(now, i.Times)
	isNeeded := r.log.begin(&r.log.tunnels, key, now)
	r.mu.Unlock()
	if isNeeded {
		info := i.Tunnel.Info()
		r.finish(key, r.tunnelEvent(now, kindOpened, &info), now)
	}
}

func (r *recorder) recordClosed(end wsproxy.TunnelEnd) {
	now, key := time.Now(), sampleKey{kind: kindClosed, side: end.Side, cause: end.Cause}
	r.mu.Lock()
	r.window.recordEnded(now, end.Side, end.Cause)
	isNeeded := r.log.begin(&r.log.tunnels, key, now)
	r.mu.Unlock()
	if !isNeeded {
		return
	}
	e := r.tunnelEvent(now, kindClosed, &end.TunnelInfo)
	e.Side, e.Cause, e.Code, e.Cut = end.Side.String(), end.Cause.String(), end.Code, end.Cut
	seconds := end.Duration.Seconds()
	e.DurationSeconds, e.Error = &seconds, r.errorText(end.Err, end.ClientAddr)
	r.finish(key, e, now)
}

// errorText returns the text of err, which may have the address of the client in it.
func (r *recorder) errorText(err error, client netip.Addr) string {
	if r.redact {
		return redactedErrorText(err, client)
	}
	return errorText(err)
}

// isHidden reports whether the error of a refusal is not shown: with these reasons it may be that of
// a hook or the balancer, which may have anything in it.
func (r *recorder) isHidden(reason wsproxy.Reason) bool {
	switch reason {
	case wsproxy.ReasonAdmit, wsproxy.ReasonHook, wsproxy.ReasonNoBackend, wsproxy.ReasonBackendLimit:
		return r.redact
	}
	return false
}

func (r *recorder) tunnelEvent(now time.Time, kind string, i *wsproxy.TunnelInfo) event {
	return event{
		At: now, Kind: kind, Tunnel: i.ID, RequestID: clip(i.RequestID, maxPath), Backend: backendID(i.Backend),
		Client: clientText(i.ClientAddr, r.redact), Path: clip(i.URL.Path, maxPath),
	}
}

func (r *recorder) finish(key sampleKey, e event, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log.finish(key, e, now)
}

// flush keeps the sampled events whose second is over, and returns the number of the last event,
// and the counts of the last minute.
func (r *recorder) flush(now time.Time) (lastEvent uint64, counts *recent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log.flush(now)
	return r.log.last, r.window.recent(now)
}

// since returns the events after one number and up to another, and the history after a second
// and before now. At the end of the last whole second before now there were so many tunnels.
func (r *recorder) since(event, lastEvent uint64, second int64, now time.Time, tunnels int) (events, history) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.between(event, lastEvent), r.window.history(second, now, tunnels)
}

// recordStates keeps an event for each backend that was added, drained, resumed or removed since
// the last call: no hook reports that. It returns the number of tunnels with which each drain was
// first seen. The caller holds reader.mu. The hooks do not wait for it: there may be thousands of
// backends.
func (r *recorder) recordStates(backends []*wsproxy.Backend) map[*wsproxy.Backend]int {
	states, from := make(map[*wsproxy.Backend]*backendState, len(backends)), make(map[*wsproxy.Backend]int)
	for _, b := range backends {
		old, now := r.states[b], newBackendState(b)
		if old == nil || old.state != now.state {
			r.addState(b, now)
		} else {
			now.from = max(now.from, old.from)
		}
		states[b] = now
		if now.state == wsproxy.BackendDraining {
			from[b] = now.from
		}
		delete(r.states, b)
	}
	for b, old := range r.states { // neither in the set nor with tunnels
		if now := newBackendState(b); old.state != now.state {
			r.addState(b, now)
		}
	}
	r.states = states
	return from
}

func newBackendState(b *wsproxy.Backend) *backendState {
	s := b.State()
	if s == wsproxy.BackendFailing {
		s = wsproxy.BackendUp
	}
	return &backendState{s, b.NumTunnels()}
}

func (r *recorder) addState(b *wsproxy.Backend, now *backendState) {
	r.addChange(event{At: b.StateSince(), Kind: kindState, Backend: backendID(b), State: now.state.String()})
}
