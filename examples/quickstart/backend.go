package main

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// A backend is a chat on a port of its own. It can be stopped and started again,
// as if it were a process on another machine: then its memory is gone.
type backend struct {
	id string // immutable

	mu     sync.Mutex
	addr   string       // where it listens, or did last
	server *http.Server // nil while it is stopped
	chat   *chat
}

// A logFunc tells the terminal what happens, one line at a time.
type logFunc func(format string, args ...any)

// start starts b unless it runs. It prefers the port that it had.
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
	b.chat = newChat(b.id)
	mux := http.NewServeMux()
	mux.Handle("/chat", b.chat)
	b.server = &http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout}
	go b.server.Serve(ln) // ends with stop or crash
	logf("backend %s listens on %s", b.id, b.addr)
	return nil
}

// stop stops b as a well-behaved process stops: it says goodbye to everybody.
func (b *backend) stop(ctx context.Context) error {
	server, chat := b.detach()
	if server == nil {
		return nil
	}
	chat.close(websocket.StatusGoingAway, "backend "+b.id+" is stopping")
	return server.Shutdown(ctx)
}

// crash stops b as if somebody had pulled the plug: not a word to anybody.
func (b *backend) crash() error {
	server, chat := b.detach()
	if server == nil {
		return nil
	}
	err := server.Close() // first, so that nobody comes back
	chat.crash()
	return err
}

// detach returns what runs, and notes that it does not run any more.
func (b *backend) detach() (*http.Server, *chat) {
	b.mu.Lock()
	defer b.mu.Unlock()
	server := b.server
	b.server = nil
	return server, b.chat
}

func (b *backend) address() (addr string, isRunning bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.addr, b.server != nil
}

const headerTimeout = 10 * time.Second // for a request's header; whoever takes longer is cut

// listen listens on addr or, if that is not possible, on another port.
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
