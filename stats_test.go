package wsproxy_test

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A tunnel that ends while Stats adds up is counted once: a sum that had it twice would
// be larger than a later one.
func TestStatsCountsEndingTunnelsOnce(t *testing.T) {
	const clients, visits, messages = 4, 50, 20
	p, err := wsproxy.New(wsproxy.WithBackends(wstest.StartEcho(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	front := httptest.NewServer(p)
	defer front.Close()

	var visiting, watching sync.WaitGroup
	stop := make(chan struct{})
	watching.Go(func() { // ends with stop
		var last wsproxy.Stats
		for {
			s := p.Stats()
			if s.ToBackend.Bytes < last.ToBackend.Bytes || s.ToClient.Messages < last.ToClient.Messages {
				t.Errorf("Stats() = %+v after %+v: counters went down", s, last)
				return
			}
			last = s
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for range clients {
		visiting.Go(func() { // ends after all visits
			for range visits {
				visit(t, front, messages)
			}
		})
	}
	visiting.Wait()
	close(stop)
	watching.Wait()
	if err := p.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown() = %v; want nil", err)
	}
	const total = clients * visits * messages
	if s := p.Stats(); s.ToBackend.Messages != total || s.ToClient.Messages != total || s.Tunnels != 0 {
		t.Errorf("Stats() = %+v in the end; want %d messages each way and no tunnel", s, total)
	}
}

// visit sends messages through a tunnel, reads their echoes and closes the tunnel.
func visit(t *testing.T, front *httptest.Server, messages int) {
	c := dialUpgrade(t, front)
	defer c.Close()
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Errorf("client got %v, %v; want a 101", resp, err)
		return
	}
	echo := make([]byte, 4)
	for range messages {
		c.Write([]byte{0x81, 0x82, 0, 0, 0, 0, 'h', 'i'})
		if _, err := io.ReadFull(br, echo); err != nil {
			t.Errorf("client read an echo: %v", err)
			return
		}
	}
	c.Write([]byte{0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8})
	io.Copy(io.Discard, br)
}
