//go:build linux

package process_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

const (
	// writeStall is that of the proxies here.
	writeStall = 3 * time.Second

	// slack is how much later than writeStall a tunnel may end: the kernel counts from the
	// first byte that is not acknowledged and looks with its retransmissions, the proxy looks
	// four times a second, and the machine has other work. On a link like this one the kernel
	// also asks 3 s for the hardware address of a peer that is gone, and retransmits nothing
	// meanwhile.
	slack = 6 * time.Second
)

// A peer that vanishes sends no end of its stream: its link is down, as when a phone loses
// its network.
func TestPeerThatVanishesWithDataUnderWayIsFound(t *testing.T) {
	t.Parallel() // it waits
	legs := newLegs(t, true)
	for _, l := range legs {
		l.keepSending()
	}
	for _, l := range legs {
		l.cut()
	}
	for _, l := range legs {
		const before = 100 * time.Millisecond // what was sent right before may not be acknowledged
		l.wantEnd(wsproxy.CauseStalled, writeStall-before, writeStall+slack)
	}
}

// With TCP_USER_TIMEOUT, keepalive ends a connection after that time, whatever its own number
// of probes: here a hundred, one a second.
func TestPeerThatVanishesFromAnIdleTunnelIsFoundByKeepalive(t *testing.T) {
	t.Parallel() // it waits
	legs := newLegs(t, true)
	for _, l := range legs {
		l.remote.Ask(new(string), "say", "hello") // which acknowledges all that it was sent
		l.local.Want(wstest.Text("hello"))
		l.cut()
	}
	for _, l := range legs {
		l.wantEnd(wsproxy.CauseLost, writeStall-time.Second, writeStall+slack) // from the last sign of life on
	}
}

// The kernel of a peer that does not read answers each probe of ours, for ever.
func TestPeerThatIsThereAndDoesNotReadIsCut(t *testing.T) {
	t.Parallel() // it waits
	for name, size := range map[string]int{"the kernel holds all": 512 << 10, "the proxy holds a part": 16 << 20} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			legs := newLegs(t, false)
			for _, l := range legs {
				l.answer()
				l.start = time.Now()
				go l.local.WriteFrames(wstest.Binary(make([]byte, size))) // until the end
			}
			for _, l := range legs {
				// A full buffer has been seen to take more for 3 s, in retransmissions.
				l.wantEnd(wsproxy.CauseStalled, writeStall, 2*writeStall+slack)
			}
		})
	}
}

// newLegs opens a tunnel for each kind of leg that is behind a link: the client's and the
// backend's, over plain TCP, for which the event loop relays if there is one, and over TLS.
func newLegs(t *testing.T, reads bool) (legs []*linked) {
	t.Helper()
	for _, side := range []wsproxy.Side{wsproxy.SideClient, wsproxy.SideBackend} {
		for _, isTLS := range []bool{false, true} {
			legs = append(legs, newLinked(t, side, isTLS, reads))
		}
	}
	return legs
}

// A linked is a tunnel with one peer in this process, and one in a child that is in a network
// namespace of its own, behind a link.
type linked struct {
	t      *testing.T
	side   wsproxy.Side // of the peer in the child
	isTLS  bool
	remote *proxytest.Child
	device string       // the child's end of the link
	local  *wstest.Peer // the other peer
	ends   chan wsproxy.TunnelEnd
	start  time.Time // of what the test is about
}

// newLinked opens a tunnel whose peer on that side is behind a link. If reads is false, the
// peer does not read.
func newLinked(t *testing.T, side wsproxy.Side, isTLS, reads bool) *linked {
	t.Helper()
	l := &linked{t: t, side: side, isTLS: isTLS}
	here, there := l.link()
	ends, trace := proxytest.TraceEnds()
	l.ends = ends
	// One probe a second, and far more of them than fit into the write stall.
	keepAlive := net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 100}
	dialer := &net.Dialer{KeepAliveConfig: keepAlive}
	options := []wsproxy.Option{trace, wsproxy.WithDialer(dialer.DialContext),
		wsproxy.WithTLSConfig(&tls.Config{InsecureSkipVerify: true}),
		wsproxy.WithTimeouts(wsproxy.Timeouts{WriteStall: writeStall})}

	if side == wsproxy.SideClient {
		backend := wstest.StartBackend(t)
		p := proxytest.NewProxy(t, append(options, wsproxy.WithBackends(backend.URL()))...)
		l.remote.Tell("dial", serveAt(t, p, here, isTLS, keepAlive), isTLS, reads)
		l.local = backend.Accepted(t)
		l.local.AcceptUpgrade(nil)
		l.remote.Answer("dial", new(bool))
		return l
	}
	scheme, addr := "http", ""
	if isTLS {
		scheme = "https"
	}
	l.remote.Ask(&addr, "listen", there, isTLS, reads)
	p := proxytest.NewProxy(t, append(options, wsproxy.WithBackends(scheme+"://"+addr))...)
	l.local, _ = proxytest.Open(t, proxytest.Serve(t, p).URL, proxytest.UpgradeTo("/"))
	return l
}

// numLinks are the links that this process has made.
var numLinks atomic.Int32

// link starts the child and links it. It returns the addresses of both ends of the link. It
// skips the test if it may not do that.
func (l *linked) link() (here, there string) {
	t := l.t
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		skipWithoutNamespaces(t, err)
	}
	if out, err := exec.Command("unshare", "-n", "true").CombinedOutput(); err != nil {
		skipWithoutNamespaces(t, fmt.Errorf("unshare -n: %v: %s", err, out))
	}
	// 198.18.0.0/15 is for tests of networks: https://www.rfc-editor.org/rfc/rfc6890
	n := (os.Getpid()*32 + int(numLinks.Add(1))) % (1 << 15)
	subnet := n * 4
	addr := func(host int) string {
		return fmt.Sprintf("198.%d.%d.%d", 18+subnet>>16, subnet>>8&0xff, subnet&0xff+host)
	}
	here, there = addr(1), addr(2)
	device := fmt.Sprintf("wsproxy%d", n)
	l.device = device + "x"

	l.remote = proxytest.StartChild(t, "remote", func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	})
	if err := ip("link", "add", device, "type", "veth", "peer", "name", l.device, "netns", strconv.Itoa(l.remote.Pid())); err != nil {
		skipWithoutNamespaces(t, err)
	}
	t.Cleanup(func() { ip("link", "del", device) }) // if the namespace has not ended before
	if err := errors.Join(ip("addr", "add", here+"/30", "dev", device), ip("link", "set", device, "up")); err != nil {
		t.Fatal(err)
	}
	l.askIP("link", "set", "lo", "up")
	l.askIP("addr", "add", there+"/30", "dev", l.device)
	l.askIP("link", "set", l.device, "up")
	return here, there
}

// skipWithoutNamespaces skips a test that needs them, or fails it where they must be there.
func skipWithoutNamespaces(t *testing.T, err error) {
	t.Helper()
	const text = "network namespaces and links are for root, with the command ip of iproute2: "
	if os.Getenv("WSPROXY_REQUIRE_NETNS") != "" {
		t.Fatal(text, err)
	}
	t.Skip(text, err)
}

// ip runs the command of that name.
func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// askIP runs ip in the child.
func (l *linked) askIP(args ...string) {
	l.t.Helper()
	words := []any{"ip"}
	for _, a := range args {
		words = append(words, a)
	}
	var fault string
	if l.remote.Ask(&fault, words...); fault != "" {
		l.t.Fatal(fault)
	}
}

// cut takes the link down.
func (l *linked) cut() {
	l.t.Helper()
	l.answer()
	l.askIP("link", "set", l.device, "down")
	l.start = time.Now()
}

// keepSending makes the local peer send a small message now and then, until the end. The
// proxy and its kernel take them all. It returns when some have passed.
func (l *linked) keepSending() {
	l.t.Helper()
	sent := make(chan bool, 1)
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			if err := l.local.WriteFrames(wstest.Text("data under way")); err != nil {
				return
			}
			if n == 5 {
				sent <- true
			}
			<-tick.C
		}
	}()
	<-sent
}

// wantEnd wants the tunnel to end because of the peer behind the link, within a range of time.
func (l *linked) wantEnd(cause wsproxy.Cause, from, to time.Duration) {
	l.t.Helper()
	name := fmt.Sprintf("%v over TLS", l.side)
	if !l.isTLS {
		name = fmt.Sprintf("%v over TCP", l.side)
	}
	select {
	case e := <-l.ends:
		took := (e.Duration - l.start.Sub(e.Opened)).Round(time.Millisecond)
		l.t.Logf("%s, %v: ended after %v by %v, %v, %v", name, e.Engine, took, e.Side, e.Cause, e.Err)
		if took < from || took > to {
			l.t.Errorf("%s: the tunnel ended after %v; want %v to %v", name, took, from, to)
		}
		if e.Side != l.side || e.Cause != cause || e.Cut != (cause == wsproxy.CauseStalled) {
			l.t.Errorf("%s: ended by %v, %v, cut %t; want %v, %v", name, e.Side, e.Cause, e.Cut, l.side, cause)
		}
	case <-time.After(30 * time.Second):
		l.t.Errorf("%s: the tunnel has not ended within 30 s", name)
	}
}

// answer makes the local peer do its part of the end, in the background.
func (l *linked) answer() {
	go func() { // ends with the tunnel
		for {
			if f, err := l.local.ReadFrame(); err != nil || f.Opcode == wstest.OpClose {
				break
			}
		}
		l.local.Conn().Close()
	}()
}

// serveAt serves h at an address, and returns it with its port.
func serveAt(t *testing.T, h http.Handler, host string, isTLS bool, keepAlive net.KeepAliveConfig) (addr string) {
	t.Helper()
	config := net.ListenConfig{KeepAliveConfig: keepAlive}
	ln, err := config.Listen(context.Background(), "tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	addr = ln.Addr().String()
	if isTLS {
		ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{wstest.Certificate()}})
	}
	srv := &http.Server{Handler: h, ErrorLog: proxytest.DiscardLog}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }() // until Close
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return addr
}

// playRemote is the role of a peer that is behind a link.
func playRemote(t *testing.T) map[string]proxytest.Command {
	say := make(chan func(string), 1) // of the one connection
	// run reads what comes, or leaves it, until the test ends.
	run := func(c net.Conn, r io.Reader, reads bool, key *[4]byte) {
		t.Cleanup(func() { c.Close() })
		if reads {
			go io.Copy(io.Discard, r) // until the end of the connection
		}
		say <- func(text string) { c.Write(wstest.AppendFrame(nil, wstest.Text(text), key)) }
	}
	parse := func(args []string) (addr string, isTLS, reads bool) {
		return args[0], args[1] == "true", args[2] == "true"
	}
	return map[string]proxytest.Command{
		// ip ARG... runs the command, and answers with what it complains about.
		"ip": func(args ...string) any {
			if err := ip(args...); err != nil {
				return err.Error()
			}
			return ""
		},
		// say WORD sends a message.
		"say": func(args ...string) any {
			(<-say)(args[0])
			return args[0]
		},
		// dial ADDR TLS READS opens a tunnel as a client.
		"dial": func(args ...string) any {
			addr, isTLS, reads := parse(args)
			dialer := net.Dialer{Control: limitReceiveBuffer(reads)}
			c, err := dialer.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			if isTLS {
				c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
			}
			io.WriteString(c, proxytest.UpgradeTo("/"))
			r := bufio.NewReader(c)
			resp, err := http.ReadResponse(r, nil)
			run(c, r, reads, &[4]byte{})
			return err == nil && resp.StatusCode == http.StatusSwitchingProtocols
		},
		// listen HOST TLS READS answers with the address of a backend for one client.
		"listen": func(args ...string) any {
			host, isTLS, reads := parse(args)
			config := net.ListenConfig{Control: limitReceiveBuffer(reads)}
			ln, err := config.Listen(t.Context(), "tcp", net.JoinHostPort(host, "0"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { ln.Close() })
			go func() { // until a client comes, or the test ends
				c, err := ln.Accept()
				if err != nil {
					return
				}
				if isTLS {
					c = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{wstest.Certificate()}})
				}
				r := bufio.NewReader(c)
				req, err := http.ReadRequest(r)
				if err == nil {
					accept := wstest.Accept(req.Header.Get("Sec-WebSocket-Key"))
					io.WriteString(c, strings.ReplaceAll(proxytest.Switching, "{accept}", accept))
				}
				run(c, r, reads, nil)
			}()
			return ln.Addr().String()
		},
	}
}

// limitReceiveBuffer returns a function that makes the receive buffer small of a peer that
// does not read.
func limitReceiveBuffer(reads bool) func(network, addr string, c syscall.RawConn) error {
	if reads {
		return nil
	}
	return func(_, _ string, c syscall.RawConn) (err error) {
		c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 64<<10) })
		return err
	}
}
