// Refusals serves a proxy that refuses clients for one reason, for refusal.test.js:
//
//	refusals [-by-close] CASE
//
// The cases are in newOptions. It prints the URL of the proxy, and ends when its standard
// input does: also if the test is killed.
package main

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"

	"github.com/wsproxy/wsproxy"
)

func main() {
	log.SetFlags(0)
	byClose := flag.Bool("by-close", false, "refuse by a Close frame instead of a status")
	flag.Parse()
	if err := run(flag.Arg(0), *byClose); err != nil {
		log.Fatal("refusals: ", err)
	}
}

func run(name string, byClose bool) error {
	backend, err := serve(http.HandlerFunc(acceptAll))
	if err != nil {
		return err
	}
	opts, ok := newOptions(name)
	if !ok {
		return fmt.Errorf("no case %q", name)
	}
	defaults := []wsproxy.Option{wsproxy.WithBackends(backend), wsproxy.WithRefusal(wsproxy.Refusal{ByClose: byClose})}
	proxy, err := wsproxy.New(append(defaults, opts...)...)
	if err != nil {
		return err
	}
	defer proxy.Close()
	if name == "shutdown" {
		proxy.Shutdown(context.Background())
	}
	url, err := serve(wsproxy.Front(proxy))
	if err != nil {
		return err
	}
	fmt.Println(url)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// newOptions returns the options that make a proxy refuse clients. With a limit, the first
// client is not refused.
func newOptions(name string) ([]wsproxy.Option, bool) {
	one := wsproxy.Rate{PerSecond: 0.001, Burst: 1}
	opts, ok := map[string][]wsproxy.Option{
		"limit":          {wsproxy.WithLimits(wsproxy.Limits{Tunnels: 1})},
		"client limit":   {wsproxy.WithLimits(wsproxy.Limits{PerClient: 1})},
		"rate":           {wsproxy.WithLimits(wsproxy.Limits{Handshakes: one})},
		"rate of client": {wsproxy.WithLimits(wsproxy.Limits{HandshakesPerClient: one})},
		"origin":         {wsproxy.WithOriginPatterns()},
		"admit 403":      {admit(http.StatusForbidden)},
		"admit 500":      {admit(http.StatusInternalServerError)},
		"no backend":     {wsproxy.WithBackends()},
		"shutdown":       {},
	}[name]
	return opts, ok
}

// admit returns a hook that refuses each client with that status.
func admit(status int) wsproxy.Option {
	return wsproxy.WithAdmit(func(*http.Request) (any, error) {
		return nil, &wsproxy.StatusError{Status: status}
	})
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

// acceptAll is a backend. It accepts each WebSocket, and ends it when the client sends
// something.
func acceptAll(w http.ResponseWriter, r *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
	conn.Read(make([]byte, 1))
}
