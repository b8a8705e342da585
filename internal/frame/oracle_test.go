package frame

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"testing"

	"github.com/coder/websocket"

	"github.com/wsproxy/wsproxy/internal/wstest"
	"github.com/wsproxy/wsproxy/wsproxytest/memnet"
)

// FuzzTrackerAgreesWithCoderWebsocket generates valid and invalid streams of
// frames, and compares the Tracker's result with that of an endpoint.
//
// They differ on purpose in these points:
//   - The Tracker may refuse a stream that ends within a header. An endpoint waits
//     for the rest of the header.
//   - The Tracker refuses a masked frame from a backend ("A client MUST close a
//     connection if it detects a masked frame"). coder/websocket accepts it.
//   - The Tracker does not check the code and the reason of a Close frame, which
//     concern the peers only. The streams have valid ones.
//   - An endpoint reads nothing after a Close frame. The streams end there.
//   - An endpoint inflates messages. The Tracker counts their bytes on the wire.
//     So a compressed stream is not truncated.
func FuzzTrackerAgreesWithCoderWebsocket(f *testing.F) {
	for i := range uint64(64) {
		f.Add(i, byte(i), []byte{byte(i), byte(i * 3), byte(i * 5), byte(i * 7), 1, 0, 3, 9})
	}
	f.Fuzz(func(t *testing.T, seed uint64, bits byte, script []byte) {
		rules := Rules{Masked: bits&1 != 0, Deflate: bits&2 != 0}
		s := generate(rules, script[:min(len(script), 64)], rand.New(rand.NewPCG(seed, 1)))

		got, sizes := trackSizes(rules, s.wire)
		want := readWithCoder(t, rules, s.wire)
		switch {
		case got.err != nil && got.err.Reason == "frame from the backend is masked":
			want.sizes = want.sizes[:min(len(want.sizes), len(sizes))]
		case got.err != nil && want.isShort && len(s.wire)-got.taken < MaxHeader:
			// The stream ended within a header.
		case (got.err != nil) != want.isRefused:
			t.Fatalf("%+v, %x: tracker: %v; endpoint: %v", rules, s.wire, got.err, want.err)
		}
		if s.isSound && got.err != nil {
			t.Errorf("%+v, %x: a sound stream was refused: %v", rules, s.wire, got.err)
		}
		if got.messages != uint32(len(want.sizes)) {
			t.Errorf("%+v, %x: tracker counts %d messages; endpoint %d", rules, s.wire, got.messages, len(want.sizes))
		}
		if !rules.Deflate && !slices.Equal(sizes, want.sizes) {
			t.Errorf("%+v, %x: tracker saw messages of %d bytes; endpoint of %d", rules, s.wire, sizes, want.sizes)
		}
	})
}

// A stream is a result of generate.
type stream struct {
	wire    []byte
	isSound bool // breaks no rule
}

// generate returns a stream with one or a few frames for each byte of script. High
// values of a byte break a rule.
func generate(rules Rules, script []byte, random *rand.Rand) stream {
	s := stream{isSound: true}
	add := func(f wstest.Frame) { s.wire = appendFrame(s.wire, f, rules.Masked, random) }
	fragmented := false
	for _, b := range script {
		payload := make([]byte, []int{0, 1, 125, 126, 300, 66_000}[random.IntN(6)])
		switch {
		case b < 0x40 && !fragmented:
			add(message(rules, wstest.OpBinary, true, payload))
		case b < 0x60 && !fragmented:
			add(message(Rules{}, wstest.OpText, false, payload))
			fragmented = true
		case b < 0x60:
			fragmented = b&1 != 0
			add(wstest.Frame{Fin: !fragmented, Opcode: wstest.OpContinuation, Payload: payload})
		case b < 0x80:
			add(wstest.Ping(string(payload[:min(len(payload), 125)])))
		case b < 0xA0:
			add(wstest.Pong(string(payload[:min(len(payload), 125)])))
		case b < 0xA4:
			add(wstest.Close(1000, "bye"))
			return s
		case b >= 0xC0: // an arbitrary header
			s.isSound = false
			f := wstest.Frame{Fin: b&1 != 0, RSV: b >> 1 & 7, Opcode: byte(random.IntN(16)), Payload: payload}
			switch {
			case f.Opcode == wstest.OpClose:
				f.Payload = nil
			case f.RSV == RSV1:
				f.Payload = message(rules, f.Opcode, f.Fin, payload).Payload
			}
			s.wire = appendFrame(s.wire, f, rules.Masked != (random.IntN(4) == 0), random)
			return s
		case b >= 0xB8 && !rules.Deflate: // a truncated frame
			s.wire = s.wire[:len(s.wire)-random.IntN(min(len(s.wire), 300)+1)]
			return s
		}
	}
	return s
}

// message returns a frame, whose payload is compressed if rules allow it.
func message(rules Rules, op byte, fin bool, payload []byte) wstest.Frame {
	f := wstest.Frame{Fin: fin, Opcode: op, Payload: payload}
	if rules.Deflate {
		var b bytes.Buffer
		w, _ := flate.NewWriter(&b, flate.BestSpeed)
		w.Write(payload)
		w.Flush()
		f.RSV = RSV1
		f.Payload = bytes.TrimSuffix(b.Bytes(), []byte("\x00\x00\xff\xff")) // RFC 7692 §7.2.1
	}
	return f
}

func appendFrame(dst []byte, f wstest.Frame, masked bool, random *rand.Rand) []byte {
	if !masked {
		return wstest.AppendFrame(dst, f, nil)
	}
	key := [4]byte{byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32()), 1}
	return wstest.AppendFrame(dst, f, &key)
}

// A tracked is the result of a Tracker for a stream.
type tracked struct {
	messages uint32
	taken    int
	err      *Violation
}

// trackSizes passes wire to a Tracker, up to a Close frame, and returns the
// payload sizes of its messages on the wire.
func trackSizes(rules Rules, wire []byte) (got tracked, sizes []int) {
	tr := Tracker{Rules: rules}
	messageBytes := 0
	for got.taken < len(wire) && got.err == nil {
		p := wire[got.taken:]
		if n := tr.Finish(p); n > 0 {
			got.taken += n
			messageBytes += n
		} else {
			if h, size, _ := ParseHeader(p); size > 0 && !h.Opcode.IsControl() {
				p = p[:size]
			}
			step, err := tr.Next(p)
			errors.As(err, &got.err)
			if err != nil || step.Len == 0 || step.Control == Close {
				break
			}
			got.taken += step.Len
		}
		if n := tr.TakeMessages(); n > 0 {
			got.messages += n
			sizes = append(sizes, messageBytes)
			messageBytes = 0
		}
	}
	return got, sizes
}

// An endpointRead is the result of an endpoint for a stream.
type endpointRead struct {
	sizes     []int
	err       error
	isShort   bool // the stream ended, perhaps within a frame
	isRefused bool // the stream breaks a rule
}

func readWithCoder(t *testing.T, rules Rules, wire []byte) endpointRead {
	near, far := memnet.Pipe(len(wire) + 64<<10) // large enough that the endpoint never blocks
	defer far.Close()
	c := coderConn(t, rules, endless{near})
	defer c.CloseNow()
	c.SetReadLimit(-1)
	far.Write(wire)
	far.CloseWrite()

	var got endpointRead
	for {
		_, r, err := c.Reader(context.Background())
		var n int64
		if err == nil {
			n, err = io.Copy(io.Discard, r)
		}
		if err != nil {
			got.err = err
			got.isShort = errors.Is(err, errEnd)
			got.isRefused = !got.isShort && websocket.CloseStatus(err) == -1
			return got
		}
		got.sizes = append(got.sizes, int(n))
	}
}

// An endless connection returns errEnd in place of io.EOF. coder/websocket treats
// an io.EOF between two fragments as the end of the message.
type endless struct{ net.Conn }

var errEnd = errors.New("end of the test's stream")

func (e endless) Read(p []byte) (int, error) {
	n, err := e.Conn.Read(p)
	if err == io.EOF {
		err = errEnd
	}
	return n, err
}

// coderConn returns an endpoint that reads frames under rules. It is a server if
// frames are masked.
func coderConn(t *testing.T, rules Rules, conn net.Conn) *websocket.Conn {
	t.Helper()
	mode := websocket.CompressionDisabled
	if rules.Deflate {
		mode = websocket.CompressionNoContextTakeover
	}
	if !rules.Masked {
		client := &http.Client{Transport: switcher{conn, rules.Deflate}}
		c, _, err := websocket.Dial(context.Background(), "ws://example.com/", &websocket.DialOptions{HTTPClient: client, CompressionMode: mode})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	r, _ := http.NewRequest("GET", "/", nil)
	r.Header = http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
	}
	if rules.Deflate {
		r.Header.Set("Sec-WebSocket-Extensions", "permessage-deflate; client_no_context_takeover; server_no_context_takeover")
	}
	c, err := websocket.Accept(hijackable{make(http.Header), conn}, r, &websocket.AcceptOptions{CompressionMode: mode})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A hijackable is a response whose connection is conn.
type hijackable struct {
	header http.Header
	conn   net.Conn
}

func (h hijackable) Header() http.Header         { return h.header }
func (h hijackable) Write(b []byte) (int, error) { return len(b), nil }
func (h hijackable) WriteHeader(int)             {}

func (h hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}

// A switcher responds to an upgrade with a 101 and conn as its body.
type switcher struct {
	conn    net.Conn
	deflate bool
}

func (s switcher) RoundTrip(r *http.Request) (*http.Response, error) {
	h := http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Accept": {wstest.Accept(r.Header.Get("Sec-WebSocket-Key"))},
	}
	if s.deflate {
		h.Set("Sec-WebSocket-Extensions", "permessage-deflate; client_no_context_takeover; server_no_context_takeover")
	}
	return &http.Response{StatusCode: http.StatusSwitchingProtocols, Header: h, Body: s.conn, Request: r}, nil
}
