package main

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// A backend is a chat on its own port. It can be stopped and started again, like a
// process on another machine. Its memory is lost then. It can be frozen too, and keeps
// its memory.
type backend struct {
	id string // immutable

	mu      sync.Mutex
	addr    string       // of the listener, or of the last one
	server  *http.Server // nil while the backend is stopped
	chat    *chat        // nil before the first start
	freezer *freezer     // nil before the first start
}

// A logFunc prints a line to the terminal.
type logFunc func(format string, args ...any)

// start starts b unless it runs. It uses the same port as before if that is free.
func (b *backend) start(logf logFunc) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.server != nil {
		return nil
	}
	ln, err := listen(b.addr, logf)
	if err != nil {
		return err
	}
	b.addr = ln.Addr().String()
	b.chat, b.freezer = newChat(b.id), newFreezer()
	mux := http.NewServeMux()
	mux.Handle("/chat", b.chat)
	mux.HandleFunc("GET "+healthPath, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	b.server = &http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout}
	go b.server.Serve(freezingListener{ln, b.freezer}) // ends with stop or crash
	logf("backend %s listens on %s", b.id, b.addr)
	return nil
}

// stop stops b in an orderly way: it sends a Close frame to all members. A frozen b goes
// on first: a frozen process does not see SIGTERM.
func (b *backend) stop(ctx context.Context) error {
	server, chat, freezer := b.detach()
	if server == nil {
		return nil
	}
	freezer.thaw()
	chat.close(websocket.StatusGoingAway, "backend "+b.id+" is stopping")
	return server.Shutdown(ctx)
}

// crash stops b like a process that is killed: it sends no Close frames.
func (b *backend) crash() error {
	server, chat, freezer := b.detach()
	if server == nil {
		return nil
	}
	freezer.kill()
	err := server.Close() // first, so that no member can reconnect
	chat.crash()
	return err
}

// detach marks b as stopped, and returns what it consists of.
func (b *backend) detach() (*http.Server, *chat, *freezer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	server := b.server
	b.server = nil
	return server, b.chat, b.freezer
}

// freeze stops b from reading and answering, like SIGSTOP, until goOn. It does nothing
// while b is stopped.
func (b *backend) freeze() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.server != nil {
		b.freezer.freeze()
	}
}

// goOn ends freeze, like SIGCONT.
func (b *backend) goOn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.server != nil {
		b.freezer.thaw()
	}
}

func (b *backend) isFrozen() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.server != nil && b.freezer.isFrozen()
}

func (b *backend) address() (addr string, isRunning bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.addr, b.server != nil
}

// hasStarted reports whether b runs, or did before.
func (b *backend) hasStarted() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.chat != nil
}

const (
	healthPath    = "/health"        // for the proxy's health check
	headerTimeout = 10 * time.Second // time limit for a request's header
)

// listen listens on addr or, if that fails, on another port.
func listen(addr string, logf logFunc) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err == nil {
		return ln, nil
	}
	host, _, splitErr := net.SplitHostPort(addr)
	if splitErr != nil {
		return nil, err
	}
	ln, otherErr := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if otherErr != nil {
		return nil, err
	}
	logf("%v; using %s instead", err, ln.Addr())
	return ln, nil
}
