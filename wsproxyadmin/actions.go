package wsproxyadmin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/wsproxy/wsproxy"
)

// maxBody bounds the body of an action, which has a few short fields.
const maxBody = 4 << 10

// An action is a request to change something.
type action struct {
	name   string // drain, resume or close
	actor  string
	client string // the address of the sender, for the log
	shown  string // the same for the event
	target string
	then   func() // called when the action is recorded; may be nil
}

// An actionError is why an action was not done, with the status of the response.
type actionError struct {
	status int
	text   string
}

func (e *actionError) Error() string { return e.text }

func failed(status int, format string, args ...any) error {
	return &actionError{status, fmt.Sprintf(format, args...)}
}

// serveAction serves POST requests. Each has one line in the log and one event, also where
// nothing was done.
func (h *handler) serveAction(w http.ResponseWriter, r *http.Request, name, actor string) {
	a := &action{name: name, actor: actor, client: h.sender(r), shown: h.senderText(r)}
	status, result, err := h.act(a, w, r)
	body := actionResult{Result: result}
	if err != nil {
		status = http.StatusBadRequest
		if failure, ok := errors.AsType[*actionError](err); ok {
			status = failure.status
		}
		body = actionResult{Error: err.Error()}
	}
	h.recordAction(a, cmp.Or(body.Error, body.Result))
	if a.then != nil {
		a.then()
	}
	h.feed.refresh()
	h.logAction(a, cmp.Or(body.Error, body.Result)) // last: the Logger may panic or block
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(encode(body))
}

// act does what r asks for, and sets the target of a.
func (h *handler) act(a *action, w http.ResponseWriter, r *http.Request) (status int, result string, err error) {
	if h.o.ReadOnly {
		return 0, "", failed(http.StatusForbidden, "actions are switched off: Options.ReadOnly is set")
	}
	switch a.name {
	case "drain":
		var body drainAction
		if err := readBody(w, r, &body); err != nil {
			return 0, "", err
		}
		a.target = body.Backend
		return h.drain(a, body)
	case "resume":
		var body resumeAction
		if err := readBody(w, r, &body); err != nil {
			return 0, "", err
		}
		a.target = body.Backend
		return h.resume(body)
	}
	var body closeAction
	if err := readBody(w, r, &body); err != nil {
		return 0, "", err
	}
	a.target = strconv.FormatUint(body.Tunnel, 10)
	return h.closeTunnel(body)
}

// readBody decodes the body of r.
func readBody(w http.ResponseWriter, r *http.Request, into any) error {
	// A form of another site cannot have this type, whatever the browser.
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return failed(http.StatusUnsupportedMediaType, "want Content-Type: application/json")
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return failed(http.StatusBadRequest, "body: %v", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return failed(http.StatusBadRequest, "body: there is more than one value")
	}
	return nil
}

// maxOver bounds the time of a drain, so that it is a time.Duration.
const maxOver = 7 * 24 * time.Hour

// drain begins a drain. It goes on when the request has ended.
func (h *handler) drain(a *action, body drainAction) (status int, result string, err error) {
	b := h.findBackend(body.Backend)
	if b == nil {
		return 0, "", failed(http.StatusNotFound, "there is no backend %q", body.Backend)
	}
	if body.OverSeconds > maxOver.Seconds() {
		return 0, "", failed(http.StatusBadRequest, "over_seconds is %v; at most %v", body.OverSeconds, maxOver.Seconds())
	}
	a.then = func() {
		h.drains.begin(b.ID())
		go h.runDrain(b, overTime(body.OverSeconds)) // ends when b is empty or resumed, and when the proxy is shut down
	}
	return http.StatusAccepted, fmt.Sprintf("draining, %d tunnels", b.NumTunnels()), nil
}

// overTime returns the time of a drain. One that is not zero stays so: zero is the default pace.
func overTime(seconds float64) time.Duration {
	over := time.Duration(max(seconds, -1) * float64(time.Second))
	switch {
	case over != 0 || seconds == 0:
		return over
	case seconds < 0:
		return -1
	}
	return 1
}

// runningDrains counts the drains under way of each backend: each change of the pace is one more,
// and all of them end together.
type runningDrains struct {
	mu    sync.Mutex
	count map[string]int // by the ID of the backend
}

func (d *runningDrains) begin(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.count == nil {
		d.count = make(map[string]int)
	}
	d.count[id]++
}

// end reports whether the drain that ends is the last one.
func (d *runningDrains) end(id string) (isLast bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.count[id]--
	if d.count[id] > 0 {
		return false
	}
	delete(d.count, id)
	return true
}

// runDrain drains a backend, and keeps an event of its end, but for a drain whose pace was changed.
func (h *handler) runDrain(b *wsproxy.Backend, over time.Duration) {
	result := "drained: no tunnel is left"
	if err := h.p.Drain(context.Background(), b.ID(), over); err != nil {
		result = err.Error()
	}
	if !h.drains.end(b.ID()) {
		return
	}
	h.recorder.addChange(event{At: time.Now(), Kind: kindDrainEnded, Backend: backendID(b), Result: clip(result, maxError)})
	h.feed.refresh()
}

func (h *handler) resume(body resumeAction) (status int, result string, err error) {
	b := h.findBackend(body.Backend)
	if b == nil {
		return 0, "", failed(http.StatusNotFound, "there is no backend %q", body.Backend)
	}
	wasDraining := b.State() == wsproxy.BackendDraining
	if err := h.p.Resume(b.ID()); err != nil {
		return 0, "", failed(http.StatusConflict, "%v", err)
	}
	if !wasDraining {
		return http.StatusOK, "it was not draining", nil
	}
	return http.StatusOK, "resumed", nil
}

// defaultCode is the code for the client if none is given. It may come again.
const defaultCode = 1001

func (h *handler) closeTunnel(body closeAction) (status int, result string, err error) {
	code := cmp.Or(body.Code, defaultCode)
	t, ok := h.p.Tunnel(body.Tunnel)
	if !ok {
		return 0, "", failed(http.StatusGone, "tunnel %d is not open", body.Tunnel)
	}
	if err := t.Close(code, body.Reason); err != nil {
		return 0, "", failed(http.StatusBadRequest, "%v", err)
	}
	return http.StatusOK, fmt.Sprintf("closing with %d", code), nil
}

// findBackend returns the backend whose ID is shown so, which may be a removed one with tunnels, or nil.
func (h *handler) findBackend(id string) *wsproxy.Backend {
	for _, b := range h.reader.backends() {
		if backendID(b) == id {
			return b
		}
	}
	return nil
}

// sender returns the address of the sender of r: the peer's with its port, or that of the client
// behind one of [wsproxy.WithTrustedProxies].
func (h *handler) sender(r *http.Request) string {
	client := h.p.ClientIP(r)
	if peer, _ := parsePeer(r.RemoteAddr); client == peer || !client.IsValid() {
		return r.RemoteAddr
	}
	return client.String()
}

// senderText returns the address of a sender as the page shows it.
func (h *handler) senderText(r *http.Request) string { return clientText(h.p.ClientIP(r), h.o.Redact) }

func (h *handler) recordAction(a *action, result string) {
	h.recorder.addChange(event{
		At: time.Now(), Kind: kindAction, Action: a.name, Actor: clip(a.actor, maxValue), Client: a.shown,
		Target: clip(a.target, maxValue), Result: clip(result, maxError),
	})
}

func (h *handler) logger() *slog.Logger { return cmp.Or(h.o.Logger, slog.Default()) }

// logAction logs an action.
func (h *handler) logAction(a *action, result string) {
	h.logger().LogAttrs(context.Background(), slog.LevelInfo, "admin action",
		slog.String("action", a.name), slog.String("actor", a.actor), slog.String("client", a.client),
		slog.String("target", a.target), slog.String("result", result))
}

// logRefused logs a request that Authorize did not let in.
func (h *handler) logRefused(r *http.Request, err error) {
	h.logger().LogAttrs(context.Background(), slog.LevelDebug, "admin request refused",
		slog.String("client", h.sender(r)), slog.String("path", r.URL.Path), slog.Any("err", err))
}
