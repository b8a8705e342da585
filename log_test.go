package wsproxy_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// secretRequest carries a secret wherever one travels.
var secretRequest = proxytest.UpgradeTo("/chat?token=secret1", "Cookie: session=secret2", "Authorization: Bearer secret3",
	"Sec-WebSocket-Protocol: v1, secret4", "X-Api-Key: secret5", "Proxy-Authorization: Basic secret6")

func wantNoSecret(t *testing.T, book *proxytest.LogBook) {
	t.Helper()
	lines := book.Lines()
	if len(lines) == 0 {
		t.Error("log is empty; want what happened")
	}
	for _, line := range lines {
		if strings.Contains(line, "secret") || strings.Contains(line, "token=") || strings.Contains(line, proxytest.SampleKey) {
			t.Errorf("log has the line %q", line)
		}
	}
}

func TestLogHasNoSecretsOfTunnel(t *testing.T) {
	var book proxytest.LogBook
	network := proxytest.NewNetwork() // where nobody is at a
	network.Set("b", proxytest.FakeBackend{Answer: proxytest.SwitchingWith("Set-Cookie: id=secret7", "Sec-WebSocket-Protocol: secret4")})
	p, s := proxytest.Start(t, book.Option(), wsproxy.WithBackends("http://a", "http://b"), proxytest.FirstCandidate, wsproxy.WithDialer(network.Dial))
	client, _ := proxytest.Open(t, s.URL, secretRequest)
	client.Send(wstest.Text("secret8"), wstest.Ping("secret9"))
	client.Want(wstest.Text("secret8"), wstest.Ping("secret9"))
	client.Send(wstest.Close(4000, "secret10"))
	client.WantClose(4000)
	client.Close()
	s.Wait()
	p.Close()
	wantNoSecret(t, &book)

	opened, closed := book.Lines("tunnel opened"), book.Lines("tunnel closed")
	if len(opened) != 1 || len(closed) != 1 {
		t.Fatalf("log has %q and %q; want a line each", opened, closed)
	}
	id := regexp.MustCompile(`tunnel=\d+`)
	if a, b := id.FindString(opened[0]), id.FindString(closed[0]); a == "" || a != b {
		t.Errorf("tunnel opened as %q and closed as %q; want the same", a, b)
	}
	for _, want := range []string{"backend=http://b", "side=client", "cause=closed", "code=4000", "to_backend_messages=1", "to_client_messages=1"} {
		if !strings.Contains(closed[0], want) {
			t.Errorf("log has %q; want %s in it", closed[0], want)
		}
	}
}

func TestLogHasNoSecretsOfFailures(t *testing.T) {
	for _, tt := range []struct {
		name, request string
		answer        string
		opts          []wsproxy.Option
	}{
		{name: "check", request: strings.Replace(secretRequest, "Version: 13", "Version: 12", 1)},
		{name: "key", request: strings.Replace(secretRequest, proxytest.SampleKey, "secret", 1)},
		{name: "malformed offer", request: strings.Replace(secretRequest, "v1, secret4", "secret4, secret4", 1)},
		{name: "origin", request: strings.Replace(secretRequest, "Cookie", "Origin: https://evil.example\r\nCookie", 1),
			opts: []wsproxy.Option{wsproxy.WithOriginPatterns()}},
		{name: "dial", request: secretRequest},
		{name: "no HTTP", request: secretRequest, answer: "nonsense\r\n\r\n"},
		{name: "bad line", request: secretRequest, answer: proxytest.Head("HTTP/1.1 200 OK", "Set-Cookie session=secret")},
		{name: "line that begins with a space", request: secretRequest, answer: proxytest.Head("HTTP/1.1 200 OK", " Set-Cookie: session=secret")},
		{name: "line without a name", request: secretRequest, answer: proxytest.Head("HTTP/1.1 200 OK", ": session=secret")},
		{name: "wrong Accept", request: secretRequest, answer: strings.Replace(proxytest.Switching, "{accept}", "x", 1)},
		{name: "subprotocol", request: secretRequest, answer: proxytest.SwitchingWith("Sec-WebSocket-Protocol: secret11")},
		{name: "refusal", request: secretRequest, answer: proxytest.Refusing(403, "secret", "Set-Cookie: id=secret")},
		{name: "reason phrase with the query", request: secretRequest, answer: proxytest.Head("HTTP/1.1 403 no secret1 here", "Content-Length: 0")},
		{name: "reason phrase with the cookie", request: secretRequest, answer: proxytest.Head("HTTP/1.1 403 no secret2 here", "Content-Length: 0")},
		{name: "reason phrase with Authorization", request: secretRequest, answer: proxytest.Head("HTTP/1.1 403 no secret3 here", "Content-Length: 0")},
		{name: "reason phrase with the subprotocol", request: secretRequest, answer: proxytest.Head("HTTP/1.1 403 no secret4 here", "Content-Length: 0")},
		{name: "reason phrase with a decoded value", request: proxytest.UpgradeTo("/chat?token=%73ecret"),
			answer: proxytest.Head("HTTP/1.1 403 no secret here", "Content-Length: 0")},
		{name: "reason phrase with a value in base64", request: proxytest.UpgradeTo("/chat", "Authorization: Basic c2VjcmV0="),
			answer: proxytest.Head("HTTP/1.1 403 no c2VjcmV0= secret here", "Content-Length: 0")},
		{name: "busy", request: secretRequest, answer: proxytest.Refusing(503, "secret", "Set-Cookie: id=secret")},
		{name: "field that cannot be written", request: secretRequest, answer: proxytest.Switching,
			opts: []wsproxy.Option{wsproxy.WithResponse(func(r *wsproxy.ProxyResponse) error {
				r.Header.Set("X-A", "secret\n")
				return nil
			})}},
		{name: "request that cannot be written", request: secretRequest, answer: proxytest.Switching,
			opts: []wsproxy.Option{wsproxy.WithRewrite(func(r *wsproxy.ProxyRequest) error {
				r.Out.Header.Set("X-A", "secret\n")
				return nil
			})}},
		{name: "panic", request: secretRequest, answer: proxytest.Switching,
			opts: []wsproxy.Option{wsproxy.WithRewrite(func(r *wsproxy.ProxyRequest) error {
				panic(fmt.Errorf("boom: %w", errors.New("no header in here")))
			})}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var book proxytest.LogBook
			network := proxytest.NewNetwork()
			if tt.answer != "" {
				network.Set("a", proxytest.FakeBackend{Answer: tt.answer})
				network.Set("b", proxytest.FakeBackend{Answer: tt.answer})
			}
			opts := append([]wsproxy.Option{book.Option(), wsproxy.WithBackends("http://a", "http://b"), wsproxy.WithDialer(network.Dial),
				wsproxy.WithTrace(&wsproxy.Trace{Attempted: func(i wsproxy.AttemptInfo) { book.Write(fmt.Appendln(nil, "attempt", i.Err)) }})}, tt.opts...)
			_, s := proxytest.Start(t, opts...)
			resp, _ := proxytest.Exchange(t, s.URL, tt.request)
			if resp.StatusCode == http.StatusSwitchingProtocols {
				t.Fatal("client got a tunnel; want a refusal")
			}
			s.Wait()
			book.Write([]byte("end\n"))
			wantNoSecret(t, &book)
		})
	}
}

func TestLogHasFaultsAtErrorAndTunnelsAtDebug(t *testing.T) {
	var book proxytest.LogBook
	_, s := proxytest.Start(t, book.Option(), wsproxy.WithBackends(wstest.StartEcho(t)))
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.HangUp(t, client)
	proxytest.Exchange(t, s.URL, proxytest.Head("GET / HTTP/1.1", "Host: a"))
	s.Wait()
	if n := len(book.Lines()); n == 0 || n != len(book.Lines("level=DEBUG")) {
		t.Errorf("log has %q; want Debug lines only", book.Lines())
	}
}

func TestAccessLogHasTunnelsAtInfo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var book proxytest.LogBook
		network := proxytest.NewNetwork() // without a backend at a
		network.Set("b", proxytest.FakeBackend{Delay: 20 * time.Millisecond, Answer: proxytest.Switching})
		_, s, _ := startInMemory(t, book.Option(), wsproxy.WithAccessLog(true), wsproxy.WithBackends("http://a", "http://b"),
			wsproxy.WithDialer(func(ctx context.Context, kind, addr string) (net.Conn, error) {
				time.Sleep(5 * time.Millisecond)
				return network.Dial(ctx, kind, addr)
			}),
			wsproxy.WithAdmit(func(*http.Request) (any, error) {
				time.Sleep(3 * time.Millisecond)
				return nil, nil
			}))
		client := s.Dial(t)
		client.WriteRequest(secretRequest)
		proxytest.WantSwitch(t, client)
		proxytest.WantEcho(t, client)
		time.Sleep(time.Minute)
		proxytest.HangUp(t, client)
		s.Wait()
		wantNoSecret(t, &book)
		for _, words := range [][]string{
			{"tunnel opened", " tunnel=1 ", " request_id=", " backend=http://b ", " client=", " host=chat.example ", " path=/chat ", " proto=HTTP/1.1 ",
				" attempts=2 ", " admit=3ms ", " queue=0s ", " dial=10ms ", " answer=20ms\n"},
			{"tunnel closed", " tunnel=1 ", " request_id=", " backend=http://b ", " client=", " duration=1m0s ", " side=client ", " cause=closed ", " code=1000 ",
				" cut=false ", " to_backend_bytes=", " to_backend_messages=1 ", " to_client_bytes=", " to_client_messages=1\n"},
		} {
			if n := len(book.Lines(append(words, "level=INFO")...)); n != 1 {
				t.Errorf("log has %q; want a line at Info with %q", book.Lines(words[0]), words)
			}
		}
	})
}

func TestAccessLogNeedsNoDebugLevel(t *testing.T) {
	for _, isOn := range []bool{true, false} {
		var book proxytest.LogBook
		_, s := proxytest.Start(t, wsproxy.WithLogger(slog.New(slog.NewTextHandler(&book, nil))), wsproxy.WithAccessLog(isOn), wsproxy.WithBackends(wstest.StartEcho(t)))
		client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
		proxytest.HangUp(t, client)
		proxytest.Exchange(t, s.URL, proxytest.Head("GET / HTTP/1.1", "Host: a"))
		s.Wait()
		want := 0
		if isOn {
			want = 2
		}
		if lines := book.Lines(); len(lines) != want {
			t.Errorf("with WithAccessLog(%t) the log has %q; want %d lines", isOn, lines, want)
		}
	}
}

func TestLogHasReasonPhraseOfBackend(t *testing.T) {
	long := strings.Repeat("long ", 100)
	for _, tt := range []struct{ name, reason, want string }{
		{"phrase of the backend's own", "Room is full", `phrase="Room is full"`},
		{"name of a parameter", "No such room", `phrase="No such room"`},
		{"none", "", `phrase=""`},
		{"long phrase", long, `phrase="` + long[:256] + `..."`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var book proxytest.LogBook
			backend := wstest.StartRaw(t, proxytest.Head("HTTP/1.1 403 "+tt.reason, "Content-Length: 0"))
			_, s := proxytest.Start(t, book.Option(), wsproxy.WithBackends(backend.URL()))
			proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat?room=1"))
			s.Wait()
			if got := book.Lines("upgrade refused", "reason=answer", "status=403", tt.want); len(got) != 1 {
				t.Errorf("log has %q; want a line with %s", book.Lines(), tt.want)
			}
		})
	}
}

func TestLogHasNoSecretOfTheRewriteHook(t *testing.T) {
	var book proxytest.LogBook
	backend := wstest.StartRaw(t, proxytest.Head("HTTP/1.1 403 token upstream-secret is not valid", "Content-Length: 0"))
	_, s := proxytest.Start(t, book.Option(), wsproxy.WithBackends(backend.URL()), wsproxy.WithRewrite(func(r *wsproxy.ProxyRequest) error {
		r.Out.Header.Set("Authorization", "Bearer upstream-secret")
		return nil
	}))
	proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	s.Wait()
	if len(book.Lines("phrase=[redacted]")) != 1 || len(book.Lines("upstream-secret")) != 0 {
		t.Errorf("log has %q; want the phrase redacted", book.Lines())
	}
}

// A server that is none for HTTP may repeat the request.
func TestErrorsQuoteNothingOfABackendsResponse(t *testing.T) {
	for _, answer := range []string{
		"GET /?token=secret HTTP/1.1\r\n\r\n",
		"HTTP/1.1 secret\r\n\r\n",
		"HTTP/1.1 200 OK\r\nsecret\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: secret\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: secret\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: secret\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nsecret\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nsecret\r\n\r\n",
	} {
		for name, request := range map[string]string{
			"upgrade": proxytest.UpgradeTo("/?token=secret"),
			"other":   proxytest.Head("GET /?token=secret HTTP/1.1", "Host: chat.example", "Connection: close"),
		} {
			t.Run(fmt.Sprintf("%s, %.40q", name, answer), func(t *testing.T) {
				var book proxytest.LogBook
				var reported []error
				p, s := proxytest.Start(t, book.Option(), withHTTP, wsproxy.WithBackends(wstest.StartRaw(t, answer+"{end}").URL()),
					wsproxy.WithTrace(&wsproxy.Trace{
						Attempted: func(a wsproxy.AttemptInfo) { reported = append(reported, a.Err) },
						Refused:   func(i wsproxy.RefusedInfo) { reported = append(reported, i.Err) },
					}))
				proxytest.ExchangeRaw(t, s.URL, request)
				s.Wait()
				if all := fmt.Sprint(book.Lines(), reported, p.Backends()[0].Health()); strings.Contains(all, "secret") {
					t.Errorf("the log, the hooks and the backend's health have %s; want no secret", all)
				}
			})
		}
	}
}

func TestLogNamesTheClientBehindATrustedProxy(t *testing.T) {
	var book proxytest.LogBook
	_, s := proxytest.Start(t, book.Option(), wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithTrustedProxies("127.0.0.1"))
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat", "X-Forwarded-For: 203.0.113.7"))
	proxytest.HangUp(t, client)
	proxytest.Exchange(t, s.URL, strings.Replace(proxytest.UpgradeTo("/chat", "X-Forwarded-For: 203.0.113.7"), "13", "12", 1))
	s.Wait()
	if got := book.Lines("client=203.0.113.7 "); len(got) != 3 {
		t.Errorf("log has %q; want opened, closed and refused of 203.0.113.7", book.Lines())
	}
}

func TestLogNamesAPeerThatSeemsToBeAProxy(t *testing.T) {
	const forwardedFor, forwarded = "X-Forwarded-For", "Forwarded"
	type run struct {
		n           int
		peer, field string
	}
	for _, tt := range []struct {
		name string
		runs []run
		want string // the peer; "": no line
	}{
		{"99", []run{{99, "10.0.0.1:4000", forwardedFor}}, ""},
		{"100", []run{{100, "10.0.0.1:4000", forwardedFor}}, "10.0.0.1"},
		{"100 over connections of their own", []run{{50, "10.0.0.1:4000", forwardedFor}, {50, "10.0.0.1:4001", forwardedFor}}, "10.0.0.1"},
		{"1000", []run{{1000, "10.0.0.1:4000", forwardedFor}}, "10.0.0.1"},
		{"Forwarded", []run{{100, "[2001:db8::1]:4000", forwarded}}, "2001:db8::1"},
		{"unix socket", []run{{100, "@", forwardedFor}}, "unix"},
		{"another field", []run{{100, "10.0.0.1:4000", "X-User"}}, ""},
		{"another peer in between", []run{{99, "10.0.0.1:4000", forwardedFor}, {1, "10.0.0.2:4000", forwardedFor}, {99, "10.0.0.1:4000", forwardedFor}}, ""},
		{"trusted peer", []run{{1000, "192.0.2.1:4000", forwardedFor}}, ""},
		{"trusted peer in between", []run{{99, "10.0.0.1:4000", forwardedFor}, {1, "192.0.2.1:4000", forwardedFor}, {99, "10.0.0.1:4000", forwardedFor}}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var book proxytest.LogBook
			p := proxytest.NewProxy(t, book.Option(), wsproxy.WithBackends(), wsproxy.WithTrustedProxies("192.0.2.1"),
				wsproxy.WithAdmit(func(*http.Request) (any, error) { return nil, wsproxy.ErrLimit })) // also if all are refused
			for _, run := range tt.runs {
				for range run.n {
					r := proxytest.NewUpgrade()
					r.RemoteAddr = run.peer
					r.Header.Set(run.field, "for=203.0.113.7")
					p.ServeHTTP(httptest.NewRecorder(), r)
				}
			}
			want := 0
			if tt.want != "" {
				want = 1
			}
			if got := book.Lines("level=WARN"); len(got) != want || len(book.Lines("level=WARN", "WithTrustedProxies", "peer="+tt.want+"\n")) != want {
				t.Errorf("log has %q at Warn; want %d lines, of %q", got, want, tt.want)
			}
		})
	}
}

func TestLogHasDebugLineForEachRefusal(t *testing.T) {
	for _, tt := range []struct {
		name, request string
		a             proxytest.FakeBackend
		want          []string
	}{
		{"no upgrade", proxytest.Head("GET / HTTP/1.1", "Host: x"), proxytest.FakeBackend{}, []string{"upgrade refused\"", "426"}},
		{"backend that answers otherwise", proxytest.UpgradeTo("/chat"), proxytest.FakeBackend{Answer: proxytest.Refusing(403, "no")},
			[]string{"upgrade refused", "reason=answer", "backend=http://a", "path=/chat", "status=403", "phrase=Forbidden"}},
		{"backend out of reach", proxytest.UpgradeTo("/chat"), proxytest.FakeBackend{DialErr: errors.New("connection refused")},
			[]string{"upgrade failed", "path=/chat", "http://a", "connection refused"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var book proxytest.LogBook
			network := proxytest.NewNetwork()
			network.Set("a", tt.a)
			_, s := proxytest.Start(t, book.Option(), wsproxy.WithBackends("http://a"), wsproxy.WithDialer(network.Dial))
			proxytest.Exchange(t, s.URL, tt.request)
			s.Wait()
			if lines := book.Lines("level=DEBUG"); len(lines) != 1 || len(book.Lines(tt.want...)) != 1 {
				t.Errorf("log has %q at Debug; want a line that has %q", lines, tt.want)
			}
		})
	}
}

func TestFlagsAreToldOnceEachWay(t *testing.T) {
	for _, tt := range []struct {
		name   string
		a      proxytest.FakeBackend
		flags  []string
		reason string
	}{
		{"dial", proxytest.FakeBackend{DialErr: errors.New("connection refused")}, []string{"unreachable"}, "connection refused"},
		{"response", proxytest.FakeBackend{Answer: proxytest.Refusing(503, "busy")}, []string{"resting", "ejected"}, "Service Unavailable"},
		{"full", proxytest.FakeBackend{Answer: proxytest.Refusing(503, "busy", "Retry-After: 1")}, []string{"full"}, "Service Unavailable"},
	} {
		for _, backends := range [][]string{{"http://a"}, {"http://a", "http://b"}} {
			t.Run(fmt.Sprintf("%s with %d backends", tt.name, len(backends)), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var book proxytest.LogBook
					var told []string
					trace := wsproxy.WithTrace(&wsproxy.Trace{Health: func(i wsproxy.HealthInfo) {
						told = append(told, fmt.Sprintf("%s %v %t %t", i.Backend.ID(), i.Flag, i.Raised, i.Err != nil))
						panic("a hook that has no consequence")
					}})
					_, s, network := startInMemory(t, book.Option(), trace, wsproxy.WithBackends(backends...))
					network.Set("a", tt.a)
					network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
					var want []string
					wantTold := func(isUp bool) {
						t.Helper()
						for _, f := range tt.flags {
							want = append(want, fmt.Sprintf("http://a %s %t %t", f, isUp, isUp))
						}
						if !slices.Equal(told, want) {
							t.Errorf("Trace.Health was told %q; want %q", told, want)
						}
						failing := len(book.Lines("level=WARN", "backend flag raised", "backend=http://a", tt.reason))
						recovered := len(book.Lines("level=INFO", "backend flag cleared", "backend=http://a"))
						if failing+recovered != len(want) {
							t.Errorf("log has %d lines of failing, %d of recovered; want %d in all", failing, recovered, len(want))
						}
						others := len(book.Lines("level=WARN", "others are used")) + len(book.Lines("level=INFO", "used again"))
						all := len(book.Lines("level=WARN")) + len(book.Lines("level=INFO"))
						wantOthers := 0
						if len(backends) == 1 {
							wantOthers = len(want) / len(tt.flags)
						}
						if others != wantOthers || all != len(want)+others {
							t.Errorf("log has %d lines, %d of them about others; want %d and %d", all, others, len(want)+wantOthers, wantOthers)
						}
					}
					for range 1000 {
						tryOnce(t, s)
						time.Sleep(100 * time.Millisecond)
					}
					wantTold(true)
					network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
					for range 1000 {
						tryOnce(t, s)
						time.Sleep(100 * time.Millisecond)
					}
					wantTold(false)
					network.Set("a", tt.a)
					for range 1000 {
						tryOnce(t, s)
						time.Sleep(100 * time.Millisecond)
					}
					wantTold(true)
				})
			})
		}
	}
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

func TestLogTellsOfDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log proxytest.LogBook
		s := newScene(t, backendsAt("a", "b"), log.Option())
		s.set("ab", accepting)
		s.open(1)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		s.p.Drain(ended, "a", time.Hour)
		s.p.Drain(t.Context(), "b", 0)
		s.p.Resume("b")
		s.p.Resume("b") // does nothing
		for _, words := range [][]string{
			{"INFO", "backend drains", "backend=a", "tunnels=1"},
			{"WARN", "drain of backend ended early", "backend=a", "1 left"},
			{"INFO", "backend drains", "backend=b", "tunnels=0"},
			{"INFO", "backend is drained", "backend=b"},
			{"INFO", "backend resumed", "backend=b"},
		} {
			if n := len(log.Lines(words...)); n != 1 {
				t.Errorf("the log has %d lines with %q; want 1", n, words)
			}
		}
	})
}

func TestLogWarnsOfTheLastBackendThatDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log proxytest.LogBook
		s := newScene(t, backendsAt("a", "b"), log.Option())
		for _, tt := range []struct {
			id   string
			want int
		}{{"a", 0}, {"b", 1}} {
			s.p.Drain(t.Context(), tt.id, 0)
			if n := len(log.Lines("WARN", "all backends drain")); n != tt.want {
				t.Errorf("after the drain of %s the log has %d warnings; want %d", tt.id, n, tt.want)
			}
		}
	})
}

func TestLogTellsWhatRebalanceHasDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log proxytest.LogBook
		s := newScene(t, backendsAt("a"), log.Option())
		s.set("ab", accepting)
		newReconnectors(s, time.Second).join(upTo(100)...)
		scaleOut(s, "a", "b")
		n, _ := s.p.Rebalance(t.Context(), wsproxy.RebalanceConfig{})
		s.p.Rebalance(t.Context(), wsproxy.RebalanceConfig{}) // does nothing
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		s.p.Rebalance(ended, wsproxy.RebalanceConfig{})
		if lines := log.Lines("rebalance has closed tunnels"); len(lines) != 1 || len(log.Lines("INFO", fmt.Sprintf("tunnels=%d", n))) != 1 {
			t.Errorf("the log has %q; want one line with %d tunnels", lines, n)
		}
		if lines := log.Lines("WARN", "rebalance ended early", "context canceled"); len(lines) != 1 {
			t.Errorf("the log has %q; want one line that a call ended early", lines)
		}
	})
}

func TestLogPanicEndsNothing(t *testing.T) {
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
