package wsproxyadmin

import (
	"context"
	"net/http"
	"sync"
	"time"
	"weak"
)

// A feed makes a snapshot a second while there are viewers, and hands it to them.
type feed struct {
	reader *reader

	mu       sync.Mutex
	viewers  map[*viewer]struct{}
	stop     chan struct{}                      // closed to end run; nil: it does not run
	wake     chan struct{}                      // capacity 1: a snapshot is to be made at once
	watching map[weak.Pointer[http.Server]]bool // servers whose shutdown ends their streams; false: it has begun
}

// maxViewers bounds how many streams there are.
const maxViewers = 100

// A viewer is one stream.
type viewer struct {
	server    *http.Server   // that serves it; nil if it is not known
	snapshots chan *snapshot // capacity 1: the newest one
	ended     chan struct{}  // closed when its server shuts down
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
	v := &viewer{server, make(chan *snapshot, 1), make(chan struct{})}
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

// run makes snapshots until stop is closed.
func (f *feed) run(stop chan struct{}) {
	ticker := time.NewTicker(readInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-f.wake:
		case <-stop:
			return
		}
		f.send(f.reader.snapshot(readInterval / 2)) // the ticks are not exactly a second apart
	}
}

// send passes a snapshot to all viewers. It does not wait: a viewer that is still busy with an
// earlier one skips those between.
func (f *feed) send(next *snapshot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for v := range f.viewers {
		select {
		case <-v.snapshots:
		default:
		}
		select {
		case v.snapshots <- next:
		default: // another run sends too, for a moment
		}
	}
}

// refresh sends a new snapshot at once, if there are viewers.
func (f *feed) refresh() {
	f.reader.refresh()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// next waits for a snapshot that is newer than last. It returns nil if the stream ends.
func (v *viewer) next(ctx context.Context, last *snapshot) *snapshot {
	for {
		select {
		case next := <-v.snapshots:
			if next != last && !next.at.Before(last.at) {
				return next
			}
		case <-v.ended:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}
