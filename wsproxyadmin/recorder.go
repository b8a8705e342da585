package wsproxyadmin

import (
	"net/netip"
	"strings"
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
	states map[*wsproxy.Backend]*backendState // those of the last call of recordStates
}

// A backendState is the last known state of a backend.
type backendState struct {
	state wsproxy.BackendState // up in place of failing: flags have events of their own
	from  int                  // the most tunnels that it was seen with in this state
}

func newRecorder(p *wsproxy.Proxy, redact bool) *recorder {
	r := &recorder{p: p, redact: redact, log: newEventLog(), states: make(map[*wsproxy.Backend]*backendState)}
	r.window.began = time.Now().Unix()
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
	e := event{At: time.Now(), Kind: kindFlagCleared, Backend: i.Backend.ID(), Flag: i.Flag.String(), State: i.State.String()}
	if i.Raised {
		e.Kind, e.Error = kindFlagRaised, errorText(i.Err)
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
		e.Backend = i.Backend.ID()
	}
	if isHooks := i.Reason == wsproxy.ReasonAdmit || i.Reason == wsproxy.ReasonHook; !r.redact || !isHooks {
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

// errorText returns the text of err, which may have the address of the client in it: that of a
// connection that was reset has.
func (r *recorder) errorText(err error, client netip.Addr) string {
	text := errorText(err)
	if r.redact && client.IsValid() {
		text = strings.ReplaceAll(text, clientText(client, false), clientText(client, true))
	}
	return text
}

func (r *recorder) tunnelEvent(now time.Time, kind string, i *wsproxy.TunnelInfo) event {
	return event{
		At: now, Kind: kind, Tunnel: i.ID, RequestID: clip(i.RequestID, maxPath), Backend: i.Backend.ID(),
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
// and before now.
func (r *recorder) since(event, lastEvent uint64, second int64, now time.Time, numTunnels int) (events, history) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.between(event, lastEvent), r.window.history(second, now, numTunnels)
}

// recordStates keeps an event for each backend that was added, drained, resumed or removed since
// the last call: no hook reports that. It returns the number of tunnels with which each drain was
// first seen.
func (r *recorder) recordStates(backends []*wsproxy.Backend) map[*wsproxy.Backend]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	states, from := make(map[*wsproxy.Backend]*backendState, len(backends)), make(map[*wsproxy.Backend]int)
	for _, b := range backends {
		old, now := r.states[b], newBackendState(b)
		if old == nil || old.state != now.state {
			r.addStateLocked(b, now)
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
			r.addStateLocked(b, now)
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

func (r *recorder) addStateLocked(b *wsproxy.Backend, now *backendState) {
	r.log.add(&r.log.changes, event{At: b.StateSince(), Kind: kindState, Backend: b.ID(), State: now.state.String()})
}
