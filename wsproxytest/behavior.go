package wsproxytest

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A Behavior says how a backend of a [Scene] treats connections and upgrades. The zero value
// is Echo's.
type Behavior struct {
	isDown  bool
	handler http.Handler // nil: serveEcho
}

// Echo accepts upgrades, sends each message back, and answers the closing handshake.
func Echo() Behavior { return Behavior{} }

// Refuse responds to each upgrade with a status and a header, which may be nil. A 503 with
// Retry-After is that of a backend that is full. Refuse panics if the status is not from 200
// to 999.
func Refuse(status int, header http.Header) Behavior {
	if status < 200 || status > 999 {
		panic(fmt.Sprintf("wsproxytest: Refuse(%d); want 200 to 999", status))
	}
	header = header.Clone()
	return Serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		maps.Copy(w.Header(), header)
		w.WriteHeader(status)
	}))
}

// Hang accepts connections and never responds.
func Hang() Behavior {
	return Serve(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done() // until the proxy closes the connection
		panic(http.ErrAbortHandler)
	}))
}

// Lose accepts upgrades, and at once closes the connection of the tunnel, without a Close
// frame.
func Lose() Behavior { return afterAccept(func(*bufio.ReadWriter) {}) }

// CloseWith accepts upgrades, and at once begins the closing handshake with code; 1005 is a
// Close frame without a code. It panics if code is not from 1000 to 4999.
func CloseWith(code int) Behavior {
	if code < 1000 || code > 4999 {
		panic(fmt.Sprintf("wsproxytest: CloseWith(%d); want 1000 to 4999", code))
	}
	return afterAccept(func(rw *bufio.ReadWriter) {
		rw.Write(wstest.AppendFrame(nil, closeFrame(code), nil))
		rw.Flush()
		io.Copy(io.Discard, rw) // until the proxy closes the connection
	})
}

// Down is a backend whose process does not run: dials fail at once with ECONNREFUSED, and
// the connections that it had are reset, those of tunnels too. Any other Behavior starts it
// again.
func Down() Behavior { return Behavior{isDown: true} }

// Serve serves requests with h, which may accept WebSockets with a library of the test's
// choice. A handler must return when its request's context ends or, after Hijack, when its
// connection ends: the end of the test waits for it. Serve panics if h is nil.
func Serve(h http.Handler) Behavior {
	if h == nil {
		panic("wsproxytest: Serve(nil)")
	}
	return Behavior{handler: h}
}

// afterAccept accepts upgrades, and closes the connection after f.
func afterAccept(f func(rw *bufio.ReadWriter)) Behavior {
	return Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if conn, rw := accept(w, r); conn != nil {
			defer conn.Close()
			f(rw)
		}
	}))
}

// serveEcho is the handler of [Echo].
func serveEcho(w http.ResponseWriter, r *http.Request) {
	conn, rw := accept(w, r)
	if conn == nil {
		return
	}
	defer conn.Close()
	for {
		f, err := wstest.ReadFrame(rw.Reader)
		if err != nil {
			return
		}
		if f.Opcode == wstest.OpPing {
			f.Opcode = wstest.OpPong
		}
		if _, err := conn.Write(wstest.AppendFrame(nil, f, nil)); err != nil || f.Opcode == wstest.OpClose {
			return
		}
	}
}

// accept writes a 101 to the connection of w, which the caller closes. It returns nil if w
// has no connection.
func accept(w http.ResponseWriter, r *http.Request) (net.Conn, *bufio.ReadWriter) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return nil, nil
	}
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: %s\r\n\r\n", wstest.Accept(r.Header.Get("Sec-Websocket-Key")))
	rw.Flush()
	return conn, rw
}
