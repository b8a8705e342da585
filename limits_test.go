package wsproxy_test

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// startLimited serves, in memory, a proxy with those limits and one backend, and returns
// where refusals are reported.
func startLimited(t *testing.T, l wsproxy.Limits, opts ...wsproxy.Option) (*wsproxy.Proxy, *proxytest.Site, chan wsproxy.RefusedInfo) {
	t.Helper()
	told := make(chan wsproxy.RefusedInfo, 1000)
	network := proxytest.NewNetwork()
	network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
	opts = append([]wsproxy.Option{
		wsproxy.WithBackends("http://a"), wsproxy.WithDialer(network.Dial), wsproxy.WithLimits(l),
		wsproxy.WithTrace(&wsproxy.Trace{Refused: func(i wsproxy.RefusedInfo) { told <- i }}),
	}, opts...)
	p := proxytest.NewProxy(t, opts...)
	return p, proxytest.ServeInMemory(t, p), told
}

// upgrade opens a tunnel for a user, or returns nil and the status of the refusal.
func upgrade(t *testing.T, s *proxytest.Site, user string) (*wstest.Peer, *http.Response) {
	t.Helper()
	client := s.Dial(t)
	client.WriteRequest(proxytest.UpgradeTo("/chat", "X-User: "+user))
	resp := client.ReadResponse()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		client.Close()
		return nil, resp
	}
	return client, resp
}

func wantLimited(t *testing.T, resp *http.Response, status int, told <-chan wsproxy.RefusedInfo, reason wsproxy.Reason, field string) {
	t.Helper()
	proxytest.WantStatus(t, resp, status)
	if resp.Header.Get("Retry-After") == "" {
		t.Error("response has no Retry-After")
	}
	i := <-told
	if i.Reason != reason || !errors.Is(i.Err, wsproxy.ErrLimit) || !strings.Contains(i.Err.Error(), "Limits."+field) || i.Status != status {
		t.Errorf("Trace.Refused saw %v, status %d, %v; want %v, %d, and Limits.%s named", i.Reason, i.Status, i.Err, reason, status, field)
	}
}

func TestTunnelsAreBoundedInAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s, told := startLimited(t, wsproxy.Limits{Tunnels: 3})
		var clients []*wstest.Peer
		for i := range 3 {
			c, _ := upgrade(t, s, fmt.Sprint(i))
			clients = append(clients, c)
		}
		_, resp := upgrade(t, s, "late")
		wantLimited(t, resp, http.StatusServiceUnavailable, told, wsproxy.ReasonLimit, "Tunnels")
		proxytest.HangUp(t, clients[0])
		synctest.Wait()
		c, _ := upgrade(t, s, "late")
		if c == nil {
			t.Fatal("a place that is free again is not given to the next client")
		}
		for _, c := range append(clients[1:], c) {
			proxytest.HangUp(t, c)
		}
		synctest.Wait()
		proxytest.WantNoTunnels(t, p)
	})
}

func TestTunnelsOfOneClientAreBounded(t *testing.T) {
	for name, l := range map[string]wsproxy.Limits{
		"by a key":         {PerClient: 2, ClientKey: wsproxy.ByHeader("X-User")},
		"beside the total": {PerClient: 2, Tunnels: 100, ClientKey: wsproxy.ByHeader("X-User")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, s, told := startLimited(t, l)
				first, _ := upgrade(t, s, "ann")
				second, _ := upgrade(t, s, "ann")
				_, resp := upgrade(t, s, "ann")
				wantLimited(t, resp, http.StatusTooManyRequests, told, wsproxy.ReasonClientLimit, "PerClient")
				other, _ := upgrade(t, s, "bob")
				if other == nil {
					t.Fatal("one client's limit bounds another one")
				}
				proxytest.HangUp(t, first)
				synctest.Wait()
				third, _ := upgrade(t, s, "ann")
				if third == nil {
					t.Fatal("a client whose tunnel has ended gets no other one")
				}
				for _, c := range []*wstest.Peer{second, other, third} {
					proxytest.HangUp(t, c)
				}
			})
		})
	}
}

func TestClientWithoutKeyIsNotBoundedAsAClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := wsproxy.Limits{PerClient: 1, HandshakesPerClient: wsproxy.Rate{PerSecond: 0.001}, ClientKey: wsproxy.ByHeader("X-Nothing")}
		_, s, _ := startLimited(t, l)
		for range 5 {
			c, resp := upgrade(t, s, "")
			if c == nil {
				t.Fatalf("client without a key got %d", resp.StatusCode)
			}
			defer proxytest.HangUp(t, c)
		}
	})
}

func TestClientsAreToldApartByAddress(t *testing.T) {
	_, s := proxytest.Start(t, wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithTrustedProxies("127.0.0.1"),
		wsproxy.WithLimits(wsproxy.Limits{PerClient: 1}))
	from := func(addr string) string { return proxytest.UpgradeTo("/chat", "X-Forwarded-For: "+addr) }
	proxytest.Open(t, s.URL, from("192.0.2.1"))
	resp, _ := proxytest.Exchange(t, s.URL, from("192.0.2.1"))
	proxytest.WantStatus(t, resp, http.StatusTooManyRequests)
	proxytest.Open(t, s.URL, from("192.0.2.2"))
}

func TestHandshakesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, told := startLimited(t, wsproxy.Limits{Handshakes: wsproxy.Rate{PerSecond: 2, Burst: 3}})
		wave := func(want int) {
			t.Helper()
			got := 0
			for range want + 5 {
				if c, _ := upgrade(t, s, "x"); c != nil {
					got++
					proxytest.HangUp(t, c)
				} else if i := <-told; i.Reason != wsproxy.ReasonRate || i.Status != http.StatusServiceUnavailable {
					t.Errorf("Trace.Refused saw %v, %d", i.Reason, i.Status)
				}
			}
			if got != want {
				t.Errorf("%d upgrades were let in; want %d", got, want)
			}
		}
		wave(3)
		time.Sleep(time.Second)
		wave(2)
		time.Sleep(time.Minute)
		wave(3)
	})
}

// A client that is over its own rate leaves the others theirs, and asks nothing of Admit.
func TestHandshakesOfOneClientTakeNothingFromOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		admitted := 0
		l := wsproxy.Limits{
			HandshakesPerClient: wsproxy.Rate{PerSecond: 1, Burst: 2}, Handshakes: wsproxy.Rate{PerSecond: 0.001, Burst: 4},
			ClientKey: wsproxy.ByHeader("X-User"),
		}
		_, s, told := startLimited(t, l, wsproxy.WithAdmit(func(*http.Request) (any, error) { admitted++; return nil, nil }))
		for range 100 {
			if c, resp := upgrade(t, s, "loop"); c != nil {
				defer proxytest.HangUp(t, c)
			} else {
				wantLimited(t, resp, http.StatusTooManyRequests, told, wsproxy.ReasonRate, "HandshakesPerClient")
			}
		}
		for range 2 {
			c, resp := upgrade(t, s, "patient")
			if c == nil {
				t.Fatalf("the other client got %d", resp.StatusCode)
			}
			defer proxytest.HangUp(t, c)
		}
		if admitted != 4 {
			t.Errorf("the Admit hook was called %d times; want 4", admitted)
		}
	})
}

func TestCallsOfAdmitAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		_, s, told := startLimited(t, wsproxy.Limits{Admitting: 2}, wsproxy.WithAdmit(func(*http.Request) (any, error) { <-release; return nil, nil }))
		var waiting []*wstest.Peer
		for range 2 {
			c := s.Dial(t)
			c.WriteRequest(proxytest.UpgradeTo("/chat"))
			waiting = append(waiting, c)
		}
		synctest.Wait()
		_, resp := upgrade(t, s, "third")
		wantLimited(t, resp, http.StatusServiceUnavailable, told, wsproxy.ReasonLimit, "Admitting")
		close(release)
		for _, c := range waiting {
			proxytest.WantSwitch(t, c)
			proxytest.HangUp(t, c)
		}
		c, _ := upgrade(t, s, "fourth")
		if c == nil {
			t.Fatal("nobody is admitted after the hook has returned")
		}
		proxytest.HangUp(t, c)
	})
}

// An upgrade that fails after it was let in gives its place back once, however it fails.
func TestPlaceOfAnUpgradeThatFailsIsFreeAgain(t *testing.T) {
	onRewrite := func(f func() error) wsproxy.Option {
		return wsproxy.WithRewrite(func(r *wsproxy.ProxyRequest) error {
			if r.In.Header.Get("X-Fail") == "" {
				return nil
			}
			return f()
		})
	}
	onResponse := func(f func() error) wsproxy.Option {
		return wsproxy.WithResponse(func(r *wsproxy.ProxyResponse) error {
			if r.Request.Header.Get("X-Fail") == "" {
				return nil
			}
			return f()
		})
	}
	no := errors.New("no")
	for _, tt := range []struct {
		name   string
		option wsproxy.Option
		wrap   func(http.ResponseWriter) http.ResponseWriter // for the upgrade that fails
	}{
		{name: "error", option: onRewrite(func() error { return no })},
		{name: "panic", option: onRewrite(func() error { panic("no") })},
		{name: "abort", option: onRewrite(func() error { panic(http.ErrAbortHandler) })},
		{name: "exit", option: onRewrite(func() error { runtime.Goexit(); return nil })},
		{name: "response", option: onResponse(func() error { return no })},
		{name: "response panics", option: onResponse(func() error { panic("no") })},
		{name: "next backend", option: onResponse(func() error { return wsproxy.ErrTryNext })},
		{name: "hijack fails", option: onRewrite(func() error { return nil }), wrap: func(w http.ResponseWriter) http.ResponseWriter { return failingHijacker{w} }},
		{name: "client lost", option: onRewrite(func() error { return nil }), wrap: func(w http.ResponseWriter) http.ResponseWriter { return closedAtHijack{w} }},
	} {
		for name, l := range map[string]wsproxy.Limits{"in all": {Tunnels: 1}, "for each client": {PerClient: 1}} {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithLimits(l), tt.option)
				s := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if tt.wrap != nil && r.Header.Get("X-Fail") != "" {
						w = tt.wrap(w)
					}
					p.ServeHTTP(w, r)
				}))
				for range 2 {
					client := wstest.Dial(t, s.URL)
					client.WriteRequest(proxytest.UpgradeTo("/chat", "X-Fail: 1"))
					client.Peek()
					client.Close()
					s.Wait()
				}
				proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
				resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
				if resp.StatusCode != http.StatusServiceUnavailable && resp.StatusCode != http.StatusTooManyRequests {
					t.Errorf("the second client got %d; want it refused: there is one place", resp.StatusCode)
				}
			})
		}
	}
}

func TestPlaceOfARefusalByTheBackendIsFreeAgain(t *testing.T) {
	_, s := proxytest.Start(t, wsproxy.WithBackends(wstest.StartRaw(t, proxytest.Refusing(403, "no")).URL()), wsproxy.WithLimits(wsproxy.Limits{Tunnels: 1}))
	for range 3 {
		resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
		proxytest.WantStatus(t, resp, http.StatusForbidden)
		s.Wait()
	}
}

func TestLimitsAreLookedAtInTheirOrder(t *testing.T) {
	order := []string{"HandshakesPerClient", "Handshakes", "Admitting", "PerClient", "Tunnels"}
	for i, want := range order {
		t.Run(want, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all := wsproxy.Limits{
					HandshakesPerClient: wsproxy.Rate{PerSecond: 0.001, Burst: 1},
					Handshakes:          wsproxy.Rate{PerSecond: 0.001, Burst: 2},
					Admitting:           1, PerClient: 1, Tunnels: 1,
				}
				for _, lifted := range order[:i] {
					reflect.ValueOf(&all).Elem().FieldByName(lifted).SetZero()
				}
				all.ClientKey = wsproxy.ByHeader("X-User")
				release := make(chan struct{})
				numAdmitted := 0
				_, s, told := startLimited(t, all, wsproxy.WithAdmit(func(r *http.Request) (any, error) {
					if r.Header.Get("X-User") == "slow" {
						<-release
					} else {
						numAdmitted++
					}
					return nil, nil
				}))
				first, _ := upgrade(t, s, "ann")
				slow := s.Dial(t)
				slow.WriteRequest(proxytest.UpgradeTo("/chat", "X-User: slow"))
				synctest.Wait()
				upgrade(t, s, "ann")
				if i := <-told; !strings.Contains(i.Err.Error(), "Limits."+want+" ") {
					t.Errorf("refused with %v; want Limits.%s", i.Err, want)
				}
				if isAfterAdmit := i > 2; (numAdmitted == 2) != isAfterAdmit {
					t.Errorf("the Admit hook was called %d times for the two of ann", numAdmitted)
				}
				close(release)
				slow.ReadResponse()
				slow.Close()
				proxytest.HangUp(t, first)
			})
		})
	}
}

func TestRetryAfterOfARateIsTheTimeToWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, _ := startLimited(t, wsproxy.Limits{Handshakes: wsproxy.Rate{PerSecond: 0.01}})
		c, _ := upgrade(t, s, "x")
		proxytest.HangUp(t, c)
		_, resp := upgrade(t, s, "x")
		if n, _ := strconv.Atoi(resp.Header.Get("Retry-After")); n < 100 || n > 200 {
			t.Errorf("Retry-After is %q; want 100 to 200, because one is allowed every 100 s", resp.Header.Get("Retry-After"))
		}
	})
}

func TestRateThatIsNotANumberIsAMistake(t *testing.T) {
	none := wsproxy.Rate{PerSecond: math.NaN()}
	for name, l := range map[string]wsproxy.Limits{
		"Handshakes": {Handshakes: none}, "HandshakesPerClient": {HandshakesPerClient: none},
		"ClientMessages": {ClientMessages: none}, "ClientBytes": {ClientBytes: none},
	} {
		_, err := wsproxy.New(wsproxy.WithBackends(), wsproxy.WithLimits(l))
		if errs := configErrors(t, err); len(errs) != 1 || errs[0].Option != "WithLimits."+name+".PerSecond" {
			t.Errorf("New() = %v; want a mistake in WithLimits.%s.PerSecond", err, name)
		}
	}
}

func TestPanicInClientKeyEndsOneUpgrade(t *testing.T) {
	told := make(chan wsproxy.RefusedInfo, 1)
	_, s := proxytest.Start(t, wsproxy.WithBackends(wstest.StartEcho(t)),
		wsproxy.WithLimits(wsproxy.Limits{PerClient: 1, ClientKey: func(*http.Request) string { panic("x") }}),
		wsproxy.WithTrace(&wsproxy.Trace{Refused: func(i wsproxy.RefusedInfo) { told <- i }}))
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantStatus(t, resp, http.StatusInternalServerError)
	if i := <-told; i.Reason != wsproxy.ReasonHook {
		t.Errorf("Trace.Refused saw %v; want hook", i.Reason)
	}
}

func TestLimitsThatAreNotPositiveBoundNothing(t *testing.T) {
	for _, l := range []wsproxy.Limits{
		{},
		{Tunnels: -1, PerClient: -1, Admitting: -1, Handshakes: wsproxy.Rate{PerSecond: -1, Burst: 1}, HandshakesPerClient: wsproxy.Rate{Burst: 1}},
	} {
		synctest.Test(t, func(t *testing.T) {
			_, s, _ := startLimited(t, l, wsproxy.WithAdmit(func(*http.Request) (any, error) { return nil, nil }))
			for range 20 {
				c, resp := upgrade(t, s, "x")
				if c == nil {
					t.Fatalf("limits %+v: client got %d", l, resp.StatusCode)
				}
				defer proxytest.HangUp(t, c)
			}
		})
	}
}

func TestTunnelHoldsItsPlaceUntilItsEnd(t *testing.T) {
	proxytest.ForEachWay(t, func(t *testing.T, way wsproxy.Option) {
		p, s := proxytest.Start(t, way, wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithLimits(wsproxy.Limits{Tunnels: 1, PerClient: 1}))
		for range 3 {
			client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
			resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
			proxytest.WantStatus(t, resp, http.StatusTooManyRequests)
			proxytest.HangUp(t, client)
			if !proxytest.Becomes(func() bool { return p.Stats().Tunnels == 0 }) {
				t.Fatal("the tunnel does not end")
			}
		}
	})
}

// A client that was asked to come again may do so while the hook still runs.
func TestTunnelGivesItsPlaceBackBeforeItsHook(t *testing.T) {
	proxytest.ForEachWay(t, func(t *testing.T, way wsproxy.Option) {
		ended, leave := make(chan struct{}), make(chan struct{})
		defer close(leave)
		_, s := proxytest.Start(t, way, wsproxy.WithBackends(wstest.StartEcho(t)),
			wsproxy.WithLimits(wsproxy.Limits{Tunnels: 1, PerClient: 1}),
			wsproxy.WithTrace(&wsproxy.Trace{Closed: func(wsproxy.TunnelEnd) {
				ended <- struct{}{}
				<-leave
			}}))
		for range 2 {
			client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
			proxytest.HangUp(t, client)
			<-ended
		}
	})
}

func TestClientRatesSlowTheClientDown(t *testing.T) {
	const messages = 60
	message := wstest.Binary(make([]byte, 40_000)) // more than a read
	wire := float64(len(message.Payload) + 8)
	for name, l := range map[string]wsproxy.Limits{
		"messages": {ClientMessages: wsproxy.Rate{PerSecond: 20, Burst: 20}},
		"bytes":    {ClientBytes: wsproxy.Rate{PerSecond: 20 * wire, Burst: int(20 * wire)}},
	} {
		t.Run(name, func(t *testing.T) {
			proxytest.ForEachWay(t, func(t *testing.T, way wsproxy.Option) {
				t.Parallel() // some real seconds
				p := proxytest.OpenPair(t, way, wsproxy.WithLimits(l))
				start := time.Now()
				go func() { // until they are read, or the end
					for range messages {
						p.Client.WriteFrames(message)
					}
				}()
				for i := range messages {
					p.Backend.Want(message)
					if most := 20 + 3 + 20*time.Since(start).Seconds(); float64(i+1) > most {
						t.Fatalf("%d messages have come after %v; want %v at most", i+1, time.Since(start), most)
					}
				}
				p.WantOpen(t)
			})
		})
	}
}

func TestClientRatesThatAreNotPositiveBoundNothing(t *testing.T) {
	for _, perSecond := range []float64{0, -1, math.Inf(1)} {
		r := wsproxy.Rate{PerSecond: perSecond, Burst: 1}
		p := proxytest.OpenPair(t, wsproxy.WithLimits(wsproxy.Limits{ClientMessages: r, ClientBytes: r}))
		for range 200 {
			p.WantBothWays()
		}
	}
}

func TestControlFloodIsAPolicyViolation(t *testing.T) {
	for _, sort := range []wstest.Frame{wstest.Ping(""), wstest.Pong("")} {
		t.Run(sort.String(), func(t *testing.T) {
			p := proxytest.OpenPair(t)
			p.Client.Send(wstest.Text("hello"))
			p.Backend.Want(wstest.Text("hello"))
			p.Client.Send(slices.Repeat([]wstest.Frame{sort}, 1000)...)
			frames := 0
			for {
				f, err := p.Backend.ReadFrame()
				if err != nil || f.Opcode == wstest.OpClose {
					if want := wstest.Close(1001, "client sent too many control frames"); string(f.Payload) != string(want.Payload) {
						t.Errorf("the backend got %v, %v; want %v", f, err, want)
					}
					break
				}
				frames++
			}
			if frames < 100 || frames > 200 {
				t.Errorf("%d control frames were passed; want about 100", frames)
			}
			p.Backend.Send(wstest.Close(1001, ""))
			p.Client.WantClose(1008)
			p.Client.Conn().Close()
			p.Backend.Conn().Close()
			if e := p.End(t); e.Side != wsproxy.SideClient || e.Cause != wsproxy.CauseControlFlood || e.Code != 1008 || e.Cut || e.Err == nil {
				t.Errorf("tunnel ended by %v, %v, code %d, cut %v, %v; want the client, control flood, 1008, with an error", e.Side, e.Cause, e.Code, e.Cut, e.Err)
			}
		})
	}
}

func TestLimitsAreThoseThatWereGiven(t *testing.T) {
	given := wsproxy.Limits{
		Tunnels: 10, PerClient: -1, Queue: 3, Handshakes: wsproxy.Rate{PerSecond: 5}, MessageSize: 1 << 20, StalledTunnels: 7, SocketBuffer: -5,
	}
	if got := proxytest.NewProxy(t, wsproxy.WithBackends(), wsproxy.WithLimits(given)).Limits(); !reflect.DeepEqual(got, given) {
		t.Errorf("Limits() = %+v; want %+v", got, given)
	}
	if got := proxytest.NewProxy(t, wsproxy.WithBackends()).Limits(); !reflect.DeepEqual(got, wsproxy.Limits{}) {
		t.Errorf("Limits() = %+v without WithLimits; want none", got)
	}
}
