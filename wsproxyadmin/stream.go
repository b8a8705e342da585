package wsproxyadmin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
	"weak"
)

// A frame is the state at one moment as JSON, which is made once for all viewers.
type frame struct {
	recorder *recorder
	at       time.Time
	run      string
	tunnels  int    // at the end of the last whole second
	end      cursor // where a viewer is after this frame
	state    []byte // a JSON object without its last brace

	mu    sync.Mutex
	start cursor // of tail
	tail  []byte // the news since start, the same for most viewers; nil before the first one
}

// A cursor is the place of a viewer in the stream: it has all events up to a number, and the history
// up to a second. The zero cursor is the beginning.
type cursor struct {
	event  uint64
	second int64 // Unix time
}

func newFrame(r *recorder, s *state, lastEvent uint64, tunnels int) *frame {
	return &frame{
		recorder: r, at: s.At, run: s.Run, tunnels: tunnels,
		end:   cursor{lastEvent, s.At.Unix() - 1},
		state: bytes.TrimSuffix(encode(s), []byte("}")),
	}
}

// message returns the JSON of an overview for a viewer that is at c.
func (f *frame) message(c cursor, isComplete bool, actor string) []byte {
	tail := f.news(c)
	b := make([]byte, 0, len(f.state)+len(tail)+len(actor)+64)
	b = append(b, f.state...)
	b = append(b, `,"actor":`...)
	b = append(b, encode(actor)...)
	b = append(b, `,"complete":`...)
	b = strconv.AppendBool(b, isComplete)
	return append(b, tail...)
}

// news returns the end of a message: the history and the events after c.
func (f *frame) news(c cursor) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tail == nil || f.start != c {
		var news struct {
			History history `json:"history"`
			Events  events  `json:"events"`
		}
		news.Events, news.History = f.recorder.since(c.event, f.end.event, c.second, f.at, f.tunnels)
		f.start, f.tail = c, append([]byte{','}, encode(&news)[1:]...)
	}
	return f.tail
}

// id returns the ID of the event of a stream with which f was sent.
func (f *frame) id() string { return fmt.Sprintf("%s.%d.%d", f.run, f.end.event, f.end.second) }

// resume returns where a viewer is whose last event had that ID. It returns false if it is to
// begin anew: it has none, or one of another run of the program.
func (f *frame) resume(id string) (c cursor, ok bool) {
	rest, ok := strings.CutPrefix(id, f.run+".")
	if !ok {
		return cursor{}, false
	}
	event, second, _ := strings.Cut(rest, ".")
	var errs [2]error
	c.event, errs[0] = strconv.ParseUint(event, 10, 64)
	c.second, errs[1] = strconv.ParseInt(second, 10, 64)
	if errors.Join(errs[:]...) != nil || c.event > f.end.event || c.second > f.end.second {
		return cursor{}, false
	}
	return c, true
}

// A feed makes a frame a second while there are viewers, and hands it to them.
type feed struct {
	reader *reader

	mu       sync.Mutex
	viewers  map[*viewer]struct{}
	stop     chan struct{}                      // closed to end run; nil: it does not run
	wake     chan struct{}                      // capacity 1: a frame is to be made at once
	watching map[weak.Pointer[http.Server]]bool // servers whose shutdown ends their streams; false: it has begun
}

// maxViewers bounds how many streams there are.
const maxViewers = 100

// A viewer is one stream.
type viewer struct {
	server *http.Server  // that serves it; nil if it is not known
	frames chan *frame   // capacity 1: the newest one
	ended  chan struct{} // closed when its server shuts down
}

func newFeed(r *reader) *feed {
	return &feed{
		reader: r, viewers: make(map[*viewer]struct{}), wake: make(chan struct{}, 1), watching: make(map[weak.Pointer[http.Server]]bool),
	}
}

// serverOf returns the server of r, or nil if it is not known.
func serverOf(r *http.Request) *http.Server {
	server, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
	return server
}

// watch makes the shutdown of a server end its streams. Shutdown waits for them, and they do not
// end by themselves.
func (f *feed) watch(server *http.Server) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := weak.Make(server)
	if _, ok := f.watching[key]; ok || server == nil {
		return
	}
	f.watching[key] = true
	server.RegisterOnShutdown(func() { f.endStreams(server) })
}

// add returns a viewer for a stream of that server, or nil if there are too many. One remove
// follows.
func (f *feed) add(server *http.Server) *viewer {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.viewers) >= maxViewers {
		return nil
	}
	v := &viewer{server, make(chan *frame, 1), make(chan struct{})}
	f.viewers[v] = struct{}{}
	if f.stop == nil {
		f.stop = make(chan struct{})
		go f.run(f.stop) // ends when the last viewer leaves
	}
	if isOpen, ok := f.watching[weak.Make(server)]; ok && !isOpen {
		close(v.ended)
		v.server = nil
	}
	return v
}

// remove removes a viewer. It reports whether it was the last one.
func (f *feed) remove(v *viewer) (wasLast bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.viewers, v)
	if len(f.viewers) > 0 {
		return false
	}
	close(f.stop)
	f.stop = nil
	return true
}

// endStreams ends the streams of a server that shuts down.
func (f *feed) endStreams(server *http.Server) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watching[weak.Make(server)] = false
	for v := range f.viewers {
		if v.server == server {
			close(v.ended)
			v.server = nil
		}
	}
}

// run makes frames until stop is closed.
func (f *feed) run(stop chan struct{}) {
	ticker := time.NewTicker(frameInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-f.wake:
		case <-stop:
			return
		}
		f.send(f.reader.frame(frameInterval / 2)) // the ticks are not exactly a second apart
	}
}

// send passes a frame to all viewers. It does not wait: a viewer that is still busy with an earlier
// frame skips the frames between.
func (f *feed) send(fr *frame) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for v := range f.viewers {
		select {
		case <-v.frames:
		default:
		}
		select {
		case v.frames <- fr:
		default: // another run sends too, for a moment
		}
	}
}

// refresh sends a new frame at once, if there are viewers.
func (f *feed) refresh() {
	f.reader.refresh()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

const (
	// writeTimeout is how long a viewer may take to take a frame.
	writeTimeout = 10 * time.Second

	// maxStream is how long a stream lasts. An EventSource opens another one after retryTime,
	// and misses nothing. So a viewer who may not watch any longer does not watch for ever.
	maxStream = 15 * time.Minute
	retryTime = 500 * time.Millisecond
)

// serveStream serves /stream until the viewer leaves, the time is over, or its server shuts down.
func (h *handler) serveStream(w http.ResponseWriter, r *http.Request, actor string) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx
	if r.Method == http.MethodHead {
		return
	}
	v := h.feed.add(serverOf(r))
	if v == nil {
		http.Error(w, "There are too many viewers.", http.StatusServiceUnavailable)
		return
	}
	defer func() {
		if h.feed.remove(v) {
			h.rates.forget()
		}
	}()
	s := &streamWriter{w, http.NewResponseController(w)}
	if err := s.control.Flush(); errors.Is(err, http.ErrNotSupported) {
		http.Error(w, "A middleware hides the connection: its ResponseWriter has neither Flush nor Unwrap.", http.StatusInternalServerError)
		return
	} else if err != nil {
		return // the viewer has left
	}
	defer s.control.SetWriteDeadline(time.Time{})
	ctx, cancel := context.WithTimeout(r.Context(), maxStream)
	defer cancel()
	f := h.reader.frame(frameInterval)
	c, isResumed := f.resume(r.Header.Get("Last-Event-ID"))
	for isFirst := true; ; isFirst = false {
		if err := s.write(f, f.message(c, isFirst && !isResumed, actor), isFirst); err != nil {
			return
		}
		c = f.end
		if f = v.next(ctx, f); f == nil {
			return
		}
	}
}

// next waits for a frame that is newer than f. It returns nil if the stream ends.
func (v *viewer) next(ctx context.Context, f *frame) *frame {
	for {
		select {
		case next := <-v.frames:
			if next != f && !next.at.Before(f.at) {
				return next
			}
		case <-v.ended:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// A streamWriter writes the events of a stream.
type streamWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

// write writes an event with the data of a message.
func (s *streamWriter) write(f *frame, message []byte, isFirst bool) error {
	// Instead of the server's WriteTimeout, which is for whole responses.
	err := s.control.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	var b bytes.Buffer
	if isFirst {
		fmt.Fprintf(&b, "retry: %d\n", retryTime.Milliseconds())
	}
	fmt.Fprintf(&b, "id: %s\ndata: %s\n\n", f.id(), message)
	if _, err := s.w.Write(b.Bytes()); err != nil {
		return err
	}
	return s.control.Flush()
}
