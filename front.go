package wsproxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/internal/handshake"
)

// Front returns a handler that calls next, and lets the middleware in next see the 101 of
// an upgrade. Mount it once, around everything else:
//
//	server := &http.Server{Handler: wsproxy.Front(router)}
//
// Without Front, the proxies in next write the 101 to the connection and nothing else, and
// middleware records what it records for a handler that writes nothing: 200 or 0. A
// middleware that calls WriteHeader when the tunnel has ended, such as a timeout, makes
// [http.Server] log "WriteHeader on hijacked connection".
//
// With Front, a proxy calls WriteHeader(101) on its ResponseWriter, after the hook of
// [WithResponse] and before it hijacks the connection. Fields that middleware adds to the
// header in its WriteHeader are part of the 101. Content-Type, Content-Encoding and
// Content-Length are removed from the header first, because a 101 has no content. Front
// discards that call, and what middleware does with its ResponseWriter after the hijack:
// WriteHeader and Flush do nothing, and Write returns [http.ErrHijacked].
//
// If the upgrade fails after that call, for instance because a middleware's Hijack fails,
// the client gets the response of the error handler directly from the server's
// ResponseWriter, and middleware has recorded 101. If a middleware responds to
// WriteHeader(101) with another status, the client gets the middleware's response, the
// upgrade fails, and the error handler is not called.
//
// Over HTTP/2 a WebSocket is opened by a CONNECT (RFC 8441: see the section HTTP/2 of the
// package documentation). With Front, next gets a GET without a body in its place, with the
// path, the query and the fields of the client, so that a route such as "GET /ws" matches. A
// status of 2xx accepts such a client, so that only a proxy may send one: if another handler
// does, or if none sends any, the client gets 501. Other statuses, such as a middleware's 401
// or the 404 of a router, pass.
//
// Front changes nothing for requests that are no upgrade, and over HTTP/1.1 for a
// ResponseWriter that is no [http.Hijacker]: next gets both unchanged. WebSocket handlers
// that are no [Proxy] work as before over HTTP/1.1. Front finds its ResponseWriter in the
// request's context. A middleware that replaces this context instead of deriving from it turns
// Front off for what it wraps. Within another Front, Front does nothing.
//
// A nil next is [http.DefaultServeMux], as for [http.Server]. The handler may be used
// concurrently, if next may.
func Front(next http.Handler) http.Handler {
	if next == nil {
		next = http.DefaultServeMux
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if handshake.IsConnect(r) {
			serveConnect(w, r, next)
			return
		}
		if len(r.Header["Upgrade"]) == 0 { // without an allocation for most requests
			next.ServeHTTP(w, r)
			return
		}
		isUpgrade, _ := handshake.Classify(r)
		_, isHijacker := w.(http.Hijacker)
		if !isUpgrade || !isHijacker || r.Context().Value(frontKey{}) != nil {
			next.ServeHTTP(w, r)
			return
		}
		f := &frontWriter{innerWriter: innerWriter{w}}
		next.ServeHTTP(f, r.WithContext(context.WithValue(r.Context(), frontKey{}, f)))
	})
}

// frontKey is the context key of the request's frontWriter.
type frontKey struct{}

// frontOf returns the frontWriter of ctx, or nil if a proxy cannot use one: there is none,
// or another proxy has used it.
func frontOf(ctx context.Context) *frontWriter {
	f, _ := ctx.Value(frontKey{}).(*frontWriter)
	if f == nil || f.state.Load() != frontPassing {
		return nil
	}
	return f
}

// A frontWriter is the ResponseWriter that [Front] puts between the server's and those of
// middleware. It has all methods of the server's, because middleware looks for them.
type frontWriter struct {
	innerWriter
	state atomic.Uint32 // a middleware's timer may call WriteHeader at any time
}

// States of a frontWriter.
const (
	// All calls are passed on.
	frontPassing = iota

	// A proxy has begun to announce its 101, and has not hijacked the connection yet.
	// WriteHeader(101) is discarded: some middleware passes it on at once, some later or
	// never, and net/http would write a head of its own.
	frontAnnounced

	// A middleware has answered the announcement with another status. All calls are
	// passed on.
	frontReplaced

	// A proxy has hijacked the connection, or has written a refusal beneath middleware.
	// Middleware can write nothing.
	frontDone
)

// announce begins the announcement of a 101.
func (f *frontWriter) announce() { f.state.Store(frontAnnounced) }

// finish is called when the proxy has hijacked the connection. A nil f is none.
func (f *frontWriter) finish() {
	if f != nil {
		f.state.Store(frontDone)
	}
}

func (f *frontWriter) WriteHeader(status int) {
	switch f.state.Load() {
	case frontDone:
		return
	case frontAnnounced:
		if status == http.StatusSwitchingProtocols {
			return
		}
		if status >= 200 {
			f.state.Store(frontReplaced)
		}
	}
	f.w.WriteHeader(status)
}

// writeError returns why nothing may be written to the body, or nil.
func (f *frontWriter) writeError() error {
	switch f.state.Load() {
	case frontAnnounced:
		return http.ErrBodyNotAllowed // what net/http returns after WriteHeader(101)
	case frontDone:
		return http.ErrHijacked
	}
	return nil
}

func (f *frontWriter) Write(p []byte) (int, error) {
	if err := f.writeError(); err != nil {
		return 0, err
	}
	return f.w.Write(p)
}

func (f *frontWriter) WriteString(s string) (int, error) {
	if err := f.writeError(); err != nil {
		return 0, err
	}
	return io.WriteString(f.w, s)
}

// ReadFrom lets the server use sendfile.
func (f *frontWriter) ReadFrom(src io.Reader) (int64, error) {
	if err := f.writeError(); err != nil {
		return 0, err
	}
	if w, ok := f.w.(io.ReaderFrom); ok {
		return w.ReadFrom(src)
	}
	return io.Copy(struct{ io.Writer }{f.w}, src)
}

func (f *frontWriter) Flush() { f.FlushError() }

func (f *frontWriter) FlushError() error {
	switch f.state.Load() {
	case frontAnnounced:
		return nil // net/http would write the head of a 200
	case frontDone:
		return http.ErrHijacked
	}
	return http.NewResponseController(f.w).Flush()
}

func (f *frontWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return f.w.(http.Hijacker).Hijack()
}

func (f *frontWriter) EnableFullDuplex() error {
	return http.NewResponseController(f.w).EnableFullDuplex()
}

// An innerWriter is the ResponseWriter beneath a frontWriter or a connectWriter. Its methods are
// those that both only pass on.
type innerWriter struct{ w http.ResponseWriter }

// Unwrap returns the ResponseWriter beneath, for [http.ResponseController].
func (i innerWriter) Unwrap() http.ResponseWriter { return i.w }

func (i innerWriter) Header() http.Header { return i.w.Header() }

// CloseNotify implements the deprecated [http.CloseNotifier], which some middleware
// requires.
func (i innerWriter) CloseNotify() <-chan bool {
	//lint:ignore SA1019 middleware calls it, such as gin's Stream
	if w, ok := i.w.(http.CloseNotifier); ok {
		return w.CloseNotify()
	}
	return make(chan bool) // never ready, as for a client that stays
}

func (i innerWriter) SetReadDeadline(t time.Time) error {
	return http.NewResponseController(i.w).SetReadDeadline(t)
}

func (i innerWriter) SetWriteDeadline(t time.Time) error {
	return http.NewResponseController(i.w).SetWriteDeadline(t)
}
