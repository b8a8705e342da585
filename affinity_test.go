package wsproxy_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/affinity"
	"github.com/wsproxy/wsproxy/internal/backendtest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

var (
	affinityKey = []byte("0123456789abcdef")
	olderKey    = []byte("fedcba9876543210")
)

// byCookie is affinity by a cookie with its defaults.
var byCookie = wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{affinityKey}})

// byRoom is affinity by a key.
var byRoom = wsproxy.WithAffinity(wsproxy.Affinity{Key: wsproxy.ByQuery("room")})

// A browser is a client that keeps its cookie.
type browser struct {
	s      *scene
	client int
	cookie string // "name=value"
}

func (s *scene) newBrowser(client int) *browser { return &browser{s: s, client: client} }

// send sends an upgrade, and returns the response. The connection is left open.
func (b *browser) send(path string, lines ...string) (*wstest.Peer, *http.Response) {
	b.s.t.Helper()
	if b.cookie != "" {
		lines = append(lines, "Cookie: "+b.cookie)
	}
	c := b.s.send(b.client, path, lines...)
	resp := c.ReadResponse()
	synctest.Wait() // the hook that adds to opened is called after the 101
	for _, cookie := range resp.Cookies() {
		b.cookie = cookie.Name + "=" + cookie.Value
	}
	return c, resp
}

// visit opens a tunnel and ends it. It returns the backend, and whether the client got a cookie.
func (b *browser) visit() (backend string, hasCookie bool) {
	b.s.t.Helper()
	c, resp := b.send("/chat")
	proxytest.WantStatus(b.s.t, resp, http.StatusSwitchingProtocols)
	n := len(b.s.opened)
	if n == 0 {
		b.s.t.Fatal("no tunnel has opened")
	}
	backend = b.s.opened[n-1]
	proxytest.HangUp(b.s.t, c)
	synctest.Wait()
	return backend, len(resp.Cookies()) > 0
}

// wantVisit checks what visit returns.
func (b *browser) wantVisit(backend string, hasCookie bool) {
	b.s.t.Helper()
	if at, got := b.visit(); at != backend || got != hasCookie {
		b.s.t.Errorf("client %d is at %s, got a cookie: %t; want %s, %t", b.client, at, got, backend, hasCookie)
	}
}

func TestCookieBindsAClientToItsBackend(t *testing.T) {
	for name, balancer := range map[string]wsproxy.Balancer{
		"least tunnels": nil, "round robin": wsproxy.RoundRobin(), "random": wsproxy.Random(),
		"hash of nothing that stays": wsproxy.Hash(func(r *http.Request) string { return wsproxy.RequestID(r) }),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, byCookie, wsproxy.WithBalancer(balancer))
				s.set("abc", accepting)
				homes := make(map[string]int)
				for client := range 30 {
					b := s.newBrowser(client)
					home, hasCookie := b.visit()
					if !hasCookie {
						t.Errorf("client %d has got no cookie with its 101", client)
					}
					homes[home]++
					for range 4 {
						b.wantVisit(home, false)
					}
				}
				if len(homes) != 3 {
					t.Errorf("clients are at %v; want some at each of three backends", homes)
				}
			})
		})
	}
}

func TestBalancerIsAskedOnlyForClientsThatAreNotBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		numAsked := 0
		var picked []string
		s := newScene(t, byCookie, wsproxy.WithBalancer(wsproxy.BalancerFunc(func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			numAsked++
			return candidates[1], nil
		})), wsproxy.WithTrace(&wsproxy.Trace{
			Picked: func(i wsproxy.PickedInfo) {
				picked = append(picked, fmt.Sprintf("%v, attempt %d, of %d", i.Backend, i.Attempt, i.Candidates))
			},
		}))
		s.set("abc", accepting)
		b := s.newBrowser(1)
		for range 3 {
			c, resp := b.send("/chat")
			proxytest.WantStatus(t, resp, 101)
			proxytest.HangUp(t, c)
		}
		want := []string{"b, attempt 1, of 3", "b, attempt 1, of 1", "b, attempt 1, of 1"}
		if numAsked != 1 || !slices.Equal(picked, want) {
			t.Errorf("the balancer was asked %d times, and Picked called with %q; want once, and %q", numAsked, picked, want)
		}
	})
}

func TestCookieFollowsItsTemplate(t *testing.T) {
	const defaults = "wsproxy=VALUE; Path=/; HttpOnly; SameSite=Lax"
	for _, tt := range []struct {
		name   string
		cookie *http.Cookie
		isTLS  bool
		lines  []string
		want   string
	}{
		{name: "defaults", want: defaults},
		{name: "empty", cookie: &http.Cookie{}, want: defaults},
		{name: "over TLS", isTLS: true, want: "wsproxy=VALUE; Path=/; HttpOnly; Secure; SameSite=Lax"},
		{name: "https at a trusted proxy", lines: []string{"X-Forwarded-Proto: https"}, want: "wsproxy=VALUE; Path=/; HttpOnly; Secure; SameSite=Lax"},
		{name: "wss at a trusted proxy", lines: []string{"X-Forwarded-Proto: WSS"}, want: "wsproxy=VALUE; Path=/; HttpOnly; Secure; SameSite=Lax"},
		{name: "https at the first of two", lines: []string{"X-Forwarded-Proto: https, http"}, want: "wsproxy=VALUE; Path=/; HttpOnly; Secure; SameSite=Lax"},
		{name: "http at a trusted proxy, which comes over TLS", isTLS: true, lines: []string{"X-Forwarded-Proto: http"}, want: defaults},
		{name: "https says a peer that is not trusted", lines: []string{"X-Forwarded-Proto: https", "untrusted"}, want: defaults},
		{name: "all fields", cookie: &http.Cookie{Name: "n", Path: "/p", Domain: "example.com", SameSite: http.SameSiteStrictMode, Secure: true},
			want: "n=VALUE; Path=/p; Domain=example.com; HttpOnly; Secure; SameSite=Strict"},
		{name: "the default mode of browsers", cookie: &http.Cookie{SameSite: http.SameSiteDefaultMode}, want: "wsproxy=VALUE; Path=/; HttpOnly"},
		{name: "cross-site", cookie: &http.Cookie{SameSite: http.SameSiteNoneMode}, want: "wsproxy=VALUE; Path=/; HttpOnly; Secure; SameSite=None"},
		{name: "partitioned", cookie: &http.Cookie{SameSite: http.SameSiteNoneMode, Secure: true, Partitioned: true},
			want: "wsproxy=VALUE; Path=/; HttpOnly; Secure; SameSite=None; Partitioned"},
		{name: "host prefix", cookie: &http.Cookie{Name: "__Host-n"}, want: "__Host-n=VALUE; Path=/; HttpOnly; Secure; SameSite=Lax"},
		{name: "secure prefix", cookie: &http.Cookie{Name: "__secure-n", Path: "/p"}, want: "__secure-n=VALUE; Path=/p; HttpOnly; Secure; SameSite=Lax"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartEcho(t)
			opts := []wsproxy.Option{
				wsproxy.WithBackends(backend),
				wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{affinityKey}, Cookie: tt.cookie}),
			}
			if !slices.Contains(tt.lines, "untrusted") {
				opts = append(opts, wsproxy.WithTrustedProxies("127.0.0.1"))
			}
			p := proxytest.NewProxy(t, opts...)
			site := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if tt.isTLS {
					r.TLS = new(tls.ConnectionState)
				}
				p.ServeHTTP(w, r)
			}))
			lines := slices.DeleteFunc(slices.Clone(tt.lines), func(line string) bool { return line == "untrusted" })
			_, resp := proxytest.Open(t, site.URL, proxytest.UpgradeTo("/", lines...))
			got := resp.Header["Set-Cookie"]
			if len(got) != 1 || len(resp.Cookies()) != 1 {
				t.Fatalf("Set-Cookie is %q; want one cookie", got)
			}
			value := resp.Cookies()[0].Value
			if len(value) != affinity.ValueLen {
				t.Errorf("value %q has %d bytes; want %d", value, len(value), affinity.ValueLen)
			}
			if line := strings.Replace(got[0], value, "VALUE", 1); line != tt.want {
				t.Errorf("Set-Cookie is %q; want %q", line, tt.want)
			}
		})
	}
}

// What binds no client is ignored, and replaced by a new cookie.
func TestCookieThatIsNotValidIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, byCookie, proxytest.FirstCandidate)
		s.set("abc", accepting)
		signer := affinity.New("wsproxy", [][]byte{affinityKey}, time.Hour)
		atB := signer.Sign(signer.Hashes("b"), time.Now().Unix())
		foreign := affinity.New("wsproxy", [][]byte{olderKey}, time.Hour)
		named := affinity.New("other", [][]byte{affinityKey}, time.Hour)
		tampered := []byte(atB)
		tampered[30] ^= 1
		const bad, good = true, false
		for _, tt := range []struct {
			name, cookies string
			isBad         bool
		}{
			{"none", "", bad},
			{"valid", "wsproxy=" + atB, good},
			{"quoted", `wsproxy="` + atB + `"`, good},
			{"among others", "a=1; wsproxy=" + atB + "; b=2", good},
			{"in the second line", "a=1\r\nCookie: wsproxy=" + atB, good},
			{"twice", "wsproxy=" + atB + "; wsproxy=" + atB, good},
			{"behind one that is wrong", "wsproxy=no; wsproxy=" + atB, good},
			{"behind one that is foreign", "wsproxy=" + foreign.Sign(foreign.Hashes("a"), time.Now().Unix()) + "; wsproxy=" + atB, good},
			{"in front of one that is wrong", "wsproxy=" + atB + "; wsproxy=no", good},
			{"tampered", "wsproxy=" + string(tampered), bad},
			{"cut", "wsproxy=" + atB[:len(atB)-1], bad},
			{"the ID", "wsproxy=b", bad},
			{"expired", "wsproxy=" + signer.Sign(signer.Hashes("b"), time.Now().Add(-2*time.Hour).Unix()), bad},
			{"of another key", "wsproxy=" + foreign.Sign(foreign.Hashes("b"), time.Now().Unix()), bad},
			{"of another name", "wsproxy=" + named.Sign(named.Hashes("b"), time.Now().Unix()), bad},
			{"under another name", "WSPROXY=" + atB, bad},
			{"of an unknown backend", "wsproxy=" + signer.Sign(signer.Hashes("d"), time.Now().Unix()), bad},
			{"oversized", "wsproxy=" + strings.Repeat("A", 100_000), bad},
			{"very many", strings.Repeat("wsproxy="+string(tampered)+"; ", 3000), bad},
			{"empty", "wsproxy=", bad},
			{"no value", "wsproxy", bad},
			{"bytes that no cookie has", "wsproxy=\xff\xfe", bad},
		} {
			var lines []string
			if tt.cookies != "" {
				lines = []string{"Cookie: " + tt.cookies}
			}
			c := s.send(1, "/chat", lines...)
			resp := c.ReadResponse()
			want := map[bool]string{good: "b", bad: "a"}[tt.isBad]
			if resp.StatusCode != 101 || s.opened[len(s.opened)-1] != want {
				t.Errorf("%s: status %d; want a tunnel at %s", tt.name, resp.StatusCode, want)
			}
			// The time to live of this proxy is another one, so that its clients get a new cookie too.
			if got := resp.Cookies(); tt.isBad && len(got) != 1 {
				t.Errorf("%s: client got the cookies %v; want one", tt.name, got)
			}
			c.Close()
			synctest.Wait()
		}
		s.wantNeverTold("cookie")
		s.wantNeverTold(atB)
	})
}

func TestCookieIsRenewedAfterHalfOfItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, wsproxy.WithBalancer(wsproxy.RoundRobin()),
			wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{affinityKey}, TTL: time.Hour}))
		s.set("abc", accepting)
		b := s.newBrowser(1)
		b.wantVisit("a", true)
		time.Sleep(30 * time.Minute)
		b.wantVisit("a", false)
		time.Sleep(time.Second)
		b.wantVisit("a", true)
		for range 10 { // so that a client that comes keeps its backend for ever
			time.Sleep(40 * time.Minute)
			b.wantVisit("a", true)
		}
		time.Sleep(time.Hour)
		b.wantVisit("b", true)
	})
}

func TestCookieWithoutEndIsNotRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, wsproxy.WithBalancer(wsproxy.RoundRobin()),
			wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{affinityKey}, TTL: -1}))
		s.set("abc", accepting)
		b := s.newBrowser(1)
		b.wantVisit("a", true)
		time.Sleep(10 * 365 * 24 * time.Hour)
		b.wantVisit("a", false)
	})
}

func TestBackendDoesNotGetTheCookie(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lines []string
		want  []string
		opt   wsproxy.Option
	}{
		{"none", []string{`Cookie: a="x y"; b=\`}, []string{`a="x y"; b=\`}, byCookie},
		{"alone", []string{"Cookie: wsproxy=x"}, nil, byCookie},
		{"among others", []string{"Cookie: a=1;b=2; wsproxy=x;  c=3", "Cookie: wsproxy=y", "Cookie: d=4"}, []string{"a=1;b=2;  c=3", "d=4"}, byCookie},
		{"by key", []string{"Cookie: wsproxy=x"}, []string{"wsproxy=x"}, byRoom},
	} {
		r := proxytest.RequestAtBackend(t, proxytest.UpgradeTo("/chat", tt.lines...), tt.opt)
		if got := r.Header["Cookie"]; !slices.Equal(got, tt.want) {
			t.Errorf("%s: backend got the cookies %q; want %q", tt.name, got, tt.want)
		}
	}
}

func TestCookieIsSetWithResponses(t *testing.T) {
	for _, tt := range []struct {
		status     int
		wantCookie bool
	}{{101, true}, {302, true}, {400, true}, {401, true}, {404, true}, {500, true}, {502, false}, {503, false}, {504, false}} {
		synctest.Test(t, func(t *testing.T) {
			var seen []string // by the hook
			s := newScene(t, byCookie, backendsAt("a"), wsproxy.WithResponse(func(r *wsproxy.ProxyResponse) error {
				seen = r.Header["Set-Cookie"]
				return nil
			}))
			answer := proxytest.Refusing(tt.status, "no", "Set-Cookie: own=1")
			if tt.status == 101 {
				answer = proxytest.SwitchingWith("Set-Cookie: own=1")
			}
			s.set("a", proxytest.FakeBackend{Answer: answer})
			c := s.send(1, "/chat")
			resp := c.ReadResponse()
			proxytest.WantStatus(t, resp, tt.status)
			var names []string
			for _, cookie := range resp.Cookies() {
				names = append(names, cookie.Name)
			}
			want := []string{"own"}
			if tt.wantCookie {
				want = append(want, "wsproxy")
			}
			if !slices.Equal(names, want) || len(seen) != len(want) {
				t.Errorf("%d: client got the cookies %q, and the hook saw %q; want %q", tt.status, names, seen, want)
			}
			c.Close()
			s.site.Wait()
		})
	}
}

// Three replicas: one has the backends in another order, another one an older key first.
func TestReplicasAgreeWithoutTalking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := func(keys ...[]byte) wsproxy.Option { return wsproxy.WithAffinity(wsproxy.Affinity{Keys: keys}) }
		replicas := []*scene{
			newScene(t, keys(affinityKey, olderKey), wsproxy.WithBalancer(wsproxy.RoundRobin())),
			newScene(t, keys(affinityKey, olderKey), wsproxy.WithBalancer(wsproxy.Random()), backendsAt("c", "a", "b")),
			newScene(t, keys(olderKey, affinityKey), wsproxy.WithBalancer(wsproxy.RoundRobin())),
		}
		for _, s := range replicas {
			s.set("abc", accepting)
		}
		for client := range 30 {
			b := replicas[client%3].newBrowser(client)
			home, _ := b.visit()
			for i := range 6 {
				b.s = replicas[(client+i)%3]
				b.wantVisit(home, false)
			}
		}
	})
}

func TestReplicasAgreeAboutKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, other := newScene(t, byRoom), newScene(t, byRoom, backendsAt("c", "a", "b"))
		for _, s := range []*scene{one, other} {
			s.set("abc", accepting)
		}
		for room := range 30 {
			var at []string
			for _, s := range []*scene{one, other, one} {
				c := s.send(room, fmt.Sprint("/chat?room=", room))
				resp := proxytest.WantSwitch(t, c)
				if len(resp.Cookies()) > 0 {
					t.Errorf("a client with a key got the cookies %v", resp.Cookies())
				}
				at = append(at, s.opened[len(s.opened)-1])
				c.Close()
			}
			if at[0] != at[1] || at[0] != at[2] {
				t.Errorf("room %d is at %q; want the same backend each time", room, at)
			}
		}
	})
}

// A client without a key is bound by its cookie, and one with a key gets none.
func TestKeyComesBeforeTheCookie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, wsproxy.WithBalancer(wsproxy.RoundRobin()),
			wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{affinityKey}, Key: wsproxy.ByQuery("room")}))
		s.set("abc", accepting)
		b := s.newBrowser(1)
		home, hasCookie := b.visit()
		if !hasCookie {
			t.Error("a client without a key got no cookie")
		}
		isElsewhere := false
		for room := range 10 {
			c, resp := b.send(fmt.Sprint("/chat?room=", room))
			proxytest.WantStatus(t, resp, 101)
			if len(resp.Cookies()) > 0 {
				t.Errorf("a client with a key got the cookies %v", resp.Cookies())
			}
			isElsewhere = isElsewhere || s.opened[len(s.opened)-1] != home
			c.Close()
			synctest.Wait()
		}
		if !isElsewhere {
			t.Error("all rooms are at the backend of the cookie")
		}
		b.wantVisit(home, false)
	})
}

func TestKeyMayBeTheUserThatWasAdmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, wsproxy.WithBalancer(wsproxy.RoundRobin()),
			wsproxy.WithAdmit(func(r *http.Request) (any, error) { return r.URL.Query().Get("user"), nil }),
			wsproxy.WithAffinity(wsproxy.Affinity{Key: func(r *http.Request) string {
				user, _ := wsproxy.Admitted(r).(string)
				return user
			}}))
		s.set("abc", accepting)
		homes := make(map[string]bool)
		for range 10 {
			c := s.send(1, "/chat?user=ann")
			proxytest.WantSwitch(t, c)
			homes[s.opened[len(s.opened)-1]] = true
			c.Close()
			synctest.Wait()
		}
		if len(homes) != 1 {
			t.Errorf("the user was at %v; want one backend", homes)
		}
	})
}

func TestPanicOfTheKeyFunctionEndsOneUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, wsproxy.WithAffinity(wsproxy.Affinity{Key: func(r *http.Request) string {
			if r.URL.RawQuery == "panic" {
				panic("of the test")
			}
			return "key"
		}}))
		s.set("abc", accepting)
		proxytest.WantStatus(t, s.send(1, "/chat?panic").ReadResponse(), 500)
		s.wantRefused("hook 500")
		s.wantTimesTold(1, "level=ERROR", "Affinity.Key", "of the test")
		proxytest.WantStatus(t, s.send(1, "/chat").ReadResponse(), 101)
	})
}

// When the set changes, the keys of a fair share move; all others stay.
func TestChangeOfTheSetMovesItsShareOfKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, byRoom)
		s.set("abcd", accepting)
		const n = 400
		homes := func() (homes [n]string) {
			for room := range n {
				c := s.send(room, fmt.Sprint("/chat?room=", room))
				proxytest.WantSwitch(t, c)
				homes[room] = s.opened[len(s.opened)-1]
				c.Close()
			}
			return homes
		}
		before := homes()
		s.setBackends("abcd")
		after := homes()
		numMoved := 0
		for room := range n {
			if before[room] == after[room] {
				continue
			}
			numMoved++
			if after[room] != "d" {
				t.Errorf("room %d has moved from %s to %s; want only moves to the new backend", room, before[room], after[room])
			}
		}
		if numMoved < n/4-30 || numMoved > n/4+30 {
			t.Errorf("%d of %d rooms have moved; want a quarter", numMoved, n)
		}
	})
}

// The attempt on the client's own backend fails: another one takes it, and gives it its cookie.
func TestClientWhoseBackendFailsIsBoundToTheOneThatAnswers(t *testing.T) {
	for name, failing := range map[string]proxytest.FakeBackend{
		"unreachable": unreachable,
		"502":         {Answer: proxytest.Refusing(502, "")},
		"closes":      {Answer: "{end}"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, byCookie, proxytest.FirstCandidate)
				s.set("abc", accepting)
				b := s.newBrowser(1)
				b.wantVisit("a", true)
				s.set("a", failing)
				b.wantVisit("b", true)
				s.set("a", accepting)
				time.Sleep(time.Minute)
				b.wantVisit("b", false) // it stays
			})
		})
	}
}

// By key, the next one in the order of the key takes it, and gives it back.
func TestKeyWhoseBackendFailsComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, byRoom)
		s.set("abc", accepting)
		visit := func() string {
			c := s.send(1, "/chat?room=blue")
			proxytest.WantSwitch(t, c)
			c.Close()
			synctest.Wait()
			return s.opened[len(s.opened)-1]
		}
		home := visit()
		s.set(home, unreachable)
		second := visit()
		for range 5 {
			if at := visit(); at != second {
				t.Errorf("the room is at %s, and then at %s", second, at)
			}
		}
		s.set(home, accepting)
		time.Sleep(2 * time.Second) // it is tried by those who are bound to it
		if at := visit(); second == home || at != home {
			t.Errorf("the room is at %s, then at %s, then at %s; want it back", home, second, at)
		}
		s.wantFlags("")
	})
}

func TestBoundClientGoesToItsBackendThoughOthersAreBetter(t *testing.T) {
	for _, flag := range []string{"resting", "full", "ejected"} {
		t.Run(flag, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, byCookie, proxytest.FirstCandidate)
				s.set("abc", accepting)
				b := s.newBrowser(1)
				b.wantVisit("a", true)
				backendtest.Set(s.backend("a"), backendtest.State{Flags: []string{flag}})
				s.newBrowser(2).wantVisit("b", true)
				b.wantVisit("a", false)
				s.wantNeverTold("others are used")
			})
		})
	}
}

// The 101 goes to the connection itself. With Front, a middleware's cookies are beside the proxy's.
func TestCookieIsSetBesideThoseOfMiddleware(t *testing.T) {
	backend := wstest.StartEcho(t)
	p := proxytest.NewProxy(t, wsproxy.WithBackends(backend), byCookie)
	site := proxytest.Serve(t, wsproxy.Front(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "session", Value: "1"})
		p.ServeHTTP(w, r)
	})))
	_, resp := proxytest.Open(t, site.URL, proxytest.UpgradeTo("/"))
	if got := resp.Cookies(); len(got) != 2 || got[0].Name != "session" || got[1].Name != "wsproxy" {
		t.Errorf("client got the cookies %v; want session and wsproxy", got)
	}
}
