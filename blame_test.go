package wsproxy_test

import (
	"context"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
)

// What is tested here is what makes a backend rest, for how long, and who finds out
// how it does afterwards.

// wantStates checks the states of the backends, in configuration order.
func wantStates(t testing.TB, p *wsproxy.Proxy, want ...wsproxy.BackendState) {
	t.Helper()
	for i, b := range p.Backends() {
		if got := b.State(); got != want[i] {
			t.Errorf("backend %s is %v; want %v", b.ID(), got, want[i])
		}
	}
}

func TestNoBackendIsToBlameWhereDescriptorsAreShort(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE} {
		network := proxytest.NewNetwork()
		network.Set("a", proxytest.FakeBackend{DialErr: &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", errno)}})
		p, s := proxytest.Start(t, wsproxy.WithBackends("http://a"), wsproxy.WithDialer(network.Dial))
		resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/"))
		proxytest.WantStatus(t, resp, http.StatusBadGateway)
		wantStates(t, p, wsproxy.BackendUp)
		s.Wait()
	}
}

func TestMiddlewareThatAllowsLessThanASecondBlamesNobody(t *testing.T) {
	for allowed, want := range map[time.Duration]wsproxy.BackendState{
		1900 * time.Millisecond: wsproxy.BackendUp, // half of it for the first attempt
		2 * time.Second:         wsproxy.BackendFailing,
	} {
		synctest.Test(t, func(t *testing.T) {
			network := proxytest.NewNetwork()
			network.Set("a", proxytest.FakeBackend{}) // never answers
			network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
			p := proxytest.NewProxy(t, wsproxy.WithBackends("http://a", "http://b"), proxytest.FirstCandidate, wsproxy.WithDialer(network.Dial))
			s := proxytest.ServeInMemory(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithTimeout(r.Context(), allowed)
				defer cancel()
				p.ServeHTTP(w, r.WithContext(ctx))
			}))
			client := s.Dial(t)
			client.WriteRequest(proxytest.UpgradeTo("/chat"))
			proxytest.WantSwitch(t, client)
			wantStates(t, p, want, wsproxy.BackendUp)
			proxytest.HangUp(t, client)
		})
	}
}

func TestOneUpgradeAtATimeFindsOutWhetherABackendWorksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s, network := startInMemory(t, wsproxy.WithBackends("http://a", "http://b"))
		network.Set("a", proxytest.FakeBackend{}) // never answers
		network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
		for range 2 {
			first := s.Dial(t)
			first.WriteRequest(proxytest.UpgradeTo("/chat"))
			synctest.Wait()
			if dials := network.TakeDials(); len(dials) != 1 {
				t.Errorf("dials are %q; want a to be tried", dials)
			}
			if p.Backends()[0].State() == wsproxy.BackendFailing { // nobody else waits for it
				for range 20 {
					client := s.Dial(t)
					client.WriteRequest(proxytest.UpgradeTo("/chat"))
					synctest.Wait()
					proxytest.WantSwitch(t, client)
					proxytest.HangUp(t, client)
				}
			}
			time.Sleep(5 * time.Second) // half of what the upgrade has
			proxytest.WantSwitch(t, first)
			proxytest.HangUp(t, first)
			network.TakeDials()
			time.Sleep(2 * time.Second)
		}
		network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
		time.Sleep(2 * time.Second)
		for range 2 {
			client := s.Dial(t)
			client.WriteRequest(proxytest.UpgradeTo("/chat"))
			proxytest.WantSwitch(t, client)
			proxytest.HangUp(t, client)
		}
		if dials := network.TakeDials(); len(dials) != 2 || dials[0][0] != 'a' || dials[1][0] != 'a' {
			t.Errorf("dials are %q; want a, which works again", dials)
		}
		wantStates(t, p, wsproxy.BackendUp, wsproxy.BackendUp)
	})
}

func TestUpgradeThatHasLostAnAttemptGoesToABackendThatWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, network := startInMemory(t) // where nobody is at a and b
		network.Set("c", proxytest.FakeBackend{Answer: proxytest.Switching})
		tryOnce(t, s)
		wantDials(t, network, "a at 0s", "b at 0s", "c at 0s")
		time.Sleep(time.Second)
		tryOnce(t, s)
		wantDials(t, network, "a at 1s", "c at 1s")
	})
}

// Any client can send what a backend closes the connection for. It must not be able to
// keep backends out of use, and so to part those that are to meet on one of them.
func TestBackendThatWasReachedRestsForASecondEachTime(t *testing.T) {
	for name, answer := range map[string]string{"answers wrongly": "nonsense\r\n\r\n", "answers 503": proxytest.Refusing(503, "")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, s, network := startInMemory(t)
				network.Set("a", proxytest.FakeBackend{Answer: answer})
				network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
				for range 4 {
					tryOnce(t, s)
					tryOnce(t, s)
					dials := network.TakeDials()
					if len(dials) != 3 || dials[0][0] != 'a' || dials[1][0] != 'b' || dials[2][0] != 'b' {
						t.Errorf("dials are %q; want a once, and b twice", dials)
					}
					time.Sleep(time.Second)
				}
			})
		})
	}
}

func TestBackendWithANewAddressIsTriedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := wsproxy.BackendConfig{ID: "a", URL: "http://a"} // where nobody is
		b := wsproxy.BackendConfig{URL: "http://b"}
		p, s, network := startInMemory(t, wsproxy.WithBackendConfigs(a, b))
		network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
		network.Set("new", proxytest.FakeBackend{Answer: proxytest.Switching})
		tryOnce(t, s)
		a.Weight = 2
		p.SetBackends(a, b)
		wantStates(t, p, wsproxy.BackendFailing, wsproxy.BackendUp)
		a.URL = "http://new"
		p.SetBackends(a, b)
		wantStates(t, p, wsproxy.BackendUp, wsproxy.BackendUp)
		tryOnce(t, s)
		wantDials(t, network, "a at 0s", "b at 0s", "new at 0s")
	})
}
