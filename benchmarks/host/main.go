// Host is a program that does other work beside its proxy. It has a [net/http]
// server with a proxy in it, goroutines that compute, and an ordinary TCP server
// that echoes.
//
//	go run ./host -listen 127.0.0.1:8000 -echo 127.0.0.1:8001 -compute 2 127.0.0.1:9000
//
// It is used to measure how the proxy and the rest of a program delay each other.
package main

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/benchmarks/internal/standard"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "host:", err)
		os.Exit(1)
	}
}

func run() error {
	listen := flag.String("listen", "127.0.0.1:8000", "`address` of the server with the proxy in it")
	echo := flag.String("echo", "", "`address` of an ordinary TCP server that echoes (default: none)")
	compute := flag.Int("compute", 0, "`number` of goroutines that compute all the time")
	detach := flag.Bool("detach", false, "release the server's goroutine when a tunnel is open")
	isStandard := flag.Bool("httputil", false, "use the proxy of the standard library instead of wsproxy")
	flag.Parse()

	handler, err := newProxy(flag.Args(), *detach, *isStandard)
	if err != nil {
		return err
	}
	for range *compute {
		go burn() // until the process exits
	}
	if *echo != "" {
		ln, err := net.Listen("tcp", *echo)
		if err != nil {
			return err
		}
		go serveEcho(ln) // until the process exits
	}
	return http.ListenAndServe(*listen, handler)
}

func newProxy(backends []string, isDetached, isStandard bool) (http.Handler, error) {
	if len(backends) == 0 {
		return nil, errors.New("name the addresses of backends")
	}
	if isStandard {
		return standard.NewProxy(backends), nil
	}
	var urls []string
	for _, b := range backends {
		urls = append(urls, "http://"+b)
	}
	return wsproxy.New(wsproxy.WithBackends(urls...), wsproxy.WithDetached(isDetached))
}

// burn computes in small steps. Each step calls a function and allocates a little
// memory, as in ordinary programs, so that the scheduler can preempt it there.
func burn() {
	sum := make([]byte, 0, sha256.Size)
	for {
		h := sha256.New()
		h.Write(sum)
		sum = h.Sum(nil)
	}
}

func serveEcho(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() { // until the client closes c
			defer c.Close()
			io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 4096))
		}()
	}
}
