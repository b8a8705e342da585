// Backend answers WebSockets as cheaply as it can: it is what proxies are measured
// in front of.
//
//	go run ./backend 127.0.0.1:9000 127.0.0.1:9001
//
// Every message is sent back. After /push/SIZE/RATE it sends RATE messages a
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
		go func() { errc <- wire.Serve(ln) }() // as long as the process
	}
	return <-errc
}
