//go:build linux

package soak_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/leaktest"
	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

// A tally tells how the connections of a child ended.
type tally struct {
	GoingAway int      // with a Close frame of code 1001, and the end of the stream after it
	Frames    int      // that came before
	Otherwise []string // the first few of the others
}

// A tallier makes a tally of connections that end on goroutines of their own.
type tallier struct {
	running sync.WaitGroup
	mu      sync.Mutex
	tally   tally
}

// follow runs a connection's conversation, which returns the frames that came, and
// nil if the last was Close 1001.
func (r *tallier) follow(talk func() (frames int, err error)) {
	r.running.Go(func() { // ends with the connection
		frames, err := talk()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.tally.Frames += frames
		switch {
		case err == nil:
			r.tally.GoingAway++
		case len(r.tally.Otherwise) < 10:
			r.tally.Otherwise = append(r.tally.Otherwise, err.Error())
		}
	})
}

// ends is a command that waits until all have ended.
func (r *tallier) ends(...string) any {
	r.running.Wait()
	return r.tally
}

// checkGoingAway wants f to be Close 1001.
func checkGoingAway(f wstest.Frame) error {
	if f.Opcode != wstest.OpClose || string(f.Payload[:min(2, len(f.Payload))]) != "\x03\xe9" {
		return fmt.Errorf("got %v; want close 1001", f)
	}
	return nil
}

// playBackends is the role of echo servers.
func playBackends(t *testing.T) map[string]proxytest.Command {
	var r tallier
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var accepting sync.WaitGroup
	accepting.Go(func() { // until ln is closed
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			r.follow(func() (int, error) { return serveEcho(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		accepting.Wait()
	})
	return map[string]proxytest.Command{
		"url":  func(...string) any { return "http://" + ln.Addr().String() },
		"ends": r.ends,
	}
}

// serveEcho sends every frame back until a Close comes, which it answers.
func serveEcho(c net.Conn) (frames int, err error) {
	defer c.Close()
	r := bufio.NewReader(c)
	req, err := http.ReadRequest(r)
	if err != nil {
		return 0, err
	}
	io.WriteString(c, wstest.UpgradeAnswer(req.Header.Get("Sec-WebSocket-Key"), nil))
	for ; ; frames++ {
		f, err := wstest.ReadFrame(r)
		if err != nil {
			return frames, err
		}
		if _, err := c.Write(wstest.AppendFrame(nil, f, nil)); err != nil {
			return frames, err
		}
		if f.Opcode == wstest.OpClose {
			return frames, checkGoingAway(f)
		}
	}
}

// playClients is the role of clients that talk all the time.
func playClients(t *testing.T) map[string]proxytest.Command {
	var r tallier
	var clients []*wstest.Peer
	return map[string]proxytest.Command{
		// open URL N opens so many tunnels.
		"open": func(args ...string) any {
			n, _ := strconv.Atoi(args[1])
			for range n {
				c := wstest.Dial(t, args[0])
				c.Handshake("/", nil)
				clients = append(clients, c)
			}
			return len(clients)
		},
		// talk makes all of them talk from now on, and waits until all have begun.
		"talk": func(...string) any {
			var beginning sync.WaitGroup
			for _, c := range clients {
				beginning.Add(1)
				r.follow(func() (int, error) { return talkToEcho(c, beginning.Done) })
			}
			beginning.Wait()
			return true
		},
		"ends": r.ends,
	}
}

// talkToEcho sends a message, in two writes, and wants it back, over and over until
// a Close comes, which it answers. It calls begun after the first time.
func talkToEcho(c *wstest.Peer, begun func()) (frames int, err error) {
	begun = sync.OnceFunc(begun)
	defer begun()
	for ; ; frames++ {
		if frames > 0 {
			begun()
		}
		message := wstest.Binary(make([]byte, rand.IntN(4<<10)))
		frame := wstest.AppendFrame(nil, message, &[4]byte{1, 2, 3, 4})
		c.Write(frame[:len(frame)/2]) // where it fails, so does ReadFrame
		c.Write(frame[len(frame)/2:])
		got, err := c.ReadFrame()
		if err != nil {
			return frames, err
		}
		if got.Opcode != wstest.OpClose {
			if len(got.Payload) != len(message.Payload) {
				return frames, fmt.Errorf("got %v; want %v", got, message)
			}
			continue
		}
		c.WriteFrames(wstest.Close(1001, ""))
		if f, err := c.ReadFrame(); err != io.EOF {
			return frames, fmt.Errorf("got %v, %v after the Close frame; want EOF", f, err)
		}
		return frames, errors.Join(checkGoingAway(got), c.Conn().Close())
	}
}

// maxDescriptors returns how many descriptors this process may have.
func maxDescriptors(t testing.TB) int {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return int(min(limit.Cur, 1<<20))
}

func TestShutdownClosesThousandsOfBusyTunnels(t *testing.T) {
	most := 1000
	switch {
	case proxytest.SoakTime(t) > 0:
		most = 3000
	case testing.Short():
		most = 300
	}
	leaktest.Check(t)
	tunnels := min(most, (maxDescriptors(t)-500)/3) // two each, and one while it opens
	if tunnels < 50 {
		t.Fatalf("this process may have %d descriptors: too few for the test", maxDescriptors(t))
	}
	t.Logf("%d tunnels; this process may have %d descriptors", tunnels, maxDescriptors(t))

	clients, backends := proxytest.StartChild(t, "clients"), proxytest.StartChild(t, "backends")
	var backendURL string
	backends.Ask(&backendURL, "url")
	p, s := proxytest.Start(t, wsproxy.WithBackends(backendURL))
	var n int
	clients.Ask(&n, "open", s.URL, tunnels)
	clients.Ask(new(bool), "talk")
	ctx, cancel := context.WithTimeout(t.Context(), proxytest.ChildTimeout)
	defer cancel()
	began := time.Now()
	if err := p.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown() = %v; want nil", err)
	}
	t.Logf("Shutdown took %v, after %d messages", time.Since(began), p.Stats().ToClient.Messages)
	for _, c := range []*proxytest.Child{clients, backends} {
		var got tally
		if c.Ask(&got, "ends"); got.GoingAway != tunnels || len(got.Otherwise) > 0 {
			t.Errorf("%s: %d of %d tunnels ended with 1001; some of the others: %q", c.Role, got.GoingAway, tunnels, got.Otherwise)
		}
	}
	s.Wait()
	proxytest.WantNoTunnels(t, p)
}

func TestChild(t *testing.T) {
	proxytest.PlayRole(t, map[string]proxytest.Role{"clients": playClients, "backends": playBackends})
}
