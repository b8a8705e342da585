//go:build linux

package process_test

import (
	"bufio"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
)

// The kernel accepts connections for a process that is stopped, so that it looks alive, has
// the fewest tunnels, and answers nobody.
func TestStoppedBackendIsEjectedAndComesBack(t *testing.T) {
	t.Parallel() // clients wait for 3 s
	var urls []string
	var children []*proxytest.Child
	for range 3 {
		c := proxytest.StartChild(t, "echo")
		var url string
		c.Ask(&url, "url")
		children, urls = append(children, c), append(urls, url)
	}
	stopped := stoppedBackend{id: urls[0], came: make(chan bool, 1000)}
	p, s := proxytest.Start(t, wsproxy.WithBackends(urls...), wsproxy.WithTrace(stopped.trace()),
		wsproxy.WithTimeouts(wsproxy.Timeouts{Handshake: time.Minute})) // on a slow machine too, clients give up first
	b := p.Backends()[0]
	clients := visitors{t: t, addr: strings.TrimPrefix(s.URL, "http://")}
	stop(t, children[0])

	var waiting []*visitor
	for len(waiting) < 5 {
		if v := clients.send(); stopped.gets(v) {
			waiting = append(waiting, v)
		} else if len(clients.all) > 30 {
			t.Fatalf("%d of 30 clients came to the backend that is stopped; want 5", len(waiting))
		}
	}
	for _, v := range waiting {
		if status := <-v.answer; status != gaveUp {
			t.Fatalf("a client of the backend that is stopped got status %d", status)
		}
	}
	isEjected := func() bool {
		return slices.ContainsFunc(b.Health().Flags, func(f wsproxy.RaisedFlag) bool { return f.Flag == wsproxy.FlagEjected })
	}
	if !proxytest.Becomes(isEjected) {
		t.Fatalf("five clients gave up, and the backend has %+v; want it ejected", b.Health())
	}

	// From now on one client at a time tries it, and no other one waits.
	stopped.countAnew()
	trial := clients.sendTrial(b, &stopped)
	for range 30 {
		if v := clients.send(); stopped.gets(v) {
			trial = v // the one before has given up, on a slow machine
		}
	}
	trial.conn.Close()
	<-trial.answer
	children[0].Signal(syscall.SIGCONT)
	trial = clients.sendTrial(b, &stopped)
	if most := stopped.mostAtOnce(); most != 1 {
		t.Errorf("%d clients at once tried the backend that was ejected; want one", most)
	}
	if status := <-trial.answer; status != http.StatusSwitchingProtocols {
		t.Fatalf("the trial of the backend that goes on got status %d", status)
	}
	succeeded := time.Now()
	for b.NumTunnels() < 5 {
		if v := clients.send(); stopped.gets(v) {
			if status := <-v.answer; status != http.StatusSwitchingProtocols {
				t.Fatalf("a client of the backend that goes on got status %d", status)
			}
		}
		if took := time.Since(succeeded); took > 2*time.Second {
			t.Fatalf("%v after its trial the backend has %d tunnels and %+v; want it to be used", took, b.NumTunnels(), b.Health())
		}
	}
	if h := b.Health(); len(h.Flags) > 0 {
		t.Errorf("a backend that is used again has %+v; want no flag", h)
	}
	for _, v := range clients.all {
		v.conn.Close()
	}
}

// stop stops a child, until it is continued or the test ends. It returns when no thread of the
// child runs any longer.
func stop(t *testing.T, c *proxytest.Child) {
	t.Helper()
	t.Cleanup(func() { c.Signal(syscall.SIGCONT) }) // else it could not end
	c.Signal(syscall.SIGSTOP)
	var status syscall.WaitStatus
	var err error
	for isFirst := true; isFirst || err == syscall.EINTR; isFirst = false {
		_, err = syscall.Wait4(c.Pid(), &status, syscall.WUNTRACED, nil)
	}
	if err != nil || !status.Stopped() {
		t.Fatalf("the child does not stop: %v, %v", status, err)
	}
}

// A stoppedBackend is the one of several backends that is stopped, as the proxy's hooks see it.
type stoppedBackend struct {
	id   string
	came chan bool // for each upgrade, whether the backend was picked first

	mu        sync.Mutex
	now, most int // upgrades that try it
}

func (b *stoppedBackend) trace() *wsproxy.Trace {
	return &wsproxy.Trace{
		Picked: func(i wsproxy.PickedInfo) {
			isPicked := i.Backend.ID() == b.id
			if isPicked {
				b.count(1)
			}
			if i.Attempt == 1 {
				b.came <- isPicked
			}
		},
		Attempted: func(i wsproxy.AttemptInfo) {
			if i.Backend.ID() == b.id {
				b.count(-1)
			}
		},
	}
}

func (b *stoppedBackend) count(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now += n
	b.most = max(b.most, b.now)
}

// gets reports whether the proxy sends v, the last client, to the backend. If not, v must get
// a tunnel.
func (b *stoppedBackend) gets(v *visitor) bool {
	v.t.Helper()
	select {
	case isPicked := <-b.came:
		if isPicked {
			return true
		}
	case <-time.After(10 * time.Second):
		v.t.Fatal("no backend was picked for a client for 10 s")
	}
	if status := <-v.answer; status != http.StatusSwitchingProtocols {
		v.t.Fatalf("a client of another backend got status %d; want 101", status)
	}
	return false
}

// countAnew makes mostAtOnce begin anew when no upgrade tries the backend any longer.
func (b *stoppedBackend) countAnew() {
	proxytest.Becomes(func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.most = b.now
		return b.now == 0
	})
}

// mostAtOnce returns how many upgrades at once tried the backend.
func (b *stoppedBackend) mostAtOnce() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.most
}

// visitors are clients, each with an address of its own.
type visitors struct {
	t    *testing.T
	addr string // of the proxy
	all  []*visitor
}

// A visitor is a client that waits for 3 s for its tunnel.
type visitor struct {
	t      *testing.T
	conn   net.Conn
	answer chan int // the status, or gaveUp
}

const gaveUp = 0

// send sends one more client.
func (c *visitors) send() *visitor {
	c.t.Helper()
	n := len(c.all)
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(n/250), byte(1+n%250))}}
	conn, err := d.Dial("tcp", c.addr)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	v := &visitor{t: c.t, conn: conn, answer: make(chan int, 1)}
	c.all = append(c.all, v)
	conn.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := conn.Write([]byte(proxytest.UpgradeTo("/"))); err != nil {
		c.t.Fatal(err)
	}
	go func() { // ends with the deadline
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			conn.Close()
			v.answer <- gaveUp
			return
		}
		v.answer <- resp.StatusCode
	}()
	return v
}

// sendTrial sends clients until one is sent to b, which is ejected: that must be the first one
// after the time that the flags of b have. It returns that one.
func (c *visitors) sendTrial(b *wsproxy.Backend, stopped *stoppedBackend) *visitor {
	c.t.Helper()
	var until time.Time
	for _, f := range b.Health().Flags {
		if f.Until.After(until) {
			until = f.Until
		}
	}
	for range 100 { // the trial before may be under way for a moment
		v := c.send()
		if isTrial := stopped.gets(v); isTrial && time.Now().Before(until) {
			c.t.Fatalf("a client was sent to the backend %v before its time", time.Until(until))
		} else if isTrial {
			return v
		}
		<-time.After(time.Until(until))
	}
	c.t.Fatalf("after its time no client is sent to the backend, which has %+v", b.Health())
	return nil
}
