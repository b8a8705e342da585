package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

const (
	maxBody         = 64 << 10         // bytes of a request with messages
	maxUnread       = 1000             // frames that wait for a client
	heartbeat       = 25 * time.Second // between frames of a stream or a poll
	disconnectDelay = 5 * time.Second  // between two requests with which a client receives
)

// A backend is a small SockJS server. It answers each message with its name and the number of
// the message in its session. Sessions are in its memory: a request for a session of another
// backend finds none.
//
// https://sockjs.github.io/sockjs-protocol/sockjs-protocol-0.3.3.html
type backend struct {
	name string

	mu       sync.Mutex
	sessions map[string]*session // those without a WebSocket, by ID; guarded by mu
}

// newBackend returns the handler of a backend. The first segment of a path is for the proxy.
func newBackend(name string) http.Handler {
	b := &backend{name: name, sessions: make(map[string]*session)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{prefix}/info", b.serveInfo)
	mux.HandleFunc("GET /{prefix}/{server}/{session}/websocket", b.serveWebSocket)
	mux.HandleFunc("GET /{prefix}/{server}/{session}/{transport}", b.serveFrames)
	mux.HandleFunc("POST /{prefix}/{server}/{session}/{transport}", b.serveFrames)
	mux.HandleFunc("POST /{prefix}/{server}/{session}/xhr_send", b.serveSend)
	return mux
}

func (b *backend) serveInfo(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	json.NewEncoder(w).Encode(map[string]any{ // fails only when the client has gone
		"websocket": true, "cookie_needed": true, "origins": []string{"*:*"}, "entropy": time.Now().UnixNano() & 0xffffffff,
	})
}

// An answer is what a client gets for a message.
type answer struct {
	Backend string `json:"backend"`
	Number  int    `json:"number"`
	Message string `json:"message"`
}

// answer returns the frame with the answers to messages, of which a session has had n before.
func (b *backend) answer(n int, messages []string) string {
	texts := make([]string, len(messages))
	for i, m := range messages {
		text, _ := json.Marshal(answer{b.name, n + i + 1, m}) // it has only strings and numbers
		texts[i] = string(text)
	}
	frame, _ := json.Marshal(texts)
	return "a" + string(frame)
}

// serveWebSocket serves a session that is one connection.
func (b *backend) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return // Accept has sent an error response
	}
	defer conn.CloseNow()
	ctx := context.Background() // the request's context does not end with a hijacked connection
	frame := "o"
	for n := 0; ; {
		if err := conn.Write(ctx, websocket.MessageText, []byte(frame)); err != nil {
			return
		}
		_, data, err := conn.Read(ctx)
		if err != nil {
			return
		}
		var messages []string
		if err := json.Unmarshal(data, &messages); err != nil {
			conn.Close(websocket.StatusProtocolError, "want a JSON array of strings")
			return
		}
		frame = b.answer(n, messages)
		n += len(messages)
	}
}

// A session is what the requests of a client have in common: with some it sends, with others it
// receives, one at a time. Its backend's mu guards it.
type session struct {
	frames      chan string // that wait for the client
	messages    int
	isReceiving bool
	expiry      *time.Timer // ends the session, unless the client receives
}

// receive returns a session for a request that receives, unless there is such a request. It
// begins the session if there is none.
func (b *backend) receive(id string) (s *session, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s = b.sessions[id]
	switch {
	case s == nil:
		s = &session{frames: make(chan string, maxUnread)}
		s.frames <- "o"
		s.expiry = time.AfterFunc(disconnectDelay, func() { b.expire(id, s) })
		b.sessions[id] = s
	case s.isReceiving:
		return nil, false
	}
	s.isReceiving = true
	s.expiry.Stop()
	return s, true
}

// received records the end of a request that receives. With an error a frame may be lost, and so
// is the session.
func (b *backend) received(id string, s *session, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s.isReceiving = false
	if err != nil {
		delete(b.sessions, id)
		return
	}
	s.expiry.Reset(disconnectDelay)
}

func (b *backend) expire(id string, s *session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sessions[id] == s && !s.isReceiving {
		delete(b.sessions, id)
	}
}

// serveSend takes messages of a client.
func (b *backend) serveSend(w http.ResponseWriter, r *http.Request) {
	var messages []string
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&messages); err != nil {
		http.Error(w, "want a JSON array of strings", http.StatusBadRequest)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sessions[r.PathValue("session")]
	if s == nil {
		http.Error(w, "no such session on backend "+b.name, http.StatusNotFound)
		return
	}
	select {
	case s.frames <- b.answer(s.messages, messages):
		s.messages += len(messages)
		w.WriteHeader(http.StatusNoContent)
	default:
		http.Error(w, "the client does not receive its answers", http.StatusServiceUnavailable)
	}
}

// A format says how a transport writes frames.
type format struct {
	method, contentType string
	prelude             string // what browsers need before they read a stream
	before, after       string // each frame
	maxBytes            int    // after which the client must ask again
}

var formats = map[string]format{
	"xhr":           {"POST", "application/javascript; charset=UTF-8", "", "", "\n", 1},
	"xhr_streaming": {"POST", "application/javascript; charset=UTF-8", strings.Repeat("h", 2048) + "\n", "", "\n", 128 << 10},
	"eventsource":   {"GET", "text/event-stream; charset=UTF-8", "\r\n", "data: ", "\r\n\r\n", 128 << 10},
}

// serveFrames sends frames to a client, as a poll or a stream.
func (b *backend) serveFrames(w http.ResponseWriter, r *http.Request) {
	f, ok := formats[r.PathValue("transport")]
	if !ok || f.method != r.Method {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", f.contentType)
	id := r.PathValue("session")
	s, ok := b.receive(id)
	if !ok {
		fmt.Fprint(w, f.prelude, f.before, `c[2010,"Another connection still open"]`, f.after)
		return
	}
	b.received(id, s, f.copy(w, r, s.frames))
}

// copy writes frames until they have the maximum of bytes, or the client has gone.
func (f format) copy(w http.ResponseWriter, r *http.Request, frames <-chan string) error {
	out := http.NewResponseController(w)
	_, err := fmt.Fprint(w, f.prelude)
	for n := 0; n < f.maxBytes; {
		if err = errors.Join(err, out.Flush()); err != nil {
			return err
		}
		var frame string
		select {
		case frame = <-frames:
		case <-time.After(heartbeat):
			frame = "h"
		case <-r.Context().Done():
			return r.Context().Err()
		}
		_, err = fmt.Fprint(w, f.before, frame, f.after)
		n += len(frame)
	}
	return err
}
