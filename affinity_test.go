package wsproxy_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/backendtest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

var (
	affinityKey = []byte("0123456789abcdef")
	olderKey    = []byte("fedcba9876543210")
)

// byCookie is affinity by a cookie with its defaults.
var byCookie = wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{affinityKey}})

// byRoom is affinity by a key.
var byRoom = wsproxy.WithAffinity(wsproxy.Affinity{Key: wsproxy.ByQuery("room")})

// A browser is a client that keeps its cookie.
type browser struct {
	s      *scene
	client int
	cookie string // "name=value"
}

func (s *scene) newBrowser(client int) *browser { return &browser{s: s, client: client} }

// send sends an upgrade, and returns the response. The connection is left open.
func (b *browser) send(path string, lines ...string) (*wstest.Peer, *http.Response) {
	b.s.t.Helper()
	if b.cookie != "" {
		lines = append(lines, "Cookie: "+b.cookie)
	}
	c := b.s.send(b.client, path, lines...)
	resp := c.ReadResponse()
	synctest.Wait() // the hook that adds to opened is called after the 101
	for _, cookie := range resp.Cookies() {
		b.cookie = cookie.Name + "=" + cookie.Value
	}
	return c, resp
}

// visit opens a tunnel and ends it. It returns the backend, and whether the client got a cookie.
func (b *browser) visit() (backend string, hasCookie bool) {
	b.s.t.Helper()
	c, resp := b.send("/chat")
	proxytest.WantStatus(b.s.t, resp, http.StatusSwitchingProtocols)
	n := len(b.s.opened)
	if n == 0 {
		b.s.t.Fatal("no tunnel has opened")
	}
	backend = b.s.opened[n-1]
	proxytest.HangUp(b.s.t, c)
	synctest.Wait()
	return backend, len(resp.Cookies()) > 0
}

// wantVisit checks what visit returns.
func (b *browser) wantVisit(backend string, hasCookie bool) {
	b.s.t.Helper()
	if at, got := b.visit(); at != backend || got != hasCookie {
		b.s.t.Errorf("client %d is at %s, got a cookie: %t; want %s, %t", b.client, at, got, backend, hasCookie)
	}
}

func TestCookieBindsAClientToItsBackend(t *testing.T) {
	for name, balancer := range map[string]wsproxy.Balancer{
		"least tunnels": nil, "round robin": wsproxy.RoundRobin(), "random": wsproxy.Random(),
		"hash of nothing that stays": wsproxy.Hash(func(r *http.Request) string { return wsproxy.RequestID(r) }),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, byCookie, wsproxy.WithBalancer(balancer))
				s.set("abc", accepting)
				homes := make(map[string]int)
				for client := range 30 {
					b := s.newBrowser(client)
					home, hasCookie := b.visit()
					if !hasCookie {
						t.Errorf("client %d has got no cookie with its 101", client)
					}
					homes[home]++
					for range 4 {
						b.wantVisit(home, false)
					}
				}
				if len(homes) != 3 {
					t.Errorf("clients are at %v; want some at each of three backends", homes)
				}
			})
		})
	}
}

func TestBalancerIsAskedOnlyForClientsThatAreNotBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		numAsked := 0
		var picked []string
		s := newScene(t, byCookie, wsproxy.WithBalancer(wsproxy.BalancerFunc(func(_ *http.Request, candidates []*wsproxy.Backend) (*wsproxy.Backend, error) {
			numAsked++
			return candidates[1], nil
		})), wsproxy.WithTrace(&wsproxy.Trace{
			Picked: func(i wsproxy.PickedInfo) {
				picked = append(picked, fmt.Sprintf("%v, attempt %d, of %d", i.Backend, i.Attempt, i.Candidates))
			},
		}))
		s.set("abc", accepting)
		b := s.newBrowser(1)
		for range 3 {
			c, resp := b.send("/chat")
			proxytest.WantStatus(t, resp, 101)
			proxytest.HangUp(t, c)
		}
		want := []string{"b, attempt 1, of 3", "b, attempt 1, of 1", "b, attempt 1, of 1"}
		if numAsked != 1 || !slices.Equal(picked, want) {
			t.Errorf("the balancer was asked %d times, and Picked called with %q; want once, and %q", numAsked, picked, want)
		}
	})
}

// Three replicas: one has the backends in another order, another one an older key first.
func TestReplicasAgreeWithoutTalking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := func(keys ...[]byte) wsproxy.Option { return wsproxy.WithAffinity(wsproxy.Affinity{Keys: keys}) }
		replicas := []*scene{
			newScene(t, keys(affinityKey, olderKey), wsproxy.WithBalancer(wsproxy.RoundRobin())),
			newScene(t, keys(affinityKey, olderKey), wsproxy.WithBalancer(wsproxy.Random()), backendsAt("c", "a", "b")),
			newScene(t, keys(olderKey, affinityKey), wsproxy.WithBalancer(wsproxy.RoundRobin())),
		}
		for _, s := range replicas {
			s.set("abc", accepting)
		}
		for client := range 30 {
			b := replicas[client%3].newBrowser(client)
			home, _ := b.visit()
			for i := range 6 {
				b.s = replicas[(client+i)%3]
				b.wantVisit(home, false)
			}
		}
	})
}

func TestReplicasAgreeAboutKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, other := newScene(t, byRoom), newScene(t, byRoom, backendsAt("c", "a", "b"))
		for _, s := range []*scene{one, other} {
			s.set("abc", accepting)
		}
		for room := range 30 {
			var at []string
			for _, s := range []*scene{one, other, one} {
				c := s.send(room, fmt.Sprint("/chat?room=", room))
				resp := proxytest.WantSwitch(t, c)
				if len(resp.Cookies()) > 0 {
					t.Errorf("a client with a key got the cookies %v", resp.Cookies())
				}
				at = append(at, s.opened[len(s.opened)-1])
				c.Close()
			}
			if at[0] != at[1] || at[0] != at[2] {
				t.Errorf("room %d is at %q; want the same backend each time", room, at)
			}
		}
	})
}

// A client without a key is bound by its cookie, and one with a key gets none.
func TestKeyComesBeforeTheCookie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, wsproxy.WithBalancer(wsproxy.RoundRobin()),
			wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{affinityKey}, Key: wsproxy.ByQuery("room")}))
		s.set("abc", accepting)
		b := s.newBrowser(1)
		home, hasCookie := b.visit()
		if !hasCookie {
			t.Error("a client without a key got no cookie")
		}
		isElsewhere := false
		for room := range 10 {
			c, resp := b.send(fmt.Sprint("/chat?room=", room))
			proxytest.WantStatus(t, resp, 101)
			if len(resp.Cookies()) > 0 {
				t.Errorf("a client with a key got the cookies %v", resp.Cookies())
			}
			isElsewhere = isElsewhere || s.opened[len(s.opened)-1] != home
			c.Close()
			synctest.Wait()
		}
		if !isElsewhere {
			t.Error("all rooms are at the backend of the cookie")
		}
		b.wantVisit(home, false)
	})
}

func TestKeyMayBeTheUserThatWasAdmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, wsproxy.WithBalancer(wsproxy.RoundRobin()),
			wsproxy.WithAdmit(func(r *http.Request) (any, error) { return r.URL.Query().Get("user"), nil }),
			wsproxy.WithAffinity(wsproxy.Affinity{Key: func(r *http.Request) string {
				user, _ := wsproxy.Admitted(r).(string)
				return user
			}}))
		s.set("abc", accepting)
		homes := make(map[string]bool)
		for range 10 {
			c := s.send(1, "/chat?user=ann")
			proxytest.WantSwitch(t, c)
			homes[s.opened[len(s.opened)-1]] = true
			c.Close()
			synctest.Wait()
		}
		if len(homes) != 1 {
			t.Errorf("the user was at %v; want one backend", homes)
		}
	})
}

func TestPanicOfTheKeyFunctionEndsOneUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, wsproxy.WithAffinity(wsproxy.Affinity{Key: func(r *http.Request) string {
			if r.URL.RawQuery == "panic" {
				panic("of the test")
			}
			return "key"
		}}))
		s.set("abc", accepting)
		proxytest.WantStatus(t, s.send(1, "/chat?panic").ReadResponse(), 500)
		s.wantRefused("hook 500")
		s.wantTimesTold(1, "level=ERROR", "Affinity.Key", "of the test")
		proxytest.WantStatus(t, s.send(1, "/chat").ReadResponse(), 101)
	})
}

// When the set changes, the keys of a fair share move; all others stay.
func TestChangeOfTheSetMovesItsShareOfKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, byRoom)
		s.set("abcd", accepting)
		const n = 400
		homes := func() (homes [n]string) {
			for room := range n {
				c := s.send(room, fmt.Sprint("/chat?room=", room))
				proxytest.WantSwitch(t, c)
				homes[room] = s.opened[len(s.opened)-1]
				c.Close()
			}
			return homes
		}
		before := homes()
		s.setBackends("abcd")
		after := homes()
		numMoved := 0
		for room := range n {
			if before[room] == after[room] {
				continue
			}
			numMoved++
			if after[room] != "d" {
				t.Errorf("room %d has moved from %s to %s; want only moves to the new backend", room, before[room], after[room])
			}
		}
		if numMoved < n/4-30 || numMoved > n/4+30 {
			t.Errorf("%d of %d rooms have moved; want a quarter", numMoved, n)
		}
	})
}

// The attempt on the client's own backend fails: another one takes it, and gives it its cookie.
func TestClientWhoseBackendFailsIsBoundToTheOneThatAnswers(t *testing.T) {
	for name, failing := range map[string]proxytest.FakeBackend{
		"unreachable": unreachable,
		"502":         {Answer: proxytest.Refusing(502, "")},
		"closes":      {Answer: "{end}"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, byCookie, proxytest.FirstCandidate)
				s.set("abc", accepting)
				b := s.newBrowser(1)
				b.wantVisit("a", true)
				s.set("a", failing)
				b.wantVisit("b", true)
				s.set("a", accepting)
				time.Sleep(time.Minute)
				b.wantVisit("b", false) // it stays
			})
		})
	}
}

// By key, the next one in the order of the key takes it, and gives it back.
func TestKeyWhoseBackendFailsComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, byRoom)
		s.set("abc", accepting)
		visit := func() string {
			c := s.send(1, "/chat?room=blue")
			proxytest.WantSwitch(t, c)
			c.Close()
			synctest.Wait()
			return s.opened[len(s.opened)-1]
		}
		home := visit()
		s.set(home, unreachable)
		second := visit()
		for range 5 {
			if at := visit(); at != second {
				t.Errorf("the room is at %s, and then at %s", second, at)
			}
		}
		s.set(home, accepting)
		time.Sleep(2 * time.Second) // it is tried by those who are bound to it
		if at := visit(); second == home || at != home {
			t.Errorf("the room is at %s, then at %s, then at %s; want it back", home, second, at)
		}
		s.wantFlags("")
	})
}

func TestBoundClientGoesToItsBackendThoughOthersAreBetter(t *testing.T) {
	for _, flag := range []string{"resting", "full", "ejected"} {
		t.Run(flag, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, byCookie, proxytest.FirstCandidate)
				s.set("abc", accepting)
				b := s.newBrowser(1)
				b.wantVisit("a", true)
				backendtest.Set(s.backend("a"), backendtest.State{Flags: []string{flag}})
				s.newBrowser(2).wantVisit("b", true)
				b.wantVisit("a", false)
				s.wantNeverTold("others are used")
			})
		})
	}
}
