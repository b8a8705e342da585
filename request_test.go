package wsproxy_test

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

var ownRequestID = regexp.MustCompile(`^[0-9a-f]{32}$`)

func TestRequestIDIsTheSameEverywhere(t *testing.T) {
	ids := make(chan [2]string, 20) // hook, ID
	saw := func(hook, id string) { ids <- [2]string{hook, id} }
	backend := wstest.StartBackend(t)
	book := new(proxytest.LogBook)
	_, s := proxytest.Start(t, book.Option(), wsproxy.WithBackends("http://127.0.0.1:1", backend.URL()),
		wsproxy.WithBalancer(wsproxy.BalancerFunc(func(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			saw("Balancer", wsproxy.RequestID(r))
			return candidates[0], nil
		})),
		wsproxy.WithAdmit(func(r *http.Request) (any, error) { saw("Admit", wsproxy.RequestID(r)); return nil, nil }),
		wsproxy.WithRewrite(func(r *wsproxy.ProxyRequest) error {
			saw("Rewrite", r.RequestID)
			saw("Rewrite, Out", r.Out.Header.Get("X-Request-Id"))
			return nil
		}),
		wsproxy.WithResponse(func(r *wsproxy.ProxyResponse) error { saw("Response", r.RequestID); return nil }),
		wsproxy.WithTrace(&wsproxy.Trace{
			Picked:    func(i wsproxy.PickedInfo) { saw("Picked", i.RequestID) },
			Attempted: func(i wsproxy.AttemptInfo) { saw("Attempted", i.RequestID) },
			Opened: func(i wsproxy.OpenedInfo) {
				saw("Opened", wsproxy.RequestID(i.Request))
				saw("Tunnel", i.Tunnel.Info().RequestID)
			},
			Closed: func(e wsproxy.TunnelEnd) { saw("Closed", e.RequestID) },
		}))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.UpgradeTo("/chat", "X-Request-Id: forged", "X_Request_Id: forged"))
	leg := backend.Accepted(t)
	req := leg.AcceptUpgrade(nil)
	proxytest.WantSwitch(t, client)
	client.Close()
	leg.Close()
	s.Wait()
	close(ids)

	id := req.Header.Get("X-Request-Id")
	if !ownRequestID.MatchString(id) {
		t.Errorf("backend got X-Request-Id %q; want 128 bits of the proxy's own", id)
	}
	if forged := req.Header["X_request_id"]; forged != nil {
		t.Errorf("backend got X_Request_Id %q of the client", forged)
	}
	seen := make(map[string]bool)
	for hook := range ids {
		seen[hook[0]] = true
		if hook[1] != id {
			t.Errorf("%s saw the ID %q; want %q as the backend", hook[0], hook[1], id)
		}
	}
	if len(seen) != 10 {
		t.Errorf("hooks that ran: %v; want 10", seen)
	}
	for _, msg := range []string{"tunnel opened", "tunnel closed"} {
		if len(book.Lines(msg)) != 1 {
			t.Errorf("log has %q; want one line %q", book.Lines(), msg)
		}
	}
	for _, line := range book.Lines() {
		if !strings.Contains(line, "backend flag raised") && !strings.Contains(line, "request_id="+id) {
			t.Errorf("log line without the ID: %s", line)
		}
	}
}

func TestRequestIDComesFromATrustedProxyOnly(t *testing.T) {
	for _, tt := range []struct {
		name, trusted string
		lines         []string
		want          string // empty: one of the proxy's own
	}{
		{"trusted", "127.0.0.1", []string{"X-Request-Id: edge-4711/a"}, "edge-4711/a"},
		{"longest", "127.0.0.1", []string{"X-Request-Id: " + strings.Repeat("x", 128)}, strings.Repeat("x", 128)},
		{"too long", "127.0.0.1", []string{"X-Request-Id: " + strings.Repeat("x", 129)}, ""},
		{"none", "127.0.0.1", nil, ""},
		{"empty", "127.0.0.1", []string{"X-Request-Id:"}, ""},
		{"twice", "127.0.0.1", []string{"X-Request-Id: a", "X-Request-Id: b"}, ""},
		{"with a space", "127.0.0.1", []string{"X-Request-Id: a b"}, ""},
		{"not ASCII", "127.0.0.1", []string{"X-Request-Id: caf\xc3\xa9"}, ""},
		{"nominated by Connection", "127.0.0.1", []string{"X-Request-Id: edge", "Connection: X-Request-Id"}, "edge"},
		{"another peer is trusted", "192.0.2.1", []string{"X-Request-Id: forged"}, ""},
		{"spelled with underscores", "127.0.0.1", []string{"X_Request_Id: forged"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := proxytest.RequestAtBackend(t, proxytest.UpgradeTo("/chat", tt.lines...), wsproxy.WithTrustedProxies(tt.trusted))
			lines := req.Header["X-Request-Id"]
			switch {
			case len(lines) != 1:
				t.Errorf("backend got X-Request-Id %q; want one", lines)
			case tt.want == "" && !ownRequestID.MatchString(lines[0]):
				t.Errorf("backend got X-Request-Id %q; want one of the proxy's own", lines[0])
			case tt.want != "" && lines[0] != tt.want:
				t.Errorf("backend got X-Request-Id %q; want %q", lines[0], tt.want)
			}
		})
	}
}

func TestRequestIDIsReturnedOnRefusals(t *testing.T) {
	for _, tt := range []struct {
		name, request string
		opts          []wsproxy.Option
	}{
		{"no upgrade", proxytest.Head("GET / HTTP/1.1", "Host: x", "X-Request-Id: edge"), nil},
		{"check", strings.Replace(proxytest.UpgradeTo("/", "X-Request-Id: edge"), "13", "12", 1), nil},
		{"hook", proxytest.UpgradeTo("/", "X-Request-Id: edge"),
			[]wsproxy.Option{wsproxy.WithRewrite(func(*wsproxy.ProxyRequest) error { return errors.New("no") })}},
		{"nobody there", proxytest.UpgradeTo("/", "X-Request-Id: edge"), []wsproxy.Option{wsproxy.WithBackends("http://nobody")}},
		{"backend's answer", proxytest.UpgradeTo("/", "X-Request-Id: edge"), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			network := proxytest.NewNetwork()
			network.Set("a", proxytest.FakeBackend{Answer: proxytest.Refusing(403, "no", "X-Request-Id: the backend's")})
			told := make(chan string, 2)
			handled := "none"
			opts := append([]wsproxy.Option{wsproxy.WithBackends("http://a"), wsproxy.WithDialer(network.Dial), wsproxy.WithTrustedProxies("127.0.0.1"),
				wsproxy.WithErrorHandler(func(w http.ResponseWriter, r *http.Request, _ error) {
					handled = wsproxy.RequestID(r)
					w.WriteHeader(http.StatusTeapot)
				}),
				wsproxy.WithTrace(&wsproxy.Trace{Refused: func(i wsproxy.RefusedInfo) { told <- i.RequestID }})}, tt.opts...)
			_, s := proxytest.Start(t, opts...)
			resp, _ := proxytest.Exchange(t, s.URL, tt.request)
			proxytest.WantField(t, resp.Header, "X-Request-Id", "edge")
			if got := <-told; got != "edge" || handled != "edge" && tt.name != "backend's answer" {
				t.Errorf("Trace.Refused saw the ID %q, the error handler %q; want that of the trusted proxy", got, handled)
			}
		})
	}
}

func TestRequestIDOutsideHooksIsEmpty(t *testing.T) {
	r, _ := http.NewRequestWithContext(context.Background(), "GET", "/", nil)
	if got := wsproxy.RequestID(r); got != "" {
		t.Errorf("RequestID = %q for a request that no Proxy has seen", got)
	}
}

func TestClientIPIsThatOfTheTunnel(t *testing.T) {
	seen := make(chan string, 3)
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithTrustedProxies("127.0.0.1"),
		wsproxy.WithTrace(&wsproxy.Trace{Opened: func(i wsproxy.OpenedInfo) { seen <- i.Tunnel.Info().ClientAddr.String() }}))
	s := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- p.ClientIP(r).String()
		p.ServeHTTP(w, r)
	}))
	proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat", "X-Forwarded-For: 203.0.113.1, 192.0.2.66"))
	for range 2 {
		if got := <-seen; got != "192.0.2.66" {
			t.Errorf("the client's address is %s; want 192.0.2.66", got)
		}
	}
}
