//go:build linux && !wsproxy_portable

package relay

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// onLoops returns an engine whose tunnels share loops, and the loops.
func onLoops(t *testing.T) (engine, *Loops) {
	t.Helper()
	loops := NewLoops()
	return engineOf(t, loops), loops
}

func TestTunnelsOfTheSameLoopsDoNotDisturbEachOther(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4)) // so that there are two loops
	const tunnels = 60
	e, _ := onLoops(t)
	var scenes []*scene
	for i := range tunnels {
		s := e.start(t, networks[i%2], setup{fromClient: masked(wstest.Text("early"))})
		s.backend.Want(wstest.Text("early"))
		scenes = append(scenes, s)
	}
	var talks sync.WaitGroup
	errs := make(chan error, tunnels)
	for i, s := range scenes {
		talks.Go(func() { errs <- talk(s, rand.NewChaCha8([32]byte{byte(i)})) })
	}
	talks.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	for i, s := range scenes {
		endSomehow(s, i%4)
	}
}

// talk sends messages of all sizes to and fro.
func talk(s *scene, random *rand.ChaCha8) error {
	for range 10 {
		message := wstest.Binary(make([]byte, random.Uint64()%100_000))
		random.Read(message.Payload)
		for _, from := range bothSides {
			src, dst := s.peers(from)
			sent := make(chan error, 1)
			go func() { sent <- src.WriteFrames(message) }()
			got, err := dst.ReadFrame()
			if err := errors.Join(err, <-sent); err != nil {
				return err
			}
			if !bytes.Equal(got.Payload, message.Payload) {
				return fmt.Errorf("a message of %d bytes arrived as something else", len(message.Payload))
			}
		}
	}
	return nil
}

// endSomehow ends a tunnel in one of four ways.
func endSomehow(s *scene, way int) {
	switch way {
	case 0:
		s.Goodbye(CauseShutdown, 0, "")
		s.wantGoodbye()
	case 1:
		s.Cut(CauseShutdown)
		s.wait()
	case 2:
		s.client.Send(wstest.Close(1000, ""))
		s.backend.WantClose(1000)
		s.backend.Send(wstest.Close(1000, ""))
		s.client.WantClose(1000)
		s.hangUp()
		s.wantEnd(End{Side: Client, Cause: CauseClosed, Code: 1000})
	default:
		s.client.Close()
		s.backend.WantClose(1001)
		s.backend.Send(wstest.Close(1001, ""))
		s.backend.Close()
		s.wait()
	}
}

func TestLoopsMayBeClosedWhileTunnelsBegin(t *testing.T) {
	for range 50 {
		e, loops := onLoops(t)
		var closing sync.WaitGroup
		var scenes []*scene
		for i := range 6 {
			if i == 3 {
				closing.Go(loops.Close)
			}
			s := e.start(t, networks[i%2], setup{fromBackend: unmasked(wstest.Text("early"))})
			scenes = append(scenes, s)
		}
		for _, s := range scenes {
			s.client.Want(wstest.Text("early"))
			s.client.Send(wstest.Text("hello"))
			s.backend.Want(wstest.Text("hello"))
		}
		for _, s := range scenes {
			s.Cut(CauseShutdown)
			s.wait()
		}
		closing.Wait()
	}
}

// fallBacks are why a tunnel that was meant for the event loop gets the portable
// engine in Run.
var fallBacks = map[string]func(*Loops, *looped){
	"the loops are closed": func(loops *Loops, _ *looped) { loops.Close() },
	"the loop can watch no more": func(_ *Loops, t *looped) {
		t.loop.poller.Add("somebody else", &t.sockets[clientLink]) // which can be watched once only
	},
}

func TestTunnelThatItsLoopCannotTakeGetsThePortableEngine(t *testing.T) {
	acts := map[string]struct {
		before, after func(*scene)
	}{
		"and relays": {
			before: func(*scene) {},
			after: func(s *scene) {
				s.Goodbye(CauseShutdown, 0, "")
				s.wantGoodbye()
			},
		},
		"a goodbye was said before": {
			before: func(s *scene) { s.Goodbye(CauseShutdown, 0, "") },
			after:  func(s *scene) { s.wantGoodbye() },
		},
		"a goodbye is said meanwhile": {
			before: func(s *scene) { go s.Goodbye(CauseShutdown, 0, "") },
			after:  func(s *scene) { s.wantGoodbye() },
		},
		"it was cut before": {
			before: func(s *scene) { s.Cut(CauseShutdown) },
			after:  func(s *scene) { s.wantEnd(End{Side: Proxy, Cause: CauseShutdown, Cut: true}) },
		},
		"it is cut meanwhile": {
			before: func(s *scene) { go s.Cut(CauseShutdown) },
			after:  func(s *scene) { s.wantEnd(End{Side: Proxy, Cause: CauseShutdown, Cut: true}) },
		},
	}
	for why, prevent := range fallBacks {
		for name, act := range acts {
			t.Run(why+", "+name, func(t *testing.T) {
				for range 20 { // for what happens meanwhile
					e, loops := onLoops(t)
					s := e.prepare(t, networks[0], setup{})
					r := s.tunnel.(*Relay)
					if r.Engine() != EventLoop {
						t.Fatalf("engine is %v", r.Engine())
					}
					prevent(loops, r.driver.(*looped))
					act.before(s)
					s.begin()
					if name == "and relays" {
						s.client.Send(wstest.Text("hello"))
						s.backend.Want(wstest.Text("hello"))
					}
					act.after(s)
					if r.Engine() != Portable {
						t.Errorf("engine is %v", r.Engine())
					}
				}
			})
		}
	}
}

func TestFallBackKeepsTheTimesThatBoundTheEnd(t *testing.T) {
	t.Parallel()
	e, loops := onLoops(t)
	s := e.prepare(t, networks[0], setup{})
	loops.Close()
	start := time.Now()
	s.Goodbye(CauseCaller, 4000, "")
	s.begin()
	s.client.WantClose(4000)
	s.backend.WantClose(1001) // and neither answers
	s.wantEndSoonAfter(start, lingerTimeout, End{Side: Proxy, Cause: CauseCaller, Code: 4000, Cut: true})
}

// wantEndSoonAfter is wantEndAfter in real time, as exact as sweeps are.
func (s *scene) wantEndSoonAfter(start time.Time, d time.Duration, want End) {
	s.t.Helper()
	s.wantEnd(want)
	if took := time.Since(start); took < d || took > d+drainTimeout+2*time.Second {
		s.t.Errorf("ended after %v; want %v", took, d)
	}
}

// What bounds a tunnel's end is kept by sweeps, also where nothing else happens.
func TestQuietLoopKeepsTheTimesThatBoundTheEnd(t *testing.T) {
	tests := map[string]struct {
		begin func(*scene)
		after time.Duration
		want  End
	}{
		"nobody answers a goodbye": {
			begin: func(s *scene) {
				s.Goodbye(CauseCaller, 4000, "")
				s.client.WantClose(4000)
				s.backend.WantClose(1001)
			},
			after: lingerTimeout, // sides that were sent a Close frame have had their time
			want:  End{Side: Proxy, Cause: CauseCaller, Code: 4000, Cut: true},
		},
		"nobody ends his stream": {
			begin: func(s *scene) {
				s.client.Send(wstest.Close(1000, ""))
				s.backend.WantClose(1000)
				s.backend.Send(wstest.Close(1000, ""))
				s.client.WantClose(1000)
			},
			after: drainTimeout,
			want:  End{Side: Client, Cause: CauseClosed, Code: 1000},
		},
		"a Close is not answered": {
			begin: func(s *scene) {
				s.client.Send(wstest.Close(1000, ""))
				s.backend.WantClose(1000)
			},
			after: lingerTimeout,
			want:  End{Side: Client, Cause: CauseClosed, Code: 1000, Cut: true},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, _ := onLoops(t)
			s := e.start(t, networks[0], setup{})
			start := time.Now()
			tt.begin(s)
			s.wantEndSoonAfter(start, tt.after, tt.want)
		})
	}
}

// withoutDescriptors runs f while no descriptor is to be had.
func withoutDescriptors(t *testing.T, f func()) {
	t.Helper()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	lowest, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	none := syscall.Rlimit{Cur: uint64(lowest.Fd()), Max: before.Max}
	lowest.Close()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before)
	if f, err := os.Open(os.DevNull); !errors.Is(err, syscall.EMFILE) {
		f.Close()
		t.Fatalf("a file can be opened: %v", err)
	}
	f()
}

func TestWithoutDescriptorsLargeMessagesAreCopied(t *testing.T) {
	e, l := oneLoop(t)
	s := e.start(t, networks[0], setup{})
	wantEntered(t, l, 1)
	big := wstest.Binary(bytes.Repeat([]byte("0123456789"), 400_000))
	pass := func() {
		for _, from := range bothSides {
			src, dst := s.peers(from)
			go src.WriteFrames(big)
			dst.Want(big)
		}
	}
	withoutDescriptors(t, pass)
	pass()
	s.Goodbye(CauseShutdown, 0, "")
	s.wantGoodbye()
	l.close()
	<-l.done
	if l.pipe.without == 0 {
		t.Error("a pipe was to be had")
	}
}

func TestWithoutDescriptorsATunnelGetsThePortableEngine(t *testing.T) {
	e, _ := onLoops(t)
	warm := e.start(t, networks[0], setup{}) // so that there are loops
	warm.client.Send(wstest.Text("hello"))
	warm.backend.Want(wstest.Text("hello"))

	nearClient, farClient := tcpPair(t)
	nearBackend, farBackend := tcpPair(t)
	client, backend := wstest.NewClient(t, farClient), wstest.NewBackend(t, farBackend)
	ended := make(chan struct{})
	withoutDescriptors(t, func() {
		r := e.open(leg{conn: nearClient}, leg{conn: nearBackend}, Config{}).(*Relay)
		if r.Engine() != Portable {
			t.Errorf("engine is %v", r.Engine())
		}
		go func() {
			r.Run()
			close(ended)
		}()
		client.Send(wstest.Text("hello"))
		backend.Want(wstest.Text("hello"))
		r.Cut(CauseShutdown)
		<-ended
	})
}
