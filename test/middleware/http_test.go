package middleware_test

import (
	"bufio"
	"io"
	"net/http"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// With WithHTTP a response is streamed through all stacks, and a middleware records its status, not
// that of an interim response before it.
func TestMiddlewareStreamsHTTPResponse(t *testing.T) {
	for _, tt := range stacks {
		for name, front := range fronts {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				hasFirst := make(chan struct{})
				backend := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.WriteHeader(http.StatusEarlyHints)
					w.WriteHeader(http.StatusAccepted)
					io.WriteString(w, "first\n")
					http.NewResponseController(w).Flush()
					select {
					case <-hasFirst:
					case <-r.Context().Done():
					}
					io.WriteString(w, r.RequestURI)
				}))
				stack := tt.build(t, proxytest.NewProxy(t, wsproxy.WithBackends(backend.URL), wsproxy.WithHTTP(true)))
				s, errs := serve(t, front(stack))
				client := wstest.Dial(t, s.URL)
				client.WriteRequest(proxytest.Head("GET /ws?transport=polling HTTP/1.1", "Host: chat.example"))
				proxytest.WantStatus(t, client.ReadResponse(), http.StatusEarlyHints)
				resp := client.ReadResponse()
				proxytest.WantStatus(t, resp, http.StatusAccepted)
				body := bufio.NewReader(resp.Body)
				if line, err := body.ReadString('\n'); line != "first\n" {
					t.Fatalf("client got %q, %v; want the first line while the response goes on", line, err)
				}
				close(hasFirst)
				if rest, err := io.ReadAll(body); string(rest) != "/ws?transport=polling" {
					t.Errorf("client got %q, %v at the end; want the target of its request", rest, err)
				}
				client.Close()
				s.Wait()
				if got := stack.status(); got != http.StatusAccepted {
					t.Errorf("middleware has recorded %03d; want 202", got)
				}
				if lines := errs.Lines(); len(lines) > 0 {
					t.Errorf("the server has logged %q; want nothing", lines)
				}
			})
		}
	}
}
