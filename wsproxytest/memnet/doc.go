// Package memnet implements a network in memory, for tests.
//
// Its calls wait on condition variables and timers only. So they block durably in
// a [testing/synctest] bubble, where a socket would stop the clock. Connections
// and listeners that are created in a bubble belong to that bubble. Tests can use the same
// addresses, because a [Network] shares nothing with another one.
//
//	func TestServerCutsSlowClients(t *testing.T) {
//		synctest.Test(t, func(t *testing.T) {
//			network := memnet.NewNetwork()
//			ln, err := network.Listen("chat.example:80")
//			if err != nil {
//				t.Fatal(err)
//			}
//			srv := &http.Server{Handler: newHandler(), ReadHeaderTimeout: 10 * time.Second}
//			go srv.Serve(ln) // ends by Close
//			defer srv.Close()
//
//			start := time.Now()
//			c, err := network.DialContext(t.Context(), "tcp", "chat.example:80")
//			if err != nil {
//				t.Fatal(err)
//			}
//			c.Read(make([]byte, 1)) // until the server closes the connection
//			if d := time.Since(start); d != 10*time.Second {
//				t.Errorf("cut after %v; want 10s", d) // of the bubble's time
//			}
//		})
//	}
//
// A Network is a place of listeners and their addresses, [Listen] makes one listener without
// a network, and [Pipe] makes one connection.
//
// A connection behaves like TCP, with two simplifications: a Close with unread
// bytes is not a reset, and already the first write to a closed peer fails. A test
// that depends on these needs sockets.
package memnet
