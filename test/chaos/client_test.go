package chaos_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A crowd is clients of one proxy that come back when their tunnel ends, or when they have left
// it. They follow the protocol, and read all the time.
type crowd struct {
	addr   string // of the proxy
	habits habits
	report *report

	numTunnels *atomic.Uint64 // so that each tunnel has a number
	leave      chan struct{}  // closed when the clients are to close their tunnels and not to come back
	running    sync.WaitGroup
}

// habits are how clients behave.
type habits struct {
	handshake time.Duration // the time in which the proxy must respond
	slack     time.Duration // by which a busy machine may be late
	patience  time.Duration // for an answer, or for the end of a tunnel
	pause     time.Duration // the longest one between two messages
	messages  int           // at most, for one tunnel
}

// newCrowd starts n clients. Each has an address of its own where the system allows it.
func newCrowd(n int, addr string, seed uint64, h habits, r *report, numTunnels *atomic.Uint64) *crowd {
	c := &crowd{addr: addr, habits: h, report: r, numTunnels: numTunnels, leave: make(chan struct{})}
	for i := range n {
		cl := &client{crowd: c, rng: rand.New(rand.NewPCG(seed, uint64(i)))}
		if runtime.GOOS == "linux" {
			cl.dialer.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 101, byte(i/250), byte(1+i%250))}
		}
		c.running.Go(cl.run) // until leave is closed
	}
	return c
}

// stop lets all clients leave, and waits for them.
func (c *crowd) stop() {
	close(c.leave)
	c.running.Wait()
}

// A client is one of a crowd.
type client struct {
	crowd  *crowd
	dialer net.Dialer
	rng    *rand.Rand
}

func (c *client) run() {
	for numFailed := 0; c.waits(backoff(c.rng, numFailed)); numFailed++ {
		if s := c.open(); s != nil {
			s.run()
			numFailed = -1
		}
	}
}

// backoff returns how long a client waits after it has failed so many times in a row: full
// jitter.
func backoff(rng *rand.Rand, numFailed int) time.Duration {
	const base, most = time.Second, 10 * time.Second
	return time.Duration(rng.Int64N(int64(min(most, base<<min(numFailed, 10)))))
}

// waits waits for d, and reports whether the client is to go on.
func (c *client) waits(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.crowd.leave:
		return false
	}
}

// open asks for a tunnel. It returns nil if the client gets none.
func (c *client) open() *session {
	h := c.crowd.habits
	number := c.crowd.numTunnels.Add(1)
	start := time.Now()
	conn, r, status, err := c.ask(number, start.Add(2*h.handshake+2*h.slack))
	took := time.Since(start)
	c.crowd.report.addUpgrade(number, start, took, h.handshake+h.slack, status, err)
	if status != http.StatusSwitchingProtocols {
		if conn != nil {
			conn.Close()
		}
		return nil
	}
	conn.SetDeadline(time.Time{})
	return &session{
		client: c, conn: conn, r: r, talk: talk{tunnel: number},
		window: make(chan struct{}, 4), ended: make(chan struct{}),
	}
}

// ask sends the request. The status is 0 if no response comes.
func (c *client) ask(number uint64, deadline time.Time) (net.Conn, *bufio.Reader, int, error) {
	c.dialer.Deadline = deadline
	conn, err := c.dialer.Dial("tcp", c.crowd.addr)
	if err != nil {
		return nil, nil, 0, err
	}
	conn.SetDeadline(deadline)
	request := proxytest.UpgradeTo(fmt.Sprintf("/?tunnel=%d&room=%d", number, number%20))
	if _, err := conn.Write([]byte(request)); err != nil {
		return conn, nil, 0, err
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return conn, nil, 0, err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols && resp.Header.Get("Sec-WebSocket-Accept") != proxytest.SampleAccept {
		return conn, nil, 0, fmt.Errorf("the accept value is %q", resp.Header.Get("Sec-WebSocket-Accept"))
	}
	return conn, r, resp.StatusCode, nil
}

// A session is one tunnel of a client. One goroutine writes and one reads.
type session struct {
	client *client
	conn   net.Conn
	r      *bufio.Reader
	window chan struct{} // has a value for each message without its answer
	ended  chan struct{} // closed with the end of the stream

	isBroken atomic.Bool // by breakOff

	mu          sync.Mutex
	talk        talk
	isCloseSent bool

	// Set before ended is closed.
	code   uint16 // of the Close frame that came; 0: none came
	reason string // of the Close frame
	err    error  // of the stream
}

const (
	noCode = 1005 // of a Close frame without a code

	// wrongMessage is the code with which a backend reports a message that is not the next one.
	wrongMessage = 4001
)

// run returns when the tunnel has ended.
func (s *session) run() {
	var reading sync.WaitGroup
	reading.Go(s.read) // until the stream ends
	s.write()
	reading.Wait()
	s.conn.Close()
	if !s.isBroken.Load() {
		s.client.crowd.report.addSession(s)
	}
}

// write sends messages, and closes the tunnel.
func (s *session) write() {
	h, rng := s.client.crowd.habits, s.client.rng
	for range 1 + rng.IntN(h.messages) {
		if !s.pauses(time.Duration(rng.Int64N(int64(h.pause)))) {
			break
		}
		if !s.reserves(h.patience) {
			return
		}
		s.mu.Lock()
		message := s.talk.next(rng)
		s.mu.Unlock()
		if s.send(fragments(rng, message)...) != nil {
			break
		}
	}
	s.send(wstest.Close(1000, ""))
	timer := time.NewTimer(h.patience)
	defer timer.Stop()
	select {
	case <-s.ended:
	case <-timer.C:
		s.breakOff("%v after its Close frame the tunnel has not ended", h.patience)
	}
}

// pauses waits for d, and reports whether the client is to go on.
func (s *session) pauses(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.ended:
	case <-s.client.crowd.leave:
	}
	return false
}

// reserves waits until few messages are without their answer.
func (s *session) reserves(patience time.Duration) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case s.window <- struct{}{}:
		return true
	case <-s.ended:
	case <-timer.C:
		s.breakOff("no answer for %v, though the tunnel is open", patience)
	}
	return false
}

// fragments returns a message in one frame, or in several with a ping between them.
func fragments(rng *rand.Rand, message []byte) []wstest.Frame {
	if rng.IntN(8) > 0 {
		return []wstest.Frame{wstest.Binary(message)}
	}
	i := rng.IntN(len(message))
	return []wstest.Frame{
		{Opcode: wstest.OpBinary, Payload: message[:i]},
		wstest.Ping("between fragments"),
		{Fin: true, Opcode: wstest.OpContinuation, Payload: message[i:]},
	}
}

var errCloseSent = errors.New("a Close frame was sent")

// send writes frames, but none behind a Close frame.
func (s *session) send(frames ...wstest.Frame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isCloseSent {
		return errCloseSent
	}
	var b []byte
	for _, f := range frames {
		s.isCloseSent = f.Opcode == wstest.OpClose
		b = wstest.AppendFrame(b, f, &[4]byte{1, 2, 3, 4})
	}
	s.conn.SetWriteDeadline(time.Now().Add(s.client.crowd.habits.patience))
	_, err := s.conn.Write(b)
	return err
}

// read checks all that comes.
func (s *session) read() {
	defer close(s.ended)
	var message []byte
	for {
		var f wstest.Frame
		if f, s.err = wstest.ReadFrame(s.r); s.err != nil {
			return
		}
		if s.code != 0 {
			s.breakOff("%v came behind the Close frame", f)
			return
		}
		switch f.Opcode {
		case wstest.OpPing:
			s.send(wstest.Pong(string(f.Payload)))
		case wstest.OpPong:
		case wstest.OpClose:
			s.receiveClose(f)
		default:
			if message = append(message, f.Payload...); f.Fin && !s.receive(message) {
				return
			}
			if f.Fin {
				message = message[:0]
			}
		}
	}
}

// receive checks an answer.
func (s *session) receive(answer []byte) bool {
	s.mu.Lock()
	err := s.talk.receive(answer)
	s.mu.Unlock()
	if err != nil {
		s.breakOff("%v", err)
		return false
	}
	<-s.window // it has the value of this message at least
	return true
}

func (s *session) receiveClose(f wstest.Frame) {
	s.code = noCode
	if len(f.Payload) >= 2 {
		s.code, s.reason = binary.BigEndian.Uint16(f.Payload), string(f.Payload[2:])
	}
	if s.code == wrongMessage {
		s.client.crowd.report.add("tunnel %d: the backend says: %s", s.talk.tunnel, s.reason)
	}
	s.send(wstest.Close(s.code, "")) // where it fails, the stream has ended
}

// breakOff reports a violation, and ends the tunnel.
func (s *session) breakOff(format string, args ...any) {
	s.isBroken.Store(true)
	s.client.crowd.report.add("tunnel %d: %s", s.talk.tunnel, fmt.Sprintf(format, args...))
	s.conn.Close()
}
