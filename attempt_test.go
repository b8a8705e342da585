package wsproxy_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestAttemptGetsHalfOfRemainingTime(t *testing.T) {
	for _, tt := range []struct {
		name     string
		timeouts wsproxy.Timeouts
		silent   string // these backends
		status   int
		at       time.Duration
		dials    []string
	}{
		{"default, third answers", wsproxy.Timeouts{}, "ab", 101, 7500 * time.Millisecond, []string{"a at 0s", "b at 5s", "c at 7.5s"}},
		{"default, none answers", wsproxy.Timeouts{}, "abcd", 503, 10 * time.Second, []string{"a at 0s", "b at 5s", "c at 7.5s"}},
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

func TestAttemptOfLastCandidateGetsAllTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, network := startInMemory(t, wsproxy.WithBackends("http://a"))
		network.Set("a", proxytest.FakeBackend{})
		client := s.Dial(t)
		client.WriteRequest(proxytest.UpgradeTo("/chat"))
		time.Sleep(10*time.Second - time.Nanosecond)
		time.Sleep(time.Nanosecond)
		proxytest.WantStatus(t, client.ReadResponse(), http.StatusServiceUnavailable)
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

// tryNext is a Response hook that drops responses with a status.
func tryNext(statuses ...int) wsproxy.Option {
	return wsproxy.WithResponse(func(r *wsproxy.ProxyResponse) error {
		r.Header.Set("X-Backend", r.Backend.ID())
		if slices.Contains(statuses, r.StatusCode) {
			return fmt.Errorf("status %d: %w", r.StatusCode, wsproxy.ErrTryNext)
		}
		return nil
	})
}

func TestTryNextTriesAnotherBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempts := make(chan wsproxy.AttemptInfo, 3)
		p, s, network := startInMemory(t, tryNext(404), wsproxy.WithTrace(&wsproxy.Trace{Attempted: func(i wsproxy.AttemptInfo) { attempts <- i }}))
		network.Set("a", proxytest.FakeBackend{Answer: proxytest.Refusing(404, "no such room", "X-Of-A: 1")})
		network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
		client := s.Dial(t)
		client.WriteRequest(proxytest.UpgradeTo("/chat"))
		resp := proxytest.WantSwitch(t, client)
		proxytest.WantField(t, resp.Header, "X-Backend", "http://b")
		proxytest.WantField(t, resp.Header, "X-Of-A")
		proxytest.WantEcho(t, client)
		if i := <-attempts; !errors.Is(i.Err, wsproxy.ErrTryNext) || i.Status == 0 || i.Backend != p.Backends()[0] {
			t.Errorf("Trace.Attempted saw %+v; want a failure of a", i)
		}
		wantStates(t, p, wsproxy.BackendFailing, wsproxy.BackendUp, wsproxy.BackendUp, wsproxy.BackendUp)
		proxytest.HangUp(t, client)
	})
}

func TestTryNextEndsAfterThreeAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, network := startInMemory(t, tryNext(404))
		for _, host := range []string{"a", "b", "c", "d"} {
			network.Set(host, proxytest.FakeBackend{Answer: proxytest.Refusing(404, "no")})
		}
		client := s.Dial(t)
		client.WriteRequest(proxytest.UpgradeTo("/chat"))
		resp := client.ReadResponse()
		proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
		proxytest.WantField(t, resp.Header, "X-Backend")
		client.Close()
		wantDials(t, network, "a at 0s", "b at 0s", "c at 0s")
	})
}

func TestTryNextClosesAnOpenWebSocketWith1001(t *testing.T) {
	backend := wstest.StartBackend(t)
	p, s := proxytest.Start(t, tryNext(101), wsproxy.WithBackends(backend.URL()))
	client := wstest.Dial(t, s.URL)
	client.WriteRequest(proxytest.UpgradeTo("/chat"))
	leg := backend.Accepted(t)
	leg.AcceptUpgrade(nil)
	leg.WantClose(1001) // masked, as a client's
	leg.Close()
	resp := client.ReadResponse()
	proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
	client.Close()
	s.Wait()
	proxytest.WantNoTunnels(t, p)
}
