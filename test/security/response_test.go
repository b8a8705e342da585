package security_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestResponseThatIsMalformedBecomes502(t *testing.T) {
	status := "HTTP/1.1 101 Switching Protocols"
	accept := "Sec-WebSocket-Accept: {accept}"
	for _, tt := range []struct{ name, answer string }{
		{"no HTTP", "SSH-2.0-OpenSSH_9.9\r\n\r\n"},
		{"nothing", "{end}"},
		{"half a head", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: webso{end}"},
		{"bad status", proxytest.Head("HTTP/1.1 1O1 Switching Protocols")},
		{"status with a sign", proxytest.Head("HTTP/1.1 +42 OK")},
		{"status 007", proxytest.Head("HTTP/1.1 007 OK")},
		{"status 600", proxytest.Head("HTTP/1.1 600 Beyond", "Content-Length: 0")},
		{"bad line", proxytest.Head(status, "Upgrade websocket", "Connection: Upgrade", accept)},
		{"folded first line", proxytest.Head(status, " Upgrade: websocket", "Connection: Upgrade", accept)},
		{"space before a colon", proxytest.Head(status, "Upgrade : websocket", "Connection: Upgrade", accept)},
		{"space before the length's colon", proxytest.Head("HTTP/1.1 200 OK", "Content-Length : 5") + "hello"},
		{"gzip as a transfer coding", proxytest.SwitchingWith("Transfer-Encoding: gzip")},
		{"two transfer codings", proxytest.SwitchingWith("Transfer-Encoding: gzip, chunked")},
		{"transfer coding after a form feed", proxytest.SwitchingWith("Transfer-Encoding: \fchunked")},
		{"two lengths on the 101", proxytest.SwitchingWith("Content-Length: 5", "Content-Length: 6")},
		{"two lengths", proxytest.Head("HTTP/1.1 200 OK", "Content-Length: 5", "Content-Length: 6") + "hello"},
		{"length with a sign", proxytest.SwitchingWith("Content-Length: +5")},
		{"six interim answers", strings.Repeat(proxytest.Head("HTTP/1.1 103 Early Hints"), 6) + proxytest.Switching},
		{"102 and nothing else", proxytest.Head("HTTP/1.1 102 Processing") + "{end}"},
		{"header over 64 KiB", proxytest.SwitchingWith("X-Long: " + strings.Repeat("x", 64<<10))},
		{"header without end", "HTTP/1.1 101 X\r\n" + strings.Repeat("X-A: b\r\n", 20_000)},
		{"Upgrade missing", proxytest.Head(status, "Connection: Upgrade", accept)},
		{"Upgrade to something else", proxytest.Head(status, "Upgrade: h2c", "Connection: Upgrade", accept)},
		{"Upgrade to more", proxytest.Head(status, "Upgrade: websocket, h2c", "Connection: Upgrade", accept)},
		{"Connection missing", proxytest.Head(status, "Upgrade: websocket", accept)},
		{"Connection without upgrade", proxytest.Head(status, "Upgrade: websocket", "Connection: keep-alive", accept)},
		{"subprotocol not offered", proxytest.SwitchingWith("Sec-WebSocket-Protocol: v3")},
		{"subprotocol in other case", proxytest.SwitchingWith("Sec-WebSocket-Protocol: V1")},
		{"two subprotocols", proxytest.SwitchingWith("Sec-WebSocket-Protocol: v1, v2")},
		{"two subprotocol lines", proxytest.SwitchingWith("Sec-WebSocket-Protocol: v1", "Sec-WebSocket-Protocol: v1")},
		{"extension not offered", proxytest.SwitchingWith("Sec-WebSocket-Extensions: x-mux")},
		{"one extension not offered", proxytest.SwitchingWith("Sec-WebSocket-Extensions: permessage-deflate, x-mux")},
		{"extension twice", proxytest.SwitchingWith("Sec-WebSocket-Extensions: permessage-deflate, permessage-deflate")},
		{"malformed extension", proxytest.SwitchingWith("Sec-WebSocket-Extensions: permessage-deflate; =")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			backend := wstest.StartRaw(t, tt.answer)
			p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
			resp, body := proxytest.Exchange(t, s.URL, proxytest.UpgradeWithOffers+secondRequest)
			proxytest.WantStatus(t, resp, http.StatusBadGateway)
			if body != "Bad Gateway\n" {
				t.Errorf("client got body %q; want nothing about the backend", body)
			}
			if _, _, rest := proxytest.ReceivedHead(t, backend); rest != "" {
				t.Errorf("backend received %q after the upgrade; want nothing", rest)
			}
			s.Wait()
			proxytest.WantNoTunnels(t, p)
		})
	}
}

func TestResponseThatIsOddOpensTunnel(t *testing.T) {
	hello := string(wstest.AppendFrame(nil, wstest.Text("hello"), nil))
	for _, tt := range []struct{ name, answer string }{
		{"Content-Length 0", proxytest.SwitchingWith("Content-Length: 0")},
		{"Content-Length 5", proxytest.SwitchingWith("Content-Length: 5")},
		{"Content-Length 5 twice", proxytest.SwitchingWith("Content-Length: 5", "Content-Length: 5")},
		{"chunked", proxytest.SwitchingWith("Transfer-Encoding: chunked")},
		{"chunked with a length", proxytest.SwitchingWith("Transfer-Encoding: chunked", "Content-Length: 5")},
		{"other case", strings.ToLower(strings.ReplaceAll(proxytest.Switching, "{accept}", "\x00"))},
		{"keep-alive too", strings.Replace(proxytest.Switching, "Connection: Upgrade", "Connection: keep-alive, Upgrade", 1)},
		{"keep-alive on a line of its own", proxytest.SwitchingWith("Connection: keep-alive")},
		{"103 before it", proxytest.Head("HTTP/1.1 103 Early Hints", "Link: </x>; rel=preload") + proxytest.Switching},
		{"five interim answers", strings.Repeat(proxytest.Head("HTTP/1.1 100 Continue"), 5) + proxytest.Switching},
		{"no reason phrase", strings.Replace(proxytest.Switching, " Switching Protocols", "", 1)},
		{"bare line feeds", strings.ReplaceAll(proxytest.Switching, "\r\n", "\n")},
		{"a header of 60 KiB", proxytest.SwitchingWith("X-Long: " + strings.Repeat("x", 60<<10))},
		{"nothing chosen", proxytest.SwitchingWith("Sec-WebSocket-Protocol:", "Sec-WebSocket-Extensions:")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			answer := strings.Replace(tt.answer, "\x00", "{accept}", 1)
			answer = strings.Replace(answer, "http/1.1", "HTTP/1.1", 1)
			backend := wstest.StartRaw(t, answer+hello)
			_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
			client := wstest.Dial(t, s.URL)
			client.WriteRequest(proxytest.UpgradeWithOffers)
			head := proxytest.ReadHead(t, client)
			if !strings.HasPrefix(head, "HTTP/1.1 101 Switching Protocols\r\n") {
				t.Fatalf("client got %q; want a 101", head)
			}
			for _, once := range []string{"\r\nUpgrade: websocket\r\n", "\r\nConnection: Upgrade\r\n", "\r\nSec-WebSocket-Accept: "} {
				name, _, _ := strings.Cut(once, ":")
				if !strings.Contains(head, once) || strings.Count(strings.ToLower(head), strings.ToLower(name)+":") != 1 {
					t.Errorf("client got %q; want %q in it, once", head, once)
				}
			}
			for _, none := range []string{"content-length", "transfer-encoding", "link", "keep-alive"} {
				if strings.Contains(strings.ToLower(head), "\r\n"+none) {
					t.Errorf("client got %q; want no %s in it", head, none)
				}
			}
			client.WantRaw(hello)
		})
	}
}

func TestResponseWithTwoUpgradeLinesIsRefused(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.SwitchingWith("Upgrade: websocket"))
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantStatus(t, resp, http.StatusBadGateway)
}
