package wsproxytest_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/wsproxytest"
)

// newUpgrade returns an upgrade of a client.
func newUpgrade(target string) *http.Request { return httptest.NewRequest("GET", target, nil) }

// inAndOutOfBubble runs a test twice: in real time and in a bubble.
func inAndOutOfBubble(t *testing.T, f func(t *testing.T)) {
	t.Run("real time", f)
	t.Run("bubble", func(t *testing.T) { synctest.Test(t, f) })
}

func TestSceneCountsTunnels(t *testing.T) {
	inAndOutOfBubble(t, func(t *testing.T) {
		scene := wsproxytest.NewScene(t, []wsproxytest.Backend{
			{ID: "a", NumTunnels: 3}, {ID: "b", NumTunnels: 1}, {ID: "c", URL: "ws://c.example:8080/prefix", NumTunnels: 1},
		})
		var clients []*wsproxytest.Client
		picked := make(map[string]int)
		for range 4 { // b and c get as many as a has
			c := scene.Connect(newUpgrade("/chat"))
			if c.Status != http.StatusSwitchingProtocols || c.Backend == nil || c.Err != nil {
				t.Fatalf("client got status %d, backend %v, error %v; want a tunnel", c.Status, c.Backend, c.Err)
			}
			picked[c.Backend.ID()]++
			clients = append(clients, c)
		}
		if picked["b"] != 2 || picked["c"] != 2 {
			t.Errorf("backends got %v; want 2 on b and c each", picked)
		}
		for _, id := range []string{"a", "b", "c"} {
			if n := scene.Backend(id).NumTunnels(); n != 3 {
				t.Errorf("backend %s has %d tunnels; want 3", id, n)
			}
		}
		if n := scene.Proxy.Stats().Tunnels; n != 4 {
			t.Errorf("the proxy has %d tunnels; want the 4 that are open", n)
		}
		for _, c := range clients {
			c.Close()
			if code := c.Wait(); code != 1000 {
				t.Errorf("client got Close %d; want 1000", code)
			}
			c.Close()
		}
		if b, c := scene.Backend("b").NumTunnels(), scene.Backend("c").NumTunnels(); b != 1 || c != 1 {
			t.Errorf("after Close b has %d tunnels, c %d; want 1 each", b, c)
		}
	})
}

func TestBehaviors(t *testing.T) {
	for _, tt := range []struct {
		name     string
		behavior wsproxytest.Behavior
		status   int
		isTunnel bool
		code     int // of Wait
		state    wsproxy.BackendState
		took     time.Duration
	}{
		{"zero", wsproxytest.Behavior{}, 101, true, 1000, wsproxy.BackendUp, 0},
		{"Echo", wsproxytest.Echo(), 101, true, 1000, wsproxy.BackendUp, 0},
		{"Refuse/403", wsproxytest.Refuse(403, nil), 403, false, 0, wsproxy.BackendUp, 0},
		{"Refuse/503", wsproxytest.Refuse(503, nil), 503, false, 0, wsproxy.BackendFailing, 0},
		{"Refuse/503 with Retry-After", wsproxytest.Refuse(503, http.Header{"Retry-After": {"7"}}), 503, false, 0, wsproxy.BackendUp, 0},
		{"Hang", wsproxytest.Hang(), 503, false, 0, wsproxy.BackendFailing, 10 * time.Second},
		{"Lose", wsproxytest.Lose(), 101, true, 1012, wsproxy.BackendFailing, 0},
		{"CloseWith", wsproxytest.CloseWith(4001), 101, true, 4001, wsproxy.BackendUp, 0},
		{"Down", wsproxytest.Down(), 503, false, 0, wsproxy.BackendFailing, 0},
		{"Serve", wsproxytest.Serve(http.NotFoundHandler()), 404, false, 0, wsproxy.BackendUp, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				scene := wsproxytest.NewScene(t, []wsproxytest.Backend{{ID: "a"}})
				scene.SetBehavior("a", tt.behavior)
				start := time.Now()
				c := scene.Connect(newUpgrade("/"))
				if c.Status != tt.status || (c.Backend != nil) != tt.isTunnel || c.Err != nil {
					t.Fatalf("client got status %d, backend %v, error %v; want status %d, tunnel %t", c.Status, c.Backend, c.Err, tt.status, tt.isTunnel)
				}
				if took := time.Since(start); took != tt.took {
					t.Errorf("client got its response after %v; want %v", took, tt.took)
				}
				if n := scene.Backend("a").NumTunnels(); !tt.isTunnel && n != 0 {
					t.Errorf("the backend has %d tunnels after a refusal", n)
				}
				if tt.code == 1000 {
					c.Close()
				}
				if code := c.Wait(); code != tt.code {
					t.Errorf("client got Close %d; want %d", code, tt.code)
				}
				if got := scene.Backend("a").State(); got != tt.state {
					t.Errorf("the backend is %v; want %v", got, tt.state)
				}
				if n := scene.Backend("a").NumTunnels(); n != 0 {
					t.Errorf("the backend has %d tunnels in the end", n)
				}
			})
		})
	}
}

func TestDownEndsTunnelsAndHangingUpgrades(t *testing.T) {
	inAndOutOfBubble(t, func(t *testing.T) {
		scene := wsproxytest.NewScene(t, []wsproxytest.Backend{{ID: "a"}})
		open := scene.Connect(newUpgrade("/"))
		asked := make(chan bool, 1)
		scene.SetBehavior("a", wsproxytest.Serve(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			asked <- true
			<-r.Context().Done()
		})))
		waiting := make(chan *wsproxytest.Client)
		go func() { waiting <- scene.Connect(newUpgrade("/")) }()
		<-asked
		scene.SetBehavior("a", wsproxytest.Down())
		scene.SetBehavior("a", wsproxytest.Down())
		if code := open.Wait(); code != 1012 {
			t.Errorf("the client of a tunnel got Close %d; want 1012", code)
		}
		if c := <-waiting; c.Status != http.StatusBadGateway && c.Status != http.StatusServiceUnavailable {
			t.Errorf("the client of an upgrade got status %d; want 502 or 503", c.Status)
		}
		scene.SetBehavior("a", wsproxytest.Echo())
		if c := scene.Connect(newUpgrade("/")); c.Status != 101 {
			t.Errorf("after the restart a client got status %d; want 101", c.Status)
		}
	})
}

func TestBalancerSeesTheRequest(t *testing.T) {
	type user struct{}
	got := make(chan *http.Request, 1)
	scene := wsproxytest.NewScene(t, []wsproxytest.Backend{{ID: "a"}},
		wsproxy.WithBalancer(wsproxy.BalancerFunc(func(r *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			got <- r
			return candidates[0], nil
		})))
	for _, addr := range []string{"203.0.113.7:5000", "[2001:db8::7]:1", "@", ""} {
		r := newUpgrade("/room%2Fblue?user=42&%zz")
		r.Host, r.RemoteAddr = "chat.example", addr
		r.Header.Set("Cookie", "session=x")
		r = r.WithContext(context.WithValue(t.Context(), user{}, "ann"))
		scene.Connect(r).Close()
		seen := <-got
		if addr == "" {
			addr = seen.RemoteAddr
			if host, _, err := net.SplitHostPort(addr); err != nil || host != "192.0.2.1" {
				t.Errorf("RemoteAddr is %q; want 192.0.2.1 with a port", addr)
			}
		}
		if seen.RemoteAddr != addr || seen.Host != "chat.example" || seen.RequestURI != "/room%2Fblue?user=42&%zz" ||
			seen.Header.Get("Cookie") != "session=x" || seen.Context().Value(user{}) != "ann" {
			t.Errorf("balancer got %q of %q for %q with cookie %q and user %v",
				seen.RequestURI, seen.RemoteAddr, seen.Host, seen.Header.Get("Cookie"), seen.Context().Value(user{}))
		}
		if r.Header.Get("Upgrade") != "" {
			t.Error("Connect has modified the header of its request")
		}
	}
}

func TestClientsOfOneAddressShareItsLimit(t *testing.T) {
	scene := wsproxytest.NewScene(t, []wsproxytest.Backend{{ID: "a"}}, wsproxy.WithLimits(wsproxy.Limits{PerClient: 1}))
	for _, tt := range []struct {
		addr string
		want int
	}{{"203.0.113.7:1", 101}, {"203.0.113.7:2", 429}, {"203.0.113.8:1", 101}} {
		r := newUpgrade("/")
		r.RemoteAddr = tt.addr
		if c := scene.Connect(r); c.Status != tt.want {
			t.Errorf("client %s got status %d; want %d", tt.addr, c.Status, tt.want)
		}
	}
}

func TestClientRefusedByCloseFrameHasNoBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scene := wsproxytest.NewScene(t, []wsproxytest.Backend{{ID: "a"}, {ID: "b"}},
			wsproxy.WithRefusal(wsproxy.Refusal{ByClose: true}))
		scene.SetBehavior("a", wsproxytest.Down())
		scene.SetBehavior("b", wsproxytest.Hang())
		c := scene.Connect(newUpgrade("/"))
		if c.Status != 101 || c.Backend != nil {
			t.Errorf("client got status %d of backend %v; want 101 of none", c.Status, c.Backend)
		}
		if code := c.Wait(); code != 1013 {
			t.Errorf("client got Close %d; want 1013", code)
		}
	})
}

func TestRetriedClientHasTheBackendOfItsTunnel(t *testing.T) {
	scene := wsproxytest.NewScene(t, []wsproxytest.Backend{{ID: "a"}, {ID: "b"}, {ID: "c", NumTunnels: 9}})
	scene.SetBehavior("a", wsproxytest.Down())
	scene.SetBehavior("b", wsproxytest.Refuse(502, nil))
	if c := scene.Connect(newUpgrade("/")); c.Status != 101 || c.Backend != scene.Backend("c") {
		t.Errorf("client got status %d of backend %v; want 101 of c", c.Status, c.Backend)
	}
}

func TestSceneHonorsFlagsMaxTunnelsPriorityAndState(t *testing.T) {
	unreachable := []wsproxy.Flag{wsproxy.FlagUnreachable}
	for _, tt := range []struct {
		name     string
		backends []wsproxytest.Backend
		want     string // ID, or the status
	}{
		{"flag", []wsproxytest.Backend{{ID: "a", Flags: unreachable}, {ID: "b", NumTunnels: 99}}, "b"},
		{"full", []wsproxytest.Backend{{ID: "a", NumTunnels: 2, MaxTunnels: 2}, {ID: "b", NumTunnels: 99}}, "b"},
		{"all full", []wsproxytest.Backend{{ID: "a", NumTunnels: 2, MaxTunnels: 2}}, "503"},
		{"priority", []wsproxytest.Backend{{ID: "a", Priority: 1}, {ID: "b", NumTunnels: 99}}, "b"},
		{"draining", []wsproxytest.Backend{{ID: "a", State: wsproxy.BackendDraining}, {ID: "b", NumTunnels: 99}}, "b"},
		{"removed", []wsproxytest.Backend{{ID: "a", State: wsproxy.BackendRemoved}, {ID: "b", NumTunnels: 99}}, "b"},
		{"refusals", []wsproxytest.Backend{{ID: "a", Refusals: 1}, {ID: "b"}}, "b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := wsproxytest.NewScene(t, tt.backends).Connect(newUpgrade("/"))
			got := fmt.Sprint(c.Status)
			if c.Backend != nil {
				got = c.Backend.ID()
			}
			if got != tt.want {
				t.Errorf("client got %s; want %s", got, tt.want)
			}
		})
	}
}

func TestFlaggedBackendIsTriedWhenItsTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scene := wsproxytest.NewScene(t, []wsproxytest.Backend{
			{ID: "a", Flags: []wsproxy.Flag{wsproxy.FlagUnreachable}}, {ID: "b", NumTunnels: 99},
		})
		if c := scene.Connect(newUpgrade("/")); c.Backend.ID() != "b" {
			t.Errorf("at once a client got %v; want b", c.Backend)
		}
		time.Sleep(time.Second)
		if c := scene.Connect(newUpgrade("/")); c.Backend.ID() != "a" || len(c.Backend.Health().Flags) > 0 {
			t.Errorf("after 1s a client got %v with flags %v; want a, without one", c.Backend, c.Backend.Health().Flags)
		}
	})
}

func TestRefusalsOfASceneDecay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scene := wsproxytest.NewScene(t, []wsproxytest.Backend{{ID: "a", Refusals: 8}, {ID: "b", NumTunnels: 1}})
		for _, want := range []int{1 + 8, 1 + 4, 1 + 2, 1 + 1} {
			if got := scene.Backend("a").Load(); got != want {
				t.Errorf("load %d; want %d: as much as b, and the refusals", got, want)
			}
			time.Sleep(time.Second)
		}
	})
}

func TestBackendThatComesLaterIsConnected(t *testing.T) {
	scene := wsproxytest.NewScene(t, []wsproxytest.Backend{{ID: "a"}, {ID: "b", State: wsproxy.BackendRemoved}})
	if err := scene.Proxy.SetBackends(wsproxy.BackendConfig{ID: "b", URL: "http://b"}); err != nil {
		t.Fatal(err)
	}
	c := scene.Connect(newUpgrade("/"))
	if c.Status != 101 || c.Backend != scene.Proxy.Backends()[0] || c.Backend != scene.Backend("b") {
		t.Errorf("client got status %d of backend %v; want 101 of the proxy's b", c.Status, c.Backend)
	}
	if scene.Backend("a").State() != wsproxy.BackendRemoved {
		t.Errorf("backend a is %v; want removed", scene.Backend("a").State())
	}
}

func TestClientLeavesWhenItsContextEnds(t *testing.T) {
	inAndOutOfBubble(t, func(t *testing.T) {
		scene := wsproxytest.NewScene(t, []wsproxytest.Backend{{ID: "a", NumTunnels: 1, MaxTunnels: 1}},
			wsproxy.WithLimits(wsproxy.Limits{Queue: 1}))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		c := scene.Connect(newUpgrade("/").WithContext(ctx))
		if c.Status != 0 || !errors.Is(c.Err, context.DeadlineExceeded) || c.Wait() != 0 {
			t.Errorf("client got status %d, error %v, code %d; want the end of its context", c.Status, c.Err, c.Wait())
		}
		c.Close()
		if n := scene.Proxy.Stats().Waiting; n != 0 {
			t.Errorf("%d upgrades wait", n)
		}
	})
}

// Leaktest and the bubble find what is left.
func TestSceneEndsWithItsTest(t *testing.T) {
	for _, isDetached := range []bool{false, true} {
		t.Run(fmt.Sprintf("detached %t", isDetached), func(t *testing.T) {
			inAndOutOfBubble(t, func(t *testing.T) {
				scene := wsproxytest.NewScene(t, []wsproxytest.Backend{{ID: "a"}}, wsproxy.WithDetached(isDetached))
				for range 10 {
					scene.Connect(newUpgrade("/"))
				}
				asked := make(chan bool)
				scene.SetBehavior("a", wsproxytest.Serve(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					asked <- true
					<-r.Context().Done()
				})))
				for range 10 {
					go scene.Connect(newUpgrade("/"))
					<-asked
				}
			})
		})
	}
}

// The handler returns when its connection is reset, and leaves it open.
func TestSceneEndsThoughAHandlerClosesNothing(t *testing.T) {
	inAndOutOfBubble(t, func(t *testing.T) {
		scene := wsproxytest.NewScene(t, []wsproxytest.Backend{{ID: "a"}})
		hijacked := make(chan error, 1)
		scene.SetBehavior("a", wsproxytest.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			hijacked <- err
			conn.Read(make([]byte, 1))
		})))
		go scene.Connect(newUpgrade("/"))
		if err := <-hijacked; err != nil {
			t.Error(err)
		}
	})
}

func TestClientsThatComeAfterTheEndGetAnError(t *testing.T) {
	var scene *wsproxytest.Scene
	t.Run("scene", func(t *testing.T) { scene = wsproxytest.NewScene(t, []wsproxytest.Backend{{ID: "a"}}) })
	c := scene.Connect(newUpgrade("/"))
	if c.Status != 0 || c.Err == nil || c.Wait() != 0 {
		t.Errorf("client got status %d, error %v, code %d; want an error", c.Status, c.Err, c.Wait())
	}
	c.Close()
	if _, err := scene.DialContext(t.Context(), "tcp", "x"); err == nil {
		t.Error("DialContext returned no error")
	}
	scene.SetBehavior("a", wsproxytest.Echo())
}

func TestSceneHasRoomForOtherClients(t *testing.T) {
	scene := wsproxytest.NewScene(t, []wsproxytest.Backend{{ID: "a"}})
	transport := &http.Transport{DialContext: scene.DialContext}
	ctx := t.Context()
	c, _, err := websocket.Dial(ctx, "ws://proxy.example/chat", &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 125, 126, 1000, 70_000} {
		c.SetReadLimit(-1)
		want := strings.Repeat("x", n)
		if err := c.Write(ctx, websocket.MessageText, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(ctx); err != nil || string(got) != want {
			t.Errorf("message of %d bytes came back with %d, %v", n, len(got), err)
		}
	}
	pinged := make(chan error, 1)
	go func() { pinged <- c.Ping(ctx) }()
	c.CloseRead(ctx)
	if err := <-pinged; err != nil {
		t.Errorf("ping: %v", err)
	}
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("close: %v", err)
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := scene.DialContext(done, "tcp", "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("dial after the context has ended: %v", err)
	}
}

func TestSceneCanBeUsedConcurrently(t *testing.T) {
	scene := wsproxytest.NewScene(t, []wsproxytest.Backend{{ID: "a"}, {ID: "b"}})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 20 {
				scene.SetBehavior("a", []wsproxytest.Behavior{wsproxytest.Down(), wsproxytest.Lose(), wsproxytest.Echo()}[i%3])
				c := scene.Connect(newUpgrade("/"))
				if c.Err != nil {
					t.Error(c.Err)
				}
				c.Close()
			}
		})
	}
	all.Wait()
	for _, id := range []string{"a", "b"} {
		if n := scene.Backend(id).NumTunnels(); n != 0 {
			t.Errorf("backend %s has %d tunnels in the end", id, n)
		}
	}
}

// A failingTB records why a test ends.
type failingTB struct {
	testing.TB
	fatal string
}

func (t *failingTB) Helper() {}
func (t *failingTB) Fatalf(format string, args ...any) {
	t.fatal = fmt.Sprintf(format, args...)
	panic(t)
}

func TestMistakesInScenesAreTold(t *testing.T) {
	for name, tt := range map[string]struct {
		backends []wsproxytest.Backend
		want     string
	}{
		"the same ID":      {[]wsproxytest.Backend{{ID: "a"}, {ID: "a"}}, "same ID"},
		"the same address": {[]wsproxytest.Backend{{ID: "a"}, {ID: "b", URL: "ws://a:80/x"}}, syscall.EADDRINUSE.Error()},
		"TLS":              {[]wsproxytest.Backend{{URL: "https://a"}}, "http and ws only"},
		"state":            {[]wsproxytest.Backend{{ID: "a", State: wsproxy.BackendFailing}}, "Flags"},
	} {
		t.Run(name, func(t *testing.T) {
			tb := &failingTB{TB: t}
			func() {
				defer func() { recover() }()
				wsproxytest.NewScene(tb, tt.backends)
			}()
			if !strings.HasPrefix(tb.fatal, "wsproxytest: ") || !strings.Contains(tb.fatal, tt.want) {
				t.Errorf("NewScene ended the test with %q; want %q", tb.fatal, tt.want)
			}
		})
	}
	scene := wsproxytest.NewScene(t, []wsproxytest.Backend{{ID: "a"}})
	for name, f := range map[string]func(){
		"Backend":     func() { scene.Backend("b") },
		"SetBehavior": func() { scene.SetBehavior("b", wsproxytest.Down()) },
		"Refuse":      func() { wsproxytest.Refuse(101, nil) },
		"CloseWith":   func() { wsproxytest.CloseWith(0) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s did not panic", name)
				}
			}()
			f()
		}()
	}
}
