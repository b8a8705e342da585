package wsproxytest

import (
	"bufio"
	"encoding/binary"
	"io"
)

// Opcodes, RFC 6455 §5.2.
const (
	opClose = 0x8
	opPing  = 0x9
	opPong  = 0xA
)

// A frame is a WebSocket frame with an unmasked payload.
type frame struct {
	first   byte // fin, rsv, opcode
	payload []byte
}

func (f frame) opcode() byte { return f.first & 15 }

// closeCode returns the code of a Close frame, 1005 for one without a code.
func (f frame) closeCode() int {
	if len(f.payload) < 2 {
		return codeNone
	}
	return int(binary.BigEndian.Uint16(f.payload))
}

// Codes that no frame has, RFC 6455 §7.4.1.
const (
	codeNone     = 1005 // a Close frame without a code
	codeAbnormal = 1006 // no Close frame
)

// closeFrame returns a Close frame with a code, or without one for codeNone.
func closeFrame(code int) frame {
	f := frame{first: 0x80 | opClose}
	if code != codeNone {
		f.payload = binary.BigEndian.AppendUint16(nil, uint16(code))
	}
	return f
}

// readFrame reads a frame and unmasks it.
func readFrame(r *bufio.Reader) (frame, error) {
	var head [14]byte // first, masked and length, longer length, key
	if _, err := io.ReadFull(r, head[:2]); err != nil {
		return frame{}, err
	}
	isMasked, length := head[1]&0x80 != 0, uint64(head[1]&0x7f)
	numMore := 0
	switch length {
	case 126:
		numMore = 2
	case 127:
		numMore = 8
	}
	if isMasked {
		numMore += 4
	}
	more := head[2:][:numMore]
	if _, err := io.ReadFull(r, more); err != nil {
		return frame{}, err
	}
	switch length {
	case 126:
		length = uint64(binary.BigEndian.Uint16(more))
		more = more[2:]
	case 127:
		length = binary.BigEndian.Uint64(more)
		more = more[8:]
	}
	f := frame{first: head[0], payload: make([]byte, length)}
	if _, err := io.ReadFull(r, f.payload); err != nil {
		return frame{}, err
	}
	if isMasked {
		for i := range f.payload {
			f.payload[i] ^= more[i%4]
		}
	}
	return f, nil
}

// appendFrame appends f. A masked frame has a key of zeros, which changes no byte.
func appendFrame(dst []byte, f frame, isMasked bool) []byte {
	var mask byte
	if isMasked {
		mask = 0x80
	}
	switch n := len(f.payload); {
	case n <= 125:
		dst = append(dst, f.first, mask|byte(n))
	case n <= 0xffff:
		dst = binary.BigEndian.AppendUint16(append(dst, f.first, mask|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, f.first, mask|127), uint64(n))
	}
	if isMasked {
		dst = append(dst, 0, 0, 0, 0)
	}
	return append(dst, f.payload...)
}
