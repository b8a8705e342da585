package wstest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
)

// The examples of RFC 6455 §5.7.
func TestFramesMatchSpec(t *testing.T) {
	key := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	for _, tt := range []struct {
		frame Frame
		key   *[4]byte
		want  string
	}{
		{Text("Hello"), nil, "\x81\x05Hello"},
		{Text("Hello"), &key, "\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"},
		{Fragment(OpText, false, "Hel"), nil, "\x01\x03Hel"},
		{Fragment(OpContinuation, true, "lo"), nil, "\x80\x02lo"},
		{Ping("Hello"), nil, "\x89\x05Hello"},
		{Pong("Hello"), &key, "\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"},
		{Close(1000, "a"), nil, "\x88\x03\x03\xe8a"},
		{Close(0, ""), nil, "\x88\x00"},
	} {
		if got := AppendFrame(nil, tt.frame, tt.key); string(got) != tt.want {
			t.Errorf("AppendFrame(%v) = %x; want %x", tt.frame, got, tt.want)
		}
	}
}

// The example of RFC 6455 §1.3.
func TestAcceptMatchesSpec(t *testing.T) {
	const key, want = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
	if got := Accept(key); got != want {
		t.Errorf("Accept(%q) = %q; want %q", key, got, want)
	}
}

func TestReadFrameReturnsWhatWasAppended(t *testing.T) {
	key := [4]byte{1, 2, 3, 4}
	for _, n := range []int{0, 1, 125, 126, 65535, 65536} {
		for _, key := range []*[4]byte{nil, &key} {
			want := Frame{Fin: true, RSV: 5, Opcode: OpBinary, Payload: bytes.Repeat([]byte("x"), n)}
			r := bufio.NewReader(bytes.NewReader(AppendFrame(nil, want, key)))
			got, err := ReadFrame(r)
			if err != nil || !isSame(got, want) || got.Masked != (key != nil) {
				t.Errorf("%d bytes, masked %v: ReadFrame() = %v, %v", n, key != nil, got, err)
			}
			if _, err := ReadFrame(r); err != io.EOF {
				t.Errorf("%d bytes: ReadFrame() after the last frame: %v; want EOF", n, err)
			}
		}
	}
}

func TestReadFrameDistinguishesTruncationFromEOF(t *testing.T) {
	for _, n := range []int{3, 200, 70000} {
		whole := AppendFrame(nil, Binary(make([]byte, n)), &[4]byte{1, 2, 3, 4})
		for _, cut := range []int{1, 2, 4, 8, len(whole) - 1} {
			_, err := ReadFrame(bufio.NewReader(bytes.NewReader(whole[:cut])))
			if err != io.ErrUnexpectedEOF {
				t.Errorf("%d of %d bytes: ReadFrame() = %v; want unexpected EOF", cut, len(whole), err)
			}
		}
	}
}

func TestReadFrameRefusesAbsurdLength(t *testing.T) {
	r := bufio.NewReader(strings.NewReader("\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff"))
	if f, err := ReadFrame(r); err == nil {
		t.Errorf("ReadFrame() = %v; want an error", f)
	}
}

func TestFrameStringNamesEveryOpcode(t *testing.T) {
	for opcode, want := range map[byte]string{
		OpContinuation: `continuation "a"`,
		OpText:         `text "a"`,
		OpBinary:       `binary "a"`,
		OpClose:        `close "a"`,
		OpPing:         `ping "a"`,
		OpPong:         `pong "a"`,
		0xB:            `opcode 0xb "a"`,
	} {
		if got := fmt.Sprint(Fragment(opcode, true, "a")); got != want {
			t.Errorf("String() = %s; want %s", got, want)
		}
	}
}
