package wsproxy_test

import (
	"crypto/tls"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/affinity"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

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
	}{{101, true}, {302, true}, {400, true}, {401, true}, {404, true}, {500, false}, {502, false}, {503, false}, {504, false}} {
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
