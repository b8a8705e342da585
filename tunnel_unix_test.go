//go:build unix

package wsproxy_test

import (
	"crypto/tls"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestTunnelWaitsForTLSBackendOutsideOfCryptoTLS(t *testing.T) {
	ca := newAuthority(t)
	config := &tls.Config{Certificates: []tls.Certificate{ca.issue(t, "backend.example")}}
	addr := startEchoTLS(t, config, make(chan *http.Request, 1))
	_, s := proxytest.Start(t,
		wsproxy.WithBackendConfigs(wsproxy.BackendConfig{URL: "wss://" + addr, ServerName: "backend.example"}),
		wsproxy.WithTLSConfig(&tls.Config{RootCAs: ca.pool}))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.UpgradeTo("/"))
	proxytest.WantSwitch(t, client)
	proxytest.WantEcho(t, client)
	for _, stack := range waitingFills(2) {
		if strings.Contains(stack, "crypto/tls.(*Conn).Read") {
			t.Errorf("a tunnel waits with a buffer inside of crypto/tls:\n%s", stack)
		}
	}
	proxytest.HangUp(t, client)
	s.Wait()
}

// waitingFills returns the stacks of n goroutines that wait for a tunnel's
// connection, once there are as many.
func waitingFills(n int) (stacks []string) {
	buf := make([]byte, 1<<20)
	for ; len(stacks) < n; runtime.Gosched() {
		stacks = nil
		for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(stack, "[IO wait") && strings.Contains(stack, "netconn.(*Conn).Fill") {
				stacks = append(stacks, stack)
			}
		}
	}
	return stacks
}
