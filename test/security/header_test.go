package security_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// forwarding fields as a client may make them up.
var forged = []string{
	"X-Forwarded-For: 192.0.2.66",
	"X-Forwarded-Host: evil.example",
	"X-Forwarded-Proto: https",
	"X-Forwarded-Port: 666",
	"X-Forwarded-Prefix: /evil",
	"X-Forwarded-Server: evil",
	"X-Forwarded-Ssl: on",
	"X-Forwarded: for=192.0.2.66",
	"X-ForwardedFor: 192.0.2.66",
	"Forwarded: for=192.0.2.66;host=evil.example",
	"X-Real-Ip: 192.0.2.66",
	"X_Forwarded_For: 192.0.2.66",
	"X-Forwarded_Proto: https",
	"X_Real_IP: 192.0.2.66",
	"x-forwarded-for: 192.0.2.67",
	"x-real-ip: 192.0.2.67",
}

// wantTrueForwarding checks that the backend was told about a client on
// 127.0.0.1 what is true, and nothing else.
func wantTrueForwarding(t *testing.T, h http.Header) {
	t.Helper()
	proxytest.WantField(t, h, "X-Forwarded-For", "127.0.0.1")
	proxytest.WantField(t, h, "X-Forwarded-Host", "chat.example")
	proxytest.WantField(t, h, "X-Forwarded-Proto", "http")
	for name := range h {
		plain := strings.ReplaceAll(strings.ToLower(name), "_", "-")
		if strings.HasPrefix(plain, "x-forwarded") || plain == "forwarded" || plain == "x-real-ip" {
			switch name {
			case "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto":
			default:
				t.Errorf("backend got %s: %q of the client's", name, h[name])
			}
		}
	}
}

func TestForwardingFieldsCannotBeForged(t *testing.T) {
	req := proxytest.RequestAtBackend(t, proxytest.UpgradeTo("/chat", forged...), wsproxy.WithTrustedProxies("192.0.2.0/24"))
	wantTrueForwarding(t, req.Header)
}

func TestConnectionRemovesNoFieldOfProxy(t *testing.T) {
	for _, connection := range []string{
		"Connection: X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto, X-Real-Ip",
		"connection: x-forwarded-for, x-forwarded-host, x-forwarded-proto",
		"Connection: X-FORWARDED-FOR,,X-FORWARDED-HOST , X-FORWARDED-PROTO",
		"Connection: Host, Upgrade, Connection, Sec-WebSocket-Key, Sec-WebSocket-Version",
	} {
		req := proxytest.RequestAtBackend(t, proxytest.UpgradeTo("/chat", append(forged, connection)...))
		wantTrueForwarding(t, req.Header)
		proxytest.WantField(t, req.Header, "Upgrade", "websocket")
		proxytest.WantField(t, req.Header, "Connection", "Upgrade")
		proxytest.WantField(t, req.Header, "Sec-Websocket-Version", "13")
		if req.Host != "chat.example" {
			t.Errorf("%s: backend got Host %q; want chat.example", connection, req.Host)
		}
	}
}

func TestConnectionFieldsAreFoundBehindEmptyLine(t *testing.T) {
	request := proxytest.Head("GET /chat HTTP/1.1", "Host: chat.example", "Connection:", "Connection: X-Forwarded-For, X-Internal",
		"X-Internal: 1", "X-Forwarded-For: 192.0.2.66", "Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: "+proxytest.SampleKey)
	req := proxytest.RequestAtBackend(t, request)
	wantTrueForwarding(t, req.Header)
	proxytest.WantField(t, req.Header, "X-Internal")
}

func TestConnectionFieldsOfRequestAreDropped(t *testing.T) {
	req := proxytest.RequestAtBackend(t, proxytest.UpgradeTo("/chat",
		"Connection: x-internal-auth", "X-Internal-Auth: admin", "Connection: keep-alive, X-Other", "X-Other: 1",
		"Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "Proxy-Authorization: Basic eA==", "TE: trailers",
		"Trailer: X-T", "Cookie: a=b", "Authorization: Bearer x"))
	for _, name := range []string{"X-Internal-Auth", "X-Other", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Te", "Trailer"} {
		proxytest.WantField(t, req.Header, name)
	}
	proxytest.WantField(t, req.Header, "Connection", "Upgrade")
	proxytest.WantField(t, req.Header, "Cookie", "a=b")
	proxytest.WantField(t, req.Header, "Authorization", "Bearer x")
}

func TestConnectionFieldsOfResponseAreDropped(t *testing.T) {
	t.Run("101", func(t *testing.T) {
		backend := wstest.StartRaw(t, strings.Replace(proxytest.SwitchingWith("X-Internal: 1", "Keep-Alive: timeout=5", "X-Public: 2",
			"Trailer: X-T"), "Connection: Upgrade", "Connection: Upgrade, x-internal", 1))
		_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
		_, resp := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
		proxytest.WantField(t, resp.Header, "X-Internal")
		proxytest.WantField(t, resp.Header, "Keep-Alive")
		proxytest.WantField(t, resp.Header, "Trailer")
		proxytest.WantField(t, resp.Header, "X-Public", "2")
	})
	t.Run("403", func(t *testing.T) {
		backend := wstest.StartRaw(t, proxytest.Refusing(403, "", "Connection: x-internal", "X-Internal: 1", "X-Public: 2"))
		_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
		resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
		proxytest.WantField(t, resp.Header, "X-Internal")
		proxytest.WantField(t, resp.Header, "X-Public", "2")
	})
}

// "By default, X-Forwarded-For is set to the value of the client IP address":
// httputil's way out of that, a nil entry, works in the Rewrite hook.
func TestRewriteMayRemoveXForwardedFor(t *testing.T) {
	for name, remove := range map[string]func(http.Header){
		"nil":    func(h http.Header) { h["X-Forwarded-For"] = nil },
		"delete": func(h http.Header) { h.Del("X-Forwarded-For") },
	} {
		t.Run(name, func(t *testing.T) {
			req := proxytest.RequestAtBackend(t, proxytest.UpgradeTo("/chat", "X-Forwarded-For: 192.0.2.66"),
				wsproxy.WithRewrite(func(r *wsproxy.ProxyRequest) error {
					remove(r.Out.Header)
					return nil
				}))
			proxytest.WantField(t, req.Header, "X-Forwarded-For")
			proxytest.WantField(t, req.Header, "X-Forwarded-Host", "chat.example")
		})
	}
}

// What auth finds out is told to the backend in the Rewrite hook.
func TestRewriteIdentityCannotBeForged(t *testing.T) {
	for _, tt := range []struct {
		name string
		user string // "" for nobody
		want []string
	}{
		{"known", "anna", []string{"anna"}},
		{"unknown", "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := proxytest.RequestAtBackend(t,
				proxytest.UpgradeTo("/chat", "X-User: root", "x-user: admin", "Connection: X-User", "Connection: x-user, X-Groups"),
				wsproxy.WithRewrite(func(r *wsproxy.ProxyRequest) error {
					r.Out.Header.Del("X-User")
					if tt.user != "" {
						r.Out.Header.Set("X-User", tt.user)
					}
					r.Out.Header.Set("X-Groups", "staff")
					return nil
				}))
			proxytest.WantField(t, req.Header, "X-User", tt.want...)
			proxytest.WantField(t, req.Header, "X-Groups", "staff")
		})
	}
}

func TestQueryIsSameForRewriteAndBackend(t *testing.T) {
	for _, tt := range []struct{ query, want string }{
		{"room=a&token=b", "room=a&token=b"},
		{"token=b&room=a&token=c", "token=b&room=a&token=c"},
		{"room=a%2Fb+c&x=%C3%A4", "room=a%2Fb+c&x=%C3%A4"},
		{"a=1;admin=1&b=2", "b=2"},
		{"a=%zz&b=2", "b=2"},
		{"b=2&a=%", "b=2"},
		{"", ""},
	} {
		var seen string
		req := proxytest.RequestAtBackend(t, proxytest.UpgradeTo("/chat?"+tt.query), wsproxy.WithRewrite(func(r *wsproxy.ProxyRequest) error {
			seen = r.Out.URL.RawQuery
			return nil
		}))
		if req.URL.RawQuery != tt.want || seen != tt.want {
			t.Errorf("%q: Rewrite saw %q, backend %q; want %q", tt.query, seen, req.URL.RawQuery, tt.want)
		}
	}
}

func TestClientAddressIsReadFromRight(t *testing.T) {
	for _, tt := range []struct {
		name    string
		trusted []string
		lines   []string
		client  string
		chain   string
	}{
		{"nobody trusted", nil,
			[]string{"X-Forwarded-For: 192.0.2.66"}, "127.0.0.1", "127.0.0.1"},
		{"peer trusted", []string{"127.0.0.1"},
			[]string{"X-Forwarded-For: 192.0.2.66"}, "192.0.2.66", "192.0.2.66, 127.0.0.1"},
		{"client's own word on the left", []string{"127.0.0.1", "10.0.0.0/8"},
			[]string{"X-Forwarded-For: 203.0.113.1, 192.0.2.66, 10.1.1.1"}, "192.0.2.66",
			"203.0.113.1, 192.0.2.66, 10.1.1.1, 127.0.0.1"},
		{"two lines", []string{"127.0.0.1", "10.0.0.0/8"},
			[]string{"X-Forwarded-For: 203.0.113.1", "X-Forwarded-For: 192.0.2.66, 10.1.1.1"}, "192.0.2.66",
			"203.0.113.1, 192.0.2.66, 10.1.1.1, 127.0.0.1"},
		{"X-Real-IP is no authority", []string{"127.0.0.1"},
			[]string{"X-Real-IP: 203.0.113.1", "True-Client-IP: 203.0.113.1"}, "127.0.0.1", "127.0.0.1"},
		{"garbage", []string{"127.0.0.1"},
			[]string{"X-Forwarded-For: 203.0.113.1, unknown"}, "127.0.0.1", "203.0.113.1, unknown, 127.0.0.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opened := make(chan wsproxy.TunnelInfo, 1)
			req := proxytest.RequestAtBackend(t, proxytest.UpgradeTo("/chat", tt.lines...), wsproxy.WithTrustedProxies(tt.trusted...),
				wsproxy.WithTrace(&wsproxy.Trace{Opened: func(i wsproxy.OpenedInfo) { opened <- i.Tunnel.Info() }}))
			if got := (<-opened).ClientAddr.String(); got != tt.client {
				t.Errorf("ClientAddr is %s; want %s", got, tt.client)
			}
			proxytest.WantField(t, req.Header, "X-Forwarded-For", tt.chain)
		})
	}
}

func TestTrustedProxyFieldsAreForwarded(t *testing.T) {
	req := proxytest.RequestAtBackend(t, proxytest.UpgradeTo("/chat", "X-Forwarded-Host: public.example", "X-Forwarded-Proto: https", "X-Real-IP: 192.0.2.66",
		"Forwarded: for=192.0.2.66", "X-Forwarded-Port: 443", "X_Forwarded_Proto: forged"), wsproxy.WithTrustedProxies("127.0.0.0/8"))
	proxytest.WantField(t, req.Header, "X-Forwarded-Host", "public.example")
	proxytest.WantField(t, req.Header, "X-Forwarded-Proto", "https")
	proxytest.WantField(t, req.Header, "X-Forwarded-Port", "443")
	proxytest.WantField(t, req.Header, "X-Real-Ip", "192.0.2.66")
	proxytest.WantField(t, req.Header, "Forwarded", "for=192.0.2.66")
	proxytest.WantField(t, req.Header, "X_Forwarded_Proto")
}
