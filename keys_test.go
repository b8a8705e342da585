package wsproxy

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestByClientIPUsesRecordedClient(t *testing.T) {
	for _, tt := range []struct{ addr, want string }{
		{"192.0.2.1", "192.0.2.1"},
		{"::ffff:192.0.2.1", "192.0.2.1"},
		{"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"},
		{"2001:db8:1:2::", "2001:db8:1:2::/64"},
		{"fe80::1%eth0", "fe80::/64"},
		{"", ""},
	} {
		r := newForwardedRequest(t, tt.addr)
		if got := ByClientIP()(r); got != tt.want {
			t.Errorf("client %q: ByClientIP() = %q; want %q", tt.addr, got, tt.want)
		}
	}
}

func TestByClientIPFallsBackToPeer(t *testing.T) {
	for _, tt := range []struct{ remote, want, addr string }{
		{"192.0.2.1:4711", "192.0.2.1", "192.0.2.1"},
		{"192.0.2.1", "192.0.2.1", "192.0.2.1"},
		{"[::ffff:192.0.2.1]:4711", "192.0.2.1", "192.0.2.1"},
		{"[2001:db8:1:2:3:4:5:6]:4711", "2001:db8:1:2::/64", "2001:db8:1:2:3:4:5:6"},
		{"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1:2:3:4:5:6"},
		{"[fe80::1%eth0]:4711", "fe80::/64", "fe80::1"},
		{"", "", "invalid IP"},
		{"@", "", "invalid IP"},
		{"/run/chat.sock", "", "invalid IP"},
		{"client.test:80", "", "invalid IP"},
	} {
		r := newTestRequest()
		r.RemoteAddr = tt.remote
		if got := ByClientIP()(r); got != tt.want {
			t.Errorf("RemoteAddr %q: ByClientIP() = %q; want %q", tt.remote, got, tt.want)
		}
		if got := new(Proxy).ClientIP(r).String(); got != tt.addr {
			t.Errorf("RemoteAddr %q: ClientIP() = %s; want %s", tt.remote, got, tt.addr)
		}
	}
}

// newForwardedRequest returns a request as hooks get it, of a client behind a trusted
// proxy. If addr is empty, there is a trusted proxy without an address, and no other.
func newForwardedRequest(t testing.TB, addr string) *http.Request {
	t.Helper()
	p := new(Proxy)
	r := newTestRequest()
	if addr == "" {
		r.RemoteAddr = "@"
	} else {
		r.Header.Set("X-Forwarded-For", addr)
	}
	for _, prefix := range []string{"192.0.2.7", "unix"} {
		if err := p.trusted.Add(prefix); err != nil {
			t.Fatal(err)
		}
	}
	return p.identify(r, new(requestInfo))
}

func TestByHeaderUsesFirstValue(t *testing.T) {
	r := newTestRequest()
	r.Header["X-Room"] = []string{"blue", "green"}
	for _, tt := range []struct{ name, want string }{
		{"X-Room", "blue"},
		{"x-room", "blue"},
		{"X-Absent", ""},
		{"", ""},
		{"Host", "chat.test"},
		{"host", "chat.test"},
	} {
		if got := ByHeader(tt.name)(r); got != tt.want {
			t.Errorf("ByHeader(%q) = %q; want %q", tt.name, got, tt.want)
		}
	}
}

// lines joined by newlines are several Cookie fields.
var cookieSeeds = []struct{ lines, name string }{
	{"", "a"},
	{"a=1", "a"},
	{"b=2; a=1", "a"},
	{"a=1; a=2", "a"},
	{"b=1\na=2", "a"},
	{"\na=2", "a"},
	{`a="1"`, "a"},
	{`a="1 2,3"`, "a"},
	{`a="`, "a"},
	{`a=""`, "a"},
	{`a="1; a=2`, "a"},
	{`a=1"2; a=3`, "a"},
	{`a=\; a=3`, "a"},
	{"a", "a"},
	{"a; a=1", "a"},
	{"a=; a=1", "a"},
	{"A=1; a=2", "a"},
	{" \t a \t = 1 \t;", "a"},
	{"a=b=c==", "a"},
	{"a=\x7f; a=é; a=ok", "a"},
	{";;; a=1;;", "a"},
	{"=1; a=2", ""},
	{"a b=1", "a b"},
	{"ab=1", "a"},
	{"a=1;a=\x00", "a"},
}

func TestByCookieAgreesWithNetHTTP(t *testing.T) {
	for _, s := range cookieSeeds {
		checkCookie(t, s.lines, s.name)
	}
}

func FuzzByCookieAgreesWithNetHTTP(f *testing.F) {
	for _, s := range cookieSeeds {
		f.Add(s.lines, s.name)
	}
	f.Fuzz(func(t *testing.T, lines, name string) {
		if strings.Count(lines, ";") > 1000 {
			t.Skip("net/http has a limit")
		}
		checkCookie(t, lines, name)
	})
}

func checkCookie(t *testing.T, lines, name string) {
	t.Helper()
	r := &http.Request{Header: http.Header{"Cookie": strings.Split(lines, "\n")}}
	want := ""
	if c, err := r.Cookie(name); err == nil {
		want = c.Value
	}
	if got := ByCookie(name)(r); got != want {
		t.Errorf("Cookie %q: ByCookie(%q) = %q; want %q", lines, name, got, want)
	}
}

var querySeeds = []struct{ query, name string }{
	{"", "a"},
	{"a=1", "a"},
	{"b=2&a=1", "a"},
	{"a=1&a=2", "a"},
	{"a", "a"},
	{"a&a=1", "a"},
	{"a=&a=1", "a"},
	{"&&a=1&", "a"},
	{"=1", ""},
	{"", ""},
	{"&=&", ""},
	{"a=%zz&a=2", "a"},
	{"a=%&a=2", "a"},
	{"%zz=1&a=2", "a"},
	{"%61=1&a=2", "a"},
	{"%6=1&a=2", "a"},
	{"a+b=1", "a b"},
	{"a%20b=1", "a b"},
	{"a%2Bb=1", "a+b"},
	{"room%5B%5D=1", "room[]"},
	{"a=x+y%26z", "a"},
	{"a=b=c", "a"},
	{"a=1;b=2&a=3", "a"},
	{"a;b=1&a=3", "a"},
	{"b=1&;&a=3", "a"},
	{"%3b=1", ";"},
	{"%%=1", "%"},
	{"%25=1", "%"},
	{"ä=1&%c3%a4=2", "ä"},
}

func TestByQueryAgreesWithNetURL(t *testing.T) {
	for _, s := range querySeeds {
		checkQuery(t, s.query, s.name)
	}
}

func FuzzByQueryAgreesWithNetURL(f *testing.F) {
	for _, s := range querySeeds {
		f.Add(s.query, s.name)
	}
	f.Fuzz(func(t *testing.T, query, name string) {
		if strings.Count(query, "&") > 1000 {
			t.Skip("net/url has a limit")
		}
		checkQuery(t, query, name)
	})
}

func checkQuery(t *testing.T, query, name string) {
	t.Helper()
	u := &url.URL{RawQuery: query}
	want := u.Query().Get(name)
	if got := ByQuery(name)(&http.Request{URL: u}); got != want {
		t.Errorf("query %q: ByQuery(%q) = %q; want %q", query, name, got, want)
	}
}

func TestBySockJSSessionIsTheSameForAllTransports(t *testing.T) {
	for _, tt := range []struct{ prefix, path, want string }{
		{"/chat", "/chat/123/abcdefgh/websocket", "123/abcdefgh"},
		{"/chat", "/chat/123/abcdefgh/xhr_streaming", "123/abcdefgh"},
		{"/chat", "/chat/123/abcdefgh/xhr_send", "123/abcdefgh"},
		{"/chat", "/chat/123/abcdefgh/eventsource", "123/abcdefgh"},
		{"/chat/", "/chat/123/abcdefgh/xhr", "123/abcdefgh"},
		{"//chat", "//chat/123/abcdefgh/xhr", "123/abcdefgh"},
		{"", "/123/abcdefgh/xhr", "123/abcdefgh"},
		{"/", "/123/abcdefgh/xhr", "123/abcdefgh"},
		{"/a/b", "/a/b/123/abcdefgh/xhr", "123/abcdefgh"},

		{"/chat", "/chat", ""},
		{"/chat", "/chat/", ""},
		{"/chat", "/chat/info", ""},
		{"/chat", "/chat/iframe.html", ""},
		{"/chat", "/chat/iframe-1.6.1.html", ""},
		{"/chat", "/chat/websocket", ""},
		{"/chat", "/chat/123/abcdefgh", ""},
		{"/chat", "/chat/123/abcdefgh/", ""},
		{"/chat", "/chat//abcdefgh/xhr", ""},
		{"/chat", "/chat/123//xhr", ""},
		{"/chat", "/chat/12.3/abcdefgh/xhr", ""},
		{"/chat", "/chat/123/abc.defgh/xhr", ""},
		{"/chat", "/chat/123/abcdefgh/xhr/more", ""},
		{"/chat", "/chats/123/abcdefgh/xhr", ""},
		{"/chat", "/other/123/abcdefgh/xhr", ""},
		{"/chat", "//chat/123/abcdefgh/xhr", ""},
		{"//chat", "/chat/123/abcdefgh/xhr", ""},
		{"", "//123/abcdefgh/xhr", ""},
		{"/chat", "", ""},
		{"/chat", "*", ""},
	} {
		r := &http.Request{URL: &url.URL{Path: tt.path}}
		if got := BySockJSSession(tt.prefix)(r); got != tt.want {
			t.Errorf("BySockJSSession(%q) of %q = %q; want %q", tt.prefix, tt.path, got, tt.want)
		}
	}
}

func TestKeyFuncsDoNotAllocate(t *testing.T) {
	r := newTestRequest()
	r.URL.Path = "/sockjs/123/abcdefgh/xhr"
	r.URL.RawQuery = "filter%5B%5D=x&page=%20&user=42&z=1"
	for _, tt := range []struct {
		name string
		key  KeyFunc
		want string
	}{
		{"ByClientIP", ByClientIP(), "192.0.2.7"},
		{"ByHeader", ByHeader("x-user"), "42"},
		{"ByHeader(Host)", ByHeader("Host"), "chat.test"},
		{"ByCookie", ByCookie("session"), "1f3870be"},
		{"ByQuery", ByQuery("user"), "42"},
		{"BySockJSSession", BySockJSSession("/sockjs"), "123/abcdefgh"},
	} {
		if got := tt.key(r); got != tt.want {
			t.Errorf("%s = %q; want %q", tt.name, got, tt.want)
		}
		if got := testing.AllocsPerRun(100, func() { tt.key(r) }); got != 0 {
			t.Errorf("%s allocates %v times; want 0", tt.name, got)
		}
	}
}

// BenchmarkPickByKey compares the parsers of this package with those of net/http and
// net/url, in a whole choice: the candidates, and a pick of Hash.
func BenchmarkPickByKey(b *testing.B) {
	for _, bb := range []struct {
		name string
		key  KeyFunc
	}{
		{"cookie", ByCookie("session")},
		{"cookie/net-http", func(r *http.Request) string {
			if c, err := r.Cookie("session"); err == nil {
				return c.Value
			}
			return ""
		}},
		{"query", ByQuery("room")},
		{"query/net-url", func(r *http.Request) string { return r.URL.Query().Get("room") }},
	} {
		b.Run(bb.name, func(b *testing.B) {
			set := newBackendSet(newTestBackends(b, equalWeights(10)...))
			r := newTestRequest()
			r.Header = http.Header{"Cookie": {"theme=dark; visited=1234567890.1234567890; session=0123456789abcdef; lang=en"}}
			r.URL.RawQuery = "token=0123456789abcdef&room=blue&v=2"
			balancer := Hash(bb.key)
			b.ReportAllocs()
			for b.Loop() {
				c, err := set.candidates(make([]*Backend, 0, len(set.all)), nil, time.Hour, true)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := balancer.Pick(r, c.backends); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkChoose compares what affinity costs for each upgrade with the choice of a balancer.
func BenchmarkChoose(b *testing.B) {
	secret := []byte("0123456789abcdef")
	for _, bb := range []struct {
		name     string
		affinity *Affinity
	}{
		{"balancer", nil},
		{"bound by cookie", &Affinity{Keys: [][]byte{secret}}},
		{"no valid cookie", &Affinity{Keys: [][]byte{secret}}},
		{"bound by key", &Affinity{Key: ByQuery("room")}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			opts := []Option{WithBackends("http://a", "http://b", "http://c", "http://d", "http://e", "http://f", "http://g", "http://h", "http://i", "http://j")}
			if bb.affinity != nil {
				opts = append(opts, WithAffinity(*bb.affinity))
			}
			p, err := New(opts...)
			if err != nil {
				b.Fatal(err)
			}
			defer p.Close()
			r := newTestRequest()
			cookie := "theme=dark; visited=1234567890.1234567890; lang=en"
			if bb.name == "bound by cookie" {
				cookie += "; wsproxy=" + p.affinity.signer.Sign(p.Backends()[4].hashes, time.Now().Unix())
			}
			r.Header = http.Header{"Cookie": {cookie}}
			b.ReportAllocs()
			for b.Loop() {
				in := inbound{p: p, r: r}
				if backend, _, err := in.choose(false); err != nil || bb.name == "bound by cookie" && backend.id != "http://e" {
					b.Fatal(backend, err)
				}
			}
		})
	}
}
