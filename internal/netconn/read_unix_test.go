//go:build unix

package netconn

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// sockets are the kinds of connections that wait without a buffer.
var sockets = map[string]func(testing.TB) (near, far net.Conn){
	"TCP": tcpPair, "unix": unixPair, "TLS that we dialed": dialedTLSPair,
}

func TestReaderDependsOnConnType(t *testing.T) {
	want := map[string]string{
		"TCP": "*netconn.rawReader", "unix": "*netconn.rawReader", "TLS that we dialed": "*netconn.rawReader",
		"TLS":     "*netconn.tlsReader",
		"wrapped": "<nil>", "TLS over a wrapper": "<nil>", "memory": "<nil>",
	}
	for _, kind := range kinds {
		near, _ := kind.pair(t)
		if got := fmt.Sprintf("%T", readerFor(near)); got != want[kind.name] {
			t.Errorf("%s: read by %s; want %s", kind.name, got, want[kind.name])
		}
	}
}

func TestFillWaitsWithoutBufferOnSockets(t *testing.T) {
	for network, pair := range sockets {
		t.Run(network, func(t *testing.T) {
			held := heldWhileWaiting(t, func() *Conn {
				near, _ := pair(t)
				return New(near, nil)
			})
			if held > smallSize/2 {
				t.Errorf("a Fill that waits holds %d bytes; want no buffer", held)
			}
		})
	}
}

func TestFillWaitsWithTinyBufferOverTLS(t *testing.T) {
	held := heldWhileWaiting(t, func() *Conn {
		near, far := acceptedTLSPair(t)
		c := New(near, nil)
		for _, size := range []int{smallSize, largeSize / 2} {
			far.Write(make([]byte, size))
			if p, err := fill(c, ""); len(p) != size || err != nil {
				t.Fatalf("Fill() = %d bytes, %v; want %d", len(p), err, size)
			}
		}
		return c
	})
	if held > waitSize+smallSize/4 {
		t.Errorf("a Fill that waits holds %d bytes; want not much more than %d", held, waitSize)
	}
}

// heldWhileWaiting returns how much memory a connection allocates for a Fill that
// waits.
func heldWhileWaiting(t *testing.T, open func() *Conn) int {
	const waiting = 100
	var conns []*Conn
	for range waiting {
		conns = append(conns, open())
	}
	before := heapBytes()
	errc := make(chan error, waiting)
	for _, c := range conns {
		go func() { // ends with Close
			_, err := fill(c, "held")
			errc <- err
		}()
	}
	waitForFills(waiting)
	held := (heapBytes() - before) / waiting
	for _, c := range conns {
		c.Close()
		<-errc
	}
	return held
}

// heapBytes returns the size of the heap. It empties the pools first.
func heapBytes() int {
	for range 3 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// waitForFills waits until n goroutines wait for the network in Fill.
func waitForFills(n int) {
	buf := make([]byte, 1<<20)
	for waiting := 0; waiting < n; runtime.Gosched() {
		waiting = 0
		stacks := string(buf[:runtime.Stack(buf, true)])
		for stack := range strings.SplitSeq(stacks, "\n\n") {
			if strings.Contains(stack, "[IO wait") && strings.Contains(stack, "netconn.(*Conn).Fill") {
				waiting++
			}
		}
	}
}

func TestFillReturnsResetLikeNetConn(t *testing.T) {
	near, far := tcpPair(t)
	c := New(near, nil)
	far.(*net.TCPConn).SetLinger(0)
	far.Close()
	_, err := fill(c, "held")
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "read" || !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("Fill(): %v; want a *net.OpError of ECONNRESET", err)
	}
	if want := "read tcp: read: connection reset by peer"; err.Error() != want {
		t.Errorf("Fill(): %q; want %q", err, want)
	}
	if op.Timeout() {
		t.Error("a reset is a timeout; want none")
	}
}

func TestFillAllocatesNothingOnSockets(t *testing.T) {
	// crypto/tls allocates in each read: one before the wait, one after it.
	want := map[string]float64{"TLS that we dialed": 2}
	for network, pair := range sockets {
		near, far := pair(t)
		c := New(near, nil)
		head, msg := []byte("held"), []byte("hello")
		allocs := testing.AllocsPerRun(100, func() {
			far.Write(msg)
			b, err := c.Fill(head)
			if err != nil {
				t.Fatal(err)
			}
			b.Free()
		})
		if allocs > want[network] {
			t.Errorf("%s: %v allocations a Fill; want at most %v", network, allocs, want[network])
		}
	}
}
