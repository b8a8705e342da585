// Program imported is the one in ../plain with the import of http2ws.
package main

import (
	"log"
	"net"
	"net/http"

	_ "github.com/wsproxy/wsproxy/http2ws"
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
