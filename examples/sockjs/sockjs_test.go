package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

const messages = 6

func TestSessionsStayOnTheirBackend(t *testing.T) {
	service := startService(t)
	for _, prefix := range []string{"/cookie", "/session"} {
		for transport := range formats {
			t.Run(prefix[1:]+"/"+transport, func(t *testing.T) {
				for range 5 {
					answers, err := newClient(t).converse(t.Context(), service+prefix, transport)
					if err != nil {
						t.Fatal(err)
					}
					for i, a := range answers {
						want := answer{answers[0].Backend, i + 1, fmt.Sprint("message ", i)}
						if a != want {
							t.Errorf("answer %d is %+v; want %+v", i, a, want)
						}
					}
				}
			})
		}
	}
}

func TestSessionsFailWithoutAffinity(t *testing.T) {
	service := startService(t)
	for transport := range formats {
		if _, err := newClient(t).converse(t.Context(), service+"/none", transport); err == nil {
			t.Errorf("a session by %s reaches one backend with all its requests; want it to fail", transport)
		}
	}
}

func TestWebSocketNeedsNoAffinity(t *testing.T) {
	service := startService(t)
	for _, prefix := range []string{"/cookie", "/session", "/none"} {
		conn, _, err := websocket.Dial(t.Context(), service+prefix+"/000/s1/websocket", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.CloseNow()
		if err := conn.Write(t.Context(), websocket.MessageText, []byte(`["hello"]`)); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"o", "hello"} {
			if _, frame, err := conn.Read(t.Context()); err != nil || !strings.Contains(string(frame), want) {
				t.Errorf("%s: Read() = %q, %v; want a frame with %q", prefix, frame, err, want)
			}
		}
	}
}

func TestBackendRefusesSecondReceiver(t *testing.T) {
	b := httptest.NewServer(newBackend("A"))
	defer b.Close()
	resp := do(t, "POST", b.URL+"/p/000/s1/xhr_streaming")
	defer resp.Body.Close()
	second := do(t, "POST", b.URL+"/p/000/s1/xhr")
	defer second.Body.Close()
	if frame, err := io.ReadAll(second.Body); !strings.HasPrefix(string(frame), "c[2010,") {
		t.Errorf("a second request to receive gets %q, %v; want a Close frame", frame, err)
	}
}

func TestPageHasSockJSClient(t *testing.T) {
	service := startService(t)
	for path, want := range map[string]string{
		"/":              `<script src="sockjs.min.js">`,
		"/sockjs.min.js": "/* sockjs-client v1.6.1 | http://sockjs.org | MIT license */",
		"/LICENSES":      "Copyright (c) 2011-2018 The sockjs-client Authors.",
	} {
		resp := do(t, "GET", service+path)
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(body), want) {
			t.Errorf("%s has no %q, %v", path, want, err)
		}
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	out := new(strings.Builder)
	if err := run(ctx, "127.0.0.1:0", out); err != nil {
		t.Errorf("run() = %v; want nil", err)
	}
	if !strings.HasPrefix(out.String(), "open http://127.0.0.1:") {
		t.Errorf("run() printed %q; want its address", out)
	}
}

// A client speaks as much of SockJS as the test needs, and stores cookies.
type client struct{ http.Client }

func newClient(t *testing.T) *client {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{http.Client{Jar: jar, Transport: new(http.Transport)}}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// converse sends messages one after the other, and returns the answers.
func (c *client) converse(ctx context.Context, prefix, transport string) ([]answer, error) {
	if err := c.info(ctx, prefix); err != nil {
		return nil, err
	}
	session := prefix + "/000/" + rand.Text() + "/"
	frames := &receiver{client: c, url: session + transport, format: formats[transport]}
	defer frames.close()
	if frame, err := frames.next(ctx); err != nil || frame != "o" {
		return nil, fmt.Errorf("the first frame is %q: %v", frame, err)
	}
	var answers []answer
	for i := range messages {
		if err := c.send(ctx, session+"xhr_send", fmt.Sprint("message ", i)); err != nil {
			return nil, err
		}
		frame, err := frames.next(ctx)
		if err != nil {
			return nil, err
		}
		var texts []string
		if err := json.Unmarshal([]byte(strings.TrimPrefix(frame, "a")), &texts); err != nil || len(texts) != 1 {
			return nil, fmt.Errorf("the frame is %q: %v", frame, err)
		}
		var a answer
		if err := json.Unmarshal([]byte(texts[0]), &a); err != nil {
			return nil, err
		}
		answers = append(answers, a)
	}
	return answers, nil
}

func (c *client) request(ctx context.Context, method, url, body string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(r)
	if err == nil && resp.StatusCode >= 300 {
		resp.Body.Close()
		return nil, fmt.Errorf("%s %s: %s", method, url, resp.Status)
	}
	return resp, err
}

func (c *client) info(ctx context.Context, prefix string) error {
	resp, err := c.request(ctx, "GET", prefix+"/info", "")
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func (c *client) send(ctx context.Context, url, message string) error {
	body, err := json.Marshal([]string{message})
	if err != nil {
		return err
	}
	resp, err := c.request(ctx, "POST", url, string(body))
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// A receiver reads frames, with one request after the other.
type receiver struct {
	client *client
	url    string
	format format
	resp   *http.Response // nil between requests
	body   *bufio.Reader
}

func (r *receiver) next(ctx context.Context) (frame string, err error) {
	for {
		if r.resp == nil {
			if r.resp, err = r.client.request(ctx, r.format.method, r.url, ""); err != nil {
				return "", err
			}
			r.body = bufio.NewReader(r.resp.Body)
			if _, err := r.body.Discard(len(r.format.prelude)); err != nil {
				return "", err
			}
		}
		for {
			line, err := r.body.ReadString('\n')
			if err == io.EOF {
				r.close()
				break
			}
			if err != nil {
				return "", err
			}
			line = strings.TrimPrefix(strings.TrimRight(line, "\r\n"), r.format.before)
			if line != "" {
				return line, nil
			}
		}
	}
}

func (r *receiver) close() {
	if r.resp != nil {
		r.resp.Body.Close()
		r.resp = nil
	}
}

// startService starts the backends and the proxies until the test ends.
func startService(t *testing.T) (url string) {
	t.Helper()
	var backends []string
	for _, name := range []string{"A", "B", "C"} {
		b := httptest.NewServer(newBackend(name))
		t.Cleanup(b.Close)
		backends = append(backends, b.URL)
	}
	proxies, err := newProxies(backends)
	if err != nil {
		t.Fatal(err)
	}
	service := httptest.NewServer(newMux(proxies))
	t.Cleanup(func() {
		service.CloseClientConnections() // those of clients that receive
		service.Close()
		for _, p := range proxies {
			p.Close()
		}
	})
	return service.URL
}

func do(t *testing.T, method, url string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}
