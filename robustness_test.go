package wsproxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/memnet"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// What is tested here is code of the user's that does what it must not.

func TestDialerWithoutAConnectionIsABackendThatFails(t *testing.T) {
	network := proxytest.NewNetwork()
	network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
	dial := func(ctx context.Context, kind, addr string) (net.Conn, error) {
		if strings.HasPrefix(addr, "a:") {
			return nil, nil
		}
		return network.Dial(ctx, kind, addr)
	}
	p, s := proxytest.Start(t, wsproxy.WithBackends("http://a"), wsproxy.WithDialer(dial))
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantStatus(t, resp, http.StatusBadGateway)
	if state := p.Backends()[0].State(); state != wsproxy.BackendFailing {
		t.Errorf("backend is %v; want failing", state)
	}
	s.Wait()
	proxytest.WantNoTunnels(t, p)

	_, s = proxytest.Start(t, wsproxy.WithBackends("http://a", "http://b"), proxytest.FirstCandidate, wsproxy.WithDialer(dial))
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantEcho(t, client)
}

// Connections of a dialer's.
type (
	panickyReader struct{ *memnet.Conn }
	panickyWrites struct{ *memnet.Conn }
	panickyCloser struct{ *memnet.Conn }
)

func (panickyReader) Read([]byte) (int, error) { panic("boom") }

func (panickyWrites) Write([]byte) (int, error) { panic("boom") }

func (c panickyCloser) Close() error { c.Conn.Close(); panic("boom") }

func TestPanicInTheDialersConnectionClosesItOnceAndGivesThePlaceBack(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		for _, tt := range []struct {
			name string
			wrap func(*memnet.Conn) net.Conn
		}{
			{"Read", func(c *memnet.Conn) net.Conn { return panickyReader{c} }},
			{"Write", func(c *memnet.Conn) net.Conn { return panickyWrites{c} }},
			{"Close", func(c *memnet.Conn) net.Conn { return panickyCloser{c} }},
		} {
			t.Run(tt.name+" over "+scheme, func(t *testing.T) {
				var book proxytest.LogBook
				var front *memnet.Conn
				p, s := proxytest.Start(t, wsproxy.WithBackends(scheme+"://a"), book.Option(), wsproxy.WithDialer(
					func(context.Context, string, string) (net.Conn, error) {
						var back *memnet.Conn
						front, back = memnet.Pipe(4096)
						go proxytest.FakeBackend{Answer: "nonsense\r\n\r\n"}.Serve(back) // until the proxy closes front
						return tt.wrap(front), nil
					}))
				resp, body := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
				proxytest.WantStatus(t, resp, http.StatusInternalServerError)
				if strings.Contains(body, "boom") {
					t.Errorf("client got %q; want nothing about the panic", body)
				}
				if n := front.NumCloses(); n != 1 {
					t.Errorf("connection was closed %d times; want 1", n)
				}
				if lines := book.Lines("level=ERROR", "boom", "stack="); len(lines) != 1 {
					t.Errorf("log has %q; want one Error line about the panic", book.Lines())
				}
				s.Wait()
				proxytest.WantNoTunnels(t, p)
			})
		}
	}
}

func TestPanicInCloseAfterARefusalGivesThePlaceBack(t *testing.T) {
	var front *memnet.Conn
	p, s := proxytest.Start(t, wsproxy.WithBackends("http://a"), wsproxy.WithDialer(func(context.Context, string, string) (net.Conn, error) {
		var back *memnet.Conn
		front, back = memnet.Pipe(4096)
		go proxytest.FakeBackend{Answer: proxytest.Refusing(403, "no")}.Serve(back) // until the proxy closes front
		return panickyCloser{front}, nil
	}))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.UpgradeTo("/chat"))
	io.Copy(io.Discard, client) // to the end, whether the answer came before it or not
	s.Wait()
	if n := front.NumCloses(); n != 1 {
		t.Errorf("connection was closed %d times; want 1", n)
	}
	proxytest.WantNoTunnels(t, p)
}

func TestDialersConnectionIsClosedOnceWhenTLSTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		front, back := memnet.Pipe(64 << 10)
		p := proxytest.NewProxy(t, wsproxy.WithBackends("https://a"), wsproxy.WithDialer(
			func(context.Context, string, string) (net.Conn, error) { return front, nil }))
		s := proxytest.ServeInMemory(t, p)
		client := s.Dial(t)
		client.WriteRequest(proxytest.UpgradeTo("/chat"))
		time.Sleep(10 * time.Second)
		proxytest.WantStatus(t, client.ReadResponse(), http.StatusGatewayTimeout)
		s.Wait()
		synctest.Wait() // for whoever might close it late
		if n := front.NumCloses(); n != 1 {
			t.Errorf("connection was closed %d times; want 1", n)
		}
		back.Close()
		proxytest.WantNoTunnels(t, p)
	})
}

// A panickyLog is a handler that panics.
type panickyLog struct {
	slog.Handler
	inEnabled bool
	calls     *atomic.Int64
}

func (l panickyLog) Enabled(context.Context, slog.Level) bool {
	if l.inEnabled {
		l.calls.Add(1)
		panic("log")
	}
	return true
}

func (l panickyLog) Handle(context.Context, slog.Record) error {
	l.calls.Add(1)
	panic("log")
}

func TestPanicOfTheLoggerEndsNothing(t *testing.T) {
	for _, inEnabled := range []bool{false, true} {
		t.Run(fmt.Sprintf("in Enabled %t", inEnabled), func(t *testing.T) {
			log := panickyLog{slog.DiscardHandler, inEnabled, new(atomic.Int64)}
			network := proxytest.NewNetwork() // where nobody is at a
			network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
			ends, trace := proxytest.TraceEnds()
			p, s := proxytest.Start(t, wsproxy.WithBackends("http://a", "http://b"), proxytest.FirstCandidate, wsproxy.WithDialer(network.Dial),
				wsproxy.WithLogger(slog.New(log)), trace,
				wsproxy.WithRewrite(func(r *wsproxy.ProxyRequest) error {
					if r.In.URL.Path == "/panic" {
						panic("boom")
					}
					return nil
				}))
			wantLogged := func(what string) {
				t.Helper()
				if log.calls.Swap(0) == 0 {
					t.Errorf("%s was not logged", what)
				}
			}
			client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
			proxytest.WantEcho(t, client)
			proxytest.HangUp(t, client)
			if e := <-ends; e.Cause != wsproxy.CauseClosed || e.Cut {
				t.Errorf("tunnel ended by %v, cut %t; want closed", e.Cause, e.Cut)
			}
			wantLogged("tunnel")
			resp, _ := proxytest.Exchange(t, s.URL, proxytest.Head("GET / HTTP/1.1", "Host: a"))
			proxytest.WantStatus(t, resp, http.StatusUpgradeRequired)
			wantLogged("refusal")
			resp, _ = proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/panic"))
			proxytest.WantStatus(t, resp, http.StatusInternalServerError)
			wantLogged("panic")
			hidden := proxytest.Serve(t, wrapped(p, func(w http.ResponseWriter) http.ResponseWriter { return hidingWriter{w} }))
			resp, _ = proxytest.Exchange(t, hidden.URL, proxytest.UpgradeTo("/chat"))
			proxytest.WantStatus(t, resp, http.StatusInternalServerError)
			wantLogged("hidden Hijack")
			s.Wait()
			hidden.Wait()
			proxytest.WantNoTunnels(t, p)
			if err := p.Shutdown(t.Context()); err != nil {
				t.Errorf("Shutdown() = %v; want nil: nothing is left", err)
			}
		})
	}
}

func TestHookThatEndsItsGoroutineBeforeThe101Gives500(t *testing.T) {
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

func TestHookThatEndsItsGoroutineAfterThe101EndsTheTunnel(t *testing.T) {
	backend := wstest.StartBackend(t)
	ends := make(chan wsproxy.TunnelEnd, 1)
	p, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), wsproxy.WithTrace(&wsproxy.Trace{
		Opened: func(wsproxy.TunnelInfo) { runtime.Goexit() },
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
func TestErrorOfRewriteIs500WhateverItWraps(t *testing.T) {
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
