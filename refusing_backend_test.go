package wsproxy_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/backendtest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A backend that refuses is quick and has no tunnels. These tests are about how many
// clients it gets all the same.

// closing returns a 101 that is followed by a Close frame with code.
func closing(code int) string {
	return proxytest.Switching + string([]byte{0x88, 2, byte(code >> 8), byte(code)})
}

var refusals = []struct{ name, answer string }{
	{"404", proxytest.Refusing(404, "not here")},
	{"200", proxytest.Refusing(200, "a page")},
	{"500", proxytest.Refusing(500, "oops")},
	{"503", proxytest.Refusing(503, "busy")},
	{"101 and Close 1011", closing(1011)},
	{"101 and Close 1013", closing(1013)},
	{"101 and a bare end", proxytest.Switching + "{end}"},
}

// A crowd is clients that come one after the other to a site in memory.
type crowd struct {
	t       testing.TB
	site    *proxytest.Site
	running sync.WaitGroup

	mu      sync.Mutex
	refused int // got no 101, or were closed at once
	open    []*wstest.Peer
}

// come opens n tunnels, one after each interval. Clients stay, unless they are refused.
func (c *crowd) come(n int, interval time.Duration) {
	for range n {
		c.running.Go(c.visit)
		time.Sleep(interval)
		synctest.Wait()
	}
}

func (c *crowd) visit() {
	client := c.site.Dial(c.t)
	client.WriteRequest(proxytest.UpgradeTo("/chat"))
	resp := client.ReadResponse()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		client.Conn().SetReadDeadline(time.Now().Add(1500 * time.Millisecond))
		if _, err := client.Peek(); isTimeout(err) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.open = append(c.open, client)
			return
		}
		if f, err := client.ReadFrame(); err != nil || f.Opcode != wstest.OpClose {
			c.t.Errorf("client read %v, %v; want a Close frame", f, err)
		} else {
			client.WriteFrames(f)
			io.Copy(io.Discard, client)
		}
	}
	client.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused++
}

// numRefused returns how many clients were refused until now.
func (c *crowd) numRefused() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refused
}

func isTimeout(err error) bool {
	t, ok := err.(interface{ Timeout() bool })
	return ok && t.Timeout()
}

// leave ends the tunnels.
func (c *crowd) leave() {
	c.running.Wait()
	for _, client := range c.open {
		client.Close()
	}
}

// startRefusing serves two backends: a behaves like refusing, and b carries tunnels already.
func startRefusing(t *testing.T, refusing proxytest.FakeBackend, carried int) (*wsproxy.Proxy, *proxytest.Network, *crowd) {
	t.Helper()
	network := proxytest.NewNetwork()
	network.Set("a", refusing)
	network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
	p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a", "http://b"), wsproxy.WithDialer(network.Dial))
	backendtest.Set(p.Backends()[1], backendtest.State{NumTunnels: carried})
	return p, network, &crowd{t: t, site: proxytest.ServeInMemory(t, p)}
}

func TestRefusingBackendGetsItsEvenShareAtMost(t *testing.T) {
	for _, r := range refusals {
		for _, carried := range []int{0, 1000} {
			t.Run(fmt.Sprintf("%s beside %d", r.name, carried), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					_, _, c := startRefusing(t, proxytest.FakeBackend{Answer: r.answer}, carried)
					const n = 400
					c.come(n, 2*time.Millisecond)
					c.leave()
					if got := c.numRefused(); got > n/2+5 {
						t.Errorf("%d of %d clients were refused", got, n)
					}
				})
			})
		}
	}
}

func TestRefusingBackendGetsItsEvenShareOnRealSockets(t *testing.T) {
	proxytest.ForEachWay(t, func(t *testing.T, way wsproxy.Option) {
		for _, r := range refusals {
			t.Run(r.name, func(t *testing.T) {
				_, s := proxytest.Start(t, way, wsproxy.WithBackends(wstest.StartRaw(t, r.answer).URL(), wstest.StartEcho(t)))
				refused := 0
				for range 40 {
					client := wstest.Dial(t, s.URL)
					client.WriteRequest(proxytest.UpgradeTo("/chat"))
					if resp := client.ReadResponse(); resp.StatusCode == http.StatusSwitchingProtocols {
						client.WriteFrames(wstest.Text("hello"))
						f, err := client.ReadFrame()
						if err == nil && f.Opcode == wstest.OpText {
							continue
						}
					}
					client.Close()
					refused++
				}
				if refused > 25 {
					t.Errorf("%d of 40 clients were refused", refused)
				}
			})
		}
	})
}

func TestRefusingBackendGetsSixtyClientsAMinuteAtMost(t *testing.T) {
	for _, rate := range []float64{0.1, 50, 200} {
		for _, carried := range []int{0, 20, 1000, 5000} {
			t.Run(fmt.Sprintf("%v a second beside %d", rate, carried), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					_, _, c := startRefusing(t, proxytest.FakeBackend{Answer: proxytest.Refusing(404, "not here")}, carried)
					interval := time.Duration(float64(time.Second) / rate)
					span := max(10*time.Second, 200*interval)
					n := int(span / interval)
					c.come(n, interval)
					c.leave()
					bound := min(n/2+5, int(span.Minutes()*60)+5)
					if got := c.numRefused(); got > bound {
						t.Errorf("%d of %d clients were refused in %v; want %d at most", got, n, span, bound)
					}
				})
			})
		}
	}
}

func TestSlowlyRefusingBackendGetsNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, c := startRefusing(t, proxytest.FakeBackend{Answer: proxytest.Refusing(404, "not here"), Delay: 500 * time.Millisecond}, 0)
		c.come(40, 5*time.Millisecond) // before the first response
		time.Sleep(time.Second)
		before := c.numRefused()
		c.come(2000, 5*time.Millisecond)
		c.leave()
		if got := c.numRefused() - before; got > 15 {
			t.Errorf("after the first responses %d clients were refused in 10 s; want 15 at most", got)
		}
	})
}

func TestBackendThatRecoversGetsItsShareAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, network, c := startRefusing(t, proxytest.FakeBackend{Answer: proxytest.Refusing(500, "oops")}, 0)
		c.come(100, 50*time.Millisecond)
		a, b := p.Backends()[0], p.Backends()[1]
		if a.Load() < b.NumTunnels() || a.NumTunnels() != 0 {
			t.Errorf("a has load %d and %d tunnels, b has %d tunnels; want at least as much load, and no tunnel", a.Load(), a.NumTunnels(), b.NumTunnels())
		}
		network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
		time.Sleep(5 * time.Second)
		c.come(120, 50*time.Millisecond)
		if a.Load() != a.NumTunnels() || a.NumTunnels() < 90 {
			t.Errorf("after its recovery a has %d tunnels and load %d, b has %d tunnels; want the same, about 100", a.NumTunnels(), a.Load(), b.NumTunnels())
		}
		c.leave()
	})
}

func TestRefusingBackendOfAnyWeightGetsNoMore(t *testing.T) {
	for _, weights := range [][2]int{{10, 1}, {100, 1}, {1, 100}} {
		synctest.Test(t, func(t *testing.T) {
			p, _, c := startRefusing(t, proxytest.FakeBackend{Answer: proxytest.Refusing(404, "not here")}, 0)
			setWeights(t, p, weights)
			c.come(1000, 10*time.Millisecond)
			c.leave()
			if got := c.numRefused(); got > 15 {
				t.Errorf("weights %v: %d of 1000 clients were refused in 10 s; want 15 at most", weights, got)
			}
		})
	}
}

// At a low rate its refusals are forgotten when the next client comes.
func TestRefusingBackendGetsTheShareOfItsWeight(t *testing.T) {
	for _, weights := range [][2]int{{1, 100}, {1, 9}, {1, 1}, {9, 1}} {
		synctest.Test(t, func(t *testing.T) {
			p, _, c := startRefusing(t, proxytest.FakeBackend{Answer: proxytest.Refusing(404, "not here")}, 0)
			setWeights(t, p, weights)
			const n = 400
			c.come(n, 5*time.Second)
			c.leave()
			share := float64(weights[0]) / float64(weights[0]+weights[1])
			if got := c.numRefused(); float64(got) > share*n+5 {
				t.Errorf("weights %v: %d of %d clients were refused; want a share of %.2f at most", weights, got, n, share)
			}
		})
	}
}

// A backend that is full may refuse by a status of its own.
func TestRefusingBackendThatIsFullestGetsNoClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, c := startRefusing(t, proxytest.FakeBackend{Answer: proxytest.Refusing(429, "full")}, 10)
		backendtest.Set(p.Backends()[0], backendtest.State{NumTunnels: 1000, Refusals: 1})
		c.come(50, 2*time.Second)
		c.leave()
		if got := c.numRefused(); got != 0 {
			t.Errorf("%d of 50 clients were refused by the backend with 1000 tunnels; want none", got)
		}
	})
}

func setWeights(t *testing.T, p *wsproxy.Proxy, weights [2]int) {
	t.Helper()
	err := p.SetBackends(wsproxy.BackendConfig{URL: "http://a", Weight: weights[0]}, wsproxy.BackendConfig{URL: "http://b", Weight: weights[1]})
	if err != nil {
		t.Fatal(err)
	}
}

// One client with a wrong path must not take a backend from all others.
func TestOneRefusalTakesNoBackendOutOfUse(t *testing.T) {
	for _, weights := range [][2]int{{1, 1}, {1, 2}, {1, 10}, {10, 1}} {
		synctest.Test(t, func(t *testing.T) {
			p, network, c := startRefusing(t, proxytest.FakeBackend{Answer: proxytest.Refusing(404, "not here")}, 0)
			setWeights(t, p, weights)
			for c.numRefused() == 0 {
				c.come(1, time.Second)
			}
			network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
			time.Sleep(10 * time.Second)
			c.come(220, 300*time.Millisecond)
			a, b := p.Backends()[0], p.Backends()[1]
			share := float64(a.NumTunnels()) / float64(a.NumTunnels()+b.NumTunnels())
			if want := float64(weights[0]) / float64(weights[0]+weights[1]); share < 0.9*want || share > 1.1*want {
				t.Errorf("weights %v: a has %d tunnels, b has %d; want the share of a to be %.2f", weights, a.NumTunnels(), b.NumTunnels(), want)
			}
			c.leave()
		})
	}
}

// comeAtRandom opens n tunnels. A share of the clients is refused if it reaches a.
func (c *crowd) comeAtRandom(network *proxytest.Network, share float64, n int) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range n {
		a := proxytest.FakeBackend{Answer: proxytest.Switching}
		if rng.Float64() < share {
			a.Answer = proxytest.Refusing(401, "who are you?")
		}
		network.Set("a", a)
		c.come(1, 20*time.Millisecond)
	}
}

// Every service refuses some of its clients.
func TestBackendThatRefusesSomeClientsKeepsItsShare(t *testing.T) {
	for _, share := range []float64{0.02, 0.1, 0.3} { // of those that reach a
		t.Run(fmt.Sprint(share), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, network, c := startRefusing(t, proxytest.FakeBackend{Answer: proxytest.Switching}, 0)
				c.comeAtRandom(network, share, 1000)
				a, b := p.Backends()[0].NumTunnels(), p.Backends()[1].NumTunnels()
				if a < b*9/10 {
					t.Errorf("a has %d tunnels, b has %d; want about as many", a, b)
				}
				c.leave()
			})
		})
	}
}

func TestEmptyBackendFillsUpThoughItRefusesSomeClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, network, c := startRefusing(t, proxytest.FakeBackend{Answer: proxytest.Switching}, 1000)
		c.comeAtRandom(network, 0.1, 500)
		if got := p.Backends()[0].NumTunnels(); got < 400 {
			t.Errorf("of 450 clients that it does not refuse, the empty backend got %d; want most of them", got)
		}
		c.leave()
	})
}

func TestTunnelsThatEndWithinASecondAreRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := proxytest.FakeBackend{Answer: closing(1013), Late: 900 * time.Millisecond}
		_, _, c := startRefusing(t, slow, 0)
		c.come(200, 5*time.Millisecond) // those that open before the first end are its even share
		time.Sleep(10 * time.Second)
		before := c.numRefused()
		c.come(4000, 5*time.Millisecond)
		c.leave()
		if got := c.numRefused() - before; got > 25 {
			t.Errorf("%d clients were refused in 20 s; want 25 at most", got)
		}
	})
}

func TestNewAddressForgetsRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, c := startRefusing(t, proxytest.FakeBackend{Answer: proxytest.Refusing(404, "not here")}, 50)
		c.come(1, time.Second)
		a := p.Backends()[0]
		if a.Load() < 50 {
			t.Errorf("Load() = %d after a refusal; want 50 at least", a.Load())
		}
		if err := p.SetBackends(wsproxy.BackendConfig{ID: "http://a", URL: "http://new"}, wsproxy.BackendConfig{URL: "http://b"}); err != nil {
			t.Fatal(err)
		}
		if a.Load() != 0 {
			t.Errorf("Load() = %d after a change of the address; want 0", a.Load())
		}
		c.leave()
	})
}

// A backend that ends a tunnel in which both sides have sent something has not refused it.
func TestShortTunnelThatBothSidesUsedIsNoRefusal(t *testing.T) {
	proxytest.ForEachWay(t, func(t *testing.T, way wsproxy.Option) {
		backend := wstest.StartBackend(t)
		p, s := proxytest.Start(t, way, wsproxy.WithBackends(backend.URL()))
		client, leg := proxytest.OpenThrough(t, s.URL, backend)
		client.Send(wstest.Text("hello"))
		leg.Want(wstest.Text("hello"))
		leg.Send(wstest.Text("welcome"), wstest.Close(1000, "")) // in one write
		client.Want(wstest.Text("welcome"))
		client.WantClose(1000)
		if got := p.Backends()[0].Load(); got != 1 {
			t.Errorf("Load() = %d; want 1, the tunnel", got)
		}
		client.Close()
		leg.Close()
	})
}

func TestShortTunnelsThatClientsEndAreNoRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s, network := startInMemory(t)
		network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
		p.SetBackends(wsproxy.BackendConfig{URL: "http://a"}, wsproxy.BackendConfig{URL: "http://b"})
		backendtest.Set(p.Backends()[1], backendtest.State{NumTunnels: 10})
		for range 5 {
			client := s.Dial(t)
			client.WriteRequest(proxytest.UpgradeTo("/chat"))
			proxytest.WantSwitch(t, client)
			proxytest.HangUp(t, client)
			synctest.Wait()
			if got := p.Backends()[0].Load(); got != 0 {
				t.Fatalf("Load() = %d after a tunnel that the client ended; want 0", got)
			}
		}
	})
}

// A client that provokes refusals changes the load of a backend, by which Hash does not
// choose.
func TestRefusalsMoveNoKeyOfHash(t *testing.T) {
	for name, balancer := range map[string]wsproxy.Balancer{
		"Hash":        wsproxy.Hash(wsproxy.ByQuery("room")),
		"BoundedHash": wsproxy.BoundedHash(wsproxy.ByQuery("room"), 1.25),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := proxytest.NewNetwork()
				p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a", "http://b", "http://c"), wsproxy.WithDialer(network.Dial),
					wsproxy.WithBalancer(balancer))
				site := proxytest.ServeInMemory(t, p)
				for _, host := range []string{"a", "b", "c"} {
					network.Set(host, proxytest.FakeBackend{Answer: proxytest.Refusing(404, "not here")})
				}
				places := func() (places []string) {
					for i := range 100 {
						r, _ := http.NewRequestWithContext(context.Background(), "GET", "/?room="+url.QueryEscape(fmt.Sprint("room ", i)), nil)
						b, err := balancer.Pick(r, p.Backends())
						if err != nil {
							t.Fatal(err)
						}
						places = append(places, b.ID())
					}
					return places
				}
				before := places()
				for range 50 {
					client := site.Dial(t)
					client.WriteRequest(proxytest.UpgradeTo("/chat?room=mine"))
					client.ReadResponse()
					client.Close()
				}
				synctest.Wait() // the last upgrade has given its place back
				if after := places(); strings.Join(after, " ") != strings.Join(before, " ") {
					t.Errorf("after 50 refusals the keys are at\n%q; before they were at\n%q", after, before)
				}
			})
		})
	}
}
