// Package wire implements the part of WebSocket that the load generator and its
// backend need: whole frames. It uses as little CPU as possible, because it shares
// the machine with the measured program.
package wire

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"fmt"

	"github.com/wsproxy/wsproxy/internal/frame"
)

// ClientFrame returns a whole frame as a client sends it. The masking key is zero,
// which is valid and makes masking unnecessary.
func ClientFrame(opcode frame.Opcode, payload []byte) []byte {
	h := frame.Header{Fin: true, Opcode: opcode, Masked: true, Length: uint64(len(payload))}
	return append(frame.AppendHeader(nil, h), payload...)
}

// ServerFrame returns a whole frame as a server sends it.
func ServerFrame(opcode frame.Opcode, payload []byte) []byte {
	h := frame.Header{Fin: true, Opcode: opcode, Length: uint64(len(payload))}
	return append(frame.AppendHeader(nil, h), payload...)
}

// accept returns the Sec-WebSocket-Accept that answers key.
// https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
func accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// ReadHeader reads the header of a frame. The buffer of r must hold at least
// [frame.MaxHeader] bytes.
func ReadHeader(r *bufio.Reader) (frame.Header, error) {
	for need := 2; ; need++ {
		p, err := r.Peek(max(need, min(r.Buffered(), frame.MaxHeader)))
		if err != nil {
			return frame.Header{}, err
		}
		h, size, err := frame.ParseHeader(p)
		if err != nil {
			return h, err
		}
		if size > 0 {
			_, err := r.Discard(size)
			return h, err
		}
	}
}

// ReadMessage reads and discards a message of n bytes in one frame.
func ReadMessage(r *bufio.Reader, n int) error {
	h, err := ReadHeader(r)
	if err != nil {
		return err
	}
	if !h.Fin || h.Opcode != frame.Binary || h.Length != uint64(n) {
		return fmt.Errorf("got a frame with opcode %d, %d bytes; want a binary message of %d", h.Opcode, h.Length, n)
	}
	_, err = r.Discard(n)
	return err
}
