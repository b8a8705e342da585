package frame

import (
	"bytes"
	"errors"
	"math"
	"testing"
)

// headerTests are headers in their shortest form. The first are the examples of
// https://www.rfc-editor.org/rfc/rfc6455#section-5.7
var headerTests = []struct {
	name string
	wire string
	want Header
}{
	{"unmasked text", "\x81\x05", Header{Fin: true, Opcode: Text, Length: 5}},
	{"masked text", "\x81\x85\x37\xfa\x21\x3d", Header{Fin: true, Opcode: Text, Masked: true, Key: [4]byte{0x37, 0xfa, 0x21, 0x3d}, Length: 5}},
	{"first fragment", "\x01\x03", Header{Opcode: Text, Length: 3}},
	{"last fragment", "\x80\x02", Header{Fin: true, Opcode: Continuation, Length: 2}},
	{"ping", "\x89\x05", Header{Fin: true, Opcode: Ping, Length: 5}},
	{"256 bytes", "\x82\x7e\x01\x00", Header{Fin: true, Opcode: Binary, Length: 256}},
	{"64 KiB", "\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00", Header{Fin: true, Opcode: Binary, Length: 64 << 10}},
	{"empty", "\x82\x00", Header{Fin: true, Opcode: Binary}},
	{"compressed", "\xc1\x07", Header{Fin: true, RSV: RSV1, Opcode: Text, Length: 7}},
	{"all reserved bits", "\xf1\x07", Header{Fin: true, RSV: 7, Opcode: Text, Length: 7}},
	{"reserved opcode", "\x8f\x00", Header{Fin: true, Opcode: 0xF}},
	{"125 bytes", "\x82\x7d", Header{Fin: true, Opcode: Binary, Length: 125}},
	{"126 bytes", "\x82\x7e\x00\x7e", Header{Fin: true, Opcode: Binary, Length: 126}},
	{"65535 bytes", "\x82\x7e\xff\xff", Header{Fin: true, Opcode: Binary, Length: 65535}},
	{"65535 bytes masked", "\x82\xfe\xff\xff\x01\x02\x03\x04", Header{Fin: true, Opcode: Binary, Masked: true, Key: [4]byte{1, 2, 3, 4}, Length: 65535}},
	{"longest", "\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x01\x02\x03\x04", Header{Fin: true, Opcode: Binary, Masked: true, Key: [4]byte{1, 2, 3, 4}, Length: math.MaxInt64}},
}

func TestParseHeaderNeedsWholeHeader(t *testing.T) {
	for _, tt := range headerTests {
		t.Run(tt.name, func(t *testing.T) {
			for n := range len(tt.wire) {
				if _, size, err := ParseHeader([]byte(tt.wire[:n])); size != 0 || err != nil {
					t.Errorf("ParseHeader(%q) = size %d, %v; want 0, nil: a byte is missing", tt.wire[:n], size, err)
				}
			}
			for _, payload := range []string{"", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"} {
				p := []byte(tt.wire + payload)
				got, size, err := ParseHeader(p)
				if got != tt.want || size != len(tt.wire) || err != nil {
					t.Errorf("ParseHeader(%q) = %+v, %d, %v; want %+v, %d, nil", p, got, size, err, tt.want, len(tt.wire))
				}
			}
		})
	}
}

func TestAppendHeaderWritesShortestForm(t *testing.T) {
	for _, tt := range headerTests {
		if got := AppendHeader([]byte("before"), tt.want); string(got) != "before"+tt.wire {
			t.Errorf("%s: AppendHeader(before, %+v) = %q; want %q", tt.name, tt.want, got, "before"+tt.wire)
		}
	}
}

// We deviate from "the minimal number of bytes MUST be used to encode the length".
func TestParseHeaderAcceptsLongerForm(t *testing.T) {
	for _, wire := range []string{"\x82\x7e\x00\x05", "\x82\x7f\x00\x00\x00\x00\x00\x00\x00\x05"} {
		h, size, err := ParseHeader([]byte(wire))
		if h.Length != 5 || size != len(wire) || err != nil {
			t.Errorf("ParseHeader(%q) = length %d, size %d, %v; want 5, %d, nil", wire, h.Length, size, err, len(wire))
		}
	}
}

// "the most significant bit MUST be 0"
// https://www.rfc-editor.org/rfc/rfc6455#section-5.2
func TestParseHeaderRefusesTopBitOfLength(t *testing.T) {
	for _, wire := range []string{"\x82\x7f\x80", "\x82\xff\xff", "\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00"} {
		_, size, err := ParseHeader([]byte(wire))
		var v *Violation
		if size != 0 || !errors.As(err, &v) || v.Code != StatusProtocolError {
			t.Errorf("ParseHeader(%q) = size %d, %v; want 0 and a protocol error", wire, size, err)
		}
	}
}

func TestMaskTwiceRestoresBytes(t *testing.T) {
	// RFC 6455 §5.7: "a single-frame masked text message" that contains "Hello".
	b := []byte("Hello")
	key := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	Mask(b, key)
	if want := []byte{0x7f, 0x9f, 0x4d, 0x51, 0x58}; !bytes.Equal(b, want) {
		t.Errorf("Mask(Hello) = %x; want %x", b, want)
	}
	Mask(b, key)
	if string(b) != "Hello" {
		t.Errorf("masked twice = %q; want Hello", b)
	}
}

func TestOpcodeIsControlByTopBit(t *testing.T) {
	for op := range Opcode(16) {
		if got, want := op.IsControl(), op >= 8; got != want {
			t.Errorf("Opcode(%#x).IsControl() = %v; want %v", op, got, want)
		}
	}
}
