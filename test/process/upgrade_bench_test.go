package process_test

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
)

// Requests that open a tunnel.
var quickRequests = []struct{ name, request string }{
	{"bare", proxytest.UpgradeTo("/")},
	{"browser", proxytest.UpgradeTo("/chat?room=7&token=c2VjcmV0",
		"Pragma: no-cache", "Cache-Control: no-cache",
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
		"Origin: https://chat.example", "Accept-Encoding: gzip, deflate, br, zstd", "Accept-Language: en-US,en;q=0.9",
		"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark",
		"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")},
}

// BenchmarkUpgrade opens a tunnel and closes it by Close frames. Its client and
// its backend cost little more than their system calls, those of their dials
// and accepts included: see the case direct, which has no proxy.
func BenchmarkUpgrade(b *testing.B) {
	backend := startQuickBackend(b)
	_, s := proxytest.Start(b, wsproxy.WithBackends("http://"+backend))
	front := strings.TrimPrefix(s.URL, "http://")
	for _, tt := range quickRequests {
		for _, to := range []struct{ name, addr string }{{"direct", backend}, {"proxied", front}} {
			b.Run(tt.name+"/"+to.name, func(b *testing.B) {
				b.ReportAllocs()
				c := newQuickClient(b, to.addr, tt.request)
				for b.Loop() {
					c.visit(b)
				}
			})
		}
	}
}

// A quickClient opens tunnels and closes them. It allocates nothing but what its
// dials do.
type quickClient struct {
	addr    *net.TCPAddr
	request []byte
	buf     [4 << 10]byte
}

func newQuickClient(t testing.TB, addr, request string) *quickClient {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return &quickClient{addr: a, request: []byte(request)}
}

var (
	endOfHead   = []byte("\r\n\r\n")
	switched101 = []byte("HTTP/1.1 101 ")

	// Close frames with code 1000.
	closeFromClient  = []byte{0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8}
	closeFromBackend = []byte{0x88, 0x02, 0x03, 0xe8}
)

// visit opens a tunnel and closes it.
func (c *quickClient) visit(t testing.TB) {
	conn, err := net.DialTCP("tcp", nil, c.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write(c.request)
	n := readUntil(conn, c.buf[:], endOfHead)
	if !bytes.HasPrefix(c.buf[:n], switched101) {
		t.Fatalf("client got %q; want a 101", c.buf[:n])
	}
	conn.Write(closeFromClient)
	if n = readUntil(conn, c.buf[:], closeFromBackend); !bytes.Equal(c.buf[:n], closeFromBackend) {
		t.Fatalf("client got % x; want a Close frame", c.buf[:n])
	}
	if n, err := conn.Read(c.buf[:]); n > 0 || err != io.EOF {
		t.Fatalf("client got %d bytes, %v; want the end of the stream", n, err)
	}
}

// readUntil reads until end is there and returns how much was read, or 0.
func readUntil(r io.Reader, buf, end []byte) int {
	for n := 0; n < len(buf); {
		k, err := r.Read(buf[n:])
		if n += k; bytes.HasSuffix(buf[:n], end) {
			return n
		}
		if err != nil {
			break
		}
	}
	return 0
}

// A quickBackend answers upgrades, one after the other, and waits for a Close
// frame. It allocates nothing but what accepting does.
type quickBackend struct {
	ln     net.Listener
	buf    [4 << 10]byte
	answer []byte
}

// startQuickBackend returns the address of a backend that runs until the test
// ends.
func startQuickBackend(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &quickBackend{ln: ln}
	var running sync.WaitGroup
	running.Go(b.run) // until ln is closed
	t.Cleanup(func() {
		ln.Close()
		running.Wait()
	})
	return ln.Addr().String()
}

func (b *quickBackend) run() {
	for {
		conn, err := b.ln.Accept()
		if err != nil {
			return
		}
		b.serve(conn)
	}
}

func (b *quickBackend) serve(conn net.Conn) {
	defer conn.Close()
	n := readUntil(conn, b.buf[:], endOfHead)
	conn.Write(b.switchTo(b.buf[:n]))
	if readUntil(conn, b.buf[:], []byte{0x03, 0xe8}) > 0 { // what is masked with zeros
		conn.Write(closeFromBackend)
	}
}

// switchTo returns the 101 that answers a request.
func (b *quickBackend) switchTo(request []byte) []byte {
	const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	_, rest, _ := bytes.Cut(request, []byte("Sec-WebSocket-Key: "))
	var key [24 + len(guid)]byte
	copy(key[:24], rest)
	copy(key[24:], guid)
	sum := sha1.Sum(key[:])
	b.answer = append(b.answer[:0], "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"+
		"Connection: Upgrade\r\nSec-WebSocket-Accept: "...)
	b.answer = base64.StdEncoding.AppendEncode(b.answer, sum[:])
	b.answer = append(b.answer, endOfHead...)
	return b.answer
}
