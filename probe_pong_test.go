package wsproxy

import (
	"bytes"
	"testing"
	"testing/iotest"

	"github.com/wsproxy/wsproxy/internal/frame"
)

// How the stream is split makes no difference, and readPong ends.
func FuzzReadPong(f *testing.F) {
	pong := frame.AppendControl(nil, frame.Pong, []byte("12345678"), nil)
	text := frame.AppendHeader(nil, frame.Header{Fin: true, Opcode: frame.Text, Length: 5})
	f.Add(pong, false)
	f.Add(append(append(text, "hello"...), pong...), true)
	f.Add(frame.AppendControl(nil, frame.Close, frame.ClosePayload(1013, "full"), nil), false)
	f.Add([]byte("\x89\x00\x8a\x00\x01\x02ab\x80\x00"), false)
	f.Add([]byte("\x82\x7f\x00\x00\x00\x00\x7f\xff\xff\xffx"), false)
	f.Add([]byte("\x8a\x7e\x00\x0812345678"), true)
	f.Fuzz(func(t *testing.T, stream []byte, isDeflate bool) {
		rules := frame.Rules{Deflate: isDeflate}
		payload := []byte("12345678")
		whole := readPong(bytes.NewReader(stream), rules, payload)
		bytewise := readPong(iotest.OneByteReader(bytes.NewReader(stream)), rules, payload)
		if (whole == nil) != (bytewise == nil) || whole != nil && whole.Error() != bytewise.Error() {
			t.Errorf("readPong(%q) = %v, byte by byte %v", stream, whole, bytewise)
		}
		if whole == nil && !bytes.Contains(stream, payload) {
			t.Errorf("readPong(%q) found a pong", stream)
		}
	})
}
