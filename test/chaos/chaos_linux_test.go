package chaos_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/leaktest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
)

// Three backends are processes that are killed, frozen and broken, while 500 clients talk
// through two proxies, one for each engine, and their program changes the backends. It holds:
//
//   - On a tunnel that stays open no message is lost, doubled or reordered; what arrives on
//     another one is the beginning of what was sent.
//   - A client that reads gets a Close frame, unless its backend was lost within a frame.
//   - No client waits longer than the handshake timeout for a response.
//   - In 5 s that begin 2 s or more after a fault at most 1 % of the upgrades fail.
//   - Each end has a side and a cause that fit, and counts what has arrived.
//   - At the end there is no tunnel, goroutine or descriptor.
func TestChaosLosesNothing(t *testing.T) {
	leaktest.Check(t)
	length := 1500 * time.Millisecond // and then a window after the last fault
	if soak := proxytest.SoakTime(t); soak > 0 {
		length = soak
	}
	seed := rand.Uint64()
	if s := os.Getenv("WSPROXY_CHAOS_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("WSPROXY_CHAOS_SEED: %v", err)
		}
	}
	t.Logf("the seed is %d: WSPROXY_CHAOS_SEED=%[1]d", seed)
	c := startChaos(t, seed)
	done := make(chan struct{})
	watching := watchLateness(c.start, done)
	c.run(length)
	c.stop()
	close(done)
	late := <-watching
	for _, s := range c.sites {
		numWindows := s.report.check(c.faults, c.end, late)
		couldNotRun := late.within(0, c.end)
		if numWindows == 0 && couldNotRun < maxLate {
			t.Errorf("%s: no window of %v was checked", s.name, windowSize)
		}
		t.Logf("%s: %d upgrades, %d windows, ends %v; the process could not run for %v",
			s.name, len(s.report.upgrades), numWindows, s.report.causes(), couldNotRun)
		s.report.fail(t, s.name)
	}
	if t.Failed() {
		t.Logf("what happened:\n%s", c.history.String())
	}
}

// A chaos is a run.
type chaos struct {
	t       *testing.T
	rng     *rand.Rand
	start   time.Time
	peers   []*peer
	sites   []*site
	faults  []time.Duration // when they began, since start
	end     time.Duration   // when the last window ended
	repairs []repair
	history strings.Builder
}

// A repair ends a fault of a backend.
type repair struct {
	at   time.Time
	peer *peer
}

// size returns the number of clients and the handshake timeout: with the race detector everything
// takes several times as long.
func size() (numClients int, handshakeTimeout time.Duration) {
	if proxytest.IsRace {
		return 300, 10 * time.Second
	}
	return 500, 4 * time.Second
}

func startChaos(t *testing.T, seed uint64) *chaos {
	c := &chaos{t: t, rng: rand.New(rand.NewPCG(seed, 0))}
	for i := range 3 {
		p := &peer{t: t, id: string(rune('a' + i)), addr: fmt.Sprintf("127.102.0.%d:0", i+1), seed: c.rng.Uint64()}
		p.launch()
		c.peers = append(c.peers, p)
	}
	c.start = time.Now()
	numClients, handshakeTimeout := size()
	n := affordable(t, numClients, 4)
	var numTunnels atomic.Uint64
	for _, isWrapped := range []bool{false, true} {
		s := newSite(t, c, isWrapped, c.rng.Uint64())
		h := habits{
			handshake: handshakeTimeout, slack: time.Second, patience: 25 * time.Second,
			pause: 300 * time.Millisecond, messages: 30,
		}
		for j := range s.crowds {
			s.crowds[j] = newCrowd(n/4, s.addr, c.rng.Uint64(), h, s.report, &numTunnels)
		}
		c.sites = append(c.sites, s)
	}
	return c
}

// note writes a line of the history.
func (c *chaos) note(format string, args ...any) {
	fmt.Fprintf(&c.history, "%8v  %s\n", time.Since(c.start).Round(time.Millisecond), fmt.Sprintf(format, args...))
}

// run has faults and operations at random for a time, and then operations until a window has
// passed.
func (c *chaos) run(length time.Duration) {
	faultsEnd := c.start.Add(length)
	end := faultsEnd.Add(afterFault + windowSize + 500*time.Millisecond)
	nextFault, nextOperation := c.start.Add(500*time.Millisecond), c.start
	for now := time.Now(); now.Before(end); now = time.Now() {
		if !now.Before(nextFault) && now.Before(faultsEnd) {
			c.fault()
			nextFault = time.Now().Add(c.gap())
		}
		if !now.Before(nextOperation) {
			c.operate()
			nextOperation = now.Add(c.within(50*time.Millisecond, 400*time.Millisecond))
		}
		c.repair(now)
		<-time.After(min(time.Until(nextOperation), 50*time.Millisecond))
	}
	c.end = time.Since(c.start)
	c.repair(end.Add(time.Hour))
}

// gap returns the time to the next fault. It is short, or long enough for a window to begin, or
// for one to end too.
func (c *chaos) gap() time.Duration {
	switch c.rng.IntN(3) {
	case 0:
		return c.within(0, time.Second)
	case 1:
		return c.within(time.Second, 2*afterFault)
	}
	return c.within(afterFault+windowSize, afterFault+windowSize+2*time.Second)
}

func (c *chaos) within(least, most time.Duration) time.Duration {
	return least + time.Duration(c.rng.Int64N(int64(most-least)))
}

// fault begins a fault of a backend, if another backend without one is left to each proxy.
func (c *chaos) fault() {
	p := oneOf(c.rng, c.peers...)
	if p.isFaulty {
		return
	}
	p.isFaulty = true
	for _, s := range c.sites {
		if !s.hasUsable() {
			p.isFaulty = false
			return
		}
	}
	f := oneOf(c.rng, faults...)
	p.repair = f.end
	c.faults = append(c.faults, time.Since(c.start))
	took := c.within(f.length/8, f.length)
	c.note("backend %s: %s for %v", p.id, f.name, took.Round(time.Millisecond))
	f.begin(p)
	c.repairs = append(c.repairs, repair{time.Now().Add(took), p})
}

// repair ends the faults that have lasted long enough.
func (c *chaos) repair(now time.Time) {
	left := c.repairs[:0]
	for _, r := range c.repairs {
		if now.Before(r.at) {
			left = append(left, r)
			continue
		}
		r.peer.repair(r.peer)
		r.peer.isFaulty = false
		c.note("backend %s: repaired", r.peer.id)
	}
	c.repairs = left
}

// operate does something with a proxy.
func (c *chaos) operate() {
	s, o := oneOf(c.rng, c.sites...), oneOf(c.rng, operations...)
	c.note("%s: %s %s", s.name, o.name, o.run(s))
}

// stop lets half of the clients close their tunnels, shuts the proxies down, whose other clients
// still talk, and checks that nothing is left.
func (c *chaos) stop() {
	for _, s := range c.sites {
		s.crowds[0].stop()
	}
	for _, s := range c.sites {
		s.endOperations()
		ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
		if err := s.proxy.Shutdown(ctx); errors.Is(err, context.DeadlineExceeded) {
			s.report.add("Shutdown() = %v", err)
		}
		cancel()
		s.crowds[1].stop()
		s.serving.Wait()
		proxytest.WantNoTunnels(c.t, s.proxy)
		if stats := s.proxy.Stats(); stats.Opened != uint64(len(s.report.ends)) {
			s.report.add("%d tunnels were opened, and %d ended", stats.Opened, len(s.report.ends))
		}
	}
}

func (c *chaos) peer(id string) *peer { return c.peers[id[0]-'a'] }

// A peer is a backend, which is another process.
type peer struct {
	t        *testing.T
	id       string
	addr     string
	seed     uint64
	child    *proxytest.Child
	isFaulty bool
	isFrozen bool
	repair   func(*peer)
}

// launch starts the process. It has the same address each time.
func (p *peer) launch() {
	p.t.Helper()
	p.child = proxytest.StartChild(p.t, "backend")
	p.t.Cleanup(func() {
		if p.isFrozen {
			p.thaw() // else it could not end
		}
	})
	p.child.Ask(&p.addr, "start", p.addr, p.seed)
}

func (p *peer) freeze() {
	p.child.Signal(syscall.SIGSTOP)
	p.isFrozen = true
}

func (p *peer) thaw() {
	p.isFrozen = false
	p.child.Signal(syscall.SIGCONT)
}

// tell sends the process a command.
func (p *peer) tell(words ...any) {
	p.t.Helper()
	var failure string
	if p.child.Ask(&failure, words...); failure != "" {
		p.t.Fatalf("backend %s: %v: %s", p.id, words, failure)
	}
}

func (p *peer) config() wsproxy.BackendConfig {
	return wsproxy.BackendConfig{ID: p.id, URL: "http://" + p.addr}
}

// A fault is what may happen to a backend.
type fault struct {
	name       string
	length     time.Duration // at most
	begin, end func(*peer)
}

var faults = []fault{
	{"killed", 5 * time.Second, func(p *peer) { p.child.Kill() }, (*peer).launch},
	{"frozen", 5 * time.Second, (*peer).freeze, (*peer).thaw},
	{"slow", 5 * time.Second, behaves("slow"), behaves("well")},
	{"answering garbage", 5 * time.Second, behaves("garbage"), behaves("well")},
	{"refusing upgrades", 5 * time.Second, behaves("refusing"), behaves("well")},
	{"refusing connections", 5 * time.Second, func(p *peer) { p.tell("deny") }, func(p *peer) { p.tell("listen") }},
	{"resetting all tunnels", time.Second, func(p *peer) { p.tell("reset") }, func(*peer) {}},
}

func behaves(how string) func(*peer) { return func(p *peer) { p.tell("behave", how) } }

func TestChild(t *testing.T) {
	proxytest.PlayRole(t, map[string]proxytest.Role{"backend": playBackend})
}

// playBackend is the role of a backend.
func playBackend(t *testing.T) map[string]proxytest.Command {
	var b *backend
	return map[string]proxytest.Command{
		"start": func(args ...string) any {
			seed, err := strconv.ParseUint(args[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			b = newBackend(t, args[0], seed)
			return b.addr
		},
		"behave": func(args ...string) any {
			b.behave(args[0])
			return ""
		},
		"deny": func(...string) any {
			b.deny()
			return ""
		},
		"listen": func(...string) any {
			if err := b.listen(); err != nil {
				return err.Error()
			}
			return ""
		},
		"reset": func(...string) any {
			b.closeConns(reset)
			return ""
		},
	}
}
