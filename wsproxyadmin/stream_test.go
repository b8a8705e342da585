package wsproxyadmin

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy/internal/leaktest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
)

// A watcher is a viewer of a test.
type watcher struct {
	t      *testing.T
	w      *pipeWriter
	leave  context.CancelFunc
	done   chan struct{} // closed when the handler has returned
	lastID string
}

// watch opens a stream, after the event with lastID if that is not empty.
func (s *site) watch(lastID string) *watcher {
	ctx, cancel := context.WithCancel(s.t.Context())
	w := &watcher{t: s.t, w: newPipeWriter(), leave: cancel, done: make(chan struct{})}
	r := httptest.NewRequestWithContext(ctx, "GET", "/stream", nil)
	if lastID != "" {
		r.Header.Set("Last-Event-ID", lastID)
	}
	go func() { // ends with ctx
		defer close(w.done)
		s.h.ServeHTTP(w.w, r)
	}()
	s.t.Cleanup(func() {
		cancel()
		w.w.fail(errors.New("closed"))
		<-w.done
	})
	return w
}

// A message is what the tests look at of the data of an event.
type message struct {
	body
	complete bool
	events   events
	seconds  []int64 // of the history
}

// next waits for the next event.
func (w *watcher) next() message {
	w.t.Helper()
	text := w.w.next()
	text = strings.TrimPrefix(text, "retry: 500\n")
	head, data, ok := strings.Cut(strings.TrimSuffix(text, "\n\n"), "\ndata: ")
	id, hasID := strings.CutPrefix(head, "id: ")
	if !ok || !hasID || strings.Contains(data, "\n") {
		w.t.Fatalf("the stream has %q; want an ID and data in one line", text)
	}
	w.lastID = id
	var o struct {
		Complete bool    `json:"complete"`
		History  history `json:"history"`
		Events   events  `json:"events"`
	}
	if err := json.Unmarshal([]byte(data), &o); err != nil {
		w.t.Fatalf("%v in %q", err, data)
	}
	m := message{body: parseBody(w.t, []byte(data)), complete: o.Complete, events: o.Events}
	for i := range o.History.Tunnels {
		m.seconds = append(m.seconds, o.History.To-int64(len(o.History.Tunnels)-1-i))
	}
	return m
}

// A pipeWriter is a ResponseWriter whose writes a test takes one by one.
type pipeWriter struct {
	header http.Header
	writes chan string
	failed chan struct{}
	once   sync.Once
	err    error
}

func newPipeWriter() *pipeWriter {
	return &pipeWriter{header: make(http.Header), writes: make(chan string), failed: make(chan struct{})}
}

func (w *pipeWriter) Header() http.Header { return w.header }
func (w *pipeWriter) WriteHeader(int)     {}
func (w *pipeWriter) Flush()              {}

func (w *pipeWriter) Write(b []byte) (int, error) {
	select {
	case w.writes <- string(b):
		return len(b), nil
	case <-w.failed:
		return 0, w.err
	}
}

func (w *pipeWriter) next() string { return <-w.writes }

// fail makes writes fail.
func (w *pipeWriter) fail(err error) {
	w.once.Do(func() {
		w.err = err
		close(w.failed)
	})
}

func TestStreamHasAnEventASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a")
		s.open(2)
		time.Sleep(5 * time.Second)
		v := s.watch("")
		began := time.Now()
		m := v.next()
		m.want("totals.tunnels", 2, "actor", "ann", "complete", true)
		if n := countOf(m.events.Tunnels); len(m.seconds) != 5 || n != 2 {
			t.Errorf("the first event has %d seconds, events of %d tunnels; want all 5, and 2", len(m.seconds), n)
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("the first event came after %v; want it at once", took)
		}
		last := m.seconds[len(m.seconds)-1]
		for i := range 10 {
			if i == 3 {
				s.open(1)
			}
			m := v.next()
			if len(m.seconds) != 1 || m.seconds[0] != last+1 || m.complete {
				t.Errorf("event %d has the seconds %v, complete %v; want the next one alone, %d", i, m.seconds, m.complete, last+1)
			}
			last++
			if n := len(m.events.Tunnels); (n == 1) != (i == 3) {
				t.Errorf("event %d has %d events of tunnels", i, n)
			}
		}
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("ten events took %v; want 10 s", took)
		}
		if got := v.w.header.Get("Content-Type"); got != "text/event-stream" {
			t.Errorf("Content-Type is %q", got)
		}
	})
}

// The state is read once a second, and the history when somebody asks.
func TestHistoryOfALaterViewerIsThatOfTheState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a")
		s.open(3)
		time.Sleep(5 * time.Second)
		first := s.watch("")
		first.next()
		time.Sleep(time.Second)
		first.next() // its news are those of one second
		s.open(2)
		for _, m := range []body{s.overview(), s.watch("").next().body} {
			m.want("totals.tunnels", 3, "history.tunnels.0", 3, "history.tunnels.5", 3)
		}
	})
}

func TestStreamResumesWhereItBroke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a")
		v := s.watch("")
		v.next()
		s.post("/resume", `{"backend": "a"}`)
		seen := v.next()
		v.leave()
		<-v.done
		last := int64(0)
		for range 10 { // without a viewer
			s.post("/resume", `{"backend": "a"}`)
			time.Sleep(time.Second)
		}
		again := s.watch(v.lastID)
		m := again.next()
		if m.complete || len(m.events.Changes) != 10 || m.events.Changes[0].Number != seen.events.Changes[0].Number+1 {
			t.Errorf("the stream goes on with %d events, complete %v; want the 10 that were missed", len(m.events.Changes), m.complete)
		}
		if len(m.seconds) != 10 {
			t.Errorf("it goes on with the seconds %v; want the 10 that were missed", m.seconds)
		}
		for _, e := range m.events.Changes {
			if e.Number <= uint64(last) {
				t.Errorf("event %d comes after %d", e.Number, last)
			}
			last = int64(e.Number)
		}
		run, _, _ := strings.Cut(v.lastID, ".")
		for _, id := range []string{"x", "x.1.1", run, run + ".", run + ".a.b", run + ".1", run + ".999999.1", run + ".1.99999999999999"} {
			if m := s.watch(id).next(); !m.complete || len(m.events.Changes) != 11 {
				t.Errorf("after the ID %q the stream begins with %d events, complete %v; want all", id, len(m.events.Changes), m.complete)
			}
		}
	})
}

func TestActionsAreSeenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a")
		s.open(1)
		v, other := s.watch(""), s.watch("")
		v.next()
		other.next()
		time.Sleep(300 * time.Millisecond)
		began := time.Now()
		s.post("/drain", `{"backend": "a", "over_seconds": 60}`)
		for _, v := range []*watcher{v, other} {
			if got := summary(v.next().events.Changes); !strings.HasPrefix(got, "action drain a ann") {
				t.Errorf("changes: %q; want the action", got)
			}
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("it was seen after %v; want at once", took)
		}
	})
}

func TestSlowViewersAreSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a")
		slow, fast := s.watch(""), s.watch("")
		slow.next()
		fast.next()
		for i := range 20 { // slow takes none
			s.post("/resume", `{"backend": "a"}`)
			began := time.Now()
			for len(fast.next().events.Changes) == 0 { // a tick
			}
			if took := time.Since(began); took > 0 {
				t.Errorf("action %d was seen after %v; want at once", i, took)
			}
			time.Sleep(time.Second)
		}
		first := slow.next() // waits to be written since the first second
		second := slow.next()
		if n := len(first.events.Changes) + len(second.events.Changes); n != 20 || len(second.events.Changes) < 18 {
			t.Errorf("the slow viewer got %d and %d events; want all 20 in two", len(first.events.Changes), len(second.events.Changes))
		}
		if n := len(second.seconds); n < 15 {
			t.Errorf("the slow viewer got %d seconds; want all that it was slow", n)
		}
	})
}

func TestStreamHasNoGoroutineWithoutViewers(t *testing.T) {
	leaktest.Check(t)
	s := newSite(t, Options{}, "a")
	h := s.h.(*handler)
	server := proxytest.Serve(t, s.h)
	for range 3 {
		var viewers sync.WaitGroup
		for range 20 {
			viewers.Go(func() {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				r, _ := http.NewRequestWithContext(ctx, "GET", server.URL+"/stream", nil)
				resp, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				if _, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil {
					t.Error(err)
				}
			})
			s.get("/tunnels")
		}
		viewers.Wait()
		server.Wait()
		h.feed.mu.Lock()
		if n := len(h.feed.viewers); n != 0 || h.feed.stop != nil || h.rates.newer.bytes != nil {
			t.Errorf("there are %d viewers, runs: %v, rates of %d tunnels; want none", n, h.feed.stop != nil, len(h.rates.newer.bytes))
		}
		h.feed.mu.Unlock()
	}
}

func TestViewersComeAndGo(t *testing.T) {
	leaktest.Check(t)
	s := newSite(t, Options{}, "a b")
	s.open(10)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			lastID := ""
			for j := range 20 {
				v := s.watch(lastID)
				v.next()
				if j%3 == 0 {
					s.post("/resume", `{"backend": "a"}`)
				}
				if j%4 == i%4 {
					v.next()
				}
				lastID = v.lastID
				v.leave()
			}
		})
	}
	for range 50 {
		s.get("/overview")
		s.ids("order=busiest")
		s.connect("/room")
	}
	all.Wait()
}

func TestStreamsEndWhenTheirServerShutsDown(t *testing.T) {
	leaktest.Check(t)
	s := newSite(t, Options{}, "a")
	server := httptest.NewServer(s.h)
	defer server.Close()
	other := s.watch("")
	other.next()
	resp, err := http.Get(server.URL + "/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := server.Config.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown() = %v; want nil: the stream ends", err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Errorf("the stream ends with %v; want its proper end", err)
	}
	other.next() // of another server
}

func TestStreamEndsIfItsServerShutsDownWhileItIsAuthorized(t *testing.T) {
	leaktest.Check(t)
	asked, answer := make(chan struct{}), make(chan struct{})
	s := newSite(t, Options{Authorize: func(*http.Request) (string, error) {
		asked <- struct{}{}
		<-answer
		return "ann", nil
	}}, "a")
	server := httptest.NewServer(s.h)
	defer server.Close()
	server.Config.RegisterOnShutdown(func() { close(answer) })
	client := make(chan error, 1)
	go func() {
		resp, err := http.Get(server.URL + "/stream")
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		client <- err
	}()
	<-asked
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := server.Config.Shutdown(ctx); err != nil {
		server.CloseClientConnections()
		t.Errorf("Shutdown() = %v; want nil: the stream ends", err)
	}
	if err := <-client; err != nil {
		t.Errorf("the stream ends with %v; want its proper end", err)
	}
}

func TestStreamOutlivesTheServersTimeouts(t *testing.T) {
	for name, serve := range map[string]func(testing.TB, http.Handler, ...func(*http.Server)) *proxytest.Site{
		"HTTP/1": proxytest.Serve, "HTTP/2": proxytest.ServeHTTP2,
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, Options{}, "a")
			server := serve(t, s.h, func(srv *http.Server) {
				srv.ReadTimeout, srv.WriteTimeout, srv.IdleTimeout = 500*time.Millisecond, 500*time.Millisecond, 500*time.Millisecond
			})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			client := &http.Client{Transport: &http.Transport{
				TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true,
			}}
			defer client.CloseIdleConnections()
			r, _ := http.NewRequestWithContext(ctx, "GET", server.URL+"/stream", nil)
			resp, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if got := fmt.Sprint("HTTP/", resp.ProtoMajor); got != name {
				t.Errorf("the stream uses %s; want %s", got, name)
			}
			lines := bufio.NewScanner(resp.Body)
			lines.Buffer(nil, 1<<20)
			for events := 0; events < 3; {
				if !lines.Scan() {
					t.Fatalf("the stream ended after %d events: %v", events, lines.Err())
				}
				if bytes.HasPrefix(lines.Bytes(), []byte("data: ")) {
					events++
				}
			}
		})
	}
}

func TestViewerThatTakesNothingIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a")
		server := proxytest.ServeInMemory(t, s.h)
		stuck, healthy := server.Dial(t), s.watch("")
		stuck.WriteRequest("GET /stream HTTP/1.1\r\nHost: admin.example\r\n\r\n")
		healthy.next()
		for range 30 {
			healthy.next()
		}
		if feed := s.h.(*handler).feed; numViewers(feed) != 1 {
			t.Errorf("after 30 s there are %d viewers; want the healthy one alone", numViewers(feed))
		}
	})
}

func numViewers(f *feed) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.viewers)
}

func TestStreamIsAuthorizedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var err error // of Authorize
		s := newSite(t, Options{Authorize: func(*http.Request) (string, error) { return "ann", err }}, "a")
		v := s.watch("")
		began := time.Now()
		v.next()
		err = errors.New("ann is no operator any longer")
		for isOpen := true; isOpen; {
			select {
			case <-v.w.writes:
			case <-v.done:
				isOpen = false
			}
		}
		if took := time.Since(began); took != maxStream {
			t.Errorf("the stream ended after %v; want %v", took, maxStream)
		}
		if w := s.get("/stream"); w.Code != http.StatusForbidden {
			t.Errorf("the next stream is answered with %d; want 403", w.Code)
		}
	})
}

func TestNumberOfViewersIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Options{}, "a")
		for range maxViewers {
			s.watch("").next()
		}
		if w := s.get("/stream"); w.Code != http.StatusServiceUnavailable {
			t.Errorf("one more is answered with %d; want 503", w.Code)
		}
	})
}

func TestStateIsReadOnceForAllViewers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads := 0
		s := newSite(t, Options{}, "a")
		var viewers []*watcher
		for range 20 {
			viewers = append(viewers, s.watch(""))
		}
		var last *snapshot
		for range 10 {
			for _, v := range viewers {
				v.next()
				s.get("/overview")
			}
			synctest.Wait()
			if f := s.h.(*handler).reader.snapshot(time.Hour); f != last {
				last = f
				reads++
			}
		}
		if reads != 10 {
			t.Errorf("10 events of 20 viewers took %d snapshots; want 10", reads)
		}
	})
}

func TestStreamNeedsAConnectionThatCanBeFlushed(t *testing.T) {
	s := newSite(t, Options{}, "a")
	type plain struct{ http.ResponseWriter } // without Flush and Unwrap
	w := httptest.NewRecorder()
	s.h.ServeHTTP(plain{w}, httptest.NewRequest("GET", "/stream", nil))
	if w.Code != http.StatusInternalServerError {
		t.Errorf("it is answered with %d; want 500", w.Code)
	}
}
