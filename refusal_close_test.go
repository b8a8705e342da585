package wsproxy_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func refuseByClose() wsproxy.Option { return wsproxy.WithRefusal(wsproxy.Refusal{ByClose: true}) }

func TestRefusalByCloseHasCodeAndReason(t *testing.T) {
	admit := func(err error) wsproxy.Option {
		return wsproxy.WithAdmit(func(*http.Request) (any, error) { return nil, err })
	}
	for _, tt := range []struct {
		name    string
		opts    []wsproxy.Option
		prepare func(t *testing.T, p *wsproxy.Proxy, url string)
		code    uint16
		reason  string
	}{
		{name: "origin", opts: []wsproxy.Option{wsproxy.WithOriginPatterns()}, code: 1008, reason: "origin"},
		{name: "admit", opts: []wsproxy.Option{admit(&wsproxy.StatusError{Status: 401})}, code: 1008, reason: "admit"},
		{name: "admit fails", opts: []wsproxy.Option{admit(errors.New("database"))}, code: 1011, reason: "admit"},
		{name: "admit has a limit", opts: []wsproxy.Option{admit(wsproxy.ErrLimit)}, code: 1013, reason: "admit"},
		{name: "hook", opts: []wsproxy.Option{wsproxy.WithRewrite(func(*wsproxy.ProxyRequest) error { return errors.New("no") })}, code: 1011, reason: "hook"},
		{name: "response hook", opts: []wsproxy.Option{wsproxy.WithResponse(func(*wsproxy.ProxyResponse) error { return errors.New("no") })}, code: 1011, reason: "hook"},
		{name: "limit", opts: []wsproxy.Option{wsproxy.WithLimits(wsproxy.Limits{Tunnels: 1})},
			prepare: func(t *testing.T, _ *wsproxy.Proxy, url string) { proxytest.Open(t, url, proxytest.UpgradeTo("/")) }, code: 1013, reason: "limit"},
		{name: "client limit", opts: []wsproxy.Option{wsproxy.WithLimits(wsproxy.Limits{PerClient: 1})},
			prepare: func(t *testing.T, _ *wsproxy.Proxy, url string) { proxytest.Open(t, url, proxytest.UpgradeTo("/")) }, code: 1008, reason: "client limit"},
		{name: "no backend", opts: []wsproxy.Option{wsproxy.WithBackends()}, code: 1013, reason: "no backend"},
		{name: "unreachable", opts: []wsproxy.Option{wsproxy.WithBackends("http://nobody")}, code: 1013, reason: "unreachable"},
		{name: "shutdown", prepare: func(_ *testing.T, p *wsproxy.Proxy, _ string) { p.Close() }, code: 1012, reason: "shutdown"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			network := proxytest.NewNetwork()
			network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
			told := make(chan wsproxy.RefusedInfo, 2)
			opts := append([]wsproxy.Option{wsproxy.WithBackends("http://a"), wsproxy.WithDialer(network.Dial), refuseByClose(),
				wsproxy.WithErrorHandler(func(http.ResponseWriter, *http.Request, error) { t.Error("the error handler is called") }),
				wsproxy.WithTrace(&wsproxy.Trace{Refused: func(i wsproxy.RefusedInfo) { told <- i }})}, tt.opts...)
			p := proxytest.NewProxy(t, opts...)
			s := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Set-Cookie", "session=1")
				p.ServeHTTP(w, r)
			}))
			if tt.prepare != nil {
				tt.prepare(t, p, s.URL)
			}
			client := wstest.Dial(t, s.URL)
			client.WriteRequest(proxytest.UpgradeTo("/", "Origin: https://evil.example", "Sec-WebSocket-Protocol: v2, v1",
				"Sec-WebSocket-Extensions: permessage-deflate"))
			resp := proxytest.WantSwitch(t, client)
			proxytest.WantField(t, resp.Header, "Sec-WebSocket-Protocol", "v2")
			proxytest.WantField(t, resp.Header, "Sec-WebSocket-Extensions")
			proxytest.WantField(t, resp.Header, "Set-Cookie")
			client.Want(wstest.Close(tt.code, tt.reason))
			i := <-told
			proxytest.WantField(t, resp.Header, "X-Request-Id", i.RequestID)
			if i.Reason.String() != tt.reason {
				t.Errorf("Trace.Refused saw %v; want %s", i.Reason, tt.reason)
			}
			client.Send(wstest.Close(tt.code, ""))
			client.WantEOF()
			client.Close()
			p.Close()
			s.Wait()
		})
	}
}

func TestRefusalByCloseWithoutSubprotocol(t *testing.T) {
	_, s := proxytest.Start(t, wsproxy.WithBackends(), refuseByClose())
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.UpgradeTo("/"))
	resp := proxytest.WantSwitch(t, client)
	proxytest.WantField(t, resp.Header, "Sec-WebSocket-Protocol")
	client.WantClose(1013)
	client.Close()
}

func TestRefusalByCloseIsNotForBrokenRequestsNorForBackends(t *testing.T) {
	for name, tt := range map[string]struct {
		request string
		status  int
	}{
		"no upgrade":        {proxytest.Head("GET / HTTP/1.1", "Host: x"), 426},
		"version":           {strings.Replace(proxytest.UpgradeTo("/"), "13", "12", 1), 426},
		"backend's refusal": {proxytest.UpgradeTo("/"), 403},
	} {
		t.Run(name, func(t *testing.T) {
			_, s := proxytest.Start(t, wsproxy.WithBackends(wstest.StartRaw(t, proxytest.Refusing(403, "no")).URL()), refuseByClose())
			resp, _ := proxytest.Exchange(t, s.URL, tt.request)
			proxytest.WantStatus(t, resp, tt.status)
		})
	}
	t.Run("version, after Close", func(t *testing.T) {
		p, s := proxytest.Start(t, wsproxy.WithBackends(), refuseByClose())
		p.Close()
		resp, _ := proxytest.Exchange(t, s.URL, strings.Replace(proxytest.UpgradeTo("/"), "13", "12", 1))
		proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
	})
}

func TestRefusalByCloseWithoutHijackerHasAStatus(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithOriginPatterns(), refuseByClose())
	s := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.ServeHTTP(struct{ http.ResponseWriter }{w}, r)
	}))
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/", "Origin: https://evil.example"))
	proxytest.WantStatus(t, resp, http.StatusForbidden)
}

// A client that does not answer is waited for, but not for long, and not with many others.
func TestRefusalByCloseWaitsTwoSecondsForFewClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := proxytest.NewNetwork()
		p := proxytest.NewProxy(t, wsproxy.WithBackends("http://nobody"), wsproxy.WithDialer(network.Dial), refuseByClose(),
			wsproxy.WithLimits(wsproxy.Limits{Tunnels: 20}))
		s := proxytest.ServeInMemory(t, p)
		begin := time.Now()
		var silent []*wstest.Peer
		for range 2 { // a tenth
			client := s.Dial(t)
			client.WriteRequest(proxytest.UpgradeTo("/"))
			proxytest.WantSwitch(t, client)
			client.WantClose(1013)
			silent = append(silent, client)
		}
		third := s.Dial(t)
		third.WriteRequest(proxytest.UpgradeTo("/"))
		proxytest.WantStatus(t, third.ReadResponse(), http.StatusServiceUnavailable)
		third.Close()
		s.Wait()
		if took := time.Since(begin); took != 2*time.Second {
			t.Errorf("the handlers returned after %v; want 2 s", took)
		}
		for _, c := range silent {
			if _, err := c.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("silent client read %v; want the end of the stream", err)
			}
			c.Close()
		}
		fourth := s.Dial(t)
		fourth.WriteRequest(proxytest.UpgradeTo("/"))
		proxytest.WantSwitch(t, fourth)
		fourth.Close()
	})
}

func TestFrontShowsRefusalByCloseAs101(t *testing.T) {
	s := serveFront(t, statusWriter{}, nil, nil, wsproxy.WithBackends(), refuseByClose())
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.UpgradeTo("/"))
	proxytest.WantSwitch(t, client)
	client.WantClose(1013)
	client.Close()
	s.wantStatuses(t, 101)
}

func TestRetryAfterIsDrawnFromOneToTwoTimes(t *testing.T) {
	for _, tt := range []struct {
		after       time.Duration
		least, most int // 0: no Retry-After
	}{
		{0, 2, 4}, {10 * time.Second, 10, 20}, {time.Millisecond, 1, 1}, {-1, 0, 0},
	} {
		p, s := proxytest.Start(t, wsproxy.WithBackends(), wsproxy.WithRefusal(wsproxy.Refusal{RetryAfter: tt.after}))
		p.Close()
		seen := make(map[int]bool)
		for range 30 {
			resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/"))
			value := resp.Header.Get("Retry-After")
			n, _ := strconv.Atoi(value)
			if n < tt.least || n > tt.most || (value == "") != (tt.most == 0) {
				t.Errorf("RetryAfter %v: Retry-After is %q; want %d to %d", tt.after, value, tt.least, tt.most)
			}
			seen[n] = true
		}
		if tt.most > tt.least+5 && len(seen) < 3 {
			t.Errorf("RetryAfter %v: 30 refusals had only %v", tt.after, seen)
		}
	}
}

// wantRetryAfter checks that the client is told to come again.
func wantRetryAfter(t *testing.T, h http.Header) {
	t.Helper()
	if n, err := strconv.Atoi(h.Get("Retry-After")); err != nil || n < 2 || n > 4 {
		t.Errorf("Retry-After is %q; want 2 to 4", h.Get("Retry-After"))
	}
}

// A client that is refused may come again at once: its place is free before it has left.
func TestRefusalByCloseHoldsNoPlace(t *testing.T) {
	for name, l := range map[string]wsproxy.Limits{"in all": {Tunnels: 1}, "for each client": {PerClient: 1}} {
		t.Run(name, func(t *testing.T) {
			_, s := proxytest.Start(t, wsproxy.WithBackends(), refuseByClose(), wsproxy.WithLimits(l))
			for range 2 {
				client := wstest.Dial(t, s.URL)
				client.WriteRequest(proxytest.UpgradeTo("/"))
				if resp := client.ReadResponse(); resp.StatusCode == http.StatusSwitchingProtocols {
					client.Want(wstest.Close(1013, "no backend"))
				} else { // one may linger
					proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
				}
				defer client.Close()
			}
		})
	}
}

func TestRefusalByCloseEndsWithTheClientsClose(t *testing.T) {
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"as it is":           func(c net.Conn) net.Conn { return c },
		"without CloseWrite": func(c net.Conn) net.Conn { return struct{ net.Conn }{c} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := proxytest.NewProxy(t, wsproxy.WithBackends(), refuseByClose())
				s := proxytest.ServeInMemory(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					p.ServeHTTP(wrapsHijacked{w, wrap}, r)
				}))
				begin := time.Now()
				client := s.Dial(t)
				client.WriteRequest(proxytest.UpgradeTo("/"))
				proxytest.WantSwitch(t, client)
				client.WantClose(1013)
				client.Send(wstest.Text("not read"), wstest.Close(1013, ""))
				client.WantEOF()
				client.Close()
				s.Wait()
				if took := time.Since(begin); took > 0 {
					t.Errorf("the connection ended after %v; want at once", took)
				}
			})
		})
	}
}

// wrapsHijacked wraps the connection that is hijacked.
type wrapsHijacked struct {
	http.ResponseWriter
	wrap func(net.Conn) net.Conn
}

func (w wrapsHijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, brw, err := w.ResponseWriter.(http.Hijacker).Hijack()
	if err != nil {
		return nil, nil, err
	}
	return w.wrap(c), brw, nil
}

func TestShutdownDoesNotWaitForClientsThatWereRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := proxytest.NewProxy(t, wsproxy.WithBackends(), refuseByClose())
		s := proxytest.ServeInMemory(t, p)
		client := s.Dial(t)
		client.WriteRequest(proxytest.UpgradeTo("/"))
		proxytest.WantSwitch(t, client)
		client.WantClose(1013)
		begin := time.Now()
		if err := p.Shutdown(t.Context()); err != nil || time.Since(begin) > 0 {
			t.Errorf("Shutdown() = %v after %v; want nil at once", err, time.Since(begin))
		}
		client.Close()
		s.Wait()
	})
}

// Whether the upgrade was under way or came later: Shutdown and Close do not wait for the
// client, and leave nothing behind.
func TestRefusalByCloseEndsWithShutdown(t *testing.T) {
	for name, end := range map[string]func(*wsproxy.Proxy) error{
		"Shutdown": func(p *wsproxy.Proxy) error { return p.Shutdown(context.Background()) },
		"Close":    (*wsproxy.Proxy).Close,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, s, network := startInMemory(t, wsproxy.WithBackends("http://a"), refuseByClose())
				network.Set("a", proxytest.FakeBackend{}) // it never answers
				early, late := s.Dial(t), s.Dial(t)
				early.WriteRequest(proxytest.UpgradeTo("/"))
				synctest.Wait()
				begin := time.Now()
				if err := end(p); err != nil {
					t.Errorf("%s() = %v; want nil", name, err)
				}
				late.WriteRequest(proxytest.UpgradeTo("/"))
				for _, client := range []*wstest.Peer{early, late} {
					proxytest.WantSwitch(t, client)
					client.Want(wstest.Close(1012, "shutdown"))
				}
				s.Wait()
				if took := time.Since(begin); took > 0 {
					t.Errorf("the connections ended after %v; want at once", took)
				}
				early.Close()
				late.Close()
			})
		})
	}
}

// A client that comes while Shutdown waits for tunnels may close the connection properly.
func TestRefusalByCloseLingersDuringShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan bool)
		p, s, network := startInMemory(t, wsproxy.WithBackends("http://a"), refuseByClose(),
			wsproxy.WithTrace(&wsproxy.Trace{Closed: func(wsproxy.TunnelEnd) { <-goOn }}))
		network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
		first := s.Dial(t)
		first.WriteRequest(proxytest.UpgradeTo("/"))
		proxytest.WantSwitch(t, first)
		done := proxytest.ShutDown(t.Context(), p)
		first.WantClose(1001)
		first.Close()
		late := s.Dial(t)
		late.WriteRequest(proxytest.UpgradeTo("/"))
		proxytest.WantSwitch(t, late)
		late.Want(wstest.Close(1012, "shutdown"))
		begin := time.Now()
		time.Sleep(time.Second)
		late.Send(wstest.Text("still read"))
		close(goOn)
		if err := <-done; err != nil {
			t.Errorf("Shutdown() = %v; want nil: no tunnel was cut", err)
		}
		s.Wait()
		if took := time.Since(begin); took != time.Second {
			t.Errorf("Shutdown and the client's connection took %v; want 1 s, as long as the tunnel", took)
		}
		late.Close()
	})
}

func TestRetryAfterOfAHookStays(t *testing.T) {
	_, s := proxytest.Start(t, wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithAdmit(func(*http.Request) (any, error) {
		return nil, &wsproxy.StatusError{Status: 429, Header: http.Header{"Retry-After": {"3600"}}, Err: wsproxy.ErrLimit}
	}))
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/"))
	proxytest.WantStatus(t, resp, http.StatusTooManyRequests)
	proxytest.WantField(t, resp.Header, "Retry-After", "3600")
}
