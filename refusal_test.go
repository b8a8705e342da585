package wsproxy_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestTraceRefusedIsCalledOnceForEachRefusal(t *testing.T) {
	no := errors.New("no")
	rewrite := func(f func() error) wsproxy.Option {
		return wsproxy.WithRewrite(func(*wsproxy.ProxyRequest) error { return f() })
	}
	for _, tt := range []struct {
		name    string
		request string // default: an upgrade to /chat
		opts    []wsproxy.Option
		prepare func(t *testing.T, p *wsproxy.Proxy, url string)
		wrap    func(http.Handler) http.Handler
		reason  wsproxy.Reason
		status  int
		backend string // ID of the one that was tried last
	}{
		{name: "no upgrade", request: proxytest.Head("GET / HTTP/1.1", "Host: x"), reason: wsproxy.ReasonCheck, status: 426},
		{name: "CONNECT", request: proxytest.Head("CONNECT x:80 HTTP/1.1", "Host: x:80"), reason: wsproxy.ReasonCheck, status: 405},
		{name: "version", request: strings.Replace(proxytest.UpgradeTo("/"), "13", "12", 1), reason: wsproxy.ReasonCheck, status: 426},
		{name: "dot segments before a prefix", request: proxytest.UpgradeTo("/../admin"),
			opts: []wsproxy.Option{wsproxy.WithBackends("http://a/rooms")}, reason: wsproxy.ReasonCheck, status: 400, backend: "http://a/rooms"},
		{name: "origin", request: proxytest.UpgradeTo("/", "Origin: https://evil.example"),
			opts: []wsproxy.Option{wsproxy.WithOriginPatterns()}, reason: wsproxy.ReasonOrigin, status: 403},
		{name: "admit refuses", opts: []wsproxy.Option{wsproxy.WithAdmit(func(*http.Request) (any, error) {
			return nil, &wsproxy.StatusError{Status: 401, Err: errors.New("who are you?")}
		})}, reason: wsproxy.ReasonAdmit, status: 401},
		{name: "admit fails", opts: []wsproxy.Option{wsproxy.WithAdmit(func(*http.Request) (any, error) { return nil, no })},
			reason: wsproxy.ReasonAdmit, status: 500},
		{name: "admit panics", opts: []wsproxy.Option{wsproxy.WithAdmit(func(*http.Request) (any, error) { panic("x") })},
			reason: wsproxy.ReasonAdmit, status: 500},
		{name: "admit exits", opts: []wsproxy.Option{wsproxy.WithAdmit(func(*http.Request) (any, error) { runtime.Goexit(); return nil, nil })},
			reason: wsproxy.ReasonAdmit, status: 500},
		{name: "balancer", opts: []wsproxy.Option{wsproxy.WithBalancer(wsproxy.BalancerFunc(
			func(*http.Request, []*wsproxy.Backend) (*wsproxy.Backend, error) { return nil, no }))},
			reason: wsproxy.ReasonHook, status: 500},
		{name: "rewrite", opts: []wsproxy.Option{rewrite(func() error { return &wsproxy.StatusError{Status: 402} })},
			reason: wsproxy.ReasonHook, status: 402, backend: "http://a"},
		{name: "admit has a timeout of its own", opts: []wsproxy.Option{wsproxy.WithAdmit(func(*http.Request) (any, error) { return nil, context.DeadlineExceeded })},
			reason: wsproxy.ReasonAdmit, status: 500},
		{name: "admit has a limit", opts: []wsproxy.Option{wsproxy.WithAdmit(func(*http.Request) (any, error) { return nil, wsproxy.ErrLimit })},
			reason: wsproxy.ReasonAdmit, status: 503},
		{name: "rewrite has a timeout of its own", opts: []wsproxy.Option{rewrite(func() error { return context.DeadlineExceeded })},
			reason: wsproxy.ReasonHook, status: 500, backend: "http://a"},
		{name: "rewrite has a limit", opts: []wsproxy.Option{rewrite(func() error { return wsproxy.ErrLimit })},
			reason: wsproxy.ReasonHook, status: 500, backend: "http://a"},
		{name: "rewrite finds no backend", opts: []wsproxy.Option{rewrite(func() error { return wsproxy.ErrNoBackend })},
			reason: wsproxy.ReasonHook, status: 500, backend: "http://a"},
		{name: "balancer finds none", opts: []wsproxy.Option{wsproxy.WithBalancer(wsproxy.BalancerFunc(
			func(*http.Request, []*wsproxy.Backend) (*wsproxy.Backend, error) { return nil, wsproxy.ErrNoBackend }))},
			reason: wsproxy.ReasonNoBackend, status: 503},
		{name: "rewrite is shut down", opts: []wsproxy.Option{rewrite(func() error { return wsproxy.ErrShutdown })},
			reason: wsproxy.ReasonHook, status: 500, backend: "http://a"},
		{name: "rewrite of an error that looks like the client's", opts: []wsproxy.Option{rewrite(func() error { return errors.Join(context.Canceled) })},
			reason: wsproxy.ReasonHook, status: 500, backend: "http://a"},
		{name: "rewrite panics", opts: []wsproxy.Option{rewrite(func() error { panic("x") })},
			reason: wsproxy.ReasonHook, status: 500, backend: "http://a"},
		{name: "rewrite wants no response", opts: []wsproxy.Option{rewrite(func() error { panic(http.ErrAbortHandler) })},
			reason: wsproxy.ReasonHook, status: 0, backend: "http://a"},
		{name: "response", opts: []wsproxy.Option{wsproxy.WithResponse(func(*wsproxy.ProxyResponse) error { return no })},
			reason: wsproxy.ReasonHook, status: 502, backend: "http://a"},
		{name: "response with a header that cannot be sent", opts: []wsproxy.Option{wsproxy.WithResponse(func(r *wsproxy.ProxyResponse) error {
			r.Header.Set("X", "1\n2")
			return nil
		})}, reason: wsproxy.ReasonHook, status: 502, backend: "http://a"},
		{name: "MaxTunnels", opts: []wsproxy.Option{wsproxy.WithBackendConfigs(wsproxy.BackendConfig{URL: "http://a", MaxTunnels: 1})},
			prepare: func(t *testing.T, _ *wsproxy.Proxy, url string) { proxytest.Open(t, url, proxytest.UpgradeTo("/")) },
			reason:  wsproxy.ReasonBackendLimit, status: 503},
		{name: "no backend", opts: []wsproxy.Option{wsproxy.WithBackends()}, reason: wsproxy.ReasonNoBackend, status: 503},
		{name: "no backend there", opts: []wsproxy.Option{wsproxy.WithBackends("http://nobody")},
			reason: wsproxy.ReasonUnreachable, status: 503, backend: "http://nobody"},
		{name: "nonsense", opts: []wsproxy.Option{wsproxy.WithBackends("http://nonsense")},
			reason: wsproxy.ReasonUnreachable, status: 502, backend: "http://nonsense"},
		{name: "silent", opts: []wsproxy.Option{wsproxy.WithBackends("http://silent"), wsproxy.WithTimeouts(wsproxy.Timeouts{Handshake: time.Millisecond})},
			reason: wsproxy.ReasonUnreachable, status: 503, backend: "http://silent"},
		{name: "answer", opts: []wsproxy.Option{wsproxy.WithBackends("http://refusing")},
			reason: wsproxy.ReasonAnswer, status: 403, backend: "http://refusing"},
		{name: "answer of a backend that is not tried again", opts: []wsproxy.Option{wsproxy.WithBackends("http://busy")},
			reason: wsproxy.ReasonAnswer, status: 503, backend: "http://busy"},
		{name: "middleware's deadline", wrap: func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithDeadline(r.Context(), time.Now())
				defer cancel()
				h.ServeHTTP(w, r.WithContext(ctx))
			})
		}, reason: wsproxy.ReasonDeadline, status: 504},
		{name: "shutdown", prepare: func(_ *testing.T, p *wsproxy.Proxy, _ string) { p.Close() },
			reason: wsproxy.ReasonShutdown, status: 503},
		{name: "hidden connection", wrap: func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(struct{ http.ResponseWriter }{w}, r) })
		}, reason: wsproxy.ReasonFault, status: 500},
		{name: "hijack that fails", wrap: func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(failingHijacker{w}, r) })
		}, reason: wsproxy.ReasonFault, status: 500, backend: "http://a"},
		{name: "hijack that fails for a refusal", opts: []wsproxy.Option{wsproxy.WithBackends("http://refusing")}, wrap: func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				h.ServeHTTP(failingHijacker{struct{ http.ResponseWriter }{w}}, r) // without deadlines, so that a refusal hijacks
			})
		}, reason: wsproxy.ReasonFault, status: 500, backend: "http://refusing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			network := proxytest.NewNetwork()
			network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
			network.Set("nonsense", proxytest.FakeBackend{Answer: "nonsense\r\n\r\n"})
			network.Set("silent", proxytest.FakeBackend{})
			network.Set("refusing", proxytest.FakeBackend{Answer: proxytest.Refusing(403, "no")})
			network.Set("busy", proxytest.FakeBackend{Answer: proxytest.Refusing(503, "busy")})
			told := make(chan wsproxy.RefusedInfo, 3)
			book := new(proxytest.LogBook)
			opts := append([]wsproxy.Option{wsproxy.WithBackends("http://a"), wsproxy.WithDialer(network.Dial), book.Option(),
				wsproxy.WithTrace(&wsproxy.Trace{Refused: func(i wsproxy.RefusedInfo) { told <- i }})}, tt.opts...)
			p := proxytest.NewProxy(t, opts...)
			h := http.Handler(p)
			if tt.wrap != nil {
				h = tt.wrap(p)
			}
			s := proxytest.Serve(t, h)
			if tt.prepare != nil {
				tt.prepare(t, p, s.URL)
			}
			before := p.Stats()
			if tt.request == "" {
				tt.request = proxytest.UpgradeTo("/chat")
			}
			if tt.status == 0 {
				client := wstest.Dial(t, s.URL)
				client.WriteRequest(tt.request)
				client.WantEOF()
			} else {
				resp, _ := proxytest.Exchange(t, s.URL, tt.request)
				proxytest.WantStatus(t, resp, tt.status)
			}
			p.Close()
			s.Wait()
			i := <-told
			if len(told) > 0 {
				t.Fatalf("Trace.Refused was called again: %+v", <-told)
			}
			if i.Reason != tt.reason || tt.status != 0 && i.Status != tt.status {
				t.Errorf("Trace.Refused saw reason %v and status %d; want %v and %d", i.Reason, i.Status, tt.reason, tt.status)
			}
			if id := idOf(i.Backend); id != tt.backend {
				t.Errorf("Trace.Refused saw backend %q; want %q", id, tt.backend)
			}
			if (i.Err == nil) != (tt.reason == wsproxy.ReasonAnswer) || i.Request == nil {
				t.Errorf("Trace.Refused saw error %v and request %v", i.Err, i.Request)
			}
			refused, failed := before.Refused, before.Failed
			if tt.reason == wsproxy.ReasonNoBackend || tt.reason == wsproxy.ReasonUnreachable {
				failed++
			} else {
				refused++
			}
			if st := p.Stats(); st.Refused != refused || st.Failed != failed || st.Upgrading != 0 || st.Tunnels != 0 || st.Waiting != 0 {
				t.Errorf("Stats() = %+v; want %d refused, %d failed, and nothing open", st, refused, failed)
			}
			wantRefusal(t, p, before, tt.reason, i.Backend)
			reason := "reason=" + tt.reason.String() + " "
			if strings.Contains(tt.reason.String(), " ") {
				reason = `reason="` + tt.reason.String() + `"`
			}
			if got := book.Lines("msg=\"upgrade ", reason, "request_id="+i.RequestID); len(got) != 1 {
				t.Errorf("log has %q; want one line with %s", book.Lines(), reason)
			}
		})
	}
}

func idOf(b *wsproxy.Backend) string {
	if b == nil {
		return ""
	}
	return b.ID()
}

type failingHijacker struct{ http.ResponseWriter }

func (failingHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, errors.New("not now")
}

func TestClientThatLeavesHasReasonClientLeft(t *testing.T) {
	told := make(chan wsproxy.RefusedInfo, 2)
	backend := wstest.StartBackend(t) // which does not answer
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()),
		wsproxy.WithTrace(&wsproxy.Trace{Refused: func(i wsproxy.RefusedInfo) { told <- i }}))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.UpgradeTo("/chat"))
	backend.Accepted(t)
	client.Close()
	if i := <-told; i.Reason != wsproxy.ReasonClientLeft || i.Err != context.Canceled {
		t.Errorf("Trace.Refused saw %v, %v; want client left, %v", i.Reason, i.Err, context.Canceled)
	}
}

// A client that is lost while its 101 is written gets no tunnel either.
func TestClientLostBeforeIts101HasReasonClientLeft(t *testing.T) {
	told := make(chan wsproxy.RefusedInfo, 2)
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithTrace(&wsproxy.Trace{
		Refused: func(i wsproxy.RefusedInfo) { told <- i },
		Opened:  func(wsproxy.OpenedInfo) { t.Error("a tunnel opened") },
	}))
	s := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.ServeHTTP(closedAtHijack{w}, r)
	}))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.UpgradeTo("/chat"))
	if i := <-told; i.Reason != wsproxy.ReasonClientLeft || i.Err == nil {
		t.Errorf("Trace.Refused saw %v, %v; want client left, and the error", i.Reason, i.Err)
	}
	client.WantEOF()
	proxytest.WantNoTunnels(t, p)
	if s := p.Stats(); s.Opened != 0 || s.Refused != 1 {
		t.Errorf("Stats = %+v; want one refused", s)
	}
}

// closedAtHijack closes the connection when it is hijacked.
type closedAtHijack struct{ http.ResponseWriter }

func (w closedAtHijack) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, brw, err := w.ResponseWriter.(http.Hijacker).Hijack()
	if err == nil {
		c.Close()
	}
	return c, brw, err
}

func TestTraceRefusedIsNotCalledForTunnelsAndOtherRequests(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)),
		wsproxy.WithTrace(&wsproxy.Trace{Refused: func(i wsproxy.RefusedInfo) { t.Errorf("Trace.Refused saw %+v", i) }}))
	s := proxytest.Serve(t, p.Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "page") })))
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantEcho(t, client)
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.Head("GET / HTTP/1.1", "Host: x", "Connection: close"))
	proxytest.WantStatus(t, resp, http.StatusOK)
	proxytest.HangUp(t, client)
	s.Wait()
}

func TestPanicInRefusedLeavesTheResponse(t *testing.T) {
	_, s := proxytest.Start(t, wsproxy.WithBackends(), wsproxy.WithTrace(&wsproxy.Trace{Refused: func(wsproxy.RefusedInfo) { panic("x") }}))
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
}

func TestReasonHasAName(t *testing.T) {
	seen := make(map[string]bool)
	for r := wsproxy.ReasonCheck; r <= wsproxy.ReasonFault; r++ {
		if name := r.String(); strings.HasPrefix(name, "Reason(") || seen[name] {
			t.Errorf("Reason %d is called %q", r, name)
		} else {
			seen[name] = true
		}
	}
	for _, r := range []wsproxy.Reason{0, wsproxy.ReasonFault + 1, 255} {
		if name := r.String(); !strings.HasPrefix(name, "Reason(") {
			t.Errorf("Reason %d is called %q; there is no such reason", r, name)
		}
	}
}
