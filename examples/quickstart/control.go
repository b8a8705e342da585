package main

import (
	"cmp"
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
		http.Error(w, "want /backends/A, B or C/stop, crash or start", http.StatusNotFound)
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
// so that the proxy forgets its failures. Otherwise the proxy would avoid it for a while.
func (d *demo) start(_ context.Context, b *backend) error {
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
	return nil
}

// A status is the state of the demo for the page.
type status struct {
	Backends []backendStatus `json:"backends"`
	Rooms    []roomStatus    `json:"rooms"`
	Clients  []clientStatus  `json:"clients"` // that are connected, the oldest first
}

type backendStatus struct {
	ID      string `json:"id"`
	Addr    string `json:"addr"`
	Started bool   `json:"started"` // at least once
	Running bool   `json:"running"`
	State   string `json:"state"`   // its state in the proxy
	Tunnels int    `json:"tunnels"` // through the proxy
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
		ID: b.id, Addr: addr, Started: b.hasStarted(), Running: isRunning, State: wsproxy.BackendRemoved.String(),
	}
	for _, k := range known {
		if k.ID() == b.id {
			s.State, s.Tunnels = k.State().String(), k.NumTunnels()
		}
	}
	return s
}

// working returns the backends of known that run. The proxy learns that a backend has
// crashed when it dials it, and then tries another one. The demo knows it before.
func (d *demo) working(known []*wsproxy.Backend) []*wsproxy.Backend {
	return slices.DeleteFunc(slices.Clone(known), func(k *wsproxy.Backend) bool {
		i := slices.IndexFunc(d.backends, func(b *backend) bool { return b.id == k.ID() })
		_, isRunning := d.backends[i].address()
		return !isRunning
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
