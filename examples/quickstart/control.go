package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/wsproxy/wsproxy"
)

// serveSwitch serves POST /backends/{id}/{action}, which does something to a backend: see
// actions.
func (d *demo) serveSwitch(w http.ResponseWriter, r *http.Request) {
	id, action := r.PathValue("id"), r.PathValue("action")
	i := slices.IndexFunc(d.backends, func(b *backend) bool { return b.id == id })
	act := d.actions()[action]
	if i < 0 || act == nil {
		http.Error(w, "want /backends/A, B or C/stop, crash, start, drain, resume, freeze or continue", http.StatusNotFound)
		return
	}
	if err := act(r.Context(), d.backends[i]); err != nil {
		d.logf("backend %s: %s: %v", id, action, err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (d *demo) actions() map[string]func(context.Context, *backend) error {
	return map[string]func(context.Context, *backend) error{
		"stop": d.stop, "crash": d.crash, "start": d.start,
		"drain": d.drain, "resume": d.resume,
		"freeze": d.freeze, "continue": d.goOn,
	}
}

// stop removes b from the proxy before it stops b, so that the proxy sends no client
// to a backend that is stopping.
func (d *demo) stop(ctx context.Context, b *backend) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tellOfBackend("%s stops: it closes its connections", b.id)
	d.removed = append(d.removed, b.id)
	if err := d.proxy.SetBackends(d.configs()...); err != nil {
		return err
	}
	return b.stop(ctx)
}

// crash does not remove b from the proxy. The proxy detects the failure.
func (d *demo) crash(_ context.Context, b *backend) error {
	d.tellOfBackend("%s crashes: it drops its connections", b.id)
	return b.crash()
}

// start adds b to the proxy after b listens. It removes a backend that has crashed first,
// so that the proxy forgets its failures. Otherwise the proxy would avoid it for a while. It
// resumes a backend that has drained.
func (d *demo) start(_ context.Context, b *backend) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Contains(d.removed, b.id) {
		d.removed = append(d.removed, b.id)
		if err := d.proxy.SetBackends(d.configs()...); err != nil {
			return err
		}
	}
	verb := "starts"
	if b.hasStarted() {
		verb = "restarts, with an empty memory"
	}
	if err := b.start(d.logf); err != nil {
		return err
	}
	d.removed = slices.DeleteFunc(d.removed, func(id string) bool { return id == b.id })
	if err := d.proxy.SetBackends(d.configs()...); err != nil {
		return err
	}
	d.tellOfBackend("%s %s", b.id, verb)
	return d.proxy.Resume(b.id)
}

// drain moves the clients of b to other backends, and returns when b has none left. It goes
// on if the page is closed, so it does not use the context of the request.
func (d *demo) drain(ctx context.Context, b *backend) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	d.tellOfBackend("%s drains: the proxy closes its tunnels within %s", b.id, drainOver)
	err := d.proxy.Drain(ctx, b.id, drainOver)
	if errors.Is(err, wsproxy.ErrResumed) {
		return nil // resume has told it
	}
	if err == nil {
		d.tellOfBackend("%s has no tunnels left, and gets no new ones", b.id)
	}
	return err
}

const (
	drainOver    = 2 * time.Second  // how long the clients of a backend are spread
	drainTimeout = 30 * time.Second // for the last of them to leave
)

func (d *demo) resume(_ context.Context, b *backend) error {
	d.tellOfBackend("%s gets new tunnels again", b.id)
	return d.proxy.Resume(b.id)
}

// freeze tells the proxy nothing. Its health check detects the failure.
func (d *demo) freeze(_ context.Context, b *backend) error {
	d.tellOfBackend("%s is frozen: it accepts connections and answers nothing", b.id)
	b.freeze()
	return nil
}

func (d *demo) goOn(_ context.Context, b *backend) error {
	d.tellOfBackend("%s continues, with its memory", b.id)
	b.goOn()
	return nil
}

// A status is the state of the demo for the page.
type status struct {
	Backends []backendStatus `json:"backends"`
	Rooms    []roomStatus    `json:"rooms"`
	Clients  []clientStatus  `json:"clients"` // that are connected, the oldest first
}

type backendStatus struct {
	ID      string       `json:"id"`
	Addr    string       `json:"addr"`
	Started bool         `json:"started"` // at least once
	Running bool         `json:"running"` // also while it is frozen
	Frozen  bool         `json:"frozen"`
	State   string       `json:"state"`   // its state in the proxy
	Flags   []flagStatus `json:"flags"`   // that the proxy has raised, the worst first
	Tunnels int          `json:"tunnels"` // through the proxy
}

type flagStatus struct {
	Flag   string    `json:"flag"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
}

type roomStatus struct {
	Name   string `json:"name"`
	Choice string `json:"choice"` // the backend that its next client gets; empty if none works
}

type clientStatus struct {
	client
	Tunnel  uint64 `json:"tunnel"`
	Backend string `json:"backend"`
}

// serveStatus serves GET /status?room=NAME. The rooms of the response are those that the
// page offers, and that room.
func (d *demo) serveStatus(w http.ResponseWriter, r *http.Request) {
	s := status{Clients: []clientStatus{}}
	known := d.proxy.Backends()
	for _, b := range d.backends {
		s.Backends = append(s.Backends, newBackendStatus(b, known))
	}
	names := slices.Clone(rooms)
	if name := r.FormValue("room"); isRoomName(name) && !slices.Contains(names, name) {
		names = append(names, name)
	}
	working := d.working(known)
	for _, name := range names {
		s.Rooms = append(s.Rooms, roomStatus{name, d.choice(name, working)})
	}
	for t := range d.proxy.Tunnels() {
		info := t.Info()
		s.Clients = append(s.Clients, clientStatus{clientOf(info.URL), info.ID, info.Backend.ID()})
	}
	slices.SortFunc(s.Clients, func(a, b clientStatus) int { return cmp.Compare(a.Tunnel, b.Tunnel) })
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if err := json.NewEncoder(w).Encode(s); err != nil {
		return // the browser has gone
	}
}

func newBackendStatus(b *backend, known []*wsproxy.Backend) backendStatus {
	addr, isRunning := b.address()
	s := backendStatus{
		ID: b.id, Addr: addr, Started: b.hasStarted(), Running: isRunning, Frozen: b.isFrozen(),
		State: wsproxy.BackendRemoved.String(), Flags: []flagStatus{},
	}
	for _, k := range known {
		if k.ID() != b.id {
			continue
		}
		s.State, s.Tunnels = k.State().String(), k.NumTunnels()
		for _, f := range k.Health().Flags {
			s.Flags = append(s.Flags, flagStatus{f.Flag.String(), f.Reason, f.Since})
		}
	}
	return s
}

// working returns the backends of known that run, are not frozen and do not drain. The proxy
// learns that a backend has crashed when it dials it, and then tries another one. The demo
// knows it before.
func (d *demo) working(known []*wsproxy.Backend) []*wsproxy.Backend {
	return slices.DeleteFunc(slices.Clone(known), func(k *wsproxy.Backend) bool {
		b := d.backends[slices.IndexFunc(d.backends, func(b *backend) bool { return b.id == k.ID() })]
		_, isRunning := b.address()
		return !isRunning || b.isFrozen() || k.State() == wsproxy.BackendDraining
	})
}

// choice returns the ID of the backend that the balancer chooses for the next client of a
// room.
func (d *demo) choice(room string, working []*wsproxy.Backend) string {
	if len(working) == 0 {
		return ""
	}
	r := &http.Request{URL: &url.URL{RawQuery: url.Values{"room": {room}}.Encode()}}
	b, err := d.balancer.Pick(r, working)
	if err != nil {
		return ""
	}
	return b.ID()
}
