//go:build linux

package process_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// playAttackers is the role of clients that mean harm.
func playAttackers(t *testing.T) map[string]proxytest.Command {
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	var a *attackers
	return map[string]proxytest.Command{
		// flood KINDS ADDRESS TUNNELS WAITING starts floods that exceed the limits of a
		// proxy with newProxy(TUNNELS) and newServer(WAITING).
		"flood": func(args ...string) any {
			a = &attackers{addr: args[1], maxTunnels: number(args[2]), maxWaiting: number(args[3]), counts: make(map[string]*atomic.Int64)}
			a.ctx, a.cancel = context.WithCancel(context.Background())
			for kind := range strings.SplitSeq(args[0], ",") {
				a.counts[kind] = new(atomic.Int64)
			}
			for kind, count := range a.counts {
				a.start(kind, count)
			}
			return true
		},
		// stop ends them, and answers with how many of each there were.
		"stop": func(...string) any {
			a.cancel()
			a.running.Wait()
			counts := make(map[string]int64)
			for kind, n := range a.counts {
				counts[kind] = n.Load()
			}
			return counts
		},
	}
}

// attackers are clients of several floods, until the context ends.
type attackers struct {
	ctx                    context.Context
	cancel                 context.CancelFunc
	addr                   string
	maxTunnels, maxWaiting int
	counts                 map[string]*atomic.Int64 // by the kind of flood
	running                sync.WaitGroup
}

// start starts the clients of a flood. Each counts what it does.
func (a *attackers) start(kind string, count *atomic.Int64) {
	const workers = 4
	switch kind {
	case "connections":
		for i := range workers {
			a.repeat(a.maxWaiting, func(n int) net.Conn { return a.connect(fewAddresses(i), badRequests[n%len(badRequests)]) }, count)
		}
	case "handshakes":
		for i := range workers {
			a.repeat(a.maxTunnels, func(int) net.Conn { return a.connect(fewAddresses(i), proxytest.UpgradeTo("/")) }, count)
		}
	case "strangers":
		for range workers {
			a.repeat(a.maxTunnels, func(int) net.Conn { return a.connect(anyAddress(), proxytest.UpgradeTo("/")) }, count)
		}
	case "messages":
		for _, flood := range floods(&[4]byte{}) {
			for range 2 {
				a.running.Go(func() { a.sendMessages(flood, count) })
			}
		}
	case "deaf":
		for range a.maxTunnels * 2 / 3 {
			a.running.Go(func() { a.neverRead(count) })
		}
	}
}

// badRequests are requests that never end, and one of a thousand fields. Most are empty: what
// costs a program CPU time is not what the test is about.
var badRequests = []string{
	"", "", "", "",
	"GET / HTTP/1.1\r\nHost: chat.example\r\n",
	"GET / HTTP/1.1\r\nHost: chat.example\r\nCookie: " + strings.Repeat("x", 8000),
	"GET / HTTP/1.1\r\nHost: chat.example\r\n" + tinyFields(8000),
	strings.TrimSuffix(proxytest.UpgradeTo("/"), "\r\n") + tinyFields(7500) + "\r\n",
}

// tinyFields returns so many bytes of fields that need much memory: each has another name.
func tinyFields(n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%s:\n", strconv.FormatInt(int64(i), 36))
	}
	return b.String()
}

// fewAddresses returns the address of the i-th of some attackers, who have two.
func fewAddresses(i int) net.IP { return net.IPv4(127, 202, 0, byte(1+i%2)) }

// anyAddress returns one of many addresses.
func anyAddress() net.IP {
	return net.IPv4(127, byte(1+rand.IntN(200)), byte(rand.IntN(256)), byte(1+rand.IntN(254)))
}

// repeat makes connections, up to 500 a second, and leaves the last most of them open.
func (a *attackers) repeat(most int, connect func(n int) net.Conn, count *atomic.Int64) {
	a.running.Go(func() {
		open := make([]net.Conn, most)
		tick := time.NewTicker(floodInterval())
		defer tick.Stop()
		for n := 0; a.ctx.Err() == nil; n++ {
			<-tick.C
			c := connect(n)
			if c == nil {
				continue
			}
			count.Add(1)
			i := n % most
			if open[i] != nil {
				open[i].Close()
			}
			open[i] = c
		}
		for _, c := range open {
			if c != nil {
				c.Close()
			}
		}
	})
}

// floodInterval returns the time from one thing that an attacker does to the next. Without one,
// the attackers would use the processors that the proxy needs.
func floodInterval() time.Duration {
	if proxytest.IsRace {
		return 10 * time.Millisecond
	}
	return 2 * time.Millisecond
}

// connect returns a new connection on which it has sent s, or nil. Its own buffers are small,
// and it is closed by a reset.
func (a *attackers) connect(from net.IP, s string) net.Conn {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: time.Second, Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10)
			syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, 64<<10)
		})
	}}
	c, err := d.DialContext(a.ctx, "tcp", a.addr)
	if err != nil {
		return nil
	}
	c.(*net.TCPConn).SetLinger(0)
	c.SetDeadline(time.Now().Add(time.Second))
	io.WriteString(c, s)
	return c
}

// open returns a connection with a tunnel, or nil. It has read nothing behind the 101.
func (a *attackers) open(from net.IP, path string) net.Conn {
	c := a.connect(from, proxytest.UpgradeTo(path))
	if c == nil {
		return nil
	}
	var head []byte
	for b := make([]byte, 1); !bytes.HasSuffix(head, endOfHead); head = append(head, b...) {
		if _, err := io.ReadFull(c, b); err != nil {
			c.Close()
			return nil
		}
	}
	if !bytes.HasPrefix(head, switched101) {
		c.Close()
		return nil
	}
	c.SetDeadline(time.Time{})
	return c
}

// pause waits, and reports whether the floods go on.
func (a *attackers) pause(d time.Duration) bool {
	select {
	case <-a.ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// sendMessages sends a flood through one tunnel after the other, up to 64 KiB at a time.
func (a *attackers) sendMessages(flood []byte, count *atomic.Int64) {
	tick := time.NewTicker(floodInterval())
	defer tick.Stop()
	for {
		if c := a.open(anyAddress(), "/"); c != nil {
			stop := context.AfterFunc(a.ctx, func() { c.Close() })
			var reading sync.WaitGroup
			reading.Go(func() { io.Copy(io.Discard, c) }) // until c is closed
			for err := error(nil); err == nil; count.Add(1) {
				<-tick.C
				_, err = c.Write(flood)
			}
			stop()
			c.Close()
			reading.Wait()
		}
		if !a.pause(100 * time.Millisecond) {
			return
		}
	}
}

// neverRead opens one tunnel after the other, asks for all that a backend can send, and reads
// nothing.
func (a *attackers) neverRead(count *atomic.Int64) {
	for {
		hold := 100 * floodInterval() // until the next attempt
		c := a.open(anyAddress(), streamPath)
		if c != nil {
			count.Add(1)
			hold = time.Second + rand.N(time.Second)
		}
		goesOn := a.pause(hold)
		if c != nil {
			c.Close()
		}
		if !goesOn {
			return
		}
	}
}

// streamPath is where a service sends without end.
const streamPath = "/stream"

// playService is the role of a backend that echoes messages or, at streamPath, sends without
// end. Its own buffers are small.
func playService(t *testing.T) map[string]proxytest.Command {
	url := serveConns(t, func(ctx context.Context, c net.Conn) { serveTunnel(ctx, c.(*net.TCPConn)) })
	return map[string]proxytest.Command{"url": func(...string) any { return url }}
}

// serveConns starts a backend that serves each connection on a goroutine, until the test ends:
// then the context ends too, and serve closes its connection.
func serveConns(t *testing.T, serve func(context.Context, net.Conn)) (url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { // until ln is closed
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() { serve(ctx, c) })
		}
	})
	t.Cleanup(func() {
		cancel()
		ln.Close()
		running.Wait()
	})
	return "http://" + ln.Addr().String()
}

func serveTunnel(ctx context.Context, c *net.TCPConn) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	c.SetReadBuffer(64 << 10)
	c.SetWriteBuffer(64 << 10)
	r := bufio.NewReader(c)
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	io.WriteString(c, wstest.UpgradeAnswer(req.Header.Get("Sec-WebSocket-Key"), nil))
	if req.URL.Path == streamPath {
		message := wstest.AppendFrame(nil, wstest.Binary(make([]byte, 64<<10)), nil)
		for err == nil {
			_, err = c.Write(message)
		}
		return
	}
	for {
		f, err := wstest.ReadFrame(r)
		if err != nil {
			return
		}
		switch f.Opcode {
		case wstest.OpPing:
			f.Opcode = wstest.OpPong
		case wstest.OpPong:
			continue
		}
		if _, err := c.Write(wstest.AppendFrame(nil, f, nil)); err != nil || f.Opcode == wstest.OpClose {
			return
		}
	}
}
