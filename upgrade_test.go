package wsproxy_test

import (
	"bufio"
	"errors"
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

func TestUpgradeFindsKeyInAnySpelling(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	s := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header["Sec-WebSocket-Key"] = r.Header["Sec-Websocket-Key"]
		delete(r.Header, "Sec-Websocket-Key")
		p.ServeHTTP(w, r)
	}))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.UpgradeTo("/chat"))
	proxytest.WantField(t, proxytest.WantSwitch(t, client).Header, "Sec-WebSocket-Accept", proxytest.SampleAccept)
}

// A hijackOnlyWriter hides all but Hijack, as much middleware does.
type hijackOnlyWriter struct{ http.ResponseWriter }

func (w hijackOnlyWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.ResponseWriter.(http.Hijacker).Hijack()
}

func hijackOnly(w http.ResponseWriter) http.ResponseWriter { return hijackOnlyWriter{w} }

func TestRefusalArrivesWholeBehindHijackOnlyWrapper(t *testing.T) {
	const long = 100_000 // more than all buffers on the way hold
	body := strings.Repeat("0123456789", long/10)
	for _, tt := range []struct {
		name, answer string
		body         string
		length       int64
	}{
		{"length", proxytest.Refusing(403, body, "Set-Cookie: a=b", "X-Reason: quota"), body, long},
		{"no length", proxytest.Head("HTTP/1.1 403 Forbidden", "Set-Cookie: a=b", "X-Reason: quota") + body, body, -1},
		{"empty", proxytest.Refusing(403, "", "Set-Cookie: a=b", "X-Reason: quota"), "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				backend := proxytest.NewBackendInMemory(t)
				p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a"), backend.Option())
				s := proxytest.ServeInMemory(t, wrapped(p, hijackOnly))
				client := s.Dial(t)
				client.WriteRequest(proxytest.UpgradeTo("/chat"))
				leg := backend.Accept(t)
				leg.ReadRequest()
				go func() { // ends when the proxy has read it all
					leg.Write([]byte(tt.answer))
					leg.Conn().Close()
				}()
				resp := client.ReadResponse()
				proxytest.WantStatus(t, resp, http.StatusForbidden)
				proxytest.WantField(t, resp.Header, "Set-Cookie", "a=b")
				proxytest.WantField(t, resp.Header, "X-Reason", "quota")
				if !resp.Close {
					t.Error("answer has no Connection: close; want one")
				}
				if resp.ContentLength != tt.length {
					t.Errorf("answer has length %d; want %d", resp.ContentLength, tt.length)
				}
				got, err := io.ReadAll(resp.Body)
				if err != nil || string(got) != tt.body {
					t.Errorf("client got a body of %d bytes, error %v; want the backend's %d", len(got), err, len(tt.body))
				}
				client.WantEOF()
				client.Close()
				s.Wait()
				proxytest.WantNoTunnels(t, p)
				if st := p.Stats(); st.Refused != 1 {
					t.Errorf("Stats() has %d refused; want 1", st.Refused)
				}
			})
		})
	}
}

func TestRefusalIsTruncatedBehindHijackOnlyWrapper(t *testing.T) {
	for name, answer := range map[string]string{
		"length":  proxytest.Head("HTTP/1.1 403 Forbidden", "Content-Length: 100") + "no",
		"chunked": proxytest.Head("HTTP/1.1 403 Forbidden", "Transfer-Encoding: chunked") + "2\r\nno\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			backend := wstest.StartRaw(t, answer+"{end}")
			p := proxytest.NewProxy(t, wsproxy.WithBackends(backend.URL()))
			s := proxytest.Serve(t, wrapped(p, hijackOnly))
			client := wstest.Dial(t, s.URL)
			client.WriteRequest(proxytest.UpgradeTo("/chat"))
			resp := client.ReadResponse()
			proxytest.WantStatus(t, resp, http.StatusForbidden)
			if body, err := io.ReadAll(resp.Body); err == nil {
				t.Errorf("client got the body %q without an error; want one: it is a part", body)
			}
			s.Wait()
			proxytest.WantNoTunnels(t, p)
		})
	}
}

func TestRefusalNamesFieldsThatOuterProxyDropped(t *testing.T) {
	backend := wstest.StartBackend(t)
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()))
	const key = "Sec-WebSocket-Key: " + proxytest.SampleKey
	for _, tt := range []struct {
		name, request string
		want          string
	}{
		{
			"both fields dropped",
			proxytest.Head("GET / HTTP/1.1", "Host: h", "Sec-WebSocket-Version: 13", key),
			"Upgrade was missing: does a proxy in front drop it?",
		},
		{
			"connection set to close",
			proxytest.Head("GET / HTTP/1.1", "Host: h", "Upgrade: websocket", "Connection: close", "Sec-WebSocket-Version: 13", key),
			"Connection was `close`: does a proxy in front drop it?",
		},
		{
			"HTTP/1.0",
			proxytest.Head("GET / HTTP/1.0", "Host: h", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", key),
			"Protocol was `HTTP/1.0`: a WebSocket is opened over HTTP/1.1",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, body := proxytest.Exchange(t, s.URL, tt.request)
			proxytest.WantStatus(t, resp, http.StatusUpgradeRequired)
			if got := strings.TrimSpace(body); got != tt.want {
				t.Errorf("body is %q; want %q", got, tt.want)
			}
		})
	}
	proxytest.WantUntouched(t, backend)
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

func TestUpgradeFindsHiddenHijackerBeforeDial(t *testing.T) {
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

func TestUpgradeFindsHijackerByUnwrap(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	s := proxytest.Serve(t, wrapped(p, func(w http.ResponseWriter) http.ResponseWriter { return unwrapperWriter{unwrapperWriter{w}} }))
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantEcho(t, client)
	proxytest.HangUp(t, client)
}

func TestUpgradeClosesBackendAfterFailedHijack(t *testing.T) {
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
