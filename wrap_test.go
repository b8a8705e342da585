package wsproxy_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestWrapHandsOnWhatIsNoUpgradeUntouched(t *testing.T) {
	for name, request := range map[string]string{
		"GET":                     proxytest.Head("GET /page?x=1 HTTP/1.1", "Host: chat.example", "Connection: close"),
		"POST":                    proxytest.Head("POST /page?x=1 HTTP/1.1", "Host: chat.example", "Content-Length: 5", "Connection: close") + "hello",
		"POST with Upgrade":       proxytest.Head("POST /page?x=1 HTTP/1.1", "Host: chat.example", "Upgrade: websocket", "Connection: Upgrade, close"),
		"Upgrade only":            proxytest.Head("GET /page?x=1 HTTP/1.1", "Host: chat.example", "Upgrade: websocket", "Connection: close"),
		"Connection only":         proxytest.Head("GET /page?x=1 HTTP/1.1", "Host: chat.example", "Connection: upgrade, close"),
		"h2c":                     proxytest.Head("GET /page?x=1 HTTP/1.1", "Host: chat.example", "Connection: upgrade, close", "Upgrade: h2c"),
		"HTTP/1.0":                proxytest.Head("GET /page?x=1 HTTP/1.0", "Host: chat.example", "Connection: upgrade", "Upgrade: websocket"),
		"forwarded and nominated": proxytest.Head("GET /page?x=1 HTTP/1.1", "Host: chat.example", "X-Forwarded-For: 192.0.2.1", "Connection: close, X-Forwarded-For"),
	} {
		t.Run(name, func(t *testing.T) {
			want, err := http.ReadRequest(bufio.NewReader(strings.NewReader(request)))
			if err != nil {
				t.Fatal(err)
			}
			p := proxytest.NewProxy(t, wsproxy.WithBackends("http://nobody"))
			p.Close() // next is served all the same
			s := proxytest.Serve(t, p.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != want.Method || r.RequestURI != want.RequestURI || r.Host != want.Host || len(r.Header) != len(want.Header) {
					t.Errorf("next got %s %s of %s with %v; want %s %s of %s with %v",
						r.Method, r.RequestURI, r.Host, r.Header, want.Method, want.RequestURI, want.Host, want.Header)
				}
				body, _ := io.ReadAll(r.Body)
				w.Header().Set("X-From", "next")
				w.WriteHeader(http.StatusTeapot)
				w.Write(body)
			})))
			resp, body := proxytest.Exchange(t, s.URL, request)
			proxytest.WantStatus(t, resp, http.StatusTeapot)
			proxytest.WantField(t, resp.Header, "X-From", "next")
			if wantBody := request[strings.Index(request, "\r\n\r\n")+4:]; body != wantBody {
				t.Errorf("client got body %q; want %q", body, wantBody)
			}
		})
	}
}

func TestWrapTakesEveryUpgrade(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	s := proxytest.Serve(t, p.Wrap(http.NotFoundHandler()))
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/anywhere"))
	proxytest.WantEcho(t, client)
}

func TestWithoutNextTheAnswerNamesTheCheckThatFailed(t *testing.T) {
	_, s := proxytest.Start(t, wsproxy.WithBackends("http://nobody"))
	handshake := func(lines ...string) string {
		return proxytest.Head(append([]string{"GET / HTTP/1.1", "Host: a", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + proxytest.SampleKey}, lines...)...)
	}
	for _, tt := range []struct{ name, request, body string }{
		{"plain", proxytest.Head("GET / HTTP/1.1", "Host: a"), "Upgrade was missing: only `websocket` is served here\n"},
		{"proxy drops Upgrade", handshake("Connection: close"), "Upgrade was missing: does a proxy in front drop it?\n"},
		{"proxy drops Connection", handshake("Upgrade: websocket"), "Connection was missing: does a proxy in front drop it?\n"},
		{"proxy replaces Connection", handshake("Upgrade: websocket", "Connection: close"), "Connection was `close`: does a proxy in front drop it?\n"},
		{"other token", handshake("Upgrade: h2c", "Connection: Upgrade"), "Upgrade was `h2c`: only `websocket` is served here\n"},
		{"method", strings.Replace(proxytest.UpgradeTo("/"), "GET", "POST", 1), "Method was `POST`: a WebSocket is opened by GET\n"},
		{"markup is not repeated as such", handshake("Upgrade: <script>\"x\"\x7f"+strings.Repeat("y", 100), "Connection: Upgrade"), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, body := proxytest.Exchange(t, s.URL, tt.request)
			if tt.body == "" { // net/http refuses it, or the body is plain text
				if resp.StatusCode == http.StatusUpgradeRequired {
					proxytest.WantField(t, resp.Header, "X-Content-Type-Options", "nosniff")
				}
				return
			}
			proxytest.WantStatus(t, resp, http.StatusUpgradeRequired)
			proxytest.WantField(t, resp.Header, "Upgrade", "websocket")
			if body != tt.body {
				t.Errorf("client got body %q; want %q", body, tt.body)
			}
		})
	}
}

func TestWrapOfNilHandsNothingOn(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	s := proxytest.Serve(t, p.Wrap(nil))
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.Head("GET / HTTP/1.1", "Host: a"))
	proxytest.WantStatus(t, resp, http.StatusUpgradeRequired)
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantEcho(t, client)
}

// "An endpoint MUST NOT generate an HTTP/2 message containing
// connection-specific header fields" (RFC 9113 §8.2.2): Go would end the whole
// connection for it, and with it everybody's requests.
func TestRefusalOverHTTP2LeavesTheConnectionOpen(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends("http://nobody"))
	var conns []string
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conns = append(conns, r.RemoteAddr)
		p.ServeHTTP(w, r)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	for range 3 {
		resp, err := srv.Client().Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		proxytest.WantStatus(t, resp, http.StatusUpgradeRequired)
		proxytest.WantField(t, resp.Header, "Connection")
		proxytest.WantField(t, resp.Header, "Upgrade")
	}
	if conns[0] != conns[1] || conns[1] != conns[2] {
		t.Errorf("requests came over %v; want one connection", conns)
	}
}

// Wrappers as middleware has them.
type (
	hidingWriter    struct{ http.ResponseWriter }
	unwrapperWriter struct{ http.ResponseWriter }
	failingWriter   struct{ http.ResponseWriter }
	panickyWriter   struct{ http.ResponseWriter }
)

func (w unwrapperWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (failingWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, errors.New("no hijacking today")
}

// As much middleware is written, around one of its kind.
func (w panickyWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return hidingWriter(w).ResponseWriter.(interface {
		http.Hijacker
		NoSuchMethod()
	}).Hijack()
}

// wrapped serves p behind a middleware.
func wrapped(p http.Handler, wrap func(http.ResponseWriter) http.ResponseWriter) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.ServeHTTP(wrap(w), r) })
}

func TestHiddenHijackerIsFoundOutBeforeTheDial(t *testing.T) {
	for _, tt := range []struct {
		name     string
		handler  func(http.Handler) http.Handler
		typeName string
	}{
		{"wrapper", func(p http.Handler) http.Handler {
			return wrapped(p, func(w http.ResponseWriter) http.ResponseWriter { return hidingWriter{w} })
		}, "wsproxy_test.hidingWriter"},
		{"wrapper behind one that unwraps", func(p http.Handler) http.Handler {
			return wrapped(p, func(w http.ResponseWriter) http.ResponseWriter { return unwrapperWriter{hidingWriter{w}} })
		}, "wsproxy_test.hidingWriter"},
		{"TimeoutHandler", func(p http.Handler) http.Handler { return http.TimeoutHandler(p, time.Minute, "") }, "http.timeoutWriter"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var book proxytest.LogBook
			backend := wstest.StartRaw(t, proxytest.Switching)
			p := proxytest.NewProxy(t, wsproxy.WithBackends(backend.URL()), book.Option())
			resp, _ := proxytest.Exchange(t, proxytest.Serve(t, tt.handler(p)).URL, proxytest.UpgradeTo("/chat"))
			proxytest.WantStatus(t, resp, http.StatusInternalServerError)
			if lines := book.Lines("level=ERROR", tt.typeName); len(lines) != 1 {
				t.Errorf("log has %q; want one Error line that names %s", book.Lines(), tt.typeName)
			}
			proxytest.WantUntouched(t, backend)
			proxytest.WantNoTunnels(t, p)
		})
	}
}

func TestWrapperWithUnwrapIsSeenThrough(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	s := proxytest.Serve(t, wrapped(p, func(w http.ResponseWriter) http.ResponseWriter { return unwrapperWriter{unwrapperWriter{w}} }))
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantEcho(t, client)
	proxytest.HangUp(t, client)
}

func TestHijackThatFailsClosesTheBackend(t *testing.T) {
	for _, tt := range []struct {
		name string
		wrap func(http.ResponseWriter) http.ResponseWriter
	}{
		{"error", func(w http.ResponseWriter) http.ResponseWriter { return failingWriter{w} }},
		{"panic", func(w http.ResponseWriter) http.ResponseWriter { return panickyWriter{w} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var book proxytest.LogBook
			backend := wstest.StartRaw(t, proxytest.Switching)
			p := proxytest.NewProxy(t, wsproxy.WithBackends(backend.URL()), book.Option())
			s := proxytest.Serve(t, wrapped(p, tt.wrap))
			resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
			proxytest.WantStatus(t, resp, http.StatusInternalServerError)
			if _, _, rest := proxytest.ReceivedHead(t, backend); rest != "" {
				t.Errorf("backend received %q after the upgrade; want nothing", rest)
			}
			if lines := book.Lines("level=ERROR"); len(lines) != 1 {
				t.Errorf("log has %q; want one Error line", book.Lines())
			}
			s.Wait()
			proxytest.WantNoTunnels(t, p)
		})
	}
}
