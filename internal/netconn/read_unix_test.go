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

// sockets are the kinds of connections that are read without a buffer to wait
// with.
var sockets = map[string]func(testing.TB) (near, far net.Conn){"tcp": tcpPair, "unix": unixPair}

func TestOnlyPlainSocketsAreReadRaw(t *testing.T) {
	for _, kind := range kinds {
		near, _ := kind.pair(t)
		got := New(near, nil).reader != nil
		if want := kind.name == "TCP" || kind.name == "unix"; got != want {
			t.Errorf("%s: read raw = %v; want %v", kind.name, got, want)
		}
	}
}

func TestWaitingOnASocketHoldsNoBuffer(t *testing.T) {
	const waiting = 100
	for network, pair := range sockets {
		t.Run(network, func(t *testing.T) {
			var conns []*Conn
			for range waiting {
				near, _ := pair(t)
				conns = append(conns, New(near, nil))
			}
			before := heapBytes()
			errc := make(chan error, waiting)
			for _, c := range conns {
				go func() {
					_, err := fill(c, "held")
					errc <- err
				}()
			}
			waitForFills(waiting)
			if held := (heapBytes() - before) / waiting; held > smallSize/2 {
				t.Errorf("a Fill that waits holds %d bytes; want no buffer", held)
			}
			for _, c := range conns {
				c.Close()
				<-errc
			}
		})
	}
}

// heapBytes empties the pools first: what is in them is held by nobody.
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
			if strings.Contains(stack, "[IO wait") && strings.Contains(stack, "(*rawReader).fill") {
				waiting++
			}
		}
	}
}

func TestResetReadsLikeThatOfANetConn(t *testing.T) {
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

func TestFillOnASocketAllocatesNothing(t *testing.T) {
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
		if allocs >= 1 {
			t.Errorf("%s: %v allocations a Fill; want 0", network, allocs)
		}
	}
}

func TestSocketsDeliverMuchDataWhole(t *testing.T) {
	const pieces = 2000
	for network, pair := range sockets {
		t.Run(network, func(t *testing.T) {
			near, far := pair(t)
			c := New(near, nil)
			go func() {
				for i := range pieces {
					fmt.Fprintf(far, "%0*d\n", 1+i%500, i)
				}
				far.Close()
			}()
			var got strings.Builder
			for {
				p, err := fill(c, "")
				if err != nil {
					break
				}
				got.WriteString(p)
			}
			var want strings.Builder
			for i := range pieces {
				fmt.Fprintf(&want, "%0*d\n", 1+i%500, i)
			}
			if got.String() != want.String() {
				t.Errorf("got %d bytes that are not the %d that were sent", got.Len(), want.Len())
			}
		})
	}
}
