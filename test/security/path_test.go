package security_test

import (
	"net/http"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestPathIsAppendedToPrefix(t *testing.T) {
	for _, tt := range []struct{ prefix, target, want string }{
		{"", "/chat", "/chat"},
		{"", "/", "/"},
		{"", "//evil.example/x", "//evil.example/x"},
		{"", "/a%2Fb/%2e%2e/c", "/a%2Fb/%2e%2e/c"},
		{"", "/../x", "/../x"},
		{"", "/a;b=c/d%20e", "/a;b=c/d%20e"},
		{"", "/%E4%BD%A0", "/%E4%BD%A0"},
		{"", "http://other.example/abs?x=1", "/abs?x=1"},
		{"/", "/chat", "/chat"},
		{"/base", "/chat", "/base/chat"},
		{"/base/", "/chat", "/base/chat"},
		{"/base", "/", "/base/"},
		{"/base", "/a%2Fb", "/base/a%2Fb"},
		{"/b%2Fase", "/chat", "/b%2Fase/chat"},
		{"/base", "//chat", "/base//chat"},
		{"/base", "/a..b/...", "/base/a..b/..."},
		{"/base", "/%252e%252e/x", "/base/%252e%252e/x"},
	} {
		backend := wstest.StartRaw(t, proxytest.Refusing(403, ""))
		_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()+tt.prefix))
		proxytest.Exchange(t, s.URL, proxytest.UpgradeTo(tt.target))
		if req, _, _ := proxytest.ReceivedHead(t, backend); req.RequestURI != tt.want {
			t.Errorf("prefix %q, target %q: backend was asked for %q; want %q", tt.prefix, tt.target, req.RequestURI, tt.want)
		}
	}
}

func TestPathWithDotSegmentsIsRefused(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.Switching)
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()+"/base"))
	for _, target := range []string{
		"/..", "/../admin", "/chat/../../admin", "/chat/..", "/./chat", "/%2e%2e/admin", "/.%2e/admin", "/%2E%2E/admin",
		"/..%2fadmin", "/chat%2f..%2f..%2fadmin", "/..%5cadmin", `/..\admin`, "/chat/..;/admin", "/%2e", "http://x/../y",
	} {
		resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo(target))
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: client got %d; want 400", target, resp.StatusCode)
		}
	}
	proxytest.WantUntouched(t, backend)
}
