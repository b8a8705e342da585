package wsproxyadmin

import (
	"encoding/json"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/buildinfo"
)

// serveOverview serves /overview. It is read at most once a second, however often it is asked for.
func (h *handler) serveOverview(w http.ResponseWriter, _ *http.Request, actor string) {
	s := h.reader.snapshot(readInterval)
	w.Header().Set("Content-Type", "application/json")
	w.Write(s.message(cursor{}, true, actor))
}

// A reader reads the state of a proxy, at most once a second for all viewers.
type reader struct {
	p        *wsproxy.Proxy
	recorder *recorder
	fixed    state // what stays the same

	mu          sync.Mutex // held while the state is read, so that others wait for it
	last        *snapshot  // nil before the first one, and after an action
	base, newer counters   // of two moments before
}

const readInterval = time.Second

func newReader(p *wsproxy.Proxy, r *recorder, o Options) *reader {
	return &reader{p: p, recorder: r, fixed: state{
		Run: strconv.FormatInt(time.Now().UnixMilli(), 36), Instance: o.Instance, Version: buildinfo.Version(), Go: runtime.Version(),
		ReadOnly: o.ReadOnly, Redacted: o.Redact,
	}}
}

// counters are those of one moment, from which later ones make rates.
type counters struct {
	at                  time.Time
	toBackend, toClient wsproxy.Traffic
	opened              map[*wsproxy.Backend]uint64
}

// How old counters must be, and may be, from which rates are made.
const (
	minCountersAge = readInterval / 2
	maxCountersAge = 5 * time.Second
)

// snapshot returns the last snapshot if it is younger than maxAge, and a new one otherwise.
func (r *reader) snapshot(maxAge time.Duration) *snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if r.last == nil || now.Sub(r.last.at) >= maxAge {
		r.last = r.readLocked(now)
	}
	return r.last
}

// refresh makes the next snapshot a new one, because of an action.
func (r *reader) refresh() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = nil
}

func (r *reader) readLocked(now time.Time) *snapshot {
	backends := r.backends()
	from := r.recorder.recordStates(backends)
	stats := r.p.Stats()
	lastEvent, recent := r.recorder.flush(now)

	s := r.fixed
	s.At = now
	s.Totals = r.totals(&stats)
	s.Opens, s.Ends, s.Refusals = recent.opens(stats.Opened), recent.ends(stats.Ended), recent.refusals(stats.Refused+stats.Failed, stats.Refusals)
	s.Upgrade = recent.upgrade()
	next := counters{now, stats.ToBackend, stats.ToClient, make(map[*wsproxy.Backend]uint64)}
	s.Backends = []backend{}
	numTunnels := 0
	for _, b := range backends {
		bs := readBackend(b, r.fixed.Redacted)
		if bs.State == wsproxy.BackendDraining {
			bs.Drain = &drain{Remaining: bs.Tunnels, From: max(from[b], bs.Tunnels), Since: bs.Since}
		}
		next.opened[b] = bs.Opened
		numTunnels += bs.Tunnels
		s.Backends = append(s.Backends, bs)
	}
	for i := range s.Backends {
		s.Backends[i].Share = float64(s.Backends[i].Tunnels) / float64(max(numTunnels, 1))
	}
	r.addRates(&s, backends, &next)
	return newSnapshot(r.recorder, &s, lastEvent, recent.tunnelsBefore(stats.Tunnels))
}

// addRates sets the rates since a state before, if that is not too old.
func (r *reader) addRates(s *state, backends []*wsproxy.Backend, now *counters) {
	if now.at.Sub(r.newer.at) >= minCountersAge {
		r.base, r.newer = r.newer, *now
	}
	elapsed := now.at.Sub(r.base.at)
	if elapsed > maxCountersAge {
		return
	}
	perSecond := func(now, before uint64) *float64 {
		rate := float64(now-min(before, now)) / elapsed.Seconds()
		return &rate
	}
	rateOf := func(f *flow, now, before wsproxy.Traffic) {
		f.BytesPerSecond = perSecond(now.Bytes, before.Bytes)
		f.MessagesPerSecond = perSecond(now.Messages, before.Messages)
	}
	rateOf(&s.Totals.ToBackend, now.toBackend, r.base.toBackend)
	rateOf(&s.Totals.ToClient, now.toClient, r.base.toClient)
	for i, b := range backends {
		if before, ok := r.base.opened[b]; ok {
			s.Backends[i].OpenedPerSecond = perSecond(now.opened[b], before)
		}
	}
}

// backends returns the backends of the set, and removed ones that have tunnels.
func (r *reader) backends() []*wsproxy.Backend {
	return append(r.p.Backends(), r.p.RemovedBackends()...)
}

func (r *reader) totals(s *wsproxy.Stats) totals {
	limits := r.p.Limits()
	t := totals{
		Tunnels: s.Tunnels, TunnelsLimit: max(limits.Tunnels, 0), Upgrading: s.Upgrading,
		Waiting: s.Waiting, WaitingLimit: max(limits.Queue, 0), Requests: s.Requests, EventLoopTunnels: s.EventLoopTunnels,
		Stalled: s.Stalled, BufferedBytes: s.Buffered, Cut: s.Cut,
		Retries: s.Retries, RetriesDenied: s.RetriesDenied, Responded: s.Responded,
		ToBackend:  flow{Bytes: s.ToBackend.Bytes, Messages: s.ToBackend.Messages},
		ToClient:   flow{Bytes: s.ToClient.Bytes, Messages: s.ToClient.Messages},
		HookPanics: []hookPanic{},
	}
	for _, c := range s.HookPanics {
		t.HookPanics = append(t.HookPanics, hookPanic(c))
	}
	return t
}

func readBackend(b *wsproxy.Backend, redact bool) backend {
	stats, health := b.Stats(), b.Health()
	s := backend{
		ID: backendID(b), URL: b.URL(), Weight: b.Weight(), Priority: b.Priority(), State: b.State(), Since: b.StateSince(),
		Flags: []flag{}, Refusing: health.Refusing,
		Tunnels: b.NumTunnels(), TunnelsLimit: b.MaxTunnels(), Load: b.Load(), Requests: stats.Requests,
		Opened: stats.Opened, Accepted: stats.Accepted, Refused: stats.Refused, Full: stats.Full, Failed: stats.Failed,
		Unreached: stats.Unreached, Abandoned: stats.Abandoned, Ejections: stats.EjectedByResponses + stats.EjectedByTunnels,
		LastProbe: stats.LastProbe,
	}
	for _, c := range stats.Ended {
		s.Ended += c.Count
	}
	for _, f := range health.Flags {
		if redact {
			f.Reason = withoutHookText(f.Reason)
		}
		one := flag{Flag: f.Flag, Reason: clip(f.Reason, maxError), Since: f.Since}
		if !f.Until.IsZero() {
			one.Until = &f.Until
		}
		s.Flags = append(s.Flags, one)
	}
	if s.State == wsproxy.BackendFailing && len(s.Flags) > 0 {
		s.Reason = s.Flags[0].Reason
	}
	return s
}

// encode returns v as JSON. That of our types has no errors.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return b
}
