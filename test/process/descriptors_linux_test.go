//go:build linux

package process_test

import (
	"os"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestTunnelUsesTwoDescriptors(t *testing.T) {
	const tunnels = 50
	_, s := proxytest.Start(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	open := func() *wstest.Peer {
		c := wstest.Dial(t, s.URL)
		c.WriteRequest(proxytest.UpgradeTo("/"))
		proxytest.WantSwitch(t, c)
		proxytest.WantEcho(t, c)
		return c
	}
	first := open() // with it comes the event loop, which has descriptors of its own
	clients := make([]*wstest.Peer, tunnels)
	before := numDescriptors(t)
	for i := range clients {
		clients[i] = open()
	}
	// The client's and the backend's own are in this process too. The loop can have
	// relayed an echo before the descriptors are closed that its own duplicate.
	if !proxytest.Becomes(func() bool { return numDescriptors(t)-before == 2*tunnels+2*tunnels }) {
		t.Errorf("%d tunnels take %d descriptors; want %d", tunnels, numDescriptors(t)-before-2*tunnels, 2*tunnels)
	}
	for _, c := range append(clients, first) {
		proxytest.HangUp(t, c)
	}
	s.Wait()
}

func numDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
