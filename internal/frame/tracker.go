package frame

import "math"

// A Violation is the error of a stream that breaks the protocol or a limit. Code
// is the status code for the Close frame to its sender.
type Violation struct {
	Code   int // a Tracker's is StatusProtocolError or StatusTooBig
	Reason string
}

func (v *Violation) Error() string { return v.Reason }

// Rules say what a stream may contain.
type Rules struct {
	// Masked means that every frame must be masked, as a client's are. Otherwise
	// no frame may be masked.
	Masked bool

	// Deflate means that permessage-deflate was negotiated: RSV1 may be set on the
	// first frame of a message.
	Deflate bool

	// Unknown means that an unknown extension was negotiated. It may define any
	// reserved bit and opcode. So only masking and lengths are checked, and
	// messages are counted by their FIN bits.
	Unknown bool

	// MaxMessage bounds the payload of a message in bytes, for all its fragments
	// together. Zero means no bound.
	MaxMessage uint64
}

// A Tracker tracks the frames of one direction of a WebSocket connection. The
// caller passes it the stream in pieces. For each piece, the Tracker returns the
// type of its bytes and where the frames end, or an error if the peer breaks the
// rules. A zero Tracker with Rules set is at the beginning of a stream.
type Tracker struct {
	Rules Rules

	rest       uint64 // payload bytes of the current data frame that are still to come
	begun      uint64 // consumed bytes of the current data frame, including its header
	size       uint64 // payload bytes of the current message so far, including rest
	fragmented bool   // between the fragments of a message
	final      bool   // the current frame is the last of its message
	messages   uint32 // see TakeMessages; 32 bits suffice for one piece, and keep a tunnel small
}

// A Step describes the bytes at the beginning of a piece of the stream.
type Step struct {
	// Len is the number of bytes that the step consumes. Zero means that the piece
	// ends within a header or a control frame. The caller must pass its bytes, at
	// most MaxHeld, again with those that follow.
	Len int

	// Control is the opcode of a control frame. The step is then one whole control
	// frame. Otherwise Control is 0, and the step is data: any number of data
	// frames or parts of them.
	Control Opcode
}

// Next returns the step at the beginning of p, and consumes its bytes. p must
// continue the stream after the bytes consumed before.
//
// The error is a [*Violation] of the frame that begins at p. The Tracker does not
// consume that frame.
func (t *Tracker) Next(p []byte) (Step, error) {
	n := 0
	for n < len(p) {
		if t.rest > 0 {
			n += t.advance(len(p) - n)
			continue
		}
		h, size, err := t.header(p[n:])
		if err != nil || size == 0 || t.isControl(h) {
			if n > 0 { // return the data before it first
				break
			}
			if err != nil || size == 0 {
				return Step{}, err
			}
			return t.controlStep(h, size, p)
		}
		t.beginFrame(h, size)
		n += size
	}
	return Step{Len: n}, nil
}

// Finish consumes the bytes of p that belong to the current data frame, and
// returns their number. It returns 0 at a frame boundary.
func (t *Tracker) Finish(p []byte) int {
	if t.rest == 0 {
		return 0
	}
	return t.advance(len(p))
}

// Skip consumes the next n bytes of payload without a copy of them. It panics if n
// is greater than Rest.
func (t *Tracker) Skip(n int) {
	if t.advance(n) != n {
		panic("BUG: skipped more bytes than the frame has")
	}
}

// Rest returns how many payload bytes of the current data frame are still to come.
func (t *Tracker) Rest() uint64 { return t.rest }

// Begun returns how many bytes of the current data frame were consumed, including
// its header. It returns 0 at a frame boundary.
func (t *Tracker) Begun() uint64 {
	if t.rest == 0 {
		return 0
	}
	return t.begun
}

// InMessage reports whether the consumed bytes end within a message: inside a frame, or
// between two fragments.
func (t *Tracker) InMessage() bool { return t.rest > 0 || t.fragmented }

// AtBoundary reports whether the consumed bytes end with a whole frame.
func (t *Tracker) AtBoundary() bool { return t.rest == 0 }

// TakeMessages returns how many messages have ended since its last call.
func (t *Tracker) TakeMessages() uint32 {
	n := t.messages
	t.messages = 0
	return n
}

// Ignore removes the bound of messages. The caller discards the frames that
// follow.
func (t *Tracker) Ignore() { t.Rules.MaxMessage = 0 }

// advance consumes up to n bytes of payload and returns their number.
func (t *Tracker) advance(n int) int {
	taken := min(uint64(n), t.rest)
	t.rest -= taken
	t.begun += taken
	if t.rest == 0 {
		t.endFrame()
	}
	return int(taken)
}

// header parses and checks the header of the next frame. It checks the first two
// bytes first, however many there are, so that the error does not depend on how
// the stream was split. Two bytes are enough to refuse most streams that are not
// WebSocket.
func (t *Tracker) header(p []byte) (h Header, size int, err error) {
	if len(p) < 2 {
		return h, 0, nil
	}
	h, size, err = ParseHeader(p)
	if v := t.check(h); v != nil {
		return h, 0, v
	}
	if err != nil || size == 0 {
		return h, 0, err
	}
	if v := t.checkLength(h); v != nil {
		return h, 0, v
	}
	return h, size, nil
}

// check checks all of a header except its length.
func (t *Tracker) check(h Header) *Violation {
	switch {
	case t.Rules.Masked && !h.Masked:
		// "The server MUST close the connection upon receiving a frame that is
		// not masked." https://www.rfc-editor.org/rfc/rfc6455#section-5.1
		return violation("frame from the client is not masked")
	case !t.Rules.Masked && h.Masked:
		// "A client MUST close a connection if it detects a masked frame."
		return violation("frame from the backend is masked")
	case t.Rules.Unknown:
		return nil
	case !h.Opcode.isKnown():
		return violation("reserved opcode")
	case h.RSV != 0 && !t.mayCompress(h):
		return violation("reserved bit set")
	case h.Opcode.IsControl():
		if !h.Fin {
			return violation("control frame is fragmented")
		}
	case h.Opcode == Continuation && !t.fragmented:
		return violation("continuation frame without a message")
	case h.Opcode != Continuation && t.fragmented:
		return violation("new message within a fragmented message")
	}
	return nil
}

// checkLength checks the length in a whole header. "All control frames MUST have a
// payload length of 125 bytes or less and MUST NOT be fragmented."
// https://www.rfc-editor.org/rfc/rfc6455#section-5.5
func (t *Tracker) checkLength(h Header) *Violation {
	switch {
	case !t.isControl(h):
		if t.isTooBig(h) {
			return &Violation{StatusTooBig, "message larger than the limit"}
		}
	case h.Length > MaxControlPayload:
		return violation("control frame of more than 125 bytes")
	}
	return nil
}

// mayCompress reports whether the reserved bits of h are allowed: RSV1 on the
// first frame of a message, if permessage-deflate was negotiated. "An endpoint
// MUST NOT set the 'Per-Message Compressed' bit of control frames and non-first
// fragments of a data message."
// https://www.rfc-editor.org/rfc/rfc7692#section-6.1
func (t *Tracker) mayCompress(h Header) bool {
	return t.Rules.Deflate && h.RSV == RSV1 && (h.Opcode == Text || h.Opcode == Binary)
}

// isControl reports whether h is the header of a control frame, which Next returns
// as a step of its own. With an unknown extension it must follow all rules for
// control frames, because the extension may use their opcodes otherwise.
func (t *Tracker) isControl(h Header) bool {
	if !t.Rules.Unknown {
		return h.Opcode.IsControl()
	}
	return h.Opcode.IsControl() && h.Opcode.isKnown() && h.RSV == 0 && h.Fin && h.Length <= MaxControlPayload
}

// isTooBig reports whether the frame makes its message larger than the limit.
func (t *Tracker) isTooBig(h Header) bool {
	limit := t.Rules.MaxMessage
	// Not a sum: it could overflow, since a peer chooses the lengths.
	return limit > 0 && (h.Length > limit || t.size > limit-h.Length)
}

// controlStep returns the step for the control frame at the beginning of p, or none if
// fewer than all of its bytes are there.
func (t *Tracker) controlStep(h Header, size int, p []byte) (Step, error) {
	if uint64(len(p)-size) < h.Length {
		return Step{}, nil
	}
	n := size + int(h.Length)
	if h.Opcode == Close && !t.Rules.Unknown {
		if v := checkClose(h, p[size:n]); v != nil {
			return Step{}, v
		}
	}
	return Step{Len: n, Control: h.Opcode}, nil
}

// beginFrame begins a data frame, of whose header it is passed the size.
func (t *Tracker) beginFrame(h Header, size int) {
	t.rest = h.Length
	t.begun = uint64(size)
	t.final = h.Fin
	if t.size > math.MaxUint64-h.Length {
		t.size = math.MaxUint64
	} else {
		t.size += h.Length
	}
	t.fragmented = !h.Fin
	if t.rest == 0 {
		t.endFrame()
	}
}

// endFrame ends a data frame after its last byte.
func (t *Tracker) endFrame() {
	if t.final {
		t.messages++
		t.size = 0
	}
}

func violation(reason string) *Violation {
	return &Violation{Code: StatusProtocolError, Reason: reason}
}
