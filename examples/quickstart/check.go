package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"

	"github.com/wsproxy/wsproxy"
)

// checkTimeout bounds the whole check, which takes some seconds: a drain is spread over a
// time, and so is the detection of a frozen backend.
const checkTimeout = time.Minute

// A checker uses a demo like people with the page, and checks the results. Its
// steps run in order, and depend on the steps before.
type checker struct {
	demo *demo
	out  io.Writer

	ann, bob *chatter // share a room until the end
	room     string   // their room
	home     string   // the backend that it hashes to
	other    string   // the other backend
}

// check runs a demo on free ports, performs the steps of a checker, and prints
// their results to out. It returns the error of the first step that fails.
func check(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	quiet := func(string, ...any) {}
	d, err := newDemo(quiet, "127.0.0.1:0", [3]string{"127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"})
	if err != nil {
		return err
	}
	c := &checker{demo: d, out: out, room: "design"}
	err = c.run(ctx)
	if err != nil {
		d.shutdown(ctx) // the first error is the one to return
	}
	return err
}

func (c *checker) run(ctx context.Context) error {
	steps := []struct {
		name string
		run  func(context.Context) (saw string, err error)
	}{
		{"the page", c.page},
		{"two in one room", c.meet},
		{"a newcomer", c.newcomer},
		{"other rooms", c.spread},
		{"a backend stops", c.stop},
		{"it starts again", c.start},
		{"it is drained", c.drain},
		{"it is resumed", c.resume},
		{"it is frozen", c.freeze},
		{"it continues", c.goOn},
		{"it crashes", c.crash},
		{"another site", c.foreign},
		{"shutdown", c.shutdown},
	}
	began := time.Now()
	for _, s := range steps {
		saw, err := s.run(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Fprintf(c.out, "%-15s  %s\n", s.name, saw)
	}
	fmt.Fprintf(c.out, "all of it held, in %s\n", time.Since(began).Round(time.Millisecond))
	return nil
}

func (c *checker) page(ctx context.Context) (string, error) {
	body, err := c.get(ctx, "/")
	if err != nil {
		return "", err
	}
	if !strings.Contains(body, "app.js") {
		return "", fmt.Errorf("GET / = %q; want the page", body)
	}
	if _, err := c.get(ctx, adminPath); err != nil {
		return "", err
	}
	return "is served at " + c.demo.url() + ", and the admin page at " + adminPath, nil
}

func (c *checker) meet(ctx context.Context) (saw string, err error) {
	if c.ann, err = c.join(ctx, c.room, "Ann"); err != nil {
		return "", err
	}
	if c.bob, err = c.join(ctx, c.room, "Bob"); err != nil {
		return "", err
	}
	c.home = c.ann.backend
	c.other = map[string]string{"A": "B", "B": "A"}[c.home]
	if err := c.wantTogether(ctx, c.home); err != nil {
		return "", err
	}
	return fmt.Sprintf("Ann and Bob are in %q, both on backend %s, and hear each other", c.room, c.home), nil
}

func (c *checker) newcomer(ctx context.Context) (string, error) {
	eve, err := c.join(ctx, c.room, "Eve")
	if err != nil {
		return "", err
	}
	defer eve.leave()
	if len(eve.history) != 2 || eve.history[0].Author != "Ann" {
		return "", fmt.Errorf("history = %v; want what Ann and Bob said", eve.history)
	}
	return fmt.Sprintf("reads the %d messages that were said before", len(eve.history)), nil
}

// spread joins rooms until one is on the other backend.
func (c *checker) spread(ctx context.Context) (string, error) {
	const maxTries = 50 // 2^-50 is the chance that all of them hash to one backend
	for n := range maxTries {
		room := fmt.Sprintf("room-%d", n+1)
		visitor, err := c.join(ctx, room, "Eve")
		if err != nil {
			return "", err
		}
		visitor.leave()
		if visitor.backend == c.other {
			return fmt.Sprintf("reach backend %s too, as %q does", c.other, room), nil
		}
	}
	return "", fmt.Errorf("none of %d rooms is on backend %s", maxTries, c.other)
}

func (c *checker) stop(ctx context.Context) (string, error) {
	if err := c.post(ctx, c.home, "stop"); err != nil {
		return "", err
	}
	told, err := c.wantMoved(ctx, websocket.StatusGoingAway, c.other)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("both are told %s, come back, and meet on backend %s", told, c.other), nil
}

func (c *checker) start(ctx context.Context) (string, error) {
	if err := c.post(ctx, c.home, "start"); err != nil {
		return "", err
	}
	return c.follow(ctx)
}

// drain waits until the backend has no tunnels left, as the response to its request does.
func (c *checker) drain(ctx context.Context) (string, error) {
	if err := c.post(ctx, c.home, "drain"); err != nil {
		return "", err
	}
	s, err := c.status(ctx, c.home)
	if err != nil {
		return "", err
	}
	if s.State != wsproxy.BackendDraining.String() || s.Tunnels != 0 {
		return "", fmt.Errorf("backend %s is %s with %d tunnels; want it draining with none", c.home, s.State, s.Tunnels)
	}
	told, err := c.wantMoved(ctx, websocket.StatusServiceRestart, c.other)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("both are told %s, and meet on backend %s", told, c.other), nil
}

func (c *checker) resume(ctx context.Context) (string, error) {
	if err := c.post(ctx, c.home, "resume"); err != nil {
		return "", err
	}
	if err := c.wantUp(ctx); err != nil {
		return "", err
	}
	return c.follow(ctx)
}

// freeze makes a backend answer nothing without telling the proxy, whose health check has to
// detect it.
func (c *checker) freeze(ctx context.Context) (string, error) {
	if err := c.post(ctx, c.home, "freeze"); err != nil {
		return "", err
	}
	if err := c.wantEvent(ctx, fmt.Sprintf("backend %s: the flag %q is raised", c.home, wsproxy.FlagCheckFailed)); err != nil {
		return "", err
	}
	s, err := c.status(ctx, c.home)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(s.Flags, func(f flagStatus) bool { return f.Flag == wsproxy.FlagCheckFailed.String() })
	if i < 0 || s.Flags[i].Reason == "" || s.Flags[i].Since.IsZero() {
		return "", fmt.Errorf("backend %s has the flags %+v; want that its check failed, a reason and a time", c.home, s.Flags)
	}
	told, err := c.wantMoved(ctx, websocket.StatusServiceRestart, c.other)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("the flag %q is raised; both are told %s, and meet on backend %s", s.Flags[i].Flag, told, c.other), nil
}

func (c *checker) goOn(ctx context.Context) (string, error) {
	if err := c.post(ctx, c.home, "continue"); err != nil {
		return "", err
	}
	if err := c.wantEvent(ctx, fmt.Sprintf("backend %s: the flag %q is cleared", c.home, wsproxy.FlagCheckFailed)); err != nil {
		return "", err
	}
	if err := c.wantUp(ctx); err != nil {
		return "", err
	}
	saw, err := c.follow(ctx)
	return "the flag is cleared; " + saw, err
}

// crash kills a backend without telling the proxy. The proxy has to send Close
// frames in its place, and to detect that the backend does not listen.
func (c *checker) crash(ctx context.Context) (string, error) {
	if err := c.post(ctx, c.home, "crash"); err != nil {
		return "", err
	}
	told, err := c.wantMoved(ctx, websocket.StatusServiceRestart, c.other)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("both are told %s, come back, and meet on backend %s", told, c.other), nil
}

func (c *checker) foreign(ctx context.Context) (string, error) {
	status, err := c.do(ctx, c.other, "stop", "https://example.com")
	if err != nil {
		return "", err
	}
	if status != http.StatusForbidden {
		return "", fmt.Errorf("it may stop a backend: status %d; want 403", status)
	}
	return "cannot stop a backend: 403", nil
}

func (c *checker) shutdown(ctx context.Context) (string, error) {
	errc := make(chan error, 1)
	go func() { errc <- c.demo.shutdown(ctx) }() // ends before ctx does, or soon after
	told, err := c.wantClosed(ctx, websocket.StatusGoingAway)
	if err != nil {
		return "", err
	}
	if err := <-errc; err != nil {
		return "", err
	}
	return fmt.Sprintf("both are told %s, and nothing is left", told), nil
}

// follow checks that a newcomer lands on the room's own backend, which works again, and that
// both follow.
func (c *checker) follow(ctx context.Context) (string, error) {
	eve, err := c.join(ctx, c.room, "Eve")
	if err != nil {
		return "", err
	}
	defer eve.leave()
	if eve.backend != c.home {
		return "", fmt.Errorf("a newcomer is on backend %s; want %s", eve.backend, c.home)
	}
	told, err := c.wantMoved(ctx, websocket.StatusServiceRestart, c.home)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("a newcomer lands on backend %s; both are told %s, and follow", c.home, told), nil
}

// wantUp checks that the room's own backend has no flag and does not drain.
func (c *checker) wantUp(ctx context.Context) error {
	s, err := c.status(ctx, c.home)
	if err != nil {
		return err
	}
	if s.State != wsproxy.BackendUp.String() || len(s.Flags) > 0 {
		return fmt.Errorf("backend %s is %s with the flags %+v; want it up without one", c.home, s.State, s.Flags)
	}
	return nil
}

// wantEvent waits for an event whose text begins with that prefix, as the page gets it.
func (c *checker) wantEvent(ctx context.Context, prefix string) error {
	conn, _, err := websocket.Dial(ctx, c.demo.url()+"/events", nil)
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	for {
		var e event
		if err := wsjson.Read(ctx, conn, &e); err != nil {
			return fmt.Errorf("waiting for an event %q: %w", prefix, err)
		}
		if strings.HasPrefix(e.Text, prefix) {
			return nil
		}
	}
}

// status returns the status of a backend.
func (c *checker) status(ctx context.Context, id string) (*backendStatus, error) {
	body, err := c.get(ctx, "/status")
	if err != nil {
		return nil, err
	}
	var s status
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		return nil, fmt.Errorf("GET /status = %q: %w", body, err)
	}
	i := slices.IndexFunc(s.Backends, func(b backendStatus) bool { return b.ID == id })
	if i < 0 {
		return nil, fmt.Errorf("GET /status = %q; want backend %s in it", body, id)
	}
	return &s.Backends[i], nil
}

// wantMoved checks that both get a Close frame with the code, and that both are on
// the backend when they reconnect.
func (c *checker) wantMoved(ctx context.Context, code websocket.StatusCode, backend string) (told string, err error) {
	if told, err = c.wantClosed(ctx, code); err != nil {
		return "", err
	}
	for _, p := range []**chatter{&c.ann, &c.bob} {
		if *p, err = c.join(ctx, c.room, (*p).name); err != nil {
			return "", err
		}
	}
	return told, c.wantTogether(ctx, backend)
}

// wantClosed checks that Ann and Bob get a Close frame with the code.
func (c *checker) wantClosed(ctx context.Context, code websocket.StatusCode) (told string, err error) {
	for _, p := range []*chatter{c.ann, c.bob} {
		why, err := p.waitClosed(ctx)
		if err != nil {
			return "", err
		}
		if why.Code != code {
			return "", fmt.Errorf("%s is told %d %q; want code %d", p.name, why.Code, why.Reason, code)
		}
		told = strings.TrimSpace(fmt.Sprintf("%d %s", why.Code, why.Reason))
	}
	return told, nil
}

// wantTogether checks that Ann and Bob are on the backend, and that each gets the
// messages of the other.
func (c *checker) wantTogether(ctx context.Context, backend string) error {
	for _, p := range []*chatter{c.ann, c.bob} {
		if p.backend != backend {
			return fmt.Errorf("%s is on backend %s; want %s", p.name, p.backend, backend)
		}
	}
	if err := c.ann.send(ctx, c.bob, "I just finished the sketches."); err != nil {
		return err
	}
	return c.bob.send(ctx, c.ann, "Well done. I just pinned them up.")
}

// A chatter is a client in a room.
type chatter struct {
	name    string
	conn    *websocket.Conn
	backend string
	history []message // messages from before it joined

	messages chan message // messages from the room
	ended    chan error   // receives the error that ended the connection
}

// maxMessages is more than a chatter gets.
const maxMessages = 16

// join connects through the proxy and waits for the welcome.
func (c *checker) join(ctx context.Context, room, name string) (*chatter, error) {
	query := url.Values{"room": {room}, "author": {name}}
	conn, _, err := websocket.Dial(ctx, c.demo.url()+"/chat?"+query.Encode(), nil)
	if err != nil {
		return nil, fmt.Errorf("%s cannot join %q: %w", name, room, err)
	}
	var w welcome
	if err := wsjson.Read(ctx, conn, &w); err != nil {
		return nil, fmt.Errorf("%s is not welcomed: %w", name, err)
	}
	if w.Type != "welcome" || w.Room != room || !slices.Contains([]string{"A", "B"}, w.Backend) {
		return nil, fmt.Errorf("%s is welcomed with %+v", name, w)
	}
	p := &chatter{name, conn, w.Backend, w.History, make(chan message, maxMessages), make(chan error, 1)}
	go p.listen(ctx) // ends with the connection
	return p, nil
}

// listen reads all the time, as a browser does. A client that does not read does
// not respond to a Close frame either.
func (p *chatter) listen(ctx context.Context) {
	for {
		var m message
		if err := wsjson.Read(ctx, p.conn, &m); err != nil {
			p.ended <- err
			return
		}
		if m.Type == "message" {
			p.messages <- m
		}
	}
}

func (p *chatter) leave() { p.conn.Close(websocket.StatusNormalClosure, "") }

// send sends a message, and waits until other gets it.
func (p *chatter) send(ctx context.Context, other *chatter, text string) error {
	if err := wsjson.Write(ctx, p.conn, remark{Author: p.name, Text: text}); err != nil {
		return fmt.Errorf("%s cannot speak: %w", p.name, err)
	}
	for {
		select {
		case m := <-other.messages:
			if m.Author == p.name && m.Text == text {
				return nil
			}
		case err := <-other.ended:
			return fmt.Errorf("%s does not hear %s: %w", other.name, p.name, err)
		case <-ctx.Done():
			return fmt.Errorf("%s does not hear %s: %w", other.name, p.name, ctx.Err())
		}
	}
}

// waitClosed waits until p gets a Close frame, and returns it.
func (p *chatter) waitClosed(ctx context.Context) (why websocket.CloseError, err error) {
	select {
	case err := <-p.ended:
		if !errors.As(err, &why) {
			return why, fmt.Errorf("%s is not told to go, but: %w", p.name, err)
		}
		return why, nil
	case <-ctx.Done():
		return why, fmt.Errorf("%s is not told to go: %w", p.name, ctx.Err())
	}
}

func (c *checker) get(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.demo.url()+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s = %s %q; want 200", path, resp.Status, body)
	}
	return string(body), err
}

// post does something to a backend as the page does.
func (c *checker) post(ctx context.Context, id, action string) error {
	status, err := c.do(ctx, id, action, c.demo.url())
	if err == nil && status != http.StatusNoContent {
		err = fmt.Errorf("POST /backends/%s/%s: status %d", id, action, status)
	}
	return err
}

func (c *checker) do(ctx context.Context, id, action, origin string) (status int, err error) {
	u := c.demo.url() + "/backends/" + id + "/" + action
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Origin", origin)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}
