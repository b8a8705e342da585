package security_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

var withHTTP = wsproxy.WithHTTP(true)

// askPlain sends request through a proxy of plain HTTP. It returns the client's status and what
// the backend got. The backend responds when that ends with end; if end is empty, never.
func askPlain(t *testing.T, request, end string, opts ...wsproxy.Option) (status int, received string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	all := make(chan string)
	go func() { // ends when the listener, or the connection, is closed
		var got []byte
		defer func() { all <- string(got) }()
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 4096)
		for {
			n, err := c.Read(buf)
			if got = append(got, buf[:n]...); err != nil {
				return
			}
			if end != "" && strings.HasSuffix(string(got), end) {
				io.WriteString(c, proxytest.Refusing(200, "", "Connection: close"))
			}
		}
	}()
	_, s := proxytest.Start(t, append([]wsproxy.Option{wsproxy.WithBackends("http://" + ln.Addr().String()), withHTTP}, opts...)...)
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(request)
	status = client.ReadResponse().StatusCode
	client.Close()
	s.Wait()
	ln.Close()
	return status, <-all
}

// What a request smuggles in its body or behind it never is a request of its own at the backend.
func TestPlainRequestSmugglesNone(t *testing.T) {
	const secret = "GET /secret HTTP/1.1\r\nHost: a\r\n\r\n"
	chunked := func(lines ...string) string {
		return proxytest.Head(append([]string{"POST /a HTTP/1.1", "Host: a"}, lines...)...)
	}
	for _, tt := range []struct {
		name, request string
		status        int
		want          string // the end of what the backend gets; "" if it gets nothing
	}{
		{"CL and TE", chunked("Content-Length: 5", "Transfer-Encoding: chunked") + "0\r\n\r\n", 200, "\r\n\r\n0\r\n\r\n"},
		{"CL twice", chunked("Content-Length: 5", "Content-Length: 6") + "hello", 400, ""},
		{"CL with a sign", chunked("Content-Length: +5") + "hello", 400, ""},
		{"TE twice", chunked("Transfer-Encoding: chunked", "Transfer-Encoding: chunked") + "0\r\n\r\n", 501, ""},
		{"TE of another kind", chunked("Transfer-Encoding: gzip, chunked") + "0\r\n\r\n", 501, ""},
		{"TE with a control byte", chunked("Transfer-Encoding: \vchunked") + "0\r\n\r\n", 400, ""},
		{"TE with a space before the colon", chunked("Transfer-Encoding : chunked") + "0\r\n\r\n", 400, ""},
		{"folded TE", chunked("Transfer-Encoding:\r\n chunked") + "0\r\n\r\n", 200, "\r\n\r\n0\r\n\r\n"},
		{"folded field", chunked("X-A: b\r\n Transfer-Encoding: chunked", "Content-Length: 2") + "hi", 200, "\r\n\r\nhi"},
		{"chunk extension", chunked("Transfer-Encoding: chunked") + "2;a=\"\n\"\r\nhi\r\n0\r\n\r\n", 400, ""},
		{"chunk extension that is sound", chunked("Transfer-Encoding: chunked") + "2;a=b\r\nhi\r\n0\r\n\r\n", 200, "\r\n\r\n2\r\nhi\r\n0\r\n\r\n"},
		{"chunk that ends with LF", chunked("Transfer-Encoding: chunked") + "2\nhi\n0\n\n", 400, ""},
		{"a request as the body", chunked("Content-Length: 35") + secret + "xx", 200, "\r\n\r\n" + secret + "xx"},
		{"Upgrade with a body", proxytest.Head("POST /a HTTP/1.1", "Host: a", "Upgrade: websocket", "Connection: Upgrade", "Content-Length: 2") + "hi", 200, "\r\n\r\nhi"},
		{"Upgrade over HTTP/1.0", proxytest.Head("GET /a HTTP/1.0", "Host: a", "Upgrade: websocket", "Connection: Upgrade") + secret, 200, "\r\n\r\n"},
		{"h2c", proxytest.Head("GET /a HTTP/1.1", "Host: a", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__", "Connection: Upgrade, HTTP2-Settings"), 200, "\r\n\r\n"},
		{"websocket and h2c", proxytest.Head("GET /a HTTP/1.1", "Host: a", "Upgrade: websocket, h2c", "Connection: Upgrade", "Sec-WebSocket-Key: "+proxytest.SampleKey), 200, "\r\n\r\n"},
		{"CONNECT", proxytest.Head("CONNECT b:80 HTTP/1.1", "Host: b:80"), 405, ""},
		{"TRACE", proxytest.Head("TRACE /a HTTP/1.1", "Host: a"), 405, ""},
		{"upgrade that breaks RFC 6455", proxytest.Head("GET /a HTTP/1.1", "Host: a", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 8"), 426, ""},
		{"upgrade with a body", proxytest.UpgradeTo("/a", "Content-Length: 5") + "hello", 400, ""},
		{"Host twice", proxytest.Head("GET /a HTTP/1.1", "Host: a", "Host: b"), 400, ""},
		{"no Host", proxytest.Head("GET /a HTTP/1.1"), 400, ""},
		{"no Host over HTTP/1.0", proxytest.Head("GET /a HTTP/1.0"), 400, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, received := askPlain(t, tt.request, tt.want)
			if status != tt.status {
				t.Errorf("client got %d; want %d", status, tt.status)
			}
			if tt.want == "" {
				// The head may have been sent before the body turned out to be malformed. Then the
				// request has no end.
				if _, body, ok := strings.Cut(received, "\r\n\r\n"); ok && (body != "" || !strings.Contains(received, "Transfer-Encoding: chunked\r\n")) {
					t.Errorf("backend got %q; want no request", received)
				}
				return
			}
			head, body, _ := strings.Cut(received, "\r\n\r\n")
			if "\r\n\r\n"+body != tt.want {
				t.Errorf("backend got %q; want %q at its end", received, tt.want)
			}
			for _, name := range []string{"Upgrade", "HTTP2-Settings", "Connection", "Sec-WebSocket-Key"} {
				if strings.Contains(strings.ToLower(head), "\r\n"+strings.ToLower(name)+":") {
					t.Errorf("backend got %s in %q", name, head)
				}
			}
			if strings.Contains(strings.ToLower(head), "\r\ntransfer-encoding:") && strings.Contains(strings.ToLower(head), "\r\ncontent-length") {
				t.Errorf("backend got two lengths in %q", head)
			}
		})
	}
}

func TestPlainRequestCannotForgeOrRemoveFields(t *testing.T) {
	status, received := askPlain(t, proxytest.Head("GET /a HTTP/1.1", "Host: a",
		"X-Forwarded-For: 192.0.2.9", "X_Forwarded_For: 192.0.2.9", "Forwarded: for=192.0.2.9", "X-Real-IP: 192.0.2.9", "X-Request-Id: forged",
		"Connection: close, X-User, X-Forwarded-For, X-Forwarded-Proto, Cookie", "X-User: mallory", "Cookie: a=b"), "\r\n\r\n",
		wsproxy.WithRewrite(func(r *wsproxy.ProxyRequest) error { r.Out.Header.Set("X-User", "ann"); return nil }))
	lower := strings.ToLower(received)
	if status != 200 || strings.Contains(received, "192.0.2.9") || strings.Contains(received, "forged") || strings.Contains(received, "mallory") ||
		strings.Contains(lower, "cookie") || !strings.Contains(received, "X-Forwarded-For: 127.0.0.1\r\n") || !strings.Contains(received, "X-User: ann\r\n") ||
		!strings.Contains(received, "X-Forwarded-Proto: http\r\n") {
		t.Errorf("client got %d, backend %q", status, received)
	}
}

func TestPlainRequestTargetKeepsToItsBackend(t *testing.T) {
	for target, want := range map[string]string{
		"http://evil.example/x?y": "/x?y", "//evil.example/x": "//evil.example/x", "/a%2F..%2Fb?c=%2F": "/a%2F..%2Fb?c=%2F",
		"http://evil.example": "/", "/a#b": "/a%23b", "/?b=2&a=1&bad=%zz;": "/?b=2&a=1",
	} {
		status, received := askPlain(t, proxytest.Head("GET "+target+" HTTP/1.1", "Host: a"), "\r\n\r\n")
		line, _, _ := strings.Cut(received, "\r\n")
		if status != 200 || line != "GET "+want+" HTTP/1.1" {
			t.Errorf("%s: client got %d, backend %q; want %q", target, status, line, want)
		}
	}
	for _, target := range []string{"*", "foo:bar"} {
		if status, received := askPlain(t, proxytest.Head("GET "+target+" HTTP/1.1", "Host: a"), "\r\n\r\n"); status != http.StatusBadRequest || received != "" {
			t.Errorf("%s: client got %d, backend %q; want 400 and nothing", target, status, received)
		}
	}
}
