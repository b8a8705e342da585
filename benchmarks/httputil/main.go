// Httputil is a proxy for WebSockets that uses only [net/http/httputil]. It uses its
// backends in turn.
//
//	go run ./httputil -listen 127.0.0.1:8000 127.0.0.1:9000 127.0.0.1:9001
package main

import (
	"flag"
	"fmt"
	"net/http"
	"os"

	"github.com/wsproxy/wsproxy/benchmarks/internal/standard"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8000", "`address` to listen on")
	cert := flag.String("tls-cert", "", "`file` with the server's TLS certificate")
	key := flag.String("tls-key", "", "`file` with the certificate's key")
	flag.Parse()
	if flag.NArg() == 0 {
		fail(fmt.Errorf("name the addresses of backends"))
	}
	handler := standard.NewProxy(flag.Args())
	if *cert != "" {
		fail(http.ListenAndServeTLS(*listen, *cert, *key, handler))
	}
	fail(http.ListenAndServe(*listen, handler))
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "httputil:", err)
	os.Exit(1)
}
