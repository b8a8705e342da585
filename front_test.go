package wsproxy_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/coder/websocket"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A statusWriter is a middleware's ResponseWriter that records all statuses, and may do
// something else at the first.
type statusWriter struct {
	http.ResponseWriter
	writeHeader func(w http.ResponseWriter, status int) // nil: passes it on
	statuses    []int
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *statusWriter) WriteHeader(status int) {
	w.statuses = append(w.statuses, status)
	if w.writeHeader != nil {
		w.writeHeader(w.ResponseWriter, status)
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

// A frontSite is a server with Front, around a middleware, around a proxy.
type frontSite struct {
	*proxytest.Site
	proxy    *wsproxy.Proxy
	errors   proxytest.LogBook // of the server
	proxyLog proxytest.LogBook

	mu       sync.Mutex
	statuses []int // that the middleware has seen
}

// serveFront serves a proxy. The middleware's ResponseWriter is wrapped once more by wrap,
// and after, if not nil, is called with Front's when the proxy has returned.
func serveFront(t *testing.T, sw statusWriter, wrap func(http.ResponseWriter) http.ResponseWriter,
	after func(http.ResponseWriter), opts ...wsproxy.Option) *frontSite {
	t.Helper()
	s := new(frontSite)
	s.proxy = proxytest.NewProxy(t, append([]wsproxy.Option{s.proxyLog.Option()}, opts...)...)
	s.Site = proxytest.Serve(t, wsproxy.Front(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mine := sw
		mine.ResponseWriter = w
		var outer http.ResponseWriter = &mine
		if wrap != nil {
			outer = wrap(outer)
		}
		s.proxy.ServeHTTP(outer, r)
		if after != nil {
			after(w)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.statuses = mine.statuses
	})), func(srv *http.Server) { srv.ErrorLog = log.New(&s.errors, "", 0) })
	return s
}

// wantStatuses waits for the middleware, and checks what it has seen, and that the server
// has logged nothing.
func (s *frontSite) wantStatuses(t *testing.T, want ...int) {
	t.Helper()
	s.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.statuses, want) {
		t.Errorf("middleware has seen %v; want %v", s.statuses, want)
	}
	if lines := s.errors.Lines(); len(lines) > 0 {
		t.Errorf("the server has logged %q; want nothing", lines)
	}
	proxytest.WantNoTunnels(t, s.proxy)
}

// wantRefused checks that the proxy has counted and logged one refusal.
func (s *frontSite) wantRefused(t *testing.T, words ...string) {
	t.Helper()
	if lines := s.proxyLog.Lines(append(words, `"upgrade refused"`)...); len(lines) != 1 {
		t.Errorf("log has %q; want a line for the refusal with %q", s.proxyLog.Lines(), words)
	}
	if st := s.proxy.Stats(); st.Refused != 1 || st.Failed != 0 || st.Opened != 0 {
		t.Errorf("Stats() = %+v; want one that was refused", st)
	}
}

// plainSwitch is the 101 for SampleKey, with further lines.
func plainSwitch(lines ...string) string {
	return proxytest.Head(append([]string{"HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade",
		"Sec-WebSocket-Accept: " + proxytest.SampleAccept}, lines...)...)
}

// wantTunnel opens a tunnel to an echo server, and checks the bytes of the 101.
func wantTunnel(t *testing.T, url, want string) {
	t.Helper()
	client := wstest.Dial(t, url)
	client.WriteRequest(proxytest.UpgradeTo("/chat"))
	if got := proxytest.ReadHead(t, client); got != want {
		t.Errorf("client got %q; want %q", got, want)
	}
	proxytest.WantEcho(t, client)
	proxytest.HangUp(t, client) // nothing is behind the Close frame
}

func TestFrontShowsMiddleware101(t *testing.T) {
	for _, tt := range []struct {
		name        string
		writeHeader func(http.ResponseWriter, int)
	}{
		{"passed on", nil},
		{"held back", func(http.ResponseWriter, int) {}},
		{"flushed", func(w http.ResponseWriter, status int) {
			w.WriteHeader(status)
			http.NewResponseController(w).Flush()
			w.(http.Flusher).Flush()
		}},
		{"passed on twice", func(w http.ResponseWriter, status int) {
			w.WriteHeader(status)
			w.WriteHeader(status)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serveFront(t, statusWriter{writeHeader: tt.writeHeader}, nil, nil, wsproxy.WithBackends(wstest.StartEcho(t)))
			wantTunnel(t, s.URL, plainSwitch())
			s.wantStatuses(t, 101)
		})
	}
}

func TestFrontShowsMiddleware101OfDetachedTunnel(t *testing.T) {
	ended, trace := proxytest.TraceEnds()
	s := serveFront(t, statusWriter{}, nil, nil, wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithDetached(true), trace)
	wantTunnel(t, s.URL, plainSwitch())
	<-ended
	if !proxytest.Becomes(func() bool { return s.proxy.Stats().Tunnels == 0 }) {
		t.Error("the tunnel has not left Stats()")
	}
	s.wantStatuses(t, 101)
}

func TestFrontIgnoresMiddlewareAfterTunnel(t *testing.T) {
	s := serveFront(t, statusWriter{}, nil, func(w http.ResponseWriter) {
		w.WriteHeader(http.StatusGatewayTimeout)
		rc := http.NewResponseController(w)
		_, writeErr := w.Write([]byte("late"))
		_, stringErr := io.WriteString(w, "late")
		_, fromErr := w.(io.ReaderFrom).ReadFrom(strings.NewReader("late"))
		flushErr := rc.Flush()
		_, _, hijackErr := rc.Hijack()
		w.(http.Flusher).Flush()
		for call, err := range map[string]error{"Write": writeErr, "WriteString": stringErr, "ReadFrom": fromErr,
			"FlushError": flushErr, "Hijack": hijackErr} {
			if err != http.ErrHijacked {
				t.Errorf("%s after the tunnel: %v; want %v", call, err, http.ErrHijacked)
			}
		}
	}, wsproxy.WithBackends(wstest.StartEcho(t)))
	wantTunnel(t, s.URL, plainSwitch())
	s.wantStatuses(t, 101)
}

func TestFrontIgnoresBodyOf101(t *testing.T) {
	s := serveFront(t, statusWriter{writeHeader: func(w http.ResponseWriter, status int) {
		w.WriteHeader(status)
		if _, err := w.Write([]byte("body")); err != http.ErrBodyNotAllowed {
			t.Errorf("Write after WriteHeader(101): %v; want %v", err, http.ErrBodyNotAllowed)
		}
	}}, nil, nil, wsproxy.WithBackends(wstest.StartEcho(t)))
	wantTunnel(t, s.URL, plainSwitch())
	s.wantStatuses(t, 101)
}

func TestFrontAddsFieldsSetInWriteHeader(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.SwitchingWith("Set-Cookie: backend=1"))
	s := serveFront(t,
		statusWriter{writeHeader: func(w http.ResponseWriter, status int) {
			w.Header().Add("Set-Cookie", "session=1")
			w.Header().Set("Content-Encoding", "gzip")
			w.Header().Add("Vary", "Accept-Encoding")
			w.WriteHeader(status)
		}},
		func(w http.ResponseWriter) http.ResponseWriter {
			w.Header().Set("Content-Type", "text/html")
			w.Header().Set("Content-Length", "5")
			w.Header().Set("X-Secret", "1")
			w.Header().Set("Set-Cookie", "outer=1")
			return w
		}, nil,
		wsproxy.WithBackends(backend.URL()), wsproxy.WithResponse(func(r *wsproxy.ProxyResponse) error {
			if got := r.Header["Set-Cookie"]; !slices.Equal(got, []string{"outer=1", "backend=1"}) {
				t.Errorf("the Response hook got cookies %q; want those set before WriteHeader", got)
			}
			r.Header.Del("X-Secret")
			r.Header.Add("Set-Cookie", "hook=1")
			return nil
		}))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.UpgradeTo("/chat"))
	want := plainSwitch("Set-Cookie: outer=1", "Set-Cookie: backend=1", "Set-Cookie: hook=1", "Set-Cookie: session=1", "Vary: Accept-Encoding")
	if got := proxytest.ReadHead(t, client); got != want {
		t.Errorf("client got %q; want %q", got, want)
	}
	client.Close()
	s.wantStatuses(t, 101)
}

// Without Front a proxy calls no method of middleware before it hijacks.
func TestProxyAnnouncesNothingWithoutFront(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	s := proxytest.Serve(t, wrapped(p, func(w http.ResponseWriter) http.ResponseWriter {
		return &statusWriter{ResponseWriter: w, writeHeader: func(_ http.ResponseWriter, status int) {
			t.Errorf("middleware has seen %d; want no call of WriteHeader", status)
		}}
	}))
	wantTunnel(t, s.URL, plainSwitch())
	s.Wait()
}

func TestFrontShowsMiddlewareRefusals(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts []wsproxy.Option
		want int
	}{
		{"backend's refusal", []wsproxy.Option{wsproxy.WithBackends(wstest.StartRaw(t, proxytest.Refusing(403, "no")).URL())}, 403},
		{"no backend", []wsproxy.Option{wsproxy.WithBackends()}, 503},
		{"hook that refuses", []wsproxy.Option{wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithResponse(func(*wsproxy.ProxyResponse) error {
			return &wsproxy.StatusError{Status: 401}
		})}, 401},
		{"header that cannot be written", []wsproxy.Option{wsproxy.WithBackends(wstest.StartEcho(t)), wsproxy.WithResponse(func(r *wsproxy.ProxyResponse) error {
			r.Header.Set("X-A", "1\n2")
			return nil
		})}, 502},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serveFront(t, statusWriter{}, nil, nil, tt.opts...)
			resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
			proxytest.WantStatus(t, resp, tt.want)
			s.wantStatuses(t, tt.want)
		})
	}
}

// What fails between the announcement and the hijack is answered beneath middleware that
// takes the 101 for written.
func TestFrontRefusesBeneathMiddleware(t *testing.T) {
	for _, tt := range []struct {
		name        string
		writeHeader func(http.ResponseWriter, int)
		wrap        func(http.ResponseWriter) http.ResponseWriter
		want        int
	}{
		{"Hijack that fails", nil, func(w http.ResponseWriter) http.ResponseWriter { return failingWriter{w} }, 500},
		{"Hijack that panics", nil, func(w http.ResponseWriter) http.ResponseWriter { return panickyWriter{w} }, 500},
		{"WriteHeader that panics", func(w http.ResponseWriter, status int) {
			w.WriteHeader(status)
			panic("boom")
		}, nil, 500},
		{"WriteHeader that ends its goroutine", func(http.ResponseWriter, int) { runtime.Goexit() }, nil, 500},
		{"field that cannot be written", func(w http.ResponseWriter, _ int) { w.Header().Set("X-A", "1\n2") }, nil, 502},
	} {
		t.Run(tt.name, func(t *testing.T) {
			writeHeader := func(w http.ResponseWriter, status int) {
				w.Header().Set("Content-Encoding", "gzip")
				if tt.writeHeader != nil {
					tt.writeHeader(w, status)
				} else {
					w.WriteHeader(status)
				}
			}
			backend := wstest.StartRaw(t, proxytest.Switching)
			s := serveFront(t, statusWriter{writeHeader: writeHeader}, tt.wrap, func(w http.ResponseWriter) {
				w.WriteHeader(http.StatusSwitchingProtocols) // as gin and gzip do when the handler has returned
			}, wsproxy.WithBackends(backend.URL()), wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, err error) {
				status := http.StatusInternalServerError
				if tt.want == 502 {
					status = 502
				}
				w.WriteHeader(status)
				io.WriteString(w, "refused")
			}))
			resp, body := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
			proxytest.WantStatus(t, resp, tt.want)
			if body != "refused" || !resp.Close || resp.Header.Get("Content-Encoding") != "" {
				t.Errorf("client got body %q, header %v; want the error handler's, Connection: close and no Content-Encoding", body, resp.Header)
			}
			s.wantStatuses(t, 101)
			s.wantRefused(t)
		})
	}
}

// The proxy does not open a tunnel behind the head of another response.
func TestFrontLetsMiddlewareReplace101(t *testing.T) {
	backend := wstest.StartRaw(t, proxytest.Switching)
	s := serveFront(t, statusWriter{writeHeader: func(w http.ResponseWriter, _ int) {
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, "no upgrades here")
	}}, nil, nil, wsproxy.WithBackends(backend.URL()), wsproxy.WithErrorHandler(func(http.ResponseWriter, *http.Request, error) {
		t.Error("the error handler was called; want the middleware's response only")
	}))
	resp, body := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantStatus(t, resp, http.StatusTeapot)
	if body != "no upgrades here" {
		t.Errorf("client got %q; want the middleware's body", body)
	}
	s.wantStatuses(t, 101)
	s.wantRefused(t, "another status")
}

func TestFrontSendsEarlyHintsBefore101(t *testing.T) {
	s := serveFront(t, statusWriter{writeHeader: func(w http.ResponseWriter, status int) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		w.WriteHeader(status)
	}}, nil, nil, wsproxy.WithBackends(wstest.StartEcho(t)))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.UpgradeTo("/chat"))
	client.WantRaw(proxytest.Head("HTTP/1.1 103 Early Hints", "Link: </style.css>") + plainSwitch())
	proxytest.HangUp(t, client)
	s.wantStatuses(t, 101)
}

// A wrapper that hides deadlines makes the proxy hijack for a refusal too.
func TestFrontIgnoresMiddlewareAfterHijackedRefusal(t *testing.T) {
	hidesDeadlines := func(w http.ResponseWriter) http.ResponseWriter { return hijackOnly(w.(*statusWriter).ResponseWriter) }
	s := serveFront(t, statusWriter{}, hidesDeadlines, func(w http.ResponseWriter) {
		w.WriteHeader(http.StatusGatewayTimeout)
	}, wsproxy.WithBackends(wstest.StartRaw(t, proxytest.Refusing(403, "no")).URL()))
	resp, body := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantStatus(t, resp, http.StatusForbidden)
	if body != "no" {
		t.Errorf("client got %q; want the backend's body", body)
	}
	s.wantStatuses(t)
}

// An error handler may call a second proxy when the first has announced and failed.
func TestFrontServesFirstProxyOnly(t *testing.T) {
	second := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	isFirst := true
	s := serveFront(t, statusWriter{writeHeader: func(w http.ResponseWriter, status int) {
		if isFirst {
			isFirst = false
			w.Header().Set("X-A", "1\n2")
		}
	}}, nil, nil, wsproxy.WithBackends(wstest.StartEcho(t)),
		wsproxy.WithErrorHandler(func(w http.ResponseWriter, r *http.Request, _ error) {
			w.Header().Del("X-A")
			w.Header().Del("X-Request-Id")
			second.ServeHTTP(w, r)
		}))
	wantTunnel(t, s.URL, plainSwitch())
	s.wantStatuses(t, 101)
}

func TestFrontWithinFrontDoesNothing(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends(wstest.StartEcho(t)))
	var outer, inner http.ResponseWriter
	s := proxytest.Serve(t, wsproxy.Front(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		outer = w
		wsproxy.Front(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			inner = w
			p.ServeHTTP(w, r)
		})).ServeHTTP(w, r)
	})))
	wantTunnel(t, s.URL, plainSwitch())
	s.Wait()
	if outer != inner {
		t.Errorf("the inner handler got %T %p; want the outer one's %T %p", inner, inner, outer, outer)
	}
}

func TestFrontCallsDefaultServeMuxForNil(t *testing.T) {
	rec := httptest.NewRecorder()
	wsproxy.Front(nil).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/debug/nothing/here", nil))
	if rec.Code != http.StatusNotFound {
		t.Errorf("got status %d; want the 404 of http.DefaultServeMux", rec.Code)
	}
}

// A plainWriter is no Hijacker.
type plainWriter struct{ http.ResponseWriter }

func TestFrontPassesOtherRequestsUntouched(t *testing.T) {
	upgrade := proxytest.NewUpgrade()
	overHTTP10 := proxytest.NewUpgrade()
	overHTTP10.ProtoMinor = 0
	toH2C := proxytest.NewUpgrade()
	toH2C.Header.Set("Upgrade", "websocket, h2c")
	post := proxytest.NewUpgrade()
	post.Method = http.MethodPost
	hijackable := proxytest.Hijackable{ResponseRecorder: httptest.NewRecorder()}
	for _, tt := range []struct {
		name string
		w    http.ResponseWriter
		r    *http.Request
	}{
		{"no upgrade", &hijackable, httptest.NewRequest(http.MethodGet, "/", nil)},
		{"HTTP/1.0", &hijackable, overHTTP10},
		{"another protocol", &hijackable, toH2C},
		{"POST", &hijackable, post},
		{"ResponseWriter that is no Hijacker", plainWriter{httptest.NewRecorder()}, upgrade},
	} {
		t.Run(tt.name, func(t *testing.T) {
			isCalled := false
			wsproxy.Front(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				isCalled = true
				if w != tt.w || r != tt.r {
					t.Errorf("next got %T and %p; want %T and %p unchanged", w, r, tt.w, tt.r)
				}
			})).ServeHTTP(tt.w, tt.r)
			if !isCalled {
				t.Error("next was not called")
			}
		})
	}
}

func TestFrontAllocatesNothingForOtherRequests(t *testing.T) {
	h := wsproxy.Front(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	if n := testing.AllocsPerRun(100, func() { h.ServeHTTP(nil, r) }); n != 0 {
		t.Errorf("Front allocates %v times; want 0", n)
	}
}

func TestFrontPassesHTTP2Untouched(t *testing.T) {
	var got, want http.ResponseWriter
	front := wsproxy.Front(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = w
		io.WriteString(w, r.Proto)
	}))
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		want = w
		front.ServeHTTP(w, r)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); string(body) != "HTTP/2.0" || got != want {
		t.Errorf("got %q, and next got %T %p; want HTTP/2.0 and the server's %T %p", body, got, got, want, want)
	}
	srv.Client().CloseIdleConnections()
}

// Middleware looks for methods of the server's ResponseWriter.
func TestFrontHasAllMethodsOfServersResponseWriter(t *testing.T) {
	var servers, fronts []string
	done := make(chan struct{})
	methods := func(w http.ResponseWriter) (names []string) {
		for m := range reflect.TypeOf(w).Methods() {
			names = append(names, m.Name)
		}
		return names
	}
	front := wsproxy.Front(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fronts = methods(w) }))
	s := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		servers = methods(w)
		front.ServeHTTP(w, r)
		w.Header().Set("Connection", "close")
	}))
	proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	<-done
	want := append(slices.Clone(servers), "Unwrap")
	slices.Sort(want)
	slices.Sort(fronts)
	if !slices.Equal(fronts, want) {
		t.Errorf("Front's ResponseWriter has the methods %v; want %v", fronts, want)
	}
}

// A handler that is no proxy sends its own 101.
func TestFrontLeavesOtherWebSocketHandlersAlone(t *testing.T) {
	var errs proxytest.LogBook
	done := make(chan struct{})
	s := proxytest.Serve(t, wsproxy.Front(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		c, err := websocket.Accept(&statusWriter{ResponseWriter: w}, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.CloseNow()
		kind, message, err := c.Read(context.Background())
		if err == nil {
			c.Write(context.Background(), kind, message)
			c.Close(websocket.StatusNormalClosure, "")
		}
	})), func(srv *http.Server) { srv.ErrorLog = log.New(&errs, "", 0) })
	client, _ := proxytest.Open(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantEcho(t, client)
	client.WantClose(1000)
	client.Send(wstest.Close(1000, ""))
	client.WantEOF()
	<-done
	if lines := errs.Lines(); len(lines) > 0 {
		t.Errorf("the server has logged %q; want nothing", lines)
	}
}

// net/http reports the mistakes of other handlers as before.
func TestFrontPassesCallsAfterHijackOfAnotherHandler(t *testing.T) {
	var errs proxytest.LogBook
	done := make(chan struct{})
	s := proxytest.Serve(t, wsproxy.Front(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		c.Close()
		w.WriteHeader(http.StatusGatewayTimeout)
	})), func(srv *http.Server) { srv.ErrorLog = log.New(&errs, "", 0) })
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.UpgradeTo("/chat"))
	client.WantEOF()
	<-done
	if lines := errs.Lines("WriteHeader on hijacked connection"); len(lines) != 1 {
		t.Errorf("the server has logged %q; want its line on WriteHeader", errs.Lines())
	}
}

// A fileCounter counts the files that its connections are given whole.
type fileCounter struct {
	net.Listener
	files atomic.Int32
}

func (l *fileCounter) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return fileConn{c.(*net.TCPConn), l}, nil
}

type fileConn struct {
	*net.TCPConn
	l *fileCounter
}

func (c fileConn) ReadFrom(r io.Reader) (int64, error) {
	src := r
	if limited, ok := r.(*io.LimitedReader); ok {
		src = limited.R
	}
	if _, ok := src.(*os.File); ok {
		c.l.files.Add(1)
	}
	return c.TCPConn.ReadFrom(r)
}

func TestFrontLetsServerSendFiles(t *testing.T) {
	const size = 1 << 20
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, make([]byte, size), 0o666); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(wsproxy.Front(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, name)
	})))
	counter := &fileCounter{Listener: srv.Listener}
	srv.Listener = counter
	srv.Start()
	defer srv.Close()
	for i, request := range []string{proxytest.Head("GET / HTTP/1.1", "Host: a", "Connection: close"),
		proxytest.UpgradeTo("/", "Connection: close")} {
		client := wstest.Dial(t, srv.URL)
		client.WriteRequest(request)
		resp, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
			t.Errorf("client got %d bytes, %v; want %d", n, err, size)
		}
		if n := counter.files.Load(); n != int32(i+1) {
			t.Errorf("after %q the connections were given %d files whole; want %d", request, n, i+1)
		}
		client.Close()
	}
}

// A bareHijacker has nothing but what Front needs.
type bareHijacker struct{ http.ResponseWriter }

func (bareHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, errors.New("no hijacking today")
}

func TestFrontBearsResponseWriterWithFewMethods(t *testing.T) {
	rec := httptest.NewRecorder()
	wsproxy.Front(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader("a")); n != 1 || err != nil {
			t.Errorf("ReadFrom = %d, %v; want 1", n, err)
		}
		io.WriteString(w, "b")
		w.(http.Flusher).Flush()
		if err := http.NewResponseController(w).Flush(); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("Flush = %v; want %v", err, http.ErrNotSupported)
		}
		//lint:ignore SA1019 middleware calls it
		left := w.(http.CloseNotifier).CloseNotify()
		select {
		case <-left:
			t.Error("CloseNotify reports a client that has left")
		default:
		}
	})).ServeHTTP(bareHijacker{rec}, proxytest.NewUpgrade())
	if got := rec.Body.String(); got != "ab" {
		t.Errorf("body is %q; want ab", got)
	}
}
