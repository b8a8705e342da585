// Backend is a WebSocket server that uses as little CPU as possible. Proxies are
// measured in front of it.
//
//	go run ./backend 127.0.0.1:9000 127.0.0.1:9001
//
// It echoes every message. For the path /push/SIZE/RATE it sends RATE messages a
// second of SIZE bytes instead.
package main

import (
	"fmt"
	"net"
	"os"

	"github.com/wsproxy/wsproxy/benchmarks/internal/wire"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "backend:", err)
		os.Exit(1)
	}
}

func run(addrs []string) error {
	if len(addrs) == 0 {
		return fmt.Errorf("name the addresses to listen on")
	}
	errc := make(chan error, len(addrs))
	for _, addr := range addrs {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		go func() { errc <- wire.Serve(ln) }() // until the process exits
	}
	return <-errc
}
