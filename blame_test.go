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
		network := newFakeNet()
		network.set("a", fakeBackend{dialErr: &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", errno)}})
		p, s := start(t, wsproxy.WithBackends("http://a"), wsproxy.WithDialer(network.dial))
		resp, _ := exchange(t, s.URL, upgradeTo("/"))
		wantStatus(t, resp, http.StatusBadGateway)
		wantStates(t, p, wsproxy.BackendUp)
		s.wait()
	}
}

func TestMiddlewareThatAllowsLessThanASecondBlamesNobody(t *testing.T) {
	for allowed, want := range map[time.Duration]wsproxy.BackendState{
		1900 * time.Millisecond: wsproxy.BackendUp, // half of it for the first attempt
		2 * time.Second:         wsproxy.BackendFailing,
	} {
		synctest.Test(t, func(t *testing.T) {
			network := newFakeNet()
			network.set("a", fakeBackend{}) // never answers
			network.set("b", fakeBackend{answer: switching})
			p := newProxy(t, wsproxy.WithBackends("http://a", "http://b"), firstOf, wsproxy.WithDialer(network.dial))
			s := serveInMemory(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithTimeout(r.Context(), allowed)
				defer cancel()
				p.ServeHTTP(w, r.WithContext(ctx))
			}))
			client := s.dial(t)
			client.WriteRequest(upgradeTo("/chat"))
			wantSwitch(t, client)
			wantStates(t, p, want, wsproxy.BackendUp)
			hangUp(t, client)
		})
	}
}

func TestOneUpgradeAtATimeFindsOutWhetherABackendWorksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s, network := startInMemory(t, wsproxy.WithBackends("http://a", "http://b"))
		network.set("a", fakeBackend{}) // never answers
		network.set("b", fakeBackend{answer: switching})
		for range 2 {
			first := s.dial(t)
			first.WriteRequest(upgradeTo("/chat"))
			synctest.Wait()
			if dials := network.takeDials(); len(dials) != 1 {
				t.Errorf("dials are %q; want a to be tried", dials)
			}
			if p.Backends()[0].State() == wsproxy.BackendFailing { // nobody else waits for it
				for range 20 {
					client := s.dial(t)
					client.WriteRequest(upgradeTo("/chat"))
					synctest.Wait()
					wantSwitch(t, client)
					hangUp(t, client)
				}
			}
			time.Sleep(5 * time.Second) // half of what the upgrade has
			wantSwitch(t, first)
			hangUp(t, first)
			network.takeDials()
			time.Sleep(2 * time.Second)
		}
		network.set("a", fakeBackend{answer: switching})
		time.Sleep(2 * time.Second)
		for range 2 {
			client := s.dial(t)
			client.WriteRequest(upgradeTo("/chat"))
			wantSwitch(t, client)
			hangUp(t, client)
		}
		if dials := network.takeDials(); len(dials) != 2 || dials[0][0] != 'a' || dials[1][0] != 'a' {
			t.Errorf("dials are %q; want a, which works again", dials)
		}
		wantStates(t, p, wsproxy.BackendUp, wsproxy.BackendUp)
	})
}

func TestUpgradeThatHasLostAnAttemptGoesToABackendThatWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, network := startInMemory(t) // where nobody is at a and b
		network.set("c", fakeBackend{answer: switching})
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
	for name, answer := range map[string]string{"answers wrongly": "nonsense\r\n\r\n", "answers 503": refusing(503, "")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, s, network := startInMemory(t)
				network.set("a", fakeBackend{answer: answer})
				network.set("b", fakeBackend{answer: switching})
				for range 4 {
					tryOnce(t, s)
					tryOnce(t, s)
					dials := network.takeDials()
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
		network.set("b", fakeBackend{answer: switching})
		network.set("new", fakeBackend{answer: switching})
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
