package wsproxy_test

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// secretRequest carries a secret wherever one travels.
var secretRequest = upgradeTo("/chat?token=secret1", "Cookie: session=secret2", "Authorization: Bearer secret3",
	"Sec-WebSocket-Protocol: v1, secret4", "X-Api-Key: secret5", "Proxy-Authorization: Basic secret6")

func wantNoSecret(t *testing.T, book *logBook) {
	t.Helper()
	lines := book.lines()
	if len(lines) == 0 {
		t.Error("log is empty; want what happened")
	}
	for _, line := range lines {
		if strings.Contains(line, "secret") || strings.Contains(line, "token=") || strings.Contains(line, sampleKey) {
			t.Errorf("log has the line %q", line)
		}
	}
}

func TestNothingSecretIsLoggedOverATunnelsLife(t *testing.T) {
	var book logBook
	network := newFakeNet() // where nobody is at a
	network.set("b", fakeBackend{answer: switchingWith("Set-Cookie: id=secret7", "Sec-WebSocket-Protocol: secret4")})
	p, s := start(t, book.option(), wsproxy.WithBackends("http://a", "http://b"), firstOf, wsproxy.WithDialer(network.dial))
	client, _ := open(t, s.URL, secretRequest)
	client.Send(wstest.Text("secret8"), wstest.Ping("secret9"))
	client.Want(wstest.Text("secret8"), wstest.Ping("secret9"))
	client.Send(wstest.Close(4000, "secret10"))
	client.WantClose(4000)
	client.Close()
	s.wait()
	p.Close()
	wantNoSecret(t, &book)

	opened, closed := book.lines("tunnel opened"), book.lines("tunnel closed")
	if len(opened) != 1 || len(closed) != 1 {
		t.Fatalf("log has %q and %q; want a line each", opened, closed)
	}
	id := regexp.MustCompile(`tunnel=\d+`)
	if a, b := id.FindString(opened[0]), id.FindString(closed[0]); a == "" || a != b {
		t.Errorf("tunnel opened as %q and closed as %q; want the same", a, b)
	}
	for _, want := range []string{"backend=http://b", "side=client", "cause=closed", "code=4000", "to_backend_messages=1", "to_client_messages=1"} {
		if !strings.Contains(closed[0], want) {
			t.Errorf("log has %q; want %s in it", closed[0], want)
		}
	}
}

func TestNothingSecretIsLoggedOfWhatFails(t *testing.T) {
	for _, tt := range []struct {
		name, request string
		answer        string
		opts          []wsproxy.Option
	}{
		{name: "check", request: strings.Replace(secretRequest, "Version: 13", "Version: 12", 1)},
		{name: "key", request: strings.Replace(secretRequest, sampleKey, "secret", 1)},
		{name: "malformed offer", request: strings.Replace(secretRequest, "v1, secret4", "secret4, secret4", 1)},
		{name: "origin", request: strings.Replace(secretRequest, "Cookie", "Origin: https://evil.example\r\nCookie", 1),
			opts: []wsproxy.Option{wsproxy.WithOriginPatterns()}},
		{name: "dial", request: secretRequest},
		{name: "no HTTP", request: secretRequest, answer: "nonsense\r\n\r\n"},
		{name: "bad line", request: secretRequest, answer: raw("HTTP/1.1 200 OK", "Set-Cookie session=secret")},
		{name: "line that begins with a space", request: secretRequest, answer: raw("HTTP/1.1 200 OK", " Set-Cookie: session=secret")},
		{name: "line without a name", request: secretRequest, answer: raw("HTTP/1.1 200 OK", ": session=secret")},
		{name: "wrong Accept", request: secretRequest, answer: strings.Replace(switching, "{accept}", "x", 1)},
		{name: "subprotocol", request: secretRequest, answer: switchingWith("Sec-WebSocket-Protocol: secret11")},
		{name: "refusal", request: secretRequest, answer: refusing(403, "secret", "Set-Cookie: id=secret")},
		{name: "busy", request: secretRequest, answer: refusing(503, "secret", "Set-Cookie: id=secret")},
		{name: "field that cannot be written", request: secretRequest, answer: switching,
			opts: []wsproxy.Option{wsproxy.WithResponse(func(r *wsproxy.ProxyResponse) error {
				r.Header.Set("X-A", "secret\n")
				return nil
			})}},
		{name: "request that cannot be written", request: secretRequest, answer: switching,
			opts: []wsproxy.Option{wsproxy.WithRewrite(func(r *wsproxy.ProxyRequest) error {
				r.Out.Header.Set("X-A", "secret\n")
				return nil
			})}},
		{name: "panic", request: secretRequest, answer: switching,
			opts: []wsproxy.Option{wsproxy.WithRewrite(func(r *wsproxy.ProxyRequest) error {
				panic(fmt.Errorf("boom: %w", errors.New("no header in here")))
			})}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var book logBook
			network := newFakeNet()
			if tt.answer != "" {
				network.set("a", fakeBackend{answer: tt.answer})
				network.set("b", fakeBackend{answer: tt.answer})
			}
			opts := append([]wsproxy.Option{book.option(), wsproxy.WithBackends("http://a", "http://b"), wsproxy.WithDialer(network.dial),
				wsproxy.WithTrace(&wsproxy.Trace{Attempted: func(i wsproxy.AttemptInfo) { book.Write(fmt.Appendln(nil, "attempt", i.Err)) }})}, tt.opts...)
			_, s := start(t, opts...)
			resp, _ := exchange(t, s.URL, tt.request)
			if resp.StatusCode == http.StatusSwitchingProtocols {
				t.Fatal("client got a tunnel; want a refusal")
			}
			s.wait()
			book.Write([]byte("end\n"))
			wantNoSecret(t, &book)
		})
	}
}

func TestFaultsOfTheProgramAreLoggedAtErrorAndTunnelsAtDebug(t *testing.T) {
	var book logBook
	_, s := start(t, book.option(), wsproxy.WithBackends(wstest.StartEcho(t)))
	client, _ := open(t, s.URL, upgradeTo("/chat"))
	hangUp(t, client)
	exchange(t, s.URL, raw("GET / HTTP/1.1", "Host: a"))
	s.wait()
	if n := len(book.lines()); n == 0 || n != len(book.lines("level=DEBUG")) {
		t.Errorf("log has %q; want Debug lines only", book.lines())
	}
}

func TestEachRequestThatGetsNoTunnelHasALineAtDebug(t *testing.T) {
	for _, tt := range []struct {
		name, request string
		a             fakeBackend
		want          []string
	}{
		{"no upgrade", raw("GET / HTTP/1.1", "Host: x"), fakeBackend{}, []string{"upgrade refused\"", "426"}},
		{"backend that answers otherwise", upgradeTo("/chat"), fakeBackend{answer: refusing(403, "no")},
			[]string{"upgrade refused by the backend", "backend=http://a", "path=/chat", "status=403"}},
		{"backend out of reach", upgradeTo("/chat"), fakeBackend{dialErr: errors.New("connection refused")},
			[]string{"upgrade failed", "path=/chat", "http://a", "connection refused"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var book logBook
			network := newFakeNet()
			network.set("a", tt.a)
			_, s := start(t, book.option(), wsproxy.WithBackends("http://a"), wsproxy.WithDialer(network.dial))
			exchange(t, s.URL, tt.request)
			s.wait()
			if lines := book.lines("level=DEBUG"); len(lines) != 1 || len(book.lines(tt.want...)) != 1 {
				t.Errorf("log has %q at Debug; want a line that has %q", lines, tt.want)
			}
		})
	}
}

func TestBackendThatBeginsToFailIsLoggedOnceAtWarn(t *testing.T) {
	for _, tt := range []struct {
		name   string
		a      fakeBackend
		reason string
	}{
		{"dial", fakeBackend{dialErr: errors.New("connection refused")}, "connection refused"},
		{"answer", fakeBackend{answer: refusing(503, "busy")}, "Service Unavailable"},
	} {
		for _, backends := range [][]string{{"http://a"}, {"http://a", "http://b"}} {
			t.Run(fmt.Sprintf("%s with %d backends", tt.name, len(backends)), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var book logBook
					_, s, network := startInMemory(t, book.option(), wsproxy.WithBackends(backends...))
					network.set("a", tt.a)
					network.set("b", fakeBackend{answer: switching})
					wantLines := func(want int) {
						t.Helper()
						for range 10 {
							tryOnce(t, s)
						}
						lines := book.lines("level=WARN")
						if len(lines) != want || len(book.lines("level=WARN", "backend=http://a", tt.reason)) != want {
							t.Errorf("log has %q at Warn; want %d lines that name the backend and %q", lines, want, tt.reason)
						}
					}
					wantLines(1)
					time.Sleep(time.Second) // it is tried again
					wantLines(2)
				})
			})
		}
	}
}
