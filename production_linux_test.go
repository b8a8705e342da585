package wsproxy_test

import (
	"os"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestTunnelTakesTwoDescriptors(t *testing.T) {
	const tunnels = 50
	_, s := start(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	clients := make([]*wstest.Peer, tunnels)
	before := numDescriptors(t)
	for i := range clients {
		clients[i] = wstest.Dial(t, s.URL)
		clients[i].WriteRequest(upgradeTo("/"))
		wantSwitch(t, clients[i])
		wantEcho(t, clients[i])
	}
	// The client's and the backend's own are in this process too.
	if got := numDescriptors(t) - before - 2*tunnels; got != 2*tunnels {
		t.Errorf("%d tunnels take %d descriptors; want %d", tunnels, got, 2*tunnels)
	}
	for _, c := range clients {
		hangUp(t, c)
	}
	s.wait()
}

func numDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
