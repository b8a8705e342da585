package handshake

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// The example of https://www.rfc-editor.org/rfc/rfc6455#section-1.3
func TestKeyAndAcceptMatchRFC(t *testing.T) {
	if got := Key([16]byte([]byte("the sample nonce"))); got != sampleKey {
		t.Errorf("Key = %q; want %q", got, sampleKey)
	}
	if got := string(appendAccept(nil, sampleKey)); got != sampleAccept {
		t.Errorf("appendAccept(%q) = %q; want %q", sampleKey, got, sampleAccept)
	}
}

// outRequest returns a request to the backend with any header lines, as a hook
// may set them.
func outRequest(target string, lines ...string) *http.Request {
	u, err := url.Parse(target)
	if err != nil {
		panic(err)
	}
	return &http.Request{Method: http.MethodGet, Host: "example.com", URL: u, Header: header(lines...)}
}

// ownLines are the lines that AppendRequest always writes.
const ownLines = "Host: example.com\nUpgrade: websocket\nConnection: Upgrade\n" +
	"Sec-WebSocket-Version: 13\nSec-WebSocket-Key: " + sampleKey + "\n"

var appendRequestTests = []struct {
	name string
	out  *http.Request
	want string
}{
	{"bare", outRequest("/chat"), "GET /chat HTTP/1.1\n" + ownLines},
	{"sorted", outRequest("/", "B: 2", "A: 1", "C: 3", "B: 1"), "GET / HTTP/1.1\n" + ownLines + "A: 1\nB: 2\nB: 1\nC: 3\n"},
	{"trimmed", outRequest("/", "A: \t1 2 \t", "B:"), "GET / HTTP/1.1\n" + ownLines + "A: 1 2\nB: \n"},
	{"escaped-path-and-query", outRequest("/a%2fb%20?c=%20"), "GET /a%2fb%20?c=%20 HTTP/1.1\n" + ownLines},
	{"empty-query", outRequest("/?"), "GET /? HTTP/1.1\n" + ownLines},
	{"path-and-query-only", outRequest("http://user@other:80/a?b#c"), "GET /a?b HTTP/1.1\n" + ownLines},
	{"no-path", outRequest(""), "GET / HTTP/1.1\n" + ownLines},
	{"no-slash", outRequest("a"), "GET /a HTTP/1.1\n" + ownLines},
	{"doubled-slash", outRequest("http://h//evil/a"), "GET //evil/a HTTP/1.1\n" + ownLines},
	{"line-end-in-raw-path", &http.Request{Host: "example.com", URL: &url.URL{Path: "/a\r\nb", RawPath: "/a\r\nb"}}, "GET /a%0D%0Ab HTTP/1.1\n" + ownLines},
	{"raw-path-beside-path", &http.Request{Host: "example.com", URL: &url.URL{Path: "/a/b|", RawPath: "/a%2Fb|"}}, "GET /a%2Fb%7C HTTP/1.1\n" + ownLines},
	{"stale-raw-path", &http.Request{Host: "example.com", URL: &url.URL{Path: "/a b", RawPath: "/c%2Fd"}}, "GET /a%20b HTTP/1.1\n" + ownLines},
	{"line-end-in-path", &http.Request{Host: "example.com", URL: &url.URL{Path: "/a\r\nb c"}}, "GET /a%0D%0Ab%20c HTTP/1.1\n" + ownLines},
	{
		"what-is-not-the-hooks",
		outRequest("/", "Host: evil", "host: evil", "Connection: close, A", "connection: close", "Upgrade: h2c", "Content-Length: 5",
			"Transfer-Encoding: chunked", "Te: trailers", "HTTP2-Settings: a", "Expect: 100-continue", "Trailer: A",
			"Sec-WebSocket-Key: a", "sec-websocket-key: b", "Sec-Websocket-Version: 8", "Sec-WebSocket-Accept: c", "A: kept"),
		"GET / HTTP/1.1\n" + ownLines + "A: kept\n",
	},
	{
		"rfc-spelling",
		outRequest("/", "Sec-Websocket-Protocol: a", "Sec-WebSocket-Protocol: b", "sec-websocket-extensions: c", "SEC-WEBSOCKET-X: d", "odd-Case: e"),
		"GET / HTTP/1.1\n" + ownLines + "Sec-WebSocket-X: d\nSec-WebSocket-Protocol: b\nSec-WebSocket-Protocol: a\nodd-Case: e\nSec-WebSocket-Extensions: c\n",
	},
}

func TestAppendRequestWritesOneUpgradeRequest(t *testing.T) {
	for _, tt := range appendRequestTests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := AppendRequest([]byte("before"), tt.out, sampleKey)
			if err != nil {
				t.Fatal(err)
			}
			if want := "before" + wire(tt.want); string(got) != want {
				t.Errorf("request:\n got %q\nwant %q", got, want)
			}
		})
	}
}

func TestAppendRequestRefusesInvalidRequests(t *testing.T) {
	change := func(f func(*http.Request)) *http.Request {
		out := outRequest("/")
		f(out)
		return out
	}
	for _, tt := range []struct {
		name string
		out  *http.Request
		key  string
	}{
		{"name-with-line-end", outRequest("/", "A\r\nB: 1"), sampleKey},
		{"name-with-space", outRequest("/", "A B: 1"), sampleKey},
		{"empty-name", outRequest("/", ": 1"), sampleKey},
		{"name-of-a-trailer", change(func(r *http.Request) { r.Header["Trailer:A"] = []string{"1"} }), sampleKey},
		{"value-with-line-end", outRequest("/", "A: 1\r\nB: 2"), sampleKey},
		{"value-with-lf", outRequest("/", "A: 1\nB: 2"), sampleKey},
		{"value-with-cr", outRequest("/", "A: 1\rB: 2"), sampleKey},
		{"value-with-nul", outRequest("/", "A: \x00"), sampleKey},
		{"query-with-line-end", change(func(r *http.Request) { r.URL.RawQuery = "a\r\nb" }), sampleKey},
		{"query-with-space", change(func(r *http.Request) { r.URL.RawQuery = "a b" }), sampleKey},
		{"query-not-ascii", change(func(r *http.Request) { r.URL.RawQuery = "\u00e4" }), sampleKey},
		{"no-url", change(func(r *http.Request) { r.URL = nil }), sampleKey},
		{"opaque-url", change(func(r *http.Request) { r.URL.Opaque = "a" }), sampleKey},
		{"other-method", change(func(r *http.Request) { r.Method = "HEAD" }), sampleKey},
		{"no-host", change(func(r *http.Request) { r.Host = "" }), sampleKey},
		{"host-with-line-end", change(func(r *http.Request) { r.Host = "a\r\nb" }), sampleKey},
		{"host-with-space", change(func(r *http.Request) { r.Host = "a b" }), sampleKey},
		{"host-with-path", change(func(r *http.Request) { r.Host = "a/b" }), sampleKey},
		{"no-key", outRequest("/"), ""},
		{"key-with-line-end", outRequest("/"), "dGhlIHNhbXBsZSBub25\r\n=="},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := AppendRequest([]byte("before"), tt.out, tt.key)
			if err == nil || string(got) != "before" {
				t.Errorf("AppendRequest = %q, %v; want nothing appended and an error", got, err)
			}
		})
	}
}

// Values may be secrets, and errors are logged.
func TestAppendRequestErrorQuotesNoValue(t *testing.T) {
	_, err := AppendRequest(nil, outRequest("/", "Authorization: secret\n"), sampleKey)
	if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "Authorization") {
		t.Errorf("err = %v; want one that names the field and not its value", err)
	}
}

func TestRequestIsCompleteAtBackend(t *testing.T) {
	in := parseRequest(t, with(upgrade, "", "Cookie: a=b\nSec-WebSocket-Protocol: chat"))
	u, refusal := OutboundURL(in.URL, "/base")
	wantStatus(t, refusal, 0)
	out := &http.Request{Method: http.MethodGet, Host: in.Host, URL: u, Header: OutboundHeader(in, false)}
	b, err := AppendRequest(nil, out, sampleKey)
	if err != nil {
		t.Fatal(err)
	}
	want := "GET /base/chat HTTP/1.1\n" + ownLines + "Cookie: a=b\nSec-WebSocket-Protocol: chat\n" +
		"X-Forwarded-For: 192.0.2.1\nX-Forwarded-Host: example.com\nX-Forwarded-Proto: http\n"
	if string(b) != wire(want) {
		t.Errorf("request:\n got %q\nwant %q", b, wire(want))
	}
}

func BenchmarkAppendRequest(b *testing.B) {
	out := outRequest("/chat?a=b", "Cookie: a", "Origin: b", "User-Agent: c", "Sec-WebSocket-Extensions: permessage-deflate")
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := AppendRequest(buf, out, sampleKey); err != nil {
			b.Fatal(err)
		}
	}
}
