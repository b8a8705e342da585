//go:build linux

package epoll

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// An owner has a socket and the other end of its connection.
type owner struct {
	socket Socket
	far    net.Conn
}

// newOwner returns an owner whose socket is not watched yet. It is closed when the test
// ends.
func newOwner(t testing.TB) *owner {
	t.Helper()
	o := new(owner)
	var near net.Conn
	near, o.far = unixPair(t) // what is written arrives at once
	takeOver(t, &o.socket, near)
	t.Cleanup(func() { o.socket.Close() })
	return o
}

// newPoller returns a poller that is closed when the test ends, and has no events.
func newPoller(t testing.TB) *Poller[owner] {
	t.Helper()
	p, err := New[owner]()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	events(t, p)
	return p
}

// add makes p watch a new owner, which has no events.
func add(t testing.TB, p *Poller[owner]) *owner {
	t.Helper()
	o := newOwner(t)
	if err := p.Add(&o.socket, o); err != nil {
		t.Fatal(err)
	}
	if got := events(t, p); len(got) > 0 {
		t.Fatalf("%d events of a socket on which nothing has happened", len(got))
	}
	return o
}

// An event is what Next returns.
type event struct {
	owner *owner
	edges Edges
}

// events returns the events that p has now.
func events(t testing.TB, p *Poller[owner]) []event {
	t.Helper()
	if err := p.Poll(); err != nil {
		t.Fatal(err)
	}
	return rest(p)
}

// rest returns the events that p has without asking the kernel again.
func rest(p *Poller[owner]) (all []event) {
	for o, e := p.Next(); o != nil; o, e = p.Next() {
		all = append(all, event{o, e})
	}
	return all
}

// wantEvents compares the events that came with those that should have come.
func wantEvents(t testing.TB, when string, got, want []event) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: events %v; want %v", when, got, want)
	}
}

func send(t testing.TB, c net.Conn, s string) {
	t.Helper()
	if _, err := c.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
}
