package stacks_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// patience is for what must happen, where no rule says when.
const patience = 30 * time.Second

// A goStack is one in Go. Its connections are peers on both sides.
type goStack struct {
	name string

	// dial opens a WebSocket, and returns the extensions of its 101.
	dial func(order) (p *peer, extensions string, err error)

	// accept answers an upgrade. The compression is that of an order.
	accept func(w http.ResponseWriter, r *http.Request, compression string) (*peer, error)
}

var goStacks = []goStack{coderStack, gobwasStack, gorillaStack, gwsStack, rawStack}

// A peer is one end of a WebSocket. A goroutine of it, or of the stack, reads until the end.
type peer struct {
	events chan event // has room for all that come at once

	send  func(m *message, payload []byte) error
	ping  func(payload string) error
	close func(code int, reason string) error // only begins it

	// conn has nothing to be read after the other side's Close frame, if it is not nil. Else
	// the stack closes it.
	conn net.Conn

	end func() // releases all
}

// An event is what the other side has sent. Its kind is "message", "pong" or "closed". In
// JavaScript, it is "open" and "error" too.
type event struct {
	kind    string
	payload []byte
	isText  bool
	frames  int // of a message, if the stack tells
	code    int // of a Close frame, 1005 without one
	reason  string
	err     error // instead of a Close frame
}

// newPeer returns a peer whose events come from readEvents, which returns at the end.
func newPeer(p *peer, readEvents func(put func(event)) (end event)) *peer {
	p.events = make(chan event, 100)
	put := func(e event) { p.events <- e }
	go func() { // ends with the connection, which p.end closes
		end := readEvents(put)
		end.kind = "closed"
		put(end)
	}()
	return p
}

// want returns the next event, which must be of that kind.
func (p *peer) want(kind string) (event, error) {
	select {
	case e := <-p.events:
		if e.kind != kind {
			return e, fmt.Errorf("got %s (code %d, %v, %.40q); want %s", e.kind, e.code, e.err, e.payload, kind)
		}
		return e, e.err
	case <-time.After(patience):
		return event{}, fmt.Errorf("got nothing; want %s", kind)
	}
}

// run is what a client does with an order.
func (s goStack) run(o order) (r result) {
	p, extensions, err := s.dial(o)
	if err != nil {
		return result{Error: "dial: " + err.Error()}
	}
	defer p.end()
	r.Extensions = extensions
	if err := p.perform(o.Steps, &r); err != nil {
		r.Error = err.Error()
	}
	return r
}

// perform takes the steps of an order.
func (p *peer) perform(steps []step, r *result) error {
	for _, s := range steps {
		switch {
		case s.Echo != nil:
			frames, err := p.echo(s.Echo)
			if err != nil {
				return err
			}
			r.Frames = max(r.Frames, frames)
		case s.Messages > 0:
			for range s.Messages {
				e, err := p.want("message")
				if err != nil {
					return err
				}
				r.Texts = append(r.Texts, string(e.payload))
			}
		case s.Ping != nil:
			if err := p.ping(*s.Ping); err != nil {
				return err
			}
			e, err := p.want("pong")
			if err != nil {
				return err
			}
			r.Pongs = append(r.Pongs, string(e.payload))
		default:
			return p.performClose(s, r)
		}
	}
	return nil
}

// echo sends a message, wants it back, and returns of how many frames it was.
func (p *peer) echo(m *message) (frames int, err error) {
	sent := m.payload()
	if err := p.send(m, sent); err != nil {
		return 0, err
	}
	e, err := p.want("message")
	if err != nil {
		return 0, err
	}
	if e.isText != (m.Text != nil) || !bytes.Equal(e.payload, sent) {
		return 0, fmt.Errorf("sent %d bytes; got %d others, text %t", len(sent), len(e.payload), e.isText)
	}
	return e.frames, nil
}

func (p *peer) performClose(s step, r *result) error {
	start := time.Now()
	if s.Close != 0 {
		if err := p.close(s.Close, s.Reason); err != nil {
			return err
		}
	}
	e, err := p.want("closed")
	if err != nil {
		return err
	}
	if err := p.wantEnd(); err != nil {
		return err
	}
	r.Code, r.Reason = e.code, e.reason
	r.Seconds = time.Since(start).Seconds()
	return nil
}

// wantEnd waits until the other side ends the connection, as the server has to.
func (p *peer) wantEnd() error {
	if p.conn == nil {
		return nil
	}
	p.conn.SetReadDeadline(time.Now().Add(patience))
	n, err := p.conn.Read(make([]byte, 1))
	if n == 0 && (err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF)) {
		return nil
	}
	return fmt.Errorf("after the Close frames got %d bytes and %v; want the end", n, err)
}

// A script is what the query of a request tells a server.
type script struct {
	id          int
	compression string
	fragments   int      // of an echo
	pings       []string // to be sent at once, each after the pong to the one before; a text follows each pong
	close       int      // the code of a Close frame to be sent at once; 0: none; see step
	reason      string
}

func newScript(u *url.URL) script {
	q := u.Query()
	number := func(name string) int {
		n, _ := strconv.Atoi(q.Get(name))
		return n
	}
	return script{
		id:          number("id"),
		compression: q.Get("compression"),
		fragments:   number("fragments"),
		pings:       q["ping"],
		close:       number("close"),
		reason:      q.Get("reason"),
	}
}

// handler returns a server of the stack, which calls put with a report of each connection.
func (s goStack) handler(put func(report)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sc := newScript(r.URL)
		p, err := s.accept(w, r, sc.compression)
		if err != nil {
			return // the client has been answered
		}
		defer p.end()
		rep := p.serve(sc)
		rep.ID, rep.Offer = sc.id, strings.Join(r.Header.Values("Sec-WebSocket-Extensions"), ", ")
		put(rep)
	})
}

// serve does what a script says, and echoes messages until the end.
func (p *peer) serve(sc script) (r report) {
	left := sc.pings
	pingNext := func() {
		if len(left) > 0 {
			p.ping(left[0])
			left = left[1:]
		}
	}
	if sc.close != 0 {
		p.close(sc.close, sc.reason)
	}
	pingNext()
	for e := range p.events {
		switch e.kind {
		case "message":
			r.Frames = max(r.Frames, e.frames)
			m := &message{Fragments: sc.fragments}
			if e.isText {
				m.Text = new(string)
			}
			p.send(m, e.payload)
		case "pong":
			p.send(text("", 1), []byte("pong "+string(e.payload)))
			pingNext()
		case "closed":
			r.Code, r.Reason = e.code, e.reason
			return r
		}
	}
	panic("unreachable")
}

func (m *message) payload() []byte {
	if m.Text != nil {
		return bytes.Repeat([]byte(*m.Text), m.Count)
	}
	b := make([]byte, m.Size)
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}

// cut returns the payload in fragments.
func (m *message) cut(payload []byte) [][]byte {
	n := max(m.Fragments, 1)
	length := (len(payload) + n - 1) / n
	parts := make([][]byte, n)
	for i := range parts {
		parts[i] = payload[min(i*length, len(payload)):min((i+1)*length, len(payload))]
	}
	return parts
}
