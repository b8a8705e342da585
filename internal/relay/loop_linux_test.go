//go:build linux && !wsproxy_portable

package relay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/histogram"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// withOneLoop returns an engine whose tunnels share the loop that it returns too. The
// loop does not run yet, and must run at the end of the test.
func withOneLoop(t *testing.T) (engine, *loop) {
	t.Helper()
	e := NewEngine(Limits{})
	l, err := newLoop(e)
	if err != nil {
		t.Fatal(err)
	}
	e.loops.loops = []*loop{l}
	return engineOf(t, e), l
}

// runOneLoop is withOneLoop with a loop that runs.
func runOneLoop(t *testing.T) (engine, *loop) {
	t.Helper()
	e, l := withOneLoop(t)
	go l.run() // ends with the test
	return e, l
}

func TestLoopThatHasEndedTouchesNoDescriptor(t *testing.T) {
	e, l := runOneLoop(t)
	s := e.start(t, networks[0], setup{})
	s.Abort(CauseShutdown)
	<-s.done
	l.close()
	<-l.done
	reused := socketPairs(t, 16) // among them the numbers that the loop had
	s.Abort(CauseShutdown)
	for _, fd := range reused {
		if n, _, err := syscall.Recvfrom(fd, make([]byte, 100), syscall.MSG_DONTWAIT); err != syscall.EAGAIN {
			t.Errorf("descriptor %d has been written to: read %d bytes, %v", fd, n, err)
		}
	}
}

// socketPairs returns descriptors of sockets, whose numbers are the lowest that are free.
func socketPairs(t *testing.T, pairs int) []int {
	t.Helper()
	var fds []int
	for range pairs {
		pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, pair[0], pair[1])
	}
	t.Cleanup(func() {
		for _, fd := range fds {
			syscall.Close(fd)
		}
	})
	return fds
}

func TestLoopSweepsThoughTheSweepBecameDueWhileItWorked(t *testing.T) {
	l, err := newLoop(NewEngine(Limits{}))
	if err != nil {
		t.Fatal(err)
	}
	defer l.poller.Close()
	l.poller.Poll() // drops what the poller begins with
	l.handleEvents()
	l.sweepSoon() // the loop does not wait now
	next := make(chan struct{})
	go func() {
		l.next()
		close(next)
	}()
	select {
	case <-next:
	case <-time.After(5 * time.Second):
		t.Error("the loop waits, though a sweep is due")
		l.poller.Wake()
		<-next
	}
}

// A tunnel may be taken by the loop and ended before it is started.
func TestLoopEndsATunnelThatWasAbortedBeforeItsStart(t *testing.T) {
	e, _ := runOneLoop(t)
	s := e.prepare(t, networks[0], setup{})
	if got := relayOf(s).Engine(); got != EventLoop {
		t.Fatalf("engine is %v", got)
	}
	s.client.Send(wstest.Text("hello"))
	s.backend.Close()
	s.Abort(CauseShutdown)
	s.begin()
	s.wantEnd(End{Side: Proxy, Cause: CauseShutdown, Cut: true})
	other := e.start(t, networks[0], setup{})
	other.client.Send(wstest.Text("hello"))
	other.backend.Want(wstest.Text("hello"))
}

func TestLoopSendsWhatWasEnqueuedBeforeItsStart(t *testing.T) {
	e, _ := runOneLoop(t)
	s := e.prepare(t, networks[0], setup{})
	s.Close(CauseShutdown, 0, "")
	s.begin()
	s.endShutdown()
}

func TestBusyLoopYields(t *testing.T) {
	loads := map[string]wstest.Frame{
		"small messages": wstest.Binary(make([]byte, 100)),
		"large messages": wstest.Binary(make([]byte, 100_000)),
	}
	for name, frame := range loads {
		t.Run(name, func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
			e, _ := runOneLoop(t)
			var tunnels []tunnel
			for range 8 {
				tunnels = append(tunnels, circle(t, e, masked(frame)))
			}
			// A few at a time, so that the loop is certainly busy beside them.
			var took []time.Duration
			for rounds := uint64(1); rounds <= 5; rounds++ {
				took = append(took, echoes(t, 20)...)
				for _, tunnel := range tunnels {
					waitForMessages(tunnel, 20*rounds)
				}
			}
			if p50 := median(took); p50 > 5*time.Millisecond {
				t.Errorf("an echo beside the loop takes %v of CPU", p50)
			}
		})
	}
}

// waitForMessages waits until so many have passed to the backend.
func waitForMessages(tunnel tunnel, messages uint64) {
	for {
		if toBackend, _ := tunnel.Counts(); toBackend.Messages >= messages {
			return
		}
		runtime.Gosched()
	}
}

// circle makes a frame go round and round, through two tunnels, of which it returns one.
func circle(t *testing.T, e engine, frame []byte) tunnel {
	t.Helper()
	a, otherA := unixPair(t)
	b, otherB := unixPair(t)
	tunnels := []tunnel{
		e.open(end{conn: a, early: frame}, end{conn: b}, Config{}),
		e.open(end{conn: otherB}, end{conn: otherA}, Config{}),
	}
	for _, tunnel := range tunnels {
		done := make(chan struct{})
		go func() {
			tunnel.Run()
			close(done)
		}()
		t.Cleanup(func() {
			tunnel.Abort(CauseShutdown)
			<-done
		})
	}
	return tunnels[0]
}

// echoes returns how much CPU this process uses while each echo of an ordinary server in
// it is under way. Where there is one processor, that is how long the echo takes, without
// what other processes take.
func echoes(t *testing.T, rounds int) []time.Duration {
	t.Helper()
	near, far := tcpPair(t)
	served := make(chan struct{})
	go func() {
		defer close(served)
		defer far.Close()
		io.Copy(struct{ io.Writer }{far}, far) // until near is closed
	}()
	defer func() { near.Close(); <-served }()
	var took []time.Duration
	for range rounds {
		start := cpuTime(t)
		if _, err := near.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := near.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		took = append(took, cpuTime(t)-start)
	}
	return took
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func TestLoopKeepsItsTunnelsApart(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4)) // so that there are two loops
	const tunnels = 60
	e := engineOf(t, NewEngine(Limits{}))
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
				return fmt.Errorf("a message of %d bytes arrived as another one", len(message.Payload))
			}
		}
	}
	return nil
}

// endSomehow ends a tunnel in one of four ways.
func endSomehow(s *scene, way int) {
	switch way {
	case 0:
		s.Close(CauseShutdown, 0, "")
		s.endShutdown()
	case 1:
		s.Abort(CauseShutdown)
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
		s.backend.WantEOF()
		s.backend.Close()
		s.wantEnd(End{Side: Client, Cause: CauseLost})
	}
}

func TestEngineClosesWhileTunnelsBegin(t *testing.T) {
	for range 50 {
		engine := NewEngine(Limits{})
		e := engineOf(t, engine)
		var closing sync.WaitGroup
		var scenes []*scene
		for i := range 6 {
			if i == 3 {
				closing.Go(engine.Close)
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
			s.Abort(CauseShutdown)
			s.wait()
		}
		closing.Wait()
	}
}

func TestClosedEngineMakesPortableTunnels(t *testing.T) {
	engine := NewEngine(Limits{})
	engine.Close()
	s := engineOf(t, engine).start(t, networks[0], setup{fromClient: masked(wstest.Text("early"))})
	s.backend.Want(wstest.Text("early"))
	if got := relayOf(s).Engine(); got != Portable {
		t.Errorf("engine is %v", got)
	}
}

// A loop that has no events sweeps in time.
func TestQuietLoopKeepsTimes(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		begin func(*scene)
		after time.Duration
		want  End
	}{
		"a Close is not answered": {
			begin: func(s *scene) {
				s.client.Send(wstest.Close(1000, ""))
				s.backend.WantClose(1000)
			},
			after: silenceTimeout,
			want:  End{Side: Client, Cause: CauseClosed, Code: 1000, Cut: true},
		},
		"the streams are not ended": {
			begin: func(s *scene) {
				s.client.Send(wstest.Close(1000, ""))
				s.backend.WantClose(1000)
				s.backend.Send(wstest.Close(1000, ""))
				s.client.WantClose(1000)
			},
			after: emptyTimeout,
			want:  End{Side: Client, Cause: CauseClosed, Code: 1000},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := engineOf(t, NewEngine(Limits{})).start(t, networks[0], setup{})
			start := time.Now()
			tt.begin(s)
			s.wantEnd(tt.want)
			if took := time.Since(start); took < tt.after || took > 2*tt.after+5*time.Second {
				t.Errorf("ended after %v; want %v", took, tt.after)
			}
		})
	}
}

// withoutDescriptors calls f while no descriptor can be opened.
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
	e, l := runOneLoop(t)
	s := e.start(t, networks[0], setup{})
	s.client.Send(wstest.Text("hello"))
	s.backend.Want(wstest.Text("hello"))
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
	s.Abort(CauseShutdown)
	s.wait()
	l.close()
	<-l.done
	if l.pipe.without == 0 {
		t.Error("a pipe could be made")
	}
}

func TestWithoutDescriptorsATunnelIsPortable(t *testing.T) {
	e := engineOf(t, NewEngine(Limits{}))
	warm := e.start(t, networks[0], setup{}) // so that there are loops
	warm.client.Send(wstest.Text("hello"))
	warm.backend.Want(wstest.Text("hello"))

	nearClient, farClient := tcpPair(t)
	nearBackend, farBackend := tcpPair(t)
	client, backend := wstest.NewClient(t, farClient), wstest.NewBackend(t, farBackend)
	ended := make(chan struct{})
	withoutDescriptors(t, func() {
		r := e.open(end{conn: nearClient}, end{conn: nearBackend}, Config{}).(*Relay)
		if r.Engine() != Portable {
			t.Errorf("engine is %v", r.Engine())
		}
		go func() {
			r.Run()
			close(ended)
		}()
		client.Send(wstest.Text("hello"))
		backend.Want(wstest.Text("hello"))
		r.Abort(CauseShutdown)
		<-ended
	})
}

func TestStepSomeStepsInOrderForABoundedTime(t *testing.T) {
	all := make([]*loopDriver, 100)
	for i := range all {
		all[i] = new(loopDriver)
	}
	want, rounds := slices.Clone(all), 0
	var stepped []*loopDriver
	for rest := slices.Clone(all); len(rest) > 0; rounds++ {
		rest = stepSome(rest, func(d *loopDriver) {
			stepped = append(stepped, d)
			for start := time.Now(); time.Since(start) < someTurn/10; {
			}
		})
	}
	if !slices.Equal(stepped, want) {
		t.Error("the tunnels were not stepped once, in order")
	}
	if rounds < 10 || rounds > 100 {
		t.Errorf("100 tunnels, each with a tenth of a turn, took %d turns; want 10, or more if the machine is busy", rounds)
	}
	if rest := stepSome(nil, nil); rest != nil {
		t.Errorf("nothing to step leaves %v", rest)
	}
}

// A message that comes together with the end of other tunnels goes first.
func TestLoopMovesMessagesBeforeItEndsTunnels(t *testing.T) {
	h := newHandLoop(t)
	h.client.Close()
	h.l.poller.Poll()
	h.l.handleEvents()
	if h.d.isEnding = slices.Contains(h.l.ending, h.d); !h.d.isEnding || h.d.r.IsEnding() {
		t.Error("the end of the client's stream was handled together with its event; want it later")
	}
	h.l.stepEnding()
	if h.d.isEnding || len(h.l.ending) > 0 || !h.d.r.IsEnding() {
		t.Error("the end of the client's stream was not handled")
	}
	h.letRun()
	h.backend.WantEOF()
	h.backend.Close()
	h.wantEnd(End{Side: Client, Cause: CauseLost})
}

// With many goroutines that can run, the loop sleeps instead of waiting in the runtime's poller.
func TestLoopWorksWhileItIsCrowded(t *testing.T) {
	for _, e := range engines {
		if !e.needsSockets {
			continue
		}
		s := e.start(t, networks[0], setup{})
		l := relayOf(s).driver.(*loopDriver).loop
		l.isCrowded.Store(true)
		go l.watchCrowd() // ends below
		for i := range 100 {
			message := wstest.Text(fmt.Sprint("message ", i))
			s.client.Send(message)
			s.backend.Want(message)
			s.backend.Send(message)
			s.client.Want(message)
		}
		for deadline := time.Now().Add(time.Minute); l.isCrowded.Load(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the loop is crowded for ever")
			}
		}
		s.Close(CauseShutdown, 0, "")
		s.endShutdown()
	}
}

func TestEngineCountsTheTunnelsOfLoops(t *testing.T) {
	e := NewEngine(Limits{})
	loop, portable := engineOf(t, e), engineOf(t, e)
	wrapped := networks[5]
	want := func(n int) {
		t.Helper()
		if got := e.Stats().EventLoopTunnels; got != n {
			t.Errorf("Stats() has %d tunnels on loops; want %d", got, n)
		}
	}
	want(0)
	first, second := loop.start(t, networks[0], setup{}), loop.prepare(t, networks[1], setup{})
	other := portable.start(t, wrapped, setup{})
	want(2)
	second.Abort(CauseShutdown)
	second.begin()
	second.wait()
	want(1)
	other.Abort(CauseShutdown)
	other.wait()
	want(1)
	first.Abort(CauseShutdown)
	first.wait()
	want(0)
}

// A slowOwner holds a loop up.
type slowOwner struct {
	endOwner
	takes time.Duration
}

func (o *slowOwner) BackendEnding(bool, Counts, Counts) { time.Sleep(o.takes) }

func TestLoopLagIsTheTimeWithoutALookForEvents(t *testing.T) {
	e := NewEngine(Limits{})
	shared := engineOf(t, e)
	s := shared.start(t, networks[0], setup{Config: Config{Owner: &slowOwner{takes: 60 * time.Millisecond}}})
	echo := func() {
		s.client.Send(wstest.Text("hello"))
		s.backend.Want(wstest.Text("hello"))
	}
	echo()
	before := e.Stats().EventLoopLag.Snapshot()
	time.Sleep(time.Second) // the loop waits for events
	echo()
	idle := e.Stats().EventLoopLag.Snapshot()
	if idle.Count > before.Count+10 || idle.Sum-before.Sum > 500*time.Millisecond {
		t.Errorf("a quiet second and a message: %d lags more, of %v; want a few short ones", idle.Count-before.Count, idle.Sum-before.Sum)
	}

	s.backend.Send(wstest.Close(1000, ""))
	s.client.WantClose(1000)
	s.becomes("a lag of more than 50 ms", func(x Stats) bool {
		d := x.EventLoopLag.Snapshot()
		return d.Count > d.Buckets[8].Count
	})
	e.Close()
	if after := e.Stats().EventLoopLag.Snapshot(); after.Count < idle.Count {
		t.Errorf("%d lags after the end of the loops, %d before; want none to be forgotten", after.Count, idle.Count)
	}
}

func TestLoopRecordsALagOnce(t *testing.T) {
	l := &loop{lag: histogram.NewLag(), looked: time.Second}
	for _, clock := range []time.Duration{time.Second, time.Second + 3*time.Millisecond, time.Second + 3*time.Millisecond, time.Second + 7*time.Millisecond} {
		l.clock = clock
		l.recordLag()
	}
	if s := l.lag.Snapshot(); s.Count != 2 || s.Sum != 7*time.Millisecond {
		t.Errorf("%d lags of %v in all; want 2 of 7 ms: without a step there is none", s.Count, s.Sum)
	}
}
