//go:build linux

package process_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A use is what the process with the proxy uses.
type use struct {
	Process     int // bytes of the Go runtime, as its memory limit counts them
	Resident    int // bytes; 0 with the race detector, which needs many of its own
	Sockets     int // bytes in the kernel
	Descriptors int
	Tunnels     int
	Waiting     int // connections that wait for a request
}

// internetBounds returns what docs/production.md promises for newProxy and newServer.
func internetBounds(maxTunnels, maxWaiting int) use {
	const (
		base         = 64 << 20  // the program, and the rates of its clients
		perTunnel    = 128 << 10 // that is stalled in both directions, or is being opened
		perWaiting   = 384 << 10 // with the worst header
		socketBuffer = 64 << 10
		headerBuffer = 16 << 10
		inPassing    = 100 // the listener, the event loop, connections that have just been reset
		inProgress   = 400 // requests that are being answered at one moment of a flood
	)
	maxLingering := maxTunnels / 10 // clients that are refused by a Close frame
	process := base + 2*((maxTunnels+maxLingering)*perTunnel+maxWaiting*perWaiting)
	return use{
		Process:     process,
		Resident:    process,
		Sockets:     (maxTunnels+maxLingering)*8*socketBuffer + maxWaiting*2*headerBuffer,
		Descriptors: 2*maxTunnels + maxLingering + maxWaiting + inPassing + inProgress,
		Tunnels:     maxTunnels,
		Waiting:     maxWaiting + inPassing,
	}
}

// values returns the values of u, and their names.
func (u *use) values() (values [6]*int, names [6]string) {
	return [...]*int{&u.Process, &u.Resident, &u.Sockets, &u.Descriptors, &u.Tunnels, &u.Waiting},
		[...]string{"process bytes", "resident bytes", "socket bytes", "descriptors", "tunnels", "waiting connections"}
}

// exceeds describes what of u is above the bounds.
func (u *use) exceeds(bounds use) string {
	var all []string
	values, names := u.values()
	most, _ := bounds.values()
	for i, v := range values {
		if *v > *most[i] {
			all = append(all, fmt.Sprintf("%d %s; want at most %d", *v, names[i], *most[i]))
		}
	}
	return strings.Join(all, "\n")
}

// raise sets each value to that of v if that is more.
func (u *use) raise(v use) {
	values, _ := u.values()
	others, _ := v.values()
	for i := range values {
		*values[i] = max(*values[i], *others[i])
	}
}

func (u *use) String() string {
	return fmt.Sprintf("process %s, resident %s, sockets %s, %d descriptors, %d tunnels, %d waiting connections",
		mebibytes(u.Process), mebibytes(u.Resident), mebibytes(u.Sockets), u.Descriptors, u.Tunnels, u.Waiting)
}

func mebibytes(n int) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// Each flood comes alone, and then all of them but one at once.
func TestProxyFacingTheInternetOutlastsFloods(t *testing.T) {
	const (
		maxEcho   = 10 * time.Second // of a message, on a machine that the floods use too
		maxOpened = 20 * time.Second // of a new client, until it has a tunnel

		// Attackers and backends have as much in their sockets as the proxy has. Other tests
		// have some too.
		noise = 128 << 20
	)
	maxTunnels, maxWaiting, period := 200, 200, 700*time.Millisecond
	if soak := proxytest.SoakTime(t); soak > 0 {
		maxTunnels, maxWaiting, period = 500, 1000, soak/3
	}
	most := (maxDescriptors(t) - 200) / 16 // what the attackers need most of
	maxTunnels, maxWaiting = min(maxTunnels, most), min(maxWaiting, most)
	bounds := internetBounds(maxTunnels, maxWaiting)
	t.Logf("at most %v", &bounds)

	var urls []any
	for range 2 {
		var url string
		proxytest.StartChild(t, "service").Ask(&url, "url")
		urls = append(urls, url)
	}
	proxy, attackers := proxytest.StartChild(t, "internet"), proxytest.StartChild(t, "attackers")
	var url string
	proxy.Ask(&url, append([]any{"serve", maxTunnels, maxWaiting}, urls...)...)
	addr := strings.TrimPrefix(url, "http://")
	var idle use
	proxy.Ask(&idle, "use")
	idleOfAll := systemSocketBytes(t)
	t.Logf("idle: %v; sockets of all processes %s", &idle, mebibytes(idleOfAll))

	for _, flood := range []struct {
		name  string
		kinds string
		isAny bool // of any number of addresses, so that nobody can tell who should get in
	}{
		{"silent connections and endless headers", "connections", false},
		{"handshakes of few addresses", "handshakes", false},
		{"handshakes of many addresses", "strangers", true},
		{"messages", "messages", false},
		{"clients that do not read", "deaf", false},
		{"all of them, but of few addresses", "connections,handshakes,messages,deaf", false},
	} {
		t.Run(flood.name, func(t *testing.T) {
			regulars := startRegulars(t, addr)
			attackers.Ask(new(bool), "flood", flood.kinds, addr, maxTunnels, maxWaiting)
			var most use
			mostOfAll, numOpened, slowest := 0, 0, time.Duration(0)
			for end := time.Now().Add(period); time.Now().Before(end); {
				if !flood.isAny {
					start := time.Now()
					c, err := openTalker(addr, maxOpened)
					slowest = max(slowest, time.Since(start))
					if err != nil {
						t.Errorf("for %v a new client gets no tunnel: %v", slowest, err)
						break
					}
					c.close()
					numOpened++
				}
				var now use
				proxy.Ask(&now, "use")
				most.raise(now)
				mostOfAll = max(mostOfAll, systemSocketBytes(t))
			}
			var sent map[string]int
			attackers.Ask(&sent, "stop")
			echoes, slowestEcho := regulars.stop(t)
			t.Logf("%v: %v; sockets of all processes %s; %d echoes, the slowest took %v; the slowest of %d new clients took %v",
				sent, &most, mebibytes(mostOfAll), echoes, slowestEcho, numOpened, slowest)
			if text := most.exceeds(bounds); text != "" {
				t.Error(text)
			}
			if mostOfAll-idleOfAll > 2*bounds.Sockets+noise {
				t.Errorf("the sockets of all processes use %s; want at most %s", mebibytes(mostOfAll), mebibytes(2*bounds.Sockets+noise))
			}
			if slowestEcho > maxEcho {
				t.Errorf("an echo took %v; want at most %v", slowestEcho, maxEcho)
			}
		})
	}
}

// maxDescriptors returns how many descriptors a process may have.
func maxDescriptors(t testing.TB) int {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return int(min(limit.Max, 1<<20))
}

// regulars are clients that have their tunnels before the flood, and talk all the time.
type regulars struct {
	done    chan struct{}
	running sync.WaitGroup

	mu      sync.Mutex
	echoes  int
	slowest time.Duration
	err     error
}

func startRegulars(t *testing.T, addr string) *regulars {
	t.Helper()
	r := &regulars{done: make(chan struct{})}
	for range 5 {
		c, err := openTalker(addr, 20*time.Second) // the tunnels of the flood before may still end
		if err != nil {
			t.Fatal(err)
		}
		r.running.Go(func() { r.talk(c) }) // until stop
	}
	return r
}

func (r *regulars) talk(c *talker) {
	defer c.close()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-r.done:
			return
		case <-tick.C:
		}
		took, err := c.talk()
		r.mu.Lock()
		r.echoes++
		r.slowest = max(r.slowest, took)
		r.err = errors.Join(r.err, err)
		r.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// stop returns how many messages came back, and the longest time that one took.
func (r *regulars) stop(t *testing.T) (echoes int, slowest time.Duration) {
	t.Helper()
	close(r.done)
	r.running.Wait()
	if r.err != nil {
		t.Errorf("clients that had a tunnel before the flood: %v", r.err)
	}
	return r.echoes, r.slowest
}

// openTalker opens a tunnel from a new address, as a client that comes again when it is
// refused, for as long as most.
func openTalker(addr string, most time.Duration) (c *talker, err error) {
	for give := time.Now().Add(most); ; <-time.After(50 * time.Millisecond) {
		if c, err = dialTalker(addr, nextAddress()); err == nil {
			if _, err = c.talk(); err == nil { // it is not refused by a Close frame
				return c, nil
			}
			c.close()
		}
		if time.Now().After(give) {
			return nil, err
		}
	}
}

var numAddresses int // that nextAddress has returned

// nextAddress returns an address of this host that no other client has. One goroutine calls it.
func nextAddress() net.IP {
	numAddresses++
	return net.IPv4(127, 201, byte(numAddresses/250), byte(1+numAddresses%250))
}

// A talker is a client with a tunnel to an echo.
type talker struct {
	conn net.Conn
	r    *bufio.Reader
}

func dialTalker(addr string, from net.IP) (*talker, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: 20 * time.Second}
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &talker{conn, bufio.NewReader(conn)}
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	conn.Write([]byte(proxytest.UpgradeTo("/"))) // where it fails, so does the response
	resp, err := http.ReadResponse(c.r, nil)
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		err = errors.New(resp.Status)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// talk sends a message, and returns how long it takes until it is back.
func (c *talker) talk() (took time.Duration, err error) {
	start := time.Now()
	c.conn.SetDeadline(start.Add(20 * time.Second))
	c.conn.Write(wstest.AppendFrame(nil, wstest.Text("hello"), &[4]byte{1, 2, 3, 4}))
	f, err := wstest.ReadFrame(c.r)
	if err == nil && string(f.Payload) != "hello" {
		err = fmt.Errorf("got %v; want the echo", f)
	}
	return time.Since(start), err
}

func (c *talker) close() {
	c.conn.(*net.TCPConn).SetLinger(0) // no TIME_WAIT for each of many
	c.conn.Close()
}

// playInternet is the role of a program that faces the internet.
func playInternet(t *testing.T) map[string]proxytest.Command {
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	var p *wsproxy.Proxy
	var waiting waitingCount
	return map[string]proxytest.Command{
		// serve TUNNELS WAITING BACKEND... answers with the URL of a proxy.
		"serve": func(args ...string) any {
			var err error
			if p, err = newProxy(number(args[0]), args[2:]...); err != nil {
				t.Fatal(err)
			}
			mux := http.NewServeMux()
			mux.Handle("/", p)
			srv := newServer(wsproxy.Front(mux), number(args[1]))
			srv.ErrorLog, srv.ConnState = proxytest.DiscardLog, waiting.around(srv.ConnState)
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var serving sync.WaitGroup
			serving.Go(func() { srv.Serve(ln) }) // until Close
			t.Cleanup(func() {
				srv.Close()
				p.Close()
				serving.Wait()
			})
			return "http://" + ln.Addr().String()
		},
		"use": func(...string) any {
			u := usedByProcess(t)
			u.Tunnels, u.Waiting = p.Stats().Tunnels, waiting.now()
			return u
		},
	}
}

// A waitingCount counts the connections of a server that wait for a request.
type waitingCount struct {
	mu    sync.Mutex
	conns map[net.Conn]bool
}

// around returns a ConnState that counts, and calls the one that a server has.
func (w *waitingCount) around(onState func(net.Conn, http.ConnState)) func(net.Conn, http.ConnState) {
	w.conns = make(map[net.Conn]bool)
	return func(c net.Conn, state http.ConnState) {
		w.mu.Lock()
		if state == http.StateNew || state == http.StateIdle {
			w.conns[c] = true
		} else {
			delete(w.conns, c)
		}
		w.mu.Unlock()
		onState(c, state)
	}
}

func (w *waitingCount) now() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.conns)
}

func usedByProcess(t testing.TB) (u use) {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	u.Process = int(samples[0].Value.Uint64() - samples[1].Value.Uint64())
	if !proxytest.IsRace {
		u.Resident = residentBytes(t)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	u.Descriptors = len(entries)
	for _, e := range entries {
		fd, _ := strconv.Atoi(e.Name())
		u.Sockets += socketBytes(fd)
	}
	return u
}

// residentBytes returns the process's memory as the system counts it.
func residentBytes(t testing.TB) int {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, resident int
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		t.Fatalf("/proc/self/statm is %q: %v", b, err)
	}
	return resident * os.Getpagesize()
}

// socketBytes returns the memory of the socket with the descriptor fd, as its cgroup counts it;
// 0 if it is no socket.
func socketBytes(fd int) (total int) {
	const (
		soMemInfo = 55 // SO_MEMINFO

		rmemAlloc, fwdAlloc, wmemQueued, optMem, backlog = 0, 4, 5, 6, 7 // indexes of its values
	)
	// The function is for another option, and gets any one of 32 bytes on every architecture.
	info, err := syscall.GetsockoptIPv6MTUInfo(fd, syscall.SOL_SOCKET, soMemInfo)
	if err != nil {
		return 0
	}
	values := (*[8]int32)(unsafe.Pointer(info))
	for _, i := range []int{rmemAlloc, fwdAlloc, wmemQueued, optMem, backlog} {
		total += int(values[i])
	}
	return total
}

// systemSocketBytes returns the memory of the sockets of all processes in this process's
// cgroup or, where that does not tell it, on this host.
func systemSocketBytes(t testing.TB) int {
	t.Helper()
	if b, err := os.ReadFile("/proc/self/cgroup"); err == nil {
		if _, group, ok := strings.Cut(string(b), "0::"); ok {
			group, _, _ = strings.Cut(group, "\n")
			stat, _ := os.ReadFile("/sys/fs/cgroup" + group + "/memory.stat")
			for line := range strings.Lines(string(stat)) {
				var n int
				if _, err := fmt.Sscanf(line, "sock %d", &n); err == nil {
					return n
				}
			}
		}
	}
	b, err := os.ReadFile("/proc/net/sockstat")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "TCP:")
	line, _, _ := strings.Cut(rest, "\n")
	_, mem, _ := strings.Cut(line, "mem ")
	pages, err := strconv.Atoi(strings.TrimSpace(mem))
	if err != nil {
		t.Fatalf("/proc/net/sockstat has %q: %v", line, err)
	}
	return pages * os.Getpagesize()
}
