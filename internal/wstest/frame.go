package wstest

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// Opcodes, RFC 6455 §5.2.
const (
	OpContinuation = 0x0
	OpText         = 0x1
	OpBinary       = 0x2
	OpClose        = 0x8
	OpPing         = 0x9
	OpPong         = 0xA
)

const maxPayloadBytes = 64 << 20 // a longer payload means that the reader has lost the frame boundaries

// A Frame is a WebSocket frame with an unmasked payload.
type Frame struct {
	Fin     bool
	RSV     byte // three bits; RSV1 is 4
	Opcode  byte // four bits
	Masked  bool // set by ReadFrame; ignored when a frame is sent
	Payload []byte
}

// Text returns a whole text message.
func Text(s string) Frame { return Fragment(OpText, true, s) }

// Binary returns a whole binary message.
func Binary(b []byte) Frame { return Frame{Fin: true, Opcode: OpBinary, Payload: b} }

// Ping returns a ping.
func Ping(s string) Frame { return Fragment(OpPing, true, s) }

// Pong returns a pong.
func Pong(s string) Frame { return Fragment(OpPong, true, s) }

// Close returns a Close frame. With code 0 its payload is empty.
func Close(code uint16, reason string) Frame {
	f := Frame{Fin: true, Opcode: OpClose}
	if code != 0 {
		f.Payload = append(binary.BigEndian.AppendUint16(nil, code), reason...)
	}
	return f
}

// Fragment returns a fragment of a message. The opcode is OpContinuation in all
// fragments but the first.
func Fragment(opcode byte, fin bool, payload string) Frame {
	return Frame{Fin: fin, Opcode: opcode, Payload: []byte(payload)}
}

// String describes f on one line.
func (f Frame) String() string {
	var b strings.Builder
	b.WriteString(opcodeName(f.Opcode))
	if !f.Fin {
		b.WriteString(" (more to come)")
	}
	if f.RSV != 0 {
		fmt.Fprintf(&b, " (rsv %03b)", f.RSV)
	}
	payload := f.Payload
	if f.Opcode == OpClose && len(payload) >= 2 {
		fmt.Fprintf(&b, " %d", binary.BigEndian.Uint16(payload))
		payload = payload[2:]
	}
	fmt.Fprintf(&b, " %s", excerpt(payload))
	return b.String()
}

func opcodeName(opcode byte) string {
	switch opcode {
	case OpContinuation:
		return "continuation"
	case OpText:
		return "text"
	case OpBinary:
		return "binary"
	case OpClose:
		return "close"
	case OpPing:
		return "ping"
	case OpPong:
		return "pong"
	}
	return fmt.Sprintf("opcode %#x", opcode)
}

// excerpt returns a quote of b for a failure text, at most 64 bytes of it.
func excerpt[T string | []byte](b T) string {
	const maxBytes = 64
	if len(b) <= maxBytes {
		return fmt.Sprintf("%q", b)
	}
	return fmt.Sprintf("%q and %d bytes more", b[:maxBytes], len(b)-maxBytes)
}

// AppendFrame appends f to dst. The frame is masked with key, unless key is nil. It
// ignores f.Masked. A script that breaks the rules of masking sends the result with
// SendRaw.
//
//	byte 0   fin (1 bit), rsv (3), opcode (4)
//	byte 1   masked (1), length (7): 0 to 125, 126: 2 bytes follow, 127: 8 do
//	         length, masking key (4 bytes) if masked, payload
func AppendFrame(dst []byte, f Frame, key *[4]byte) []byte {
	b0 := f.RSV&7<<4 | f.Opcode&15
	if f.Fin {
		b0 |= 0x80
	}
	var b1 byte
	if key != nil {
		b1 = 0x80
	}
	switch n := len(f.Payload); {
	case n <= 125:
		dst = append(dst, b0, b1|byte(n))
	case n <= 0xffff:
		dst = binary.BigEndian.AppendUint16(append(dst, b0, b1|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, b0, b1|127), uint64(n))
	}
	if key == nil {
		return append(dst, f.Payload...)
	}
	dst = append(dst, key[:]...)
	start := len(dst)
	dst = append(dst, f.Payload...)
	mask(dst[start:], *key)
	return dst
}

// ReadFrame reads a frame and unmasks it. The error is io.EOF only if r ends
// between two frames.
func ReadFrame(r *bufio.Reader) (Frame, error) {
	b0, err := r.ReadByte()
	if err != nil {
		return Frame{}, err
	}
	b1, err := r.ReadByte()
	if err != nil {
		return Frame{}, insideFrame(err)
	}
	f := Frame{Fin: b0&0x80 != 0, RSV: b0 >> 4 & 7, Opcode: b0 & 15, Masked: b1&0x80 != 0}
	f.Payload, err = readPayload(r, b1&0x7f, f.Masked)
	return f, insideFrame(err)
}

func readPayload(r *bufio.Reader, length byte, isMasked bool) ([]byte, error) {
	n, err := readLength(r, length)
	if err != nil {
		return nil, err
	}
	if n > maxPayloadBytes {
		return nil, fmt.Errorf("wstest: frame of %d bytes; want at most %d", n, maxPayloadBytes)
	}
	var key [4]byte
	if isMasked {
		if _, err := io.ReadFull(r, key[:]); err != nil {
			return nil, err
		}
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return nil, err
	}
	mask(payload, key)
	return payload, nil
}

func readLength(r *bufio.Reader, length byte) (uint64, error) {
	var b [8]byte
	switch length {
	case 126:
		_, err := io.ReadFull(r, b[6:])
		return binary.BigEndian.Uint64(b[:]), err
	case 127:
		_, err := io.ReadFull(r, b[:])
		return binary.BigEndian.Uint64(b[:]), err
	}
	return uint64(length), nil
}

func insideFrame(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func mask(b []byte, key [4]byte) {
	for i := range b {
		b[i] ^= key[i&3]
	}
}
