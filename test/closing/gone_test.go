package closing_test

import (
	"io"
	"testing"
	"time"
)

// The backend does not read, so the proxy does not read the client either.
func TestGoneClientIsNoticedWhileItsBackendReadsNothing(t *testing.T) {
	t.Parallel()
	t.Run("reset", func(t *testing.T) {
		forEachWay(t, func(t *testing.T, w way) { testGoneClient(t, w, (*end).reset, 17*time.Second) })
	})
	t.Run("end of stream", func(t *testing.T) {
		onlySoak(t)
		forEachWay(t, func(t *testing.T, w way) { testGoneClient(t, w, (*end).vanish, 18*time.Second) })
	})
}

func testGoneClient(t *testing.T, w way, lose func(*end), d time.Duration) {
	s := start(t, w, setup{socketBuffer: 64 << 10})
	client, backend := s.open()
	backend.socket.SetReadBuffer(64 << 10)
	client.socket.SetWriteBuffer(16 << 10)
	client.fill(4 << 10)
	// The end of the stream must not wait on this side for room on the other.
	for client.numQueued() > 0 {
		if _, err := io.CopyN(io.Discard, backend.Peer, 16<<10); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	lose(client)
	s.wantGone(d)
}

func TestGoneBackendIsNoticedWhileItsClientsReadNothing(t *testing.T) {
	forEachWay(t, func(t *testing.T, w way) {
		s := start(t, w, setup{socketBuffer: 64 << 10, readBuffer: 64 << 10})
		var backends []*end
		for range 10 {
			_, backend := s.open()
			backends = append(backends, backend)
		}
		filled := make(chan bool)
		for _, b := range backends {
			go func() {
				b.fill(4 << 10)
				filled <- true
			}()
		}
		for range backends {
			<-filled
		}
		for _, b := range backends {
			b.reset()
		}
		s.wantGone(17 * time.Second)
	})
}
