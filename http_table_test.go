package wsproxy_test

import (
	"context"
	"errors"
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

// A kind is an upgrade, or a request that is none.
type kind struct {
	name    string
	request string // GET /chat
	answer  string // with which a backend accepts it
}

var (
	upgradeKind = kind{"upgrade", proxytest.UpgradeTo("/chat"), proxytest.Switching}
	plainKind   = kind{"plain", proxytest.Head("GET /chat HTTP/1.1", "Host: chat.example"), proxytest.Refusing(200, "ok")}
)

// with returns the request with another method and further lines.
func (k kind) with(method string, lines ...string) string {
	r := strings.Replace(k.request, "GET", method, 1)
	return strings.TrimSuffix(r, "\r\n") + strings.Join(append(lines, "", ""), "\r\n")
}

// A kindScene is a proxy with one backend in a bubble, for one row of the table of WithHTTP.
type kindScene struct {
	*testing.T
	kind
	p       *wsproxy.Proxy
	site    *proxytest.Site
	backend *proxytest.BackendInMemory
}

// ask sends a request over a new connection.
func (s *kindScene) ask(request string) *wstest.Peer {
	s.Helper()
	c := s.site.Dial(s)
	c.WriteRequest(request)
	synctest.Wait()
	return c
}

// begin sends a request that reaches the backend. It has no response yet.
func (s *kindScene) begin() (client, leg *wstest.Peer) {
	s.Helper()
	client = s.ask(s.request)
	leg = s.backend.Accept(s)
	leg.ReadRequest()
	return client, leg
}

// answer sends the backend's response to the request that leg has read.
func (s *kindScene) answer(leg *wstest.Peer, answer string) {
	leg.Write([]byte(answer))
	synctest.Wait()
}

// wantRefused checks that a request gets a status without a backend.
func (s *kindScene) wantRefused(request string, status int) {
	s.Helper()
	c := s.ask(request)
	resp := c.ReadResponse()
	proxytest.WantStatus(s, resp, status)
	io.Copy(io.Discard, resp.Body)
	c.Close()
}

func (s *kindScene) flags() string {
	var names []string
	for _, f := range s.p.Backends()[0].Health().Flags {
		names = append(names, f.Flag.String())
	}
	return strings.Join(names, ", ")
}

// The differences between an upgrade and plain HTTP, as WithHTTP documents them. Each row has one
// check for each kind.
func TestWithHTTPDiffersFromUpgradesAsDocumented(t *testing.T) {
	one := wsproxy.Rate{PerSecond: 0.001, Burst: 1}
	for _, row := range []struct {
		name           string
		opts           []wsproxy.Option
		config         wsproxy.BackendConfig
		upgrade, plain func(*kindScene)
	}{
		{
			name:    "Timeouts.Handshake: to the response, or to the connection only",
			opts:    []wsproxy.Option{wsproxy.WithTimeouts(wsproxy.Timeouts{Handshake: 5 * time.Second})},
			upgrade: func(s *kindScene) { s.begin(); time.Sleep(6 * time.Second); wantFlags(s, "resting") },
			plain: func(s *kindScene) {
				c, leg := s.begin()
				time.Sleep(25 * time.Second)
				s.answer(leg, plainKind.answer)
				proxytest.WantStatus(s, c.ReadResponse(), 200)
				wantFlags(s, "")
			},
		},
		{
			name:    "Handshakes: each, or each without a binding",
			opts:    []wsproxy.Option{wsproxy.WithLimits(wsproxy.Limits{Handshakes: one})},
			upgrade: func(s *kindScene) { s.begin(); s.wantRefused(s.request, 503) },
			plain:   func(s *kindScene) { s.begin(); s.wantRefused(s.request, 503) },
		},
		{
			name: "Handshakes of a client that is bound: each, or none",
			opts: []wsproxy.Option{wsproxy.WithLimits(wsproxy.Limits{Handshakes: one}), wsproxy.WithAffinity(wsproxy.Affinity{Key: wsproxy.ByHeader("X-Session")})},
			upgrade: func(s *kindScene) {
				s.ask(s.with("GET", "X-Session: 1"))
				s.backend.Accept(s).ReadRequest()
				s.wantRefused(s.with("GET", "X-Session: 1"), 503)
			},
			plain: func(s *kindScene) {
				s.begin()
				s.wantRefused(s.request, 503)
				for range 3 {
					s.ask(s.with("GET", "X-Session: 1"))
					s.backend.Accept(s).ReadRequest()
				}
			},
		},
		{
			name:    "HandshakesPerClient: the same",
			opts:    []wsproxy.Option{wsproxy.WithLimits(wsproxy.Limits{HandshakesPerClient: one, ClientKey: wsproxy.ByHeader("Host")})},
			upgrade: func(s *kindScene) { s.begin(); s.wantRefused(s.request, 429) },
			plain:   func(s *kindScene) { s.begin(); s.wantRefused(s.request, 429) },
		},
		{
			name:    "Load and NumTunnels: both, or Load while in flight",
			upgrade: func(s *kindScene) { s.begin(); wantCounts(s, 1, 1, 0) },
			plain: func(s *kindScene) {
				c, leg := s.begin()
				wantCounts(s, 1, 0, 1)
				s.answer(leg, plainKind.answer)
				io.Copy(io.Discard, c.ReadResponse().Body)
				synctest.Wait()
				wantCounts(s, 0, 0, 0)
			},
		},
		{
			name:    "MaxTunnels",
			config:  wsproxy.BackendConfig{MaxTunnels: 1},
			upgrade: func(s *kindScene) { s.begin(); s.wantRefused(s.request, 503) },
			plain:   func(s *kindScene) { s.begin(); s.begin(); wantCounts(s, 2, 0, 2) },
		},
		{
			name:    "Limits.Tunnels",
			opts:    []wsproxy.Option{wsproxy.WithLimits(wsproxy.Limits{Tunnels: 1})},
			upgrade: func(s *kindScene) { s.begin(); s.wantRefused(s.request, 503) },
			plain:   func(s *kindScene) { s.begin(); s.begin(); wantCounts(s, 2, 0, 2) },
		},
		{
			name: "PerClient: tunnels, or requests in flight by a count of their own",
			opts: []wsproxy.Option{wsproxy.WithLimits(wsproxy.Limits{PerClient: 1, ClientKey: wsproxy.ByHeader("Host")})},
			upgrade: func(s *kindScene) {
				s.begin()
				s.wantRefused(s.request, 429)
				(&kindScene{s.T, plainKind, s.p, s.site, s.backend}).begin()
			},
			plain: func(s *kindScene) {
				(&kindScene{s.T, upgradeKind, s.p, s.site, s.backend}).begin()
				c, leg := s.begin()
				s.wantRefused(s.request, 429)
				s.answer(leg, plainKind.answer)
				io.Copy(io.Discard, c.ReadResponse().Body)
				synctest.Wait()
				c.WriteRequest(s.request)
				leg.ReadRequest()
			},
		},
		{
			name: "evidence: the connection fails",
			opts: []wsproxy.Option{wsproxy.WithDialer(func(context.Context, string, string) (net.Conn, error) {
				return nil, errors.New("refused")
			})},
			upgrade: func(s *kindScene) { s.wantRefused(s.request, 503); wantFlags(s, "unreachable") },
			plain:   func(s *kindScene) { s.wantRefused(s.request, 503); wantFlags(s, "unreachable") },
		},
		{
			name:    "evidence: closed before a response",
			upgrade: func(s *kindScene) { _, leg := s.begin(); leg.Close(); synctest.Wait(); wantFlags(s, "resting") },
			plain:   func(s *kindScene) { _, leg := s.begin(); leg.Close(); synctest.Wait(); wantFlags(s, "resting") },
		},
		{
			name:    "evidence: 502",
			upgrade: func(s *kindScene) { wantFlagsAfter(s, 502, "resting") },
			plain:   func(s *kindScene) { wantFlagsAfter(s, 502, "resting") },
		},
		{
			name:    "evidence: 504",
			upgrade: func(s *kindScene) { wantFlagsAfter(s, 504, "resting") },
			plain:   func(s *kindScene) { wantFlagsAfter(s, 504, "resting") },
		},
		{
			name:    "evidence: 503 without Retry-After",
			upgrade: func(s *kindScene) { wantFlagsAfter(s, 503, "resting") },
			plain:   func(s *kindScene) { wantFlagsAfter(s, 503, "") },
		},
		{
			name:    "evidence: 503 with Retry-After",
			upgrade: func(s *kindScene) { wantFlagsAfter(s, 503, "full", "Retry-After: 5") },
			plain:   func(s *kindScene) { wantFlagsAfter(s, 503, "", "Retry-After: 5") },
		},
		{
			name: "evidence: a client that leaves after 5 s",
			upgrade: func(s *kindScene) {
				c, _ := s.begin()
				time.Sleep(5 * time.Second)
				c.Close()
				synctest.Wait()
				wantFlags(s, "resting")
			},
			plain: func(s *kindScene) {
				c, _ := s.begin()
				time.Sleep(5 * time.Second)
				c.Close()
				synctest.Wait()
				wantFlags(s, "")
			},
		},
		{
			name: "evidence: a response below 500 ends a flag",
			upgrade: func(s *kindScene) {
				wantFlagsAfter(s, 502, "resting")
				time.Sleep(2 * time.Second)
				wantFlagsAfter(s, 404, "")
			},
			plain: func(s *kindScene) {
				wantFlagsAfter(s, 502, "resting")
				time.Sleep(2 * time.Second)
				wantFlagsAfter(s, 404, "")
			},
		},
		{
			name:    "refusal for Load: any answer but 101, or never",
			upgrade: func(s *kindScene) { wantFlagsAfter(s, 404, ""); wantRefusing(s, true) },
			plain:   func(s *kindScene) { wantFlagsAfter(s, 404, ""); wantRefusing(s, false) },
		},
		{
			name:   "Queue",
			opts:   []wsproxy.Option{wsproxy.WithLimits(wsproxy.Limits{Queue: 1})},
			config: wsproxy.BackendConfig{MaxTunnels: 1},
			upgrade: func(s *kindScene) {
				s.begin()
				s.ask(s.request)
				if n := s.p.Stats().Waiting; n != 1 {
					s.Errorf("%d upgrades wait; want 1", n)
				}
			},
			plain: func(s *kindScene) {
				(&kindScene{s.T, upgradeKind, s.p, s.site, s.backend}).begin()
				s.begin()
				if n := s.p.Stats().Waiting; n != 0 {
					s.Errorf("%d requests wait; want none", n)
				}
			},
		},
		{
			name:    "Refusal.ByClose",
			opts:    []wsproxy.Option{wsproxy.WithRefusal(wsproxy.Refusal{ByClose: true}), wsproxy.WithAdmit(refuseAll)},
			upgrade: wantUpgradeClosed,
			plain:   func(s *kindScene) { s.wantRefused(s.request, 403) },
		},
		{
			name:    "origin patterns: yes, but never for OPTIONS",
			opts:    []wsproxy.Option{wsproxy.WithOriginPatterns()},
			upgrade: func(s *kindScene) { s.wantRefused(s.with("GET", "Origin: https://evil.example"), 403) },
			plain: func(s *kindScene) {
				s.wantRefused(s.with("GET", "Origin: https://evil.example"), 403)
				s.wantRefused(s.with("POST", "Origin: https://evil.example"), 403)
				s.ask(s.with("OPTIONS", "Origin: https://evil.example"))
				s.backend.Accept(s).ReadRequest()
			},
		},
		{
			name:    "Admit",
			opts:    []wsproxy.Option{wsproxy.WithAdmit(refuseAll)},
			upgrade: func(s *kindScene) { s.wantRefused(s.request, 403) },
			plain:   func(s *kindScene) { s.wantRefused(s.request, 403) },
		},
		{
			name: "Rewrite",
			opts: []wsproxy.Option{wsproxy.WithRewrite(func(r *wsproxy.ProxyRequest) error {
				r.Out.Header.Set("X-User", "ann")
				r.Out.URL.Path = "/other"
				return nil
			})},
			upgrade: wantRewritten, plain: wantRewritten,
		},
		{
			name: "Response",
			opts: []wsproxy.Option{wsproxy.WithResponse(func(r *wsproxy.ProxyResponse) error {
				r.Header.Set("X-Hook", fmt.Sprint(r.StatusCode))
				return nil
			})},
			upgrade: func(s *kindScene) { wantHookField(s, "101") }, plain: func(s *kindScene) { wantHookField(s, "200") },
		},
		{
			name: "ErrorHandler",
			opts: []wsproxy.Option{wsproxy.WithAdmit(refuseAll), wsproxy.WithErrorHandler(func(w http.ResponseWriter, r *http.Request, err error) {
				w.WriteHeader(http.StatusTeapot)
			})},
			upgrade: func(s *kindScene) { s.wantRefused(s.request, http.StatusTeapot) },
			plain:   func(s *kindScene) { s.wantRefused(s.request, http.StatusTeapot) },
		},
	} {
		for _, k := range []kind{upgradeKind, plainKind} {
			t.Run(row.name+"/"+k.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := &kindScene{T: t, kind: k, backend: proxytest.NewBackendInMemory(t)}
					row.config.URL = "http://a"
					s.p = proxytest.NewProxy(t, append([]wsproxy.Option{wsproxy.WithBackendConfigs(row.config), s.backend.Option(), withHTTP}, row.opts...)...)
					s.site = proxytest.ServeInMemory(t, s.p)
					check := row.upgrade
					if k == plainKind {
						check = row.plain
					}
					check(s)
				})
			})
		}
	}
}

func refuseAll(*http.Request) (any, error) {
	return nil, &wsproxy.StatusError{Status: 403, Err: errors.New("no")}
}

func wantFlags(s *kindScene, want string) {
	s.Helper()
	if got := s.flags(); got != want {
		s.Errorf("the backend has the flags %q; want %q", got, want)
	}
}

// wantFlagsAfter has the backend answer with a status, which the client gets.
func wantFlagsAfter(s *kindScene, status int, want string, lines ...string) {
	s.Helper()
	c, leg := s.begin()
	s.answer(leg, proxytest.Refusing(status, "", append(lines, "Connection: close")...))
	proxytest.WantStatus(s, c.ReadResponse(), status)
	wantFlags(s, want)
}

func wantCounts(s *kindScene, load, tunnels, requests int) {
	s.Helper()
	b := s.p.Backends()[0]
	if b.Load() != load || b.NumTunnels() != tunnels || b.Stats().Requests != requests {
		s.Errorf("Load() is %d, NumTunnels() %d, Stats().Requests %d; want %d, %d, %d",
			b.Load(), b.NumTunnels(), b.Stats().Requests, load, tunnels, requests)
	}
}

func wantRefusing(s *kindScene, want bool) {
	s.Helper()
	if got := s.p.Backends()[0].Health().Refusing; got != want {
		s.Errorf("Refusing is %v; want %v", got, want)
	}
}

func wantRewritten(s *kindScene) {
	s.Helper()
	s.ask(s.request)
	r := s.backend.Accept(s).ReadRequest()
	if r.RequestURI != "/other" || r.Header.Get("X-User") != "ann" {
		s.Errorf("backend got %s with X-User %q; want /other and ann", r.RequestURI, r.Header.Get("X-User"))
	}
}

func wantHookField(s *kindScene, want string) {
	s.Helper()
	c := s.ask(s.request)
	leg := s.backend.Accept(s)
	if s.kind == upgradeKind {
		leg.AcceptUpgrade(nil)
	} else {
		leg.ReadRequest()
		s.answer(leg, s.kind.answer)
	}
	proxytest.WantField(s, c.ReadResponse().Header, "X-Hook", want)
}

func wantUpgradeClosed(s *kindScene) {
	s.Helper()
	c := s.ask(s.request)
	proxytest.WantSwitch(s, c)
	c.WantClose(1008)
}

// Trace sees both kinds: what has no tunnel has no Opened and no Closed.
func TestTraceSeesBothKinds(t *testing.T) {
	for _, k := range []kind{upgradeKind, plainKind} {
		t.Run(k.name, func(t *testing.T) {
			var got []string
			add := func(s string, args ...any) { got = append(got, fmt.Sprintf(s, args...)) }
			status := 0
			_, s := proxytest.Start(t, withHTTP, wsproxy.WithBackends(wstest.StartRaw(t, k.answer).URL()),
				wsproxy.WithAdmit(func(r *http.Request) (any, error) {
					if r.Header.Get("X-Refuse") != "" {
						return nil, &wsproxy.StatusError{Status: 401}
					}
					return "ann", nil
				}),
				wsproxy.WithTrace(&wsproxy.Trace{
					Picked:    func(i wsproxy.PickedInfo) { add("picked %d of %d", i.Attempt, i.Candidates) },
					Attempted: func(i wsproxy.AttemptInfo) { status = i.Status; add("attempted") },
					Refused:   func(i wsproxy.RefusedInfo) { add("refused %s %d", i.Reason, i.Status) },
					Opened:    func(wsproxy.OpenedInfo) { add("opened") },
				}))
			client := wstest.Dial(t, s.URL)
			client.WriteRequest(k.request)
			client.ReadResponse()
			client.Close()
			s.Wait()
			proxytest.WantStatus(t, func() *http.Response {
				c := wstest.Dial(t, s.URL)
				c.WriteRequest(k.with("GET", "X-Refuse: 1"))
				return c.ReadResponse()
			}(), 401)
			s.Wait()
			want := "picked 1 of 1, attempted, opened, refused admit 401"
			if k == plainKind {
				want = "picked 1 of 1, attempted, refused admit 401"
			}
			if strings.Join(got, ", ") != want {
				t.Errorf("Trace saw %q; want %q", got, want)
			}
			if wantStatus := map[string]int{"upgrade": 101, "plain": 200}[k.name]; status != wantStatus {
				t.Errorf("Attempted saw status %d; want %d", status, wantStatus)
			}
		})
	}
}
