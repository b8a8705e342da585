package wsproxytest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"

	"github.com/wsproxy/wsproxy/wsproxytest/memnet"
)

// This file connects the clients of a scene to its proxy: over an [http.Server], as in a
// program, but with the addresses that the test chose.

// errOver is why a client cannot connect.
var errOver = errors.New("wsproxytest: the scene has ended")

// A session is a connection of a client to the proxy.
type session struct {
	s          *Scene
	front      *memnet.Conn    // the client's end
	values     context.Context // of the client's request
	remoteAddr string

	served chan struct{} // closed when the handler has returned, or the connection was closed without one

	mu         sync.Mutex
	isServing  bool     // the handler was called
	isServed   bool     // served is closed
	dialed     net.Conn // the proxy's last connection to a backend, for this client; nil if that failed
	dialedAddr string

	// tunnelAddr is the address of the tunnel's backend, or empty. It is set before the client
	// can read its response.
	tunnelAddr string
	hasWritten bool // the response has begun
}

// begin makes a connection to the proxy. If it returns no error, the caller calls
// s.running.Done at its end.
func (s *Scene) begin(values context.Context, remoteAddr string) (*session, error) {
	front, back := memnet.Pipe(0)
	c := &session{s: s, front: front, values: values, remoteAddr: remoteAddr, served: make(chan struct{})}
	s.mu.Lock()
	if s.isOver {
		s.mu.Unlock()
		return nil, errOver
	}
	s.sessions[c] = true
	s.running.Add(1)
	if c.remoteAddr == "" {
		c.remoteAddr = s.clients.nextAddr()
	}
	s.mu.Unlock()
	conn := &clientConn{Conn: back, c: c}
	if !s.clients.put(conn) {
		front.Close()
		conn.Close()
		s.running.Done()
		return nil, errOver
	}
	return c, nil
}

// idAt returns the ID of the backend with that address.
func (s *Scene) idAt(addr string) string {
	for _, b := range s.backends {
		if b.addr == addr {
			return b.first.ID()
		}
	}
	return ""
}

// serveClient is the handler of clients.
func (s *Scene) serveClient(w http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(sessionKey{}).(*session)
	c.mu.Lock()
	c.isServing = true
	c.mu.Unlock()
	defer c.endServing()
	s.Proxy.ServeHTTP(w, r)
}

func (c *session) endServing() {
	c.mu.Lock()
	isFirst := !c.isServed
	c.isServed = true
	c.mu.Unlock()
	if isFirst {
		c.s.mu.Lock()
		delete(c.s.sessions, c)
		c.s.mu.Unlock()
		close(c.served)
	}
}

// exchange sends r, and reads the response with its body.
func (c *session) exchange(r *http.Request, br *bufio.Reader) (*http.Response, error) {
	stop := context.AfterFunc(r.Context(), func() { c.front.Close() })
	defer stop()
	resp, err := c.roundTrip(r, br)
	if err != nil && r.Context().Err() != nil {
		err = r.Context().Err()
	}
	return resp, err
}

func (c *session) roundTrip(r *http.Request, br *bufio.Reader) (*http.Response, error) {
	w := bufio.NewWriter(c.front)
	method, host := r.Method, r.Host
	if method == "" {
		method = http.MethodGet
	}
	if host == "" {
		host = r.URL.Host
	}
	fmt.Fprintf(w, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, r.URL.RequestURI(), host)
	h := r.Header.Clone()
	if h == nil {
		h = make(http.Header)
	}
	for name, value := range map[string]string{
		"Upgrade": "websocket", "Connection": "Upgrade",
		"Sec-Websocket-Version": "13", "Sec-Websocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", // RFC 6455 §1.3
	} {
		if h[name] == nil {
			h.Set(name, value)
		}
	}
	h.Write(w)
	io.WriteString(w, "\r\n")
	if err := w.Flush(); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp, err
}

// setDialed records a dial of the proxy for this client.
func (c *session) setDialed(conn net.Conn, addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dialed, c.dialedAddr = conn, addr
}

// setTunnel records the backend of the tunnel that is being opened, if there is one. The proxy
// has closed the connections of attempts that led to none.
func (c *session) setTunnel() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn, ok := c.dialed.(*memnet.Conn); ok && !c.hasWritten && !conn.IsClosed() {
		c.tunnelAddr = c.dialedAddr
	}
	c.hasWritten = true
}

// A clientListener accepts clients in the scene's server.
type clientListener struct {
	conns   chan net.Conn
	closed  chan struct{}
	close   sync.Once
	numDial int // guarded by Scene.mu
}

func newClientListener() *clientListener {
	return &clientListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// put returns false if the listener is closed.
func (l *clientListener) put(c net.Conn) bool {
	select {
	case l.conns <- c:
		return true
	case <-l.closed:
		return false
	}
}

// nextAddr returns the address of a client.
func (l *clientListener) nextAddr() string {
	l.numDial++
	return fmt.Sprintf("192.0.2.1:%d", 1024+l.numDial%(1<<16-1024))
}

func (l *clientListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *clientListener) Close() error {
	l.close.Do(func() { close(l.closed) })
	return nil
}

func (l *clientListener) Addr() net.Addr { return clientAddr("192.0.2.2:80") }

// A clientConn is the server's end of a client's connection.
type clientConn struct {
	*memnet.Conn
	c *session
}

func (c *clientConn) RemoteAddr() net.Addr { return clientAddr(c.c.remoteAddr) }

func (c *clientConn) Write(b []byte) (int, error) {
	c.c.setTunnel()
	return c.Conn.Write(b)
}

// Close ends the session, if no handler will do that.
func (c *clientConn) Close() error {
	c.c.mu.Lock()
	isServing := c.c.isServing
	c.c.mu.Unlock()
	if !isServing {
		c.c.endServing()
	}
	return c.Conn.Close()
}

// A clientAddr is the Request.RemoteAddr that a test chose.
type clientAddr string

func (clientAddr) Network() string  { return "mem" }
func (a clientAddr) String() string { return string(a) }

// sessionKey is the context key of a *session.
type sessionKey struct{}

// withSession is the ConnContext of the scene's server.
func withSession(ctx context.Context, conn net.Conn) context.Context {
	return &sessionContext{ctx, conn.(*clientConn).c}
}

// A sessionContext has the values of the request of a client.
type sessionContext struct {
	context.Context // the server's
	c               *session
}

func (c *sessionContext) Value(key any) any {
	if key == (sessionKey{}) {
		return c.c
	}
	if v := c.Context.Value(key); v != nil {
		return v
	}
	return c.c.values.Value(key)
}
