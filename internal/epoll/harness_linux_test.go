//go:build linux

package epoll

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/leaktest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// patience is for what is there at once if all is well.
const patience = 5 * time.Second

// childKey is the environment variable that makes of the test's binary one of
// children.
const childKey = "WSPROXY_EPOLL_CHILD"

// children are what needs a process of its own. Each says "ready", and ends with its
// standard input at the latest.
var children = map[string]func(){}

func TestMain(m *testing.M) {
	if child, ok := children[os.Getenv(childKey)]; ok {
		child()
		return
	}
	leaktest.Main(m)
}

// startChild starts a child and waits until it is ready. The child ends with the
// test.
func startChild(t *testing.T, name string) {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childKey+"="+name, "GORACE=atexit_sleep_ms=0")
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		c.Wait()
	})
	if _, err := io.ReadFull(out, make([]byte, len("ready"))); err != nil {
		t.Fatalf("child %s: %v", name, err)
	}
}

// runChild runs a child and returns what it says.
func runChild(t *testing.T, name string) string {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childKey+"="+name, "GORACE=atexit_sleep_ms=0")
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("child %s: %v", name, err)
	}
	return string(out)
}

var networks = map[string]func(testing.TB) (near, far net.Conn){"TCP": tcpPair, "unix": unixPair}

func forEachNetwork(t *testing.T, test func(t *testing.T, pair func(testing.TB) (near, far net.Conn))) {
	for name, pair := range networks {
		t.Run(name, func(t *testing.T) { test(t, pair) })
	}
}

func tcpPair(t testing.TB) (near, far net.Conn) {
	return connPair(t, "tcp", "127.0.0.1:0")
}

func unixPair(t testing.TB) (near, far net.Conn) {
	return connPair(t, "unix", filepath.Join(t.TempDir(), "socket"))
}

func connPair(t testing.TB, network, addr string) (near, far net.Conn) {
	t.Helper()
	near, far = wstest.SocketPair(t, network, addr)
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// takeOver makes s the connection c, which it closes.
func takeOver(t testing.TB, s *Socket, c net.Conn) {
	t.Helper()
	if err := s.TakeOver(c.(syscall.Conn)); err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// newSocket returns a socket and the other end of its connection. Both are closed
// when the test ends.
func newSocket(t testing.TB, pair func(testing.TB) (near, far net.Conn)) (*Socket, net.Conn) {
	t.Helper()
	near, far := pair(t)
	s := new(Socket)
	takeOver(t, s, near)
	t.Cleanup(func() { s.Close() })
	return s, far
}

// An owner is two sockets and the other ends of their connections.
type owner struct {
	sockets [2]Socket
	far     [2]net.Conn
	token   Token
}

// newOwner returns an owner that p does not know yet.
func newOwner(t testing.TB) *owner {
	t.Helper()
	o := new(owner)
	for i := range o.sockets {
		var near net.Conn
		near, o.far[i] = unixPair(t) // what is written is there at once
		takeOver(t, &o.sockets[i], near)
	}
	t.Cleanup(o.close)
	return o
}

func (o *owner) close() {
	o.sockets[0].Close()
	o.sockets[1].Close()
}

// newPoller returns a poller that is closed when the test ends, and tells nothing of
// its own any more.
func newPoller(t testing.TB) *Poller {
	t.Helper()
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	events(t, p)
	return p
}

// add makes p watch a new owner.
func add(t testing.TB, p *Poller) *owner {
	t.Helper()
	o := newOwner(t)
	var err error
	if o.token, err = p.Add(o, &o.sockets[0], &o.sockets[1]); err != nil {
		t.Fatal(err)
	}
	if told := events(t, p); len(told) > 0 {
		t.Fatalf("told %v of sockets of which nothing is to be told", told)
	}
	return o
}

// events returns what p tells now.
func events(t testing.TB, p *Poller) (all []Event) {
	t.Helper()
	if err := p.Poll(); err != nil {
		t.Fatal(err)
	}
	for e, ok := p.Next(); ok; e, ok = p.Next() {
		all = append(all, e)
	}
	return all
}

func send(t testing.TB, c net.Conn, s string) {
	t.Helper()
	if _, err := c.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
}
