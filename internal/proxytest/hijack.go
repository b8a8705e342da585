package proxytest

import (
	"bufio"
	"net"
	"net/http"
	"net/http/httptest"
)

// A Hijackable is a ResponseWriter whose Hijack returns Conn.
type Hijackable struct {
	*httptest.ResponseRecorder
	Conn     net.Conn
	OnHijack func() // called first; may be nil
}

// Hijack implements [http.Hijacker].
func (w Hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.OnHijack != nil {
		w.OnHijack()
	}
	return w.Conn, bufio.NewReadWriter(bufio.NewReader(w.Conn), bufio.NewWriter(w.Conn)), nil
}

// NewUpgrade returns an upgrade request as a handler gets it.
func NewUpgrade() *http.Request {
	r := httptest.NewRequest("GET", "/chat", nil)
	r.Header = http.Header{
		"Upgrade": {"websocket"}, "Connection": {"Upgrade"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {SampleKey},
	}
	return r
}
