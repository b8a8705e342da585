package middleware_test

import (
	"context"
	"io"
	"log"
	"net/http"
	"strings"
	"testing"

	coder "github.com/coder/websocket"
	"github.com/gin-gonic/gin"
	gobwas "github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	gorilla "github.com/gorilla/websocket"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/leaktest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// fronts are the ways in which a test mounts a handler.
var fronts = map[string]func(http.Handler) http.Handler{
	"with Front":    wsproxy.Front,
	"without Front": func(h http.Handler) http.Handler { return h },
}

// serve serves h, and returns the server's error log.
func serve(t *testing.T, h http.Handler) (*proxytest.Site, *proxytest.LogBook) {
	t.Helper()
	errs := new(proxytest.LogBook)
	return proxytest.Serve(t, h, logTo(errs)), errs
}

func logTo(errs *proxytest.LogBook) func(*http.Server) {
	return func(srv *http.Server) { srv.ErrorLog = log.New(errs, "", 0) }
}

func upgradeTo(path string) string { return proxytest.UpgradeTo(path, "Accept-Encoding: gzip") }

func TestMiddlewareRecordsStatusOfTunnel(t *testing.T) {
	for _, tt := range stacks {
		for name, front := range fronts {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				proxy := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
				requestEnded := make(chan struct{})
				stack := tt.build(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					context.AfterFunc(r.Context(), func() { close(requestEnded) })
					proxy.ServeHTTP(w, r)
				}))
				s, errs := serve(t, front(stack))
				client := wstest.Dial(t, s.URL)
				client.WriteRequest(upgradeTo("/ws"))
				want := proxytest.Head(append([]string{"HTTP/1.1 101 Switching Protocols", "Upgrade: websocket",
					"Connection: Upgrade", "Sec-WebSocket-Accept: " + proxytest.SampleAccept}, tt.fields...)...)
				if got := proxytest.ReadHead(t, client); got != want {
					t.Errorf("client got %q; want %q", got, want)
				}
				if tt.without == http.StatusGatewayTimeout {
					<-requestEnded
				}
				proxytest.WantEcho(t, client)
				proxytest.HangUp(t, client) // nothing is behind the Close frame
				s.Wait()

				wantStatus, wantErrors := tt.without, ""
				switch {
				case name == "with Front":
					wantStatus = http.StatusSwitchingProtocols
				case tt.without == http.StatusGatewayTimeout:
					wantErrors = "WriteHeader on hijacked connection"
				}
				if got := stack.status(); got != wantStatus {
					t.Errorf("middleware has recorded %03d; want %03d", got, wantStatus)
				}
				if got := strings.Join(errs.Lines(), ""); !strings.Contains(got, wantErrors) || (got == "") != (wantErrors == "") {
					t.Errorf("the server has logged %q; want %q", got, wantErrors)
				}
			})
		}
	}
}

func TestMiddlewareRecordsStatusOfRefusal(t *testing.T) {
	for _, tt := range stacks {
		for name, front := range fronts {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				backend := wstest.StartRaw(t, proxytest.Refusing(http.StatusForbidden, "no"))
				stack := tt.build(t, proxytest.NewProxy(t, wsproxy.WithBackends(backend.URL())))
				s, errs := serve(t, front(stack))
				resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/ws"))
				proxytest.WantStatus(t, resp, http.StatusForbidden)
				s.Wait()
				if got := stack.status(); got != http.StatusForbidden {
					t.Errorf("middleware has recorded %03d; want 403", got)
				}
				if lines := errs.Lines(); len(lines) > 0 {
					t.Errorf("the server has logged %q; want nothing", lines)
				}
			})
		}
	}
}

// echoers are WebSocket handlers of others. They echo one message.
var echoers = map[string]http.HandlerFunc{
	"coder": func(w http.ResponseWriter, r *http.Request) {
		c, err := coder.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		if kind, message, err := c.Read(r.Context()); err == nil {
			c.Write(r.Context(), kind, message)
		}
	},
	"gorilla": func(w http.ResponseWriter, r *http.Request) {
		c, err := new(gorilla.Upgrader).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		if kind, message, err := c.ReadMessage(); err == nil {
			c.WriteMessage(kind, message)
		}
	},
	"gobwas": func(w http.ResponseWriter, r *http.Request) {
		c, _, _, err := gobwas.UpgradeHTTP(r, w)
		if err != nil {
			return
		}
		defer c.Close()
		if message, op, err := wsutil.ReadClientData(c); err == nil {
			wsutil.WriteServerMessage(c, op, message)
		}
	},
}

// breaksCoder are the stacks behind which coder's handler opens no connection, with and
// without Front: it calls WriteHeader(101), which they hold back or compress.
var breaksCoder = map[string]bool{"echo v4 Gzip": true, "echo v5 Gzip": true, "chi Compress of a Content-Type": true}

func TestFrontChangesNothingForOtherWebSocketHandlers(t *testing.T) {
	for name, echoer := range echoers {
		for _, tt := range stacks {
			if tt.without == http.StatusGatewayTimeout {
				continue // nothing waits for it here
			}
			if name == "coder" && breaksCoder[tt.name] {
				continue
			}
			t.Run(name+"/"+tt.name, func(t *testing.T) {
				t.Parallel()
				type result struct {
					received, errors string
					status           int
				}
				serveOnce := func(front func(http.Handler) http.Handler) result {
					stack := tt.build(t, echoer)
					s, errs := serve(t, front(stack))
					client := wstest.Dial(t, s.URL)
					client.WriteRequest(upgradeTo("/ws"))
					head := proxytest.ReadHead(t, client)
					if strings.HasPrefix(head, "HTTP/1.1 101 ") {
						client.Send(wstest.Text("hello"))
					}
					rest, _ := io.ReadAll(client)
					s.Wait()
					return result{withoutDate(head) + string(rest), strings.Join(errs.Lines(), ""), stack.status()}
				}
				got, want := serveOnce(fronts["with Front"]), serveOnce(fronts["without Front"])
				if got != want {
					t.Errorf("with Front: %+v; want what there is without: %+v", got, want)
				}
				if !strings.HasPrefix(got.received, "HTTP/1.1 101 ") {
					t.Errorf("client got %q; want a 101", got.received)
				}
			})
		}
	}
}

// withoutDate returns a head without its Date, which is another one each time.
func withoutDate(head string) string {
	var kept strings.Builder
	for line := range strings.Lines(head) {
		if !strings.HasPrefix(line, "Date: ") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// gin's Stream needs CloseNotify.
func TestFrontLetsGinStream(t *testing.T) {
	for name, front := range fronts {
		t.Run(name, func(t *testing.T) {
			gin.SetMode(gin.ReleaseMode)
			e := gin.New()
			e.GET("/stream", func(c *gin.Context) {
				c.Header("Connection", "close")
				left := 3
				c.Stream(func(w io.Writer) bool {
					io.WriteString(w, "part ")
					left--
					return left > 0
				})
			})
			s, errs := serve(t, front(e))
			for _, request := range []string{
				proxytest.Head("GET /stream HTTP/1.1", "Host: a"), upgradeTo("/stream"),
			} {
				resp, body := proxytest.Exchange(t, s.URL, request)
				proxytest.WantStatus(t, resp, http.StatusOK)
				if body != "part part part " {
					t.Errorf("client got %q; want three parts", body)
				}
			}
			s.Wait()
			if lines := errs.Lines(); len(lines) > 0 {
				t.Errorf("the server has logged %q; want nothing", lines)
			}
		})
	}
}
