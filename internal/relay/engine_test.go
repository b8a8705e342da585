package relay

import (
	"errors"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// sharing returns e with one Engine for all its tunnels, which ends with the test.
func (e engine) sharing(t *testing.T, l Limits) engine {
	shared := NewEngine(l)
	t.Cleanup(shared.Close)
	onLoop := e.needsSockets
	e.open = func(client, backend end, c Config) tunnel {
		r := shared.New(between(client, backend, c))
		if onLoop {
			r.Open(nil, time.Second)
		}
		return r
	}
	return e
}

// flood makes a side send more than all buffers hold, and returns how much that is.
func (s *scene) flood(from Side) (bytes int) {
	src, _ := s.peers(from)
	message := wire(from, wstest.Binary(make([]byte, 24<<20)))
	go src.Conn().Write(message) // until it is read, or the end
	return len(message)
}

// wantStalled wants the tunnel to end because one side has taken nothing of what the other, from,
// has sent.
func (s *scene) wantStalled(from Side) {
	s.t.Helper()
	src, _ := s.peers(from)
	want := End{Side: otherSide(from), Cause: CauseStalled, Cut: true}
	if from == Client {
		src.Want(wstest.Close(1012, "backend stalled"))
		want.Code = 1012
	} else {
		src.WantEOF()
	}
	src.Close()
	err := s.wantEnd(want)
	if err == nil || !strings.HasPrefix(err.Error(), "took nothing for ") {
		s.t.Errorf("ended with error %v; want one that says for how long", err)
	}
}

// waitForStall waits until a side counts as stalled.
func (s *scene) waitForStall() {
	s.t.Helper()
	r := relayOf(s)
	for deadline := time.Now().Add(10 * time.Second); !isStalled(r); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatal("no side counts as stalled")
		}
	}
}

// waitForEnd waits until the tunnel begins to end.
func (s *scene) waitForEnd() {
	s.t.Helper()
	r := relayOf(s)
	for deadline := time.Now().Add(30 * time.Second); !r.IsEnding(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatal("the tunnel does not end")
		}
	}
}

func isStalled(r *Relay) bool {
	s := &r.engine.stalled
	s.mu.Lock()
	defer s.mu.Unlock()
	_, is := s.relays[r]
	return is
}

func TestEngineBoundsStalledTunnels(t *testing.T) {
	forEachNetworkAtOnce(t, func(t *testing.T, e engine, n network) {
		for _, from := range bothSides {
			t.Run("from the "+from.String(), func(t *testing.T) {
				t.Parallel() // stalling takes time
				e := e.sharing(t, Limits{Stalled: 1})
				first, second, idle := e.start(t, n, setup{}), e.start(t, n, setup{}), e.start(t, n, setup{})
				first.flood(from)
				first.waitForStall()
				first.wantRunning()
				second.flood(from)

				// The tunnel ends that has been stalled for the longest time.
				first.wantStalled(from)
				second.wantRunning()
				idle.wantRunning()
			})
		}
	})
}

// The bound is for memory of the kernel's, which it would keep for a peer that does not
// read for as long as it sends probes.
func TestEngineResetsAStalledSide(t *testing.T) {
	forEachEngineAtOnce(t, func(t *testing.T, e engine) {
		e = e.sharing(t, Limits{Stalled: 1})
		first, second := e.start(t, networks[0], setup{}), e.start(t, networks[0], setup{})
		first.flood(Backend)
		first.waitForStall()
		second.flood(Backend)
		first.backend.WantEOF()
		if _, err := io.Copy(io.Discard, first.client.Conn()); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client's stream ended with %v; want a reset", err)
		}
		first.backend.Close()
		first.wait()
	})
}

func TestEngineEndsATunnelWhoseSidesBothTakeNothing(t *testing.T) {
	forEachEngineAtOnce(t, func(t *testing.T, e engine) {
		e = e.sharing(t, Limits{Stalled: 1})
		first, second := e.start(t, networks[0], setup{}), e.start(t, networks[0], setup{})
		first.flood(Client)
		first.flood(Backend)
		first.waitForStall()
		second.flood(Client)
		// Whether one or both count as stalled depends on the machine.
		if end := first.wait(); end.Cause != CauseStalled || !end.Cut {
			t.Errorf("ended with %+v; want a cut", end)
		}
	})
}

func TestStallEndsWhenTheSideTakesAgain(t *testing.T) {
	forEachEngineAtOnce(t, func(t *testing.T, e engine) {
		for _, from := range bothSides {
			t.Run("from the "+from.String(), func(t *testing.T) {
				t.Parallel()
				e := e.sharing(t, Limits{Stalled: 1})
				first, second := e.start(t, networks[0], setup{}), e.start(t, networks[0], setup{})
				sent := first.flood(from)
				first.waitForStall()
				_, dst := first.peers(from)
				if _, err := io.CopyN(io.Discard, dst, int64(sent)); err != nil {
					t.Fatal(err)
				}
				second.flood(from)
				second.waitForStall()
				time.Sleep(2 * tickInterval)
				first.wantRunning()
				second.wantRunning()
			})
		}
	})
}

func TestEngineWithoutABoundEndsNoStalledTunnel(t *testing.T) {
	forEachEngineAtOnce(t, func(t *testing.T, e engine) {
		e = e.sharing(t, Limits{})
		first, second := e.start(t, networks[0], setup{}), e.start(t, networks[0], setup{})
		first.flood(Client)
		second.flood(Client)
		first.becomes("2 stalled tunnels", func(x Stats) bool { return x.Stalled == 2 })
		time.Sleep(4 * tickInterval)
		first.wantRunning()
		second.wantRunning()
	})
}

// becomes waits until the Stats of an engine are as a test wants them.
func (s *scene) becomes(what string, is func(Stats) bool) {
	s.t.Helper()
	e := relayOf(s).engine
	for deadline := time.Now().Add(10 * time.Second); !is(e.Stats()); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("Stats() = %+v; want %s", e.Stats(), what)
		}
	}
}

func TestEngineCountsStalledTunnelsAndTheirBytes(t *testing.T) {
	forEachEngineAtOnce(t, func(t *testing.T, e engine) {
		n := narrow(networks[0])
		for _, from := range bothSides {
			t.Run("from the "+from.String(), func(t *testing.T) {
				t.Parallel()
				e := e.sharing(t, Limits{})
				s, idle := e.start(t, n, setup{}), e.start(t, n, setup{})
				idle.client.Send(wstest.Text("hello"))
				idle.backend.Want(wstest.Text("hello"))
				s.becomes("nothing", func(x Stats) bool { return x.Buffered == 0 && x.Stalled == 0 })

				sent := s.flood(from)
				s.becomes("1 stalled tunnel, and up to 128 KiB", func(x Stats) bool {
					return x.Stalled == 1 && x.Buffered > 0 && x.Buffered <= 128<<10
				})
				_, dst := s.peers(from)
				if _, err := io.CopyN(io.Discard, dst, int64(sent)); err != nil {
					t.Fatal(err)
				}
				s.becomes("nothing again", func(x Stats) bool { return x.Buffered == 0 && x.Stalled == 0 })

				s.flood(from)
				s.becomes("bytes", func(x Stats) bool { return x.Buffered > 0 })
				s.Abort(CauseShutdown)
				s.wait()
				s.becomes("nothing after the end", func(x Stats) bool { return x.Buffered == 0 && x.Stalled == 0 })
			})
		}
	})
}

// A side is stalled when it has taken nothing for a second, and no more when the end begins.
func TestStalledTunnelsAreCountedFromTheFirstSecond(t *testing.T) {
	sideInBubble(t, func(t *testing.T, e engine, from Side) {
		e = e.sharing(t, Limits{})
		s := e.start(t, memory(1<<10), setup{})
		src, _ := s.peers(from)
		go src.WriteFrames(wstest.Binary(make([]byte, 1<<20))) // until the end
		want := func(stalled int, isBuffered bool) {
			t.Helper()
			synctest.Wait()
			if x := relayOf(s).engine.Stats(); x.Stalled != stalled || (x.Buffered > 0) != isBuffered {
				t.Errorf("Stats() has %d stalled tunnels, %d bytes; want %d, and bytes: %t", x.Stalled, x.Buffered, stalled, isBuffered)
			}
		}
		want(0, false)
		time.Sleep(2 * tickInterval)
		want(0, true)
		time.Sleep(stallTime - 3*tickInterval)
		want(0, true)
		time.Sleep(3 * tickInterval)
		want(1, true)
		s.Close(CauseShutdown, 0, "")
		time.Sleep(2 * tickInterval)
		want(0, true)
		s.Abort(CauseShutdown)
		<-s.done
		want(0, false)
	})
}

func TestStallIsMeasured(t *testing.T) {
	sideInBubble(t, func(t *testing.T, e engine, from Side) {
		e = e.sharing(t, Limits{Stalled: 1})
		var scenes []*scene
		for range 2 {
			s := e.start(t, memory(1<<10), setup{})
			src, _ := s.peers(from)
			go src.WriteFrames(wstest.Binary(make([]byte, 1<<20))) // until the end
			synctest.Wait()
			scenes = append(scenes, s)
			time.Sleep(3 * time.Second)
		}
		start := time.Now()
		select {
		case <-scenes[0].done: // the second one has been stalled for 3 s by now
		case <-time.After(2 * silenceTimeout):
			t.Fatal("the tunnel that has been stalled for the longest time has not ended")
		}
		if took := time.Since(start); took > silenceTimeout {
			t.Errorf("ended %v later; want 5 s at most", took)
		}
		if err := scenes[0].end.Err; err == nil || !strings.HasPrefix(err.Error(), "took nothing for 3.") && !strings.HasPrefix(err.Error(), "took nothing for 4") {
			t.Errorf("ended with error %v; want it to say 3 to 5 s", err)
		}
		scenes[1].wantRunning()
	})
}

func TestEngineEndsATunnelWhoseSideTakesNothing(t *testing.T) {
	forEachNetworkAtOnce(t, func(t *testing.T, e engine, n network) {
		for _, from := range bothSides {
			t.Run("from the "+from.String(), func(t *testing.T) {
				t.Parallel() // stalling takes time
				e := e.sharing(t, Limits{WriteStall: time.Second})
				s, idle := e.start(t, n, setup{}), e.start(t, n, setup{})
				s.flood(from)
				s.waitForEnd()
				s.wantStalled(from)
				idle.wantRunning()
			})
		}
	})
}

func TestSideThatTakesSlowlyIsNotStalled(t *testing.T) {
	forEachEngineAtOnce(t, func(t *testing.T, e engine) {
		for _, from := range bothSides {
			t.Run("from the "+from.String(), func(t *testing.T) {
				t.Parallel()
				e := e.sharing(t, Limits{WriteStall: 2 * time.Second})
				s := e.start(t, networks[0], setup{})
				sent := s.flood(from)
				_, dst := s.peers(from)
				start := time.Now()
				for ; sent > 0; sent -= min(sent, 64<<10) {
					if _, err := io.CopyN(io.Discard, dst, int64(min(sent, 64<<10))); err != nil {
						t.Fatal(err)
					}
					time.Sleep(10 * time.Millisecond) // it is slow
				}
				if took := time.Since(start); took < 3*time.Second {
					t.Errorf("all was taken within %v; want it to take longer than the limit", took)
				}
				s.wantRunning()
			})
		}
	})
}

func TestWriteStallIsMeasured(t *testing.T) {
	sideInBubble(t, func(t *testing.T, e engine, from Side) {
		e = e.sharing(t, Limits{WriteStall: 2 * time.Minute})
		s := e.start(t, memory(1<<10), setup{})
		src, dst := s.peers(from)
		go src.WriteFrames(wstest.Binary(make([]byte, 1<<20))) // until the end
		for range 20 {
			time.Sleep(time.Minute)
			if _, err := io.CopyN(io.Discard, dst, 32<<10); err != nil { // at least one write of the engine's
				t.Fatal(err)
			}
			s.wantRunning()
		}
		time.Sleep(2*time.Minute - time.Second)
		if relayOf(s).IsEnding() {
			t.Error("the tunnel ends before 2 min have passed in which nothing was taken")
		}
		time.Sleep(2 * time.Second)
		if !relayOf(s).IsEnding() {
			t.Error("the tunnel does not end, though nothing was taken for 2 min")
		}
	})
}

// What is recorded of tunnels is forgotten with them.
func TestEngineForgetsTunnelsThatHaveEnded(t *testing.T) {
	forEachEngineAtOnce(t, func(t *testing.T, e engine) {
		e = e.sharing(t, Limits{Stalled: 1})
		s := e.start(t, networks[0], setup{})
		s.flood(Client)
		s.waitForStall()
		s.Abort(CauseShutdown)
		s.wait()
		if isStalled(relayOf(s)) {
			t.Error("a tunnel that has ended counts as stalled")
		}
	})
}

func TestStalledExcessIsTheLongest(t *testing.T) {
	s := stalled{max: 2}
	relays := make([]*Relay, 5)
	for i := range relays {
		relays[i] = new(Relay)
		s.record(relays[i], time.Duration(i)*time.Second, Client)
	}
	s.record(relays[4], stallTime-1, Client) // takes again
	if excess := s.excess(); len(excess) != 1 || excess[0].relay != relays[3] {
		t.Errorf("%d tunnels are to end, of 3 s, 2 s, 1 s; want the first", len(excess))
	}
	if excess := s.excess(); len(excess) != 0 {
		t.Errorf("%d tunnels are to end at the second look; want none", len(excess))
	}
	s.record(relays[1], stallTime, Backend)
	s.record(relays[0], 10*time.Second, Client)
	var got []time.Duration
	for _, x := range s.excess() {
		got = append(got, x.lasts)
	}
	if !slices.Equal(got, []time.Duration{10 * time.Second}) {
		t.Errorf("tunnels of %v are to end; want that of 10 s", got)
	}
}
