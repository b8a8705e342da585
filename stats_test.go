package wsproxy_test

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
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

func TestStatsCountsTrafficOfEachDirection(t *testing.T) {
	p := proxytest.OpenPair(t)
	p.Client.Send(wstest.Text("12345"), wstest.Fragment(wstest.OpText, false, "1"), wstest.Ping("x"), wstest.Fragment(wstest.OpContinuation, true, "2"))
	p.Backend.Want(wstest.Text("12345"), wstest.Fragment(wstest.OpText, false, "1"), wstest.Ping("x"), wstest.Fragment(wstest.OpContinuation, true, "2"))
	p.Backend.Send(wstest.Binary(make([]byte, 300)))
	p.Client.Want(wstest.Binary(make([]byte, 300)))
	toBackend := wsproxy.Traffic{Bytes: 4*6 + 5 + 1 + 1 + 1, Messages: 2}
	toClient := wsproxy.Traffic{Bytes: 4 + 300, Messages: 1}
	if !proxytest.Becomes(func() bool {
		s := p.Proxy.Stats()
		return s.ToBackend == toBackend && s.ToClient == toClient && s.Tunnels == 1 && s.Opened == 1
	}) {
		t.Errorf("Stats() of the open tunnel = %+v; want %+v to the backend, %+v to the client", p.Proxy.Stats(), toBackend, toClient)
	}
	proxytest.OnlyTunnel(t, p.Proxy).Close(1000, "") // the proxy's own frames do not count
	p.Client.Close()
	p.Backend.Close()
	if e := p.End(t); e.ToBackend != toBackend || e.ToClient != toClient {
		t.Errorf("tunnel ended with %+v to the backend, %+v to the client; want %+v, %+v", e.ToBackend, e.ToClient, toBackend, toClient)
	}
	if s := p.Proxy.Stats(); s.ToBackend != toBackend || s.ToClient != toClient {
		t.Errorf("Stats() after the end = %+v; want %+v to the backend, %+v to the client", s, toBackend, toClient)
	}
}
