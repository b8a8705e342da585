package wsproxy_test

import (
	"testing"

	"github.com/wsproxy/wsproxy"
	_ "github.com/wsproxy/wsproxy/http2ws"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestHTTP2Tunnel(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	s := proxytest.ServeHTTP2(t, p)
	c := proxytest.NewHTTP2Client(t, s.URL)
	client, resp := c.Open(t, "/ws")
	t.Logf("%v %v", resp.Status, resp.Header)
	proxytest.WantEcho(t, client)
	proxytest.HangUp(t, client)
	s.Wait()
	proxytest.WantNoTunnels(t, p)
}
