package process_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// BenchmarkReconnectStorm kills one of three backends. Its clients, more than half of all, come
// back with full jitter, while clients of the others talk. Backends, the clients that come back
// and those that talk are processes of their own. It fails if a client is refused, or if a
// backend gets more than its share.
//
//	go test -run '^$' -bench ReconnectStorm -benchtime 1x ./test/process
func BenchmarkReconnectStorm(b *testing.B) {
	for b.Loop() {
		s := startStorm(b)
		quiet := s.talk(func() { <-time.After(3 * time.Second) })
		var took time.Duration
		storm := s.talk(func() { took = s.dropBackend() })
		refused, share := s.result()
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(s.numDropped), "dropped")
		b.ReportMetric(took.Seconds(), "s-until-all-are-back")
		b.ReportMetric(float64(quiet.P99.Microseconds()), "µs-p99-quiet")
		b.ReportMetric(float64(storm.P99.Microseconds()), "µs-p99-storm")
		b.ReportMetric(float64(storm.P99)/float64(quiet.P99), "p99-storm/quiet")
		b.ReportMetric(float64(len(refused)), "refused")
		b.ReportMetric(share, "largest/share")
		b.Logf("%d echoes, then %d in the storm; the slowest took %v", quiet.Num, storm.Num, storm.Slowest)
		if len(refused) > 0 {
			b.Errorf("clients were refused %d times, first: %s; want never; the proxy says %v", len(refused), refused[0], s.reasons)
		}
		if share > 1.1 {
			b.Errorf("the fullest backend has %.2f of its share; want at most 1.1", share)
		}
	}
}

// A storm is a proxy with three backends, of which the first one will be killed.
type storm struct {
	b          *testing.B
	proxy      *wsproxy.Proxy
	backends   []*proxytest.Child
	crowd      *proxytest.Child // of clients that come back
	talkers    *proxytest.Child // clients of the other backends
	numDropped int              // clients of the first backend
	numOthers  int

	mu      sync.Mutex
	reasons map[string]int // of upgrades that got no tunnel
}

func startStorm(b *testing.B) *storm {
	b.Helper()
	const dropped, others, numTalkers = 5000, 2 * 1000, 200
	// A client that comes back has two descriptors of the proxy, and for a moment one of its
	// last tunnel.
	most := maxDescriptors(b) - 1000
	s := &storm{b: b, numDropped: min(dropped, most*dropped/(3*dropped+2*others))}
	s.numOthers = s.numDropped * others / dropped
	var configs []wsproxy.BackendConfig
	for range 3 {
		c := proxytest.StartChild(b, "echo")
		var url string
		c.Ask(&url, "url")
		s.backends, configs = append(s.backends, c), append(configs, wsproxy.BackendConfig{URL: url})
	}
	p, site := proxytest.Start(b, wsproxy.WithBackendConfigs(configs[1:]...), wsproxy.WithTrace(&wsproxy.Trace{Refused: s.addRefused}))
	s.proxy = p
	s.crowd, s.talkers = proxytest.StartChild(b, "crowd"), proxytest.StartChild(b, "talkers")
	addr := strings.TrimPrefix(site.URL, "http://")
	s.open(s.talkers, addr, numTalkers)
	s.open(s.crowd, addr, s.numOthers-numTalkers)
	s.setBackends(configs[:1]...)
	s.open(s.crowd, addr, s.numDropped)
	s.setBackends(configs...)
	return s
}

func (s *storm) open(c *proxytest.Child, addr string, n int) {
	s.b.Helper()
	var failure string
	if c.Ask(&failure, "open", addr, n); failure != "" {
		s.b.Fatal(failure)
	}
}

func (s *storm) setBackends(configs ...wsproxy.BackendConfig) {
	s.b.Helper()
	if err := s.proxy.SetBackends(configs...); err != nil {
		s.b.Fatal(err)
	}
}

func (s *storm) addRefused(i wsproxy.RefusedInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reasons == nil {
		s.reasons = make(map[string]int)
	}
	s.reasons[fmt.Sprint(i.Reason, ": ", i.Err)]++
}

// talk returns how long echoes take while f runs.
func (s *storm) talk(f func()) (l latencies) {
	s.b.Helper()
	s.talkers.Ask(new(bool), "talk")
	f()
	s.talkers.Ask(&l, "silence")
	if l.Failure != "" {
		s.b.Fatalf("a client of another backend: %s", l.Failure)
	}
	return l
}

// dropBackend kills the first backend, and returns how long it takes until all of its clients
// have a tunnel again.
func (s *storm) dropBackend() time.Duration {
	s.b.Helper()
	start := time.Now()
	s.backends[0].Kill()
	var failure string
	if s.crowd.Ask(&failure, "back", s.numDropped); failure != "" {
		s.b.Fatal(failure)
	}
	return time.Since(start)
}

// result returns the responses of clients that were refused, and how many times its share the
// fullest backend has.
func (s *storm) result() (refused []string, share float64) {
	s.crowd.Ask(&refused, "refused")
	most := 0
	for _, b := range s.proxy.Backends() {
		most = max(most, b.NumTunnels())
	}
	return refused, float64(most) / (float64(s.numDropped+s.numOthers) / float64(len(s.backends)-1))
}

// latencies are how long echoes took.
type latencies struct {
	Num          int
	P99, Slowest time.Duration
	Failure      string // of a client
}

// playTalkers is the role of clients that talk.
func playTalkers(t *testing.T) map[string]proxytest.Command {
	var talkers []*talker
	t.Cleanup(func() {
		for _, c := range talkers {
			c.close()
		}
	})
	var done chan struct{}
	var talking sync.WaitGroup
	var mu sync.Mutex // for the rest
	var took []time.Duration
	var failure string
	talk := func(c *talker) {
		for {
			select {
			case <-done:
				return
			case <-time.After(rand.N(200 * time.Millisecond)):
			}
			d, err := c.talk()
			mu.Lock()
			took = append(took, d)
			if err != nil {
				failure = err.Error()
			}
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}
	return map[string]proxytest.Command{
		// open ADDR N opens tunnels.
		"open": func(args ...string) any {
			n, _ := strconv.Atoi(args[1])
			for i := range n {
				c, err := dialTalker(args[0], net.IPv4(127, 104, byte(i/250), byte(1+i%250)))
				if err != nil {
					return err.Error()
				}
				talkers = append(talkers, c)
			}
			return ""
		},
		// talk lets all of them talk until silence, which answers with latencies.
		"talk": func(...string) any {
			done, took, failure = make(chan struct{}), nil, ""
			for _, c := range talkers {
				talking.Go(func() { talk(c) }) // until silence
			}
			return true
		},
		"silence": func(...string) any {
			close(done)
			talking.Wait()
			slices.Sort(took)
			n := len(took)
			return latencies{Num: n, P99: took[n*99/100], Slowest: took[n-1], Failure: failure}
		},
	}
}

// playCrowd is the role of clients that come back.
func playCrowd(t *testing.T) map[string]proxytest.Command {
	c := &stormCrowd{conns: make(map[*talker]bool), done: make(chan struct{}), hasChanged: make(chan struct{}, 1)}
	t.Cleanup(c.leave)
	return map[string]proxytest.Command{
		// open ADDR N opens tunnels.
		"open": func(args ...string) any {
			n, _ := strconv.Atoi(args[1])
			return c.open(args[0], n)
		},
		// back N waits until so many clients have come back.
		"back": func(args ...string) any {
			n, _ := strconv.Atoi(args[0])
			return c.waitForBack(n)
		},
		"refused": func(...string) any {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.refused
		},
	}
}

// A stormCrowd is clients of which each has a tunnel, and comes back when it is lost.
type stormCrowd struct {
	numClients int
	done       chan struct{} // closed by leave
	running    sync.WaitGroup

	mu         sync.Mutex
	conns      map[*talker]bool
	numBack    int
	refused    []string      // why
	hasChanged chan struct{} // has a value after numBack has changed
}

// open opens n tunnels, a few at a time. It returns one of the errors.
func (c *stormCrowd) open(addr string, n int) (failure string) {
	places, errs := make(chan struct{}, 50), make(chan error, n)
	for range n {
		places <- struct{}{}
		i := c.numClients
		c.numClients++
		c.running.Go(func() { // until leave
			from := net.IPv4(127, 103, byte(i/250), byte(1+i%250))
			tunnel, err := dialTalker(addr, from)
			errs <- err
			<-places
			for err == nil {
				c.wait(tunnel)
				tunnel, err = c.comeBack(addr, from)
			}
		})
	}
	for range n {
		if err := <-errs; err != nil {
			failure = err.Error()
		}
	}
	return failure
}

// wait reads until the tunnel ends.
func (c *stormCrowd) wait(tunnel *talker) {
	c.mu.Lock()
	c.conns[tunnel] = true
	select {
	case <-c.done: // leave has not seen it
		tunnel.close()
	default:
	}
	c.mu.Unlock()
	tunnel.conn.SetDeadline(time.Time{})
	for {
		f, err := wstest.ReadFrame(tunnel.r)
		if err != nil {
			break
		}
		if f.Opcode == wstest.OpClose {
			tunnel.conn.Write(wstest.AppendFrame(nil, f, &[4]byte{1, 2, 3, 4}))
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, tunnel)
	tunnel.close()
}

// comeBack opens a tunnel with full jitter: from a second, doubled each time, to 10 s. It fails
// only after leave.
func (c *stormCrowd) comeBack(addr string, from net.IP) (*talker, error) {
	for wait := time.Second; ; wait = min(2*wait, 10*time.Second) {
		select {
		case <-c.done:
			return nil, net.ErrClosed
		case <-time.After(rand.N(wait)):
		}
		tunnel, err := dialTalker(addr, from)
		c.mu.Lock()
		if err != nil {
			c.refused = append(c.refused, err.Error())
		} else {
			c.numBack++
		}
		c.mu.Unlock()
		select {
		case c.hasChanged <- struct{}{}:
		default: // the last value is still there
		}
		if err == nil {
			return tunnel, nil
		}
	}
}

// waitForBack waits until n clients have come back.
func (c *stormCrowd) waitForBack(n int) (failure string) {
	timeout := time.NewTimer(proxytest.ChildTimeout / 2)
	defer timeout.Stop()
	for {
		c.mu.Lock()
		numBack, refused := c.numBack, c.refused
		c.mu.Unlock()
		if numBack >= n {
			return ""
		}
		select {
		case <-c.hasChanged:
		case <-timeout.C:
			return fmt.Sprintf("%d of %d clients have come back; %d times one was refused: %.3q", numBack, n, len(refused), refused)
		}
	}
}

// leave closes all tunnels.
func (c *stormCrowd) leave() {
	c.mu.Lock()
	close(c.done)
	for tunnel := range c.conns {
		tunnel.close()
	}
	c.mu.Unlock()
	c.running.Wait()
}
