//go:build linux

package process_test

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/wsproxy/wsproxy"
)

// What follows is the configuration of docs/production.md, "Facing the internet": test/repo
// compares the two.

// newProxy returns a proxy that carries so many tunnels at most.
func newProxy(maxTunnels int, backends ...string) (*wsproxy.Proxy, error) {
	return wsproxy.New(
		wsproxy.WithBackends(backends...),
		wsproxy.WithOriginPatterns("chat.example", "*.chat.example"),
		wsproxy.WithDetached(true), // a tunnel holds no goroutine of the server
		wsproxy.WithTimeouts(wsproxy.Timeouts{
			Handshake: 10 * time.Second,
			Close:     10 * time.Second,
		}),
		wsproxy.WithLimits(wsproxy.Limits{
			// Who gets in.
			Tunnels:             maxTunnels,
			PerClient:           50,
			Handshakes:          wsproxy.Rate{PerSecond: 500, Burst: 1000},
			HandshakesPerClient: wsproxy.Rate{PerSecond: 2, Burst: 20},
			Admitting:           100, // calls of WithAdmit, if there is one
			Queue:               maxTunnels / 10,

			// What a tunnel may use.
			MessageSize:    1 << 20,
			ClientMessages: wsproxy.Rate{PerSecond: 100, Burst: 1000},
			ClientBytes:    wsproxy.Rate{PerSecond: 256 << 10, Burst: 2 << 20},
			SocketBuffer:   64 << 10,
			StalledTunnels: max(maxTunnels/50, 10),
		}),
		wsproxy.WithRefusal(wsproxy.Refusal{ByClose: true}),
	)
}

// newServer returns a server of which so many connections wait for a request at most.
func newServer(handler http.Handler, maxWaiting int) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	waiting := &waitingConns{max: maxWaiting, conns: list.New(), elements: make(map[net.Conn]*list.Element)}
	return &http.Server{
		Handler:           limitFields(handler),
		Protocols:         protocols,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second, // it does not limit tunnels, nor does WriteTimeout
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    4 << 10, // net/http allows 4 KiB more
		ConnState:         waiting.onState,
	}
}

// limitFields refuses requests with many fields. A header of tiny ones uses 30 times its size
// of memory.
func limitFields(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := 0
		for _, values := range r.Header {
			n += len(values)
		}
		if n > 100 {
			w.Header().Set("Connection", "close")
			http.Error(w, "too many header fields", http.StatusRequestHeaderFieldsTooLarge)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// waitingConns are the connections that have sent no request yet, or none after the last one.
// If there is one too many, the one that has waited the longest is reset: a client sends its
// request as soon as it is connected.
type waitingConns struct {
	max int

	mu       sync.Mutex
	conns    *list.List // the one that has waited the longest comes first
	elements map[net.Conn]*list.Element
}

// onState is an [http.Server]'s ConnState. It wraps no connection, so that the proxy's event
// loop can relay them.
func (w *waitingConns) onState(c net.Conn, state http.ConnState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.removeLocked(c)
	switch state {
	case http.StateNew:
		if tcp, ok := tcpConn(c); ok {
			tcp.SetReadBuffer(16 << 10) // the proxy sets its own for a tunnel
		}
	case http.StateIdle:
	default:
		return // there is a request, or the connection is closed
	}
	w.elements[c] = w.conns.PushBack(c)
	if w.conns.Len() <= w.max {
		return
	}
	first := w.conns.Front().Value.(net.Conn)
	w.removeLocked(first)
	if tcp, ok := tcpConn(first); ok {
		tcp.SetLinger(0) // no TIME_WAIT is left
		tcp.Close()
	}
}

func (w *waitingConns) removeLocked(c net.Conn) {
	if e, ok := w.elements[c]; ok {
		w.conns.Remove(e)
		delete(w.elements, c)
	}
}

// tcpConn returns the TCP connection that c is, or that is beneath its TLS.
func tcpConn(c net.Conn) (tcp *net.TCPConn, ok bool) {
	if t, isTLS := c.(*tls.Conn); isTLS {
		c = t.NetConn()
	}
	tcp, ok = c.(*net.TCPConn)
	return tcp, ok
}
