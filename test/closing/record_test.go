package closing_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// noClose is the code of a record without a Close frame.
const noClose = -1

// A record is what one end has received so far.
type record struct {
	t    testing.TB
	name string

	closed chan struct{} // closed with the first Close frame, or the end
	ended  chan struct{} // closed with the end

	mu       sync.Mutex
	bytes    int // payload of data frames
	messages int // data messages, up to their end
	sum      uint32
	texts    []string // payloads of text messages and of their fragments
	code     int      // of the Close frame; 0 where it had none
	reason   string
	closeAt  time.Time
	extra    []byte // opcodes of frames behind the Close frame
	err      error
	endAt    time.Time
}

// A reaction is what an end does about a frame that it has read. Fields may be nil.
type reaction struct {
	onData  func(payload []byte) // a text message, or one of its fragments
	onClose func(code int)
}

// listen reads on a goroutine, until the stream ends or the test does.
func (e *end) listen(re reaction) *record {
	r := &record{t: e.t, name: e.name, code: noClose, closed: make(chan struct{}), ended: make(chan struct{})}
	go r.run(bufio.NewReader(e.Peer), re)
	return r
}

// answer listens, answers a Close frame with the same code and, when the stream has
// ended, closes the connection.
func (e *end) answer() *record {
	return e.listen(reaction{onClose: func(code int) { e.WriteFrames(wstest.Close(uint16(code), "")) }})
}

func (r *record) run(src *bufio.Reader, re reaction) {
	err := r.readFrames(src, re)
	r.mu.Lock()
	r.err, r.endAt = err, time.Now()
	hasClose := r.code != noClose
	r.mu.Unlock()
	if !hasClose {
		close(r.closed)
	}
	close(r.ended)
}

func (r *record) readFrames(src *bufio.Reader, re reaction) error {
	isText := false
	for {
		h, err := readHeader(src)
		if err != nil {
			return err
		}
		var text []byte
		switch {
		case h.opcode == wstest.OpClose:
			code, err := r.readClose(src, h)
			if err != nil {
				return err
			}
			if re.onClose != nil {
				re.onClose(code)
			}
			continue
		case h.opcode == wstest.OpText, h.opcode == wstest.OpBinary:
			isText = h.opcode == wstest.OpText
		}
		if text, err = r.readPayload(src, h, isText); err != nil {
			return err
		}
		if isText && h.opcode < wstest.OpClose && re.onData != nil {
			re.onData(text)
		}
	}
}

func (r *record) readClose(src *bufio.Reader, h header) (code int, err error) {
	payload := make([]byte, h.length)
	if _, err := io.ReadFull(src, payload); err != nil {
		return 0, insideFrame(err)
	}
	h.unmask(payload, 0)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.code != noClose {
		r.extra = append(r.extra, h.opcode)
		return r.code, nil
	}
	r.code, r.closeAt = 0, time.Now()
	if len(payload) >= 2 {
		r.code, r.reason = int(binary.BigEndian.Uint16(payload)), string(payload[2:])
	}
	close(r.closed)
	return r.code, nil
}

func (r *record) readPayload(src *bufio.Reader, h header, isText bool) (text []byte, err error) {
	buf := make([]byte, min(h.length, 32<<10))
	for read := uint64(0); read < h.length; {
		n, err := src.Read(buf[:min(h.length-read, uint64(len(buf)))])
		if n == 0 && err != nil {
			return nil, insideFrame(err)
		}
		h.unmask(buf[:n], read)
		read += uint64(n)
		if h.opcode >= wstest.OpClose {
			continue
		}
		r.mu.Lock()
		r.bytes += n
		r.sum = crc32.Update(r.sum, crc32.IEEETable, buf[:n])
		r.mu.Unlock()
		if isText {
			text = append(text, buf[:n]...)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.code != noClose {
		r.extra = append(r.extra, h.opcode)
	}
	if h.opcode < wstest.OpClose {
		if isText {
			r.texts = append(r.texts, string(text))
		}
		if h.fin {
			r.messages++
		}
	}
	return text, nil
}

// numBytes returns how many bytes of data have come.
func (r *record) numBytes() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes
}

// waitBytes waits until n bytes of data have come.
func (r *record) waitBytes(n int) {
	r.t.Helper()
	for give := time.Now().Add(patience); r.numBytes() < n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(give) {
			r.t.Fatalf("%s; want %d bytes", r, n)
		}
	}
}

// waitClose waits for a Close frame, or the end.
func (r *record) waitClose(d time.Duration) {
	r.t.Helper()
	if _, ok := within(r.closed, d); !ok {
		r.t.Fatalf("%s after %v; want a Close frame", r, d)
	}
}

// waitEnd waits for the stream's end.
func (r *record) waitEnd(d time.Duration) {
	r.t.Helper()
	if _, ok := within(r.ended, d); !ok {
		r.t.Fatalf("%s after %v; want the end of the stream", r, d)
	}
}

// wantClose waits for a Close frame with a code, within d.
func (r *record) wantClose(code int, d time.Duration) {
	r.t.Helper()
	r.waitClose(d)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.code != code {
		r.t.Errorf("%s; want Close %d", r.stringLocked(), code)
	}
}

// wantEOF waits for the end of the stream in order, within d, with the Close frame
// as the last frame, or none where code is noClose.
func (r *record) wantEOF(code int, d time.Duration) {
	r.t.Helper()
	r.waitEnd(d)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != io.EOF || r.code != code || len(r.extra) > 0 {
		want := fmt.Sprintf("Close %d, then EOF", code)
		if code == noClose {
			want = "no Close frame, then EOF"
		}
		r.t.Errorf("%s; want %s", r.stringLocked(), want)
	}
}

// wantData checks that all data has come, and none besides.
func (r *record) wantData(frames ...wstest.Frame) {
	r.t.Helper()
	var sum uint32
	bytes, messages := 0, 0
	for _, f := range frames {
		sum = crc32.Update(sum, crc32.IEEETable, f.Payload)
		bytes += len(f.Payload)
		if f.Fin {
			messages++
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bytes != bytes || r.messages != messages || r.sum != sum {
		r.t.Errorf("%s; want %d messages, %d bytes (sums agree: %t)", r.stringLocked(), messages, bytes, r.sum == sum)
	}
}

// wantTexts checks the text messages and fragments.
func (r *record) wantTexts(want ...string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.texts, want) {
		r.t.Errorf("%s got texts %.200q; want %.200q", r.name, r.texts, want)
	}
}

// times returns when the Close frame came, and the end.
func (r *record) times() (closeAt, endAt time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closeAt, r.endAt
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stringLocked()
}

func (r *record) stringLocked() string {
	s := fmt.Sprintf("%s got %d messages, %d bytes", r.name, r.messages, r.bytes)
	if r.code != noClose {
		s += fmt.Sprintf(", Close %d %q", r.code, r.reason)
	}
	if len(r.extra) > 0 {
		s += fmt.Sprintf(", frames with opcodes %d behind it", r.extra)
	}
	if !r.endAt.IsZero() {
		s += fmt.Sprintf(", then %v", r.err)
	}
	return s
}

// A header is a frame's, RFC 6455 §5.2.
type header struct {
	fin    bool
	opcode byte
	masked bool
	key    [4]byte
	length uint64
}

// readHeader reads a header, so that a payload need not fit into memory.
func readHeader(r *bufio.Reader) (header, error) {
	b0, err := r.ReadByte()
	if err != nil {
		return header{}, err
	}
	b1, err := r.ReadByte()
	if err != nil {
		return header{}, insideFrame(err)
	}
	h := header{fin: b0&0x80 != 0, opcode: b0 & 15, masked: b1&0x80 != 0, length: uint64(b1 & 0x7f)}
	var extended [8]byte
	switch h.length {
	case 126:
		_, err = io.ReadFull(r, extended[6:])
		h.length = binary.BigEndian.Uint64(extended[:])
	case 127:
		_, err = io.ReadFull(r, extended[:])
		h.length = binary.BigEndian.Uint64(extended[:])
	}
	if err == nil && h.masked {
		_, err = io.ReadFull(r, h.key[:])
	}
	return h, insideFrame(err)
}

// unmask unmasks a part of the payload that begins at offset.
func (h header) unmask(b []byte, offset uint64) {
	if !h.masked {
		return
	}
	for i := range b {
		b[i] ^= h.key[(offset+uint64(i))&3]
	}
}

func insideFrame(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
