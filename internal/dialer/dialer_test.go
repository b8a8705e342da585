package dialer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy/wsproxytest/memnet"
)

// A network dials addresses in memory, in a bubble. Addresses are letters, see addrs.
type network struct {
	start time.Time
	mu    sync.Mutex
	hosts map[string]host
	dials []string       // "letter at time since start"
	conns []*memnet.Conn // that dials returned
}

// A host says how one address behaves. The zero value never answers.
type host struct {
	answers bool          // it connects, or fails with err
	after   time.Duration // from the dial
	err     error
	ignores bool // the dial does not end by its context
}

// newDialer returns a Dialer over a network.
func newDialer(hosts map[string]host) (*Dialer, *network) {
	n := &network{start: time.Now(), hosts: hosts}
	d := New()
	d.dial = n.dial
	d.memory = newMemory(7)
	return d, n
}

func (n *network) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	letter := letters([]netip.AddrPort{netip.MustParseAddrPort(addr)})
	n.mu.Lock()
	h := n.hosts[letter]
	n.dials = append(n.dials, fmt.Sprintf("%s at %v", letter, time.Since(n.start)))
	n.mu.Unlock()
	done := ctx.Done()
	if h.ignores {
		done = nil
	}
	var answer <-chan time.Time // never
	if h.answers {
		timer := time.NewTimer(h.after)
		defer timer.Stop()
		answer = timer.C
	}
	select {
	case <-answer:
	case <-done:
		h.err = ctx.Err()
	}
	if h.err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr)), Err: h.err}
	}
	front, _ := memnet.Pipe(1)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns = append(n.conns, front)
	return front, nil
}

// set makes the host at letter behave like h.
func (n *network) set(letter string, h host) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[letter] = h
}

// takeDials returns the dials since the last call, and makes now their start.
func (n *network) takeDials() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	dials := n.dials
	n.dials, n.start = nil, time.Now()
	return strings.Join(dials, ", ")
}

// wantOneOpen checks that c is the only connection that is open, and closes it.
func (n *network) wantOneOpen(t *testing.T, c net.Conn) {
	t.Helper()
	c.Close()
	for i, conn := range n.conns {
		if conn.NumCloses() != 1 {
			t.Errorf("connection %d of %d was closed %d times; want once", i+1, len(n.conns), conn.NumCloses())
		}
	}
}

// failFirst makes the dialer's memory order "abc" as abc: the first ones have older
// failures.
func failFirst(d *Dialer, letters string) {
	for i, a := range addrs(letters) {
		d.memory.recordFailure(a, time.Now().Add(time.Duration(i-100)*time.Millisecond))
	}
}

var (
	works   = host{answers: true}
	refuses = host{answers: true, err: syscall.ECONNREFUSED}
	silent  = host{}
)

func TestDialStaggersAttempts(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name  string
		hosts map[string]host
		dials string
		took  time.Duration
		fails bool
	}{
		{"first works", map[string]host{"a": works}, "a at 0s", 0, false},
		{"first works within the delay", map[string]host{"a": {answers: true, after: 249 * ms}}, "a at 0s", 249 * ms, false},
		{"next after 250 ms of silence", map[string]host{"a": silent, "b": silent, "c": works},
			"a at 0s, b at 250ms, c at 500ms", 500 * ms, false},
		{"next at once when one fails", map[string]host{"a": refuses, "b": refuses, "c": works},
			"a at 0s, b at 0s, c at 0s", 0, false},
		{"delay counts from the last attempt", map[string]host{"a": {answers: true, after: 100 * ms, err: syscall.ECONNREFUSED}, "b": silent, "c": works},
			"a at 0s, b at 100ms, c at 350ms", 350 * ms, false},
		{"first goes on after the delay", map[string]host{"a": {answers: true, after: 300 * ms}, "b": silent, "c": silent},
			"a at 0s, b at 250ms", 300 * ms, false},
		{"earlier attempt fails", map[string]host{"a": {answers: true, after: 300 * ms, err: syscall.ECONNREFUSED}, "b": silent, "c": works},
			"a at 0s, b at 250ms, c at 300ms", 300 * ms, false},
		{"all fail", map[string]host{"a": refuses, "b": {answers: true, after: 2000 * ms, err: syscall.EHOSTUNREACH}, "c": refuses},
			"a at 0s, b at 0s, c at 250ms", 2000 * ms, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, n := newDialer(tt.hosts)
				failFirst(d, "abc")
				c, err := d.Dial(t.Context(), addrs("abc"))
				took := time.Since(n.start)
				if dials := n.takeDials(); dials != tt.dials || took != tt.took || (err != nil) != tt.fails {
					t.Errorf("Dial took %v with dials %s and error %v; want %v, dials %s, error %v",
						took, dials, err, tt.took, tt.dials, tt.fails)
				}
				if c != nil {
					n.wantOneOpen(t, c)
				}
			})
		})
	}
}

func TestDialWaitsForSilentAddressOnceIn30s(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, n := newDialer(map[string]host{"a": works, "b": works, "c": works, "d": silent})
		var waits []time.Duration
		for range 900 {
			begin := time.Since(n.start)
			c, err := d.Dial(t.Context(), addrs("abcd"))
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			switch took := time.Since(n.start) - begin; took {
			case 0:
			case attemptDelay:
				waits = append(waits, begin)
			default:
				t.Fatalf("a dial took %v; want 0s or %v", took, attemptDelay)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if len(waits) < 3 {
			t.Errorf("in 90 s dials waited at %v; want three: after 30 s the address is tried again", waits)
		}
		for i := 1; i < len(waits); i++ {
			if since := waits[i] - waits[i-1]; since < failureTime {
				t.Errorf("dials waited at %v; want no two within %v", waits, failureTime)
			}
		}
	})
}

// While the first dial waits, the others may. After that none does.
func TestDialsAtOnceWaitOnceForSilentAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, n := newDialer(map[string]host{"a": works, "b": silent})
		for range 2 {
			var running sync.WaitGroup
			for range 100 {
				running.Go(func() {
					c, err := d.Dial(t.Context(), addrs("ab"))
					if err != nil {
						t.Error(err)
						return
					}
					c.Close()
				})
			}
			running.Wait()
		}
		if took := time.Since(n.start); took != attemptDelay {
			t.Errorf("twice 100 dials took %v; want %v", took, attemptDelay)
		}
	})
}

func TestDialRemembersFailures(t *testing.T) {
	const ms = time.Millisecond
	slow := host{answers: true, after: 300 * ms}
	for _, tt := range []struct {
		name    string
		a       host
		timeout time.Duration // of the dial
		fails   bool          // a is remembered
	}{
		{"refused", refuses, time.Second, true},
		{"silent while another one connects", silent, time.Second, true},
		{"silent until the deadline", silent, 250 * ms, true},
		{"canceled before 250 ms", silent, 249 * ms, false},
		{"slow", slow, time.Second, false},
		{"no descriptor in this process", host{answers: true, err: syscall.EMFILE}, time.Second, false},
		{"no descriptor on this host", host{answers: true, err: syscall.ENFILE}, time.Second, false},
		{"no port on this host", host{answers: true, err: syscall.EADDRNOTAVAIL}, time.Second, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := host{answers: true, after: 100 * ms}
				d, _ := newDialer(map[string]host{"a": tt.a, "b": b})
				for letters(d.memory.order(addrs("ab"), time.Now())) != "ba" { // the next one is ab
				}
				ctx, cancel := context.WithTimeout(t.Context(), tt.timeout)
				defer cancel()
				if c, err := d.Dial(ctx, addrs("ab")); err == nil {
					c.Close()
				}
				if got := d.memory.hasFailed(addrs("a")[0], time.Now()); got != tt.fails {
					t.Errorf("after the dial the failure of a is remembered: %v; want %v", got, tt.fails)
				}
				if d.memory.hasFailed(addrs("b")[0], time.Now()) {
					t.Error("after the dial a failure of b is remembered; want none")
				}
			})
		})
	}
}

func TestErrorIsLocalIfThoseOfAllAddressesAre(t *testing.T) {
	of := func(errnos ...syscall.Errno) error {
		e := new(Error)
		for _, errno := range errnos {
			e.errs = append(e.errs, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", errno)})
		}
		return fmt.Errorf("of a dial: %w", e)
	}
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{of(syscall.EMFILE), true},
		{of(syscall.EMFILE, syscall.EADDRNOTAVAIL), true},
		{of(syscall.EADDRNOTAVAIL, syscall.ECONNREFUSED), false},
		{of(syscall.ECONNREFUSED, syscall.EPERM), false},
		{os.NewSyscallError("socket", syscall.ENOBUFS), true},
		{os.NewSyscallError("connect", syscall.ENETUNREACH), false},
		{syscall.EMFILE, true},
		{syscall.ENFILE, true},
		{syscall.ENOMEM, true},
		{syscall.ENOBUFS, true},
		{syscall.EADDRNOTAVAIL, true},
		{syscall.EPERM, true},
		{syscall.ECONNREFUSED, false},
		{syscall.ENETUNREACH, false},
		{&net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.EADDRNOTAVAIL)}, true},
		{&net.DNSError{Err: "dial udp 10.0.0.1:53: socket: " + syscall.EMFILE.Error(), Name: "chat.internal"}, true},
		{&net.DNSError{Err: "no such host", Name: "chat.internal", IsNotFound: true}, false},
		{context.DeadlineExceeded, false},
	} {
		if got := IsLocal(tt.err); got != tt.want {
			t.Errorf("IsLocal(%v) = %v; want %v", tt.err, got, tt.want)
		}
	}
}

func TestDialForgetsFailureOfAddressThatConnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, n := newDialer(map[string]host{"a": refuses, "b": refuses})
		if _, err := d.Dial(t.Context(), addrs("ab")); err == nil {
			t.Fatal("Dial succeeded; want an error: both addresses refuse")
		}
		n.set("a", works)
		c, err := d.Dial(t.Context(), addrs("ab"))
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if d.memory.hasFailed(addrs("a")[0], time.Now()) {
			t.Error("a has connected, and its failure is remembered")
		}
	})
}

// The attempts end with the dial, and so do their connections: one that connects although
// its dial was canceled is closed.
func TestDialClosesConnectionsOfLosers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := host{answers: true, after: 600 * time.Millisecond, ignores: true}
		d, n := newDialer(map[string]host{"a": late, "b": late, "c": works})
		failFirst(d, "abc")
		c, err := d.Dial(t.Context(), addrs("abc"))
		if err != nil {
			t.Fatal(err)
		}
		if len(n.conns) != 3 {
			t.Errorf("when Dial returns, %d of 3 attempts have ended", len(n.conns))
		}
		n.wantOneOpen(t, c)
	})
}

func TestDialEndsByItsContext(t *testing.T) {
	for _, tt := range []struct {
		name      string
		limit     func(context.Context) (context.Context, context.CancelFunc)
		want      error
		isTimeout bool
	}{
		{"deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 600*time.Millisecond)
		}, context.DeadlineExceeded, true},
		{"cancellation", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(600*time.Millisecond, cancel)
			return ctx, cancel
		}, context.Canceled, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, n := newDialer(map[string]host{})
				failFirst(d, "abcd")
				ctx, cancel := tt.limit(t.Context())
				defer cancel()
				_, err := d.Dial(ctx, addrs("abcd"))
				took := time.Since(n.start)
				if dials, want := n.takeDials(), "a at 0s, b at 250ms, c at 500ms"; took != 600*time.Millisecond || dials != want {
					t.Errorf("Dial took %v with dials %s; want 600ms, dials %s", took, dials, want)
				}
				var timeout interface{ Timeout() bool }
				if !errors.Is(err, tt.want) || !errors.As(err, &timeout) || timeout.Timeout() != tt.isTimeout {
					t.Errorf("Dial() = %v; want %v, a timeout: %v", err, tt.want, tt.isTimeout)
				}
			})
		})
	}
}

func TestDialErrorNamesAddressesThatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := newDialer(map[string]host{"a": refuses, "b": {answers: true, err: syscall.ENETUNREACH}})
		failFirst(d, "ab")
		_, err := d.Dial(t.Context(), addrs("ab"))
		want := "dial tcp 10.0.0.97:80: connection refused; dial tcp 10.0.0.98:80: network is unreachable"
		if runtime.GOOS == "linux" && (err == nil || err.Error() != want) {
			t.Errorf("Dial() = %v; want %s", err, want)
		}
		if !errors.Is(err, syscall.ECONNREFUSED) || !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("Dial() = %v; want an error that is both ECONNREFUSED and ENETUNREACH", err)
		}
	})
}

func TestDialOfOneAddressHasNoMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, n := newDialer(map[string]host{"a": refuses})
		_, err := d.Dial(t.Context(), addrs("a"))
		if _, ok := err.(*net.OpError); !ok || len(d.memory.failed) != 0 {
			t.Errorf("Dial() = %v, and %d failures are remembered; want a *net.OpError, and none", err, len(d.memory.failed))
		}
		if dials := n.takeDials(); dials != "a at 0s" {
			t.Errorf("dials are %s; want one", dials)
		}
	})
}

// A hook of httptrace may panic, or end its goroutine. The upgrade whose hook it is
// recovers the panic.
func TestDialPanicsWithItsAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := newDialer(map[string]host{})
		d.dial = func(context.Context, string, string) (net.Conn, error) { panic("boom") }
		defer func() {
			if got := recover(); got != "boom" {
				t.Errorf("Dial panics with %v; want boom", got)
			}
		}()
		d.Dial(t.Context(), addrs("ab"))
	})
}

func TestDialFailsIfItsAttemptsEndTheirGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := newDialer(map[string]host{})
		d.dial = func(context.Context, string, string) (net.Conn, error) { runtime.Goexit(); return nil, nil }
		if c, err := d.Dial(t.Context(), addrs("ab")); c != nil || err == nil {
			t.Errorf("Dial() = %v, %v; want an error", c, err)
		}
	})
}

func TestResolveReturnsEachAddressOnce(t *testing.T) {
	v4 := net.IPv4(192, 0, 2, 1) // in 16 bytes
	v6 := net.ParseIP("2001:db8::1")
	local := net.ParseIP("fe80::1")
	for _, tt := range []struct {
		found []net.IPAddr
		want  string
	}{
		{[]net.IPAddr{{IP: v4}}, "[192.0.2.1:80]"},
		{[]net.IPAddr{{IP: v4}, {IP: v6}, {IP: v4.To4()}}, "[192.0.2.1:80 [2001:db8::1]:80]"},
		{[]net.IPAddr{{IP: local, Zone: "a"}, {IP: local, Zone: "b"}}, "[[fe80::1%a]:80 [fe80::1%b]:80]"},
	} {
		d := New()
		d.lookup = func(context.Context, string) ([]net.IPAddr, error) { return tt.found, nil }
		if got, err := d.Resolve(t.Context(), "a.example", 80); fmt.Sprint(got) != tt.want || err != nil {
			t.Errorf("Resolve with %v = %v, %v; want %s", tt.found, got, err, tt.want)
		}
	}
}

func TestResolveFailsLikeNetDialer(t *testing.T) {
	failed := &net.DNSError{Err: "no such host", Name: "a.example", IsNotFound: true}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{failed, "dial tcp: lookup a.example: no such host"},
		{nil, "dial tcp: lookup a.example: no suitable address"},
	} {
		d := New()
		d.lookup = func(context.Context, string) ([]net.IPAddr, error) { return nil, tt.err }
		addrs, err := d.Resolve(t.Context(), "a.example", 80)
		var dns *net.DNSError
		if err == nil || err.Error() != tt.want || !errors.As(err, &dns) || len(addrs) != 0 {
			t.Errorf("Resolve after %v = %v, %v; want %s", tt.err, addrs, err, tt.want)
		}
	}
}

func TestDialsAreSafeForConcurrentUse(t *testing.T) {
	d, _ := newDialer(map[string]host{"a": works, "b": refuses, "c": works})
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for range 200 {
				c, err := d.Dial(t.Context(), slices.Clone(addrs("abc")))
				if err != nil {
					t.Error(err)
					return
				}
				c.Close()
			}
		})
	}
	running.Wait()
}
