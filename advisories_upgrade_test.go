package wsproxy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// What is tested here has been a security hole in some proxy: advisories.txt
// tells which.

const secondRequest = "GET /secret HTTP/1.1\r\nHost: chat.example\r\n\r\n"

func TestRefusedUpgradeLeavesNoWayToTheBackend(t *testing.T) {
	for _, status := range []int{400, 401, 403, 404, 426, 429, 500, 501, 502, 503, 504} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			backend := wstest.StartRaw(t, refusing(status, "no", "X-Reason: tired", "Keep-Alive: timeout=60"))
			p, s := start(t, wsproxy.WithBackends(backend.URL()))

			resp, body := exchange(t, s.URL, upgradeTo("/chat")+secondRequest)
			wantStatus(t, resp, status)
			if body != "no" {
				t.Errorf("client got body %q; want no", body)
			}
			if !resp.Close {
				t.Errorf("client got Connection %q; want close", resp.Header["Connection"])
			}
			wantField(t, resp.Header, "X-Reason", "tired")
			wantField(t, resp.Header, "Keep-Alive")
			_, _, rest := receivedHead(t, backend)
			if rest != "" {
				t.Errorf("backend received %q after the upgrade; want nothing", rest)
			}
			s.wait()
			wantNoTunnels(t, p)
		})
	}
}

func TestRedirectOfAnUpgradeIsPassedOnAndNotFollowed(t *testing.T) {
	for _, status := range []int{300, 301, 302, 303, 307, 308} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			elsewhere := wstest.StartRaw(t, switching)
			backend := wstest.StartRaw(t, refusing(status, "", "Location: "+elsewhere.URL()+"/chat"))
			_, s := start(t, wsproxy.WithBackends(backend.URL()))

			resp, _ := exchange(t, s.URL, upgradeTo("/chat")+secondRequest)
			wantStatus(t, resp, status)
			wantField(t, resp.Header, "Location", elsewhere.URL()+"/chat")
			if _, _, rest := receivedHead(t, backend); rest != "" {
				t.Errorf("backend received %q after the upgrade; want nothing", rest)
			}
			wantUntouched(t, elsewhere)
		})
	}
}

func TestSuccessOtherThan101OpensNoTunnel(t *testing.T) {
	handshake := []string{"Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: {accept}"}
	for _, tt := range []struct {
		name, answer string
		status       int
		body         string
	}{
		{"200 with a body", refusing(200, "ok", handshake...), 200, "ok"},
		{"200 without a body", refusing(200, "", handshake...), 200, ""},
		{"200 chunked", raw("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + "2\r\nok\r\n0\r\n\r\n", 200, "ok"},
		{"201", refusing(201, "", handshake...), 201, ""},
		{"204", raw(append([]string{"HTTP/1.1 204 No Content"}, handshake...)...), 204, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, tt.answer)
			_, s := start(t, wsproxy.WithBackends(backend.URL()))

			resp, body := exchange(t, s.URL, upgradeTo("/chat")+secondRequest)
			wantStatus(t, resp, tt.status)
			if body != tt.body {
				t.Errorf("client got body %q; want %q", body, tt.body)
			}
			wantField(t, resp.Header, "Upgrade")
			if _, _, rest := receivedHead(t, backend); rest != "" {
				t.Errorf("backend received %q after the upgrade; want nothing", rest)
			}
		})
	}
}

func TestEarlyClientBytesReachNoBackendThatRefuses(t *testing.T) {
	early := string(wstest.AppendFrame(nil, wstest.Text("early"), &[4]byte{1, 2, 3, 4}))
	for _, tt := range []struct {
		name, answer string
		status       int
	}{
		{"refusal", refusing(403, ""), 403},
		{"wrong 101", raw("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"), 502},
		{"interim answer only", raw("HTTP/1.1 103 Early Hints") + refusing(401, ""), 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, tt.answer)
			_, s := start(t, wsproxy.WithBackends(backend.URL()))
			resp, _ := exchange(t, s.URL, upgradeTo("/chat")+early)
			wantStatus(t, resp, tt.status)
			if _, _, rest := receivedHead(t, backend); rest != "" {
				t.Errorf("backend received %q after the upgrade; want nothing", rest)
			}
		})
	}
}

func TestEarlyClientBytesWaitForThe101(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := newBackendInMemory(t)
		s := serveInMemory(t, newProxy(t, wsproxy.WithBackends("http://a"), backend.option()))
		client := s.dial(t)
		early := wstest.AppendFrame(nil, wstest.Text("early"), &[4]byte{1, 2, 3, 4})
		client.SendRaw(append([]byte(upgradeTo("/chat")), early...))

		leg := backend.accept(t)
		req := leg.ReadRequest()
		got := make(chan string, 1)
		go func() {
			f, err := leg.ReadFrame()
			got <- fmt.Sprint(f, err)
		}()
		synctest.Wait() // whatever the proxy could do it has done
		leg.SendRaw([]byte(raw("HTTP/1.1 103 Early Hints")))
		synctest.Wait()
		select {
		case f := <-got:
			t.Errorf("backend received %v before its 101; want nothing", f)
		default:
		}
		leg.SendRaw([]byte(wstest.UpgradeAnswer(req.Header.Get("Sec-WebSocket-Key"), nil)))
		wantSwitch(t, client)
		masked := wstest.Text("early")
		masked.Masked = true
		if f, want := <-got, fmt.Sprint(masked, nil); f != want {
			t.Errorf("backend received %v after its 101; want %v", f, want)
		}
	})
}

func TestOnlyWebSocketIsForwarded(t *testing.T) {
	for _, tt := range []struct{ name, upgrade string }{
		{"foo", "Upgrade: foo"},
		{"h2c", "Upgrade: h2c"},
		{"h2c first", "Upgrade: h2c, websocket"},
		{"h2c last", "Upgrade: websocket, h2c"},
		{"h2c on a line of its own", "Upgrade: websocket\r\nUpgrade: h2c"},
		{"h2c on the first line", "Upgrade: h2c\r\nUpgrade: websocket"},
		{"TLS", "Upgrade: TLS/1.0, HTTP/1.1"},
		{"websocket twice", "Upgrade: websocket, websocket"},
		{"websocket with a version", "Upgrade: websocket/13"},
		{"no token at all", "Upgrade:"},
		{"Kelvin sign", "Upgrade: websoc\u212aet"},
	} {
		request := raw("GET /chat HTTP/1.1", "Host: chat.example", tt.upgrade,
			"Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
			"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: "+sampleKey)
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, switching)
			_, s := start(t, wsproxy.WithBackends(backend.URL()))
			resp, body := exchange(t, s.URL, request+secondRequest)
			wantStatus(t, resp, http.StatusUpgradeRequired)
			wantField(t, resp.Header, "Upgrade", "websocket")
			if !strings.HasPrefix(body, "Upgrade was ") {
				t.Errorf("client got body %q; want it to name the field", body)
			}
			wantUntouched(t, backend)
		})
		t.Run(tt.name+" wrapped", func(t *testing.T) {
			backend := wstest.StartRaw(t, switching)
			p := newProxy(t, wsproxy.WithBackends(backend.URL()))
			seen := make(chan string, 2)
			s := serve(t, p.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r.URL.Path })))
			client := wstest.Dial(t, s.URL)
			client.WriteRequest(request + secondRequest)
			for _, path := range []string{"/chat", "/secret"} { // both are plain HTTP
				wantStatus(t, client.ReadResponse(), http.StatusOK)
				if got := <-seen; got != path {
					t.Errorf("next got %s; want %s", got, path)
				}
			}
			wantUntouched(t, backend)
		})
	}
}

func TestHTTP2SettingsGoNowhere(t *testing.T) {
	req := seenBy(t, upgradeTo("/chat", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"))
	wantField(t, req.Header, "HTTP2-Settings")
	wantField(t, req.Header, "Upgrade", "websocket")
	wantField(t, req.Header, "Connection", "Upgrade")
}

func TestCONNECTIsRefused(t *testing.T) {
	backend := wstest.StartRaw(t, switching)
	_, s := start(t, wsproxy.WithBackends(backend.URL()))
	for _, request := range []string{
		raw("CONNECT chat.example:443 HTTP/1.1", "Host: chat.example:443"),
		raw("CONNECT chat.example:443 HTTP/1.1", "Host: chat.example:443", "Upgrade: websocket", "Connection: Upgrade",
			"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: "+sampleKey),
	} {
		resp, _ := exchange(t, s.URL, request+secondRequest)
		wantStatus(t, resp, http.StatusMethodNotAllowed)
		wantField(t, resp.Header, "Allow", "GET")
	}
	wantUntouched(t, backend)
}

func TestUpgradeWithABodyIsRefused(t *testing.T) {
	for _, tt := range []struct{ name, request string }{
		{"Content-Length", upgradeTo("/chat", "Content-Length: 5") + "hello"},
		{"chunked", upgradeTo("/chat", "Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n"},
		{"chunked and empty", upgradeTo("/chat", "Transfer-Encoding: chunked") + "0\r\n\r\n"},
		{"both", upgradeTo("/chat", "Content-Length: 5", "Transfer-Encoding: chunked") + "0\r\n\r\n"},
		{"request as the body", upgradeTo("/chat", fmt.Sprint("Content-Length: ", len(secondRequest))) + secondRequest},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, switching)
			_, s := start(t, wsproxy.WithBackends(backend.URL()))
			resp, _ := exchange(t, s.URL, tt.request)
			wantStatus(t, resp, http.StatusBadRequest)
			wantUntouched(t, backend)
		})
	}
}

func TestContentLengthZeroIsNoBody(t *testing.T) {
	req := seenBy(t, upgradeTo("/chat", "Content-Length: 0"))
	wantField(t, req.Header, "Content-Length")
}

func TestVersionOtherThan13IsRefusedByTheProxy(t *testing.T) {
	for _, tt := range []struct{ name, lines string }{
		{"777", "Sec-WebSocket-Version: 777"},
		{"8", "Sec-WebSocket-Version: 8"},
		{"list", "Sec-WebSocket-Version: 13, 8"},
		{"two lines", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 13"},
		{"none", "X-None: 13"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, refusing(426, ""))
			_, s := start(t, wsproxy.WithBackends(backend.URL()))
			answer := exchangeRaw(t, s.URL, raw("GET /chat HTTP/1.1", "Host: chat.example", "Upgrade: websocket",
				"Connection: Upgrade", "Sec-WebSocket-Key: "+sampleKey, tt.lines)+secondRequest)
			for _, want := range []string{
				"HTTP/1.1 426 Upgrade Required\r\n", "\r\nSec-WebSocket-Version: 13\r\n", "\r\nUpgrade: websocket\r\n",
				"\r\nConnection: close\r\nConnection: Upgrade\r\n",
			} {
				if !strings.Contains(answer, want) {
					t.Errorf("client got %q; want %q in it", answer, want)
				}
			}
			if n := strings.Count(answer, "HTTP/1.1 "); n != 1 {
				t.Errorf("client got %d answers; want 1: %q", n, answer)
			}
			wantUntouched(t, backend)
		})
	}
}

func TestOnlyGETOpensAWebSocket(t *testing.T) {
	backend := wstest.StartRaw(t, switching)
	_, s := start(t, wsproxy.WithBackends(backend.URL()))
	for _, method := range []string{"POST", "PUT", "HEAD", "OPTIONS", "get", "PRI"} {
		request := strings.Replace(upgradeTo("/health?url=evil"), "GET", method, 1)
		answer := exchangeRaw(t, s.URL, request)
		if !strings.HasPrefix(answer, "HTTP/1.1 426 ") {
			t.Errorf("%s: client got %.80q; want 426", method, answer)
		}
	}
	old := strings.Replace(upgradeTo("/chat"), "HTTP/1.1", "HTTP/1.0", 1)
	if answer := exchangeRaw(t, s.URL, old); !strings.HasPrefix(answer, "HTTP/1.0 426 ") && !strings.HasPrefix(answer, "HTTP/1.1 426 ") {
		t.Errorf("HTTP/1.0: client got %.80q; want 426", answer)
	}
	wantUntouched(t, backend)
}

func TestKeyMustBeSixteenBytes(t *testing.T) {
	for _, tt := range []struct{ name, lines string }{
		{"none", "X-None: 1"},
		{"empty", "Sec-WebSocket-Key:"},
		{"short", "Sec-WebSocket-Key: dGhl"},
		{"long", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSBsb25n"},
		{"no base64", "Sec-WebSocket-Key: !GhlIHNhbXBsZSBub25jZQ=="},
		{"two", "Sec-WebSocket-Key: " + sampleKey + "\r\nSec-WebSocket-Key: " + sampleKey},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, switching)
			_, s := start(t, wsproxy.WithBackends(backend.URL()))
			resp, body := exchange(t, s.URL, raw("GET /chat HTTP/1.1", "Host: chat.example", "Upgrade: websocket",
				"Connection: Upgrade", "Sec-WebSocket-Version: 13", tt.lines))
			wantStatus(t, resp, http.StatusBadRequest)
			if !strings.HasPrefix(body, "Sec-WebSocket-Key was ") {
				t.Errorf("client got body %q; want it to name the field", body)
			}
			wantUntouched(t, backend)
		})
	}
}

func TestHostMustBePresent(t *testing.T) {
	backend := wstest.StartRaw(t, switching)
	_, s := start(t, wsproxy.WithBackends(backend.URL()))
	for _, host := range []string{"Host:", "X-Host: chat.example", "Host: chat.example\r\nHost: evil.example"} {
		resp, _ := exchange(t, s.URL, strings.Replace(upgradeTo("/chat"), "Host: chat.example", host, 1))
		wantStatus(t, resp, http.StatusBadRequest)
	}
	wantUntouched(t, backend)
}

func TestExpectIsRefused(t *testing.T) {
	backend := wstest.StartRaw(t, switching)
	_, s := start(t, wsproxy.WithBackends(backend.URL()))
	for _, expect := range []string{"100-continue", "100-Continue", "something"} {
		resp, _ := exchange(t, s.URL, upgradeTo("/chat", "Expect: "+expect))
		wantStatus(t, resp, http.StatusExpectationFailed)
	}
	wantUntouched(t, backend)
}

func TestAcceptMustAnswerTheProxysOwnKey(t *testing.T) {
	for _, tt := range []struct{ name, accept string }{
		{"none", "X-None: 1"},
		{"empty", "Sec-WebSocket-Accept:"},
		{"of another key", "Sec-WebSocket-Accept: " + wstest.Accept("AAAAAAAAAAAAAAAAAAAAAA==")},
		{"of the client's key", "Sec-WebSocket-Accept: " + sampleAccept},
		{"in lower case", "Sec-WebSocket-Accept: " + strings.ToLower(sampleAccept)},
		{"twice", "Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Accept: {accept}"},
		{"one right, one wrong", "Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Accept: " + sampleAccept},
	} {
		t.Run(tt.name, func(t *testing.T) {
			frame := string(wstest.AppendFrame(nil, wstest.Text("secret"), nil))
			backend := wstest.StartRaw(t, raw("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket",
				"Connection: Upgrade", tt.accept)+frame)
			p, s := start(t, wsproxy.WithBackends(backend.URL()))
			resp, body := exchange(t, s.URL, upgradeTo("/chat")+secondRequest)
			wantStatus(t, resp, http.StatusBadGateway)
			if strings.Contains(body, "secret") {
				t.Errorf("client got %q: bytes from behind a wrong 101", body)
			}
			if _, _, rest := receivedHead(t, backend); rest != "" {
				t.Errorf("backend received %q after the upgrade; want nothing", rest)
			}
			s.wait()
			wantNoTunnels(t, p)
		})
	}
}

func TestServeHTTPAndWrapApplyTheSameChecks(t *testing.T) {
	refused := &wsproxy.StatusError{Status: http.StatusUnauthorized, Err: io.EOF}
	for _, tt := range []struct {
		name, request string
		status        int
	}{
		{"origin", upgradeTo("/chat", "Origin: https://evil.example"), 403},
		{"version", strings.Replace(upgradeTo("/chat"), "13", "12", 1), 426},
		{"key", strings.Replace(upgradeTo("/chat"), sampleKey, "x", 1), 400},
		{"body", upgradeTo("/chat", "Content-Length: 1") + "x", 400},
		{"path", upgradeTo("/chat/../admin"), 400},
		{"Rewrite", upgradeTo("/chat"), 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, switching)
			p := newProxy(t, wsproxy.WithBackends(backend.URL()+"/base"), wsproxy.WithOriginPatterns(),
				wsproxy.WithRewrite(func(*wsproxy.ProxyRequest) error { return refused }))
			next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("next was called for an upgrade") })
			for _, h := range []http.Handler{p, p.Wrap(next)} {
				resp, _ := exchange(t, serve(t, h).URL, tt.request)
				wantStatus(t, resp, tt.status)
			}
			wantUntouched(t, backend)
		})
	}
}

func TestWrapNeverFallsThroughAfterADial(t *testing.T) {
	for _, tt := range []struct {
		answer string
		status int
	}{
		{refusing(404, "not here"), 404}, {"nonsense\r\n\r\n", 502}, {refusing(503, ""), 503},
	} {
		backend := wstest.StartRaw(t, tt.answer)
		p := newProxy(t, wsproxy.WithBackends(backend.URL()))
		next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("next was called for an upgrade") })
		resp, _ := exchange(t, serve(t, p.Wrap(next)).URL, upgradeTo("/chat"))
		wantStatus(t, resp, tt.status)
		receivedHead(t, backend)
	}
}
