package wsproxy_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
)

func TestErrorTextsNameObjectAndCause(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{wsproxy.ErrNoBackend, "wsproxy: no backend to choose"},
		{wsproxy.ErrLimit, "wsproxy: limit reached"},
		{wsproxy.ErrShutdown, "wsproxy: proxy is shut down"},
		{&wsproxy.ConfigError{Option: "WithBackends[0].URL", Value: "", Err: errors.New("no scheme")}, `wsproxy: WithBackends[0].URL: "": no scheme`},
		{&wsproxy.ConfigError{Option: "WithBackendConfigs[0].Weight", Value: -1, Err: errors.New("negative")}, "wsproxy: WithBackendConfigs[0].Weight: -1: negative"},
		{&wsproxy.StatusError{Status: 403, Err: errors.New("not you")}, "wsproxy: client's request refused with 403: not you"},
		{&wsproxy.BackendError{ID: "http://10.0.0.1", Op: "dial", Err: refused}, "wsproxy: dial backend http://10.0.0.1: dial tcp: connection refused"},
		{&wsproxy.DrainError{Closed: 3, Cut: 2, Err: context.DeadlineExceeded}, "wsproxy: shutdown: 3 tunnels closed, 2 cut: context deadline exceeded"},
		{&wsproxy.DrainError{Closed: 3, Cut: 2}, "wsproxy: shutdown: 3 tunnels closed, 2 cut"},
		{&wsproxy.DrainError{ID: "b", Closed: 3, Cut: 2, Left: 1}, "wsproxy: drain backend b: 3 tunnels closed, 2 cut, 1 left"},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("Error() = %q; want %q", got, tt.want)
		}
	}
}

func TestErrorsUnwrapToCause(t *testing.T) {
	for _, err := range []error{
		&wsproxy.ConfigError{Err: io.ErrUnexpectedEOF},
		&wsproxy.StatusError{Err: io.ErrUnexpectedEOF},
		&wsproxy.BackendError{Err: io.ErrUnexpectedEOF},
		&wsproxy.DrainError{Err: io.ErrUnexpectedEOF},
	} {
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%T does not unwrap to its cause", err)
		}
	}
	if !errors.Is(wsproxy.ErrShutdown, net.ErrClosed) {
		t.Error("ErrShutdown does not unwrap to net.ErrClosed")
	}
}

func TestBackendErrorReportsTimeout(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{context.DeadlineExceeded, true},
		{os.ErrDeadlineExceeded, true},
		{&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, true},
		{io.EOF, false},
		{context.Canceled, false},
	} {
		if got := (&wsproxy.BackendError{Err: tt.err}).Timeout(); got != tt.want {
			t.Errorf("Timeout() of %v = %t; want %t", tt.err, got, tt.want)
		}
	}
}

func TestErrorsDecideStatus(t *testing.T) {
	timeout := proxytest.FakeBackend{DialErr: context.DeadlineExceeded}
	refused := proxytest.FakeBackend{DialErr: errors.New("refused")}
	for _, tt := range []struct {
		name string
		a, b proxytest.FakeBackend
		want int
	}{
		{"all refused", refused, refused, http.StatusServiceUnavailable},
		{"all timed out", timeout, timeout, http.StatusServiceUnavailable},
		{"malformed", refused, proxytest.FakeBackend{Answer: "nonsense\r\n\r\n"}, http.StatusBadGateway},
	} {
		network := proxytest.NewNetwork()
		network.Set("a", tt.a)
		network.Set("b", tt.b)
		_, s := proxytest.Start(t, wsproxy.WithBackends("http://a", "http://b"), proxytest.FirstCandidate, wsproxy.WithDialer(network.Dial))
		resp, body := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
		if resp.StatusCode != tt.want {
			t.Errorf("%s: client got %d; want %d", tt.name, resp.StatusCode, tt.want)
		}
		if want := http.StatusText(tt.want) + "\n"; body != want {
			t.Errorf("%s: client got body %q; want %q", tt.name, body, want)
		}
	}
}

func TestErrShutdownUnwrapsToNetErrClosed(t *testing.T) {
	if !errors.Is(wsproxy.ErrShutdown, net.ErrClosed) {
		t.Error("ErrShutdown does not unwrap to net.ErrClosed")
	}
}
