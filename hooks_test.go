package wsproxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestRewriteRunsForEachAttempt(t *testing.T) {
	network := proxytest.NewNetwork()
	network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
	var seen []string
	_, s := proxytest.Start(t, wsproxy.WithBackends("http://a", "http://b/base"), proxytest.FirstCandidate, wsproxy.WithDialer(network.Dial),
		wsproxy.WithRewrite(func(r *wsproxy.ProxyRequest) error {
			seen = append(seen, fmt.Sprintf("%s %s %s %q", r.Backend.ID(), r.In.URL.Path, r.Out.URL.Path, r.Out.Header.Get("X-Attempt")))
			r.Out.Header.Set("X-Attempt", "set")
			r.Out.URL.Path += "x"
			return nil
		}))
	proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
	want := []string{`http://a /chat /chat ""`, `http://b/base /chat /base/chat ""`}
	if fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("hook saw %q; want %q", seen, want)
	}
}

func TestRewriteChangesRequestToBackend(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.Refusing(403, ""))
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), wsproxy.WithRewrite(func(r *wsproxy.ProxyRequest) error {
		if got := r.Out.Header.Get("Sec-WebSocket-Protocol"); got != "v1, token.secret" {
			t.Errorf("Out has Sec-WebSocket-Protocol %q; want the client's", got)
		}
		r.Out.Host = "internal.example"
		r.Out.URL.Path, r.Out.URL.RawPath = "/a b/c", "/a%20b%2Fc"
		r.Out.URL.RawQuery = "user=1"
		r.Out.Header.Set("X-Forwarded-For", "192.0.2.1")
		r.Out.Header.Set("Origin", "https://internal.example")
		r.Out.Header.Set("Sec-WebSocket-Protocol", "v1")
		r.Out.Header.Del("Sec-WebSocket-Extensions")
		r.Out.Header.Del("Cookie")
		// These are the proxy's own.
		r.Out.Header.Set("Connection", "close")
		r.Out.Header.Set("Upgrade", "h2c")
		r.Out.Header.Set("Sec-WebSocket-Key", proxytest.SampleKey)
		r.Out.Header.Set("Sec-WebSocket-Version", "8")
		r.Out.Header.Set("Content-Length", "5")
		r.Out.Header.Set("Transfer-Encoding", "chunked")
		r.Out.Header.Set("Host", "evil.example")
		return nil
	}))
	proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat?token=1", "Cookie: a=b", "Sec-WebSocket-Protocol: v1, token.secret",
		"Sec-WebSocket-Extensions: permessage-deflate", "Connection: Origin, X-Forwarded-For"))
	req, head, _ := proxytest.ReceivedHead(t, backend)
	want := proxytest.Head("GET /a%20b%2Fc?user=1 HTTP/1.1",
		"Host: internal.example",
		"Upgrade: websocket",
		"Connection: Upgrade",
		"Sec-WebSocket-Version: 13",
		"Sec-WebSocket-Key: "+req.Header.Get("Sec-WebSocket-Key"),
		"Origin: https://internal.example",
		"Sec-WebSocket-Protocol: v1",
		"X-Forwarded-For: 192.0.2.1",
		"X-Forwarded-Host: chat.example",
		"X-Forwarded-Proto: http",
		"X-Request-Id: "+req.Header.Get("X-Request-Id"))
	if head != want {
		t.Errorf("backend was asked with\n%s; want\n%s", head, want)
	}
}

// The client cannot use what Rewrite has taken out of the offer.
func TestRewriteLimitsWhatBackendMayChoose(t *testing.T) {
	for _, choice := range []string{"Sec-WebSocket-Protocol: v2", "Sec-WebSocket-Extensions: permessage-deflate", "Sec-WebSocket-Protocol: added"} {
		backend := wstest.StartRaw(t, proxytest.SwitchingWith(choice))
		_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), wsproxy.WithRewrite(func(r *wsproxy.ProxyRequest) error {
			r.Out.Header.Set("Sec-WebSocket-Protocol", "v1, added")
			r.Out.Header.Del("Sec-WebSocket-Extensions")
			return nil
		}))
		resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeWithOffers)
		if resp.StatusCode != http.StatusBadGateway {
			t.Errorf("%s: client got %d; want 502", choice, resp.StatusCode)
		}
	}
}

func TestRewriteMayRefuse(t *testing.T) {
	for _, tt := range []struct {
		name   string
		err    error
		status int
		body   string
	}{
		{"StatusError", &wsproxy.StatusError{Status: 401, Err: errors.New("log in first"),
			Header: http.Header{"Www-Authenticate": {"Bearer"}}}, 401, "log in first\n"},
		{"wrapped", fmt.Errorf("auth: %w", &wsproxy.StatusError{Status: 429, Err: errors.New("slower")}), 429, "slower\n"},
		{"without a reason", &wsproxy.StatusError{Status: 403}, 403, "Forbidden\n"},
		{"any error", errors.New("database at 10.0.0.1 is down"), 500, "Internal Server Error\n"},
		{"a status that is none", &wsproxy.StatusError{Err: errors.New("forgot it")}, 500, "Internal Server Error\n"},
		{"a success", &wsproxy.StatusError{Status: 101, Err: errors.New("odd")}, 500, "Internal Server Error\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, proxytest.Switching)
			calls := 0
			p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL(), "http://other.invalid"), proxytest.FirstCandidate,
				wsproxy.WithRewrite(func(*wsproxy.ProxyRequest) error { calls++; return tt.err }))
			resp, body := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
			proxytest.WantStatus(t, resp, tt.status)
			if body != tt.body {
				t.Errorf("client got body %q; want %q", body, tt.body)
			}
			if tt.name == "StatusError" {
				proxytest.WantField(t, resp.Header, "Www-Authenticate", "Bearer")
			}
			if calls != 1 {
				t.Errorf("hook was called %d times; want 1: its error ends the upgrade", calls)
			}
			proxytest.WantUntouched(t, backend)
			s.Wait()
			proxytest.WantNoTunnels(t, p)
		})
	}
}

func TestRewriteThatSpoilsRequestLeavesBackendUp(t *testing.T) {
	for name, spoil := range map[string]func(*http.Request){
		"field":  func(r *http.Request) { r.Header.Set("X-User", "anna\r\nX-Admin: 1") },
		"name":   func(r *http.Request) { r.Header["X User"] = []string{"anna"} },
		"host":   func(r *http.Request) { r.Host = "a b" },
		"query":  func(r *http.Request) { r.URL.RawQuery = "a b" },
		"method": func(r *http.Request) { r.Method = "POST" },
		"no URL": func(r *http.Request) { r.URL = nil },
	} {
		t.Run(name, func(t *testing.T) {
			backend := wstest.StartRaw(t, proxytest.Switching)
			p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), wsproxy.WithRewrite(func(r *wsproxy.ProxyRequest) error {
				spoil(r.Out)
				return nil
			}))
			resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
			proxytest.WantStatus(t, resp, http.StatusInternalServerError)
			proxytest.WantUntouched(t, backend)
			if state := p.Backends()[0].State(); state != wsproxy.BackendUp {
				t.Errorf("backend is %v; want up", state)
			}
			s.Wait()
			proxytest.WantNoTunnels(t, p)
		})
	}
}

func TestResponseGetsRefusals(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.Refusing(401, "log in", "Www-Authenticate: Basic", "Set-Cookie: a=b"))
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), wsproxy.WithResponse(func(r *wsproxy.ProxyResponse) error {
		if r.StatusCode != 401 {
			t.Errorf("hook got %d; want 401", r.StatusCode)
		}
		r.Header.Add("Set-Cookie", "c=d")
		r.Header.Del("Www-Authenticate")
		return nil
	}))
	resp, body := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantStatus(t, resp, http.StatusUnauthorized)
	proxytest.WantField(t, resp.Header, "Set-Cookie", "a=b", "c=d")
	proxytest.WantField(t, resp.Header, "Www-Authenticate")
	if body != "log in" {
		t.Errorf("client got body %q; want the backend's", body)
	}
}

func TestHooksMayReplaceTheirArguments(t *testing.T) {
	backend := wstest.StartBackend(t)
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()),
		wsproxy.WithRewrite(func(r *wsproxy.ProxyRequest) error {
			r.Out = r.Out.Clone(r.In.Context())
			r.Out.Header.Set("X-User", "ada")
			return nil
		}),
		wsproxy.WithResponse(func(r *wsproxy.ProxyResponse) error {
			r.Header = r.Header.Clone()
			r.Header.Set("Set-Cookie", "id=7")
			return nil
		}))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.UpgradeTo("/chat"))
	req := backend.Accepted(t).AcceptUpgrade(nil)
	proxytest.WantField(t, req.Header, "X-User", "ada")
	proxytest.WantField(t, proxytest.WantSwitch(t, client).Header, "Set-Cookie", "id=7")
}

func TestRewriteThatRemovesRequestBecomes500(t *testing.T) {
	for name, spoil := range map[string]func(*wsproxy.ProxyRequest){
		"request": func(r *wsproxy.ProxyRequest) { r.Out = nil },
		"URL":     func(r *wsproxy.ProxyRequest) { r.Out.URL = nil },
	} {
		t.Run(name, func(t *testing.T) {
			backend := wstest.StartRaw(t, proxytest.Switching)
			p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), wsproxy.WithRewrite(func(r *wsproxy.ProxyRequest) error {
				spoil(r)
				return nil
			}))
			resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
			proxytest.WantStatus(t, resp, http.StatusInternalServerError)
			proxytest.WantUntouched(t, backend)
			wantStates(t, p, wsproxy.BackendUp)
		})
	}
}

func TestResponseMayRefuse(t *testing.T) {
	for _, answer := range []string{proxytest.Switching, proxytest.Refusing(404, "not here")} {
		for _, tt := range []struct {
			name   string
			err    error
			status int
			body   string
		}{
			{"any error", errors.New("internal"), 502, "Bad Gateway\n"},
			{"StatusError", &wsproxy.StatusError{Status: 403, Err: errors.New("not you")}, 403, "not you\n"},
		} {
			t.Run(tt.name+" at "+answer[9:12], func(t *testing.T) {
				backend := wstest.StartRaw(t, answer)
				p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()),
					wsproxy.WithResponse(func(*wsproxy.ProxyResponse) error { return tt.err }))
				resp, body := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
				proxytest.WantStatus(t, resp, tt.status)
				if body != tt.body {
					t.Errorf("client got body %q; want %q", body, tt.body)
				}
				if _, _, rest := proxytest.ReceivedHead(t, backend); rest != "" {
					t.Errorf("backend received %q; want nothing after the request", rest)
				}
				s.Wait()
				proxytest.WantNoTunnels(t, p)
			})
		}
	}
}

func TestResponseWithUnwritableFieldBecomes502(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.Switching)
	p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), wsproxy.WithResponse(func(r *wsproxy.ProxyResponse) error {
		r.Header.Set("X-User", "anna\r\n\r\n\x81\x00")
		return nil
	}))
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantStatus(t, resp, http.StatusBadGateway)
	proxytest.ReceivedHead(t, backend)
	s.Wait()
	proxytest.WantNoTunnels(t, p)
}

func TestHookPanicBefore101ReleasesAll(t *testing.T) {
	boom := func() { panic("boom") }
	for _, tt := range []struct {
		name   string
		option wsproxy.Option
		hook   string // as it is logged
	}{
		{"Rewrite", wsproxy.WithRewrite(func(*wsproxy.ProxyRequest) error { boom(); return nil }), "hook=WithRewrite"},
		{"Response", wsproxy.WithResponse(func(*wsproxy.ProxyResponse) error { boom(); return nil }), "hook=WithResponse"},
		{"Pick", wsproxy.WithBalancer(wsproxy.BalancerFunc(func(*http.Request, []*wsproxy.Backend) (*wsproxy.Backend, error) {
			boom()
			return nil, nil
		})), "Balancer.Pick"},
		{"Picked", wsproxy.WithTrace(&wsproxy.Trace{Picked: func(wsproxy.PickedInfo) { boom() }}), "Trace.Picked"},
		{"Attempted", wsproxy.WithTrace(&wsproxy.Trace{Attempted: func(wsproxy.AttemptInfo) { boom() }}), "Trace.Attempted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var book proxytest.LogBook
			backend := wstest.StartRaw(t, proxytest.Switching)
			p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), book.Option(), tt.option)
			resp, body := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
			proxytest.WantStatus(t, resp, http.StatusInternalServerError)
			if strings.Contains(body, "boom") {
				t.Errorf("client got %q; want nothing about the panic", body)
			}
			if lines := book.Lines("level=ERROR", "panic", "boom", tt.hook, "stack="); len(lines) != 1 {
				t.Errorf("log has %d lines about the panic; want 1: %q", len(lines), book.Lines())
			}
			s.Wait()
			proxytest.WantNoTunnels(t, p)
			if backend.NumAccepted() > 0 {
				proxytest.ReceivedHead(t, backend) // its connection has ended
			}
		})
	}
}

func TestErrAbortHandlerAbortsConnection(t *testing.T) {
	for name, option := range map[string]wsproxy.Option{
		"Rewrite":      wsproxy.WithRewrite(func(*wsproxy.ProxyRequest) error { panic(http.ErrAbortHandler) }),
		"Response":     wsproxy.WithResponse(func(*wsproxy.ProxyResponse) error { panic(http.ErrAbortHandler) }),
		"ErrorHandler": wsproxy.WithErrorHandler(func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }),
	} {
		t.Run(name, func(t *testing.T) {
			var book proxytest.LogBook
			backend := wstest.StartRaw(t, "nonsense\r\n\r\n")
			if name == "Response" {
				backend = wstest.StartRaw(t, proxytest.Switching)
			}
			p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), book.Option(), option)
			client := wstest.Dial(t, s.URL)
			client.WriteRequest(proxytest.UpgradeTo("/chat"))
			client.WantEOF()
			s.Wait()
			proxytest.WantNoTunnels(t, p)
			if lines := book.Lines("level=ERROR"); len(lines) > 0 {
				t.Errorf("log has %q; want nothing: it is no fault", lines)
			}
		})
	}
}

func TestErrorHandlerGetsEachError(t *testing.T) {
	refuse := errors.New("refused by hook")
	for _, tt := range []struct {
		name    string
		request string
		opts    []wsproxy.Option
		prepare func(t *testing.T, p *wsproxy.Proxy, url string)
		check   func(error) bool
		fields  map[string]string // set before the handler is called
	}{
		{name: "not an upgrade", request: proxytest.Head("GET / HTTP/1.1", "Host: a"),
			check:  isStatus(426),
			fields: map[string]string{"Upgrade": "websocket", "Connection": "close, Upgrade"}},
		{name: "version", request: strings.Replace(proxytest.UpgradeTo("/"), "13", "12", 1),
			check:  isStatus(426),
			fields: map[string]string{"Upgrade": "websocket", "Connection": "close, Upgrade", "Sec-WebSocket-Version": "13"}},
		{name: "origin", request: proxytest.UpgradeTo("/", "Origin: https://evil.example"),
			opts: []wsproxy.Option{wsproxy.WithOriginPatterns()}, check: isStatus(403)},
		{name: "no backend", request: proxytest.UpgradeTo("/"),
			opts:  []wsproxy.Option{wsproxy.WithBackends()},
			check: func(err error) bool { return errors.Is(err, wsproxy.ErrNoBackend) }},
		{name: "limit", request: proxytest.UpgradeTo("/"),
			opts:    []wsproxy.Option{wsproxy.WithBackendConfigs(wsproxy.BackendConfig{URL: "http://a", MaxTunnels: 1})},
			prepare: func(t *testing.T, _ *wsproxy.Proxy, url string) { proxytest.Open(t, url, proxytest.UpgradeTo("/")) },
			check:   func(err error) bool { return errors.Is(err, wsproxy.ErrLimit) },
			fields:  map[string]string{"Retry-After": ""}},
		{name: "shutdown", request: proxytest.UpgradeTo("/"),
			prepare: func(_ *testing.T, p *wsproxy.Proxy, _ string) { p.Close() },
			check:   func(err error) bool { return errors.Is(err, wsproxy.ErrShutdown) },
			fields:  map[string]string{"Retry-After": ""}},
		{name: "backend", request: proxytest.UpgradeTo("/"),
			opts: []wsproxy.Option{wsproxy.WithBackends("http://nobody")},
			check: func(err error) bool {
				var failed *wsproxy.BackendError
				return errors.As(err, &failed) && failed.ID == "http://nobody" && failed.Op == "dial"
			}},
		{name: "hook", request: proxytest.UpgradeTo("/"),
			opts:  []wsproxy.Option{wsproxy.WithRewrite(func(*wsproxy.ProxyRequest) error { return refuse })},
			check: func(err error) bool { return err == refuse }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			network := proxytest.NewNetwork()
			network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
			var got error
			var header http.Header
			opts := append([]wsproxy.Option{wsproxy.WithBackends("http://a"), wsproxy.WithDialer(network.Dial),
				wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, err error) {
					got, header = err, w.Header().Clone()
					w.WriteHeader(http.StatusTeapot)
				})}, tt.opts...)
			p, s := proxytest.Start(t, opts...)
			if tt.prepare != nil {
				tt.prepare(t, p, s.URL)
			}
			resp, _ := proxytest.Exchange(t, s.URL, tt.request)
			proxytest.WantStatus(t, resp, http.StatusTeapot)
			if !tt.check(got) {
				t.Errorf("handler got %T: %v", got, got)
			}
			if tt.fields["Connection"] == "" {
				proxytest.WantField(t, header, "Connection", "close")
			}
			for name, want := range tt.fields {
				if name == "Retry-After" {
					wantRetryAfter(t, header)
					continue
				}
				if lines := strings.Join(append(header[name], header[http.CanonicalHeaderKey(name)]...), ", "); !strings.HasPrefix(lines, want) {
					t.Errorf("%s is %q before the handler is called; want %q", name, lines, want)
				}
			}
		})
	}
}

func isStatus(want int) func(error) bool {
	return func(err error) bool {
		var status *wsproxy.StatusError
		return errors.As(err, &status) && status.Status == want
	}
}

func TestHookThatExitsBefore101Becomes500(t *testing.T) {
	for _, tt := range []struct {
		name   string
		option wsproxy.Option
	}{
		{"Rewrite", wsproxy.WithRewrite(func(*wsproxy.ProxyRequest) error { runtime.Goexit(); return nil })},
		{"Response", wsproxy.WithResponse(func(*wsproxy.ProxyResponse) error { runtime.Goexit(); return nil })},
		{"Pick", wsproxy.WithBalancer(wsproxy.BalancerFunc(func(*http.Request, []*wsproxy.Backend) (*wsproxy.Backend, error) {
			runtime.Goexit()
			return nil, nil
		}))},
		{"dialer", wsproxy.WithDialer(func(context.Context, string, string) (net.Conn, error) { runtime.Goexit(); return nil, nil })},
		{"Picked", wsproxy.WithTrace(&wsproxy.Trace{Picked: func(wsproxy.PickedInfo) { runtime.Goexit() }})},
		{"Attempted", wsproxy.WithTrace(&wsproxy.Trace{Attempted: func(wsproxy.AttemptInfo) { runtime.Goexit() }})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, proxytest.Switching)
			p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), tt.option)
			resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
			proxytest.WantStatus(t, resp, http.StatusInternalServerError)
			s.Wait()
			proxytest.WantNoTunnels(t, p)
			if backend.NumAccepted() > 0 {
				proxytest.ReceivedHead(t, backend) // its connection has ended
			}
		})
	}
}

func TestHookThatExitsAfter101EndsTunnel(t *testing.T) {
	t.Parallel() // it waits
	backend := wstest.StartBackend(t)
	ends := make(chan wsproxy.TunnelEnd, 1)
	p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), wsproxy.WithTrace(&wsproxy.Trace{
		Opened: func(wsproxy.OpenedInfo) { runtime.Goexit() },
		Closed: func(e wsproxy.TunnelEnd) { ends <- e; runtime.Goexit() },
	}))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.UpgradeTo("/chat"))
	leg := backend.Accepted(t)
	leg.AcceptUpgrade(nil)
	proxytest.WantSwitch(t, client)
	client.WantClose(1011)
	leg.WantClose(1001)
	client.Close()
	leg.Close()
	if e := <-ends; e.Cause != wsproxy.CausePanic {
		t.Errorf("tunnel ended by %v; want %v", e.Cause, wsproxy.CausePanic)
	}
	s.Wait()
	proxytest.WantNoTunnels(t, p)
}

// What an error wraps is the hook's business, and no timeout of a backend's.
func TestRewriteErrorBecomes500(t *testing.T) {
	for _, tt := range []struct {
		err    error
		status int
	}{
		{fmt.Errorf("auth service: %w", context.DeadlineExceeded), 500},
		{fmt.Errorf("auth service: %w", context.Canceled), 500},
		{&net.OpError{Op: "dial", Err: context.DeadlineExceeded}, 500},
		{errors.Join(errors.New("detail"), context.DeadlineExceeded), 500},
		{errors.Join(&wsproxy.StatusError{Status: 401, Err: errors.New("log in")}, errors.New("detail")), 401},
		{errors.Join(errors.New("detail"), &wsproxy.StatusError{Status: 401, Err: errors.New("log in")}), 401},
	} {
		backend := wstest.StartRaw(t, proxytest.Switching)
		p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), wsproxy.WithRewrite(func(*wsproxy.ProxyRequest) error { return tt.err }))
		resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
		if resp.StatusCode != tt.status {
			t.Errorf("client got status %d for the error %q; want %d", resp.StatusCode, tt.err, tt.status)
		}
		proxytest.WantUntouched(t, backend)
		if state := p.Backends()[0].State(); state != wsproxy.BackendUp {
			t.Errorf("backend is %v after the error %q; want up", state, tt.err)
		}
	}
}

func TestSlowRefusedHookLeavesTheResponse(t *testing.T) {
	for name, hide := range map[string]func(http.ResponseWriter) http.ResponseWriter{
		"as it is":             func(w http.ResponseWriter) http.ResponseWriter { return w },
		"deadlines are hidden": func(w http.ResponseWriter) http.ResponseWriter { return hijackOnly(w) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := proxytest.NewNetwork()
				network.Set("a", proxytest.FakeBackend{Answer: proxytest.Refusing(404, "not here")})
				p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a"), wsproxy.WithDialer(network.Dial),
					wsproxy.WithTrace(&wsproxy.Trace{Refused: func(wsproxy.RefusedInfo) { time.Sleep(11 * time.Second) }}))
				s := proxytest.ServeInMemory(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.ServeHTTP(hide(w), r) }))
				client := s.Dial(t)
				client.WriteRequest(proxytest.UpgradeTo("/chat"))
				time.Sleep(11 * time.Second)
				resp := client.ReadResponse()
				proxytest.WantStatus(t, resp, http.StatusNotFound)
				if body, err := io.ReadAll(resp.Body); string(body) != "not here" || err != nil {
					t.Errorf("client got %q, %v; want the whole body", body, err)
				}
				client.Close()
			})
		})
	}
}

func TestRefusedHookThatExitsEndsTheConnection(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartRaw(t, proxytest.Refusing(404, "not here")).URL()),
		wsproxy.WithTrace(&wsproxy.Trace{Refused: func(wsproxy.RefusedInfo) { runtime.Goexit() }}))
	s := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.ServeHTTP(hijackOnly(w), r) }))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.UpgradeTo("/chat"))
	client.WantEOF()
}
