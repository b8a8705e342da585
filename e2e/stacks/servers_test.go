package stacks_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/e2e/internal/e2etest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
)

// A server is one of a stack, on four listeners.
type server struct {
	name    string
	urls    map[string]string // by transport
	reports *mailbox[report]
}

// transports are those between the proxy and a server.
var transports = []string{"ws", "wss", "wss, certificate", "unix"}

// startServers starts one of each stack. They run until the test ends. The directory has the
// files for programs.
func startServers(t *testing.T, dir string) []*server {
	servers := []*server{
		startProgramServer(t, "ws", e2etest.StartNode(t, "ws-server.js", dir)),
		startProgramServer(t, "websockets", e2etest.Start(t, "python3", "websockets_server.py", dir)),
	}
	for _, s := range goStacks {
		servers = append(servers, startGoServer(t, s, dir))
	}
	return servers
}

// startProgramServer returns the server that a program is.
func startProgramServer(t *testing.T, name string, p *e2etest.Program) *server {
	t.Helper()
	s := &server{name: name, reports: newMailbox[report]()}
	line := p.Line(t)
	if err := json.Unmarshal([]byte(line), &s.urls); err != nil {
		t.Fatalf("%s: %v in %q", name, err, line)
	}
	go s.readReports(p) // ends with the program
	return s
}

func (s *server) readReports(p *e2etest.Program) {
	for line := range p.Lines {
		var r report
		if json.Unmarshal([]byte(line), &r) == nil { // else it is missed
			s.reports.put(r.ID, r)
		}
	}
}

func startGoServer(t *testing.T, stack goStack, dir string) *server {
	t.Helper()
	s := &server{name: stack.name, reports: newMailbox[report](), urls: make(map[string]string)}
	h := stack.handler(func(r report) { s.reports.put(r.ID, r) })
	for _, transport := range transports {
		s.urls[transport] = serveGo(t, h, transport, filepath.Join(dir, strings.ReplaceAll(stack.name, "/", "-")+".sock"))
	}
	return s
}

// serveGo serves h until the test ends, and returns the URL.
func serveGo(t *testing.T, h http.Handler, transport, socket string) (url string) {
	t.Helper()
	network, addr, scheme := "tcp", "127.0.0.1:0", "https://"
	config := &tls.Config{Certificates: []tls.Certificate{authority.server}}
	switch transport {
	case "ws":
		scheme, config = "http://", nil
	case "wss, certificate":
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, authority.pool
	case "unix":
		network, addr, scheme, config = "unix", socket, "unix://", nil
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	url = scheme + ln.Addr().String()
	if config != nil {
		ln = tls.NewListener(ln, config)
	}
	srv := &http.Server{Handler: h, ErrorLog: proxytest.DiscardLog}
	go srv.Serve(ln) // ends with srv
	t.Cleanup(func() { srv.Close() })
	return url
}

// A mailbox has one message for each number.
type mailbox[T any] struct {
	mu    sync.Mutex
	boxes map[int]chan T // guarded by mu
}

func newMailbox[T any]() *mailbox[T] { return &mailbox[T]{boxes: make(map[int]chan T)} }

func (m *mailbox[T]) box(id int) chan T {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.boxes[id] == nil {
		m.boxes[id] = make(chan T, 1)
	}
	return m.boxes[id]
}

func (m *mailbox[T]) put(id int, v T) {
	select {
	case m.box(id) <- v:
	default: // a second one; the test sees only the first
	}
}

// take waits for the message for a number.
func (m *mailbox[T]) take(id int) (v T, err error) {
	select {
	case v := <-m.box(id):
		return v, nil
	case <-time.After(patience):
		return v, fmt.Errorf("%d has no %T after %v", id, v, patience)
	}
}
