package wsproxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

var withHTTP = wsproxy.WithHTTP(true)

// forEachVersion runs a test with a server for HTTP/1.1 and with one for HTTP/2. Serve serves a
// handler until the test ends, and returns its URL and a client.
func forEachVersion(t *testing.T, test func(t *testing.T, serve func(http.Handler) (string, *http.Client))) {
	for name, isHTTP2 := range map[string]bool{"HTTP-1.1": false, "HTTP-2": true} {
		t.Run(name, func(t *testing.T) {
			test(t, func(h http.Handler) (string, *http.Client) {
				srv := httptest.NewUnstartedServer(h)
				srv.EnableHTTP2 = isHTTP2
				srv.Config.ErrorLog = proxytest.DiscardLog
				if isHTTP2 {
					srv.StartTLS()
				} else {
					srv.Start()
				}
				t.Cleanup(srv.Close)
				client := srv.Client()
				client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
				return srv.URL, client
			})
		})
	}
}

// startHTTP returns a proxy of requests that are no upgrade, with a backend that has handler h.
func startHTTP(t *testing.T, h http.HandlerFunc, opts ...wsproxy.Option) *wsproxy.Proxy {
	t.Helper()
	backend := proxytest.Serve(t, h)
	return proxytest.NewProxy(t, append([]wsproxy.Option{wsproxy.WithBackends(backend.URL), withHTTP}, opts...)...)
}

// do sends a request, which must get a response, and reads its body.
func do(t *testing.T, client *http.Client, method, url string, body io.Reader, fields ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("body of %s: %v after %.200q", resp.Status, err, b)
	}
	return resp, string(b)
}

func TestHTTPRequestGoesThrough(t *testing.T) {
	forEachVersion(t, func(t *testing.T, serve func(http.Handler) (string, *http.Client)) {
		var got *http.Request
		url, client := serve(startHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			got = r
			w.Header().Add("Set-Cookie", "a=b")
			w.Header().Add("Set-Cookie", "c=d")
			w.Header().Set("Keep-Alive", "timeout=5")
			w.WriteHeader(http.StatusCreated)
			fmt.Fprintf(w, "got %s", body)
		}))
		resp, body := do(t, client, "POST", url+"/room/xhr_send?b=2&a=1", strings.NewReader("hello"),
			"Cookie", "session=1", "X-Forwarded-For", "192.0.2.9", "X-Request-Id", "forged", "Proxy-Authorization", "secret")
		proxytest.WantStatus(t, resp, http.StatusCreated)
		proxytest.WantField(t, resp.Header, "Set-Cookie", "a=b", "c=d")
		proxytest.WantField(t, resp.Header, "Keep-Alive")
		if body != "got hello" {
			t.Errorf("client got %q", body)
		}
		if got.Method != "POST" || got.RequestURI != "/room/xhr_send?b=2&a=1" || got.ContentLength != 5 {
			t.Errorf("backend got %s %s with length %d", got.Method, got.RequestURI, got.ContentLength)
		}
		if host := strings.TrimPrefix(strings.TrimPrefix(url, "http://"), "https://"); got.Host != host {
			t.Errorf("backend got Host %q; want %q", got.Host, host)
		}
		proxytest.WantField(t, got.Header, "Cookie", "session=1")
		proxytest.WantField(t, got.Header, "X-Forwarded-For", "127.0.0.1")
		proxytest.WantField(t, got.Header, "X-Forwarded-Proto", strings.Split(url, ":")[0])
		proxytest.WantField(t, got.Header, "Proxy-Authorization")
		if id := got.Header.Get("X-Request-Id"); len(id) != 32 {
			t.Errorf("backend got X-Request-Id %q; want one of the proxy", id)
		}
	})
}

func TestHTTPResponseIsNotChanged(t *testing.T) {
	for _, tt := range []struct {
		name, method, answer string
		want                 string // of the response, after Date
	}{
		{"HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"},
		{"304", "GET", "HTTP/1.1 304 Not Modified\r\nEtag: \"x\"\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nEtag: \"x\"\r\n\r\n"},
		{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"},
		{"gzip", "GET", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"},
		{"chunks", "GET", "HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"},
		{"trailer", "GET", "HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n0\r\nX-Sum: 1\r\nContent-Length: 5\r\nTransfer-Encoding: x\r\nConnection: y\r\nX-Late: 2\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Late: 2\r\nX-Sum: 1\r\n\r\n"},
		{"until the end", "GET", "HTTP/1.0 200 OK\r\nContent-Type: a/b\r\n\r\nabc{end}", "HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"},
		{"empty", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
		{"302", "GET", "HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /b\r\n\r\n"},
		{"426", "GET", "HTTP/1.1 426 Upgrade Required\r\nUpgrade: foo\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\nUpgrade: websocket\r\n\r\n"},
		{"503", "GET", "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 7\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backend := wstest.StartRaw(t, tt.answer)
			_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), withHTTP)
			got := proxytest.ExchangeRaw(t, s.URL, proxytest.Head(tt.method+" / HTTP/1.1", "Host: a", "Connection: close"))
			head, body, _ := strings.Cut(got, "\r\n\r\n")
			var lines []string
			for line := range strings.SplitSeq(head, "\r\n") {
				if !strings.HasPrefix(line, "Date: ") && line != "Connection: close" {
					lines = append(lines, line)
				}
			}
			if got = strings.Join(lines, "\r\n") + "\r\n\r\n" + body; got != tt.want {
				t.Errorf("client got\n%q; want\n%q", got, tt.want)
			}
		})
	}
}

// The Content-Length of a 304 is that of the 200 in its place.
func TestHTTPResponseWithoutABodyHasNoLength(t *testing.T) {
	forEachVersion(t, func(t *testing.T, serve func(http.Handler) (string, *http.Client)) {
		for _, status := range []int{204, 304} {
			backend := wstest.StartRaw(t, proxytest.Head(fmt.Sprintf("HTTP/1.1 %d X", status), "Content-Length: 5"))
			url, client := serve(proxytest.NewProxy(t, wsproxy.WithBackends(backend.URL()), withHTTP))
			resp, body := do(t, client, "GET", url, nil)
			proxytest.WantStatus(t, resp, status)
			proxytest.WantField(t, resp.Header, "Content-Length")
			if body != "" {
				t.Errorf("client got %q", body)
			}
		}
	})
}

// A body that is streamed reaches the other side part by part.
func TestHTTPBodiesAreStreamed(t *testing.T) {
	forEachVersion(t, func(t *testing.T, serve func(http.Handler) (string, *http.Client)) {
		for _, contentType := range []string{"text/event-stream", "application/javascript"} {
			t.Run("response "+contentType, func(t *testing.T) {
				seen := make(chan bool)
				url, client := serve(startHTTP(t, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", contentType)
					w.WriteHeader(200)
					http.NewResponseController(w).Flush()
					for <-seen {
						io.WriteString(w, "tick\n")
						http.NewResponseController(w).Flush()
					}
				}))
				resp, err := client.Get(url)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				lines := bufio.NewReader(resp.Body)
				for range 3 {
					seen <- true
					if line, err := lines.ReadString('\n'); line != "tick\n" {
						t.Fatalf("client read %q, %v", line, err)
					}
				}
				close(seen)
				if _, err := lines.ReadByte(); err != io.EOF {
					t.Errorf("client got %v behind the last part; want the end", err)
				}
			})
		}
		for name, length := range map[string]int64{"of known length": 15, "of unknown length": -1} {
			t.Run("request "+name, func(t *testing.T) {
				got := make(chan string)
				url, client := serve(startHTTP(t, func(w http.ResponseWriter, r *http.Request) {
					b := make([]byte, 5)
					for range 3 {
						io.ReadFull(r.Body, b)
						got <- string(b)
					}
				}))
				body, writer := io.Pipe()
				r, _ := http.NewRequestWithContext(t.Context(), "POST", url, body)
				r.ContentLength = length
				done := make(chan error, 1)
				go func() { // ends with the request
					resp, err := client.Do(r)
					if err == nil {
						resp.Body.Close()
					}
					done <- err
				}()
				for i := range 3 {
					io.WriteString(writer, "tick\n")
					if i == 2 {
						writer.Close() // an HTTP/2 client keeps the last part until it knows the end
					}
					if line := <-got; line != "tick\n" {
						t.Fatalf("backend read %q", line)
					}
				}
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		}
	})
}

func TestHTTPResponseMayBeginBeforeRequestEnds(t *testing.T) {
	forEachVersion(t, func(t *testing.T, serve func(http.Handler) (string, *http.Client)) {
		url, client := serve(startHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).EnableFullDuplex()
			b := make([]byte, 1)
			for {
				if _, err := r.Body.Read(b); err != nil {
					return
				}
				w.Write(b)
				http.NewResponseController(w).Flush()
			}
		}))
		body, writer := io.Pipe()
		r, _ := http.NewRequestWithContext(t.Context(), "POST", url, body)
		go io.WriteString(writer, "a")
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b := make([]byte, 1)
		for _, want := range "ab" {
			if _, err := io.ReadFull(resp.Body, b); err != nil || rune(b[0]) != want {
				t.Fatalf("client read %q, %v; want %c", b, err, want)
			}
			if want == 'a' {
				io.WriteString(writer, "b")
			}
		}
		writer.Close()
	})
}

func TestHTTPLongPollIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := proxytest.NewBackendInMemory(t)
		var health atomic.Int32
		p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a"), backend.Option(), withHTTP,
			wsproxy.WithTimeouts(wsproxy.Timeouts{Handshake: time.Second}),
			wsproxy.WithTrace(&wsproxy.Trace{Health: func(wsproxy.HealthInfo) { health.Add(1) }}))
		s := proxytest.ServeInMemory(t, p)
		for _, leaves := range []bool{false, true} {
			client := s.Dial(t)
			client.WriteRequest(proxytest.Head("GET /xhr HTTP/1.1", "Host: a"))
			leg := backend.Accept(t)
			leg.ReadRequest()
			time.Sleep(25 * time.Second)
			if leaves {
				client.Close()
				leg.WantEOF()
				continue
			}
			leg.Write([]byte(proxytest.Refusing(200, "h")))
			proxytest.WantStatus(t, client.ReadResponse(), 200)
			client.Close()
			time.Sleep(10 * time.Second)
		}
		synctest.Wait()
		if n := health.Load(); n != 0 {
			t.Errorf("flags changed %d times; want never", n)
		}
		if got := p.Backends()[0].Stats(); got.Responded != 1 || got.Abandoned != 1 || got.Requests != 0 {
			t.Errorf("Stats() has %d responded, %d abandoned, %d requests; want 1, 1, 0", got.Responded, got.Abandoned, got.Requests)
		}
	})
}

func TestHTTPClientThatLeavesCancelsBackendsRequest(t *testing.T) {
	forEachVersion(t, func(t *testing.T, serve func(http.Handler) (string, *http.Client)) {
		began, ended := make(chan bool), make(chan bool)
		url, client := serve(startHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/streams" {
				http.NewResponseController(w).Flush()
			}
			began <- true
			<-r.Context().Done()
			ended <- true
		}))
		for _, path := range []string{"/waits", "/streams"} {
			ctx, cancel := context.WithCancel(t.Context())
			r, _ := http.NewRequestWithContext(ctx, "GET", url+path, nil)
			done := make(chan error, 1)
			go func() { // ends with the request
				resp, err := client.Do(r)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
				done <- err
			}()
			<-began
			cancel()
			<-ended
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("%s: client got %v; want canceled", path, err)
			}
		}
	})
}

func TestHTTPResponseThatBreaksOffAbortsClients(t *testing.T) {
	forEachVersion(t, func(t *testing.T, serve func(http.Handler) (string, *http.Client)) {
		for name, answer := range map[string]string{
			"length": "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc{end}",
			"chunks": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n{end}",
		} {
			t.Run(name, func(t *testing.T) {
				backend := wstest.StartRaw(t, answer)
				var book proxytest.LogBook
				p := proxytest.NewProxy(t, wsproxy.WithBackends(backend.URL()), withHTTP, book.Option())
				url, client := serve(p)
				resp, err := client.Get(url)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if b, err := io.ReadAll(resp.Body); err == nil || string(b) != "abc" {
					t.Errorf("client read %q, %v; want abc and an error", b, err)
				}
				if lines := book.Lines(); len(lines) != 1 || !strings.Contains(lines[0], "broke off") {
					t.Errorf("log has %q; want one line", lines)
				}
			})
		}
	})
}

func TestHTTPTrailersAndInterimResponsesPass(t *testing.T) {
	forEachVersion(t, func(t *testing.T, serve func(http.Handler) (string, *http.Client)) {
		var got http.Header
		p := startHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</a.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			io.Copy(io.Discard, r.Body)
			got = r.Trailer
			w.Header().Del("Link")
			w.Header().Set("Trailer", "X-Sum")
			io.WriteString(w, "body")
			w.Header().Set("X-Sum", "1")
			w.Header().Set(http.TrailerPrefix+"X-Late", "2")
		})
		url, client := serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Middleware", "here")
			recorder := &statusWriter{ResponseWriter: w}
			p.ServeHTTP(recorder, r)
			if !slices.Equal(recorder.statuses, []int{200}) {
				t.Errorf("middleware saw the statuses %v; want 200 only", recorder.statuses)
			}
		}))
		var hints http.Header
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				if code == http.StatusEarlyHints {
					hints = http.Header(h)
				}
				return nil
			},
		})
		r, _ := http.NewRequestWithContext(ctx, "POST", url, io.MultiReader(strings.NewReader("x"), strings.NewReader("y")))
		r.Trailer = http.Header{"X-Check": {"3"}, "X-Forwarded-For": {"192.0.2.9"}}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		proxytest.WantField(t, hints, "Link", "</a.css>; rel=preload")
		proxytest.WantField(t, hints, "X-Middleware")
		proxytest.WantField(t, resp.Header, "X-Middleware", "here")
		proxytest.WantField(t, resp.Header, "Link")
		proxytest.WantField(t, resp.Trailer, "X-Sum", "1")
		proxytest.WantField(t, resp.Trailer, "X-Late", "2")
		proxytest.WantField(t, got, "X-Check", "3")
		proxytest.WantField(t, got, "X-Forwarded-For")
	})
}

// Over HTTP/2 a request may have a Content-Length and a trailer.
func TestHTTPTrailerOfABodyOfKnownLengthPasses(t *testing.T) {
	forEachVersion(t, func(t *testing.T, serve func(http.Handler) (string, *http.Client)) {
		var got *http.Request
		p := startHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			got = r
		})
		hasTrailer := false
		url, client := serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			hasTrailer = len(r.Trailer) > 0
			p.ServeHTTP(w, r)
		}))
		r, _ := http.NewRequestWithContext(t.Context(), "POST", url, strings.NewReader("body"))
		r.Trailer = http.Header{"X-Check": {"3"}}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if want := resp.ProtoMajor == 2; hasTrailer != want {
			t.Fatalf("the client's request has a trailer: %t; want %t", hasTrailer, want)
		}
		if hasTrailer {
			proxytest.WantField(t, got.Trailer, "X-Check", "3")
		} else if got.ContentLength != 4 {
			t.Errorf("backend got the length %d; want 4", got.ContentLength)
		}
	})
}

func TestHTTPExpectationReachesBackend(t *testing.T) {
	for name, tt := range map[string]struct {
		answer string
		want   string // the client's first line
	}{
		"continues": {"HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 100 Continue\r\n"},
		"refused":   {"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 401 Unauthorized\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			backend := wstest.StartBackend(t)
			_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL()), withHTTP)
			client := wstest.Dial(t, s.URL)
			client.WriteRequest(proxytest.Head("POST / HTTP/1.1", "Host: a", "Expect: 100-continue", "Content-Length: 5"))
			leg := backend.Accepted(t)
			head := proxytest.ReadHead(t, leg)
			if !strings.Contains(head, "\r\nExpect: 100-continue\r\n") {
				t.Errorf("backend got %q; want Expect", head)
			}
			leg.Write([]byte(tt.answer))
			if head = proxytest.ReadHead(t, client); !strings.HasPrefix(head, tt.want) {
				t.Fatalf("client got %q; want %q", head, tt.want)
			}
			if name == "refused" {
				return
			}
			client.Write([]byte("hello"))
			leg.WantRaw("hello")
			leg.Write([]byte(proxytest.Refusing(200, "")))
			proxytest.WantStatus(t, client.ReadResponse(), 200)
		})
	}
}

// deadAddr returns the address of a port that refuses connections.
func deadAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return "http://" + ln.Addr().String()
}

func TestHTTPIsRetriedWhereNothingWasSentAndTheMethodIsSafe(t *testing.T) {
	for _, tt := range []struct {
		method, body string
		want         int
	}{
		{"GET", "", 200}, {"HEAD", "", 200}, {"OPTIONS", "", 200},
		{"GET", "x", 503}, {"POST", "", 503}, {"POST", "x", 503}, {"PUT", "x", 503}, {"DELETE", "", 503}, {"PATCH", "x", 503},
	} {
		t.Run(tt.method+tt.body, func(t *testing.T) {
			ok := proxytest.Serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			var attempts []wsproxy.AttemptInfo
			p, s := proxytest.Start(t, wsproxy.WithBackends(deadAddr(t), ok.URL), withHTTP, proxytest.FirstCandidate,
				wsproxy.WithTrace(&wsproxy.Trace{Attempted: func(i wsproxy.AttemptInfo) { attempts = append(attempts, i) }}))
			var body io.Reader
			if tt.body != "" {
				body = strings.NewReader(tt.body)
			}
			resp, _ := do(t, http.DefaultClient, tt.method, s.URL, body)
			proxytest.WantStatus(t, resp, tt.want)
			if isRefused := tt.want == 503; isRefused != (len(attempts) == 1) || isRefused == (resp.Header.Get("Retry-After") == "") {
				t.Errorf("%d attempts, Retry-After %q", len(attempts), resp.Header.Get("Retry-After"))
			}
			if f := p.Backends()[0].Health().Flags; len(f) != 1 || f[0].Flag != wsproxy.FlagUnreachable {
				t.Errorf("the first backend has %v; want unreachable", f)
			}
			if got := p.Backends()[0].Stats().Unreached; got != 1 {
				t.Errorf("the first backend counts %d unreached; want 1", got)
			}
			http.DefaultClient.CloseIdleConnections()
		})
	}
}

func TestHTTPConnectionIsUsedAgain(t *testing.T) {
	backend := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
	var dials atomic.Int32
	_, s := proxytest.Start(t, wsproxy.WithBackends(backend.URL), withHTTP,
		wsproxy.WithDialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials.Add(1)
			return new(net.Dialer).DialContext(ctx, network, addr)
		}))
	// On a busy machine the transport drops a connection now and then: it waits no longer than
	// 50 ms for the goroutine that has written the request.
	numRequests := int32(0)
	for ; numRequests == dials.Load() && numRequests < 100; numRequests++ {
		do(t, http.DefaultClient, "POST", s.URL, strings.NewReader("hello"))
		s.Wait() // the client may have its response a little before the connection is idle
	}
	http.DefaultClient.CloseIdleConnections()
	if n := dials.Load(); n >= numRequests {
		t.Errorf("the backend was dialed %d times for %d requests", n, numRequests)
	}
}

func TestHTTPRefusalLeavesConnectionOpen(t *testing.T) {
	_, s := proxytest.Start(t, wsproxy.WithBackends(), withHTTP)
	client := wstest.Dial(t, s.URL)
	for range 2 {
		client.WriteRequest(proxytest.Head("POST /xhr_send HTTP/1.1", "Host: a", "Content-Length: 5") + "hello")
		resp := client.ReadResponse()
		proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
		if resp.Close || resp.Header.Get("Retry-After") == "" || resp.Header.Get("X-Request-Id") == "" {
			t.Errorf("client got close %v, Retry-After %q, X-Request-Id %q", resp.Close, resp.Header.Get("Retry-After"), resp.Header.Get("X-Request-Id"))
		}
		io.Copy(io.Discard, resp.Body)
	}
}

func TestHTTPBodyThatCannotBeReadIsTheClientsFault(t *testing.T) {
	for name, tt := range map[string]struct {
		request string
		limit   int64
		want    int
	}{
		"malformed chunk": {proxytest.Head("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + "zz\r\n", 1000, 400},
		"too large":       {proxytest.Head("POST / HTTP/1.1", "Host: a", "Content-Length: 100") + strings.Repeat("x", 100), 10, 413},
	} {
		t.Run(name, func(t *testing.T) {
			p := startHTTP(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
			s := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.Body = http.MaxBytesReader(w, r.Body, tt.limit)
				p.ServeHTTP(w, r)
			}))
			client := wstest.Dial(t, s.URL)
			client.WriteRequest(tt.request)
			proxytest.WantStatus(t, client.ReadResponse(), tt.want)
			if b := p.Backends()[0]; len(b.Health().Flags) != 0 || b.Stats().Abandoned != 1 {
				t.Errorf("backend has %v and %d abandoned; want no flag and 1", b.Health().Flags, b.Stats().Abandoned)
			}
		})
	}
}

func TestShutdownRefusesNewHTTPAndLeavesTheRest(t *testing.T) {
	began, goOn := make(chan bool), make(chan bool)
	p := startHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		began <- true
		<-goOn
		io.WriteString(w, "done")
	})
	s := proxytest.Serve(t, p)
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.Head("GET / HTTP/1.1", "Host: a"))
	<-began
	if err := p.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.Head("GET / HTTP/1.1", "Host: a"))
	proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
	if resp.Header.Get("Retry-After") == "" {
		t.Error("client got no Retry-After")
	}
	goOn <- true
	resp = client.ReadResponse()
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode != 200 || string(body) != "done" || err != nil {
		t.Errorf("client got %s %q %v; want 200 done", resp.Status, body, err)
	}
}

func TestFallbackIsRefusedWithTheNameOfTheOption(t *testing.T) {
	var book proxytest.LogBook
	_, s := proxytest.Start(t, wsproxy.WithBackends(), book.Option())
	for _, target := range []string{"/echo/info?t=1", "/socket.io/?EIO=4&transport=polling"} {
		resp, body := proxytest.Exchange(t, s.URL, proxytest.Head("GET "+target+" HTTP/1.1", "Host: a"))
		proxytest.WantStatus(t, resp, http.StatusUpgradeRequired)
		if !strings.Contains(body, "wsproxy.WithHTTP(true)") {
			t.Errorf("client got %q; want the name of the option", body)
		}
	}
	if lines := book.Lines("level=WARN", "WithHTTP"); len(lines) != 1 {
		t.Errorf("log has %q; want one line at Warn", lines)
	}
	if lines := book.Lines("level=DEBUG", "upgrade refused", "WithHTTP(true)"); len(lines) != 2 {
		t.Errorf("log has %q; want a line for each refusal", lines)
	}
	_, body := proxytest.Exchange(t, s.URL, proxytest.Head("GET /page HTTP/1.1", "Host: a"))
	if strings.Contains(body, "WithHTTP") {
		t.Errorf("client got %q for an ordinary page", body)
	}
}

func TestWrapPassesRequestsOnThoughHTTPIsOn(t *testing.T) {
	p := startHTTP(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "backend") })
	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "next") })
	for want, h := range map[string]http.Handler{"next": p.Wrap(next), "backend": p.Wrap(nil)} {
		s := proxytest.Serve(t, h)
		if _, got := do(t, http.DefaultClient, "GET", s.URL, nil); got != want {
			t.Errorf("client got the response of %q; want %q", got, want)
		}
		http.DefaultClient.CloseIdleConnections()
	}
}
