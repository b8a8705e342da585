package chaos_test

import (
	"bufio"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// What TestChaosLosesNothing checks is broken here, each time by a relay between a client and a
// proxy.
func TestReportSaysWhatARelayBreaks(t *testing.T) {
	patient := habits{handshake: 5 * time.Second, slack: 5 * time.Second, patience: 10 * time.Second, pause: time.Millisecond, messages: 10}
	impatient := patient
	impatient.patience = 50 * time.Millisecond
	hurried := patient
	hurried.handshake, hurried.slack = 20*time.Millisecond, 0
	for _, tt := range []struct {
		name   string
		relay  brokenRelay
		habits habits
		want   string // a part of a violation; empty: there is none
	}{
		{"nothing", brokenRelay{}, patient, ""},
		{"drops a message", brokenRelay{toBackend: dropSecond}, patient, "the backend says: message 2 came in place of message 1"},
		{"drops an answer", brokenRelay{toClient: dropSecond}, patient, "answer 2 to message 2 came in place of answer 1"},
		{"doubles a message", brokenRelay{toBackend: doubleSecond}, patient, "the backend says: message 1 came in place of message 2"},
		{"doubles an answer", brokenRelay{toClient: doubleSecond}, patient, "answer 1 to message 1 came in place of answer 2"},
		{"swaps messages", brokenRelay{toBackend: swapSecond}, patient, "the backend says: message 2 came in place of message 1"},
		{"swaps answers", brokenRelay{toClient: swapSecond}, patient, "answer 2 to message 2 came in place of answer 1"},
		{"changes a message", brokenRelay{toBackend: changeSecond}, patient, "the backend says: " + errChanged.Error()},
		{"changes an answer", brokenRelay{toClient: changeSecond}, patient, errChanged.Error()},
		{"keeps the answers", brokenRelay{toClient: dropAll}, impatient, "no answer for 50ms"},
		{"keeps the last answer", brokenRelay{toClient: dropLast}, patient, "4 answers to 5 messages before the backend's Close frame"},
		{"keeps the Close frame", brokenRelay{toBackend: dropClose}, impatient, "after its Close frame the tunnel has not ended"},
		{"cuts", brokenRelay{toClient: dropClose}, patient, "the client got no Close frame"},
		{"sends behind a Close frame", brokenRelay{toClient: sendMore}, patient, "came behind the Close frame"},
		{"is late", brokenRelay{delay: 50 * time.Millisecond}, hurried, "the client waited too long"},
		{"refuses", brokenRelay{response: proxytest.Refusing(http.StatusForbidden, "")}, patient, "upgrades within 5s failed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // some wait
			b, r := newBackend(t, "127.0.0.1:0", 1), newReport()
			_, s := proxytest.Start(t, wsproxy.WithBackends("http://"+b.addr), wsproxy.WithTrace(r.trace()))
			tt.relay.target = strings.TrimPrefix(s.URL, "http://")
			c := &crowd{addr: tt.relay.start(t), habits: tt.habits, report: r, numTunnels: new(atomic.Uint64)}
			const seed = 5 // with which the client sends whole messages
			one := &client{crowd: c, rng: rand.New(rand.NewPCG(seed, 0))}
			if open := one.open(); open != nil {
				open.run()
			}
			s.Wait()
			for range windowLeast { // as if there had been more
				r.upgrades = append(r.upgrades, r.upgrades[0])
			}
			r.check(nil, time.Minute, nil)
			if all := strings.Join(r.violations, "\n"); (all == "") != (tt.want == "") || !strings.Contains(all, tt.want) {
				t.Errorf("the violations are %q; want %q", all, tt.want)
			}
		})
	}
}

// A brokenRelay passes frames on, as its functions say.
type brokenRelay struct {
	target              string // address of the proxy
	toBackend, toClient breakage
	delay               time.Duration // of the request
	response            string        // in place of the proxy's
}

// A breakage returns what is passed on in place of f, which is number n of the messages. before is
// the one before it.
type breakage func(n int, f, before wstest.Frame) []wstest.Frame

func dropSecond(n int, f, _ wstest.Frame) []wstest.Frame {
	if n == 1 {
		return nil
	}
	return []wstest.Frame{f}
}

func doubleSecond(n int, f, _ wstest.Frame) []wstest.Frame {
	if n == 1 {
		return []wstest.Frame{f, f}
	}
	return []wstest.Frame{f}
}

func swapSecond(n int, f, before wstest.Frame) []wstest.Frame {
	switch n {
	case 1:
		return nil
	case 2:
		return []wstest.Frame{f, before}
	}
	return []wstest.Frame{f}
}

func changeSecond(n int, f, _ wstest.Frame) []wstest.Frame {
	if n == 1 {
		f.Payload[len(f.Payload)/2] ^= 1
	}
	return []wstest.Frame{f}
}

func dropLast(n int, f, _ wstest.Frame) []wstest.Frame {
	if n == 4 && f.Opcode != wstest.OpClose {
		return nil
	}
	return []wstest.Frame{f}
}

func dropAll(int, wstest.Frame, wstest.Frame) []wstest.Frame { return nil }

func dropClose(_ int, f, _ wstest.Frame) []wstest.Frame {
	if f.Opcode == wstest.OpClose {
		return nil
	}
	return []wstest.Frame{f}
}

func sendMore(_ int, f, _ wstest.Frame) []wstest.Frame {
	if f.Opcode == wstest.OpClose {
		return []wstest.Frame{f, wstest.Text("more")}
	}
	return []wstest.Frame{f}
}

// start listens for one connection, until the test ends. It returns the address.
func (b brokenRelay) start(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() { b.serve(ln) }) // until the client or the proxy has ended its stream
	t.Cleanup(func() {
		ln.Close()
		running.Wait()
	})
	return ln.Addr().String()
}

func (b brokenRelay) serve(ln net.Listener) {
	client, err := ln.Accept()
	if err != nil {
		return
	}
	defer client.Close()
	time.Sleep(b.delay)
	if b.response != "" {
		io.WriteString(client, b.response)
		return
	}
	proxy, err := net.Dial("tcp", b.target)
	if err != nil {
		return
	}
	defer proxy.Close()
	var passing sync.WaitGroup
	passing.Go(func() { b.toBackend.pass(proxy, client, &[4]byte{1, 2, 3, 4}) }) // until the client's stream ends
	b.toClient.pass(client, proxy, nil)
	client.Close()
	passing.Wait()
}

// pass passes a head on, and then frames.
func (b breakage) pass(dst, src net.Conn, key *[4]byte) {
	r := bufio.NewReader(src)
	for line := ""; line != "\r\n"; {
		var err error
		if line, err = r.ReadString('\n'); err != nil {
			return
		}
		io.WriteString(dst, line)
	}
	var before wstest.Frame
	for n := 0; ; n++ {
		f, err := wstest.ReadFrame(r)
		if err != nil {
			dst.(*net.TCPConn).CloseWrite()
			return
		}
		frames := []wstest.Frame{f}
		if b != nil {
			frames = b(n, f, before)
		}
		for _, f := range frames {
			dst.Write(wstest.AppendFrame(nil, f, key))
		}
		before = f
	}
}
