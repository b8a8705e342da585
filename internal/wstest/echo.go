package wstest

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
)

// StartEcho starts a WebSocket server that echoes every data frame, responds to a
// Ping with a Pong, and to a Close frame with the same code before it closes the
// connection. It responds to a request without a key with 400. The server runs
// until the test ends.
func StartEcho(t testing.TB) (url string) {
	t.Helper()
	s := new(server)
	s.accepted = func(c net.Conn) {
		s.running.Go(func() { serveEcho(c) }) // until the client or stop closes c
	}
	s.start(t)
	return s.URL()
}

func serveEcho(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	key := req.Header.Get("Sec-WebSocket-Key")
	if key == "" {
		io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		return
	}
	if _, err := io.WriteString(c, UpgradeAnswer(key, nil)); err != nil {
		return
	}
	for {
		f, err := ReadFrame(r)
		if err != nil {
			return
		}
		if _, err := c.Write(AppendFrame(nil, echoOf(f), nil)); err != nil || f.Opcode == OpClose {
			return
		}
	}
}

// echoOf returns the response to f. A Pong is echoed like a data frame, because no
// test with this server sends one.
func echoOf(f Frame) Frame {
	switch f.Opcode {
	case OpPing:
		f.Opcode = OpPong
	case OpClose:
		return Close(closeCode(f), "")
	}
	return f
}
