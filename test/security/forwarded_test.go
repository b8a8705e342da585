package security_test

import (
	"net/http"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestTrustedProxyDecidesClientAddress(t *testing.T) {
	for _, tt := range []struct {
		name      string
		trusted   []string
		wantAddr  string
		wantFor   string
		wantProto string
	}{
		{"trusted", []string{"127.0.0.1"}, "203.0.113.7", "203.0.113.7, 127.0.0.1", "https"},
		{"not trusted", nil, "127.0.0.1", "127.0.0.1", "http"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartBackend(t)
			proxy, s := proxytest.Start(t,
				wsproxy.WithBackends(backend.URL()), wsproxy.WithTrustedProxies(tt.trusted...))
			outer := proxytest.Serve(t, outerProxy(t, s.URL))

			client := wstest.Dial(t, outer.URL)
			client.WriteRequest(proxytest.UpgradeTo("/chat"))
			leg := backend.Accepted(t)
			req := leg.AcceptUpgrade(nil)
			proxytest.WantSwitch(t, client)
			proxytest.WantField(t, req.Header, "X-Forwarded-For", tt.wantFor)
			proxytest.WantField(t, req.Header, "X-Forwarded-Proto", tt.wantProto)
			if got := proxytest.OnlyTunnel(t, proxy).Info().ClientAddr.String(); got != tt.wantAddr {
				t.Errorf("ClientAddr is %s; want %s", got, tt.wantAddr)
			}
			client.Send(wstest.Text("hello"))
			leg.Want(wstest.Text("hello"))
			client.Close()
			leg.WantEOF()
			leg.Close()
			outer.Wait()
		})
	}
}

// outerProxy returns a proxy that has ended TLS for a client on 203.0.113.7.
func outerProxy(t *testing.T, target string) http.Handler {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(u)
		r.Out.Header.Set("X-Forwarded-For", "203.0.113.7")
		r.Out.Header.Set("X-Forwarded-Proto", "https")
	}}
}
