package wsproxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A backend with a limit of its own for headers answers when it has read that much,
// and closes the connection on the rest.
func TestRefusalOfAHalfReadRequestReachesTheClient(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() { // until ln is closed
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.(*net.TCPConn).SetReadBuffer(8 << 10)
			io.ReadFull(c, make([]byte, 16<<10))
			io.WriteString(c, proxytest.Refusing(431, "too much"))
			c.Close() // resets the connection: not all was read
		}
	}()
	for range 10 {
		p, s := proxytest.Start(t, wsproxy.WithBackends("http://"+ln.Addr().String()),
			wsproxy.WithLimits(wsproxy.Limits{SocketBuffer: 64 << 10}))
		resp, body := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat", "X-Large: "+strings.Repeat("x", 600<<10)))
		proxytest.WantStatus(t, resp, http.StatusRequestHeaderFieldsTooLarge)
		if body != "too much" {
			t.Errorf("client got body %q; want the backend's", body)
		}
		wantStates(t, p, wsproxy.BackendUp)
		s.Wait()
	}
}

func TestAnswerThatStopsInsideALineIsATimeout(t *testing.T) {
	for _, part := range []string{"HTTP/1.1 1", "HTTP/1.1 101 Switching Protocols\r\nUpgra", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"} {
		synctest.Test(t, func(t *testing.T) {
			_, s, network := startInMemory(t, wsproxy.WithBackends("http://a"),
				wsproxy.WithTimeouts(wsproxy.Timeouts{Handshake: time.Second}))
			network.Set("a", proxytest.FakeBackend{Answer: part})
			if status := tryOnce(t, s); status != http.StatusGatewayTimeout {
				t.Errorf("after %q the client got %d; want 504", part, status)
			}
		})
	}
}

func TestChoiceOfSubprotocolAndExtensionReachesTheClient(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.SwitchingWith("Sec-WebSocket-Protocol: v2", "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"))
	opened := make(chan wsproxy.TunnelInfo, 1)
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()),
		wsproxy.WithTrace(&wsproxy.Trace{Opened: func(i wsproxy.TunnelInfo) { opened <- i }}))
	_, resp := proxytest.Open(t, s.URL, proxytest.UpgradeWithOffers)
	proxytest.WantField(t, resp.Header, "Sec-WebSocket-Protocol", "v2")
	proxytest.WantField(t, resp.Header, "Sec-WebSocket-Extensions", "permessage-deflate; server_no_context_takeover")
	if i := <-opened; i.Subprotocol != "v2" || len(i.Extensions) != 1 {
		t.Errorf("TunnelInfo has subprotocol %q and extensions %q; want v2 and permessage-deflate", i.Subprotocol, i.Extensions)
	}
}

func TestBodyOfARefusalThatBreaksOffReachesTheClientBroken(t *testing.T) {
	for _, tt := range []struct{ name, answer string }{
		{"length", proxytest.Head("HTTP/1.1 403 Forbidden", "Content-Length: 100") + "no"},
		{"chunked", proxytest.Head("HTTP/1.1 403 Forbidden", "Transfer-Encoding: chunked") + "2\r\nno\r\n"},
		{"chunk with a bare line feed", proxytest.Head("HTTP/1.1 403 Forbidden", "Transfer-Encoding: chunked") + "2;a\nno\r\n0\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, tt.answer+"{end}")
			p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
			client := wstest.Dial(t, s.URL)
			client.WriteRequest(proxytest.UpgradeTo("/chat"))
			resp, err := http.ReadResponse(bufio.NewReader(client), nil)
			if err == nil { // else not even the head was flushed
				_, err = io.ReadAll(resp.Body)
			}
			if err == nil {
				t.Error("client took a part of the body for the whole")
			}
			proxytest.ReceivedHead(t, backend)
			s.Wait()
			proxytest.WantNoTunnels(t, p)
		})
	}
}

func TestRefusalsWithAndWithoutLengthArriveWhole(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 1<<14) // 256 KiB
	for _, tt := range []struct{ name, answer string }{
		{"length", proxytest.Refusing(403, long)},
		{"chunked", proxytest.Head("HTTP/1.1 403 Forbidden", "Transfer-Encoding: chunked") + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(long), long)},
		{"until the end", proxytest.Head("HTTP/1.1 403 Forbidden") + long},
		{"until the end, HTTP/1.0", proxytest.Head("HTTP/1.0 403 Forbidden") + long},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, tt.answer+"{end}")
			_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
			resp, body := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
			proxytest.WantStatus(t, resp, http.StatusForbidden)
			if body != long {
				t.Errorf("client got a body of %d bytes; want the backend's %d", len(body), len(long))
			}
		})
	}
}
