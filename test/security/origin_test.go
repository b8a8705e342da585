package security_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestOriginIsCheckedBeforeDial(t *testing.T) {
	patterns := []string{"example.com", "*.trusted.example", "https://only.example", "*.port.example:8443", "APP.example"}
	for _, tt := range []struct {
		name    string
		origins []string
		isOK    bool
	}{
		{"absent", nil, true},
		{"own host", []string{"http://chat.example"}, true},
		{"own host over TLS", []string{"https://chat.example"}, true},
		{"own host in upper case", []string{"HTTP://CHAT.EXAMPLE"}, true},
		{"pattern", []string{"https://example.com"}, true},
		{"pattern over http", []string{"http://example.com"}, true},
		{"pattern in upper case", []string{"https://EXAMPLE.COM"}, true},
		{"pattern configured in upper case", []string{"https://app.example"}, true},
		{"subdomain of a wildcard", []string{"https://a.trusted.example"}, true},
		{"two levels below a wildcard", []string{"https://b.a.trusted.example"}, true}, // path.Match stops at slashes only
		{"scheme pattern", []string{"https://only.example"}, true},
		{"port in the pattern", []string{"https://a.port.example:8443"}, true},

		{"foreign", []string{"https://evil.example"}, false},
		{"null", []string{"null"}, false},
		{"empty", []string{""}, true}, // as coder/websocket: no browser sends it
		{"suffix trick", []string{"https://evil-example.com"}, false},
		{"suffix trick on a wildcard", []string{"https://eviltrusted.example"}, false},
		{"prefix trick", []string{"https://example.com.evil.example"}, false},
		{"prefix trick on the own host", []string{"http://chat.example.evil.example"}, false},
		{"own host with a port", []string{"http://chat.example:8080"}, false},
		{"pattern with a port", []string{"https://example.com:8443"}, false},
		{"other port", []string{"https://a.port.example:8444"}, false},
		{"port missing", []string{"https://a.port.example"}, false},
		{"subdomain of what has no wildcard", []string{"https://a.example.com"}, false},
		{"wildcard's own domain", []string{"https://trusted.example"}, false},
		{"other scheme", []string{"http://only.example"}, false},
		{"user information", []string{"https://example.com@evil.example"}, false},
		{"no scheme", []string{"example.com"}, false},
		{"no scheme, own host", []string{"chat.example"}, false},
		{"garbage", []string{"%%%"}, false},
		{"file", []string{"file://"}, false},
		{"path", []string{"https://evil.example/example.com"}, false},
		{"query", []string{"https://evil.example?example.com"}, false},
		{"fragment", []string{"https://evil.example#.trusted.example"}, false},
		{"list", []string{"https://example.com https://evil.example"}, false},
		{"two lines, good first", []string{"https://example.com", "https://evil.example"}, false},
		{"two lines, good last", []string{"https://evil.example", "https://example.com"}, false},
		{"two good lines", []string{"https://example.com", "https://example.com"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, proxytest.Switching)
			picks, rewrites := 0, 0
			_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), wsproxy.WithOriginPatterns(patterns...),
				wsproxy.WithRewrite(func(*wsproxy.ProxyRequest) error { rewrites++; return nil }),
				wsproxy.WithTrace(&wsproxy.Trace{Picked: func(wsproxy.PickedInfo) { picks++ }}))
			var lines []string
			for _, origin := range tt.origins {
				lines = append(lines, "Origin: "+origin)
			}
			request := proxytest.UpgradeTo("/chat", append(lines, "Cookie: session=1")...)
			if tt.isOK {
				proxytest.Open(t, s.URL, request)
				return
			}
			resp, body := proxytest.Exchange(t, s.URL, request+secondRequest)
			proxytest.WantStatus(t, resp, http.StatusForbidden)
			if !strings.HasPrefix(body, "Origin was ") {
				t.Errorf("client got body %q; want it to name Origin", body)
			}
			proxytest.WantUntouched(t, backend)
			if picks+rewrites != 0 {
				t.Errorf("%d picks, %d rewrites; want none before the guard", picks, rewrites)
			}
		})
	}
}

func TestOriginMustBeHostWithoutPatterns(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.Switching)
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), wsproxy.WithOriginPatterns())
	proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat", "Origin: https://chat.example"))
	proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat", "Origin: https://example.com"))
	proxytest.WantStatus(t, resp, http.StatusForbidden)
}

// Nobody forges the host that Origin is compared with.
func TestOriginIsComparedWithForwardedHostOfTrustedProxyOnly(t *testing.T) {
	for _, tt := range []struct {
		name, forwarded string
		trusted         []string
		status          int
	}{
		{"of a trusted proxy", "a.example", []string{"127.0.0.1"}, http.StatusSwitchingProtocols},
		{"of two proxies", "a.example, b.example", []string{"127.0.0.1"}, http.StatusForbidden},
		{"of another peer", "a.example", nil, http.StatusForbidden},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, proxytest.Switching)
			_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), wsproxy.WithOriginPatterns(), wsproxy.WithTrustedProxies(tt.trusted...))
			request := proxytest.UpgradeTo("/chat", "Origin: https://a.example", "X-Forwarded-Host: "+tt.forwarded)
			if tt.status == http.StatusSwitchingProtocols {
				proxytest.Open(t, s.URL, request)
				return
			}
			resp, _ := proxytest.Exchange(t, s.URL, request)
			proxytest.WantStatus(t, resp, tt.status)
			proxytest.WantUntouched(t, backend)
		})
	}
}

func TestOriginPassesByDefault(t *testing.T) {
	req := proxytest.RequestAtBackend(t, proxytest.UpgradeTo("/chat", "Origin: https://evil.example"))
	proxytest.WantField(t, req.Header, "Origin", "https://evil.example")
	if req.Host != "chat.example" {
		t.Errorf("backend got Host %q; want the client's", req.Host)
	}
}
