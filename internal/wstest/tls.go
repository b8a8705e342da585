package wstest

import (
	"crypto/tls"
	"net"
	"net/http/httptest"
	"sync"
	"testing"
)

// ShakeHands performs a TLS handshake between the two ends of a connection. near is
// the server's end.
func ShakeHands(t testing.TB, near, far net.Conn) (server, client *tls.Conn) {
	t.Helper()
	server = tls.Server(near, &tls.Config{Certificates: []tls.Certificate{Certificate()}})
	client = tls.Client(far, &tls.Config{InsecureSkipVerify: true})
	errc := make(chan error, 1)
	go func() { errc <- client.Handshake() }() // ends with the handshake
	if err := server.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-errc; err != nil {
		t.Fatal(err)
	}
	return server, client
}

// Certificate returns the certificate of a test server, the same each time.
var Certificate = sync.OnceValue(func() tls.Certificate {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	return s.TLS.Certificates[0]
})
