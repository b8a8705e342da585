package wire

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/wsproxy/wsproxy/internal/frame"
)

// Serve serves the connections of ln as a backend until ln is closed. The path of
// the request decides what it does after the 101:
//
//	/push/SIZE/RATE   it sends RATE messages a second of SIZE bytes
//	any other path    it echoes every message
func Serve(ln net.Listener) error {
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go serve(c) // until the client closes c
	}
}

func serve(c net.Conn) {
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
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: %s\r\n\r\n", accept(key))
	if size, rate, ok := parsePush(req.URL.Path); ok {
		push(c, size, rate)
		return
	}
	echo(c, r)
}

// PushPath returns the path for messages of a size at a rate.
func PushPath(size int, rate float64) string { return fmt.Sprintf("/push/%d/%g", size, rate) }

func parsePush(path string) (size int, rate float64, ok bool) {
	rest, ok := strings.CutPrefix(path, "/push/")
	if !ok {
		return 0, 0, false
	}
	first, second, _ := strings.Cut(rest, "/")
	size, err := strconv.Atoi(first)
	if err != nil {
		return 0, 0, false
	}
	rate, err = strconv.ParseFloat(second, 64)
	return size, rate, err == nil && size >= 0 && rate > 0
}

// push writes messages until a write fails.
func push(c net.Conn, size int, rate float64) {
	message := ServerFrame(frame.Binary, make([]byte, size))
	tick := time.NewTicker(time.Duration(float64(time.Second) / rate))
	defer tick.Stop()
	for range tick.C {
		if _, err := c.Write(message); err != nil {
			return
		}
	}
}

// echo echoes messages, each in one write, until it gets a Close frame.
func echo(c net.Conn, r *bufio.Reader) {
	var buf []byte
	for {
		h, err := ReadHeader(r)
		if err != nil {
			return
		}
		if h.Opcode == frame.Close {
			c.Write(ServerFrame(frame.Close, nil))
			return
		}
		buf = frame.AppendHeader(buf[:0], frame.Header{Fin: true, Opcode: h.Opcode, Length: h.Length})
		start, end := len(buf), len(buf)+int(h.Length)
		if cap(buf) < end {
			buf = append(make([]byte, 0, end), buf...)
		}
		buf = buf[:end]
		if _, err := io.ReadFull(r, buf[start:]); err != nil {
			return
		}
		if h.Key != [4]byte{} { // ClientFrame has a zero key
			frame.Mask(buf[start:], h.Key)
		}
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}
