package main

import (
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/wsproxy/wsproxy"
)

func TestRoutes(t *testing.T) {
	service := startService(t)
	tests := []struct {
		path   string
		status int
		want   string // in the body
	}{
		{"/", http.StatusOK, "<h1>A service</h1>"},
		{"/api/time", http.StatusOK, `{"now":"`},
		{"/room", http.StatusOK, "<h1>A room with an echo</h1>"},
		{"/ws", http.StatusUpgradeRequired, ""},
		{"/other", http.StatusNotFound, ""},
	}
	for _, tt := range tests {
		status, body := get(t, service+tt.path)
		if status != tt.status || !strings.Contains(body, tt.want) {
			t.Errorf("GET %s = %d, %q; want %d, %q", tt.path, status, body, tt.status, tt.want)
		}
	}
}

func TestUpgradesAreRelayed(t *testing.T) {
	service := startService(t)
	for _, path := range []string{"/ws", "/room"} {
		conn, _, err := websocket.Dial(t.Context(), service+path, nil)
		if err != nil {
			t.Errorf("connect to %s: %v", path, err)
			continue
		}
		if err := conn.Write(t.Context(), websocket.MessageText, []byte("hello")); err != nil {
			t.Error(err)
		}
		if _, got, err := conn.Read(t.Context()); err != nil || string(got) != "hello" {
			t.Errorf("%s: sent hello, Read() = %q, %v; want the same back", path, got, err)
		}
		conn.Close(websocket.StatusNormalClosure, "")
	}
}

func TestLoggedRecordsUpgrades(t *testing.T) {
	backend, err := startEcho()
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	proxy, err := wsproxy.New(wsproxy.WithBackends("http://" + backend.Addr))
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	lines := make(chan string, 1)
	logger := log.New(writerFunc(func(b []byte) { lines <- string(b) }), "", 0)
	service := httptest.NewServer(logged(logger, newMux(proxy)))
	defer service.Close()

	conn, _, err := websocket.Dial(t.Context(), service.URL+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close(websocket.StatusNormalClosure, "")
	const want = `GET "/ws": 101 after `
	if got := <-lines; !strings.HasPrefix(got, want) {
		t.Errorf("logged %q; want %q", got, want)
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) {
	f(b)
	return len(b), nil
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

// startService starts the service and its backend until the test ends.
func startService(t *testing.T) (url string) {
	t.Helper()
	backend, err := startEcho()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { backend.Close() })
	proxy, err := wsproxy.New(wsproxy.WithBackends("http://" + backend.Addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Close() })
	service := httptest.NewServer(logged(log.New(t.Output(), "", 0), newMux(proxy)))
	t.Cleanup(service.Close)
	return service.URL
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}
