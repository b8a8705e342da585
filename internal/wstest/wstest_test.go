package wstest

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsproxy/wsproxy/internal/leaktest"
	"github.com/wsproxy/wsproxy/wsproxytest/memnet"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// TestHarnessTour shows how to use the harness. In a test of the proxy, the proxy
// is between the two peers. Here they are connected to each other.
func TestHarnessTour(t *testing.T) {
	t.Run("in memory", func(t *testing.T) {
		// In a bubble no step waits in real time. Only memnet works in a bubble.
		synctest.Test(t, func(t *testing.T) {
			a, b := memnet.Pipe(4096)
			tour(t, NewClient(t, a), NewBackend(t, b))
		})
	})
	t.Run("over TCP", func(t *testing.T) {
		ln := StartBackend(t)
		client := Dial(t, ln.URL())
		tour(t, client, ln.Accepted(t))
		if n := ln.NumAccepted(); n != 1 {
			t.Errorf("NumAccepted() = %d; want 1", n)
		}
	})
}

func tour(t *testing.T, client, backend *Peer) {
	// The handshake has three steps, because the test scripts both ends. If the
	// other end is a server, client.Handshake is one step.
	client.RequestUpgrade("/chat", http.Header{"Sec-Websocket-Protocol": {"v1"}})
	req := backend.AcceptUpgrade(http.Header{"Sec-Websocket-Protocol": {"v1"}})
	if req.URL.Path != "/chat" {
		t.Errorf("backend was asked for %q; want /chat", req.URL.Path)
	}
	resp := client.WantUpgrade()
	if got := resp.Header.Get("Sec-WebSocket-Protocol"); got != "v1" {
		t.Errorf("client was given subprotocol %q; want v1", got)
	}

	// One Send is one write. The role decides about masking, in Want too.
	client.Send(Text("hi"), Binary([]byte{0, 1, 2}))
	backend.Want(Text("hi"), Binary([]byte{0, 1, 2}))

	// A fragmented message with a ping inside.
	backend.Send(Fragment(OpText, false, "he"), Ping("x"), Fragment(OpContinuation, true, "llo"))
	client.Want(Fragment(OpText, false, "he"), Ping("x"))
	client.Want(Fragment(OpContinuation, true, "llo"))
	client.Send(Pong("x"))
	backend.Want(Pong("x"))

	// Bytes that no role sends are sent raw: here a frame in two parts, and a
	// compressed frame.
	raw := AppendFrame(nil, Frame{Fin: true, RSV: 4, Opcode: OpText, Payload: []byte("zip")}, nil)
	backend.SendRaw(raw[:1])
	backend.SendRaw(raw[1:])
	client.WantRaw("\xc1\x03zip")

	// Other goroutines use the methods that return an error.
	errc := make(chan error, 1)
	go func() { errc <- client.WriteFrames(Binary(make([]byte, 100_000))) }()
	if f, err := backend.ReadFrame(); err != nil || len(f.Payload) != 100_000 {
		t.Errorf("ReadFrame() = %v, %v; want 100000 bytes", f, err)
	}
	if err := <-errc; err != nil {
		t.Error(err)
	}

	// An orderly end.
	client.Send(Close(1000, "bye"))
	backend.WantClose(1000)
	backend.Send(Close(1000, ""))
	backend.CloseWrite()
	client.Want(Close(1000, ""))
	client.WantEOF()

	// A reset is not an orderly end.
	client.Reset()
	backend.WantReset()
}

func TestStepsWaitInBubbleTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memnet.Pipe(4096)
		client, backend := NewClient(t, a), NewBackend(t, b)
		time.AfterFunc(time.Minute, func() { backend.WriteFrames(Ping("due")) })
		time.Sleep(time.Minute)
		client.Want(Ping("due"))
	})
}

func TestUpgradeAnswerAndFrameFitInOneWrite(t *testing.T) {
	a, b := memnet.Pipe(4096)
	client, backend := NewClient(t, a), NewBackend(t, b)
	client.RequestUpgrade("/", nil)
	key := backend.ReadRequest().Header.Get("Sec-WebSocket-Key")
	backend.SendRaw(AppendFrame([]byte(UpgradeAnswer(key, nil)), Text("early"), nil))
	client.WantUpgrade()
	client.Want(Text("early"))
}

func TestRefusalHasItsBody(t *testing.T) {
	a, b := memnet.Pipe(4096)
	client, backend := NewClient(t, a), NewBackend(t, b)
	client.WriteRequest(UpgradeRequest("/", "", http.Header{"Upgrade": nil}))
	if req := backend.ReadRequest(); req.Header["Upgrade"] != nil {
		t.Errorf("Upgrade: %q; want it removed", req.Header["Upgrade"])
	}
	backend.SendRaw([]byte("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"))
	resp := client.ReadResponse()
	if body, err := io.ReadAll(resp.Body); resp.StatusCode != 403 || string(body) != "no" || err != nil {
		t.Errorf("got %d, %q, %v; want 403, %q", resp.StatusCode, body, err, "no")
	}
}

// A fatalTB is a test that records its failure, and ends only its goroutine.
type fatalTB struct {
	testing.TB
	text string
}

func (t *fatalTB) Fatalf(format string, args ...any) {
	t.text = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// failureOf returns the failure text of a test that performs step.
func failureOf(t *testing.T, step func(t testing.TB)) string {
	tb := &fatalTB{TB: t}
	donec := make(chan struct{})
	go func() {
		defer close(donec)
		step(tb)
	}()
	<-donec
	return tb.text
}

func TestFailedStepsNameResult(t *testing.T) {
	const timeout = "read mem 192.0.2.1:1024->192.0.2.2:80: i/o timeout"
	for _, tt := range []struct {
		name string
		send func(backend *Peer)
		step func(client *Peer)
		want string
	}{
		{
			"other payload",
			func(b *Peer) { b.Send(Text("a"), Text("b")) },
			func(c *Peer) { c.Want(Text("a"), Text("c")) },
			`client: frame 2 of 2: got text "b"; want text "c"`,
		}, {
			"other flags",
			func(b *Peer) { b.Send(Frame{RSV: 4, Opcode: 3}) },
			func(c *Peer) { c.Want(Ping("")) },
			`client: frame 1 of 1: got opcode 0x3 (more to come) (rsv 100) ""; want ping ""`,
		}, {
			"no frame",
			func(*Peer) {},
			func(c *Peer) { c.Want(Text("a")) },
			`client: frame 1 of 1: got error ` + timeout + `; want text "a"`,
		}, {
			"masked frame for a client",
			func(b *Peer) { b.SendRaw(AppendFrame(nil, Text("a"), &[4]byte{1, 2, 3, 4})) },
			func(c *Peer) { c.Want(Text("a")) },
			`client: got text "a" with masked = true; want false`,
		}, {
			"other close code",
			func(b *Peer) { b.Send(Close(1000, "bye")) },
			func(c *Peer) { c.WantClose(1001) },
			`client: got close 1000 "bye"; want close 1001`,
		}, {
			"long payload",
			func(b *Peer) { b.Send(Binary(make([]byte, 1000))) },
			func(c *Peer) { c.WantClose(1001) },
			`client: got binary "` + strings.Repeat(`\x00`, 64) + `" and 936 bytes more; want close 1001`,
		}, {
			"fewer bytes",
			func(b *Peer) { b.SendRaw([]byte("ab")); b.Close() },
			func(c *Peer) { c.WantRaw("abc") },
			`client: got "ab", then error unexpected EOF; want "abc"`,
		}, {
			"bytes before EOF",
			func(b *Peer) { b.SendRaw([]byte("ab")); b.Close() },
			func(c *Peer) { c.WantEOF() },
			`client: got "ab"; want the end of the stream`,
		}, {
			"reset for EOF",
			func(b *Peer) { b.Reset() },
			func(c *Peer) { c.WantEOF() },
			"client: got error read mem 192.0.2.1:1024->192.0.2.2:80: read: connection reset by peer; want EOF",
		}, {
			"EOF for reset",
			func(b *Peer) { b.SendRaw([]byte("ab")); b.Close() },
			func(c *Peer) { c.WantReset() },
			"client: got EOF after 2 bytes; want a reset",
		}, {
			"timeout for reset",
			func(*Peer) {},
			func(c *Peer) { c.WantReset() },
			"client: got error " + timeout + " after 0 bytes; want a reset",
		}, {
			"refusal for 101",
			func(b *Peer) { b.SendRaw([]byte("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")) },
			func(c *Peer) { c.WantUpgrade() },
			"client: got status 403; want 101 in:\nHTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := failureOf(t, func(t testing.TB) {
					a, b := memnet.Pipe(4096)
					tt.send(NewBackend(t, b))
					tt.step(NewClient(t, a))
				})
				if got != tt.want {
					t.Errorf("failure text\n got %s\nwant %s", got, tt.want)
				}
			})
		})
	}
}

func TestWantUpgradeChecksResponse(t *testing.T) {
	for _, tt := range []struct {
		name   string
		header http.Header
		want   string
	}{
		{"accept", http.Header{"Sec-Websocket-Accept": {"x"}}, `client: got Sec-WebSocket-Accept: "x"`},
		{"upgrade", http.Header{"Upgrade": {"h2c"}}, `client: got Upgrade: "h2c"`},
		{"connection", http.Header{"Connection": nil}, `client: got Connection: ""`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := failureOf(t, func(t testing.TB) {
				a, b := memnet.Pipe(4096)
				client, backend := NewClient(t, a), NewBackend(t, b)
				client.RequestUpgrade("/", nil)
				backend.AcceptUpgrade(tt.header)
				client.WantUpgrade()
			})
			if !strings.HasPrefix(got, tt.want) {
				t.Errorf("failure text %q; want it to begin with %q", got, tt.want)
			}
		})
	}
}
