package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/wsproxyadmin"
	"github.com/wsproxy/wsproxy/wsproxytest"
)

// This file is what the pages of the tests belong to: proxies whose backends, and most clients,
// are in memory.

// A siteConfig says what a site has. The tests send it as JSON.
type siteConfig struct {
	Backends   []string // their IDs, or URLs
	MaxTunnels int      // of each backend
	ReadOnly   bool
	Checks     bool // health checks
	NoQueue    bool
	Redact     bool
}

// A site is a proxy at /ws, and its admin page at /admin/.
type site struct {
	scene    *wsproxytest.Scene
	admin    wsproxyadmin.Options
	isDenied atomic.Bool // nobody is let in

	mu      sync.Mutex
	server  *http.Server
	addr    string
	clients []*wsproxytest.Client // that do not stay
	running sync.WaitGroup
}

// serveSites serves requests of the tests, until the test ends, and returns its URL:
//
//	POST /sites            a siteConfig; the response has the number of a new site, and its URL
//	POST /sites/N/ACTION   see the methods of site
func serveSites(t *testing.T) string {
	var mu sync.Mutex
	var sites []*site
	mux := http.NewServeMux()
	mux.HandleFunc("POST /sites", func(w http.ResponseWriter, r *http.Request) {
		var c siteConfig
		if err := json.NewDecoder(r.Body).Decode(&c); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s := newSite(t, c)
		mu.Lock()
		defer mu.Unlock()
		sites = append(sites, s)
		json.NewEncoder(w).Encode(map[string]any{"number": len(sites) - 1, "url": "http://" + s.addr})
	})
	mux.HandleFunc("POST /sites/{number}/{action}", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		n, err := strconv.Atoi(r.PathValue("number"))
		var s *site
		if err == nil && n < len(sites) {
			s = sites[n]
		}
		mu.Unlock()
		if s == nil {
			http.NotFound(w, r)
			return
		}
		result, err := s.act(r.PathValue("action"), r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		json.NewEncoder(w).Encode(result)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

func newSite(t *testing.T, c siteConfig) *site {
	s := new(site)
	var backends []wsproxytest.Backend
	for _, id := range c.Backends {
		url := id // the default of an ID
		if !strings.Contains(id, "://") {
			url = "http://" + id + ".internal:8080"
		}
		backends = append(backends, wsproxytest.Backend{ID: id, URL: url, MaxTunnels: c.MaxTunnels})
	}
	queue := 500
	if c.NoQueue {
		queue = 0
	}
	opts := []wsproxy.Option{
		wsproxy.WithDetached(true),
		wsproxy.WithTrustedProxies("192.0.2.0/24"),
		wsproxy.WithAdmit(admit),
		wsproxy.WithLimits(wsproxy.Limits{Tunnels: 20_000, Queue: queue}),
		wsproxy.WithOriginPatterns("chat.example", "127.0.0.1:*"),
	}
	if c.Checks {
		opts = append(opts, wsproxy.WithHealthCheck(wsproxy.HealthCheck{Interval: time.Second}))
	}
	s.scene = wsproxytest.NewScene(t, backends, opts...)
	s.admin = wsproxyadmin.Options{
		Prefix: "/admin/", Instance: "edge-fra-2", ReadOnly: c.ReadOnly, Redact: c.Redact, Logger: slog.New(slog.DiscardHandler),
		Authorize: func(*http.Request) (string, error) {
			if s.isDenied.Load() {
				return "", errors.New("ann is signed out")
			}
			return "ann", nil
		},
	}
	if err := s.start("127.0.0.1:0"); err != nil {
		t.Error(err)
	}
	t.Cleanup(func() {
		s.stop()
		s.scene.Proxy.Close()
		s.running.Wait()
	})
	return s
}

// admit lets in each user but mallory.
func admit(r *http.Request) (any, error) {
	switch user := r.Header.Get("X-User"); user {
	case "":
		return nil, nil
	case "mallory":
		return nil, &wsproxy.StatusError{Status: http.StatusForbidden, Err: errors.New("the account is locked")}
	default:
		return user, nil
	}
}

// start begins to serve the site, as a program that starts does.
func (s *site) start(addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/ws", s.scene.Proxy)
	mux.Handle("/admin/", wsproxyadmin.Handler(s.scene.Proxy, s.admin))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.server, s.addr = &http.Server{Handler: wsproxy.Front(mux)}, ln.Addr().String()
	s.running.Go(func() { s.server.Serve(ln) }) // until stop
	return nil
}

func (s *site) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.server.Close()
}

// act does what a test asks for.
func (s *site) act(action string, r *http.Request) (any, error) {
	var a struct {
		Count     int
		Path      string
		Client    string // an address; each further client has the next one
		User      string
		Origin    string
		RequestID string
		Backend   string
		Behavior  string
		Stays     bool
		On        bool
	}
	if err := json.NewDecoder(r.Body).Decode(&a); err != nil {
		return nil, err
	}
	switch action {
	case "connect": // Count clients; the result has the status of each response
		var statuses []int
		for i := range max(a.Count, 1) {
			req := httptest.NewRequest("GET", "/", nil)
			req.URL.Path, req.Host, req.RemoteAddr = a.Path, "chat.example", "192.0.2.9:4000"
			header(req, "X-Forwarded-For", nth(a.Client, i))
			header(req, "X-User", a.User)
			header(req, "Origin", a.Origin)
			header(req, "X-Request-Id", a.RequestID)
			c := s.scene.Connect(req)
			statuses = append(statuses, c.Status)
			if !a.Stays {
				s.mu.Lock()
				s.clients = append(s.clients, c)
				s.mu.Unlock()
			}
		}
		return statuses, nil
	case "leave": // the first Count clients of those that do not stay
		s.mu.Lock()
		n := min(a.Count, len(s.clients))
		leaving := slices.Clone(s.clients[:n])
		s.clients = s.clients[n:]
		s.mu.Unlock()
		for _, c := range leaving {
			c.Close()
		}
		return n, nil
	case "talk": // Count clients that send messages without end
		for range a.Count {
			if err := s.talk(r, a.Client); err != nil {
				return nil, err
			}
		}
		return a.Count, nil
	case "behave":
		s.scene.SetBehavior(a.Backend, map[string]wsproxytest.Behavior{
			"down": wsproxytest.Down(), "echo": wsproxytest.Echo(), "refuse": wsproxytest.Refuse(http.StatusNotFound, nil),
		}[a.Behavior])
		return a.Behavior, nil
	case "deny":
		s.isDenied.Store(a.On)
		return a.On, nil
	case "stop":
		s.stop()
		return true, nil
	case "start":
		return true, s.start(s.addr)
	}
	return nil, fmt.Errorf("no action %q", action)
}

// talk opens a tunnel over which messages go until it ends.
func (s *site) talk(r *http.Request, client string) error {
	transport := &http.Transport{DialContext: s.scene.DialContext}
	c, _, err := websocket.Dial(r.Context(), "ws://chat.example/rooms/general", &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport},
		HTTPHeader: http.Header{"X-Forwarded-For": {client}, "X-User": {"bot"}},
	})
	if err != nil {
		return err
	}
	s.running.Go(func() { // until the tunnel ends: with the proxy, at the latest
		defer c.CloseNow()
		for range time.Tick(50 * time.Millisecond) {
			if c.Write(context.Background(), websocket.MessageText, []byte(strings.Repeat("hello ", 40))) != nil {
				return
			}
			if _, _, err := c.Read(context.Background()); err != nil {
				return
			}
		}
	})
	return nil
}

func header(r *http.Request, name, value string) {
	if value != "" {
		r.Header.Set(name, value)
	}
}

// nth returns the nth address after addr.
func nth(addr string, n int) string {
	ip := net.ParseIP(addr)
	if ip == nil {
		return addr
	}
	for i := len(ip) - 1; i >= 0 && n > 0; i-- {
		n += int(ip[i])
		ip[i] = byte(n)
		n >>= 8
	}
	return ip.String()
}
