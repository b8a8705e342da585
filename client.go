package wsproxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/wsproxy/wsproxy/internal/handshake"
	"github.com/wsproxy/wsproxy/internal/netconn"
)

// A client is the peer that asked for a tunnel, as the proxy speaks to it over one
// version of HTTP. Its methods are called by one goroutine at a time.
//
// There are two: [http1Client], and [http2Client] for RFC 8441, where there is no connection to
// hijack and no 101.
type client interface {
	// begin is called first.
	begin()

	// check returns why no tunnel can be opened to the client, or nil. It is called
	// before anything is dialed.
	check() error

	// header returns what middleware has set for the response.
	header() http.Header

	// opening returns the bytes that are written to the hijacked connection before the
	// first frame: the client's 101, with header h. They are in buf. Over HTTP/2 there are
	// none, and the write of none sends the 200. It calls middleware if [Front] is used, over
	// HTTP/2 always, and is the last step before hijack.
	opening(buf *headBuffer, h http.Header, a handshake.Agreement) ([]byte, error)

	// hijack takes the connection from the server, or the stream, with the bytes that the
	// server has read ahead, or nil. From then on nothing may be written to the
	// ResponseWriter.
	hijack() (net.Conn, *bufio.Reader, error)

	// forward sends the backend's response, with header a.header, which refuses the
	// upgrade. It calls a.reportRefused before it writes.
	forward(a *attempt) error

	// refuse sends the error handler's response, unless the connection was hijacked.
	refuse(i *RefusedInfo)
}

// An http1Client is a client over HTTP/1.1.
type http1Client struct {
	u          *upgrade
	w          http.ResponseWriter
	front      *frontWriter // nil without [Front]
	isHijacked bool
}

// begin does nothing: the server's deadlines have no effect before something is written, and the
// hijack ends them.
func (c *http1Client) begin() {}

// check looks for the server's connection behind the wrappers that middleware puts
// around a ResponseWriter.
func (c *http1Client) check() error {
	w, isHijacker := c.innermost()
	if isHijacker {
		return nil
	}
	c.u.p.logNoHijacker(w, c.u.info.id)
	return fmt.Errorf("wsproxy: %T has neither Hijack nor Unwrap: %w", w, http.ErrNotSupported)
}

// innermost returns the first ResponseWriter that is an [http.Hijacker], or else the one
// that has no Unwrap method.
func (c *http1Client) innermost() (w http.ResponseWriter, isHijacker bool) {
	for w = c.w; ; {
		switch t := w.(type) {
		case http.Hijacker:
			return w, true
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return w, false
		}
	}
}

func (c *http1Client) header() http.Header { return c.w.Header() }

func (c *http1Client) opening(buf *headBuffer, h http.Header, a handshake.Agreement) ([]byte, error) {
	head, err := handshake.AppendSwitch(buf.reset(), h, handshake.ClientKey(c.u.r), a)
	if err != nil || c.front == nil {
		return head, err
	}
	// The hook's header is valid: from here on middleware is told 101.
	if h, err = c.announce(h); err != nil {
		return nil, err
	}
	return handshake.AppendSwitch(buf.reset(), h, handshake.ClientKey(c.u.r), a)
}

// announce calls the WriteHeader of middleware with 101, which [frontWriter] discards. It
// returns h with the changes that middleware has made in its header meanwhile: session
// middleware, for instance, adds its cookie in WriteHeader.
func (c *http1Client) announce(h http.Header) (http.Header, error) {
	// A compressor that sees a Content-Type takes the 101 for a response to be compressed,
	// and refuses the hijack.
	deleteContentFields(c.w.Header())
	before := c.w.Header().Clone()
	c.front.announce()
	c.w.WriteHeader(http.StatusSwitchingProtocols)
	if c.front.state.Load() != frontAnnounced {
		return nil, errors.New("a middleware has answered WriteHeader(101) with another status")
	}
	return handshake.UpdateSwitchHeader(h, before, c.w.Header()), nil
}

// deleteContentFields deletes the fields that describe content. A 101 has none.
func deleteContentFields(h http.Header) {
	h.Del("Content-Encoding")
	h.Del("Content-Length")
	h.Del("Content-Type")
}

func (c *http1Client) hijack() (net.Conn, *bufio.Reader, error) {
	conn, brw, err := http.NewResponseController(c.w).Hijack()
	if err != nil {
		c.u.p.logNotHijacked(c.w, c.u.info.id, err)
		return nil, nil, fmt.Errorf("wsproxy: hijack the client's connection: %w", err)
	}
	c.isHijacked = true
	c.front.finish()
	return conn, brw.Reader, nil
}

// forward closes the connection after the response: an attempt to upgrade leaves none
// that could be used again. Redirects are not followed.
func (c *http1Client) forward(a *attempt) error {
	header := c.w.Header()
	a.addTo(header)
	if a.resp.StatusCode == http.StatusUpgradeRequired {
		header.Set("Upgrade", "websocket") // what this proxy upgrades to, whatever the backend offers
	}
	closeAfter(c.u.r, header)
	if http.NewResponseController(c.w).SetWriteDeadline(time.Now().Add(responseTimeout)) != nil {
		// A wrapper hides the deadline. It must hold, or a client that does not read
		// would keep the backend's place for ever.
		return c.forwardHijacked(a, header)
	}
	copyResponse(c.w, a)
	return nil
}

// addTo adds the fields of the client's response to header, which has those of middleware.
func (a *attempt) addTo(header http.Header) {
	for name, values := range a.header {
		header[name] = append(header[name], values...)
	}
	header.Set(requestIDHeader, a.u.info.id)
	if a.resp.ContentLength > 0 {
		header.Set("Content-Length", fmt.Sprint(a.resp.ContentLength))
	}
}

// copyResponse sends the backend's response over rw, which has its header. It panics with
// [http.ErrAbortHandler] if it cannot send all of it.
func copyResponse(rw http.ResponseWriter, a *attempt) {
	w := flushWriter{rw, http.NewResponseController(rw)}
	body := progressReader{a.resp.Body, func(until time.Time) {
		a.conn.SetDeadline(until)
		w.SetWriteDeadline(until)
	}}
	a.reportRefused()
	body.renew() // the hook may have taken long
	rw.WriteHeader(a.resp.StatusCode)
	w.Flush() // the body may take long
	if _, err := io.Copy(w, body); err != nil {
		// The client must not take a part for the whole.
		panic(http.ErrAbortHandler)
	}
}

// A flushWriter flushes each write.
type flushWriter struct {
	w io.Writer
	*http.ResponseController
}

func (f flushWriter) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		f.Flush() // where a wrapper hides it, the client gets the bytes later
	}
	return n, err
}

// A progressReader renews the deadlines of both connections before and after each read
// of a body, so that only a side that makes no progress ends the response.
type progressReader struct {
	body        io.Reader
	setDeadline func(time.Time)
}

func (r progressReader) Read(p []byte) (int, error) {
	r.renew()
	n, err := r.body.Read(p)
	r.renew()
	return n, err
}

func (r progressReader) renew() { r.setDeadline(time.Now().Add(responseTimeout)) }

// forwardHijacked sends the backend's response on the client's connection itself.
func (c *http1Client) forwardHijacked(a *attempt, header http.Header) error {
	conn, _, err := c.hijack()
	if err != nil {
		return err
	}
	client := netconn.New(conn, nil)
	defer client.Close() // also if the hook ends the goroutine
	body := progressReader{a.resp.Body, func(until time.Time) {
		a.conn.SetDeadline(until)
		conn.SetDeadline(until)
	}}
	a.reportRefused()
	body.renew() // the hook may have taken long
	resp := &http.Response{
		StatusCode: a.resp.StatusCode, ProtoMajor: 1, ProtoMinor: 1,
		Header: header, ContentLength: a.resp.ContentLength, Close: true, Body: io.NopCloser(body),
	}
	if resp.ContentLength < 0 {
		resp.TransferEncoding = []string{"chunked"} // so that a part cannot be taken for the whole
	}
	if resp.Write(conn) == nil {
		client.Drain(time.Now().Add(drainTimeout))
	}
	return nil
}

func (c *http1Client) refuse(i *RefusedInfo) {
	if c.isHijacked {
		return
	}
	if c.u.p.refusal.ByClose && c.refuseByClose(i) {
		return
	}
	w := c.w
	if c.front != nil {
		switch c.front.state.Load() {
		case frontReplaced:
			return // the client has a middleware's response
		case frontAnnounced:
			// Middleware takes the 101 for written, and would drop another response.
			w = c.front.w
			deleteContentFields(w.Header()) // those of a compressor, which is not used now
			c.front.finish()
		}
	}
	// The server's WriteTimeout may have passed while backends were tried.
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(responseTimeout))
	c.u.p.respondRefused(w, i)
}
