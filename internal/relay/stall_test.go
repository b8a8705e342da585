package relay

import (
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

var watching = setup{Config: Config{WatchStalls: true}}

// longEnough is how long a side takes nothing before a test takes it for stalled.
const longEnough = 300 * time.Millisecond

// flood makes a side send more than all buffers hold, and returns how much that is.
func (s *scene) flood(from Side) (bytes int) {
	src, _ := s.peers(from)
	message := wire(from, wstest.Binary(make([]byte, 24<<20)))
	go src.Conn().Write(message) // until it is read, or the end
	return len(message)
}

// wantStalled waits until a side is stalled.
func (s *scene) wantStalled() {
	s.t.Helper()
	s.wantStall("as long", func(is time.Duration) bool { return is >= longEnough })
}

func (s *scene) wantStall(what string, is func(time.Duration) bool) {
	s.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !is(s.StalledFor()); <-tick.C {
		if time.Now().After(deadline) {
			s.t.Fatalf("stalled for %v; want it to be %s", s.StalledFor(), what)
		}
	}
}

func TestSideThatTakesNothingIsCutAndTheOtherHearsOfIt(t *testing.T) {
	tests := []struct {
		stalled, from Side
		code          int
		reason        string
	}{
		{Client, Backend, 1001, "client stalled"},
		{Backend, Client, 1012, "backend stalled"},
	}
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		for _, tt := range tests {
			t.Run(tt.stalled.String(), func(t *testing.T) {
				t.Parallel() // stalling takes time
				s := e.start(t, n, watching)
				s.flood(tt.from)
				s.wantStalled()
				s.CutStalled(time.Hour)
				if s.StalledFor() == 0 {
					t.Fatal("a bound of an hour has ended it")
				}
				s.CutStalled(longEnough)
				if is := s.StalledFor(); is != 0 {
					t.Errorf("the end has begun, and it is stalled for %v; want it not to count", is)
				}
				other, _ := s.peers(tt.from)
				other.Want(wstest.Close(uint16(tt.code), tt.reason))
				other.Close()
				err := s.wantEnd(End{Side: tt.stalled, Cause: CauseStalled, Code: tt.code, Cut: true})
				if err == nil || !strings.HasPrefix(err.Error(), "took nothing for ") {
					t.Errorf("ended with error %v; want one that says for how long", err)
				}
			})
		}
	})
}

// The bound is for memory of the kernel's, which it would keep for a peer that does
// not read for as long as it sends probes.
func TestWhatIsKeptForASideThatIsCutIsForgotten(t *testing.T) {
	forEachEngine(t, func(t *testing.T, e engine) {
		s := e.start(t, networks[0], watching)
		s.flood(Backend)
		s.wantStalled()
		s.CutStalled(longEnough)
		// The backend says nothing meanwhile.
		if _, err := io.Copy(io.Discard, s.client.Conn()); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client's stream ended with %v; want a reset", err)
		}
		s.backend.WantClose(1001)
		s.backend.Close()
		s.wait()
	})
}

func TestTunnelWhoseSidesBothTakeNothingEnds(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		t.Parallel()
		s := e.start(t, n, watching)
		s.flood(Client)
		s.flood(Backend)
		s.wantStalled()
		s.CutStalled(longEnough)
		// Whether one or both have been stalled for long enough is the machine's to say.
		if end := s.wait(); end.Cause != CauseStalled || !end.Cut {
			t.Errorf("ended with %+v; want a cut", end)
		}
	})
}

func TestStallEndsWhenTheSideTakesAgain(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, e engine, n network) {
		for _, from := range []Side{Client, Backend} {
			t.Run(from.String(), func(t *testing.T) {
				t.Parallel()
				s := e.start(t, n, watching)
				sent := s.flood(from)
				s.wantStalled()
				_, dst := s.peers(from)
				go io.CopyN(io.Discard, dst, int64(sent)) // ends with what was sent
				s.wantStall("over", func(is time.Duration) bool { return is == 0 })
				s.CutStalled(time.Nanosecond)
				s.wantRunning()
			})
		}
	})
}

func TestTunnelThatIsNotWatchedIsNotCut(t *testing.T) {
	forEachEngine(t, func(t *testing.T, e engine) {
		s := e.start(t, networks[0], setup{})
		stall(t, s, Client)
		if is := s.StalledFor(); is != 0 {
			t.Errorf("stalled for %v; want nobody to know", is)
		}
		s.CutStalled(0)
		s.wantRunning()
	})
}

func TestWaitBeginsAnewWithEachPartThatIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &newStalls(watching.Config).client
		wantLasts := func(want time.Duration) {
			t.Helper()
			if got := w.lasts(); got != want {
				t.Errorf("after %v it lasts for %v; want %v", time.Since(w.start), got, want)
			}
		}
		w.note(0, 1000)
		wantLasts(0)
		w.note(500, 1000)
		time.Sleep(time.Second)
		wantLasts(time.Second)
		w.note(500, 1000) // looked at, and nothing has changed
		wantLasts(time.Second)
		w.note(499, 1001)
		wantLasts(0)
		time.Sleep(time.Second)
		wantLasts(time.Second)
		w.note(499, 1501) // all of that, and something else waits that is as long
		wantLasts(0)
		time.Sleep(time.Second)
		w.note(0, 2000)
		time.Sleep(time.Second)
		wantLasts(0)
	})
}

func TestStallIsMeasuredAndItsEndWaitsForNobodyLong(t *testing.T) {
	sideInBubble(t, func(t *testing.T, e engine, from Side) {
		s := e.start(t, memory(1<<10), watching)
		src, _ := s.peers(from)
		go src.WriteFrames(wstest.Binary(make([]byte, 1<<20))) // until the end
		synctest.Wait()
		time.Sleep(3 * time.Second)
		if is := s.StalledFor(); is != 3*time.Second {
			t.Errorf("stalled for %v; want 3 s", is)
		}
		start := time.Now()
		s.CutStalled(time.Second)
		code, side := 1001, Client
		if from == Client {
			code, side = 1012, Backend
		}
		src.WantClose(uint16(code)) // and no answer
		s.wantEndAfter(start, drainTimeout, End{Side: side, Cause: CauseStalled, Code: code, Cut: true})
	})
}

func TestNobodyIsWaitedForWhereNobodyTakesAnything(t *testing.T) {
	inBubble(t, func(t *testing.T, e engine) {
		s := e.start(t, memory(1<<10), watching)
		go s.client.WriteFrames(wstest.Binary(make([]byte, 1<<20))) // until the end
		go s.backend.WriteFrames(wstest.Binary(make([]byte, 1<<20)))
		synctest.Wait()
		time.Sleep(time.Second)
		start := time.Now()
		s.CutStalled(time.Second)
		s.wantEndAfter(start, 0, End{Side: Client, Cause: CauseStalled, Cut: true})
	})
}
