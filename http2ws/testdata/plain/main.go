// Program plain serves HTTP/2 without TLS on a port that it prints.
package main

import (
	"log"
	"net"
	"net/http"
)

func main() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	println(ln.Addr().String()) // to standard error
	srv := &http.Server{Protocols: new(http.Protocols)}
	srv.Protocols.SetUnencryptedHTTP2(true)
	log.Fatal(srv.Serve(ln))
}
