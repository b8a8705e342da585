package wsproxytest

import (
	"encoding/binary"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// Codes that no frame has, RFC 6455 §7.4.1.
const (
	codeNone     = 1005 // a Close frame without a code
	codeAbnormal = 1006 // no Close frame
)

// closeCode returns the code of a Close frame, codeNone for one without a code.
func closeCode(f wstest.Frame) int {
	if len(f.Payload) < 2 {
		return codeNone
	}
	return int(binary.BigEndian.Uint16(f.Payload))
}

// closeFrame returns a Close frame with a code, or without one for codeNone.
func closeFrame(code int) wstest.Frame {
	if code == codeNone {
		return wstest.Close(0, "")
	}
	return wstest.Close(uint16(code), "")
}
