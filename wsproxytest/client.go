package wsproxytest

import (
	"bufio"
	"net/http"
	"sync"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A Client is a client of a [Scene], with the response that it got. Its methods are safe for
// concurrent use.
type Client struct {
	// Status is that of the response: 101 if the client has a tunnel, and if it was refused
	// by a Close frame (see [wsproxy.Refusal]). It is 0 if there was no response.
	Status int

	// Header is that of the response.
	Header http.Header

	// Backend is the backend of the tunnel. It is nil if the client was refused.
	Backend *wsproxy.Backend

	// Err is why there was no response: that of the request's context, or that of the
	// connection. Otherwise it is nil.
	Err error

	c     *session
	ended chan struct{} // closed when the connection has ended
	code  int           // what Wait returns; after ended

	mu        sync.Mutex
	hasClosed bool // a Close frame was sent
}

// Connect sends the upgrade r to the proxy, and waits for the response. An upgrade that waits
// for a backend makes Connect wait too. A client that has a tunnel then keeps it, answers
// pings and Close frames, and drops messages, until [Client.Close] or the end of the test.
//
// Of r, which [net/http/httptest.NewRequest] makes, Connect sends the method, the path and the
// query, the Host and the header; the fields of an upgrade are added where they are missing.
// The client's address is r.RemoteAddr, and 192.0.2.1 with a port of its own if that is empty:
// so the test decides about [wsproxy.ByClientIP] and the limits of each client. The values of
// r's context are in the request that the proxy gets, as if a middleware had set them.
// If the context ends before the response, the client leaves. Connect does not modify r.
//
// When Connect returns, the proxy has counted: [wsproxy.Backend.NumTunnels] of Client.Backend
// has the tunnel, and where the client was refused with a status, no backend has it any longer.
func (s *Scene) Connect(r *http.Request) *Client {
	cl := &Client{ended: make(chan struct{})}
	c, err := s.begin(r.Context(), r.RemoteAddr)
	if err != nil {
		cl.Err = err
		close(cl.ended)
		return cl
	}
	defer s.running.Done()
	cl.c = c
	br := bufio.NewReader(c.front)
	resp, err := c.exchange(r, br)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		c.front.Close()
		<-c.served
		close(cl.ended)
	}
	if err != nil {
		cl.Err = err
		return cl
	}
	cl.Status, cl.Header = resp.StatusCode, resp.Header
	if resp.StatusCode == http.StatusSwitchingProtocols {
		if addr := c.tunnelAddr; addr != "" {
			cl.Backend = s.Backend(s.idAt(addr))
		}
		s.running.Go(func() { cl.read(br) }) // until the proxy or the scene closes the connection
	}
	return cl
}

// Close ends the tunnel by the closing handshake, with code 1000, and waits until it has
// ended and the proxy has counted that: [wsproxy.Backend.NumTunnels] is one less. With
// [wsproxy.WithDetached] the proxy may count a moment later. If the tunnel has ended already,
// or the client was refused, Close does nothing.
func (cl *Client) Close() {
	if cl.Status == http.StatusSwitchingProtocols {
		cl.sendClose(1000)
	}
	cl.Wait()
}

// Wait waits until the tunnel has ended, and returns the code of the Close frame that the
// client got: 1005 if that had no code, 1006 if none came, and 0 if the client had another
// response than 101.
func (cl *Client) Wait() (code int) {
	<-cl.ended
	if cl.c != nil {
		<-cl.c.served
	}
	return cl.code
}

// read reads frames until the connection ends.
func (cl *Client) read(r *bufio.Reader) {
	defer close(cl.ended)
	defer cl.c.front.Close()
	cl.code = codeAbnormal
	for {
		f, err := wstest.ReadFrame(r)
		if err != nil {
			return
		}
		switch f.Opcode {
		case wstest.OpClose:
			cl.code = closeCode(f)
			cl.sendClose(cl.code)
		case wstest.OpPing:
			f.Opcode = wstest.OpPong
			cl.send(f)
		}
	}
}

// sendClose sends a Close frame, unless one was sent before.
func (cl *Client) sendClose(code int) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if !cl.hasClosed {
		cl.hasClosed = true
		cl.send(closeFrame(code))
	}
}

// send sends a frame. Its key is all zeros, which change no byte.
func (cl *Client) send(f wstest.Frame) {
	cl.c.front.Write(wstest.AppendFrame(nil, f, new([4]byte)))
}
