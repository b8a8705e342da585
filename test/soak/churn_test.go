package soak_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/leaktest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// churnTime is how long tunnels are opened and dropped, blocking or detached.
func churnTime(t testing.TB) time.Duration {
	switch d := proxytest.SoakTime(t); {
	case d > 0:
		return d
	case testing.Short():
		return 500 * time.Millisecond
	}
	return 800 * time.Millisecond
}

func TestTunnelsDroppedAtRandomLeaveNothing(t *testing.T) {
	proxytest.ForEachWay(t, func(t *testing.T, way wsproxy.Option) {
		leaktest.Check(t)
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		p, s := proxytest.Start(t, way, wsproxy.WithBackends(startFickle(t)))
		churn(t, p, s, seed)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // a linger and a drain take 6
		defer cancel()
		if err := p.Shutdown(ctx); errors.Is(err, ctx.Err()) && err != nil {
			t.Errorf("Shutdown() = %v; want no tunnel left: no client is", err)
		}
		s.Wait()
		proxytest.WantNoTunnels(t, p)
	})
}

// churn has tunnels opened and dropped, of which two thirds are open at once: a
// thousand in a soak, and 700 in a plain go test, which may have few descriptors.
func churn(t *testing.T, p *wsproxy.Proxy, s *proxytest.Site, seed uint64) {
	workers, perWorker := 50, 20
	if proxytest.SoakTime(t) > 0 {
		perWorker = 30
	}
	over := time.Now().Add(churnTime(t))
	var most atomic.Int64
	var working sync.WaitGroup
	for i := range workers {
		w := &churner{t: t, addr: strings.TrimPrefix(s.URL, "http://"), random: rand.New(rand.NewPCG(seed, uint64(i)))}
		working.Go(func() {
			defer w.dropAll()
			for time.Now().Before(over) && !t.Failed() {
				w.step(perWorker)
				most.Store(max(most.Load(), int64(p.Stats().Tunnels)))
			}
		})
	}
	working.Wait()
	t.Logf("%d tunnels opened, at most about %d at once", p.Stats().Opened, most.Load())
}

// A churner opens tunnels and drops them again, in every way that it knows.
type churner struct {
	t       *testing.T
	addr    string
	random  *rand.Rand
	clients []*rawClient
}

// A rawClient has none of a [wstest.Peer]'s scruples: its errors may be as they are.
type rawClient struct {
	*net.TCPConn
	r *bufio.Reader
}

func (w *churner) step(most int) {
	i := w.random.IntN(most)
	if i >= len(w.clients) {
		w.open()
		return
	}
	c := w.clients[i]
	c.SetDeadline(time.Now().Add(20 * time.Second))
	ways := []func(*rawClient) error{
		w.talk, w.talk, w.talk, w.talk, w.talk, w.talk,
		w.close, w.breakOff, w.stopReading, w.provoke, w.hangUp, w.reset,
	}
	err := ways[w.random.IntN(len(ways))](c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.t.Errorf("a client has heard nothing for 20 s: %v", err)
	}
	if err != nil {
		c.Close()
		w.clients = slices.Delete(w.clients, i, i+1)
	}
}

// open opens a tunnel, or leaves in the middle of that.
func (w *churner) open() {
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Error(err)
		return
	}
	c := &rawClient{conn.(*net.TCPConn), bufio.NewReader(conn)}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(c, wstest.UpgradeRequest("/", proxytest.SampleKey, nil))
	if w.random.IntN(20) == 0 {
		c.SetLinger(w.random.IntN(2) - 1)
		c.Close()
		return
	}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		w.t.Errorf("got %v, %v; want 101", resp, err)
		c.Close()
		return
	}
	w.clients = append(w.clients, c)
}

func (w *churner) dropAll() {
	for _, c := range w.clients {
		c.Close()
	}
}

var errDropped = errors.New("this client has gone")

func (c *rawClient) send(frames ...wstest.Frame) error {
	var b []byte
	for _, f := range frames {
		b = wstest.AppendFrame(b, f, &[4]byte{1, 2, 3, 4})
	}
	_, err := c.Write(b)
	return err
}

// talk sends a message and waits for it.
func (w *churner) talk(c *rawClient) error {
	message := wstest.Binary(make([]byte, w.random.IntN(1<<w.random.IntN(17))))
	if err := c.send(message); err != nil {
		return err
	}
	f, err := wstest.ReadFrame(c.r)
	if err == nil && len(f.Payload) != len(message.Payload) {
		w.t.Errorf("got %v; want %v", f, message)
	}
	return err
}

// close ends in order.
func (w *churner) close(c *rawClient) error {
	if err := c.send(wstest.Close(1000, "")); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, c.r)
	return cmp.Or(err, errDropped)
}

// breakOff ends inside a frame.
func (w *churner) breakOff(c *rawClient) error {
	frame := wstest.AppendFrame(nil, wstest.Ping("never whole"), &[4]byte{})
	c.Write(frame[:w.random.IntN(len(frame))])
	return errDropped
}

// stopReading sends much, and goes without an answer.
func (w *churner) stopReading(c *rawClient) error {
	c.send(wstest.Binary(make([]byte, 64<<10)), wstest.Binary(make([]byte, 64<<10)))
	return errDropped
}

// provoke makes the backend go, and answers a Close frame or leaves.
func (w *churner) provoke(c *rawClient) error {
	if err := c.send(wstest.Text(whims[w.random.IntN(len(whims))])); err != nil {
		return err
	}
	f, err := wstest.ReadFrame(c.r)
	if err != nil || f.Opcode != wstest.OpClose || w.random.IntN(2) == 0 {
		return cmp.Or(err, errDropped)
	}
	return w.close(c)
}

func (w *churner) hangUp(c *rawClient) error {
	c.CloseWrite()
	_, err := io.Copy(io.Discard, c.r)
	return cmp.Or(err, errDropped)
}

func (w *churner) reset(c *rawClient) error {
	c.SetLinger(0)
	return errDropped
}

// whims are messages that a fickle backend does not send back.
var whims = []string{"reset", "hang up", "break off", "say goodbye"}

// startFickle starts an echo server that obeys whims.
func startFickle(t *testing.T) (url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() { // until ln is closed
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() { serveFickle(c.(*net.TCPConn)) }) // until the proxy closes c
		}
	})
	t.Cleanup(func() {
		ln.Close()
		running.Wait()
	})
	return "http://" + ln.Addr().String()
}

func serveFickle(c *net.TCPConn) {
	defer c.Close()
	r := bufio.NewReader(c)
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	io.WriteString(c, wstest.UpgradeAnswer(req.Header.Get("Sec-WebSocket-Key"), nil))
	for {
		f, err := wstest.ReadFrame(r)
		if err != nil {
			return
		}
		switch string(f.Payload) {
		case "reset":
			c.SetLinger(0)
			return
		case "hang up":
			return
		case "break off":
			c.Write(wstest.AppendFrame(nil, f, nil)[:5])
			return
		case "say goodbye":
			f = wstest.Close(1000, "")
		}
		if _, err := c.Write(wstest.AppendFrame(nil, f, nil)); err != nil || f.Opcode == wstest.OpClose {
			return
		}
	}
}
