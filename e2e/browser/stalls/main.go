// Stalls serves a proxy whose backend sends without end, for stall.test.js:
//
//	stalls
//
// It prints the URL of the proxy, and a line of JSON for each tunnel that ends. A client that
// sends "flood" gets messages for ever. Any other client gets each frame back. It ends when
// its standard input does: also if the test is killed.
package main

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/wsproxy/wsproxy"
)

// writeStall is the proxy's.
const writeStall = 2 * time.Second

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal("stalls: ", err)
	}
}

func run() error {
	backend, err := serve(http.HandlerFunc(floodOrEcho))
	if err != nil {
		return err
	}
	lines := json.NewEncoder(os.Stdout)
	proxy, err := wsproxy.New(wsproxy.WithBackends(backend),
		wsproxy.WithTimeouts(wsproxy.Timeouts{WriteStall: writeStall}),
		wsproxy.WithTrace(&wsproxy.Trace{Closed: func(e wsproxy.TunnelEnd) {
			lines.Encode(map[string]any{
				"path": e.URL.Path, "side": e.Side.String(), "cause": e.Cause.String(),
				"bytes": e.ToClient.Bytes, "seconds": e.Duration.Seconds(),
			})
		}}))
	if err != nil {
		return err
	}
	defer proxy.Close()
	url, err := serve(wsproxy.Front(proxy))
	if err != nil {
		return err
	}
	fmt.Println(url)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// serve serves h on a port of 127.0.0.1 until the program ends.
func serve(h http.Handler) (url string, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go http.Serve(ln, h) // until the program ends
	return "http://" + ln.Addr().String(), nil
}

// floodOrEcho is a backend.
func floodOrEcho(w http.ResponseWriter, r *http.Request) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
	for {
		op, message, err := readFrame(buffered.Reader)
		if err != nil {
			return
		}
		if string(message) == "flood" {
			flood(conn)
			return
		}
		if _, err := conn.Write(append([]byte{0x80 | op, byte(len(message))}, message...)); err != nil || op == 8 {
			return
		}
	}
}

// flood sends messages of 64 KiB until the connection ends.
func flood(conn net.Conn) {
	const size = 64 << 10
	message := append(binary.BigEndian.AppendUint64([]byte{0x82, 127}, size), make([]byte, size)...)
	for {
		if _, err := conn.Write(message); err != nil {
			return
		}
	}
}

// readFrame reads a frame of less than 126 bytes from a client.
func readFrame(r *bufio.Reader) (op byte, message []byte, err error) {
	var head [6]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	message = make([]byte, head[1]&0x7f)
	if _, err := io.ReadFull(r, message); err != nil {
		return 0, nil, err
	}
	for i := range message {
		message[i] ^= head[2+i%4]
	}
	return head[0] & 0xf, message, nil
}
