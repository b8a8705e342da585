package security_test

import (
	"go/build"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy"
	_ "github.com/wsproxy/wsproxy/http2ws"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// mounts are the ways in which a proxy sees an extended CONNECT.
var mounts = map[string]func(http.Handler) http.Handler{
	"with Front":    wsproxy.Front,
	"without Front": func(h http.Handler) http.Handler { return h },
}

// What turns an extended CONNECT into an upgrade cannot be sent by a client over HTTP/1.1:
// neither the field that net/http has for :protocol, nor a method beside it.
func TestHTTP1ClientCannotFakeAnExtendedCONNECT(t *testing.T) {
	for name, mount := range mounts {
		t.Run(name, func(t *testing.T) {
			b := wstest.StartRaw(t, proxytest.Switching)
			s := proxytest.Serve(t, mount(proxytest.NewProxy(t, wsproxy.WithBackends(b.URL()))))
			for _, request := range []string{
				proxytest.Head("CONNECT /ws HTTP/1.1", "Host: chat.example", ":protocol: websocket", "Sec-WebSocket-Version: 13"),
				proxytest.Head("CONNECT chat.example:443 HTTP/1.1", "Host: chat.example:443", ":protocol: websocket", "Sec-WebSocket-Version: 13"),
				proxytest.Head("GET /ws HTTP/1.1", "Host: chat.example", ":protocol: websocket", "Sec-WebSocket-Version: 13"),
				proxytest.UpgradeTo("/ws", ":protocol: websocket"),
				proxytest.Head("CONNECT /ws HTTP/2.0", "Host: chat.example", "protocol: websocket", "Sec-WebSocket-Version: 13"),
			} {
				if answer := proxytest.ExchangeRaw(t, s.URL, request); !strings.HasPrefix(answer, "HTTP/1.1 4") && !strings.HasPrefix(answer, "HTTP/1.1 505 ") {
					t.Errorf("%q was answered with %q; want 4xx or 505", request, answer)
				}
			}
			proxytest.WantUntouched(t, b)
		})
	}
}

// resetOr400 is what net/http resets since Go 1.27, and the proxy refuses before.
const resetOr400 = -1

var isGo127 = slices.Contains(build.Default.ReleaseTags, "go1.27")

func TestHTTP2RequestThatBreaksARuleIsRefused(t *testing.T) {
	field := func(name, value string) proxytest.Field { return proxytest.Field{Name: name, Value: value} }
	connect := proxytest.ConnectFields
	without := func(name string, fields []proxytest.Field) (rest []proxytest.Field) {
		for _, f := range fields {
			if f.Name != name {
				rest = append(rest, f)
			}
		}
		return rest
	}
	with := func(name, value string, fields []proxytest.Field) []proxytest.Field {
		for i := range fields {
			if fields[i].Name == name {
				fields[i].Value = value
			}
		}
		return fields
	}
	for _, tt := range []struct {
		name   string
		fields []proxytest.Field
		status int // 0: net/http resets the stream
	}{
		{"other protocol", with(":protocol", "connect-udp", connect("/ws")), 501},
		{"two protocols", with(":protocol", "websocket, h2c", connect("/ws")), 501},
		{"plain CONNECT", []proxytest.Field{field(":method", "CONNECT"), field(":authority", "chat.example:443")}, 405},
		{"GET with protocol", with(":method", "GET", connect("/ws")), 426},
		{"GET with fields of HTTP/1.1", []proxytest.Field{field(":method", "GET"), field(":scheme", "https"), field(":path", "/ws"),
			field(":authority", "chat.example"), field("sec-websocket-version", "13"), field("sec-websocket-key", proxytest.SampleKey)}, 426},

		{"Upgrade", connect("/ws", field("upgrade", "websocket")), 400},
		{"Connection", connect("/ws", field("connection", "upgrade")), 400},
		{"Transfer-Encoding", connect("/ws", field("transfer-encoding", "chunked")), 400},
		{"TE", connect("/ws", field("te", "gzip")), 400},
		{"Host beside authority", connect("/ws", field("host", "other.example")), 400},
		{"no authority", with(":authority", "", connect("/ws")), 400},
		{"asterisk", connect("*"), 400},
		{"URL as path", connect("http://other.example/ws"), resetOr400},
		{"authority with a space", with(":authority", "chat.example /", connect("/ws")), 400},

		{"path without slash", connect("ws"), 0},
		{"no path", without(":path", connect("/ws")), 0},
		{"authority with a user", with(":authority", "user@chat.example", connect("/ws")), 0},
		{"protocol behind the fields", append(without(":protocol", connect("/ws")), field(":protocol", "websocket")), 0},
		{"protocol twice", append([]proxytest.Field{field(":protocol", "websocket")}, connect("/ws")...), 0},
		{"field in upper case", connect("/ws", field("Cookie", "a")), 0},
	} {
		for name, mount := range mounts {
			t.Run(tt.name+" "+name, func(t *testing.T) {
				b := wstest.StartRaw(t, proxytest.Switching)
				s := proxytest.ServeHTTP2(t, mount(proxytest.NewProxy(t, wsproxy.WithBackends(b.URL()))))
				stream := proxytest.NewHTTP2Client(t, s.URL).Send(t, tt.fields)
				switch {
				case tt.status == 0, tt.status == resetOr400 && isGo127:
					stream.ResetCode(t)
				default:
					resp := stream.Response(t)
					body, _ := io.ReadAll(resp.Body)
					if want := max(tt.status, 400); resp.StatusCode != want {
						t.Errorf("got %d with %q; want %d", resp.StatusCode, body, want)
					}
				}
				proxytest.WantUntouched(t, b)
			})
		}
	}
}

// What a client sends in a field over HTTP/2 cannot become a line of the request for the backend.
func TestHTTP2FieldsCannotSmuggle(t *testing.T) {
	for _, value := range []string{"a\r\nx-evil: 1", "a\nx-evil: 1", "a\r\n\r\nGET /evil HTTP/1.1", "a\x00b"} {
		b := wstest.StartRaw(t, proxytest.Switching)
		s := proxytest.ServeHTTP2(t, proxytest.NewProxy(t, wsproxy.WithBackends(b.URL())))
		browser := proxytest.NewHTTP2Client(t, s.URL)
		browser.Send(t, proxytest.ConnectFields("/ws", proxytest.Field{Name: "x-a", Value: value})).ResetCode(t)
		proxytest.WantUntouched(t, b)
	}
	for _, path := range []string{"/a b", "/a\r\nx-evil: 1", "/a#b"} {
		b := wstest.StartBackend(t)
		s := proxytest.ServeHTTP2(t, proxytest.NewProxy(t, wsproxy.WithBackends(b.URL())))
		stream := proxytest.NewHTTP2Client(t, s.URL).Send(t, proxytest.ConnectFields(path))
		if path == "/a\r\nx-evil: 1" {
			stream.ResetCode(t)
			proxytest.WantUntouched(t, b)
			continue
		}
		r := b.Accepted(t).ReadRequest()
		if r.Header.Get("X-Evil") != "" || strings.ContainsAny(r.RequestURI, " #") {
			t.Errorf("path %q: backend got %s with %v", path, r.RequestURI, r.Header)
		}
		stream.Reset()
	}
}
