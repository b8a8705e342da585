// Package fiber_test mounts a proxy in Fiber, and beside it. Fiber is built on fasthttp, whose
// goroutines do not end with its server: so internal/leaktest does not run here.
package fiber_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/middleware/adaptor"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A site is a server of Fiber's.
type site struct {
	url      string
	statuses chan int     // that a middleware has recorded
	shutdown func() error // of the server; the end of the test calls it too
}

// serve serves h by Fiber's adaptor at /ws.
func serve(t *testing.T, h http.Handler) *site {
	t.Helper()
	s := &site{statuses: make(chan int, 10)}
	app := fiber.New()
	app.Use(func(c fiber.Ctx) error {
		err := c.Next()
		s.statuses <- c.Response().StatusCode()
		return err
	})
	app.All("/ws", adaptor.HTTPHandler(h))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.url, s.shutdown = "http://"+ln.Addr().String(), app.Shutdown
	served := make(chan error, 1)
	go func() { served <- app.Listener(ln, fiber.ListenConfig{DisableStartupMessage: true}) }() // until Shutdown
	t.Cleanup(func() {
		s.shutdown()
		if err := <-served; err != nil {
			t.Errorf("Fiber's server returned %v", err)
		}
	})
	return s
}

func TestAdaptorOpensTunnel(t *testing.T) {
	proxytest.ForEachWay(t, func(t *testing.T, way wsproxy.Option) {
		backend := wstest.StartBackend(t)
		ends, trace := proxytest.TraceEnds()
		proxy := proxytest.NewProxy(t, wsproxy.WithBackends(backend.URL()), trace, way)
		site := serve(t, proxy)
		client := wstest.Dial(t, site.url)
		client.WriteRequest(proxytest.UpgradeTo("/ws?room=1", "Origin: https://chat.example", "Cookie: a=b"))
		leg := backend.Accepted(t)
		req := leg.AcceptUpgrade(nil)
		if req.RequestURI != "/ws?room=1" || req.Host != "chat.example" || req.Header.Get("Origin") != "https://chat.example" || req.Header.Get("Cookie") != "a=b" || req.Header.Get("X-Forwarded-For") != "127.0.0.1" {
			t.Errorf("backend was asked for %q of %q with %v; want what the client has sent", req.RequestURI, req.Host, req.Header)
		}
		proxytest.WantSwitch(t, client)
		if status := <-site.statuses; status != http.StatusOK {
			t.Errorf("middleware has recorded %d; want 200", status)
		}
		large := wstest.Binary(make([]byte, 1<<20))
		client.Send(wstest.Text("up"))
		leg.Want(wstest.Text("up"))
		go leg.WriteFrames(large) // until the client has read it
		client.Want(large)
		go client.WriteFrames(large)
		leg.Want(large)
		leg.Send(wstest.Close(4999, "bye"))
		client.WantClose(4999)
		client.Send(wstest.Close(4999, "bye"))
		leg.WantClose(4999)
		leg.Close()
		client.WantEOF()
		client.Close()
		e := <-ends
		if e.Engine != wsproxy.EnginePortable {
			t.Errorf("engine is %v; want portable: the adaptor wraps the connection", e.Engine)
		}
		if e.Code != 4999 || e.Host != "chat.example" || e.URL.Path != "/ws" || e.RemoteAddr != client.Conn().LocalAddr().String() {
			t.Errorf("tunnel ended with %d at %s%s for %s; want 4999 at chat.example/ws for the client", e.Code, e.Host, e.URL.Path, e.RemoteAddr)
		}
	})
}

func TestAdaptorPassesRefusals(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.Refusing(http.StatusForbidden, "no entry"))
	site := serve(t, proxytest.NewProxy(t, wsproxy.WithBackends(backend.URL())))
	for _, tt := range []struct {
		request string
		status  int
		body    string
	}{
		{proxytest.UpgradeTo("/ws"), http.StatusForbidden, "no entry"},
		{strings.Replace(proxytest.UpgradeTo("/ws"), "Version: 13", "Version: 12", 1), http.StatusUpgradeRequired, "Sec-WebSocket-Version"},
		{proxytest.Head("GET /ws HTTP/1.1", "Host: chat.example"), http.StatusUpgradeRequired, "Upgrade was missing"},
	} {
		client := wstest.Dial(t, site.url)
		client.WriteRequest(tt.request)
		resp := client.ReadResponse()
		body, err := io.ReadAll(resp.Body)
		proxytest.WantStatus(t, resp, tt.status)
		if err != nil || !strings.Contains(string(body), tt.body) {
			t.Errorf("client got %q, %v; want %q in it", body, err, tt.body)
		}
		client.Close()
	}
}

// The proxy has hijacked the connection to pass the refusal on, and waits for the client to close
// it. To Fiber it is open no longer, and the request's context ends without an error, which
// package context takes for a fault.
func TestFiberShutsDownWhileClientIsRefused(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.Refusing(http.StatusForbidden, ""))
	site := serve(t, proxytest.NewProxy(t, wsproxy.WithBackends(backend.URL())))
	client := wstest.Dial(t, site.url)
	client.WriteRequest(proxytest.UpgradeTo("/ws"))
	proxytest.WantStatus(t, client.ReadResponse(), http.StatusForbidden)
	if err := site.shutdown(); err != nil {
		t.Errorf("Shutdown of Fiber returned %v", err)
	}
	client.Close()
}

func TestAdaptorClosesTunnelsAtShutdown(t *testing.T) {
	backend := wstest.StartBackend(t)
	proxy := proxytest.NewProxy(t, wsproxy.WithBackends(backend.URL()))
	client := wstest.Dial(t, serve(t, proxy).url)
	client.RequestUpgrade("/ws", nil)
	leg := backend.Accepted(t)
	leg.AcceptUpgrade(nil)
	client.WantUpgrade()
	done := proxytest.ShutDown(t.Context(), proxy)
	leg.WantClose(1001)
	leg.Send(wstest.Close(1001, ""))
	leg.Close()
	client.WantClose(1001)
	client.Send(wstest.Close(1001, ""))
	client.WantEOF()
	client.Close()
	if err := <-done; err != nil {
		t.Errorf("Shutdown() = %v; want nil", err)
	}
}

// The way that docs/production.md recommends: a server of net/http has both.
func TestFiberRunsBesideProxy(t *testing.T) {
	app := fiber.New()
	app.Get("/page", func(c fiber.Ctx) error { return c.SendString("hello from Fiber") })
	ws := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	site := proxytest.Serve(t, wsproxy.Front(ws.Wrap(adaptor.FiberApp(app))))
	client, _ := proxytest.Open(t, site.URL, proxytest.UpgradeTo("/ws"))
	proxytest.WantEcho(t, client)
	resp, body := proxytest.Exchange(t, site.URL, proxytest.Head("GET /page HTTP/1.1", "Host: chat.example", "Connection: close"))
	proxytest.WantStatus(t, resp, http.StatusOK)
	if body != "hello from Fiber" {
		t.Errorf("client got %q; want Fiber's page", body)
	}
	proxytest.HangUp(t, client)
}
