package handshake

import (
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

const plainPost = "POST /a HTTP/1.1\nHost: a\nContent-Length: 3\n"

func TestCheckPlainRefusesWhatIsNeverProxied(t *testing.T) {
	for _, tt := range []struct {
		name, request string
		status        int
	}{
		{"GET", "GET / HTTP/1.1\nHost: a\n", 0},
		{"POST with a body", plainPost, 0},
		{"an unknown method", "FOO / HTTP/1.1\nHost: a\n", 0},
		{"h2c", "GET / HTTP/1.1\nHost: a\nUpgrade: h2c\nConnection: Upgrade, HTTP2-Settings\n", 0},
		{"HTTP/1.0 without Host", "GET / HTTP/1.0\n", 400},
		{"CONNECT", "CONNECT a:443 HTTP/1.1\nHost: a\n", 405},
		{"TRACE", "TRACE / HTTP/1.1\nHost: a\n", 405},
		{"OPTIONS *", "OPTIONS * HTTP/1.1\nHost: a\n", 400},
		{"GET *", "GET * HTTP/1.1\nHost: a\n", 400},
		{"a target without a path", "GET foo:bar HTTP/1.1\nHost: a\n", 400},
		{"absolute form", "GET http://b/x HTTP/1.1\nHost: a\n", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			refusal := CheckPlain(parseRequest(t, tt.request))
			wantStatus(t, refusal, tt.status)
			if tt.status == 405 && refusal.Header.Get("Allow") == "" {
				t.Error("the refusal has no Allow")
			}
		})
	}
}

// finished returns what FinishPlain makes of out for a request of a client.
func finished(t *testing.T, out *http.Request, request string) *http.Request {
	t.Helper()
	if err := FinishPlain(out, parseRequest(t, request)); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestFinishPlainKeepsPathAndQuery(t *testing.T) {
	for _, tt := range outboundURLTests {
		if tt.want == "" {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			in, err := url.ParseRequestURI(tt.target)
			if err != nil {
				t.Skip(err)
			}
			u, refusal := OutboundURL(in, tt.prefix)
			wantStatus(t, refusal, 0)
			out := finished(t, &http.Request{Host: "a", URL: u, Header: http.Header{}}, plainPost)
			if got := out.URL.RequestURI(); got != tt.want {
				t.Errorf("target %q becomes %q; want %q", tt.target, got, tt.want)
			}
		})
	}
}

func TestFinishPlainRemovesHopByHopFields(t *testing.T) {
	out := &http.Request{Host: "a", URL: &url.URL{Path: "/"}, Header: http.Header{
		"connection": {"close"}, "Upgrade": {"h2c"}, "Http2-Settings": {"x"}, "transfer-encoding": {"chunked"},
		"CONTENT-LENGTH": {"5"}, "Te": {"gzip"}, "Trailer": {"X"}, "Expect": {"100-continue"}, "Host": {"b"},
		"Keep-Alive": {"5"}, "Proxy-Connection": {"close"}, "Proxy-Authorization": {"x"},
		"x-a": {"1"}, "X-A": {"2"}, "Cookie": {"b=c"},
	}}
	got := finished(t, out, "GET / HTTP/1.1\nHost: a\n").Header
	if lines := got["X-A"]; len(lines) != 2 {
		t.Errorf("X-A is %q; want both lines", lines)
	}
	delete(got, "X-A")
	if want := (http.Header{"Cookie": {"b=c"}, "User-Agent": {""}}); !reflect.DeepEqual(got, want) {
		t.Errorf("header is %v; want %v", got, want)
	}
}

func TestFinishPlainKeepsWhatTheBodyNeeds(t *testing.T) {
	for _, tt := range []struct {
		request string
		want    http.Header
	}{
		{plainPost, http.Header{}},
		{plainPost + "Expect: 100-continue\n", http.Header{"Expect": {"100-continue"}}},
		{"GET / HTTP/1.1\nHost: a\nExpect: 100-continue\n", http.Header{}},
		{plainPost + "TE: gzip, trailers\n", http.Header{"Te": {"trailers"}, "Connection": {"TE"}}},
		{plainPost + "TE: gzip\n", http.Header{}},
	} {
		out := finished(t, &http.Request{Host: "a", URL: &url.URL{Path: "/"}, Header: http.Header{"User-Agent": {"x"}}}, tt.request)
		delete(out.Header, "User-Agent")
		if !reflect.DeepEqual(out.Header, tt.want) {
			t.Errorf("%q: header is %v; want %v", tt.request, out.Header, tt.want)
		}
	}
}

func TestFinishPlainRefusesWhatWouldBreakALine(t *testing.T) {
	for name, change := range map[string]func(*http.Request){
		"value":      func(r *http.Request) { r.Header["X-A"] = []string{"b\r\nX-C: d"} },
		"name":       func(r *http.Request) { r.Header["X-A: b\r\nX-C"] = []string{"d"} },
		"empty name": func(r *http.Request) { r.Header[""] = []string{"d"} },
		"host":       func(r *http.Request) { r.Host = "a\r\nX-C: d" },
		"no host":    func(r *http.Request) { r.Host = "" },
		"query":      func(r *http.Request) { r.URL.RawQuery = "a b" },
		"fragment":   func(r *http.Request) { r.URL.RawQuery = "a#b" },
		"opaque":     func(r *http.Request) { r.URL.Opaque = "//evil/x" },
		"no URL":     func(r *http.Request) { r.URL = nil },
	} {
		t.Run(name, func(t *testing.T) {
			r := &http.Request{Host: "a", URL: &url.URL{Path: "/"}, Header: http.Header{}}
			change(r)
			if err := FinishPlain(r, parseRequest(t, plainPost)); err == nil {
				t.Errorf("FinishPlain accepts %v", r)
			} else if strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("the error has a line end: %q", err)
			}
		})
	}
}

func TestPlainTrailerHasWhatMayBeForwarded(t *testing.T) {
	in := parseRequest(t, "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nConnection: X-Nominated\n"+
		"Trailer: X-Sum, X-Nominated, X-Forwarded-For, X-Request-Id, Sec-WebSocket-Key, Authorization, Keep-Alive\n")
	trailer := PlainTrailer(in)
	if want := (http.Header{"X-Sum": nil}); !reflect.DeepEqual(trailer, want) {
		t.Fatalf("trailer is %v; want %v", trailer, want)
	}
	SetTrailer(trailer, http.Header{"X-Sum": {"1", "2\r\nX: y"}, "X-Other": {"3"}})
	if want := (http.Header{"X-Sum": {"1"}}); !reflect.DeepEqual(trailer, want) {
		t.Errorf("trailer is %v; want %v", trailer, want)
	}
	if got := PlainTrailer(parseRequest(t, plainPost)); got != nil {
		t.Errorf("without a trailer it is %v; want nil", got)
	}
}

func TestCleanTrailerRemovesWhatMustNotBeForwarded(t *testing.T) {
	trailer := http.Header{
		"X-Sum": {"1", "a\nb"}, "Content-Length": {"5"}, "Transfer-Encoding": {"x"}, "Connection": {"y"},
		"Sec-Websocket-Accept": {"z"}, "bad name": {"1"},
	}
	CleanTrailer(trailer)
	if want := (http.Header{"X-Sum": {"1"}}); !reflect.DeepEqual(trailer, want) {
		t.Errorf("trailer is %v; want %v", trailer, want)
	}
	CleanTrailer(nil)
}

func TestPlainAnswerIsChecked(t *testing.T) {
	for status, isOK := range map[int]bool{101: false, 103: false, 7: false, 200: true, 404: true, 599: true, 600: false, 999: false} {
		err := CheckPlainAnswer(&http.Response{Status: "x", StatusCode: status})
		if (err == nil) != isOK {
			t.Errorf("status %d: %v; want an error: %v", status, err, !isOK)
		}
	}
	if CheckPlainAnswer(&http.Response{StatusCode: 200, Header: http.Header{"Content-Length ": {"5"}}}) == nil {
		t.Error("a malformed field name is accepted")
	}
}

func TestFinishPlainAnswerKeepsContentLength(t *testing.T) {
	backend := http.Header{"Content-Length": {"5"}}
	h, err := FinishPlainAnswer(200, http.Header{"Content-Length": {"9"}, "transfer-encoding": {"chunked"}, "Set-Cookie": {"a", "b"}}, backend)
	if want := (http.Header{"Content-Length": {"5"}, "Set-Cookie": {"a", "b"}}); err != nil || !reflect.DeepEqual(h, want) {
		t.Errorf("header is %v, %v; want %v", h, err, want)
	}
	if h, err = FinishPlainAnswer(200, http.Header{"X-A": {"a\r\nb"}}, backend); err == nil {
		t.Errorf("header is %v; want an error", h)
	}
}
