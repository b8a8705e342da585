package handshake

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

var outboundURLTests = []struct {
	name   string
	target string // as in a request line
	prefix string
	want   string // path and query; "" if refused
}{
	{"root", "/", "", "/"},
	{"path-and-query", "/a/b?c=d", "", "/a/b?c=d"},
	{"escaped-slash", "/a%2fb%2Fc", "", "/a%2fb%2Fc"},
	{"escaped-anything", "/%61%20%c3%a4", "", "/%61%20%c3%a4"},
	{"doubled-slash", "//a//b", "", "//a//b"},
	{"raw-utf8", "/\u00e4", "", "/%C3%A4"},
	{"raw-utf8-beside-an-escape", "/r\u00e4ume/a%2Fb", "", "/r%C3%A4ume/a%2Fb"},
	{"illegal-byte-beside-an-escape", "/rooms/docs%2Fa|b", "", "/rooms/docs%2Fa%7Cb"},
	{"escaped-delimiters", "/a%3Bb|c;x=1%3B2", "", "/a%3Bb%7Cc;x=1%3B2"},
	{"whole-url-in-path", "/convert/https%3A%2F%2Fa.example%2Fb%3Fc=d|e", "", "/convert/https%3A%2F%2Fa.example%2Fb%3Fc=d%7Ce"},
	{"whole-url-in-path-and-prefix", "/https%3A%2F%2Fa.example%2Fb|", "/base", "/base/https%3A%2F%2Fa.example%2Fb%7C"},
	{"escaped-line-end", "/%0d%0a/%0D%0A", "", "/%0d%0a/%0D%0A"},
	{"escaped-zero", "/%00|", "", "/%00%7C"},
	{"byte-255", "/\xff%2f", "", "/%FF%2f"},
	{"backslash", `/a\b%2f`, "", "/a%5Cb%2f"},
	{"number-sign", "/public#/../admin", "", "/public%23/../admin"},
	{"dots-and-parameter", "/a/..;/b|", "", "/a/..;/b%7C"},
	{"escaped-percent", "/%252e%252e/|", "", "/%252e%252e/%7C"},
	{"legal-bytes", "/-._~!$&'()*+,;=:@[]%41", "", "/-._~!$&'()*+,;=:@[]%41"},
	{"dots-without-prefix", "/a/../b/./%2e%2e/..%2f", "", "/a/../b/./%2e%2e/..%2f"},
	{"absolute-form", "http://other:80/a?b", "", "/a?b"},
	{"absolute-form-without-path", "http://other", "", "/"},
	{"asterisk", "*", "", "/*"},
	{"force-query", "/a?", "", "/a?"},

	{"prefix", "/a/b?c=d", "/base", "/base/a/b?c=d"},
	{"prefix-and-root", "/", "/base", "/base/"},
	{"prefix-and-nothing", "http://other", "/base", "/base/"},
	{"escaped-prefix", "/a%2fb", "/ba%2fse", "/ba%2fse/a%2fb"},
	{"prefix-and-dots-in-names", "/.a/..b/c../...", "/base", "/base/.a/..b/c../..."},
	{"prefix-and-dots-encoded-twice", "/%252e%252e/a", "/base", "/base/%252e%252e/a"},
	{"prefix-and-dots-in-query", "/a?b=/../", "/base", "/base/a?b=/../"},
	{"prefix-and-dot", "/a/./b", "/base", ""},
	{"prefix-and-dots", "/a/../b", "/base", ""},
	{"prefix-and-dots-last", "/a/..", "/base", ""},
	{"prefix-and-dots-first", "/..", "/base", ""},
	{"prefix-and-escaped-dots", "/a/%2e%2E/b", "/base", ""},
	{"prefix-and-half-escaped-dots", "/a/.%2e/b", "/base", ""},
	{"prefix-and-escaped-slash", "/a/..%2fb", "/base", ""},
	{"prefix-and-escaped-slash-before", "/a%2f../b", "/base", ""},
	{"prefix-and-backslash", `/a\..\b`, "/base", ""},
	{"prefix-and-escaped-backslash", "/a%5c..%5Cb", "/base", ""},
	{"prefix-and-path-parameter", "/a/..;x/b", "/base", ""},
	{"prefix-malformed", "/a", "/%zz", ""},

	{"query-as-it-is", "/?b=%2f&a=+&&c", "", "/?b=%2f&a=+&&c"},
	{"query-semicolon", "/?b=1;c=2&a=3", "", "/?a=3"},
	{"query-bad-parameter-only", "/?z=1&a=b%20c&bad=%", "", "/?z=1&a=b%20c"},
	{"query-bad-parameter-first", "/?%&z=1&&a=+%2f", "", "/?z=1&&a=+%2f"},
	{"query-all-bad-and-empty", "/?%&&;", "", "/"},
	{"query-number-sign", "/?a=b#c", "", "/?a=b%23c"},
	{"query-unusual-bytes", `/?a="<b>|{c}^\` + "`&[d]='e'", "", `/?a="<b>|{c}^\` + "`&[d]='e'"},
	{"query-bad-escape", "/?b=%zz&a=3", "", "/?a=3"},
	{"query-cut-escape", "/?a=3&b=%2", "", "/?a=3"},
	{"query-all-bad", "/?%", "", "/"},
	{"query-raw-utf8", "/?a=\u00e4%C3%A4", "", "/?a=%C3%A4%C3%A4"},
	{"query-with-space", "/?a= b", "", "/?a=%20b"},
	{"query-of-10000", "/?" + strings.Repeat("&", 9999), "", "/?" + strings.Repeat("&", 9999)},
	{"query-of-10001", "/?a" + strings.Repeat("&", 10000), "", ""},
}

func TestOutboundURLKeepsPathBelowPrefix(t *testing.T) {
	for _, tt := range outboundURLTests {
		t.Run(tt.name, func(t *testing.T) {
			in, err := url.ParseRequestURI(tt.target)
			if tt.target == "*" {
				in, err = &url.URL{Path: "*"}, nil // as http.ReadRequest has it
			}
			if err != nil {
				t.Fatal(err)
			}
			out, refusal := OutboundURL(in, tt.prefix)
			if tt.want == "" {
				wantStatus(t, refusal, http.StatusBadRequest)
				return
			}
			wantStatus(t, refusal, 0)
			if got := out.RequestURI(); got != tt.want {
				t.Errorf("OutboundURL(%q, %q) = %q; want %q", tt.target, tt.prefix, got, tt.want)
			}
		})
	}
}

func TestOutboundURLHasOnlyPathAndQuery(t *testing.T) {
	in := &url.URL{
		Scheme: "http", Opaque: "o", User: url.User("u"), Host: "h",
		Path: "/a b/c", RawPath: "/a%20b%2fc", OmitHost: true, ForceQuery: true, RawQuery: "q", Fragment: "f", RawFragment: "f",
	}
	in.Path = "/a b/c"
	out, _ := OutboundURL(in, "")
	want := &url.URL{Path: "/a b/c", RawPath: "/a%20b%2fc", RawQuery: "q", ForceQuery: true}
	if !reflect.DeepEqual(out, want) {
		t.Errorf("OutboundURL = %#v; want %#v", out, want)
	}
}

// An escaped path that does not match the path is stale: a handler has changed
// Path and not RawPath.
func TestOutboundURLUsesPathOfHandlers(t *testing.T) {
	out, _ := OutboundURL(&url.URL{Path: "/new", RawPath: "/%6fld"}, "/base")
	if got, want := out.RequestURI(), "/base/new"; got != want {
		t.Errorf("path = %q; want %q", got, want)
	}
}

func TestOutboundURLWorksBehindStripPrefix(t *testing.T) {
	for target, want := range map[string]string{
		"/ws":        "/base/",
		"/ws/a%2fb":  "/base/a%2fb",
		"/wsx/../..": "", // refused for its dots, without the prefix /ws
		"/wsx":       "/base/x",
	} {
		var got string
		h := http.StripPrefix("/ws", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if out, refusal := OutboundURL(r.URL, "/base"); refusal == nil {
				got = out.RequestURI()
			}
		}))
		h.ServeHTTP(nil, httptest.NewRequest("GET", target, nil))
		if got != want {
			t.Errorf("%q became %q; want %q", target, got, want)
		}
	}
}
