package security_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// secondRequest is a request that an attacker sends behind an upgrade.
const secondRequest = "GET /secret HTTP/1.1\r\nHost: chat.example\r\n\r\n"

func TestUpgradeThatBackendRefusesReachesItNoMore(t *testing.T) {
	for _, status := range []int{400, 401, 403, 404, 426, 429, 500, 501, 502, 503, 504} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			backend := wstest.StartRaw(t, proxytest.Refusing(status, "no", "X-Reason: tired", "Keep-Alive: timeout=60"))
			p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))

			resp, body := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat")+secondRequest)
			proxytest.WantStatus(t, resp, status)
			if body != "no" {
				t.Errorf("client got body %q; want no", body)
			}
			if !resp.Close {
				t.Errorf("client got Connection %q; want close", resp.Header["Connection"])
			}
			proxytest.WantField(t, resp.Header, "X-Reason", "tired")
			proxytest.WantField(t, resp.Header, "Keep-Alive")
			_, _, rest := proxytest.ReceivedHead(t, backend)
			if rest != "" {
				t.Errorf("backend received %q after the upgrade; want nothing", rest)
			}
			s.Wait()
			proxytest.WantNoTunnels(t, p)
		})
	}
}

func TestUpgradeForwardsRedirect(t *testing.T) {
	for _, status := range []int{300, 301, 302, 303, 307, 308} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			elsewhere := wstest.StartRaw(t, proxytest.Switching)
			backend := wstest.StartRaw(t, proxytest.Refusing(status, "", "Location: "+elsewhere.URL()+"/chat"))
			_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))

			resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat")+secondRequest)
			proxytest.WantStatus(t, resp, status)
			proxytest.WantField(t, resp.Header, "Location", elsewhere.URL()+"/chat")
			if _, _, rest := proxytest.ReceivedHead(t, backend); rest != "" {
				t.Errorf("backend received %q after the upgrade; want nothing", rest)
			}
			proxytest.WantUntouched(t, elsewhere)
		})
	}
}

func TestUpgradeNeeds101(t *testing.T) {
	handshake := []string{"Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: {accept}"}
	for _, tt := range []struct {
		name, answer string
		status       int
		body         string
	}{
		{"200 with a body", proxytest.Refusing(200, "ok", handshake...), 200, "ok"},
		{"200 without a body", proxytest.Refusing(200, "", handshake...), 200, ""},
		{"200 chunked", proxytest.Head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + "2\r\nok\r\n0\r\n\r\n", 200, "ok"},
		{"201", proxytest.Refusing(201, "", handshake...), 201, ""},
		{"204", proxytest.Head(append([]string{"HTTP/1.1 204 No Content"}, handshake...)...), 204, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, tt.answer)
			_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))

			resp, body := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat")+secondRequest)
			proxytest.WantStatus(t, resp, tt.status)
			if body != tt.body {
				t.Errorf("client got body %q; want %q", body, tt.body)
			}
			proxytest.WantField(t, resp.Header, "Upgrade")
			if _, _, rest := proxytest.ReceivedHead(t, backend); rest != "" {
				t.Errorf("backend received %q after the upgrade; want nothing", rest)
			}
		})
	}
}

func TestEarlyBytesDoNotReachRefusingBackend(t *testing.T) {
	early := string(wstest.AppendFrame(nil, wstest.Text("early"), &[4]byte{1, 2, 3, 4}))
	for _, tt := range []struct {
		name, answer string
		status       int
	}{
		{"refusal", proxytest.Refusing(403, ""), 403},
		{"wrong 101", proxytest.Head("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"), 502},
		{"interim answer only", proxytest.Head("HTTP/1.1 103 Early Hints") + proxytest.Refusing(401, ""), 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, tt.answer)
			_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
			resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat")+early)
			proxytest.WantStatus(t, resp, tt.status)
			if _, _, rest := proxytest.ReceivedHead(t, backend); rest != "" {
				t.Errorf("backend received %q after the upgrade; want nothing", rest)
			}
		})
	}
}

func TestEarlyBytesWaitFor101(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := proxytest.NewBackendInMemory(t)
		s := proxytest.ServeInMemory(t, proxytest.NewProxy(t, wsproxy.WithBackends("http://a"), backend.Option()))
		client := s.Dial(t)
		early := wstest.AppendFrame(nil, wstest.Text("early"), &[4]byte{1, 2, 3, 4})
		client.SendRaw(append([]byte(proxytest.UpgradeTo("/chat")), early...))

		leg := backend.Accept(t)
		req := leg.ReadRequest()
		got := make(chan string, 1)
		go func() {
			f, err := leg.ReadFrame()
			got <- fmt.Sprint(f, err)
		}()
		synctest.Wait() // whatever the proxy could do it has done
		leg.SendRaw([]byte(proxytest.Head("HTTP/1.1 103 Early Hints")))
		synctest.Wait()
		select {
		case f := <-got:
			t.Errorf("backend received %v before its 101; want nothing", f)
		default:
		}
		leg.SendRaw([]byte(wstest.UpgradeAnswer(req.Header.Get("Sec-WebSocket-Key"), nil)))
		proxytest.WantSwitch(t, client)
		masked := wstest.Text("early")
		masked.Masked = true
		if f, want := <-got, fmt.Sprint(masked, nil); f != want {
			t.Errorf("backend received %v after its 101; want %v", f, want)
		}
	})
}

func TestUpgradeToOtherProtocolIsRefused(t *testing.T) {
	for _, tt := range []struct{ name, upgrade string }{
		{"foo", "Upgrade: foo"},
		{"h2c", "Upgrade: h2c"},
		{"h2c first", "Upgrade: h2c, websocket"},
		{"h2c last", "Upgrade: websocket, h2c"},
		{"h2c on a line of its own", "Upgrade: websocket\r\nUpgrade: h2c"},
		{"h2c on the first line", "Upgrade: h2c\r\nUpgrade: websocket"},
		{"TLS", "Upgrade: TLS/1.0, HTTP/1.1"},
		{"websocket twice and h2c", "Upgrade: websocket, websocket, h2c"},
		{"websocket with a version", "Upgrade: websocket/13"},
		{"no token at all", "Upgrade:"},
		{"Kelvin sign", "Upgrade: websoc\u212aet"},
	} {
		request := proxytest.Head("GET /chat HTTP/1.1", "Host: chat.example", tt.upgrade,
			"Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
			"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: "+proxytest.SampleKey)
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, proxytest.Switching)
			_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
			resp, body := proxytest.Exchange(t, s.URL, request+secondRequest)
			proxytest.WantStatus(t, resp, http.StatusUpgradeRequired)
			proxytest.WantField(t, resp.Header, "Upgrade", "websocket")
			if !strings.HasPrefix(body, "Upgrade was ") {
				t.Errorf("client got body %q; want it to name the field", body)
			}
			proxytest.WantUntouched(t, backend)
		})
		t.Run(tt.name+" wrapped", func(t *testing.T) {
			backend := wstest.StartRaw(t, proxytest.Switching)
			p := proxytest.NewProxy(t, wsproxy.WithBackends(backend.URL()))
			seen := make(chan string, 2)
			s := proxytest.Serve(t, p.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r.URL.Path })))
			client := wstest.Dial(t, s.URL)
			client.WriteRequest(request + secondRequest)
			for _, path := range []string{"/chat", "/secret"} { // both are plain HTTP
				proxytest.WantStatus(t, client.ReadResponse(), http.StatusOK)
				if got := <-seen; got != path {
					t.Errorf("next got %s; want %s", got, path)
				}
			}
			proxytest.WantUntouched(t, backend)
		})
	}
}

// A proxy in front may double the field.
func TestUpgradeToWebSocketTwiceIsAnsweredOnce(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.Switching)
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
	_, resp := proxytest.Open(t, s.URL, strings.Replace(proxytest.UpgradeTo("/chat"), "Upgrade: websocket", "Upgrade: websocket, websocket", 1))
	proxytest.WantStatus(t, resp, http.StatusSwitchingProtocols)
	proxytest.WantField(t, resp.Header, "Upgrade", "websocket")
}

func TestHTTP2SettingsAreDropped(t *testing.T) {
	req := proxytest.RequestAtBackend(t, proxytest.UpgradeTo("/chat", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"))
	proxytest.WantField(t, req.Header, "HTTP2-Settings")
	proxytest.WantField(t, req.Header, "Upgrade", "websocket")
	proxytest.WantField(t, req.Header, "Connection", "Upgrade")
}

func TestCONNECTIsRefused(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.Switching)
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
	for _, request := range []string{
		proxytest.Head("CONNECT chat.example:443 HTTP/1.1", "Host: chat.example:443"),
		proxytest.Head("CONNECT chat.example:443 HTTP/1.1", "Host: chat.example:443", "Upgrade: websocket", "Connection: Upgrade",
			"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: "+proxytest.SampleKey),
	} {
		resp, _ := proxytest.Exchange(t, s.URL, request+secondRequest)
		proxytest.WantStatus(t, resp, http.StatusMethodNotAllowed)
		proxytest.WantField(t, resp.Header, "Allow", "GET")
	}
	proxytest.WantUntouched(t, backend)
}

func TestUpgradeWithBodyIsRefused(t *testing.T) {
	for _, tt := range []struct{ name, request string }{
		{"Content-Length", proxytest.UpgradeTo("/chat", "Content-Length: 5") + "hello"},
		{"chunked", proxytest.UpgradeTo("/chat", "Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n"},
		{"chunked and empty", proxytest.UpgradeTo("/chat", "Transfer-Encoding: chunked") + "0\r\n\r\n"},
		{"both", proxytest.UpgradeTo("/chat", "Content-Length: 5", "Transfer-Encoding: chunked") + "0\r\n\r\n"},
		{"request as the body", proxytest.UpgradeTo("/chat", fmt.Sprint("Content-Length: ", len(secondRequest))) + secondRequest},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, proxytest.Switching)
			_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
			resp, _ := proxytest.Exchange(t, s.URL, tt.request)
			proxytest.WantStatus(t, resp, http.StatusBadRequest)
			proxytest.WantUntouched(t, backend)
		})
	}
}

func TestUpgradeMayHaveContentLengthZero(t *testing.T) {
	req := proxytest.RequestAtBackend(t, proxytest.UpgradeTo("/chat", "Content-Length: 0"))
	proxytest.WantField(t, req.Header, "Content-Length")
}

func TestVersionMustBe13(t *testing.T) {
	for _, tt := range []struct{ name, lines string }{
		{"777", "Sec-WebSocket-Version: 777"},
		{"8", "Sec-WebSocket-Version: 8"},
		{"list", "Sec-WebSocket-Version: 13, 8"},
		{"two lines", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 13"},
		{"none", "X-None: 13"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, proxytest.Refusing(426, ""))
			_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
			answer := proxytest.ExchangeRaw(t, s.URL, proxytest.Head("GET /chat HTTP/1.1", "Host: chat.example", "Upgrade: websocket",
				"Connection: Upgrade", "Sec-WebSocket-Key: "+proxytest.SampleKey, tt.lines)+secondRequest)
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
			proxytest.WantUntouched(t, backend)
		})
	}
}

func TestMethodMustBeGET(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.Switching)
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
	for _, method := range []string{"POST", "PUT", "HEAD", "OPTIONS", "get", "PRI"} {
		request := strings.Replace(proxytest.UpgradeTo("/health?url=evil"), "GET", method, 1)
		answer := proxytest.ExchangeRaw(t, s.URL, request)
		if !strings.HasPrefix(answer, "HTTP/1.1 426 ") {
			t.Errorf("%s: client got %.80q; want 426", method, answer)
		}
	}
	old := strings.Replace(proxytest.UpgradeTo("/chat"), "HTTP/1.1", "HTTP/1.0", 1)
	if answer := proxytest.ExchangeRaw(t, s.URL, old); !strings.HasPrefix(answer, "HTTP/1.0 426 ") && !strings.HasPrefix(answer, "HTTP/1.1 426 ") {
		t.Errorf("HTTP/1.0: client got %.80q; want 426", answer)
	}
	proxytest.WantUntouched(t, backend)
}

func TestKeyMustBe16Bytes(t *testing.T) {
	for _, tt := range []struct{ name, lines string }{
		{"none", "X-None: 1"},
		{"empty", "Sec-WebSocket-Key:"},
		{"short", "Sec-WebSocket-Key: dGhl"},
		{"long", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSBsb25n"},
		{"no base64", "Sec-WebSocket-Key: !GhlIHNhbXBsZSBub25jZQ=="},
		{"two", "Sec-WebSocket-Key: " + proxytest.SampleKey + "\r\nSec-WebSocket-Key: " + proxytest.SampleKey},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, proxytest.Switching)
			_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
			resp, body := proxytest.Exchange(t, s.URL, proxytest.Head("GET /chat HTTP/1.1", "Host: chat.example", "Upgrade: websocket",
				"Connection: Upgrade", "Sec-WebSocket-Version: 13", tt.lines))
			proxytest.WantStatus(t, resp, http.StatusBadRequest)
			if !strings.HasPrefix(body, "Sec-WebSocket-Key was ") {
				t.Errorf("client got body %q; want it to name the field", body)
			}
			proxytest.WantUntouched(t, backend)
		})
	}
}

func TestHostMustBePresent(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.Switching)
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
	for _, host := range []string{"Host:", "X-Host: chat.example", "Host: chat.example\r\nHost: evil.example"} {
		resp, _ := proxytest.Exchange(t, s.URL, strings.Replace(proxytest.UpgradeTo("/chat"), "Host: chat.example", host, 1))
		proxytest.WantStatus(t, resp, http.StatusBadRequest)
	}
	proxytest.WantUntouched(t, backend)
}

func TestExpectIsRefused(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.Switching)
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
	for _, expect := range []string{"100-continue", "100-Continue", "something"} {
		resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat", "Expect: "+expect))
		proxytest.WantStatus(t, resp, http.StatusExpectationFailed)
	}
	proxytest.WantUntouched(t, backend)
}

func TestAcceptMustMatchKeyOfProxy(t *testing.T) {
	for _, tt := range []struct{ name, accept string }{
		{"none", "X-None: 1"},
		{"empty", "Sec-WebSocket-Accept:"},
		{"of another key", "Sec-WebSocket-Accept: " + wstest.Accept("AAAAAAAAAAAAAAAAAAAAAA==")},
		{"of the client's key", "Sec-WebSocket-Accept: " + proxytest.SampleAccept},
		{"in lower case", "Sec-WebSocket-Accept: " + strings.ToLower(proxytest.SampleAccept)},
		{"twice", "Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Accept: {accept}"},
		{"one right, one wrong", "Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Accept: " + proxytest.SampleAccept},
	} {
		t.Run(tt.name, func(t *testing.T) {
			frame := string(wstest.AppendFrame(nil, wstest.Text("secret"), nil))
			backend := wstest.StartRaw(t, proxytest.Head("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket",
				"Connection: Upgrade", tt.accept)+frame)
			p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
			resp, body := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat")+secondRequest)
			proxytest.WantStatus(t, resp, http.StatusBadGateway)
			if strings.Contains(body, "secret") {
				t.Errorf("client got %q: bytes from behind a wrong 101", body)
			}
			if _, _, rest := proxytest.ReceivedHead(t, backend); rest != "" {
				t.Errorf("backend received %q after the upgrade; want nothing", rest)
			}
			s.Wait()
			proxytest.WantNoTunnels(t, p)
		})
	}
}

func TestWrapAppliesChecksOfServeHTTP(t *testing.T) {
	refused := &wsproxy.StatusError{Status: http.StatusUnauthorized, Err: io.EOF}
	for _, tt := range []struct {
		name, request string
		status        int
	}{
		{"origin", proxytest.UpgradeTo("/chat", "Origin: https://evil.example"), 403},
		{"version", strings.Replace(proxytest.UpgradeTo("/chat"), "13", "12", 1), 426},
		{"key", strings.Replace(proxytest.UpgradeTo("/chat"), proxytest.SampleKey, "x", 1), 400},
		{"body", proxytest.UpgradeTo("/chat", "Content-Length: 1") + "x", 400},
		{"path", proxytest.UpgradeTo("/chat/../admin"), 400},
		{"Rewrite", proxytest.UpgradeTo("/chat"), 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, proxytest.Switching)
			p := proxytest.NewProxy(t, wsproxy.WithBackends(backend.URL()+"/base"), wsproxy.WithOriginPatterns(),
				wsproxy.WithRewrite(func(*wsproxy.ProxyRequest) error { return refused }))
			next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("next was called for an upgrade") })
			for _, h := range []http.Handler{p, p.Wrap(next)} {
				resp, _ := proxytest.Exchange(t, proxytest.Serve(t, h).URL, tt.request)
				proxytest.WantStatus(t, resp, tt.status)
			}
			proxytest.WantUntouched(t, backend)
		})
	}
}

func TestWrapNeverFallsThroughAfterDial(t *testing.T) {
	for _, tt := range []struct {
		answer string
		status int
	}{
		{proxytest.Refusing(404, "not here"), 404}, {"nonsense\r\n\r\n", 502}, {proxytest.Refusing(503, ""), 503},
	} {
		backend := wstest.StartRaw(t, tt.answer)
		p := proxytest.NewProxy(t, wsproxy.WithBackends(backend.URL()))
		next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("next was called for an upgrade") })
		resp, _ := proxytest.Exchange(t, proxytest.Serve(t, p.Wrap(next)).URL, proxytest.UpgradeTo("/chat"))
		proxytest.WantStatus(t, resp, tt.status)
		proxytest.ReceivedHead(t, backend)
	}
}
