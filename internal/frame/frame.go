// Package frame implements the wire format of WebSocket frames (RFC 6455 §5). It
// parses and appends headers and control frames, and tracks the frames of a stream
// without reading data payloads.
//
// The package is pure: bytes in, values out. It uses no connection, starts no
// goroutine, reads no clock, and never allocates memory of a length that a peer
// has sent. It does not depend on the opening handshake (package handshake) or on
// how bytes are moved (package relay).
package frame

import "encoding/binary"

// An Opcode is the type of a frame.
// https://www.rfc-editor.org/rfc/rfc6455#section-5.2
type Opcode byte

const (
	Continuation Opcode = 0x0
	Text         Opcode = 0x1
	Binary       Opcode = 0x2
	Close        Opcode = 0x8
	Ping         Opcode = 0x9
	Pong         Opcode = 0xA
)

// IsControl reports whether frames of this opcode are control frames, reserved
// ones included.
func (o Opcode) IsControl() bool { return o&0x8 != 0 }

// isKnown reports whether RFC 6455 defines the opcode.
func (o Opcode) isKnown() bool {
	switch o {
	case Continuation, Text, Binary, Close, Ping, Pong:
		return true
	}
	return false
}

const (
	// MaxHeader is the length of the longest header: two bytes, a length of eight
	// bytes, a key of four.
	MaxHeader = 14

	// MaxControlPayload is the longest payload of a control frame: "All control
	// frames MUST have a payload length of 125 bytes or less".
	// https://www.rfc-editor.org/rfc/rfc6455#section-5.5
	MaxControlPayload = 125

	// MaxHeld is how many bytes a piece without a step of Tracker.Next has at most: a
	// control frame without its last byte, with the longest form of its length.
	MaxHeld = MaxHeader + MaxControlPayload - 1
)

// RSV1 is the bit that permessage-deflate sets on the first frame of a
// compressed message. https://www.rfc-editor.org/rfc/rfc7692#section-6
const RSV1 = 0x4

// A Header is the header of a frame.
//
//	 0               1               2 ...           n ...
//	+-+-+-+-+-------+-+-------------+---------------+--------------+
//	|F|R|R|R| op(4) |M| length (7)  | length 16/64  | key (32)     |
//	|I|S|S|S|       |A| 126: 16 bit | if 126 or 127 | if masked    |
//	|N|V|V|V|       |S| 127: 64 bit |               |              |
//	| |1|2|3|       |K|             |               |              |
//	+-+-+-+-+-------+-+-------------+---------------+--------------+
type Header struct {
	Fin    bool
	RSV    byte // RSV1 is the highest of three bits
	Opcode Opcode
	Masked bool
	Key    [4]byte
	Length uint64 // of the payload
}

// ParseHeader parses the header at the beginning of p and returns it with its
// size. The size is 0 if p does not contain the whole header. The only error is a
// 64-bit length with the top bit set, which ParseHeader returns as soon as p
// contains that bit.
//
// We deviate: "the minimal number of bytes MUST be used to encode the length" is
// not enforced. A longer form harms no parser, and both peers read the same bytes.
func ParseHeader(p []byte) (h Header, size int, err error) {
	if len(p) < 2 {
		return h, 0, nil
	}
	h.Fin = p[0]&0x80 != 0
	h.RSV = p[0] >> 4 & 0x7
	h.Opcode = Opcode(p[0] & 0xF)
	h.Masked = p[1]&0x80 != 0
	h.Length = uint64(p[1] & 0x7F)
	size = 2
	switch h.Length {
	case 126:
		if len(p) < 4 {
			return h, 0, nil
		}
		h.Length = uint64(binary.BigEndian.Uint16(p[2:]))
		size = 4
	case 127:
		// "the most significant bit MUST be 0"
		if len(p) > 2 && p[2]&0x80 != 0 {
			return h, 0, &Violation{Code: StatusProtocolError, Reason: "frame length with its top bit set"}
		}
		if len(p) < 10 {
			return h, 0, nil
		}
		h.Length = binary.BigEndian.Uint64(p[2:])
		size = 10
	}
	if h.Masked {
		if len(p) < size+4 {
			return h, 0, nil
		}
		copy(h.Key[:], p[size:])
		size += 4
	}
	return h, size, nil
}

// AppendHeader appends h in its shortest form.
func AppendHeader(dst []byte, h Header) []byte {
	b0 := h.RSV<<4 | byte(h.Opcode)
	if h.Fin {
		b0 |= 0x80
	}
	var b1 byte
	if h.Masked {
		b1 = 0x80
	}
	switch {
	case h.Length < 126:
		dst = append(dst, b0, b1|byte(h.Length))
	case h.Length < 1<<16:
		dst = append(dst, b0, b1|126)
		dst = binary.BigEndian.AppendUint16(dst, uint16(h.Length))
	default:
		dst = append(dst, b0, b1|127)
		dst = binary.BigEndian.AppendUint64(dst, h.Length)
	}
	if h.Masked {
		dst = append(dst, h.Key[:]...)
	}
	return dst
}

// Mask masks b with key in place. A second call unmasks it.
// https://www.rfc-editor.org/rfc/rfc6455#section-5.3
func Mask(b []byte, key [4]byte) {
	for i := range b {
		b[i] ^= key[i&3]
	}
}
