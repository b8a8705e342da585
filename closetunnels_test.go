package wsproxy_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// An audience is clients of a scene that answer the Close frame of the proxy. Their fields are for
// the test to read while nothing goes on.
type audience struct {
	s  *scene
	wg sync.WaitGroup

	comesBack bool // a client that is closed with 1012 opens another tunnel at once

	mu       sync.Mutex
	start    time.Time    // when the last one had joined
	closings []closeEvent // in their order
}

// A closeEvent is a Close frame that a client got.
type closeEvent struct {
	client int
	at     time.Duration // since the start
	code   int
	reason string
}

// gather opens a tunnel for each of n clients.
func (s *scene) gather(n int) *audience {
	c := &audience{s: s}
	c.join(n)
	return c
}

func (c *audience) join(n int) {
	c.s.t.Helper()
	for i := range n {
		peer, _ := c.s.open(i)
		c.wg.Go(func() { c.stay(i, peer) }) // until its tunnel ends
	}
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.start = time.Now()
}

// stay reads until a Close frame comes, and answers it.
func (c *audience) stay(client int, peer *wstest.Peer) {
	defer peer.Conn().Close() // if it is closed already, that is no fault
	peer.Conn().SetDeadline(time.Time{})
	for {
		f, err := peer.ReadFrame()
		if err != nil {
			return
		}
		if f.Opcode != wstest.OpClose {
			continue
		}
		code := int(f.Payload[0])<<8 | int(f.Payload[1])
		c.mu.Lock()
		c.closings = append(c.closings, closeEvent{client, time.Since(c.start), code, string(f.Payload[2:])})
		c.mu.Unlock()
		peer.WriteFrames(wstest.Close(uint16(code), ""))
		if c.comesBack && code == 1012 {
			again := c.s.site.Dial(c.s.t)
			again.WriteRequest(proxytest.UpgradeTo("/chat", fmt.Sprintf("X-Forwarded-For: 198.51.%d.%d", client/256, client%256)))
			if resp := again.ReadResponse(); resp.StatusCode == http.StatusSwitchingProtocols {
				c.wg.Go(func() { c.stay(client, again) })
			}
		}
		return
	}
}

// take returns the closings since the last call.
func (c *audience) take() []closeEvent {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	closings := c.closings
	c.closings = nil
	return closings
}

// wantEven checks that there were n closings with that code and reason, spread evenly over
// a time from its beginning.
func wantEven(t *testing.T, closings []closeEvent, n int, over time.Duration, code int, reason string) {
	t.Helper()
	if len(closings) != n {
		t.Errorf("%d clients got a Close frame; want %d", len(closings), n)
		return
	}
	for i, c := range closings {
		slot := over / time.Duration(n)
		if from, to := time.Duration(i)*slot, time.Duration(i+1)*slot; c.at < from-1000 || c.at > to+1000 {
			t.Errorf("closing %d of %d came at %v; want it between %v and %v", i, n, c.at, from, to)
			return
		}
		if c.code != code || c.reason != reason {
			t.Errorf("closing %d is %d %q; want %d %q", i, c.code, c.reason, code, reason)
			return
		}
	}
}

// newCrowdedScene returns a scene whose backends all answer, with n clients.
func newCrowdedScene(t *testing.T, n int, opts ...wsproxy.Option) (*scene, *audience) {
	s := newScene(t, opts...)
	s.set("abc", proxytest.FakeBackend{Answer: proxytest.Switching})
	c := s.gather(n)
	t.Cleanup(c.wg.Wait)
	t.Cleanup(func() { s.p.Close() })
	return s, c
}

func TestCloseTunnelsSpreadsThemEvenly(t *testing.T) {
	for _, tt := range []struct {
		name string
		o    wsproxy.CloseOptions
		left time.Duration // of the context; 0: no deadline
		over time.Duration
		code int
		text string
	}{
		{"a thousand a second", wsproxy.CloseOptions{}, 0, 30 * time.Millisecond, 1012, "reconnect"},
		{"most of the context", wsproxy.CloseOptions{}, 10 * time.Millisecond, 6 * time.Millisecond, 1012, "reconnect"},
		{"as given", wsproxy.CloseOptions{Code: 4001, Over: time.Minute}, time.Hour, time.Minute, 4001, ""},
		{"at once", wsproxy.CloseOptions{Code: 1000, Reason: "bye", Over: -1}, 0, 0, 1000, "bye"},
		{"with a reason", wsproxy.CloseOptions{Reason: "new rules", Over: time.Second}, 0, time.Second, 1012, "new rules"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := newCrowdedScene(t, 30)
				ctx := t.Context()
				if tt.left > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.left)
					defer cancel()
				}
				n, err := s.p.CloseTunnels(ctx, nil, tt.o)
				if n != 30 || err != nil {
					t.Errorf("CloseTunnels() = %d, %v; want 30, nil", n, err)
				}
				proxytest.WantNoTunnels(t, s.p)
				wantEven(t, c.take(), 30, tt.over, tt.code, tt.text)
			})
		})
	}
}

func TestCloseTunnelsClosesThoseThatMatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newCrowdedScene(t, 30)
		isAtB := func(tunnel *wsproxy.Tunnel) bool {
			for range s.p.Tunnels() { // no lock is held
				break
			}
			return tunnel.Info().Backend.ID() == "b"
		}
		if n, err := s.p.CloseTunnels(t.Context(), isAtB, wsproxy.CloseOptions{}); n != 10 || err != nil {
			t.Errorf("CloseTunnels() = %d, %v; want 10, nil", n, err)
		}
		if got := s.numTunnels(); got != "a 10, b 0, c 10" {
			t.Errorf("tunnels left: %s; want none at b", got)
		}
		if n, err := s.p.CloseTunnels(t.Context(), isAtB, wsproxy.CloseOptions{Over: time.Hour}); n != 0 || err != nil || time.Since(c.start) > time.Second {
			t.Errorf("CloseTunnels() = %d, %v after %v when none matches; want 0, nil at once", n, err, time.Since(c.start))
		}
	})
}

// numTunnels returns how many tunnels the backends of the set have, as "a 2, b 1".
func (s *scene) numTunnels() string {
	synctest.Wait()
	var parts []string
	for _, b := range s.p.Backends() {
		parts = append(parts, fmt.Sprintf("%s %d", b.ID(), b.NumTunnels()))
	}
	return strings.Join(parts, ", ")
}

func TestCloseTunnelsRefusesBadCodesAndReasons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newCrowdedScene(t, 3)
		for _, o := range []wsproxy.CloseOptions{
			{Code: 1006}, {Code: -1}, {Code: 5000}, {Reason: "\xff"}, {Code: 1000, Reason: strings.Repeat("x", 124)},
		} {
			n, err := s.p.CloseTunnels(t.Context(), nil, o)
			if n != 0 || err == nil || !strings.HasPrefix(err.Error(), "wsproxy: close tunnels: ") {
				t.Errorf("CloseTunnels(%+v) = %d, %v; want an error", o, n, err)
			}
		}
		if got := s.numTunnels(); got != "a 1, b 1, c 1" {
			t.Errorf("tunnels left: %s; want all", got)
		}
	})
}

func TestCloseTunnelsClosesNoneIfMatchPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newCrowdedScene(t, 3)
		called := 0
		n, err := s.p.CloseTunnels(t.Context(), func(*wsproxy.Tunnel) bool {
			if called++; called == 2 {
				panic("a fault")
			}
			return true
		}, wsproxy.CloseOptions{Over: -1})
		if n != 0 || err == nil || !strings.Contains(err.Error(), "a fault") {
			t.Errorf("CloseTunnels() = %d, %v; want the panic as an error", n, err)
		}
		if lines := s.book.Lines("panic in a hook", "hook=CloseTunnels"); len(lines) != 1 {
			t.Errorf("lines about the panic: %q; want one", lines)
		}
		if got := panicsOf(s.p); got != "CloseTunnels 1" {
			t.Errorf("Stats().HookPanics = %q; want one of CloseTunnels", got)
		}
		if got := s.numTunnels(); got != "a 1, b 1, c 1" {
			t.Errorf("tunnels left: %s; want all", got)
		}
	})
}

func TestCloseTunnelsStopsWhenItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newCrowdedScene(t, 30)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		n, err := s.p.CloseTunnels(ctx, nil, wsproxy.CloseOptions{Over: 30 * time.Second})
		if n < 9 || n > 11 || !errors.Is(err, context.DeadlineExceeded) || time.Since(c.start) != 10*time.Second {
			t.Errorf("CloseTunnels() = %d, %v after %v; want about 10, and the context's error after 10 s", n, err, time.Since(c.start))
		}
		time.Sleep(time.Hour)
		if got := len(c.take()); got != n {
			t.Errorf("%d clients got a Close frame; want %d", got, n)
		}
		if n, err = s.p.CloseTunnels(ctx, nil, wsproxy.CloseOptions{Over: -1}); n != 0 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("CloseTunnels() = %d, %v with a context that has ended; want 0 and its error", n, err)
		}
	})
}

// All but one of the clients leave. CloseTunnels returns when the last one has been closed in
// its turn, or has left too.
func TestCloseTunnelsDoesNotWaitForTheTurnsOfTunnelsThatHaveEnded(t *testing.T) {
	for _, left := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			s := newScene(t)
			s.set("abc", proxytest.FakeBackend{Answer: proxytest.Switching})
			var clients []*wstest.Peer
			for i := range 10 {
				c, _ := s.open(i)
				clients = append(clients, c)
			}
			done := make(chan int, 1)
			go func() {
				n, err := s.p.CloseTunnels(t.Context(), nil, wsproxy.CloseOptions{Over: 1000 * time.Hour})
				if err != nil {
					t.Errorf("CloseTunnels() = %v; want nil", err)
				}
				done <- n
			}()
			synctest.Wait()
			for _, c := range clients[left:] {
				proxytest.HangUp(t, c)
			}
			synctest.Wait()
			if left == 0 {
				select {
				case n := <-done:
					if n != 0 {
						t.Errorf("CloseTunnels() = %d; want 0", n)
					}
				default:
					t.Error("CloseTunnels waits for tunnels that have ended")
				}
				return
			}
			clients[0].Conn().SetDeadline(time.Time{})
			if f, err := clients[0].ReadFrame(); err != nil || f.Opcode != wstest.OpClose {
				t.Errorf("the last client got %v, %v; want a Close frame", f, err)
			}
			clients[0].Close()
			if n := <-done; n != 1 {
				t.Errorf("CloseTunnels() = %d; want 1", n)
			}
		})
	}
}

func TestCloseTunnelsTwiceClosesEachTunnelOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newCrowdedScene(t, 100)
		numbers := make(chan int, 2)
		for range 2 {
			go func() {
				n, err := s.p.CloseTunnels(t.Context(), nil, wsproxy.CloseOptions{Over: 10 * time.Second})
				if err != nil {
					t.Errorf("CloseTunnels() = %v; want nil", err)
				}
				numbers <- n
			}()
		}
		if sum := <-numbers + <-numbers; sum != 100 {
			t.Errorf("both calls have closed %d tunnels in all; want 100", sum)
		}
		if got := len(c.take()); got != 100 {
			t.Errorf("clients got %d Close frames; want 100", got)
		}
	})
}
