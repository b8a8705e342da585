package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"

	"github.com/wsproxy/wsproxy"
)

// serveSwitch serves POST /backends/{id}/{action}, which stops or starts a backend.
func (d *demo) serveSwitch(w http.ResponseWriter, r *http.Request) {
	id, action := r.PathValue("id"), r.PathValue("action")
	i := slices.IndexFunc(d.backends, func(b *backend) bool { return b.id == id })
	actions := map[string]func(context.Context, *backend) error{"stop": d.stop, "crash": d.crash, "start": d.start}
	if i < 0 || actions[action] == nil {
		http.Error(w, "want /backends/A or B/stop, crash or start", http.StatusNotFound)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := actions[action](r.Context(), d.backends[i]); err != nil {
		d.logf("backend %s: %s: %v", id, action, err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// stop removes b from the proxy before it stops b, so that the proxy sends no client
// to a backend that is stopping.
func (d *demo) stop(ctx context.Context, b *backend) error {
	d.logf("backend %s stops", b.id)
	d.removed = append(d.removed, b.id)
	if err := d.proxy.SetBackends(d.configs()...); err != nil {
		return err
	}
	return b.stop(ctx)
}

// crash does not remove b from the proxy. The proxy detects the failure.
func (d *demo) crash(_ context.Context, b *backend) error {
	d.logf("backend %s crashes", b.id)
	return b.crash()
}

// start adds b to the proxy after b listens.
func (d *demo) start(_ context.Context, b *backend) error {
	if err := b.start(d.logf); err != nil {
		return err
	}
	d.removed = slices.DeleteFunc(d.removed, func(id string) bool { return id == b.id })
	return d.proxy.SetBackends(d.configs()...)
}

// A status is the state of the demo for the page.
type status struct {
	Backends []backendStatus `json:"backends"`
	Rooms    []roomStatus    `json:"rooms"`
}

type backendStatus struct {
	ID      string `json:"id"`
	Addr    string `json:"addr"`
	Running bool   `json:"running"`
	State   string `json:"state"`   // its state in the proxy
	Tunnels int    `json:"tunnels"` // through the proxy
}

type roomStatus struct {
	Name   string `json:"name"`
	Choice string `json:"choice"` // the backend that the balancer chooses for it
}

// serveStatus serves GET /status?room=NAME. The rooms of the response are those with
// links, and that room.
func (d *demo) serveStatus(w http.ResponseWriter, r *http.Request) {
	var s status
	known := d.proxy.Backends()
	for _, b := range d.backends {
		s.Backends = append(s.Backends, newBackendStatus(b, known))
	}
	names := slices.Clone(rooms)
	if name := r.FormValue("room"); isRoomName(name) && !slices.Contains(names, name) {
		names = append(names, name)
	}
	for _, name := range names {
		s.Rooms = append(s.Rooms, roomStatus{name, d.choice(name, known)})
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if err := json.NewEncoder(w).Encode(s); err != nil {
		return // the browser has gone
	}
}

func newBackendStatus(b *backend, known []*wsproxy.Backend) backendStatus {
	addr, isRunning := b.address()
	s := backendStatus{ID: b.id, Addr: addr, Running: isRunning, State: wsproxy.BackendRemoved.String()}
	for _, k := range known {
		if k.ID() == b.id {
			s.State, s.Tunnels = k.State().String(), k.NumTunnels()
		}
	}
	return s
}

// choice returns the ID of the backend that the balancer chooses for clients of a
// room.
func (d *demo) choice(room string, known []*wsproxy.Backend) string {
	if len(known) == 0 {
		return ""
	}
	r := &http.Request{URL: &url.URL{RawQuery: url.Values{"room": {room}}.Encode()}}
	b, err := d.balancer.Pick(r, known)
	if err != nil {
		return ""
	}
	return b.ID()
}
