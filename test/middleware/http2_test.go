package middleware_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy"
	_ "github.com/wsproxy/wsproxy/http2ws"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// With Front a WebSocket over HTTP/2 matches routes for GET, its 200 is recorded, and no
// compressor gets at its frames. Without Front routers see a CONNECT.
func TestMiddlewareServesWebSocketsOverHTTP2(t *testing.T) {
	for _, tt := range stacks {
		for name, front := range fronts {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				proxy := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
				stack := tt.build(t, proxy)
				var errs proxytest.LogBook
				s := proxytest.ServeHTTP2(t, front(stack), logTo(&errs))
				browser := proxytest.NewHTTP2Client(t, s.URL)
				client, resp := browser.Connect(t, proxytest.ConnectFields("/ws", proxytest.Field{Name: "accept-encoding", Value: "gzip"}))
				isRouted := name == "with Front" || !strings.HasPrefix(tt.name, "gin") && !strings.HasPrefix(tt.name, "echo")
				if !isRouted {
					if resp.StatusCode/100 != 4 {
						t.Errorf("client got %d; want 404 or 405: the route is for GET", resp.StatusCode)
					}
					return
				}
				proxytest.WantStatus(t, resp, 200)
				for _, field := range []string{"Content-Type", "Content-Length"} {
					proxytest.WantField(t, resp.Header, field)
				}
				if name == "with Front" {
					proxytest.WantField(t, resp.Header, "Content-Encoding")
				}
				proxytest.WantEcho(t, client)
				client.Send(wstest.Close(1000, ""))
				client.WantClose(1000)
				if name == "with Front" {
					client.WantEOF() // nothing is behind the Close frame
				}
				s.Wait()
				if got := stack.status(); got != http.StatusOK && !(name == "without Front" && got == http.StatusGatewayTimeout) {
					t.Errorf("middleware has recorded %03d; want 200", got)
				}
				if got := errs.Lines(); len(got) > 0 {
					t.Errorf("the server has logged %q; want nothing", got)
				}
			})
		}
	}
}

// A route for another handler does not open a WebSocket.
func TestPageOfARouterIsNoWebSocketOverHTTP2(t *testing.T) {
	for _, tt := range stacks {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			stack := tt.build(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/html")
				w.Write([]byte("<html>"))
			}))
			browser := proxytest.NewHTTP2Client(t, proxytest.ServeHTTP2(t, wsproxy.Front(stack)).URL)
			_, resp := browser.Connect(t, proxytest.ConnectFields("/ws"))
			proxytest.WantStatus(t, resp, 501)
		})
	}
}
