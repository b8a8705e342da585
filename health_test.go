package wsproxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/backendtest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A scene is a proxy over backends in memory, whose clients have addresses of their own. It
// records what is told, for the test to read while nothing goes on. The IDs of its backends
// are their hosts.
type scene struct {
	t       testing.TB
	p       *wsproxy.Proxy
	site    *proxytest.Site
	network *proxytest.Network
	book    proxytest.LogBook
	start   time.Time

	mu      sync.Mutex
	opened  []string // the backend of each tunnel
	refused []string // "reason status"
	told    []string // "time backend flag +", or "-" when it is cleared
}

func newScene(t testing.TB, opts ...wsproxy.Option) *scene {
	t.Helper()
	s := &scene{t: t, network: proxytest.NewNetwork(), start: time.Now()}
	trace := wsproxy.WithTrace(&wsproxy.Trace{
		Opened: func(i wsproxy.OpenedInfo) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.opened = append(s.opened, i.Tunnel.Info().Backend.ID())
		},
		Refused: func(i wsproxy.RefusedInfo) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.refused = append(s.refused, fmt.Sprintf("%v %d", i.Reason, i.Status))
		},
		Health: func(i wsproxy.HealthInfo) {
			s.mu.Lock()
			defer s.mu.Unlock()
			sign := map[bool]string{true: "+", false: "-"}[i.Raised]
			s.told = append(s.told, fmt.Sprintf("%v %s %v %s", time.Since(s.start), i.Backend.ID(), i.Flag, sign))
		},
	})
	opts = append([]wsproxy.Option{
		backendsAt("a", "b", "c"), trace, s.book.Option(), wsproxy.WithDialer(s.network.Dial), wsproxy.WithTrustedProxies("192.0.2.1"),
	}, opts...)
	s.p = proxytest.NewProxy(t, opts...)
	s.site = proxytest.ServeInMemory(t, s.p)
	return s
}

// backendsAt returns an option for backends whose IDs are their hosts.
func backendsAt(hosts ...string) wsproxy.Option {
	configs := make([]wsproxy.BackendConfig, len(hosts))
	for i, host := range hosts {
		configs[i] = wsproxy.BackendConfig{ID: host, URL: "http://" + host}
	}
	return wsproxy.WithBackendConfigs(configs...)
}

// set makes the backends at hosts, each of which is one letter, behave like b.
func (s *scene) set(hosts string, b proxytest.FakeBackend) {
	for _, host := range strings.Split(hosts, "") {
		s.network.Set(host, b)
	}
}

func (s *scene) backend(id string) *wsproxy.Backend {
	for _, b := range s.p.Backends() {
		if b.ID() == id {
			return b
		}
	}
	s.t.Fatalf("no backend has the ID %s", id)
	return nil
}

// send sends the upgrade of a client, and waits until it has got as far as it can.
func (s *scene) send(client int, path string, lines ...string) *wstest.Peer {
	s.t.Helper()
	c := s.site.Dial(s.t)
	address := fmt.Sprintf("X-Forwarded-For: 198.51.%d.%d", client/256, client%256)
	c.WriteRequest(proxytest.UpgradeTo(path, append([]string{address}, lines...)...))
	synctest.Wait()
	return c
}

// open opens a tunnel for a client, and returns its backend.
func (s *scene) open(client int) (*wstest.Peer, string) {
	s.t.Helper()
	c := s.send(client, "/chat")
	n := len(s.opened)
	proxytest.WantSwitch(s.t, c)
	if n == 0 {
		s.t.Fatal("client got a 101, and no tunnel has opened")
	}
	return c, s.opened[n-1]
}

// visit opens a tunnel for a client and ends it as a client does. It returns its backend.
func (s *scene) visit(client int) (backend string) {
	s.t.Helper()
	c, backend := s.open(client)
	proxytest.HangUp(s.t, c)
	synctest.Wait()
	return backend
}

// visitAndLose opens a tunnel for a client, which its backend loses at once.
func (s *scene) visitAndLose(client int) {
	s.t.Helper()
	c, _ := s.open(client)
	c.WantClose(1012)
	c.Close()
	synctest.Wait()
}

// numOpened returns how many tunnels have opened at each backend since the last call, as "a 2, b 1".
func (s *scene) numOpened() string {
	synctest.Wait()
	counts := make(map[string]int)
	for _, id := range s.opened {
		counts[id]++
	}
	s.opened = nil
	var parts []string
	for _, b := range s.p.Backends() {
		if n := counts[b.ID()]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", b.ID(), n))
		}
	}
	return strings.Join(parts, ", ")
}

// flags returns the flags that are up, as "a: ejected resting; c: unreachable".
func (s *scene) flags() string {
	var parts []string
	for _, b := range s.p.Backends() {
		var names []string
		for _, f := range b.Health().Flags {
			names = append(names, f.Flag.String())
		}
		if len(names) > 0 {
			parts = append(parts, b.ID()+": "+strings.Join(names, " "))
		}
	}
	return strings.Join(parts, "; ")
}

func (s *scene) wantFlags(want string) {
	s.t.Helper()
	synctest.Wait()
	if got := s.flags(); got != want {
		s.t.Errorf("at %v the flags are %q; want %q", time.Since(s.start), got, want)
	}
}

// wantNeverTold checks that no line of the log has the words.
func (s *scene) wantNeverTold(words ...string) {
	s.t.Helper()
	if lines := s.book.Lines(words...); len(lines) > 0 {
		s.t.Errorf("log has %d lines with %q, the first is %s", len(lines), words, lines[0])
	}
}

func (s *scene) wantTimesTold(n int, words ...string) {
	s.t.Helper()
	if lines := s.book.Lines(words...); len(lines) != n {
		s.t.Errorf("log has %d lines with %q; want %d: %q", len(lines), words, n, lines)
	}
}

// wantRefused checks the upgrades that were refused since the last call.
func (s *scene) wantRefused(want ...string) {
	s.t.Helper()
	synctest.Wait()
	if !slices.Equal(s.refused, want) {
		s.t.Errorf("refused: %q; want %q", s.refused, want)
	}
	s.refused = nil
}

// byPath makes a backend accept every upgrade but those for the path.
func byPath(path string, then proxytest.FakeBackend) proxytest.FakeBackend {
	return proxytest.FakeBackend{Choose: func(r *http.Request) proxytest.FakeBackend {
		if r.URL.Path == path {
			return then
		}
		return accepting
	}}
}

var (
	accepting   = proxytest.FakeBackend{Answer: proxytest.Switching}
	unreachable = proxytest.FakeBackend{DialErr: errors.New("connection refused")}
	losing      = proxytest.FakeBackend{Answer: proxytest.Switching + "{end}"} // loses each tunnel at once
)

func TestOutcomesRaiseFlags(t *testing.T) {
	const nonsense = "nonsense\r\n\r\n"
	silent := proxytest.FakeBackend{}
	for _, tt := range []struct {
		name      string
		a         proxytest.FakeBackend
		url       string        // default: http://a
		after     time.Duration // the client leaves; 0: it stays
		want      string
		wantState wsproxy.BackendState
	}{
		{name: "accepts", a: accepting},
		{name: "connection refused", a: unreachable, want: "unreachable", wantState: wsproxy.BackendFailing},
		{name: "TLS fails", a: proxytest.FakeBackend{}, url: "https://a", want: "unreachable", wantState: wsproxy.BackendFailing},
		{name: "never responds", a: silent, want: "resting", wantState: wsproxy.BackendFailing},
		{name: "never responds, client leaves before a second", a: silent, after: 999 * time.Millisecond},
		{name: "never responds, client leaves after a second", a: silent, after: time.Second, want: "resting", wantState: wsproxy.BackendFailing},
		{name: "malformed", a: proxytest.FakeBackend{Answer: nonsense}, want: "resting", wantState: wsproxy.BackendFailing},
		{name: "closes the connection", a: proxytest.FakeBackend{Answer: "{end}"}, want: "resting", wantState: wsproxy.BackendFailing},
		{name: "wrong Accept", a: proxytest.FakeBackend{Answer: strings.Replace(proxytest.Switching, "{accept}", proxytest.SampleAccept[1:]+"=", 1)}, want: "resting", wantState: wsproxy.BackendFailing},
		{name: "502", a: proxytest.FakeBackend{Answer: proxytest.Refusing(502, "")}, want: "resting", wantState: wsproxy.BackendFailing},
		{name: "504", a: proxytest.FakeBackend{Answer: proxytest.Refusing(504, "")}, want: "resting", wantState: wsproxy.BackendFailing},
		{name: "503", a: proxytest.FakeBackend{Answer: proxytest.Refusing(503, "")}, want: "resting", wantState: wsproxy.BackendFailing},
		{name: "503 with Retry-After", a: proxytest.FakeBackend{Answer: proxytest.Refusing(503, "", "Retry-After: 7")}, want: "full"},
		{name: "503 with a Retry-After that is wrong", a: proxytest.FakeBackend{Answer: proxytest.Refusing(503, "", "Retry-After: soon")}, want: "resting", wantState: wsproxy.BackendFailing},
		{name: "500", a: proxytest.FakeBackend{Answer: proxytest.Refusing(500, "")}},
		{name: "404", a: proxytest.FakeBackend{Answer: proxytest.Refusing(404, "")}},
		{name: "loses the tunnel at once", a: losing, want: "resting", wantState: wsproxy.BackendFailing},
		{name: "closes the tunnel at once with a Close frame", a: proxytest.FakeBackend{Answer: closing(1013)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				url := tt.url
				if url == "" {
					url = "http://a"
				}
				s := newScene(t, wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "a", URL: url}))
				s.set("a", tt.a)
				c := s.send(1, "/chat")
				if tt.after > 0 {
					time.Sleep(tt.after)
					c.Close()
				} else {
					time.Sleep(11 * time.Second)
				}
				synctest.Wait()
				want := tt.want
				if want != "" {
					want = "a: " + want
				}
				s.wantFlags(want)
				wantStates(t, s.p, tt.wantState)
			})
		})
	}
}

// While it connects a backend may be gone for good: then nobody waits for it again.
func TestBackendThatNeverConnectsIsUnreachable(t *testing.T) {
	for _, tt := range []struct {
		after time.Duration // the client leaves
		want  string
	}{
		{999 * time.Millisecond, ""}, {time.Second, "a: unreachable"}, {0, "a: unreachable"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newScene(t, backendsAt("a"), wsproxy.WithDialer(func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}))
			c := s.send(1, "/chat")
			if tt.after > 0 {
				time.Sleep(tt.after)
				c.Close()
			} else {
				time.Sleep(10 * time.Second)
			}
			s.wantFlags(tt.want)
		})
	}
}

func TestHangingPathRestsBackendsAndRefusesNobody(t *testing.T) {
	for _, n := range []int{1, 20} { // requests of one client, at the same time
		synctest.Test(t, func(t *testing.T) {
			s := newScene(t)
			s.set("abc", byPath("/hang", proxytest.FakeBackend{}))
			hanging := make([]*wstest.Peer, n)
			for i := range hanging {
				hanging[i] = s.send(1, "/hang")
			}
			for i := range 130 { // clients that come meanwhile; the last attempts end at 10 s
				time.Sleep(100 * time.Millisecond)
				before := time.Now()
				s.visit(2 + i)
				if waited := time.Since(before); waited > 0 {
					t.Errorf("%d hanging requests: another client waited for %v at %v", n, waited, time.Since(s.start))
				}
			}
			if len(s.refused) != n || s.refused[0] != "unreachable 503" {
				t.Errorf("refused: %q; want the %d hanging requests", s.refused, n)
			}
			s.wantFlags("")
			s.wantNeverTold("ejected")
			if n == 1 {
				s.wantTimesTold(3, "backend flag raised", "flag=resting")
				s.wantTimesTold(3, "backend flag cleared", "flag=resting")
				s.wantNeverTold("others are used")
				var at []string
				for _, told := range s.told {
					if strings.HasSuffix(told, " resting +") {
						at = append(at, strings.Fields(told)[0])
					}
				}
				if want := []string{"5s", "7.5s", "10s"}; !slices.Equal(at, want) {
					t.Errorf("backends begin to rest at %q; want %q", at, want)
				}
			}
		})
	}
}

func TestBackendRestsForOneSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, backendsAt("a", "b"), proxytest.FirstCandidate)
		s.set("ab", byPath("/bad", proxytest.FakeBackend{Answer: proxytest.Refusing(502, "")}))
		for i := range 4 { // however often it happens
			s.send(1+i, "/bad") // both rest
			s.wantFlags("a: resting; b: resting")
			time.Sleep(time.Second)
			if got := s.visit(10 + i); got != "a" {
				t.Errorf("after a second the tunnel is at %s; want a", got)
			}
			if got := s.visit(20 + i); got != "a" {
				t.Errorf("the next tunnel is at %s; want a", got)
			}
		}
		s.wantFlags("b: resting") // a trial of which has not been needed
		s.wantNeverTold("ejected")
	})
}

// An attack is a request of one client by which it may hope to take a backend from others.
type attack struct {
	name    string
	isFault bool // that the backend is flagged is right
	on      proxytest.FakeBackend
	run     func(s *scene, client int)
}

// readToEnd reads what comes until the connection ends.
func readToEnd(c *wstest.Peer) {
	io.Copy(io.Discard, c)
	c.Close()
}

var attacks = []attack{
	{
		"garbage for which the backend closes its socket", false,
		byPath("/attack", proxytest.FakeBackend{Answer: proxytest.Switching, HangsUp: true}),
		func(s *scene, client int) {
			c := s.send(client, "/attack")
			proxytest.WantSwitch(s.t, c)
			c.Send(wstest.Text("\x00garbage"))
			readToEnd(c)
		},
	}, {
		"garbage together with the request", false,
		byPath("/attack", proxytest.FakeBackend{Answer: proxytest.Switching, HangsUp: true}),
		func(s *scene, client int) {
			c := s.site.Dial(s.t)
			garbage := string(wstest.AppendFrame(nil, wstest.Text("\x00garbage"), &[4]byte{1, 2, 3, 4}))
			c.WriteRequest(proxytest.UpgradeTo("/attack", fmt.Sprintf("X-Forwarded-For: 198.51.0.%d", client)) + garbage)
			readToEnd(c)
		},
	}, {
		"path that is answered with 500", false,
		byPath("/attack", proxytest.FakeBackend{Answer: proxytest.Refusing(500, "oops")}),
		func(s *scene, client int) { readToEnd(s.send(client, "/attack")) },
	}, {
		"path that is answered with 502", true,
		byPath("/attack", proxytest.FakeBackend{Answer: proxytest.Refusing(502, "oops")}),
		func(s *scene, client int) { readToEnd(s.send(client, "/attack")) },
	}, {
		"subprotocol that is answered with nonsense", true,
		proxytest.FakeBackend{Choose: func(r *http.Request) proxytest.FakeBackend {
			if r.Header.Get("Sec-WebSocket-Protocol") != "" {
				return proxytest.FakeBackend{Answer: "nonsense\r\n\r\n"}
			}
			return accepting
		}},
		func(s *scene, client int) { readToEnd(s.send(client, "/chat", "Sec-WebSocket-Protocol: x")) },
	}, {
		"extension that is answered by another one", true,
		proxytest.FakeBackend{Choose: func(r *http.Request) proxytest.FakeBackend {
			if r.Header.Get("Sec-WebSocket-Extensions") != "" {
				return proxytest.FakeBackend{Answer: proxytest.SwitchingWith("Sec-WebSocket-Extensions: x-other")}
			}
			return accepting
		}},
		func(s *scene, client int) { readToEnd(s.send(client, "/chat", "Sec-WebSocket-Extensions: x")) },
	}, {
		"path for which the backend closes its socket after the 101", true,
		byPath("/attack", losing),
		func(s *scene, client int) { readToEnd(s.send(client, "/attack")) },
	}, {
		"reset after the 101", false,
		accepting,
		func(s *scene, client int) {
			c := s.send(client, "/chat")
			proxytest.WantSwitch(s.t, c)
			c.Reset()
		},
	}, {
		"end of stream after the 101", false,
		accepting,
		func(s *scene, client int) { s.send(client, "/chat").Close() },
	},
}

func TestOneClientTakesNoBackendFromOthers(t *testing.T) {
	for _, a := range attacks {
		for _, hosts := range []string{"a", "ab", "abc"} {
			t.Run(a.name+" on "+hosts, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newScene(t, backendsAt(strings.Split(hosts, "")...))
					s.set(hosts, a.on)
					for i := range 100 {
						s.visit(2 + i)
						if i >= 20 && i%4 == 0 && i < 40 { // five in a second
							a.run(s, 1)
						}
						time.Sleep(50 * time.Millisecond)
					}
					s.wantNeverTold("ejected")
					if !a.isFault {
						s.wantNeverTold("backend flag raised")
					}
					if got := len(s.opened); got < 100 {
						t.Errorf("%d tunnels have opened; want those of the 100 others at least", got)
					}
					time.Sleep(2 * time.Second)
					for i := range 6 {
						s.visit(200 + i)
						time.Sleep(time.Second) // a tunnel lives
					}
				})
			})
		}
	}
}

// Without others, nobody is there from whom a backend could be taken. Then five failures of
// one client count as five, but not within a second.
func TestOneClientEjectsNoIdleBackendWithinASecond(t *testing.T) {
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, backendsAt("a", "b"))
				s.set("ab", a.on)
				for range 5 {
					a.run(s, 1)
					time.Sleep(200 * time.Millisecond)
				}
				s.wantNeverTold("ejected")
				if got, other := s.visit(2), s.visit(3); got == "" || other == "" {
					t.Error("another client got no tunnel")
				}
			})
		})
	}
}

func TestFailuresOfFiveClientsEject(t *testing.T) {
	fails := []proxytest.FakeBackend{
		{Answer: proxytest.Refusing(502, ""), Delay: 100 * time.Millisecond},
		{Answer: "{end}", Delay: 100 * time.Millisecond},
		losing,
		{},
	}
	for _, tt := range []struct {
		name    string
		address func(i int) string
		n       int // upgrades at the same time
		want    string
	}{
		{"five clients", func(i int) string { return fmt.Sprint("198.51.100.", i) }, 5, "a: ejected resting"},
		{"four clients", func(i int) string { return fmt.Sprint("198.51.100.", i) }, 4, "a: resting"},
		{"four clients, one of them twice", func(i int) string { return fmt.Sprint("198.51.100.", i%4) }, 5, "a: resting"},
		{"one client", func(int) string { return "198.51.100.1" }, 20, "a: resting"},
		{"one client with many IPv6 addresses", func(i int) string { return fmt.Sprint("2001:db8::", i) }, 20, "a: resting"},
		{"five clients with IPv6 addresses", func(i int) string { return fmt.Sprintf("2001:db8:0:%d::1", i) }, 5, "a: ejected resting"},
	} {
		for i, fail := range fails {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, backendsAt("a"))
				s.set("a", fail)
				for i := range tt.n {
					c := s.site.Dial(t)
					c.WriteRequest(proxytest.UpgradeTo("/chat", "X-Forwarded-For: "+tt.address(i)))
				}
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if got := s.flags(); got != tt.want {
					t.Errorf("%s, failure %d: flags are %q; want %q", tt.name, i, got, tt.want)
				}
			})
		}
	}
}

func TestManyClientsEjectHalfOfTheSetAtMost(t *testing.T) {
	for _, tt := range []struct {
		hosts string
		most  int
	}{{"a", 1}, {"abc", 1}, {"abcd", 2}, {"abcdef", 3}} {
		for _, a := range attacks {
			t.Run(fmt.Sprintf("%s on %s", a.name, tt.hosts), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newScene(t, backendsAt(strings.Split(tt.hosts, "")...))
					s.set(tt.hosts, a.on)
					most := 0
					for i := range 100 {
						a.run(s, 1+i)
						s.visit(1000 + i)
						most = max(most, strings.Count(s.flags(), "ejected"))
						time.Sleep(20 * time.Millisecond)
					}
					if most > tt.most {
						t.Errorf("%d are ejected; want %d at most", most, tt.most)
					}
					// It comes back when the attack is over, within the backoff and a trial.
					for i := range 20 + 20*len(tt.hosts) {
						c, _ := s.open(2000 + i)
						time.Sleep(time.Second)
						proxytest.HangUp(t, c)
					}
					s.wantFlags("")
					for _, b := range s.p.Backends() {
						if !slices.Contains(s.opened[len(s.opened)-2*len(tt.hosts):], b.ID()) {
							t.Errorf("%s has not been used again: %q", b.ID(), s.opened)
						}
					}
				})
			})
		}
	}
}

func TestOneClientEjectsNoBackendOnRealSockets(t *testing.T) {
	proxytest.ForEachWay(t, func(t *testing.T, way wsproxy.Option) {
		for _, tt := range []struct {
			name string
			end  func(client, backend *wstest.Peer)
		}{
			{"garbage for which the backend closes its socket", func(client, backend *wstest.Peer) {
				client.Send(wstest.Text("\x00garbage"))
				backend.Want(wstest.Text("\x00garbage"))
				backend.Close()
				client.WantClose(1012)
				client.Close()
			}},
			{"garbage for which the backend resets", func(client, backend *wstest.Peer) {
				client.Send(wstest.Text("\x00garbage"))
				backend.Peek()
				backend.Reset()
				readToEnd(client)
			}},
			{"reset after the 101", func(client, backend *wstest.Peer) {
				client.Reset()
				backend.WantEOF()
				backend.Close()
			}},
			{"end of stream after the 101", func(client, backend *wstest.Peer) {
				client.Close()
				backend.WantEOF()
				backend.Close()
			}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				var book proxytest.LogBook
				ends, trace := proxytest.TraceEnds()
				backend := wstest.StartBackend(t)
				p, s := proxytest.Start(t, way, book.Option(), trace, wsproxy.WithBackends(backend.URL()))
				for range 7 {
					client, leg := proxytest.OpenThrough(t, s.URL, backend)
					tt.end(client, leg)
					<-ends
				}
				if flags := p.Backends()[0].Health().Flags; len(flags) > 0 {
					t.Errorf("flags are %v; want none", flags)
				}
				if lines := book.Lines("backend flag raised"); len(lines) > 0 {
					t.Errorf("log has %q", lines)
				}
				s.Wait()
			})
		}
	})
}

func TestBackendThatLosesTunnelsIsEjected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, backendsAt("a", "b"), proxytest.FirstCandidate)
		s.set("a", losing)
		s.set("b", accepting)
		for i := range 4 { // one in each second: it rests in between, and a 101 does not end the row
			s.visitAndLose(1 + i)
			s.wantFlags("a: resting")
			time.Sleep(1100 * time.Millisecond)
		}
		s.visitAndLose(5)
		s.wantFlags("a: ejected resting")
		h := s.backend("a").Health().Flags
		if !strings.Contains(h[0].Reason, "without a Close frame") || h[0].Flag != wsproxy.FlagEjected {
			t.Errorf("first flag is %+v", h[0])
		}
		if d := time.Until(h[0].Until); d > time.Second || d < 800*time.Millisecond {
			t.Errorf("it is ejected for %v; want 1 s, less a fifth at most", d)
		}
		for i := range 10 {
			if at := s.visit(10 + i); at != "b" {
				t.Errorf("while a is ejected a client is at %s", at)
			}
		}

		// One trial at a time. It fails, and a is ejected for twice as long.
		time.Sleep(time.Second)
		s.numOpened()
		for i := range 10 {
			s.send(20+i, "/chat")
		}
		if got, want := s.numOpened(), "a 1, b 9"; got != want {
			t.Errorf("of ten clients the backends got %q; want %q", got, want)
		}
		s.wantFlags("a: ejected resting")
		if d := time.Until(s.backend("a").Health().Flags[0].Until); d > 2*time.Second || d < 1600*time.Millisecond {
			t.Errorf("it is ejected for %v; want 2 s, less a fifth at most", d)
		}

		// It comes back when the tunnel of a trial has lived for a second, and not before.
		time.Sleep(2 * time.Second)
		s.set("a", accepting)
		s.numOpened()
		for i := range 10 {
			s.send(40+i, "/chat")
		}
		time.Sleep(999 * time.Millisecond)
		s.wantFlags("a: ejected resting")
		for i := range 10 {
			s.send(50+i, "/chat")
		}
		if got, want := s.numOpened(), "a 1, b 19"; got != want {
			t.Errorf("of 20 clients the backends got %q; want %q", got, want)
		}
		time.Sleep(time.Millisecond)
		s.wantFlags("")
		for i := range 10 {
			s.send(60+i, "/chat")
		}
		if got, want := s.numOpened(), "a 10"; got != want {
			t.Errorf("of ten clients the backends got %q; want %q", got, want)
		}
		s.wantTimesTold(1, "backend flag raised", "flag=ejected")
		s.wantTimesTold(1, "backend flag cleared", "flag=ejected")
		s.wantTimesTold(1, "backend flag raised", "flag=resting")
		s.wantRefused()
	})
}

func TestHealthDescribesEachFlag(t *testing.T) {
	for _, tt := range []struct {
		flags string // as a test raises them
		want  []wsproxy.Flag
		until []time.Duration // 0: no end
		state wsproxy.BackendState
	}{
		{"", nil, nil, wsproxy.BackendUp},
		{"full", []wsproxy.Flag{wsproxy.FlagFull}, []time.Duration{time.Second}, wsproxy.BackendUp},
		{"resting", []wsproxy.Flag{wsproxy.FlagResting}, []time.Duration{time.Second}, wsproxy.BackendFailing},
		{"ejected", []wsproxy.Flag{wsproxy.FlagEjected}, []time.Duration{time.Second}, wsproxy.BackendFailing},
		{"check failed", []wsproxy.Flag{wsproxy.FlagCheckFailed}, []time.Duration{0}, wsproxy.BackendFailing},
		{"unreachable", []wsproxy.Flag{wsproxy.FlagUnreachable}, []time.Duration{time.Second}, wsproxy.BackendFailing},
		{"full,resting", []wsproxy.Flag{wsproxy.FlagFull, wsproxy.FlagResting}, []time.Duration{time.Second, time.Second}, wsproxy.BackendFailing},
		{
			"check failed,full,resting,ejected,unreachable",
			[]wsproxy.Flag{wsproxy.FlagUnreachable, wsproxy.FlagCheckFailed, wsproxy.FlagEjected, wsproxy.FlagFull, wsproxy.FlagResting},
			[]time.Duration{time.Second, 0, time.Second, time.Second, time.Second},
			wsproxy.BackendFailing,
		},
	} {
		t.Run(tt.flags, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, backendsAt("a"))
				time.Sleep(time.Minute)
				a := s.backend("a")
				raised := time.Now()
				if tt.flags != "" {
					backendtest.Set(a, backendtest.State{Flags: strings.Split(tt.flags, ",")})
				}
				time.Sleep(300 * time.Millisecond)
				h := a.Health()
				if len(h.Flags) != len(tt.want) {
					t.Fatalf("Health() = %+v; want %v", h, tt.want)
				}
				for i, f := range h.Flags {
					if f.Flag != tt.want[i] || f.Reason != "a test has raised it" || !f.Since.Equal(raised) {
						t.Errorf("flag %d is %+v; want %v, since %v", i, f, tt.want[i], raised)
					}
					most := raised.Add(tt.until[i])
					least := most
					if f.Flag == wsproxy.FlagEjected || f.Flag == wsproxy.FlagUnreachable {
						least = most.Add(-tt.until[i] / 5)
					}
					switch {
					case tt.until[i] == 0 && !f.Until.IsZero():
						t.Errorf("%v ends at %v; want no time", f.Flag, f.Until)
					case tt.until[i] > 0 && (f.Until.Before(least) || f.Until.After(most)):
						t.Errorf("%v ends at %v; want %v to %v", f.Flag, f.Until, least, most)
					}
				}

				// The states that come before the health.
				config := wsproxy.BackendConfig{ID: "a", URL: "http://a"}
				for _, step := range []struct {
					set  []wsproxy.BackendConfig
					want wsproxy.BackendState
				}{
					{[]wsproxy.BackendConfig{config}, tt.state},
					{[]wsproxy.BackendConfig{{ID: "a", URL: "http://a", Drain: true}}, wsproxy.BackendDraining},
					{[]wsproxy.BackendConfig{config}, tt.state},
					{nil, wsproxy.BackendRemoved},
				} {
					if err := s.p.SetBackends(step.set...); err != nil {
						t.Fatal(err)
					}
					if got := a.State(); got != step.want {
						t.Errorf("with the set %+v the state is %v; want %v", step.set, got, step.want)
					}
					if got := len(a.Health().Flags); got != len(tt.want) {
						t.Errorf("with the set %+v there are %d flags; want %d", step.set, got, len(tt.want))
					}
				}
			})
		})
	}
}

func TestHealthHasTheLastReasonAndTheFirstTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, backendsAt("a"))
		s.set("a", proxytest.FakeBackend{DialErr: errors.New("first")})
		s.send(1, "/chat")
		since := time.Now()
		time.Sleep(2 * time.Second)
		s.set("a", proxytest.FakeBackend{DialErr: errors.New("second")})
		s.send(1, "/chat")
		f := s.backend("a").Health().Flags[0]
		if !strings.Contains(f.Reason, "second") || !f.Since.Equal(since) || time.Until(f.Until) < time.Second {
			t.Errorf("flag is %+v; want the second reason, since %v, for more than a second", f, since)
		}
	})
}

func TestNewAddressClearsFlags(t *testing.T) {
	all := []string{"resting", "full", "ejected", "check failed", "unreachable"}
	for _, tt := range []struct {
		name      string
		config    wsproxy.BackendConfig
		isCleared bool
	}{
		{"host", wsproxy.BackendConfig{ID: "a", URL: "http://new"}, true},
		{"port", wsproxy.BackendConfig{ID: "a", URL: "http://a:8080"}, true},
		{"TLS", wsproxy.BackendConfig{ID: "a", URL: "https://a:80"}, true},
		{"nothing", wsproxy.BackendConfig{ID: "a", URL: "ws://a:80"}, false},
		{"weight", wsproxy.BackendConfig{ID: "a", URL: "http://a", Weight: 7}, false},
		{"drain", wsproxy.BackendConfig{ID: "a", URL: "http://a", Drain: true}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, backendsAt("a", "b"))
				backendtest.Set(s.backend("a"), backendtest.State{Flags: all})
				backendtest.Set(s.backend("b"), backendtest.State{Flags: all})
				if err := s.p.SetBackends(tt.config, wsproxy.BackendConfig{ID: "b", URL: "http://b"}); err != nil {
					t.Fatal(err)
				}
				if got := len(s.backend("a").Health().Flags); (got == 0) != tt.isCleared {
					t.Errorf("a has %d flags", got)
				}
				if got := len(s.backend("b").Health().Flags); got != len(all) {
					t.Errorf("b has %d flags; want all", got)
				}
				for _, flag := range all {
					want := 0
					if tt.isCleared {
						want = 1
					}
					s.wantTimesTold(want, "level=INFO", "backend flag cleared", "backend=a", flag)
					if got := len(slices.DeleteFunc(slices.Clone(s.told), func(told string) bool { return told != "0s a "+flag+" -" })); got != want {
						t.Errorf("Trace.Health was told %q; want %s %d times", s.told, flag, want)
					}
				}
				s.wantNeverTold("backend=b")
			})
		})
	}
}

// What the old address does is no fault of the new one.
func TestAttemptOnTheOldAddressDoesNotBlameTheNewOne(t *testing.T) {
	for _, tt := range []struct {
		name string
		old  proxytest.FakeBackend
	}{
		{"no response", proxytest.FakeBackend{}},
		{"502", proxytest.FakeBackend{Answer: proxytest.Refusing(502, ""), Delay: time.Second}},
		{"404", proxytest.FakeBackend{Answer: proxytest.Refusing(404, ""), Delay: time.Second}},
		{"tunnel that is lost", proxytest.FakeBackend{Answer: proxytest.Switching + "{end}", Late: 500 * time.Millisecond}},
		{"tunnel that is closed", proxytest.FakeBackend{Answer: closing(1013), Late: 500 * time.Millisecond}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, backendsAt("a"))
				s.set("a", tt.old)
				s.send(1, "/chat")
				time.Sleep(time.Millisecond)
				if err := s.p.SetBackends(wsproxy.BackendConfig{ID: "a", URL: "http://new"}); err != nil {
					t.Fatal(err)
				}
				for range 11 * 4 {
					time.Sleep(250 * time.Millisecond)
					if b := s.backend("a"); b.Load() != b.NumTunnels() {
						t.Fatalf("at %v Load() = %d with %d tunnels", time.Since(s.start), b.Load(), b.NumTunnels())
					}
				}
				s.wantFlags("")
				s.wantNeverTold("backend flag raised")
			})
		})
	}
}

// An upgrade that has waited in the queue leaves a backend what is left of its time.
func TestUpgradeThatHasWaitedDoesNotBlameABackendForItsDeadline(t *testing.T) {
	for _, tt := range []struct {
		waited time.Duration
		want   string
	}{
		{9900 * time.Millisecond, ""},
		{9000 * time.Millisecond, "a: resting"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newScene(t, queueOf(1), wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "a", URL: "http://a", MaxTunnels: 1}))
			s.set("a", accepting)
			first, _ := s.open(1)
			s.send(2, "/chat")
			s.set("a", proxytest.FakeBackend{Answer: proxytest.Switching, Delay: 1500 * time.Millisecond})
			time.Sleep(tt.waited)
			proxytest.HangUp(t, first)
			time.Sleep(2 * time.Second)
			s.wantFlags(tt.want)
		})
	}
}

// A service whose tunnels are all short.
func TestShortTunnelThatIsUsedClearsWhatALostOneRaised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s, network := startInMemory(t, backendsAt("a"))
		network.Set("a", losing)
		client := s.Dial(t)
		client.WriteRequest(proxytest.UpgradeTo("/chat"))
		proxytest.WantSwitch(t, client)
		client.WantClose(1012) // before the client leaves: else either of the two may have ended it
		client.Close()
		s.Wait()
		wantStates(t, p, wsproxy.BackendFailing)
		network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
		time.Sleep(2 * time.Second)
		tryOnce(t, s) // opened, and ended by the client, which shows nothing
		wantStates(t, p, wsproxy.BackendFailing)
		client = s.Dial(t)
		client.WriteRequest(proxytest.UpgradeTo("/chat"))
		proxytest.WantSwitch(t, client)
		proxytest.WantEcho(t, client)
		proxytest.HangUp(t, client)
		s.Wait()
		wantStates(t, p, wsproxy.BackendUp)
	})
}
