package memnet_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy/wsproxytest/memnet"
)

func newHandler() http.Handler { return http.NotFoundHandler() }

// The package documentation has this test.
func TestServerCutsSlowClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.NewNetwork()
		ln, err := network.Listen("chat.example:80")
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: newHandler(), ReadHeaderTimeout: 10 * time.Second}
		go srv.Serve(ln) // ends by Close
		defer srv.Close()

		start := time.Now()
		c, err := network.DialContext(t.Context(), "tcp", "chat.example:80")
		if err != nil {
			t.Fatal(err)
		}
		c.Read(make([]byte, 1)) // until the server closes the connection
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("cut after %v; want 10s", d) // of the bubble's time
		}
	})
}
