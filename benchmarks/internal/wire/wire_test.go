package wire

import (
	"bufio"
	"bytes"
	"net"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/wsproxy/wsproxy/internal/frame"
)

func TestReadMessageWorksWithSmallestBuffer(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 65535, 65536} {
		payload := make([]byte, n)
		for name, message := range map[string][]byte{
			"client": ClientFrame(frame.Binary, payload),
			"server": ServerFrame(frame.Binary, payload),
		} {
			stream := append(bytes.Clone(message), message...)
			r := bufio.NewReaderSize(iotest.OneByteReader(bytes.NewReader(stream)), 16)
			for range 2 {
				if err := ReadMessage(r, n); err != nil {
					t.Errorf("%s: ReadMessage(%d bytes) = %v", name, n, err)
				}
			}
		}
	}
}

func TestReadMessageRefusesUnexpectedMessage(t *testing.T) {
	for name, message := range map[string][]byte{
		"size":   ServerFrame(frame.Binary, make([]byte, 4)),
		"opcode": ServerFrame(frame.Close, make([]byte, 3)),
		"cut":    ServerFrame(frame.Binary, make([]byte, 3))[:4],
	} {
		if err := ReadMessage(bufio.NewReader(bytes.NewReader(message)), 3); err == nil {
			t.Errorf("%s: ReadMessage() = nil; want an error", name)
		}
	}
}

func TestBackendEchoesAndClosesWithCode(t *testing.T) {
	c := dial(t, "/")
	for _, n := range []int{1, 1 << 17} {
		if err := c.RoundTrip(c.Frame(make([]byte, n)), n); err != nil {
			t.Fatalf("round trip of %d bytes: %v", n, err)
		}
	}
	masked := ClientFrame(frame.Binary, []byte("hello"))
	copy(masked[2:], "\x01\x02\x03\x04")
	frame.Mask(masked[6:], [4]byte{1, 2, 3, 4})
	if _, err := c.Write(masked); err != nil {
		t.Fatal(err)
	}
	if h, err := ReadHeader(c.r); err != nil || h.Length != 5 {
		t.Fatalf("ReadHeader() = %v, %v; want 5 bytes", h, err)
	}
	if got, err := c.r.Peek(5); string(got) != "hello" {
		t.Errorf("echo is %q, %v; want hello", got, err)
	}
	c.r.Discard(5)
	if err := c.CloseHandshake(); err != nil {
		t.Errorf("CloseHandshake() = %v", err)
	}
}

func TestBackendPushes(t *testing.T) {
	c := dial(t, PushPath(300, 1000))
	for range 3 {
		if err := c.ReadMessage(300); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPushPathsAreParsed(t *testing.T) {
	if size, rate, ok := parsePush(PushPath(128, 0.5)); size != 128 || rate != 0.5 || !ok {
		t.Errorf("parsePush(%s) = %d, %g, %v; want 128, 0.5, true", PushPath(128, 0.5), size, rate, ok)
	}
	for _, path := range []string{"/", "/push/", "/push/1", "/push/a/1", "/push/1/0", "/push/-1/1"} {
		if _, _, ok := parsePush(path); ok {
			t.Errorf("parsePush(%s) took it", path)
		}
	}
}

func TestRefusedHandshakesAreErrors(t *testing.T) {
	for answer, want := range map[string]string{
		"HTTP/1.1 502 Bad Gateway\r\n\r\n":                                           "502",
		"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: nonsense\r\n\r\n": "Accept",
	} {
		addr := listen(t, func(ln net.Listener) {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			bufio.NewReader(c).ReadString('\n')
			c.Write([]byte(answer))
		})
		d, err := NewDialer("ws://"+addr+"/", 512, 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Dial(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("answer %q: Dial() = %v; want an error with %q", answer, err, want)
		}
	}
}

func dial(t *testing.T, path string) *Conn {
	t.Helper()
	d, err := NewDialer("ws://"+listen(t, func(ln net.Listener) { Serve(ln) })+path, 512, 4)
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func listen(t *testing.T, serve func(net.Listener)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go serve(ln) // until Close
	return ln.Addr().String()
}
