package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"

	"github.com/wsproxy/wsproxy"
)

// An event is something that happened to a client or to a backend. Events are shown on
// the page and in the terminal.
type event struct {
	ID     int       `json:"id"` // counted from 1
	Time   time.Time `json:"time"`
	Kind   string    `json:"kind"` // "picked", "attempted", "opened", "closed", "refused", "health" or "backend"
	Client client    `json:"client"`
	Status int       `json:"status,omitempty"` // the client's, if Kind is "refused"
	Text   string    `json:"text"`
}

// A client is described by the query of its URL.
type client struct {
	ID   string `json:"id"` // the same when it reconnects; the page chooses it
	Name string `json:"name"`
	Room string `json:"room"`
}

func clientOf(u *url.URL) client {
	query := u.Query()
	return client{
		ID:   tidy(query.Get("client"), maxAuthor),
		Name: cmp.Or(tidy(query.Get("author"), maxAuthor), "somebody"),
		Room: tidy(query.Get("room"), maxRoomName),
	}
}

// newTrace returns the hooks that make events of what the proxy does.
func (d *demo) newTrace() *wsproxy.Trace {
	return &wsproxy.Trace{
		Picked: func(i wsproxy.PickedInfo) {
			d.tell("picked", i.Request.URL, "backend %s of %d, for #%s", i.Backend.ID(), i.Candidates, clientOf(i.Request.URL).Room)
		},
		Attempted: func(i wsproxy.AttemptInfo) {
			if i.Err != nil {
				d.tell("attempted", i.Request.URL, "backend %s failed: %v", i.Backend.ID(), rootCause(i.Err))
				return
			}
			d.tell("attempted", i.Request.URL, "backend %s answered %d in %s", i.Backend.ID(), i.Status, round(i.Duration))
		},
		Refused: func(i wsproxy.RefusedInfo) {
			d.logEvent(event{
				Kind: "refused", Client: clientOf(i.Request.URL), Status: i.Status,
				Text: fmt.Sprintf("%d %s", i.Status, http.StatusText(i.Status)),
			})
		},
		Opened: func(i wsproxy.OpenedInfo) {
			info := i.Tunnel.Info()
			d.tell("opened", info.URL, "connected to backend %s", info.Backend.ID())
			d.moveRoom(info)
		},
		Closed: func(end wsproxy.TunnelEnd) { d.tell("closed", end.URL, "%s", describe(end)) },
		Health: func(i wsproxy.HealthInfo) { d.logEvent(event{Kind: "health", Text: describeFlag(i)}) },
	}
}

// tell adds an event of the client whose request has that URL.
func (d *demo) tell(kind string, u *url.URL, format string, args ...any) {
	d.logEvent(event{Kind: kind, Client: clientOf(u), Text: fmt.Sprintf(format, args...)})
}

// tellOfBackend adds an event of a backend.
func (d *demo) tellOfBackend(format string, args ...any) {
	d.logEvent(event{Kind: "backend", Text: fmt.Sprintf(format, args...)})
}

func (d *demo) logEvent(e event) {
	d.events.add(e)
	if e.Client == (client{}) {
		d.logf("%-9s  %s", e.Kind, e.Text)
		return
	}
	d.logf("%-9s  %s: %s", e.Kind, e.Client.Name, e.Text)
}

// describe returns how a tunnel ended, in plain words.
func describe(end wsproxy.TunnelEnd) string {
	side := end.Side.String()
	if end.Side == wsproxy.SideBackend {
		side = "backend " + end.Backend.ID()
	}
	after := round(end.Duration)
	switch end.Cause {
	case wsproxy.CauseClosed:
		return fmt.Sprintf("%s closed with code %d, after %s", side, end.Code, after)
	case wsproxy.CauseLost:
		return fmt.Sprintf("%s dropped the connection, after %s; the proxy sent code %d", side, after, end.Code)
	case wsproxy.CauseApplication:
		return fmt.Sprintf("the room has moved; the proxy sent code %d, after %s", end.Code, after)
	case wsproxy.CauseDrain:
		return fmt.Sprintf("backend %s drains; the proxy sent code %d, after %s", end.Backend.ID(), end.Code, after)
	case wsproxy.CauseBackendDown:
		return fmt.Sprintf("backend %s has failed its check; the proxy sent code %d, after %s", end.Backend.ID(), end.Code, after)
	case wsproxy.CauseShutdown:
		return fmt.Sprintf("the proxy shuts down and sent code %d, after %s", end.Code, after)
	}
	return fmt.Sprintf("%s: %s, code %d, after %s", side, end.Cause, end.Code, after)
}

// describeFlag returns what has happened to a flag of a backend.
func describeFlag(i wsproxy.HealthInfo) string {
	if !i.Raised {
		return fmt.Sprintf("backend %s: the flag %q is cleared", i.Backend.ID(), i.Flag)
	}
	return fmt.Sprintf("backend %s: the flag %q is raised: %v", i.Backend.ID(), i.Flag, rootCause(i.Err))
}

// rootCause returns the innermost error of err: "connection refused".
func rootCause(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}

func round(d time.Duration) time.Duration {
	switch {
	case d >= time.Second:
		return d.Round(100 * time.Millisecond)
	case d >= time.Millisecond:
		return d.Round(100 * time.Microsecond)
	}
	return d.Round(10 * time.Microsecond)
}

// maxEvents bounds the events that are kept for new pages.
const maxEvents = 100

// An eventLog has the latest events.
type eventLog struct {
	mu       sync.Mutex
	events   []event
	lastID   int
	changed  chan struct{} // closed at the next change
	isClosed bool
}

func newEventLog() *eventLog { return &eventLog{changed: make(chan struct{})} }

func (l *eventLog) add(e event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed {
		return
	}
	l.lastID++
	e.ID, e.Time = l.lastID, time.Now()
	l.events = append(l.events, e)
	if len(l.events) > maxEvents {
		l.events = slices.Delete(l.events, 0, 1)
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// close ends the log. It may be called twice.
func (l *eventLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.isClosed {
		l.isClosed = true
		close(l.changed)
	}
}

// after returns the events after the one with that ID, and a channel that is closed when
// there are more. It returns a nil channel after close.
func (l *eventLog) after(id int) (events []event, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if e.ID > id {
			events = append(events, e)
		}
	}
	if l.isClosed {
		return events, nil
	}
	return events, l.changed
}

// serveEvents serves GET /events: a WebSocket that gets the latest events, and then each
// new one. It goes to the page directly, not through the proxy.
func (d *demo) serveEvents(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return // Accept has sent an error response
	}
	defer conn.CloseNow()
	ctx := conn.CloseRead(context.Background()) // ends with the connection
	for lastID := 0; ; {
		events, changed := d.events.after(lastID)
		for _, e := range events {
			if err := wsjson.Write(ctx, conn, e); err != nil {
				return
			}
			lastID = e.ID
		}
		if changed == nil {
			conn.Close(websocket.StatusGoingAway, "the quickstart ends")
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
