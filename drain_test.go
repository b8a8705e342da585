package wsproxy_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/leaktest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// startDrain calls Drain in the background.
func (s *scene) startDrain(ctx context.Context, id string, over time.Duration) <-chan error {
	done := make(chan error, 1)
	go func() { done <- s.p.Drain(ctx, id, over) }() // ends with the proxy at the latest
	synctest.Wait()
	return done
}

// wantWaiting checks that a call has not returned.
func wantWaiting(t *testing.T, done <-chan error) {
	t.Helper()
	synctest.Wait()
	select {
	case err := <-done:
		t.Errorf("it has returned %v; want it to wait", err)
	default:
	}
}

// wantEnd checks that a call has returned, with that error.
func wantEnd(t *testing.T, done <-chan error, want error) {
	t.Helper()
	synctest.Wait()
	select {
	case err := <-done:
		if !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("it has returned %v; want %v", err, want)
		}
	default:
		t.Errorf("it waits; want %v", want)
	}
}

func (s *scene) wantTunnels(want string) {
	s.t.Helper()
	if got := s.numTunnels(); got != want {
		s.t.Errorf("tunnels: %s; want %s", got, want)
	}
}

func (s *scene) wantState(id string, want wsproxy.BackendState) {
	s.t.Helper()
	if got := s.backend(id).State(); got != want {
		s.t.Errorf("backend %s is %v; want %v", id, got, want)
	}
}

// wantCauses checks for how many tunnels the cause of their end was that one.
func (s *scene) wantCauses(cause wsproxy.Cause, want int) {
	s.t.Helper()
	synctest.Wait()
	if n := len(s.book.Lines("tunnel closed", fmt.Sprintf("cause=%q", cause.String()))) + len(s.book.Lines("tunnel closed", "cause="+cause.String()+" ")); n != want {
		s.t.Errorf("%d tunnels ended because of %v; want %d", n, cause, want)
	}
}

// configsOf returns the configurations of backends whose IDs are one letter each. Those with
// a capital letter have Drain set.
func configsOf(ids string) []wsproxy.BackendConfig {
	var configs []wsproxy.BackendConfig
	for _, id := range strings.Split(ids, "") {
		lower := strings.ToLower(id)
		configs = append(configs, wsproxy.BackendConfig{ID: lower, URL: "http://" + lower, Drain: id != lower})
	}
	return configs
}

func (s *scene) setBackends(ids string) {
	s.t.Helper()
	if err := s.p.SetBackends(configsOf(ids)...); err != nil {
		s.t.Fatal(err)
	}
}

func TestDrainClosesTheTunnelsOfABackendOverATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newCrowdedScene(t, 60)
		if err := s.p.Drain(t.Context(), "b", time.Minute); err != nil {
			t.Errorf("Drain() = %v; want nil", err)
		}
		wantEven(t, c.take(), 20, time.Minute, 1012, "reconnect")
		s.wantTunnels("a 20, b 0, c 20")
		s.wantState("b", wsproxy.BackendDraining)
		s.wantCauses(wsproxy.CauseDrain, 20)
		c.join(10)
		s.wantTunnels("a 25, b 0, c 25")
		began := time.Now()
		if err := s.p.Drain(t.Context(), "b", time.Minute); err != nil || time.Since(began) > 0 {
			t.Errorf("Drain() = %v after %v when no tunnel is left; want nil at once", err, time.Since(began))
		}
	})
}

// Each client comes back at once, and is closed no second time.
func TestDrainClosesClientsThatComeStraightBackOnce(t *testing.T) {
	for _, over := range []time.Duration{-1, 0, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			const n = 200
			s := newScene(t)
			s.set("abc", proxytest.FakeBackend{Answer: proxytest.Switching})
			c := &audience{s: s, comesBack: true}
			c.join(n)
			t.Cleanup(c.wg.Wait)
			t.Cleanup(func() { s.p.Close() })
			atB := s.backend("b").NumTunnels()
			s.opened = nil
			if err := s.p.Drain(t.Context(), "b", over); err != nil {
				t.Errorf("over %v: Drain() = %v; want nil", over, err)
			}
			closings := c.take()
			seen := make(map[int]bool)
			for _, e := range closings {
				if seen[e.client] {
					t.Errorf("over %v: client %d was closed twice", over, e.client)
				}
				seen[e.client] = true
			}
			if len(closings) != atB || atB < n/3 {
				t.Errorf("over %v: %d clients were closed; want the %d at b", over, len(closings), atB)
			}
			s.wantTunnels("a 100, b 0, c 100")
			if got := s.numOpened(); strings.Contains(got, "b") {
				t.Errorf("over %v: tunnels opened meanwhile: %s; want none at b", over, got)
			}
		})
	}
}

// A frozen backend answers no Close frame. Its clients are told after a second of silence.
func TestDrainOfAFrozenBackendEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		s.set("abc", proxytest.FakeBackend{Answer: proxytest.Switching, Freezes: true})
		c := s.gather(30)
		defer c.wg.Wait()
		defer s.p.Close()
		began := time.Now()
		err := s.p.Drain(t.Context(), "b", 10*time.Second)
		if took := time.Since(began); err != nil || took < 10*time.Second || took > 14*time.Second {
			t.Errorf("Drain() = %v after %v; want nil after 10 s and 2 to 3 s more", err, took)
		}
		closings := c.take()
		if len(closings) != 10 {
			t.Errorf("%d clients got a Close frame; want 10", len(closings))
		}
		for i, e := range closings {
			if due := time.Duration(i) * time.Second; e.code != 1012 || e.at < due+time.Second || e.at > due+2500*time.Millisecond {
				t.Errorf("closing %d came at %v with %d; want 1012, 1 s to 1.5 s after the backend's", i, e.at, e.code)
			}
		}
		s.wantTunnels("a 10, b 0, c 10")
	})
}

func TestDrainStopsWhenItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newCrowdedScene(t, 60)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		err := s.p.Drain(ctx, "b", time.Minute)
		closed := len(c.take())
		var drain *wsproxy.DrainError
		if !errors.As(err, &drain) || !errors.Is(err, context.DeadlineExceeded) || closed < 9 || closed > 11 ||
			*drain != (wsproxy.DrainError{ID: "b", Closed: closed, Left: 20 - closed, Err: context.DeadlineExceeded}) {
			t.Errorf("Drain() = %#v with %d clients closed; want a DrainError that says so, of half of 20", err, closed)
		}
		want := fmt.Sprintf("wsproxy: drain backend b: %d tunnels closed, 0 cut, %d left: context deadline exceeded", closed, 20-closed)
		if err.Error() != want {
			t.Errorf("the error is %q; want %q", err, want)
		}
		if took := time.Since(c.start); took != 30*time.Second {
			t.Errorf("Drain() returned after %v; want 30 s", took)
		}
		time.Sleep(time.Hour)
		if n := len(c.take()); n > 0 {
			t.Errorf("%d clients were closed after the end of the context; want none", n)
		}
		s.wantState("b", wsproxy.BackendDraining)
		c.join(10)
		if got := s.backend("b").NumTunnels(); got != 20-closed {
			t.Errorf("backend b has %d tunnels; want no new ones", got)
		}
		if err := s.p.Drain(ctx, "b", -1); !errors.Is(err, context.DeadlineExceeded) || len(c.take()) > 0 {
			t.Errorf("Drain() = %v with a context that has ended; want its error, and no tunnel closed", err)
		}
		if err := s.p.Drain(t.Context(), "b", -1); err != nil || len(c.take()) != 20-closed {
			t.Errorf("Drain() = %v; want the rest to be closed", err)
		}
	})
}

func TestSecondDrainTakesOverWithItsOwnPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newCrowdedScene(t, 60)
		first := s.startDrain(t.Context(), "b", time.Hour)
		time.Sleep(30 * time.Minute)
		half := len(c.take())
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		second := s.startDrain(ctx, "b", 10*time.Minute)
		time.Sleep(time.Minute)
		wantWaiting(t, first)
		wantEnd(t, second, context.DeadlineExceeded)
		few := len(c.take())
		if half < 9 || half > 11 || few > 2 {
			t.Errorf("%d and then %d clients were closed; want half of 20, and one in a minute", half, few)
		}
		time.Sleep(time.Hour)
		if n := len(c.take()); n > 0 {
			t.Errorf("the first call has closed %d clients after it was taken over", n)
		}
		third := s.startDrain(t.Context(), "b", -1)
		wantEnd(t, third, nil)
		wantEnd(t, first, nil)
		if n := len(c.take()); half+few+n != 20 {
			t.Errorf("%d clients were closed in all; want 20", half+few+n)
		}
	})
}

func TestResumeEndsADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newCrowdedScene(t, 60)
		first := s.startDrain(t.Context(), "b", time.Minute)
		second := s.startDrain(t.Context(), "b", time.Minute)
		time.Sleep(30 * time.Second)
		if err := s.p.Resume("b"); err != nil {
			t.Errorf("Resume() = %v; want nil", err)
		}
		wantEnd(t, first, wsproxy.ErrResumed)
		wantEnd(t, second, wsproxy.ErrResumed)
		s.wantState("b", wsproxy.BackendUp)
		closed := len(c.take())
		time.Sleep(time.Hour)
		if n := len(c.take()); n > 0 {
			t.Errorf("%d clients were closed after Resume; want none", n)
		}
		s.opened = nil
		c.join(closed)
		if got, want := s.numOpened(), fmt.Sprintf("b %d", closed); got != want {
			t.Errorf("tunnels opened after Resume: %s; want %s", got, want)
		}
		if err := s.p.Resume("b"); err != nil {
			t.Errorf("Resume() = %v of a backend that does not drain; want nil", err)
		}
		if err := s.p.Drain(t.Context(), "b", -1); err != nil {
			t.Errorf("Drain() = %v after Resume; want nil", err)
		}
		s.wantTunnels("a 20, b 0, c 20")
	})
}

func TestResumeWakesUpgradesThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWaitingRoom(t, nil, queueOf(10), wsproxy.WithBackendConfigs(
			wsproxy.BackendConfig{ID: "a", URL: "http://a", MaxTunnels: 1}, wsproxy.BackendConfig{ID: "b", URL: "http://b"}))
		w.network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
		w.network.Set("b", proxytest.FakeBackend{Answer: proxytest.Switching})
		if err := w.p.Drain(t.Context(), "b", 0); err != nil {
			t.Fatal(err)
		}
		w.come("/0")
		w.come("/1")
		w.wantOpened("/0 at 0s")
		time.Sleep(time.Second)
		if err := w.p.Resume("b"); err != nil {
			t.Fatal(err)
		}
		w.wantOpened("/1 at 1s")
		w.wantRefused()
	})
}

// All backends drain, so that there is nothing to wait for.
func TestDrainRefusesUpgradesThatWaitForTheLastBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWaitingRoom(t, nil, queueOf(10), wsproxy.WithBackendConfigs(wsproxy.BackendConfig{ID: "a", URL: "http://a", MaxTunnels: 1}))
		w.network.Set("a", proxytest.FakeBackend{Answer: proxytest.Switching})
		w.come("/0")
		w.come("/1")
		w.wantOpened("/0 at 0s")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := w.p.Drain(ctx, "a", 0); !errors.Is(err, context.Canceled) {
			t.Errorf("Drain() = %v; want the context's error", err)
		}
		w.wantRefused("/1: no backend 503")
	})
}

func TestDrainSurvivesSetBackends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newCrowdedScene(t, 60)
		done := s.startDrain(t.Context(), "b", time.Minute)
		b := s.backend("b")
		time.Sleep(20 * time.Second)
		s.setBackends("ac")
		if b.State() != wsproxy.BackendRemoved {
			t.Errorf("backend b is %v; want removed", b.State())
		}
		time.Sleep(20 * time.Second)
		s.setBackends("abc")
		s.wantState("b", wsproxy.BackendDraining)
		time.Sleep(19900 * time.Millisecond)
		synctest.Wait()
		s.opened = nil
		c.join(10)
		if got := s.numOpened(); strings.Contains(got, "b") {
			t.Errorf("tunnels opened meanwhile: %s; want none at b", got)
		}
		time.Sleep(time.Second)
		wantEnd(t, done, nil)
		s.wantTunnels("a 25, b 0, c 25")
		s.wantState("b", wsproxy.BackendDraining)
		if n := len(c.take()); n != 20 {
			t.Errorf("%d clients were closed; want 20", n)
		}
	})
}

func TestDrainWorksForRemovedBackends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newCrowdedScene(t, 60)
		s.setBackends("ac")
		if err := s.p.Drain(t.Context(), "b", time.Minute); err != nil {
			t.Errorf("Drain() = %v; want nil", err)
		}
		wantEven(t, c.take(), 20, time.Minute, 1012, "reconnect")
		for name, err := range map[string]error{
			"Drain": s.p.Drain(t.Context(), "b", 0), "Resume": s.p.Resume("b"), "Drain of an empty ID": s.p.Drain(t.Context(), "", 0),
		} {
			if err == nil || !strings.Contains(err.Error(), "not in the set, and without tunnels") {
				t.Errorf("%s of an unknown backend returned %v; want an error that says so", name, err)
			}
		}
		s.setBackends("abc")
		s.wantState("b", wsproxy.BackendUp) // it is another one
	})
}

// An upgrade has picked backend b, which takes 5 s to answer.
func TestDrainClosesUpgradesUnderWayOnceOpen(t *testing.T) {
	drains := map[string]func(*scene) <-chan error{
		"Drain": func(s *scene) <-chan error { return s.startDrain(s.t.Context(), "a", 0) },
		"SetBackends": func(s *scene) <-chan error {
			s.setBackends("A")
			return nil
		},
	}
	for name, begin := range drains {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, backendsAt("a"))
				s.set("a", proxytest.FakeBackend{Answer: proxytest.Switching, Delay: 5 * time.Second})
				client := s.send(0, "/chat")
				done := begin(s)
				time.Sleep(4 * time.Second)
				if done != nil {
					wantWaiting(t, done)
				}
				s.wantTunnels("a 1")
				proxytest.WantSwitch(t, client)
				client.WantClose(1012)
				client.Send(wstest.Close(1012, ""))
				client.WantEOF()
				client.Close()
				if done != nil {
					wantEnd(t, done, nil)
				}
				s.wantTunnels("a 0")
				s.wantCauses(wsproxy.CauseDrain, 1)
			})
		})
	}
}

// It is the same on both engines.
func TestDrainSends1012ToClientsAnd1001ToBackends(t *testing.T) {
	leaktest.Check(t)
	p := proxytest.OpenPair(t)
	id := p.Proxy.Backends()[0].ID()
	done := make(chan error, 1)
	go func() { done <- p.Proxy.Drain(context.Background(), id, 0) }()
	p.Backend.WantClose(1001)
	p.Backend.Send(wstest.Close(1001, ""))
	p.Client.WantClose(1012)
	p.Client.Send(wstest.Close(1012, ""))
	p.Client.WantEOF()
	p.Client.Close()
	p.Backend.Close()
	if err := <-done; err != nil {
		t.Errorf("Drain() = %v; want nil", err)
	}
	if e := p.End(t); e.Cause != wsproxy.CauseDrain || e.Side != wsproxy.SideProxy || e.Code != 1012 || e.Cut {
		t.Errorf("tunnel ended with %+v; want the proxy's drain, 1012, and no cut", e)
	}
}

func TestDrainClosesUpgradesUnderWayOverSockets(t *testing.T) {
	b := wstest.StartBackend(t)
	ends, trace := proxytest.TraceEnds()
	p, s := proxytest.Start(t, wsproxy.WithBackends(b.URL()), trace)
	client := wstest.Dial(t, s.URL)
	client.RequestUpgrade("/", nil)
	backend := b.Accepted(t)
	done := make(chan error, 1)
	go func() { done <- p.Drain(context.Background(), b.URL(), -1) }()
	if !proxytest.Becomes(func() bool { return p.Backends()[0].State() == wsproxy.BackendDraining }) {
		t.Fatal("the backend does not drain")
	}
	backend.AcceptUpgrade(nil)
	client.WantUpgrade()
	backend.WantClose(1001)
	backend.Send(wstest.Close(1001, ""))
	client.WantClose(1012)
	client.Close()
	backend.Close()
	if err := <-done; err != nil {
		t.Errorf("Drain() = %v; want nil", err)
	}
	if e := <-ends; e.Cause != wsproxy.CauseDrain {
		t.Errorf("tunnel ended because of %v; want drain", e.Cause)
	}
}

func TestBackendConfigDrainClosesTunnelsInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newCrowdedScene(t, 60)
		s.setBackends("aBc")
		s.wantState("b", wsproxy.BackendDraining)
		time.Sleep(time.Second)
		wantEven(t, c.take(), 20, 20*time.Millisecond, 1012, "reconnect")
		s.wantTunnels("a 20, b 0, c 20")
		s.wantCauses(wsproxy.CauseDrain, 20)
		c.join(10)
		s.setBackends("abc")
		s.opened = nil
		c.join(25)
		s.wantTunnels("a 25, b 25, c 25")
	})
}

func TestSetBackendsWithoutDrainStopsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newCrowdedScene(t, 60)
		s.setBackends("aBc")
		time.Sleep(10 * time.Millisecond)
		s.setBackends("aBc") // again
		s.setBackends("abc")
		n := len(c.take())
		time.Sleep(time.Hour)
		if after := len(c.take()); n < 9 || n > 11 || after > 0 {
			t.Errorf("%d clients were closed, and %d afterwards; want half of 20, and none", n, after)
		}
		s.wantState("b", wsproxy.BackendUp)
		s.setBackends("aBc")
		s.setBackends("ac") // is no end
		time.Sleep(time.Second)
		if after := len(c.take()); n+after != 20 {
			t.Errorf("%d clients were closed in all; want 20", n+after)
		}
	})
}

func TestNewWithDrainHasNothingToClose(t *testing.T) {
	leaktest.Check(t)
	p := proxytest.NewProxy(t, wsproxy.WithBackendConfigs(configsOf("aB")...))
	if got := p.Backends()[1].State(); got != wsproxy.BackendDraining {
		t.Errorf("backend b is %v; want draining", got)
	}
	if err := p.SetBackends(configsOf("AB")...); err != nil {
		t.Fatal(err)
	} // without a goroutine: the proxy is not closed before leaktest looks
	if err := p.Drain(t.Context(), "a", 0); err != nil {
		t.Errorf("Drain() = %v; want nil: there is no tunnel", err)
	}
}

func TestDrainAndBackendConfigDrainAreIndependent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newCrowdedScene(t, 60)
		done := s.startDrain(t.Context(), "b", time.Minute)
		time.Sleep(30 * time.Second)
		s.setBackends("aBc") // the pace of Drain stays
		time.Sleep(20 * time.Second)
		if n := len(c.take()); n < 15 || n > 18 {
			t.Errorf("%d clients were closed after 50 s; want 16 or 17", n)
		}
		if err := s.p.Resume("b"); err == nil || !strings.Contains(err.Error(), "BackendConfig.Drain") {
			t.Errorf("Resume() = %v of a backend whose configuration drains it; want an error that says so", err)
		}
		wantWaiting(t, done)
		s.setBackends("abc")
		s.wantState("b", wsproxy.BackendDraining) // because of Drain
		time.Sleep(10 * time.Second)
		wantEnd(t, done, nil)
		s.setBackends("aBc")
		s.setBackends("abc")
		s.wantState("b", wsproxy.BackendDraining)
		if err := s.p.Resume("b"); err != nil {
			t.Errorf("Resume() = %v; want nil", err)
		}
		s.wantState("b", wsproxy.BackendUp)
	})
}

func TestDrainTakesOverFromBackendConfigDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newCrowdedScene(t, 60)
		s.setBackends("aBc")
		time.Sleep(10 * time.Millisecond)
		done := s.startDrain(t.Context(), "b", time.Hour)
		time.Sleep(time.Minute)
		if n := len(c.take()); n < 9 || n > 12 {
			t.Errorf("%d clients were closed; want half of 20, and hardly more", n)
		}
		time.Sleep(time.Hour)
		wantEnd(t, done, nil)
	})
}

func TestBackendConfigDrainClosesWhatADrainHasLeft(t *testing.T) {
	for _, isFirst := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s, _ := newCrowdedScene(t, 60)
			if isFirst {
				s.setBackends("aBc")
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			done := s.startDrain(ctx, "b", time.Hour)
			s.setBackends("aBc")
			time.Sleep(time.Minute - time.Second)
			if n := s.backend("b").NumTunnels(); n < 18 {
				t.Errorf("b has %d of 20 tunnels after a minute of an hour", n)
			}
			time.Sleep(time.Second)
			wantEnd(t, done, context.DeadlineExceeded)
			time.Sleep(9 * time.Second)
			s.wantTunnels("a 20, b 0, c 20")
		})
	}
}

func TestResumedBackendStartsSlowly(t *testing.T) {
	resumes := map[string]func(*scene) error{
		"Resume":      func(s *scene) error { return s.p.Resume("b") },
		"SetBackends": func(s *scene) error { return s.p.SetBackends(configsOf("abc")...) },
	}
	for name, resume := range resumes {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := newCrowdedScene(t, 20, backendsAt("a", "b"), wsproxy.WithSlowStart(time.Minute))
				if name == "Resume" {
					if err := s.p.Drain(t.Context(), "b", -1); err != nil {
						t.Fatal(err)
					}
				} else {
					s.setBackends("aB")
					time.Sleep(time.Second)
				}
				if err := resume(s); err != nil {
					t.Fatal(err)
				}
				s.opened = nil
				c.join(5)
				if got := s.backend("b").NumTunnels(); got > 2 {
					t.Errorf("b got %d of 5 new tunnels; want 1, which is a tenth of those at a", got)
				}
			})
		})
	}
}

func TestShutdownSpreadsTunnelsEvenly(t *testing.T) {
	for _, tt := range []struct{ left, over time.Duration }{
		{time.Minute, 60 * time.Millisecond}, {50 * time.Millisecond, 30 * time.Millisecond}, {0, 60 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, c := newCrowdedScene(t, 60)
			ctx := t.Context()
			if tt.left > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, tt.left)
				defer cancel()
			}
			if err := s.p.Shutdown(ctx); err != nil {
				t.Errorf("Shutdown() = %v; want nil", err)
			}
			wantEven(t, c.take(), 60, tt.over, 1001, "shutting down")
			s.wantTunnels("a 0, b 0, c 0")
		})
	}
}

// What ends a drain under way, or a shutdown.
func TestShutdownAndCloseTakeOver(t *testing.T) {
	for _, tt := range []struct {
		name  string
		begin func(s *scene) <-chan error
		end   func(p *wsproxy.Proxy) error
		want  error // of begin
		isCut bool  // the tunnels are
	}{
		{"Shutdown during Drain", func(s *scene) <-chan error { return s.startDrain(s.t.Context(), "b", time.Hour) },
			func(p *wsproxy.Proxy) error { return p.Shutdown(context.Background()) }, wsproxy.ErrShutdown, false},
		{"Close during Drain", func(s *scene) <-chan error { return s.startDrain(s.t.Context(), "b", time.Hour) },
			(*wsproxy.Proxy).Close, wsproxy.ErrShutdown, true},
		{"Close during Shutdown", func(s *scene) <-chan error {
			done := proxytest.ShutDown(s.t.Context(), s.p)
			time.Sleep(10 * time.Millisecond)
			return done
		}, (*wsproxy.Proxy).Close, nil, true},
		{"Shutdown twice", func(s *scene) <-chan error { return proxytest.ShutDown(s.t.Context(), s.p) },
			func(p *wsproxy.Proxy) error { return p.Shutdown(context.Background()) }, nil, false},
		{"Shutdown during BackendConfig.Drain", func(s *scene) <-chan error {
			done := make(chan error, 1)
			done <- s.p.SetBackends(configsOf("aBc")...)
			return done
		}, func(p *wsproxy.Proxy) error { return p.Shutdown(context.Background()) }, nil, false},
		{"Shutdown during CloseTunnels", func(s *scene) <-chan error {
			done := make(chan error, 1)
			go func() {
				_, err := s.p.CloseTunnels(s.t.Context(), nil, wsproxy.CloseOptions{Over: time.Hour})
				done <- err
			}()
			return done
		}, func(p *wsproxy.Proxy) error { return p.Shutdown(context.Background()) }, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := newCrowdedScene(t, 60)
				done := tt.begin(s)
				if err := tt.end(s.p); err != nil {
					t.Errorf("the second call = %v; want nil", err)
				}
				if took := time.Since(c.start); took > time.Second {
					t.Errorf("it took %v", took)
				}
				err := <-done
				if drain := (*wsproxy.DrainError)(nil); tt.want == nil && tt.isCut && errors.As(err, &drain) {
					err = nil
				}
				if !errors.Is(err, tt.want) || tt.want == nil && err != nil {
					t.Errorf("the first call = %v; want %v", err, tt.want)
				}
				s.wantTunnels("a 0, b 0, c 0")
				if n := len(c.take()); n != 60 && !tt.isCut {
					t.Errorf("clients got %d Close frames; want one each", n)
				}
				if err := s.p.Drain(t.Context(), "b", 0); err != wsproxy.ErrShutdown {
					t.Errorf("Drain() = %v after the end; want ErrShutdown", err)
				}
			})
		})
	}
}

// sickly returns an option for a check of each backend every 10 s, which fails for those of
// isSick, and has their tunnels closed after that time.
func sickly(after time.Duration, isSick func(id string) bool) wsproxy.Option {
	return wsproxy.WithHealthCheck(wsproxy.HealthCheck{
		Fall: 1, Rise: 1, DrainAfter: after,
		Probe: func(_ context.Context, b *wsproxy.Backend) error {
			if isSick(b.ID()) {
				return errors.New("sick")
			}
			return nil
		},
	})
}

func TestDrainAfterClosesTheTunnelsOfABackendThatIsDown(t *testing.T) {
	for _, after := range []time.Duration{0, 30 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			var isSick atomic.Bool
			s, c := newCrowdedScene(t, 60, sickly(after, func(id string) bool { return id == "b" && isSick.Load() }))
			time.Sleep(time.Minute)
			isSick.Store(true)
			time.Sleep(29 * time.Second)
			if n := len(c.take()); n > 0 {
				t.Errorf("%d clients were closed in 29 s; want none", n)
			}
			s.wantState("b", wsproxy.BackendFailing)
			time.Sleep(31 * time.Second)
			closings := c.take()
			if after == 0 {
				if len(closings) > 0 {
					t.Errorf("%d clients were closed without DrainAfter", len(closings))
				}
				return
			}
			if len(closings) != 20 || closings[0].code != 1012 || closings[0].reason != "backend down" || closings[19].at-closings[0].at > 20*time.Millisecond {
				t.Errorf("clients were closed: %v; want the 20 of b within 20 ms", closings)
			}
			s.wantCauses(wsproxy.CauseBackendDown, 20)
			s.wantTunnels("a 20, b 0, c 20")
			if lines := s.book.Lines("level=WARN", "has failed its check for long", "backend=b", "tunnels=20"); len(lines) != 1 {
				t.Errorf("lines about the closed tunnels: %q; want one", lines)
			}
			isSick.Store(false)
			time.Sleep(time.Minute)
			s.wantState("b", wsproxy.BackendUp)
		})
	}
}

// All backends are down, so that new tunnels get them all the same.
func TestDrainAfterLeavesTunnelsThatOpenLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newCrowdedScene(t, 30, sickly(30*time.Second, func(string) bool { return true }))
		time.Sleep(time.Minute)
		if n := len(c.take()); n != 30 {
			t.Errorf("%d clients were closed; want all", n)
		}
		c.join(30)
		time.Sleep(time.Hour)
		if n := len(c.take()); n > 0 {
			t.Errorf("%d clients that came later were closed; want none", n)
		}
		s.wantTunnels("a 10, b 10, c 10")
	})
}

// 3,000 tunnels take 3 s, and the check passes in the middle.
func TestDrainAfterStopsWhenTheCheckPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var isWell atomic.Bool
		const n = 3000
		probe := func(context.Context, *wsproxy.Backend) error {
			if isWell.Load() {
				return nil
			}
			return errors.New("sick")
		}
		s, c := newCrowdedScene(t, n, backendsAt("a"), wsproxy.WithHealthCheck(wsproxy.HealthCheck{
			Interval: time.Second, Fall: 1, Rise: 1, DrainAfter: 10 * time.Second, Probe: probe,
		}))
		began := time.Now()
		for len(s.book.Lines("has failed its check for long")) == 0 {
			if time.Since(began) > time.Minute {
				t.Fatal("no tunnel is closed")
			}
			time.Sleep(100 * time.Millisecond)
		}
		isWell.Store(true)
		time.Sleep(time.Minute)
		if closed := len(c.take()); closed == 0 || closed > n/2 {
			t.Errorf("%d of %d clients were closed; want those of a second at most", closed, n)
		}
		isWell.Store(false)
		time.Sleep(time.Minute)
		s.wantTunnels("a 0")
	})
}

func TestDrainAfterLeavesTheTunnelsToADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newCrowdedScene(t, 60, sickly(30*time.Second, func(id string) bool { return id == "b" }))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		done := s.startDrain(ctx, "b", 10*time.Minute)
		time.Sleep(5*time.Minute - time.Second)
		if n := len(c.take()); n < 9 || n > 11 {
			t.Errorf("%d clients were closed in the first half; want half of 20", n)
		}
		time.Sleep(time.Second)
		wantEnd(t, done, context.DeadlineExceeded)
		time.Sleep(time.Minute)
		if got := s.backend("b").NumTunnels(); got != 0 {
			t.Errorf("b has %d tunnels, and nobody closes them; want none", got)
		}
	})
}

// A call of Drain takes over in the middle of 20 ms, and leaves most of the tunnels.
func TestDrainAfterClosesWhatADrainThatTookOverHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newCrowdedScene(t, 60, sickly(30*time.Second, func(id string) bool { return id == "b" }))
		b := s.backend("b")
		for time.Since(s.start) < time.Minute && b.NumTunnels() == 20 {
			time.Sleep(time.Millisecond)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var drain *wsproxy.DrainError
		if err := s.p.Drain(ctx, "b", time.Hour); !errors.As(err, &drain) || drain.Left < 15 {
			t.Errorf("Drain() = %v; want one that leaves most of 20 tunnels", err)
		}
		time.Sleep(time.Minute)
		s.wantTunnels("a 20, b 0, c 20")
	})
}

// Everything at once, and at random.
func TestDrainAndResumeAreSafeAtAnyTime(t *testing.T) {
	leaktest.Check(t)
	seed := rand.Uint64()
	urls := []string{wstest.StartEcho(t), wstest.StartEcho(t), wstest.StartEcho(t)}
	p, site := proxytest.Start(t, wsproxy.WithBackends(urls...), queueOf(100), wsproxy.WithHealthCheck(wsproxy.HealthCheck{
		Interval: 20 * time.Millisecond, Fall: 1, Rise: 1, DrainAfter: time.Nanosecond,
		Probe: func(context.Context, *wsproxy.Backend) error {
			if rand.IntN(2) == 0 {
				return errors.New("sick")
			}
			return nil
		},
	}))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 8 {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		wg.Go(func() {
			for ctx.Err() == nil {
				meddle(ctx, p, urls, r)
			}
		})
	}
	for range 20 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if c, _, err := websocket.Dial(ctx, site.URL, nil); err == nil {
					c.Read(ctx) // until the proxy closes it
					c.CloseNow()
				}
			}
		})
	}
	wg.Wait()
	if err := p.Shutdown(t.Context()); err != nil {
		t.Errorf("seed %d: Shutdown() = %v; want nil", seed, err)
	}
	proxytest.WantNoTunnels(t, p)
}

// meddle does one thing of those that an operator may do.
func meddle(ctx context.Context, p *wsproxy.Proxy, urls []string, r *rand.Rand) {
	id := urls[r.IntN(len(urls))]
	ctx, cancel := context.WithTimeout(ctx, time.Duration(r.IntN(50))*time.Millisecond)
	defer cancel()
	over := time.Duration(r.IntN(100)-20) * time.Millisecond
	switch r.IntN(5) {
	case 0, 1:
		p.Drain(ctx, id, over)
	case 2:
		p.Resume(id)
	case 3:
		var configs []wsproxy.BackendConfig
		for _, u := range urls {
			if r.IntN(4) > 0 {
				configs = append(configs, wsproxy.BackendConfig{URL: u, Drain: r.IntN(3) == 0})
			}
		}
		p.SetBackends(configs...)
	case 4:
		p.CloseTunnels(ctx, func(t *wsproxy.Tunnel) bool { return t.ID()%3 == 0 }, wsproxy.CloseOptions{Over: over})
	}
}
