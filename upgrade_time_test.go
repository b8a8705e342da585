package wsproxy_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/memnet"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// What is tested here depends on time, which passes in a bubble.

// startInMemory serves a proxy over fakeNet's backends at a, b, c and d.
func startInMemory(t *testing.T, opts ...wsproxy.Option) (*wsproxy.Proxy, *proxytest.Site, *proxytest.Network) {
	network := proxytest.NewNetwork()
	opts = append([]wsproxy.Option{
		wsproxy.WithBackends("http://a", "http://b", "http://c", "http://d"), proxytest.FirstCandidate, wsproxy.WithDialer(network.Dial),
	}, opts...)
	p := proxytest.NewProxy(t, opts...)
	return p, proxytest.ServeInMemory(t, p), network
}

func wantDials(t *testing.T, n *proxytest.Network, want ...string) {
	t.Helper()
	if got := n.TakeDials(); !slices.Equal(got, want) {
		t.Errorf("dials are %q; want %q", got, want)
	}
}

func TestAttemptGetsHalfOfWhatIsLeft(t *testing.T) {
	for _, tt := range []struct {
		name     string
		timeouts wsproxy.Timeouts
		silent   string // these backends
		status   int
		at       time.Duration
		dials    []string
	}{
		{"default, third answers", wsproxy.Timeouts{}, "ab", 101, 7500 * time.Millisecond, []string{"a at 0s", "b at 5s", "c at 7.5s"}},
		{"default, none answers", wsproxy.Timeouts{}, "abcd", 504, 10 * time.Second, []string{"a at 0s", "b at 5s", "c at 7.5s"}},
		{"four seconds", wsproxy.Timeouts{Handshake: 4 * time.Second}, "ab", 101, 3 * time.Second, []string{"a at 0s", "b at 2s", "c at 3s"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, s, network := startInMemory(t, wsproxy.WithTimeouts(tt.timeouts))
				for _, host := range strings.Split("abcd", "") {
					network.Set(host, proxytest.FakeBackend{Answer: proxytest.Switching})
				}
				for _, host := range strings.Split(tt.silent, "") {
					network.Set(host, proxytest.FakeBackend{})
				}
				client := s.Dial(t)
				client.WriteRequest(proxytest.UpgradeTo("/chat"))
				time.Sleep(tt.at - time.Nanosecond)
				synctest.Wait()
				if st := p.Stats(); st.Upgrading != 1 {
					t.Errorf("Stats() has %d upgrading just before %v; want 1", st.Upgrading, tt.at)
				}
				time.Sleep(time.Nanosecond)
				proxytest.WantStatus(t, client.ReadResponse(), tt.status)
				if got := time.Since(network.Start); got != tt.at {
					t.Errorf("client was answered at %v; want %v", got, tt.at)
				}
				wantDials(t, network, tt.dials...)
			})
		})
	}
}

func TestLastCandidateGetsAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, network := startInMemory(t, wsproxy.WithBackends("http://a"))
		network.Set("a", proxytest.FakeBackend{})
		client := s.Dial(t)
		client.WriteRequest(proxytest.UpgradeTo("/chat"))
		time.Sleep(10*time.Second - time.Nanosecond)
		time.Sleep(time.Nanosecond)
		proxytest.WantStatus(t, client.ReadResponse(), http.StatusGatewayTimeout)
	})
}

func TestHandshakeTimeoutCoversEachPhase(t *testing.T) {
	for _, tt := range []struct {
		name string
		url  string
		dial wsproxy.DialFunc // nil: a backend that does as answer says
		back proxytest.FakeBackend
	}{
		{"dial", "http://a", func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, proxytest.FakeBackend{}},
		{"TLS", "https://a", func(context.Context, string, string) (net.Conn, error) {
			front, _ := memnet.Pipe(4096)
			return front, nil
		}, proxytest.FakeBackend{}},
		{"answer", "http://a", nil, proxytest.FakeBackend{}},
		{"half an answer", "http://a", nil, proxytest.FakeBackend{Answer: "HTTP/1.1 101 Switching"}},
		{"interim answers only", "http://a", nil, proxytest.FakeBackend{Answer: proxytest.Head("HTTP/1.1 103 Early Hints")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := proxytest.NewNetwork()
				network.Set("a", tt.back)
				if tt.dial == nil {
					tt.dial = network.Dial
				}
				var failed error
				p := proxytest.NewProxy(t, wsproxy.WithBackends(tt.url), wsproxy.WithDialer(tt.dial),
					wsproxy.WithTrace(&wsproxy.Trace{Attempted: func(i wsproxy.AttemptInfo) { failed = i.Err }}))
				s := proxytest.ServeInMemory(t, p)
				client := s.Dial(t)
				client.WriteRequest(proxytest.UpgradeTo("/chat"))
				time.Sleep(10 * time.Second)
				resp := client.ReadResponse()
				proxytest.WantStatus(t, resp, http.StatusGatewayTimeout)
				io.Copy(io.Discard, resp.Body)
				client.WantEOF()
				var be *wsproxy.BackendError
				if !errors.As(failed, &be) || !be.Timeout() || !errors.Is(failed, context.DeadlineExceeded) {
					t.Errorf("Attempted saw %v; want a *BackendError that is a timeout", failed)
				}
				s.Wait()
				proxytest.WantNoTunnels(t, p)
			})
		})
	}
}

func TestHandshakeTimeoutCanBeOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := proxytest.NewBackendInMemory(t)
		p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a"), backend.Option(), wsproxy.WithTimeouts(wsproxy.Timeouts{Handshake: -1}))
		client := proxytest.ServeInMemory(t, p).Dial(t)
		client.WriteRequest(proxytest.UpgradeTo("/chat"))
		leg := backend.Accept(t)
		time.Sleep(time.Hour)
		leg.AcceptUpgrade(nil)
		proxytest.WantSwitch(t, client)
	})
}

func TestPassingOnARefusalHasATimeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := proxytest.NewNetwork()
		network.Set("a", proxytest.FakeBackend{Answer: proxytest.Head("HTTP/1.1 403 Forbidden", "Content-Length: 100") + "drip"})
		p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a"), wsproxy.WithDialer(network.Dial))
		s := proxytest.ServeInMemory(t, p)
		client := s.Dial(t)
		client.WriteRequest(proxytest.UpgradeTo("/chat"))
		time.Sleep(10*time.Second - time.Nanosecond)
		synctest.Wait()
		if st := p.Stats(); st.Upgrading != 1 {
			t.Errorf("Stats() has %d upgrading before the limit; want 1", st.Upgrading)
		}
		time.Sleep(time.Nanosecond)
		s.Wait()
		proxytest.WantNoTunnels(t, p)
	})
}

// tryOnce makes one upgrade and lets its tunnel end.
func tryOnce(t *testing.T, s *proxytest.Site) (status int) {
	t.Helper()
	client := s.Dial(t)
	client.WriteRequest(proxytest.UpgradeTo("/chat"))
	status = client.ReadResponse().StatusCode
	client.Close()
	s.Wait()
	return status
}

func TestFailedBackendWaitsFromOneTo30Seconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s, network := startInMemory(t, wsproxy.WithBackends("http://a", "http://b"))
		network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
		for _, wait := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
			wait *= time.Second
			network.Start = time.Now()
			tryOnce(t, s)
			wantDials(t, network, "a at 0s", "b at 0s")

			time.Sleep(wait - time.Nanosecond - time.Since(network.Start))
			network.Start = time.Now()
			tryOnce(t, s)
			wantDials(t, network, "b at 0s")
			if state := p.Backends()[0].State(); state != wsproxy.BackendFailing {
				t.Errorf("a is %v; want failing", state)
			}
			time.Sleep(time.Nanosecond)
		}
		// It is back: one success, and the next failure waits 1 s again.
		network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
		tryOnce(t, s)
		if state := p.Backends()[0].State(); state != wsproxy.BackendUp {
			t.Errorf("a is %v; want up", state)
		}
		network.Set("a", proxytest.FakeBackend{DialErr: errors.New("refused")})
		tryOnce(t, s)
		network.TakeDials()
		time.Sleep(time.Second)
		network.Start = time.Now()
		tryOnce(t, s)
		wantDials(t, network, "a at 0s", "b at 0s")
	})
}

func TestFailedBackendIsTriedWhenNoOtherIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, network := startInMemory(t, wsproxy.WithBackends("http://a"))
		wantTry := func(want int) {
			t.Helper()
			if got := tryOnce(t, s); got != want {
				t.Errorf("upgrade got %d; want %d", got, want)
			}
		}
		wantTry(http.StatusBadGateway)
		network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
		wantTry(http.StatusSwitchingProtocols)
	})
}

func TestUpgradesThatFailTogetherCountAsOneFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, network := startInMemory(t, wsproxy.WithBackends("http://a", "http://b"))
		network.Set("a", proxytest.FakeBackend{}) // is about to restart
		network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
		var clients []*wstest.Peer
		for range 10 {
			client := s.Dial(t)
			client.WriteRequest(proxytest.UpgradeTo("/chat"))
			clients = append(clients, client)
		}
		time.Sleep(5 * time.Second)
		for _, client := range clients {
			proxytest.WantSwitch(t, client)
			client.Close()
		}
		s.Wait()
		network.TakeDials()
		network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
		time.Sleep(time.Second)
		network.Start = time.Now()
		tryOnce(t, s)
		wantDials(t, network, "a at 0s")
	})
}
