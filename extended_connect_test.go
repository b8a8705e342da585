package wsproxy_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// With Front an extended CONNECT matches as a GET, and only a Proxy can accept it.
func TestFrontRoutesWebSocketsOverHTTP2(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	mux := http.NewServeMux()
	mux.Handle("GET /ws", p)
	mux.Handle("POST /post", p)
	mux.HandleFunc("GET /page", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Content-Length", "6")
		if n, err2 := io.WriteString(w, "<html>"); n != 6 || err != nil || err2 != nil || len(body) > 0 {
			t.Errorf("page: read %q, %v; wrote %d, %v", body, err, n, err2)
		}
		w.(http.Flusher).Flush()
	})
	mux.HandleFunc("GET /empty", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /flush", func(w http.ResponseWriter, _ *http.Request) { http.NewResponseController(w).Flush() })
	mux.HandleFunc("GET /created", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201) })
	mux.HandleFunc("GET /switch", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(101) })
	mux.HandleFunc("GET /login", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/", http.StatusFound) })
	mux.HandleFunc("GET /secret", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "who are you?", http.StatusUnauthorized) })
	mux.HandleFunc("GET /early", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		p.ServeHTTP(w, r)
	})
	s := proxytest.ServeHTTP2(t, wsproxy.Front(mux))
	browser := proxytest.NewHTTP2Client(t, s.URL)

	client, _ := browser.Open(t, "/ws")
	proxytest.WantEcho(t, client)
	proxytest.HangUp(t, client)

	const unserved = "WebSockets over HTTP/2 are not served here: the handler is no wsproxy.Proxy\n"
	for _, tt := range []struct {
		path   string
		status int
		body   string
	}{
		{"/page", 501, unserved},
		{"/empty", 501, unserved},
		{"/flush", 501, unserved},
		{"/created", 501, unserved},
		{"/switch", 501, unserved},
		{"/login", 302, "<a href=\"/\">Found</a>.\n\n"},
		{"/secret", 401, "who are you?\n"},
		{"/none", 404, "404 page not found\n"},
		{"/post", 405, "Method Not Allowed\n"},
	} {
		_, resp := browser.Connect(t, proxytest.ConnectFields(tt.path))
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode != tt.status || string(body) != tt.body || err != nil {
			t.Errorf("%s: got %d with %q, %v; want %d with %q", tt.path, resp.StatusCode, body, err, tt.status, tt.body)
		}
	}
	if browser.HasGoAway() {
		t.Error("the server has sent GOAWAY")
	}
}

// Without Front the page handler of Wrap gets other requests over HTTP/2 as they are.
func TestFrontAndWrapLeaveOtherHTTP2RequestsAlone(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	var seen http.ResponseWriter
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = w
		fmt.Fprintf(w, "%s %s %v", r.Method, r.URL.Path, r.Header[":protocol"])
	})
	s := proxytest.ServeHTTP2(t, wsproxy.Front(p.Wrap(page)))
	browser := proxytest.NewHTTP2Client(t, s.URL)
	for method, want := range map[string]string{"GET": "GET /x []", "POST": "POST /x []"} {
		stream := browser.Send(t, []proxytest.Field{field(":method", method), field(":scheme", "https"), field(":path", "/x"), field(":authority", "a")})
		stream.CloseWrite()
		if body, _ := io.ReadAll(stream.Response(t).Body); string(body) != want {
			t.Errorf("page got %q; want %q", body, want)
		}
	}
	if name := fmt.Sprintf("%T", seen); strings.HasPrefix(name, "*wsproxy.") {
		t.Errorf("page got a %s; want the server's", name)
	}
	_, resp := browser.Connect(t, []proxytest.Field{field(":method", "CONNECT"), field(":protocol", "connect-udp"),
		field(":scheme", "https"), field(":path", "/x"), field(":authority", "a")})
	if body, _ := io.ReadAll(resp.Body); string(body) != "CONNECT /x [connect-udp]" {
		t.Errorf("page got %q; want the CONNECT of another protocol as it is", body)
	}
}

// serveHTTP2Behind serves a proxy behind a middleware, with Front or without.
func serveHTTP2Behind(t *testing.T, front bool, wrap func(http.ResponseWriter) http.ResponseWriter, opts ...wsproxy.Option) (*proxytest.Site, *proxytest.HTTP2Client) {
	t.Helper()
	p := proxytest.NewProxy(t, append([]wsproxy.Option{wsproxy.WithBackends(wstest.StartEcho(t))}, opts...)...)
	var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.ServeHTTP(wrap(w), r) })
	if front {
		h = wsproxy.Front(h)
	}
	s := proxytest.ServeHTTP2(t, h)
	return s, proxytest.NewHTTP2Client(t, s.URL)
}

func TestHTTP2MiddlewareSeesThe200(t *testing.T) {
	for _, front := range []bool{true, false} {
		t.Run(fmt.Sprintf("Front=%v", front), func(t *testing.T) {
			var sw *statusWriter
			s, browser := serveHTTP2Behind(t, front, func(w http.ResponseWriter) http.ResponseWriter {
				w.Header().Set("X-Frame-Options", "deny")
				w.Header().Set("Content-Type", "text/html") // for another response
				w.Header().Set("Connection", "close")       // GOAWAY, if it reached the server
				sw = &statusWriter{ResponseWriter: w, writeHeader: func(w http.ResponseWriter, status int) {
					w.Header().Add("Set-Cookie", "session=1")
					w.WriteHeader(status)
				}}
				return sw
			})
			client, resp := browser.Open(t, "/")
			proxytest.WantField(t, resp.Header, "Set-Cookie", "session=1")
			proxytest.WantField(t, resp.Header, "X-Frame-Options", "deny")
			proxytest.WantField(t, resp.Header, "Content-Type")
			proxytest.WantEcho(t, client)
			proxytest.HangUp(t, client)
			s.Wait()
			if !slices.Equal(sw.statuses, []int{200}) {
				t.Errorf("middleware has seen %v; want 200", sw.statuses)
			}
			if browser.HasGoAway() {
				t.Error("the server has sent GOAWAY")
			}
		})
	}
}

// The frames of the client are the body of the request that the server has.
func TestFrontHidesFramesFromLimitsOfTheBody(t *testing.T) {
	ends, trace := proxytest.TraceEnds()
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)), trace)
	limited := http.MaxBytesHandler(p, 100)
	large := wstest.Text(strings.Repeat("x", 1000))

	client, _ := proxytest.NewHTTP2Client(t, proxytest.ServeHTTP2(t, wsproxy.Front(limited)).URL).Open(t, "/")
	client.Send(large)
	client.Want(large)
	proxytest.HangUp(t, client)
	if e := <-ends; e.Cause != wsproxy.CauseClosed {
		t.Errorf("with Front the tunnel ended by %v, %v; want by its Close frames", e.Cause, e.Err)
	}

	client, _ = proxytest.NewHTTP2Client(t, proxytest.ServeHTTP2(t, limited).URL).Open(t, "/")
	client.Send(large)
	e := <-ends
	if _, ok := errors.AsType[*http.MaxBytesError](e.Err); !ok || e.Cause != wsproxy.CauseLost {
		t.Errorf("without Front the tunnel ended by %v, %v; want a lost client, by the middleware", e.Cause, e.Err)
	}
}

// A holdingWriter is a compressor that holds its WriteHeader back, and would change what is
// written.
type holdingWriter struct{ http.ResponseWriter }

func (w holdingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
func (w holdingWriter) WriteHeader(int)             { w.Header().Set("Content-Encoding", "gzip") }
func (w holdingWriter) Write([]byte) (int, error)   { panic("frames must not come here") }
func (w holdingWriter) Flush()                      { panic("nothing is to be flushed here") }

func TestHTTP2FramesGoBeneathMiddleware(t *testing.T) {
	for _, front := range []bool{true, false} {
		_, browser := serveHTTP2Behind(t, front, func(w http.ResponseWriter) http.ResponseWriter { return holdingWriter{w} })
		client, resp := browser.Open(t, "/")
		proxytest.WantField(t, resp.Header, "Content-Encoding")
		proxytest.WantEcho(t, client)
		proxytest.HangUp(t, client)
	}
}

// What a middleware writes after the tunnel does not reach the client.
func TestFrontDiscardsWhatFollowsAnHTTP2Tunnel(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	s := proxytest.ServeHTTP2(t, wsproxy.Front(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.ServeHTTP(w, r)
		w.WriteHeader(504)
		if _, err := io.WriteString(w, "junk"); err != http.ErrHijacked {
			t.Errorf("WriteString: %v; want http.ErrHijacked", err)
		}
		if err := http.NewResponseController(w).Flush(); err != http.ErrHijacked {
			t.Errorf("Flush: %v; want http.ErrHijacked", err)
		}
	})))
	client, _ := proxytest.NewHTTP2Client(t, s.URL).Open(t, "/")
	client.Send(wstest.Close(1000, ""))
	client.WantClose(1000)
	client.WantEOF()
	s.Wait()
}

// A flushOnly has no Unwrap and hides the deadlines.
type flushOnly struct{ http.ResponseWriter }

func (w flushOnly) Flush() {}

func TestHTTP2NamesWriterThatHidesTheStream(t *testing.T) {
	for name, wrap := range map[string]func(http.ResponseWriter) http.ResponseWriter{
		"plainWriter": func(w http.ResponseWriter) http.ResponseWriter { return &statusWriter{ResponseWriter: plainWriter{w}} },
		"flushOnly":   func(w http.ResponseWriter) http.ResponseWriter { return flushOnly{w} },
	} {
		t.Run(name, func(t *testing.T) {
			var log proxytest.LogBook
			_, browser := serveHTTP2Behind(t, true, wrap, log.Option())
			_, resp := browser.Connect(t, proxytest.ConnectFields("/"))
			proxytest.WantStatus(t, resp, 500)
			if lines := log.Lines("stream cannot be used", "wsproxy_test."+name, "ERROR"); len(lines) != 1 {
				t.Errorf("log has %q; want a line that names %s", log.Lines(), name)
			}
		})
	}
	p := proxytest.NewProxy(t, wsproxy.WithBackends())
	r := httptest.NewRequest("CONNECT", "/ws", nil)
	r.ProtoMajor, r.Header[":protocol"] = 2, []string{"websocket"}
	r.Header.Set("Sec-WebSocket-Version", "13")
	w := httptest.NewRecorder() // it has Flush, but no deadlines
	p.ServeHTTP(w, r)
	if w.Code != 500 {
		t.Errorf("a ResponseRecorder got %d; want 500", w.Code)
	}
}

// A middleware beneath which Front stands may answer the 200 with another status.
func TestFrontPassesMiddlewaresAnswerToThe200(t *testing.T) {
	var sw *statusWriter
	s, browser := serveHTTP2Behind(t, true, func(w http.ResponseWriter) http.ResponseWriter {
		sw = &statusWriter{ResponseWriter: w, writeHeader: func(w http.ResponseWriter, status int) {
			http.Error(w, "too many", http.StatusTooManyRequests)
		}}
		return sw
	})
	_, resp := browser.Connect(t, proxytest.ConnectFields("/"))
	proxytest.WantStatus(t, resp, 429)
	if body, _ := io.ReadAll(resp.Body); string(body) != "too many\n" {
		t.Errorf("body %q; want the middleware's", body)
	}
	s.Wait()
}

// A middleware that panics in WriteHeader has a 200 that the client must not get.
func TestHTTP2PanicInWriteHeaderResetsTheStream(t *testing.T) {
	for _, front := range []bool{true, false} {
		s, browser := serveHTTP2Behind(t, front, func(w http.ResponseWriter) http.ResponseWriter {
			return &statusWriter{ResponseWriter: w, writeHeader: func(w http.ResponseWriter, status int) {
				w.WriteHeader(status)
				panic("of a middleware")
			}}
		})
		browser.Send(t, proxytest.ConnectFields("/")).ResetCode(t)
		s.Wait()
	}
}

// A request that a middleware makes with the context of the client's is not the client's.
func TestFrontKnowsTheRequestOfTheClient(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	s := proxytest.ServeHTTP2(t, wsproxy.Front(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ask, err := http.NewRequestWithContext(r.Context(), "GET", "/auth", nil)
		if err != nil {
			t.Error(err)
		}
		answer := httptest.NewRecorder()
		p.ServeHTTP(answer, ask)
		http.Error(w, fmt.Sprint(answer.Code), http.StatusForbidden)
	})))
	_, resp := proxytest.NewHTTP2Client(t, s.URL).Connect(t, proxytest.ConnectFields("/"))
	if body, _ := io.ReadAll(resp.Body); string(body) != "426\n" {
		t.Errorf("the proxy has answered the middleware's request with %s; want 426", body)
	}
}

// A handler that returns while its tunnel is open resets the stream.
func TestFrontResetsTunnelOfHandlerThatReturns(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	leave, served := make(chan struct{}), make(chan struct{})
	s := proxytest.ServeHTTP2(t, wsproxy.Front(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		go func() { // until the tunnel has ended
			defer close(served)
			p.ServeHTTP(w, r)
		}()
		<-leave
	})))
	client, _ := proxytest.NewHTTP2Client(t, s.URL).Open(t, "/")
	proxytest.WantEcho(t, client)
	close(leave)
	client.WantReset()
	select {
	case <-served:
	case <-time.After(10 * time.Second):
		t.Fatal("the tunnel has not ended")
	}
}
